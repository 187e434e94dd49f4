"""Kill after kill over one stack, `pulumi up` after each, and the count of what should never happen."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pulumi_tfjobs.targets.folder import RunFolder
from tests.chaos.jobs import JOBS, write_program
from tests.chaos.kills import LINE, Kill
from tests.chaos.observer import Observer, Seen, look
from tests.engine.gate import DEADLINE
from tests.engine.harness import Project
from tests.engine.running import PLUGIN, Result, Running, mentions
from tests.faults.evidence import WORKER, Evidence
from tests.faults.holder import Holder
from tests.faults.stage import kill_with_guardian

# How long a kill waits for its moment, or its victim, before it takes what is there.
PATIENCE = 2.0
PAUSE = 0.02
# How often an update may fail while nobody kills anything: the first may tell what the last kill did.
MOST_FAILURES = 3
LEFTOVER_SECONDS = 15.0
# What the engine says when it heeds a Ctrl-C; an update that ends well all the same may have left old resources to the
# next one. And what it says of a state that it cannot read.
CANCELLED = "^C received; cancelling"
UNREADABLE = "failed to load checkpoint"

Tell = Callable[[str], None]


class Storm:
    """One stack, from its first update to its last."""

    def __init__(self, root: Path, tell: Tell) -> None:
        self.root = root
        self.tell = tell
        (root / "pulumi-home").mkdir()
        self.project = Project(root, root / "pulumi-home")
        self.project.write("train.py", WORKER.read_text(encoding="utf-8"))
        self.evidence = Evidence(root / "evidence")
        self.holder = Holder(self.project.gate.path + "-holder")
        self.project.environment["TFJOBS_FAULTPOINTS"] = self.holder.path
        self.observer = Observer(str(root), str(self.project.store / "runs"))
        self.lost: dict[str, None] = {}
        self.broken: dict[str, None] = {}
        self.struck: Counter[str] = Counter()
        self.rounds = 0
        self.failures = 0
        self.running: Running | None = None

    def close(self) -> None:
        self.holder.close()
        self.observer.close()
        self.project.close()

    @property
    def doubled(self) -> list[str]:
        return [*self.evidence.doubled(), *self.observer.doubled]

    @property
    def orphaned(self) -> list[str]:
        return [f"{process} {how}" for process, how in self.observer.orphaned.items()]

    # The storm

    def rage(self, kills: Iterator[Kill], count: int) -> None:
        """So many kills, and then as many updates as it takes until all is done."""
        self._next_round()
        for number in range(1, count + 1):
            kill = next(kills)
            began = time.monotonic()
            what = self._strike(kill)
            self.tell(f"{number:4} of {count}  round {self.rounds}  {what}  ({time.monotonic() - began:.1f} s)")
            if self.failures > MOST_FAILURES:
                break
        while self.running is not None and self.failures <= MOST_FAILURES:
            self._go_on(last=True)
        self._finish()

    def _next_round(self) -> None:
        self.rounds += 1
        write_program(self.project, self.evidence, self.rounds)
        self._up()

    def _up(self) -> None:
        self.running = self.project.start_up()

    def _go_on(self, *, last: bool = False) -> None:
        """The update has ended (or is awaited): the next one, or the next round."""
        assert self.running is not None
        try:
            result = self.running.ends()
        except Exception as error:  # noqa: BLE001 (counted, and the storm goes on)
            self.broken[f"an update did not end: {error!r}"] = None
            self.running.abandon()
            self.failures += 1
            self._up()
            return
        self._note(result)
        if "is currently locked" in result.text:
            self.project.pulumi("cancel", "--yes", expected=None)
        elif result.code == 0 and CANCELLED not in result.text:
            self.failures = 0
            self.running = None
            self._check_round()
            if not last:
                self._next_round()
            return
        else:
            self.failures += 1
        if UNREADABLE in result.text:
            self.failures = MOST_FAILURES + 1
        if self.failures > MOST_FAILURES:
            self.broken[f"update after update fails: {result.text}"] = None
        self._up()

    def _note(self, result: Result) -> None:
        with open(self.root / "updates.log", "a", encoding="utf-8") as stream:
            stream.write(f"--- ended with {result.code}\n{result.text}\n")
        if "Traceback" in result.text:
            self.broken[f"a traceback reached the user: {result.text}"] = None

    # A kill

    def _strike(self, kill: Kill) -> str:
        came, arrived = self._await_moment(kill)
        try:
            until = time.monotonic() + PATIENCE
            while not (victims := self._victims(kill.who)):
                if self._has_ended():
                    self._go_on()
                if time.monotonic() > until:
                    kill, victims = kill._replace(who="engine", how=kill.how[:4]), self._victims("engine")
                    break
                time.sleep(PAUSE)
            # Who has come to the point is the one, where it is of that kind.
            there = [victim for victim in victims if victim[0] == arrived]
            pid, name = there[0] if there else victims[int(kill.which * len(victims))]
            self.struck[f"{kill.who} {kill.how}"] += 1
            self._signal(kill, pid)
        finally:
            self.holder.release()
        self.failures = 0
        if kill.who in {"engine", "plugin"} and kill.how != "STOP":
            self._go_on()
        when = f" at {came}" if came else ""
        return f"{kill.who} {kill.how}{when}" + ("" if name == kill.who else f": {name}")

    def _signal(self, kill: Kill, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            if kill.how == "STOP":
                os.kill(pid, signal.SIGSTOP)
                self.holder.release()
                time.sleep(kill.pause)
                os.kill(pid, signal.SIGCONT)
            elif kill.how.startswith("INT"):
                for _ in range(2 if kill.how == "INT2" else 1):
                    os.killpg(pid, signal.SIGINT)
            elif kill.how == "KILL2":
                kill_with_guardian(pid)
            else:
                os.kill(pid, {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}[kill.how])

    def _await_moment(self, kill: Kill) -> tuple[str, int]:
        """Wait for it, but not for ever. What came, empty where it did not, and who is held at that point."""
        time.sleep(kill.delay)
        if self._has_ended():
            self._go_on()
        assert self.running is not None
        if kill.moment == LINE:
            before = len(self.running.text)
            until = time.monotonic() + PATIENCE
            while len(self.running.text) == before and not self._has_ended() and time.monotonic() < until:
                time.sleep(PAUSE)
            return ("a line of the engine" if len(self.running.text) > before else ""), 0
        if kill.moment:
            self.holder.forget()
            self.holder.hold(kill.moment)
            arrival = self.holder.arrived(kill.moment, PATIENCE)
            return (kill.moment, arrival.pid) if arrival is not None else ("", 0)
        return "", 0

    def _has_ended(self) -> bool:
        return self.running is not None and self.running.ended

    def _victims(self, who: str) -> list[tuple[int, str]]:
        if who == "engine":
            return [(self.running.pid, "engine")] if self.running is not None else []
        if who == "plugin":
            return [(pid, "plugin") for pid in self._plugins()]
        return [(seen.pid, str(seen)) for seen in self._seen() if seen.kind == who]

    def _plugins(self) -> list[int]:
        assert self.running is not None
        try:
            children = psutil.Process(self.running.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child.pid for child in children if PLUGIN in mentions(child, environment=False)]

    def _seen(self) -> list[Seen]:
        return look(str(self.root))

    # What must hold

    def _runs(self) -> dict[str, int]:
        """Run id → how many attempts of it were made, straight from the index."""
        with contextlib.closing(sqlite3.connect(self.project.store / "index.db", timeout=DEADLINE)) as connection:
            return dict(
                connection.execute(
                    "SELECT run_id, (SELECT COUNT(*) FROM attempts WHERE attempts.run_id = runs.run_id) FROM runs"
                )
            )

    def _check_round(self) -> None:
        """All jobs are done: each has one run, which succeeded once, and all that it wrote is there."""
        try:
            state = self.project.state()
        except Exception as error:  # noqa: BLE001
            self.broken[f"the state does not load: {error!r}"] = None
            return
        runs = self._runs()
        if set(state) != set(JOBS):
            self.broken[f"the state holds {sorted(state)}"] = None
        if len(runs) != len(JOBS) * self.rounds:
            self.observer.doubled[f"there are {len(runs)} runs of {len(JOBS)} jobs in {self.rounds} rounds"] = None
        for name, item in state.items():
            outputs = item["outputs"]
            folder = RunFolder(str(self.project.run(outputs["runId"])))
            if outputs["status"] != "succeeded":
                self.broken[f"{name} is {outputs['status']} after an update that succeeded"] = None
            self._check_run(folder, runs)
        changed = self.project.preview().changed
        if changed:
            self.broken[f"after an update that succeeded there are changes: {changed}"] = None

    def _check_run(self, folder: RunFolder, runs: dict[str, int]) -> None:
        phases = [_phase(folder, number) for number in folder.attempts()]
        if len(phases) != runs.get(folder.run_id):
            self.lost[f"{folder.run_id}: {len(phases)} attempts on disk, {runs.get(folder.run_id)} in the index"] = None
        if phases.count("succeeded") != 1 or phases[-1] != "succeeded":
            self.observer.doubled[f"{folder.run_id}: its attempts are {phases}"] = None
        self.lost.update(dict.fromkeys(self.evidence.lost(folder)))
        finished = {item["role"] for item in self.evidence.records("finished") if item["run"] == folder.run_id}
        if not finished:
            self.lost[f"{folder.run_id} succeeded, and no script of it came to its end"] = None

    def _finish(self) -> None:
        """Nothing lives any more, and what earlier rounds wrote is still there."""
        until = time.monotonic() + LEFTOVER_SECONDS
        while (left := self._seen()) and time.monotonic() < until:
            time.sleep(PAUSE)
        for seen in left:
            self.observer.orphaned.setdefault(str(seen), "was left behind")
        for run in self._runs():
            self.lost.update(dict.fromkeys(self.evidence.lost(RunFolder(str(self.project.run(run))))))

    def problems(self) -> dict[str, list[str]]:
        return {
            "lost": list(self.lost),
            "doubled": self.doubled,
            "orphaned": self.orphaned,
            "state_broken": list(self.broken),
        }


def _phase(folder: RunFolder, number: int) -> Any:
    try:
        with open(folder.attempt(number).state, encoding="utf-8") as stream:
            return json.load(stream)["phase"]
    except (OSError, ValueError) as error:
        return repr(error)
