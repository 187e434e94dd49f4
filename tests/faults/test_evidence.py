"""What these tests look with can see what they look for."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pulumi_tfjobs.targets.folder import RunFolder
from tests.chaos.kills import draw
from tests.chaos.observer import Observer
from tests.faults.evidence import WORKER, Evidence
from tests.faults.holder import Holder
from tests.faults.stage import until

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path / "evidence")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(str(tmp_path / "runs" / "run-1"))
    for path in (found.outputs, found.checkpoints):
        os.makedirs(path)
    return found


@pytest.fixture
def start(evidence: Evidence, folder: RunFolder) -> Iterator[Start]:
    """A replica as a run would start it."""
    started = []

    def start(*arguments: str, attempt: int = 1, role: str = "worker", **more: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "EVIDENCE": str(evidence.folder),
            "TFJOBS_RUN_ID": folder.run_id,
            "TFJOBS_ATTEMPT": str(attempt),
            "TFJOBS_ATTEMPT_DIR": folder.attempt(attempt).root,
            "TFJOBS_REPLICA_TYPE": role,
            "TFJOBS_REPLICA_INDEX": "0",
            "TFJOBS_OUTPUT_DIR": folder.outputs,
            "TFJOBS_CHECKPOINT_DIR": folder.checkpoints,
            "TFJOBS_METRICS_FILE": folder.metrics,
            **more,
        }
        process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments], env=environment, stdout=subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_what_is_missing_or_not_as_it_was_written_is_seen(evidence: Evidence, folder: RunFolder, start: Start) -> None:
    assert start("--steps", "3").wait() == 0
    assert start("--steps", "5", attempt=2).wait() == 0  # from the checkpoint of the one before
    assert evidence.lost(folder) == []
    steps = Path(folder.outputs, "worker-0.txt")
    lines = steps.read_text().splitlines(keepends=True)
    assert len(lines) == 5
    for wrong in (
        lines[:-1],
        [*lines[1:], lines[0]],
        [*lines, lines[-1]],
        [*lines[:2], lines[2][:-4] + "\n", *lines[3:]],
    ):
        steps.write_text("".join(wrong))
        assert evidence.lost(folder) != [], wrong
    steps.unlink()
    assert len(evidence.lost(folder)) == 1
    steps.write_text("".join(lines))

    model = next(Path(folder.outputs).glob("model-*"))
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    assert len(evidence.lost(folder)) == 1
    model.unlink()
    assert len(evidence.lost(folder)) == 1
    # Steps that were trained again though there was a checkpoint.
    model.write_bytes(content)
    Path(folder.checkpoints, "worker-0").write_text("1")
    assert start("--steps", "2", attempt=3).wait() == 0
    assert len(evidence.lost(folder)) == 1


@pytest.mark.parametrize(("attempt", "role"), [(1, "worker"), (2, "worker"), (2, "chief")])
def test_two_at_once_are_seen(evidence: Evidence, start: Start, tmp_path: Path, attempt: int, role: str) -> None:
    holder = Holder(str(tmp_path / "holder"))
    try:
        holder.hold("worker-0")
        start(HOLDER=str(tmp_path / "holder"))
        holder.wait("worker-0")
        start(attempt=attempt, role=role).wait()
        assert len(evidence.doubled()) >= 1
    finally:
        holder.close()


def test_one_after_the_other_is_no_double(evidence: Evidence, start: Start) -> None:
    for attempt in (1, 1, 2):
        start(attempt=attempt).wait()
    assert evidence.doubled() == []


def test_the_observer_sees_what_lives_and_should_not(
    folder: RunFolder, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.observer.ORPHAN_SECONDS", 0.0)
    for attempt in (1, 2):
        start(role="ps", attempt=attempt)  # it never ends by itself, and has no supervisor
    observer = Observer(str(tmp_path), os.path.dirname(folder.root))
    try:
        until(lambda: observer.doubled and observer.orphaned, "what the observer should see")
    finally:
        observer.close()
    assert len(observer.orphaned) == 2


def test_the_same_seed_makes_the_same_choices() -> None:
    first, second, other = (list(itertools.islice(draw(seed), 200)) for seed in (3, 3, 4))
    assert first == second != other
    assert {kill.who for kill in first} == {"engine", "plugin", "supervisor", "guardian", "replica"}
