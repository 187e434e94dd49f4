"""The command line ``tfjobs``: runs, their logs and their ends, with no Pulumi project around."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script. Does not return."""
    import os
    import signal
    import sys

    # Whoever reads what we say may have seen enough: then we end as other tools do, without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # A shell can close them (`>&-`); what is said then goes nowhere.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    from pulumi_tfjobs.cli.app import run

    sys.exit(run())
