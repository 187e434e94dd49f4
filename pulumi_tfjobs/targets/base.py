"""What a compute target promises. A new target is one module with its options and capabilities.

A target starts replicas and tells what became of them. It does not decide what to run (that is the plan), does not keep
the run's record (that is the store), and knows nothing of Pulumi.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
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


class Target(ABC):
    """A place where replicas run.

    Missing is not an error: :meth:`state` answers None only where the target definitely knows no such run, and raises
    :class:`~pulumi_tfjobs.errors.TargetUnavailable` where it could not be asked.
    """

    kind: ClassVar[str]

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
    @abstractmethod
    def namespace(self) -> str:
        """The middle part of a resource id: a namespace or the name of a store."""

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

    def warnings(self, spec: JobSpec) -> tuple[str, ...]:
        """What of the live target makes it likely that the job does not run as it is meant to, for people. Quick,
        changes nothing, starts no process and never raises."""
        del spec
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


class Progress(ABC):
    """Where a step tells how it goes: a line for the resource's row."""

    @abstractmethod
    def __call__(self, message: str) -> None: ...


class Silent(Progress):
    """Progress that nobody watches."""

    def __call__(self, message: str) -> None:
        del message


TargetClasses = Sequence[type[Target]]
