"""A pytest plug-in: where the time went, a test folder a row, after what set-up and checks took.

Loaded by `make test` (`-p tools.setup.pytest_timing`); alone, pytest is as ever.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from typing import Any

import pytest

from .timing import Row, table

TIMINGS_VARIABLE = "TFJOBS_SETUP_TIMINGS"


def folder_of(nodeid: str) -> str:
    """`tests/unit/test_x.py::test_y` -> `tests/unit`."""
    return nodeid.split("::", 1)[0].rsplit("/", 1)[0]


class FolderTimes:
    """Adds up the seconds of all phases of all tests, by folder."""

    def __init__(self, before: dict[str, Any]) -> None:
        self.before = before
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.start = time.monotonic()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """pytest's hook: once a phase (set-up, call, tear-down) of a test."""
        folder = folder_of(report.nodeid)
        self.seconds[folder] += report.duration
        self.counts[folder] += report.when == "call"

    def rows(self) -> list[Row]:
        """Set-up and checks first, then a row a folder."""
        rows = [Row(str(name), float(seconds), str(note)) for name, seconds, note in self.before.get("rows", [])]
        rows += [Row(name, seconds, f"{self.counts[name]} tests") for name, seconds in sorted(self.seconds.items())]
        return rows

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """pytest's hook: before its closing line."""
        total = float(self.before.get("elapsed", 0.0)) + time.monotonic() - self.start
        terminalreporter.write_line("")
        terminalreporter.write_line(table(self.rows(), total))
        failed = self.before.get("failed_checks", 0)
        if failed:
            terminalreporter.write_line(f"and {failed} static checks failed, see above", red=True)


def pytest_configure(config: Any) -> None:
    """pytest's hook: registers the plug-in with what `make test` measured before."""
    config.pluginmanager.register(
        FolderTimes(json.loads(os.environ.get(TIMINGS_VARIABLE, "{}"))), "tfjobs-folder-times"
    )
