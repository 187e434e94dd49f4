"""What a compute target promises. A new target is one module with its options and capabilities.

A target starts replicas and tells what became of them. It does not decide what to run (that is the plan), does not keep
the run's record (that is the store), and knows nothing of Pulumi.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import EnvironmentSpec
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder


@dataclass(frozen=True)
class Capabilities:
    """What a target can do, said positively.

    ``slots``: how many replicas that take a slot can ever run at once, None where there is no such limit.
    ``gpus``: accelerators the target has, None where only the live target can tell.
    ``controllers``: Horovod controllers (``gloo``, ``mpi``). ``elastic``: whether lost Horovod workers are replaced.
    """

    slots: int | None
    gpus: int | None
    controllers: frozenset[str] = frozenset({"gloo"})
    elastic: bool = False


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
