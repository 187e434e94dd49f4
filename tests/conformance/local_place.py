"""This machine as a place for the suite's runs."""

from __future__ import annotations

import os

from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import LocalTarget
from pulumi_tfjobs.targets.local.members import MARKER
from pulumi_tfjobs.targets.local.processes import carriers
from tests.conformance.place import Place


class LocalPlace(Place):
    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root
        self.target = LocalTarget(slots=8)

    def folder(self, run_id: str) -> RunFolder:
        return RunFolder(os.path.join(self.root, "runs", run_id))

    def alive(self, folder: RunFolder, attempt: int = 1) -> list[str]:
        found = []
        for pid in carriers(MARKER, folder.attempt(attempt).root):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as stream:
                    found.append(f"{pid} {stream.read()!r}")
            except FileNotFoundError:
                continue
        return found
