"""The command `tfjobs` in a test: its exit code and what it says, in this process or as one of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pulumi_tfjobs.cli.app import run
from pulumi_tfjobs.lifecycle import RunResult
from pulumi_tfjobs.lifecycle.common import open_store
from pulumi_tfjobs.spec.state import RunState
from tests.helpers.fake_target import World
from tests.helpers.jobs import Job

DEADLINE = 60.0
PROGRAM = os.path.join(sysconfig.get_path("scripts"), "tfjobs")


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Commands:
    """``tfjobs(...)``: the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        self._capsys.readouterr()
        code = run(arguments)
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return Answer(code, said.out, said.err)


class LocalRuns:
    """Real runs of plain Python scripts on this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ids: list[str] = []

    def make(self, script: str, *, name: str = "job", wait: str = "succeeded", **inputs: Any) -> str:
        """Run the script; the run's id, once it is as ``wait`` asks."""
        return self.result(script, name=name, wait=wait, **inputs).outputs["runId"]

    def result(self, script: str, *, name: str = "job", wait: str = "succeeded", **inputs: Any) -> RunResult:
        job = Job(
            self.directory / name,
            computeTarget={"kind": "local", "slots": 4},
            interpreterPath=sys.executable,
            waitFor=wait,
            **{"stopGraceSeconds": 5, **inputs},
        )
        (job.source / "train.py").write_text(script)
        found = asyncio.run(job.ensure(job.check(name), **inputs))
        self.ids.append(found.outputs["runId"])
        return found

    def state(self, run_id: str) -> RunState:
        from pulumi_tfjobs.targets.local.statefile import read_state

        store = open_store("default")
        run = store.get(run_id)
        assert run is not None
        found = read_state(store.folder(run_id).attempt(run.attempts).state)
        assert found is not None
        return found

    def close(self) -> None:
        for run_id in self.ids:
            run(["stop", "--force", run_id])


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command as a process of its own, as a terminal's job."""
    return subprocess.Popen(
        [PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> Answer:
    """What it said until it ended."""
    try:
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return Answer(process.returncode, out, err)


def until(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.01)
    return value


def reserve(
    name: str,
    digest: str,
    *,
    status: str = "succeeded",
    created: float | None = None,
    finished: float | None = None,
    urn: str | None = None,
    attempts: int = 1,
    kind: str = "fake",
    world: World | None = None,
    **state: Any,
) -> str:
    """A run in the default store as if it had been made; with ``world``, the fake target knows it so."""
    store = open_store("default")
    run_id = f"{name}-{digest[:12]}"
    full = digest.ljust(64, "0")
    store.reserve(run_id, full, name, {"inputs": {}, "target": {"kind": kind}, "worldSize": 1}, urn or "urn:x")
    if urn is None:
        store.drop_reference(run_id, "urn:x")
    for number in range(attempts):
        store.add_attempt(run_id, number)
    store.set_status(run_id, status, finished)
    if created is not None:
        with store._writing() as connection:
            connection.execute("UPDATE runs SET created = ? WHERE run_id = ?", (created, run_id))
    if world is not None and attempts:
        world.states[run_id, attempts] = RunState(run_id, attempts, **{"phase": status, **state})
    return run_id
