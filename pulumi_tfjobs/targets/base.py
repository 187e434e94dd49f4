"""What a compute target promises. A new target is one module with its options and capabilities.

A target starts replicas and tells what became of them. It does not decide what to run (that is the plan), does not keep
the run's record (that is the store), and knows nothing of Pulumi.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import EnvironmentSpec, JobSpec
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder

EnvironmentState = Literal["built", "to build", "present", "missing", "unknown"]
"""What there is of an environment; ``present`` and ``missing``: an interpreter that the user manages."""


@dataclass(frozen=True)
class Capabilities:
    """What a target can do, said positively.

    ``slots``: how many replicas that take a slot can ever run at once, None where there is no such limit.
    ``gpus``: accelerators the target has, None where only the live target can tell.
    ``controllers``: Horovod controllers (``gloo``, ``mpi``). ``elastic``: whether lost Horovod workers are replaced.
    ``hourly_price``: of one slot for an hour, in ``currency``; None where it is not known.
    """

    slots: int | None
    gpus: int | None
    controllers: frozenset[str] = frozenset({"gloo"})
    elastic: bool = False
    hourly_price: float | None = None
    currency: str = "USD"


class Headroom(NamedTuple):
    """Whether a run could start now.

    ``slots``: how many there can ever be, None without a limit. ``free``: how many nobody holds, None where that is not
    known. ``ahead``: runs that wait and would go first. ``holders``: runs that hold slots. ``trouble``: why the target
    could not be asked, else empty.
    """

    slots: int | None = None
    free: int | None = None
    ahead: int = 0
    holders: int = 0
    unit: Literal["slot", "GPU"] = "slot"
    trouble: str = ""

    def note(self, needed: int) -> str:
        """What a run that needs so many slots has to wait for: ``needs 8 GPUs, 4 free, 2 runs ahead``. Empty where it
        can start at once, or where nothing is known."""
        if needed <= 0:
            return ""
        if self.trouble:
            return f"could not check free {self.unit}s: {self.trouble}"
        needs = f"needs {_count(needed, self.unit)}"
        if self.slots is not None and needed > self.slots:
            return f"{needs}, the compute target has {self.slots}: it can never start"
        if self.free is None or (self.free >= needed and not self.ahead):
            return ""
        if self.ahead:
            return f"{needs}, {self.free} free, {_count(self.ahead, 'run')} ahead"
        return f"{needs}, {self.free} free, {_count(self.holders, 'run')} in progress"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class RunContext(NamedTuple):
    """What a run belongs to, for a target that keeps runs where others see them: labels, annotations, and a record
    from which another machine can go on. ``record`` holds no secrets."""

    urn: str = ""
    stack: str = ""
    project: str = ""
    record: Mapping[str, Any] = MappingProxyType({})


class Recalled(NamedTuple):
    """A run that the target knows, perhaps from another machine: its record as it was reserved, and its attempts."""

    record: Mapping[str, Any]
    attempts: int


class Target(ABC):
    """A place where replicas run.

    ``context`` is set before a launch; it changes nothing of what is run.

    Missing is not an error: :meth:`state` answers None only where the target definitely knows no such run, and raises
    :class:`~pulumi_tfjobs.errors.TargetUnavailable` where it could not be asked.
    """

    kind: ClassVar[str]
    paths: ClassVar[tuple[str, ...]] = ()
    """Options that may be paths of this machine, relative to the Pulumi program."""
    context: RunContext = RunContext()

    @classmethod
    @abstractmethod
    def check_options(cls, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[InputProblem]]:
        """Options as the user wrote them (camelCase) → normalised options and every problem (paths relative to
        ``computeTarget``). Pure: nothing is asked of the machine or the network."""

    @classmethod
    @abstractmethod
    def from_options(cls, options: Mapping[str, Any]) -> Target:
        """A target for options that :meth:`check_options` normalised."""

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """The normalised options that :meth:`from_options` takes; JSON-able, no secrets."""

    @property
    def credentials(self) -> Mapping[str, Any]:
        """Options that are secrets, which are written nowhere; :meth:`from_options` takes them beside the others."""
        return {}

    @property
    @abstractmethod
    def namespace(self) -> str:
        """The middle part of a resource id: a namespace or the name of a store."""

    @property
    def image(self) -> str:
        """The container image that replicas run in, a part of the software that decides a result; empty for none."""
        return ""

    @property
    def place(self) -> str:
        """Where runs live, in words: two targets with the same place see the same runs."""
        return self.kind

    def check(self, spec: JobSpec) -> Sequence[InputProblem]:
        """What of the job this target can never do. Pure."""
        del spec
        return ()

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this target can do now. May look at the machine; must be quick and change nothing."""

    def headroom(self, plan: LaunchPlan, store: str) -> Headroom:
        """Whether the run could start now beside the others of the store whose folder that is. Quick, changes nothing
        and never raises: what cannot be asked is its ``trouble``."""
        del plan, store
        return Headroom(slots=self.capabilities().slots)

    def environment_state(self, environment: EnvironmentSpec) -> EnvironmentState:
        """What there is of the environment. Quick, changes nothing, starts no process and never raises."""
        del environment
        return "unknown"

    def warnings(self, spec: JobSpec, plan: LaunchPlan | None = None) -> tuple[str, ...]:
        """What of the live target makes it likely that the job does not run as it is meant to, for people. ``plan``:
        what would be launched. Quick, changes nothing, starts no process and never raises."""
        del spec, plan
        return ()

    @abstractmethod
    async def prepare(self, environment: EnvironmentSpec, progress: Progress) -> str:
        """Make the environment ready where replicas will run. Returns a handle that :meth:`launch` understands (for the
        local target, the interpreter's path). Idempotent. Raises EnvironmentBuildFailed."""

    @abstractmethod
    async def launch(
        self, plan: LaunchPlan, folder: RunFolder, attempt: int, environment: str, secrets: Mapping[str, str]
    ) -> None:
        """Start attempt ``attempt``, detached from this process; return as soon as that is certain.

        At most once: a second call for the same attempt does nothing. ``folder``'s attempt folder exists and holds
        ``src/``. ``secrets`` are environment variables that must not be written anywhere in clear. Raises LaunchFailed.
        """

    @abstractmethod
    async def state(self, folder: RunFolder, attempt: int) -> RunState | None:
        """What became of the attempt, None where it was never launched. A supervisor that vanished without recording
        an end is reported as ``interrupted``."""

    @abstractmethod
    async def look(self, folder: RunFolder, attempt: int) -> RunState | None:
        """As :meth:`state`, and nothing at all is written: an interruption is reported, not recorded."""

    @abstractmethod
    def watch(self, folder: RunFolder, attempt: int) -> AsyncIterator[RunState]:
        """Yield the state at once and on each change, and end after a terminal one."""

    @abstractmethod
    async def stop(self, folder: RunFolder, attempt: int, *, grace_seconds: float | None = None) -> RunState | None:
        """End the attempt (TERM, grace, KILL) and wait until nothing of it lives. A finished or unknown attempt is left
        as it is."""

    async def collect(self, folder: RunFolder, attempt: int, state: RunState) -> Sequence[str]:
        """Bring what the run has written (outputs, event files, metrics) into its folder, as far as it is not there.
        Notes for people where something could not be brought. Never raises because of the target."""
        del folder, attempt, state
        return ()

    async def has_checkpoints(self, folder: RunFolder) -> bool:
        """Whether the run has left checkpoints. Raises TargetUnavailable, OSError."""
        return bool(await asyncio.to_thread(os.listdir, folder.checkpoints))

    async def look_for_checkpoints(self, folder: RunFolder) -> bool | None:
        """As :meth:`has_checkpoints`, for a preview, which changes nothing: None where something would have to be
        started to find out."""
        return await self.has_checkpoints(folder)

    async def take_checkpoints(self, folder: RunFolder, origin: RunFolder) -> None:
        """Let the run begin with a copy of the checkpoints of ``origin``. What an attempt has kept is left as it is.
        Raises TargetUnavailable, OSError, shutil.Error."""
        await asyncio.to_thread(copy_checkpoints, folder, origin)

    async def remove(self, folder: RunFolder) -> None:
        """Remove what the target keeps of a run that has ended, outside its folder. Idempotent."""
        del folder

    async def recall(self, run_id: str) -> Recalled | None:
        """A run that this machine's store does not know, as the target knows it; None where it definitely does not."""
        del run_id
        return None


def copy_checkpoints(folder: RunFolder, origin: RunFolder) -> None:
    """The default of :meth:`Target.take_checkpoints`: from folder to folder, at once or not at all."""
    if os.listdir(folder.checkpoints):
        return
    partial = os.path.join(folder.root, ".resuming")
    shutil.rmtree(partial, ignore_errors=True)  # of a copy that was cut off
    shutil.copytree(origin.checkpoints, partial, symlinks=True)
    os.rename(partial, folder.checkpoints)


class Progress(ABC):
    """Where a step tells how it goes: a line for the resource's row."""

    @abstractmethod
    def __call__(self, message: str) -> None: ...


class Silent(Progress):
    """Progress that nobody watches."""

    def __call__(self, message: str) -> None:
        del message
