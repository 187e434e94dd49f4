"""Where a fault takes place: a project with one job, whoever can be struck, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import statefile
from tests.engine.gate import DEADLINE
from tests.engine.harness import Project
from tests.engine.running import PLUGIN, Running, mentions
from tests.faults.evidence import WORKER, Evidence
from tests.faults.holder import Arrival, Holder

FAULTPOINTS = "TFJOBS_FAULTPOINTS"
ROLES = ("worker-0", "worker-1", "chief-0", "ps-0")
WAIT_SECONDS = 0.02


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until the condition holds; its value."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        time.sleep(WAIT_SECONDS)
    return value


def kill_with_guardian(supervisor: int) -> None:
    """Kill the supervisor and the process that would have cleared up behind it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        guardian = psutil.Process(supervisor).parent()
        if guardian is not None and any(part.endswith("supervisor.py") for part in guardian.cmdline()):
            guardian.kill()
    os.kill(supervisor, signal.SIGKILL)


class Run(NamedTuple):
    """A run in the store's index, and how many attempts of it were made."""

    run_id: str
    digest: str
    attempts: int


@dataclass
class Stage:
    project: Project
    holder: Holder
    evidence: Evidence

    def __post_init__(self) -> None:
        self.project.environment[FAULTPOINTS] = self.holder.path
        self.project.write("train.py", WORKER.read_text(encoding="utf-8"))

    def job(self, **properties: Any) -> dict[str, Any]:
        variables = {"EVIDENCE": str(self.evidence.folder), "HOLDER": self.holder.path}
        return self.project.job(environmentVariables=variables, **properties)

    # What is there

    def runs(self) -> list[Run]:
        """Every run of the store, straight from its index."""
        index = self.project.store / "index.db"
        if not index.exists():
            return []
        with contextlib.closing(sqlite3.connect(index, timeout=DEADLINE)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'attempts'").fetchone():
                return []  # somebody is just making it
            rows = connection.execute(
                "SELECT run_id, digest, (SELECT COUNT(*) FROM attempts WHERE attempts.run_id = runs.run_id) FROM runs"
            )
            return [Run(*row) for row in rows]

    def folder(self, run: Run) -> RunFolder:
        return RunFolder(str(self.project.run(run.run_id)))

    def states(self, run: Run) -> list[RunState | None]:
        """The attempts' states as they are recorded, the first attempt first."""
        folder = self.folder(run)
        return [statefile.read_state(folder.attempt(number).state) for number in folder.attempts()]

    def last_state(self) -> RunState | None:
        found = [state for run in self.runs() for state in self.states(run)]
        return found[-1] if found else None

    # Who is struck

    def victim(self, who: str, running: Running, at: Arrival) -> int:
        """The pid of the engine, the plugin, the supervisor, its guardian, or a replica (``chief-0``)."""
        if who == "engine":
            return running.pid
        if who == "plugin":
            return running.plugin().pid
        if who in ROLES:
            return self.holder.wait(who).pid if at.point != who else at.pid
        supervisor = until(lambda: (state := self.last_state()) and state.supervisor_pid, "a supervisor")
        assert isinstance(supervisor, int)
        return supervisor if who == "supervisor" else psutil.Process(supervisor).ppid()

    def plugins(self) -> list[int]:
        """Pids of the project's plugins that live."""
        return [process.pid for process in self.project.living() if PLUGIN in mentions(process, environment=False)]

    # What must hold afterwards

    def check(self, *, attempt: int) -> RunState:
        """One run, one attempt that ended well and is the last, none doubled, nothing lost, nothing alive."""
        (run,) = self.runs()
        states = self.states(run)
        assert run.attempts == attempt, (run, states)
        assert len(states) == attempt
        assert all(state is not None and state.finished for state in states), states
        assert [state.phase for state in states if state is not None].count("succeeded") == 1, states
        last = states[-1]
        assert last is not None
        assert last.phase == "succeeded", states
        self.check_evidence()
        outputs = next(iter(self.project.state().values()))["outputs"]
        assert (outputs["runId"], outputs["status"], outputs["attempt"]) == (run.run_id, "succeeded", attempt)
        return last

    def check_evidence(self) -> None:
        assert self.evidence.doubled() == []
        assert [text for run in self.runs() for text in self.evidence.lost(self.folder(run))] == []
        supervisors = [arrival.attempt for arrival in self.holder.seen if arrival.point == "confirm"]
        assert len(supervisors) == len(set(supervisors)), "two supervisors of one attempt"
        until(lambda: not self.alive(), f"the end of {self.alive()}")

    def alive(self) -> list[str]:
        """Processes of the project that still live, in words. Not the engine's language host: killed, the engine
        leaves it, and it looks for its engine every few minutes only."""
        found = []
        for process in self.project.living():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and not process.name().startswith("pulumi-language"):
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
        return found

    def state_loads(self) -> Mapping[str, Any]:
        """What `pulumi stack export` says."""
        loaded: dict[str, Any] = json.loads(self.project.export())
        return loaded

    def stopped(self, pid: int, seconds: float, look: Callable[[], None]) -> None:
        """Stop this process for so long, looking meanwhile: that time passes is the fault itself."""
        os.kill(pid, signal.SIGSTOP)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                look()
                time.sleep(WAIT_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):  # who decides over it has ended it meanwhile
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def stage_in(root: Path, pulumi_home: Path) -> Iterator[Stage]:
    """A stage of its own below this folder; whatever is left of it afterwards is ended."""
    project = Project(root, pulumi_home)
    holder = Holder(project.gate.path + "-holder")
    try:
        yield Stage(project, holder, Evidence(root / "evidence"))
    finally:
        holder.close()
        project.close()
