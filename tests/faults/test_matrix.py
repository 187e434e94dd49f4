"""Whoever is struck, however, at whichever step: one run, nothing doubled, nothing lost, and `pulumi up` goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets.local.target import LocalTarget
from tests.engine.running import Running
from tests.faults.matrix import AFTER_SCRIPTS, CASES, JOBS, Case
from tests.faults.stage import ROLES, Stage, kill_with_guardian, stage_in, until

# How long a stopped process stays stopped where the case does not say. The whole matrix with the literal time:
# TFJOBS_FAULT_STOP_SECONDS=30.
STOP_SECONDS = float(os.environ.get("TFJOBS_FAULT_STOP_SECONDS", "1"))
SIDE_BY_SIDE = 3
GOING_ON = (phases.STARTING, phases.RUNNING)
SIGNALS = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pulumi_home: Path
) -> Iterator[Mapping[str, Future[None]]]:
    """Every case that was chosen, each on a stage of its own, some at a time: all of them wait more than they work."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    cases = [cast("Case", item.callspec.params["case"]) for item in here]
    cases.sort(key=lambda case: -(case.seconds or 0))  # the longest first
    pool = ThreadPoolExecutor(SIDE_BY_SIDE)
    yield {case.name: pool.submit(play, case, tmp_path_factory.mktemp("case"), pulumi_home) for case in cases}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.seconds else []) for case in CASES]
)
def test_a_fault(outcomes: Mapping[str, Future[None]], case: Case) -> None:
    outcomes[case.name].result()


def play(case: Case, root: Path, pulumi_home: Path) -> None:
    with stage_in(root, pulumi_home) as stage:
        play_on(stage, case)


def play_on(stage: Stage, case: Case) -> None:
    project = stage.project
    project.yaml({"one": stage.job(**JOBS[case.job])}, {"status": "${one.status}"})
    # Scripts wait until the fault is over; where it comes after their end, they do not.
    stage.holder.hold(case.at, *(ROLES if case.at not in AFTER_SCRIPTS else ()))
    running = project.start_up()
    at = stage.holder.wait(case.at)
    strike(stage, case, running, stage.victim(case.who, running, at))

    if case.ends_well:
        stage.holder.release()
    result = running.ends()
    assert case.ends_well in {None, result.code == 0}, result.text
    assert "Traceback" not in result.text
    stage.state_loads()
    if case.who == "engine" and case.how in {"KILL", "INT2"}:
        until(lambda: not stage.plugins(), "the end of the plugin")
        project.pulumi("cancel", "--yes", expected=None)
    stage.holder.release()

    again = project.up()
    assert again.code == 0
    last = stage.check(attempt=case.attempt)
    assert last.launches == case.launches
    assert project.preview().changed == {}


def strike(stage: Stage, case: Case, running: Running, victim: int) -> None:
    """The fault; then whoever is held at its point goes on, if it still can."""
    if case.how == "STOP":

        def look() -> None:
            stage.holder.release()  # the rest of the world goes on
            for run in stage.runs():
                if run.attempts:
                    state = asyncio.run(LocalTarget().state(stage.folder(run), run.attempts))
                    assert state is None or state.phase not in phases.TERMINAL - {phases.SUCCEEDED}, state

        stage.stopped(victim, STOP_SECONDS if case.seconds is None else case.seconds, look)
    elif case.how == "KILL2":
        kill_with_guardian(victim)
    elif case.how in SIGNALS:
        os.kill(victim, SIGNALS[case.how])
        if case.attempt == 2 and case.at in ROLES:
            # Else the script that decides might end well before anybody has heard of it.
            until(lambda: (state := stage.last_state()) and state.phase not in GOING_ON, "it is heeded")
    else:
        for _ in range(1 if case.how == "INT" else 2):
            running.interrupt()
    stage.holder.release(case.at)
