"""What a preview asks of this machine: whether a run could start now, and what is likely to go wrong. It leaves no
trace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs import environments
from pulumi_tfjobs.environments.cache import Cache
from pulumi_tfjobs.plan import build_plan
from pulumi_tfjobs.spec.model import (
    EnvironmentSpec,
    JobSpec,
    MultiWorker,
    Single,
    SourceFile,
    SourceManifest,
    TargetRef,
)
from pulumi_tfjobs.targets.base import Capabilities, Headroom
from pulumi_tfjobs.targets.local import LocalTarget, gpus, queue
from pulumi_tfjobs.targets.local.prospects import headroom, warnings
from tests.unit.test_local_queue import Store, ticket

FOUR = LocalTarget(slots=4, gpus=0)
JOB = JobSpec(
    name="job",
    source=SourceManifest("/nowhere", (SourceFile("train.py", "0" * 64, 1),)),
    entry_script="train.py",
    environment=EnvironmentSpec(requirements=("tensorflow[and-cuda]==2.15.1",)),
    target=TargetRef("local"),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "stores" / "default")
    yield made
    for run_id in list(made.locks):
        made.end(run_id)


def room(store: Store, slots: int, target: LocalTarget = FOUR, **fields: Any) -> Headroom:
    distribution = Single() if slots == 1 else MultiWorker(workers=slots)
    return target.headroom(build_plan(replace(JOB, distribution=distribution, **fields)), str(store.root))


def note(store: Store, slots: int, **fields: Any) -> str:
    return room(store, slots, **fields).note(slots)


# Slots


def test_an_idle_target_has_room_and_is_not_touched(store: Store) -> None:
    assert room(store, 4) == Headroom(slots=4, free=4)
    assert note(store, 4) == ""
    assert list(store.root.parent.parent.iterdir()) == [], "not even the store's folder was made"


def test_what_one_run_holds_is_not_free(store: Store) -> None:
    assert store.queue(ticket("holder", 3)).look().granted
    assert room(store, 2) == Headroom(slots=4, free=1, holders=1)
    assert note(store, 2) == "needs 2 slots, 1 free, 1 run in progress"
    assert note(store, 1) == ""


def test_those_that_wait_go_first(store: Store) -> None:
    assert store.queue(ticket("holder", 2)).look().granted
    for name in ("one", "two"):
        assert not store.queue(ticket(name, 4)).look().granted
    assert note(store, 4) == "needs 4 slots, 2 free, 2 runs ahead"
    assert note(store, 2) == "needs 2 slots, 2 free, 2 runs ahead", "the free slots are kept for the run that is next"
    assert note(store, 4, priority=1) == "needs 4 slots, 2 free, 1 run in progress"


def test_a_small_run_that_delays_nobody_starts_at_once(store: Store) -> None:
    assert store.queue(ticket("holder", 2)).look().granted
    assert not store.queue(ticket("head", 3)).look().granted
    assert note(store, 1) == "", "the fourth slot is of no use to the one that is next"
    assert store.queue(ticket("small", 1)).look().granted, "and so it is"


def test_the_note_is_what_then_happens(store: Store) -> None:
    assert store.queue(ticket("holder", 2)).look().granted
    for number, slots in enumerate((3, 1, 2, 1, 4, 1)):
        text = note(store, slots)
        turn = store.queue(ticket(f"job-{number}", slots)).look()
        assert turn.granted == (text == "")
        if not turn.granted and turn.position != 1:
            assert turn.position is not None
            assert f"{turn.position - 1} run" in text


def test_a_run_of_a_smaller_target_counts_for_what_it_takes(store: Store) -> None:
    assert store.queue(ticket("holder", 2, 2)).look().granted
    assert note(store, 2) == "", "free are those of the job's own target"
    assert store.queue(ticket("never", 5)).look().position is None
    assert note(store, 2) == "", "a run that can never start is in nobody's way"
    assert not store.queue(ticket("waits", 2, 2)).look().granted
    assert note(store, 2) == "needs 2 slots, 2 free, 1 run ahead", "it would delay the one that waits"
    assert store.queue(ticket("job", 2)).look().position == 2, "and so it is"


def test_a_dead_run_holds_nothing_and_its_ticket_is_left_to_others(store: Store) -> None:
    assert store.queue(ticket("dead", 4)).look().granted
    store.end("dead")
    before = sorted(os.listdir(store.folder))
    assert note(store, 4) == ""
    assert sorted(os.listdir(store.folder)) == before


def test_slots_that_cannot_be_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(queue.os, "listdir", denied)
    found = room(store, 2)
    assert found.free is None
    assert found.note(2) == f"could not check free slots: Permission denied ({store.folder})"


def test_a_slots_folder_that_is_none(store: Store) -> None:
    store.root.mkdir(parents=True)
    Path(store.folder).write_text("")
    assert "could not check free slots: Not a directory" in note(store, 1)


def test_slots_are_called_gpus_where_they_are(store: Store) -> None:
    plan = build_plan(replace(JOB, distribution=MultiWorker(workers=8), use_gpu=True))
    assert store.queue(ticket("holder", 4, 8)).look().granted
    with_gpus = Capabilities(slots=8, gpus=8)
    assert headroom(plan, str(store.root), with_gpus).note(8) == "needs 8 GPUs, 4 free, 1 run in progress"
    shared = Capabilities(slots=8, gpus=2)
    assert headroom(plan, str(store.root), shared).note(8) == "needs 8 slots, 4 free, 1 run in progress"


@pytest.mark.parametrize(
    ("found", "needed", "expected"),
    [
        (Headroom(8, 4, ahead=2, holders=1, unit="GPU"), 8, "needs 8 GPUs, 4 free, 2 runs ahead"),
        (Headroom(8, 4, ahead=1), 1, "needs 1 slot, 4 free, 1 run ahead"),
        (Headroom(8, 8), 8, ""),
        (Headroom(8, 0), 0, ""),
        (Headroom(8), 8, ""),
        (Headroom(), 8, ""),
        (Headroom(4, 4), 8, "needs 8 slots, the compute target has 4: it can never start"),
        (Headroom(8, trouble="no answer", unit="GPU"), 1, "could not check free GPUs: no answer"),
    ],
)
def test_the_note_in_words(found: Headroom, needed: int, expected: str) -> None:
    assert found.note(needed) == expected


# The driver


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021", (470, 57, 2)),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (u@h)  Tue Mar  5 2024",
            (550, 54, 15),
        ),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  418.39  Sat Feb  9 19:19:37 CST 2019", (418, 39)),
        ("something else", ()),
        ("", ()),
    ],
)
def test_what_the_driver_says_of_itself(line: str, expected: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "version"
    path.write_text(f"{line}\nGCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n")
    assert gpus.driver_version(str(path)) == expected


def test_no_driver(tmp_path: Path) -> None:
    assert gpus.driver_version(str(tmp_path / "none")) == ()


def test_a_driver_too_old_for_the_cuda_of_the_jobs_tensorflow() -> None:
    (warning,) = warnings(JOB, (470, 57, 2))
    assert "driver here is 470.57.02, and tensorflow 2.15.1 uses CUDA 12.2, which wants 525.60.13 or later" in warning
    assert warnings(JOB, (525, 60, 13)) == ()
    assert warnings(JOB, (570, 1)) == ()
    assert warnings(JOB, ()) == (), "no driver, or not known"
    older = replace(JOB, environment=EnvironmentSpec(requirements=("tensorflow==2.13.1",)))
    assert warnings(older, (470, 57, 2)) == ()
    assert warnings(replace(JOB, environment=EnvironmentSpec(interpreter="python3")), (1, 0)) == ()


def test_only_a_job_that_wants_gpus_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "driver_version", lambda: (410, 48))
    assert len(FOUR.warnings(replace(JOB, use_gpu=True))) == 1
    assert FOUR.warnings(JOB) == ()


# The environment


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is not there yet, and no way to start a process."""
    root = tmp_path / "cache"
    monkeypatch.setenv("PULUMI_TFJOBS_CACHE", str(root))

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a preview starts no process")

    monkeypatch.setattr(subprocess, "Popen", started)
    return root


