"""What the provider asks of the rest of the package. Tests put something quicker in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle import Current, Planned, ProgressCallback, ReadResult, RunResult
    from pulumi_tfjobs.plan import Change, JobPlan
    from pulumi_tfjobs.spec.model import JobSpec


class Lifecycle(Protocol):
    """What :mod:`pulumi_tfjobs.lifecycle` offers."""

    def check(
        self,
        inputs: Mapping[str, Any],
        *,
        name: str,
        directory: str,
        unknown: frozenset[str],
        secret: frozenset[str],
    ) -> JobSpec: ...

    def source_property(self, spec: JobSpec) -> dict[str, str]: ...

    async def own(self, spec: JobSpec, urn: str, current: Current | None, taken: Container[str] = ()) -> JobSpec: ...

    async def settle(
        self, spec: JobSpec, *, changes: Sequence[Change], current: Current | None, forced: bool = False
    ) -> Planned: ...

    async def describe(self, planned: Planned, *, urn: str, name: str, coming: Container[str] = ()) -> JobPlan: ...

    def unchanged(self, planned: Planned, *, urn: str, name: str) -> JobPlan: ...

    async def reused_outputs(self, planned: Planned) -> dict[str, Any] | None: ...

    async def ensure(
        self,
        spec: JobSpec,
        *,
        inputs: Mapping[str, Any],
        urn: str,
        secrets: Mapping[str, str],
        timeout: float | None,
        cancelled: asyncio.Event,
        progress: ProgressCallback,
        new: bool,
    ) -> RunResult: ...

    async def read(self, resource_id: str, /, inputs: Mapping[str, Any] | None = None) -> ReadResult | None: ...

    async def delete(
        self, resource_id: str, /, *, urn: str, inputs: Mapping[str, Any], replaced: bool, progress: ProgressCallback
    ) -> None: ...


class Differ(Protocol):
    """What :func:`pulumi_tfjobs.plan.diff` offers."""

    def __call__(
        self,
        old_inputs: Mapping[str, Any],
        new_inputs: Mapping[str, Any],
        *,
        old_digest: str,
        new_digest: str | None,
        unknown: frozenset[str],
        secret: frozenset[str],
    ) -> Sequence[Change]: ...
