"""Temporary files of the local target's replicas: theirs alone while they run, and gone afterwards however they end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets.folder import RunFolder
from tests.conformance.local_place import LocalPlace
from tests.conformance.place import plan_of, read, until

LEAVES_A_FILE = """
    import tempfile, signal
    path = tempfile.mkdtemp()
    open(os.path.join(path, 'left'), 'w').close()
    print(path, oct(os.stat(os.path.dirname(path)).st_mode & 0o777), flush=True)
    open('outputs/here', 'w').close()
"""
FOR_EVER = LEAVES_A_FILE + "    while True: signal.pause()\n"


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everybody's folder for temporary files."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def said(folder: RunFolder) -> list[str]:
    return read(folder.attempt(1).replica_log("worker-0")).split()


async def living(place: LocalPlace, folder: RunFolder) -> None:
    await until(lambda: place.output(folder, "here") is not None, "the script has left its file")


async def test_they_are_kept_apart_and_removed(local_place: LocalPlace, common: Path) -> None:
    folder = await local_place.launch(plan_of(), LEAVES_A_FILE)
    assert (await local_place.end(folder)).phase == phases.SUCCEEDED
    path, mode = said(folder)
    assert Path(path).parent.parent == common
    assert mode == "0o700"
    assert os.listdir(common) == []


async def test_a_killed_script_leaves_none(local_place: LocalPlace, common: Path) -> None:
    folder = await local_place.launch(plan_of(), FOR_EVER)
    await living(local_place, folder)
    assert os.listdir(common) != []
    await local_place.target.stop(folder, 1, grace_seconds=0)
    assert os.listdir(common) == []


async def test_those_of_a_run_whose_supervisor_was_killed_go_when_that_is_noticed(
    local_place: LocalPlace, common: Path
) -> None:
    folder = await local_place.launch(plan_of(), FOR_EVER)
    await living(local_place, folder)
    state = await local_place.target.state(folder, 1)
    assert state is not None
    assert state.supervisor_pid is not None
    os.kill(state.supervisor_pid, signal.SIGKILL)
    assert (await local_place.end(folder)).phase == phases.INTERRUPTED
    assert os.listdir(common) == []


async def test_the_place_that_a_user_chooses_is_left_alone(local_place: LocalPlace, common: Path) -> None:
    own = common / "own"
    own.mkdir()
    folder = await local_place.launch(plan_of(environment_variables={"TMPDIR": str(own)}), LEAVES_A_FILE)
    assert (await local_place.end(folder)).phase == phases.SUCCEEDED
    assert Path(said(folder)[0]).parent == own
    assert os.listdir(common) == ["own"]
    assert len(os.listdir(own)) == 1


async def test_a_run_needs_no_such_place(local_place: LocalPlace, common: Path) -> None:
    os.rmdir(common)
    assert (await local_place.run(plan_of(), "print('fine')")).phase == phases.SUCCEEDED