def test_an_environment_is_to_build_until_it_is_whole(cache: Path) -> None:
    spec = JOB.environment
    assert environments.status(spec) == FOUR.environment_state(spec) == "to build"
    assert not cache.exists()
    folder = Cache().environment(spec)
    folder.python.parent.mkdir(parents=True)
    folder.python.write_text("")
    folder.python.chmod(0o700)
    assert environments.status(spec) == "to build", "half of it is there"
    folder.finish({})
    marker = folder.root / ".complete"
    before = marker.stat().st_mtime_ns
    assert environments.status(spec) == FOUR.environment_state(spec) == "built"
    assert marker.stat().st_mtime_ns == before, "looking at it is no use of it"
    folder.python.unlink()
    assert environments.status(spec) == "to build"


def test_an_interpreter_of_the_users_own(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "python"
    spec = EnvironmentSpec(interpreter=str(program))
    assert FOUR.environment_state(spec) == "missing"
    program.parent.mkdir()
    program.write_text("")
    assert FOUR.environment_state(spec) == "missing", "it cannot be executed"
    program.chmod(0o700)
    assert FOUR.environment_state(spec) == "present"
    monkeypatch.setenv("PATH", str(program.parent))
    assert FOUR.environment_state(EnvironmentSpec(interpreter="python")) == "present"
    assert FOUR.environment_state(EnvironmentSpec(interpreter="python9")) == "missing"
    assert FOUR.environment_state(EnvironmentSpec(interpreter="~nobody-of-that-name/python")) == "missing"


def test_a_cache_that_cannot_be_looked_at(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: EnvironmentSpec) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(environments, "status", denied)
    assert FOUR.environment_state(JOB.environment) == "unknown"
