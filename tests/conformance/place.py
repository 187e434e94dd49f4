"""Where the suite's runs take place, and what its tests need: plans, files, waiting."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from pulumi_tfjobs.plan import build_plan
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import (
    Distribution,
    EnvironmentSpec,
    JobSpec,
    Single,
    SourceFile,
    SourceManifest,
    TargetRef,
)
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.base import Target
from pulumi_tfjobs.targets.folder import RunFolder

DEADLINE = 60.0


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until the condition holds; its value."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        await asyncio.sleep(0.01)
    return value


def write(path: str, text: str = "") -> None:
    """A file with this text."""
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


class closing:  # noqa: N801 (contextlib.aclosing for states; it closes a watch that is left early)
    def __init__(self, states: AsyncIterator[RunState]) -> None:
        self.states = states

    async def __aenter__(self) -> AsyncIterator[RunState]:
        return self.states

    async def __aexit__(self, *_: object) -> None:
        await self.states.aclose()  # type: ignore[attr-defined]


class Place(ABC):
    """A target, and where the folders of its runs are."""

    target: Target
    interpreter = sys.executable
    """What ``launch`` takes as the environment."""

    @property
    def store(self) -> str:
        """The folder of the store that the runs are in."""
        return os.path.dirname(os.path.dirname(self.folder("any").root))

    def __init__(self) -> None:
        self.launched: list[tuple[RunFolder, int]] = []

    @abstractmethod
    def folder(self, run_id: str) -> RunFolder:
        """The run's folder; it need not exist."""

    @abstractmethod
    def alive(self, folder: RunFolder, attempt: int = 1) -> list[str]:
        """What of the attempt still lives, in words. Empty when nothing does."""

    async def close(self) -> None:
        """End what tests have left."""
        for folder, attempt in self.launched:
            await self.target.stop(folder, attempt, grace_seconds=0)

    async def launch(
        self, plan: LaunchPlan, script: str, secrets: Mapping[str, str] | None = None, attempt: int = 1
    ) -> RunFolder:
        folder = self.folder(plan.run_id)
        source = folder.attempt(attempt).source
        os.makedirs(source, exist_ok=True)
        write(os.path.join(source, "train.py"), "import json, os, sys\n" + textwrap.dedent(script))
        self.launched.append((folder, attempt))
        await self.target.launch(plan, folder, attempt, self.interpreter, secrets or {})
        return folder

    async def end(self, folder: RunFolder, attempt: int = 1) -> RunState:
        """The attempt's last state."""
        last = await asyncio.wait_for(self._last(folder, attempt), DEADLINE)
        assert last is not None
        assert last.finished, last
        return last

    async def _last(self, folder: RunFolder, attempt: int) -> RunState | None:
        last = None
        async for state in self.target.watch(folder, attempt):
            last = state
        return last

    async def run(self, plan: LaunchPlan, script: str, secrets: Mapping[str, str] | None = None) -> RunState:
        return await self.end(await self.launch(plan, script, secrets))

    def output(self, folder: RunFolder, name: str) -> str | None:
        """A file that a replica has put in its outputs, None while it is not there."""
        try:
            return read(os.path.join(folder.outputs, name))
        except FileNotFoundError:
            return None

    def log(self, state: RunState, name: str) -> str:
        return read(replica(state, name).log)


def plan_of(distribution: Distribution | None = None, *, name: str = "job", **fields: Any) -> LaunchPlan:
    """The plan of a job whose entry script is train.py."""
    spec = JobSpec(
        name=name,
        source=SourceManifest("/nowhere", (SourceFile("train.py", "0" * 64, 1),)),
        entry_script="train.py",
        environment=EnvironmentSpec(interpreter="python3"),
        target=TargetRef("local"),
        distribution=distribution or Single(),
        **{"stop_grace_seconds": 5.0, **fields},
    )
    return build_plan(spec)


def replica(state: RunState, name: str) -> Any:
    return next(replica for replica in state.replicas if replica.name == name)


def files_with(root: str, text: str) -> list[str]:
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb") as stream:
                    if text.encode() in stream.read():
                        found.append(path)
    return found


def argvs_with(text: str) -> list[bytes]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as stream:
                    argv = stream.read()
            except OSError:
                continue
            if text.encode() in argv:
                found.append(argv)
    return found
