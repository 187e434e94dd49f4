"""What the scripts of these tests have left as proof, and what is wrong with what became of it."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from pulumi_tfjobs.targets.folder import RunFolder

WORKER = Path(__file__).parent / "worker.py"


class Evidence:
    """The folder that ``worker.py`` writes its records to, outside of every run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "records").touch()

    def records(self, kind: str = "") -> list[dict[str, Any]]:
        lines = (self.folder / "records").read_text(encoding="utf-8").splitlines()
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [item for item in found if not kind or item["kind"] == kind]

    def doubled(self) -> list[str]:
        """Replicas that met another one of their run which should not have been alive then."""
        return [
            f"{item['run']}: {item['role']} of attempt {item['attempt']} (process {item['pid']}) met {item['other']}"
            for item in self.records("doubled")
        ]

    def lost(self, folder: RunFolder) -> list[str]:
        """What the scripts have written to this run's outputs and is not there as it was, byte for byte."""
        wrong = []
        steps: dict[str, list[dict[str, Any]]] = {}
        for item in self.records():
            if item["run"] != folder.run_id:
                continue
            if item["kind"] == "wrote":
                path = Path(folder.outputs, item["name"])
                if not path.is_file():
                    wrong.append(f"{path} is missing")
                elif hashlib.sha256(path.read_bytes()).hexdigest() != item["digest"]:
                    wrong.append(f"{path} has changed")
            elif item["kind"] == "step":
                steps.setdefault(item["role"], []).append(item)
        for role, items in steps.items():
            wrong += _wrong_steps(Path(folder.outputs, f"{role}.txt"), items)
        return wrong


def _wrong_steps(path: Path, items: list[dict[str, Any]]) -> list[str]:
    """Every recorded line must be there, in order; a line more only where its writer was killed before it told."""
    if not path.is_file():
        return [f"{path} is missing"]
    wrong = []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    recorded = [item["line"] for item in items]
    untold = [line for line in lines if line not in set(recorded)]
    if [line for line in lines if line not in set(untold)] != recorded:
        wrong.append(f"{path} does not hold the {len(recorded)} lines that were written to it, in their order")
    wrong += [f"{path} holds a line that nobody wrote: {line!r}" for line in untold if not _is_whole(line)]
    # Each launch goes on from its checkpoint: at most one step is done again, none is left out.
    for before, after in itertools.pairwise(items):
        expected = {before["step"] + 1} if after["pid"] == before["pid"] else {before["step"], before["step"] + 1}
        if after["pid"] != before["pid"] and after["first"] != after["step"]:
            wrong.append(f"{path}: a launch began at step {after['step']}, its checkpoint was {after['first']}")
        if after["step"] not in expected:
            wrong.append(f"{path}: step {after['step']} came after step {before['step']}")
    return wrong


def _is_whole(line: str) -> bool:
    text, _, check = line.rstrip("\n").rpartition(" ")
    return hashlib.sha256(text.encode()).hexdigest()[:16] == check
