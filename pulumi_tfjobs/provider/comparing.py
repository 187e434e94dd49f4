"""Check and Diff of training jobs: what inputs mean, what has changed, and what an update does about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import InvalidInputs
from pulumi_tfjobs.provider import wire
from pulumi_tfjobs.provider.asking import Differ, Lifecycle
from pulumi_tfjobs.provider.differing import answer, top
from pulumi_tfjobs.provider.planned import Plans, current_of
from pulumi_tfjobs.provider.protos import provider_pb2
from pulumi_tfjobs.provider.urns import resource_name

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle import Current, Planned
    from pulumi_tfjobs.spec.model import JobSpec

SOURCE = "source"
OUTPUTS = (
    "runId",
    "digest",
    "status",
    "reason",
    "attempt",
    "exitCode",
    "startedAt",
    "finishedAt",
    "durationSeconds",
    "metrics",
    "outputsDir",
    "checkpointsDir",
    "logs",
    "tfConfig",
    "hostfile",
    "worldSize",
    "restarts",
    "worldSizes",
)


class _Checked(NamedTuple):
    """Inputs as Check answered them, and what they mean."""

    properties: dict[str, Any]
    spec: JobSpec


class _Diffed(NamedTuple):
    """Inputs as Diff was asked about them, and what it decided."""

    properties: dict[str, Any]
    planned: Planned


class Comparing:
    """What is known of the inputs of one engine's jobs.

    ``directory``: what relative paths are relative to (the Pulumi program's folder).
    """

    def __init__(self, directory: str, plans: Plans, lifecycle: Lifecycle | None, differ: Differ | None) -> None:
        self._directory = directory
        self._plans = plans
        self._given_lifecycle = lifecycle
        self._given_differ = differ
        self._checked: dict[str, _Checked] = {}
        self._diffed: dict[str, _Diffed] = {}
        self._replaced: set[tuple[str, str]] = set()

    def _begin(self) -> None:
        self._checked.clear()
        self._diffed.clear()
        self._replaced.clear()
        self._plans.begin()

    # Loaded late: the engine waits for the plugin's port, not for these.
    @property
    def _lifecycle(self) -> Lifecycle:
        if self._given_lifecycle is None:
            self._given_lifecycle = import_module("pulumi_tfjobs.lifecycle")
        return self._given_lifecycle

    @property
    def _differ(self) -> Differ:
        if self._given_differ is None:
            differ: Differ = import_module("pulumi_tfjobs.plan").diff
            self._given_differ = differ
        return self._given_differ

    def warm_up(self) -> None:
        """Load what the first Check and the first Create need. For a thread."""
        _ = self._lifecycle, self._differ
        import_module("pulumi_tfjobs.environments")  # a launch would load it while the user waits

    async def check(self, request: provider_pb2.CheckRequest) -> provider_pb2.CheckResponse:
        """Every problem at once, or the inputs with the computed ``source``: file → short digest."""
        given = wire.decode(request.news)
        if isinstance(given.get(SOURCE), Mapping):
            del given[SOURCE]  # computed before, and put back by `ignoreChanges`
        try:
            spec = await self._specify(request.urn, given)
        except InvalidInputs as error:
            response = provider_pb2.CheckResponse(inputs=request.news)
            for problem in error.problems:
                response.failures.add(property=problem.path, reason=problem.reason)
            return response
        properties = {**_guarded(given, spec), SOURCE: self._lifecycle.source_property(spec)}
        self._checked[request.urn] = _Checked(properties, spec)
        return provider_pb2.CheckResponse(inputs=wire.encode(properties))

    async def _specify(self, urn: str, properties: Mapping[str, Any]) -> JobSpec:
        inputs = wire.split(properties)
        # In a thread: it reads the source folder, and the engine's other questions should not wait for that.
        return await asyncio.to_thread(
            lambda: self._lifecycle.check(
                inputs.plain,
                name=resource_name(urn),
                directory=self._directory,
                unknown=inputs.unknown,
                secret=inputs.secret,
            )
        )

    def _known(self, urn: str, properties: Mapping[str, Any]) -> JobSpec | None:
        """What these inputs mean, where Check was just asked about the very same."""
        checked = self._checked.get(urn)
        return checked.spec if checked is not None and checked.properties == properties else None

    async def _spec(self, urn: str, properties: Mapping[str, Any]) -> JobSpec:
        return self._known(urn, properties) or await self._specify(urn, properties)

    async def diff(self, request: provider_pb2.DiffRequest) -> provider_pb2.DiffResponse:
        """What changed, property by property, and whether it trains again (replace) or not (update)."""
        old_outputs = wire.split(wire.decode(request.olds)).plain
        old = wire.split(wire.decode(request.old_inputs if request.HasField("old_inputs") else request.olds))
        properties = wire.decode(request.news)
        new = wire.split(properties)
        current = current_of(request.id, old_outputs)
        spec = self._known(request.urn, properties)
        checked = spec is not None
        # No Check came before: a refresh shows how the state differs from itself, whatever the files are now.
        itself = spec is None and new == old and bool(current.digest)
        if spec is None and not itself:
            with contextlib.suppress(InvalidInputs):
                spec = await self._specify(request.urn, properties)
        if spec is not None:
            spec = await self._lifecycle.own(spec, request.urn, current)
        digest = None if spec is None or spec.unknown else spec.digest
        changes = self._differ(
            old.plain,
            new.plain,
            old_digest=current.digest,
            new_digest=current.digest if itself else digest,
            unknown=new.unknown,
            secret=old.secret | new.secret,
        )
        paths = list(request.ignoreChanges)
        if any(top(path) == SOURCE for path in paths):
            # Inputs hold the files as they are now, ignored or not: after an update the digest alone differs.
            paths.append("digest")
        ignored = wire.matcher(paths)
        changes = [change for change in changes if change.klass != "nothing" and not ignored(change.path)]
        if spec is None:
            wait_for = str(new.plain.get("waitFor") or "succeeded")
            settled = import_module("pulumi_tfjobs.plan").settled
            decision = settled(changes, run_id=current.run_id, status=current.status, wait_for=wait_for)
        else:
            planned = await self._lifecycle.settle(spec, changes=changes, current=current)
            decision = planned.decision
            if checked:
                self._diffed[request.urn] = _Diffed(properties, planned)
                if decision.klass == "nothing":
                    self._plans.keep(
                        self._lifecycle.unchanged(planned, urn=request.urn, name=resource_name(request.urn))
                    )
        response = answer(decision, outputs=OUTPUTS)
        if response.replaces:
            self._replaced.add((request.urn, request.id))
        return response

    async def _to_create(self, spec: JobSpec, urn: str, properties: Mapping[str, Any]) -> Planned:
        """What a Create of these inputs does: of a new resource, or in the place of one that was compared before."""
        diffed = self._diffed.get(urn)
        if diffed is None:
            own = await self._lifecycle.own(spec, urn, None)
            return await self._lifecycle.settle(own, changes=(), current=None)
        decision, same = diffed.planned.decision, diffed.properties == properties
        if same and decision.replaces:
            return diffed.planned
        # Nothing that we know of asks for it: the user does (`--replace`, `replaceOnChanges`). With `reuse` off that is
        # a run of its own as for a new resource.
        own = await self._lifecycle.own(spec, urn, None)
        changes = decision.changes if same else ()
        return await self._lifecycle.settle(own, changes=changes, current=diffed.planned.current, forced=True)

    async def _to_update(self, spec: JobSpec, urn: str, properties: Mapping[str, Any], current: Current) -> Planned:
        """What an Update to these inputs does."""
        diffed = self._diffed.get(urn)
        if diffed is not None and diffed.properties == properties:
            return diffed.planned
        return await self._lifecycle.settle(spec, changes=(), current=current)


def _guarded(properties: dict[str, Any], spec: JobSpec) -> dict[str, Any]:
    """The properties with the compute target's credentials as secrets, however the program has given them."""
    target = properties.get("computeTarget")
    if not spec.target.credentials or not isinstance(target, Mapping):
        return properties
    found = dict(target)
    for name in spec.target.credentials:
        if name in found and not isinstance(found[name], wire.Secret | wire.OutputValue):
            found[name] = wire.Secret(found[name])
    return {**properties, "computeTarget": found}
