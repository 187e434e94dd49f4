"""A compute target whose runs exist in memory: a test says what becomes of them, and is told what was asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from pulumi_tfjobs.errors import InputProblem, TargetUnavailable
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import EnvironmentSpec
from pulumi_tfjobs.spec.state import ReplicaState, RunState
from pulumi_tfjobs.targets.base import Capabilities, Progress, Target
from pulumi_tfjobs.targets.folder import RunFolder

DEADLINE = 20.0


class Launch(NamedTuple):
    plan: LaunchPlan
    attempt: int
    environment: str
    secrets: dict[str, str]
    folder: RunFolder

    @property
    def run_id(self) -> str:
        return self.folder.run_id


class World:
    """Every run of the test's fake targets, and how they behave.

    ``on_launch`` gives the state that a launch ends with (default: running). ``prepare_error``, ``launch_error`` are
    raised there; ``prepare_gate`` and ``launch_gate`` hold those steps until set. ``unavailable``: no question is
    answered, and ``refused`` is set once one was asked. ``sees_checkpoints``: a preview can look for them. ``on_stop``
    gives the state that a stop ends with (default: cancelled).
    """

    def __init__(self) -> None:
        self.states: dict[tuple[str, int], RunState] = {}
        self.launches: list[Launch] = []
        self.prepared: list[EnvironmentSpec] = []
        self.stops: list[tuple[str, int, float | None]] = []
        self.on_launch: Callable[[RunState], RunState] = lambda state: state
        self.on_stop: Callable[[RunState], RunState] = lambda state: state._replace(phase=phases.CANCELLED)
        self.prepare_error: Exception | None = None
        self.launch_error: Exception | None = None
        self.prepare_gate: asyncio.Event | None = None
        self.launch_gate: asyncio.Event | None = None
        self.unavailable = False
        self.refused = asyncio.Event()
        self.slots: int | None = 8
        self.sees_checkpoints = True
        self._changed = asyncio.Condition()
        self.watchers = 0

    async def change(self, run_id: str, attempt: int, /, **fields: Any) -> None:
        """Something happened to the run."""
        key = (run_id, attempt)
        async with self._changed:
            state = self.states[key]
            self.states[key] = state._replace(**{"updated": state.updated + 1, **fields})
            self._changed.notify_all()

    async def notify(self) -> None:
        """Wake every watcher, so that it looks at the world again."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[World], bool]) -> None:
        """Wait until that holds. A test never waits longer than the deadline."""

        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: condition(self))

        await asyncio.wait_for(wait(), DEADLINE)

    async def launched(self, count: int = 1) -> Launch:
        """The launch of that number, once it happened."""
        await self.until(lambda world: len(world.launches) >= count)
        return self.launches[count - 1]


world = World.__new__(World)  # replaced by the fixture of each test


class FakeTarget(Target):
    kind: ClassVar[str] = "fake"

    def __init__(self, store: str = "default", color: str = "none") -> None:
        self._store = store
        self._color = color

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[InputProblem]]:
        problems = [
            InputProblem(key, "there is no such option", "store or color", "remove it")
            for key in sorted(set(options) - {"store", "color"})
        ]
        return {"store": options.get("store", "default"), "color": options.get("color", "none")}, problems

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> FakeTarget:
        return cls(**options)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"store": self._store, "color": self._color}

    @property
    def namespace(self) -> str:
        return self._store

    def capabilities(self) -> Capabilities:
        return Capabilities(slots=world.slots, gpus=0)

    async def prepare(self, environment: EnvironmentSpec, progress: Progress) -> str:
        progress("preparing")
        world.prepared.append(environment)
        await world.notify()
        if world.prepare_gate is not None:
            await world.prepare_gate.wait()
        if world.prepare_error is not None:
            raise world.prepare_error
        return "the-interpreter"

    async def launch(
        self, plan: LaunchPlan, folder: RunFolder, attempt: int, environment: str, secrets: Mapping[str, str]
    ) -> None:
        key = (folder.run_id, attempt)
        if key in world.states:
            return
        if world.launch_error is not None:
            raise world.launch_error
        world.launches.append(Launch(plan, attempt, environment, dict(secrets), folder))
        await world.notify()
        if world.launch_gate is not None:
            await world.launch_gate.wait()
        replicas = tuple(
            ReplicaState(
                replica.type, replica.index, phases.RUNNING, log=folder.attempt(attempt).replica_log(replica.name)
            )
            for replica in plan.replicas
        )
        state = RunState(folder.run_id, attempt, phases.RUNNING, replicas=replicas, started_at=1_700_000_000.0)
        async with world._changed:
            world.states[key] = world.on_launch(state)
            world._changed.notify_all()

    async def state(self, folder: RunFolder, attempt: int) -> RunState | None:
        if world.unavailable:
            world.refused.set()
            raise TargetUnavailable("the fake target does not answer")
        return world.states.get((folder.run_id, attempt))

    async def look(self, folder: RunFolder, attempt: int) -> RunState | None:
        return await self.state(folder, attempt)

    async def look_for_checkpoints(self, folder: RunFolder) -> bool | None:
        return await self.has_checkpoints(folder) if world.sees_checkpoints else None

    async def watch(self, folder: RunFolder, attempt: int) -> AsyncIterator[RunState]:
        last = None
        world.watchers += 1
        await world.notify()
        try:
            while True:
                state = await self.state(folder, attempt)
                if state is None:
                    return
                if state != last:
                    yield state
                    last = state
                    if state.finished:
                        return
                    continue
                async with world._changed:
                    seen = state

                    def differs(seen: RunState = seen) -> bool:
                        return world.unavailable or world.states.get((folder.run_id, attempt)) != seen

                    await world._changed.wait_for(differs)
        finally:
            world.watchers -= 1

    async def stop(self, folder: RunFolder, attempt: int, *, grace_seconds: float | None = None) -> RunState | None:
        state = await self.state(folder, attempt)
        if state is None or state.finished:
            return state
        world.stops.append((folder.run_id, attempt, grace_seconds))
        ended = world.on_stop(state)
        await world.change(folder.run_id, attempt, **{**ended._asdict(), "updated": state.updated + 1})
        return world.states[folder.run_id, attempt]
