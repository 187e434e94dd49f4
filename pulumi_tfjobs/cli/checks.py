"""What a look at one thing comes to, for ``tfjobs doctor``."""

from __future__ import annotations

from typing import NamedTuple

GOOD = "ok"
WARNING = "warn"
FAILURE = "FAIL"


class Check(NamedTuple):
    """One thing that was looked at. ``fix`` says what to do where it is not well."""

    name: str
    level: str
    found: str
    fix: str = ""
