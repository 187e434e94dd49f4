"""``pulumi-analyzer-policy-tfjobs``: what the engine starts for the pack's ``runtime: tfjobs``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec


def main() -> None:
    """Become the pack, unbuffered: the engine waits for the port, which the pack prints and does not flush."""
    if find_spec("pulumi_policy") is None:
        sys.exit("The policy pack needs the package pulumi-policy. To fix: pip install 'pulumi-tfjobs[policy]'")
    folder = os.path.dirname(os.path.abspath(__file__))
    os.execv(sys.executable, [sys.executable, "-u", folder, *sys.argv[1:]])  # noqa: S606 - argv, no shell
