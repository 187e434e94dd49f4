"""``KubernetesTarget``: replicas as the pods of a JobSet at any cluster."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pulumi_tfjobs.errors import InputProblem, LaunchFailed, TargetUnavailable
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import EnvironmentSpec, JobSpec
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.base import Capabilities, EnvironmentState, Headroom, Progress, Recalled, Target
from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import PODS
from pulumi_tfjobs.targets.kubernetes.engines import ENGINES
from pulumi_tfjobs.targets.kubernetes.handle import STOPPED, Handle, read_end, read_plan
from pulumi_tfjobs.targets.kubernetes.options import Options, check_options
from pulumi_tfjobs.targets.kubernetes.states import end_of
from pulumi_tfjobs.targets.local.statefile import write_file

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.adopting import Found
    from pulumi_tfjobs.targets.kubernetes.watching import Watch

_LOCK_SECONDS = 0.05


class KubernetesTarget(Target):
    """A Kubernetes cluster. Options: see the SDK's class of this name."""

    kind: ClassVar[str] = "kubernetes"
    paths: ClassVar[tuple[str, ...]] = ("kubeconfig",)

    def __init__(self, options: Options) -> None:
        self.settings = options
        self._requirements: tuple[str, ...] = ()
        # Attempts' folders → what this object has launched, and nobody has watched yet: it needs not be looked for.
        self._launched: dict[str, tuple[Handle, LaunchPlan]] = {}

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[InputProblem]]:
        return check_options(options)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> KubernetesTarget:
        return cls(Options.from_json(options))

    @property
    def options(self) -> Mapping[str, Any]:
        return self.settings.to_json()

    @property
    def credentials(self) -> Mapping[str, Any]:
        return self.settings.credentials

    @property
    def namespace(self) -> str:
        return self.settings.store

    @property
    def image(self) -> str:
        return self.settings.image

    @property
    def place(self) -> str:
        from pulumi_tfjobs.targets.kubernetes.credentials import place_of, source_of

        return f"kubernetes {place_of(source_of(self.settings))} {self.settings.namespace}"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            slots=self.settings.slots,
            gpus=None,
            controllers=ENGINES[self.settings.engine].controllers,
            elastic=False,
            hourly_price=self.settings.hourly_price,
            currency=self.settings.currency,
        )

    def check(self, spec: JobSpec) -> Sequence[InputProblem]:
        found = ENGINES[self.settings.engine].check(spec)
        if spec.inputs:
            found.append(
                InputProblem(
                    "inputs",
                    "its files are on this machine, and pods do not see them",
                    "data that pods reach: a volume of the compute target, or an object store",
                    "mount the data with computeTarget.volumes, and give its path in scriptParams",
                )
            )
        if spec.resume_from and self.settings.storage is None:
            found.append(
                InputProblem(
                    "resumeFrom",
                    "the compute target has no storage, so that no run's checkpoints are kept",
                    "a storage that pods of both runs mount",
                    "give computeTarget.storage",
                )
            )
        return found

    def headroom(self, plan: LaunchPlan, store: str) -> Headroom:
        del store
        from pulumi_tfjobs.targets.kubernetes import prospects

        return prospects.headroom(self.settings, plan)

    def warnings(self, spec: JobSpec, plan: LaunchPlan | None = None) -> tuple[str, ...]:
        from pulumi_tfjobs.targets.kubernetes import prospects, vanishing

        found = vanishing.forgetful(self.settings, spec)
        found += vanishing.unattended(self.settings.queue, spec)
        if plan is None:
            return found
        return (*found, *prospects.warnings(self.settings, plan, secrets=bool(spec.secret_variables)))

    def environment_state(self, environment: EnvironmentSpec) -> EnvironmentState:
        del environment
        return "present"

    async def prepare(self, environment: EnvironmentSpec, progress: Progress) -> str:
        """Nothing is built: the image has it, which its pods look at when they start. The interpreter's path in it."""
        del progress
        self._requirements = environment.requirements if not environment.interpreter else ()
        if environment.horovod:
            self._requirements = (*self._requirements, f"horovod=={environment.horovod}")
        return environment.interpreter or self.settings.python

    async def launch(
        self, plan: LaunchPlan, folder: RunFolder, attempt: int, environment: str, secrets: Mapping[str, str]
    ) -> None:
        from pulumi_tfjobs.targets.kubernetes import launching

        at = folder.attempt(attempt)
        if await asyncio.to_thread(read_end, at) is not None:
            return
        for path in (at.root, folder.outputs, folder.checkpoints, folder.logs):
            os.makedirs(path, mode=0o700, exist_ok=True)
        if read_plan(at) is None:
            import json

            write_file(at.plan, json.dumps(plan.to_json(), indent=1, sort_keys=True).encode(), sync=False)
        async with await self._connect() as connection, _alone(at.root):
            if await asyncio.to_thread(read_end, at) is not None:
                return
            handle = await launching.launch(
                connection,
                self.settings,
                plan,
                at,
                environment,
                secrets,
                self.context,
                self._requirements,
                tell_metrics=not self._writes_here(folder),
            )
            self._launched[at.root] = handle, plan

    async def _connect(self) -> Any:
        from pulumi_tfjobs.targets.kubernetes.client import Connection

        return await Connection.open(self.settings)

    async def state(self, folder: RunFolder, attempt: int) -> RunState | None:
        return await self._now(folder, attempt, record=True)

    async def look(self, folder: RunFolder, attempt: int) -> RunState | None:
        return await self._now(folder, attempt, record=False)

    async def _now(self, folder: RunFolder, attempt: int, *, record: bool) -> RunState | None:
        from pulumi_tfjobs.targets.kubernetes import adopting, watching

        at = folder.attempt(attempt)
        known = await asyncio.to_thread(read_end, at) or watching.watched(folder, attempt)
        if known is not None:
            return known
        async with await self._connect() as connection:
            found = await adopting.find(connection, at, folder.run_id)
            if found is None:
                return None
            plan = await adopting.plan_of(connection, found, at)
            options = self.settings
            state = await watching.look(connection, found, folder, attempt, plan, options, only_look=not record)
            if not record:
                return state
            handle = await self._adopted(connection, found, at)
            if not state.finished:
                return state
            # It has ended while nobody watched: what it has printed is brought, as long as it is there.
            return await _last(watching.Watch(connection, handle, folder, attempt, plan, options).states())

    async def _adopted(self, connection: Any, found: Found, at: AttemptFolder) -> Handle:
        from pulumi_tfjobs.targets.kubernetes import adopting

        if found.workload is None or found.handle.uid == found.workload["metadata"]["uid"]:
            return found.handle
        with contextlib.suppress(LaunchFailed, OSError):  # it can be watched all the same
            return await adopting.adopt(connection, found.handle, found.workload, at)
        return found.handle

    async def watch(self, folder: RunFolder, attempt: int) -> AsyncGenerator[RunState, None]:
        from pulumi_tfjobs.targets.kubernetes import adopting
        from pulumi_tfjobs.targets.kubernetes.watching import Watch

        at = folder.attempt(attempt)
        recorded = await asyncio.to_thread(read_end, at)
        if recorded is not None:
            yield recorded
            return
        async with await self._connect() as connection:
            if at.root in self._launched:
                handle, plan = self._launched.pop(at.root)
            else:
                found = await adopting.find(connection, at, folder.run_id)
                if found is None:
                    return
                plan = await adopting.plan_of(connection, found, at)
                handle = await self._adopted(connection, found, at)
            watch = Watch(connection, handle, folder, attempt, plan, self.settings)
            async with contextlib.aclosing(watch.states()) as states:
                async for state in states:
                    yield state

    def _writes_here(self, folder: RunFolder) -> bool:
        """Whether pods write into the run's own folder."""
        storage = self.settings.storage
        if storage is None or not storage.url:
            return False
        from pulumi_tfjobs.targets.kubernetes.storage_url import folder_of, same_folder

        root = folder_of(storage.url)
        return bool(root) and same_folder(root, os.path.dirname(os.path.dirname(folder.root)))

    async def stop(self, folder: RunFolder, attempt: int, *, grace_seconds: float | None = None) -> RunState | None:
        from pulumi_tfjobs.targets.kubernetes import adopting
        from pulumi_tfjobs.targets.kubernetes.watching import Watch

        at = folder.attempt(attempt)
        recorded = await asyncio.to_thread(read_end, at)
        if recorded is not None:
            return recorded
        async with await self._connect() as connection:
            found = await adopting.find(connection, at, folder.run_id)
            if found is None and await asyncio.to_thread(os.path.isdir, at.root):
                async with _alone(at.root):  # whoever launches it just now has done so then
                    found = await adopting.find(connection, at, folder.run_id)
                    if found is None:
                        await adopting.clear(connection, folder.run_id, attempt)
            if found is None:
                return None
            plan = await adopting.plan_of(connection, found, at)
            handle = await self._adopted(connection, found, at)
            if found.workload is not None and not end_of(found.workload)[0]:
                # Before it is deleted, so that whoever sees that knows why.
                write_file(at.stop, f"{STOPPED}\n".encode(), sync=True)
            watch = Watch(connection, handle, folder, attempt, plan, self.settings)
            ended = asyncio.create_task(_last(watch.states()))
            try:
                # How its pods end is seen only by who has seen them.
                await _ready(watch, ended)
                if found.workload is not None and not end_of(found.workload)[0]:
                    await self._delete(connection, handle, folder, attempt, grace_seconds)
                return await ended
            finally:
                ended.cancel()

    async def _delete(
        self, connection: Any, handle: Handle, folder: RunFolder, attempt: int, grace_seconds: float | None
    ) -> None:
        await connection.delete(handle.api, handle.namespace, handle.name, uid=handle.uid or None)
        if grace_seconds is None:
            return
        selector = naming.selector(folder.run_id, attempt)
        for pod in await connection.list(PODS, handle.namespace, selector):
            # Without any, its end would not be waited for.
            grace = max(1, math.ceil(grace_seconds))
            await connection.delete(PODS, handle.namespace, pod["metadata"]["name"], grace=grace)

    async def collect(self, folder: RunFolder, attempt: int, state: RunState) -> Sequence[str]:
        if not state.finished or state.phase == phases.PENDING:
            return ()
        from pulumi_tfjobs.targets.kubernetes.collecting import collect

        try:
            async with await self._connect() as connection:
                return await collect(self.settings, connection, folder, attempt, state)
        except TargetUnavailable as error:
            return (f"outputs could not be brought here: {error}",)

    async def has_checkpoints(self, folder: RunFolder) -> bool:
        if self.settings.storage is None:
            return False
        from pulumi_tfjobs.targets.kubernetes.storage import has_checkpoints, open_storage

        async with await self._connect() as connection:
            storage = open_storage(self.settings, connection)
            assert storage is not None
            async with storage:
                return await has_checkpoints(storage, folder.run_id)

    async def look_for_checkpoints(self, folder: RunFolder) -> bool | None:
        """None where only a pod reaches the storage, and nothing was brought here (``collect="all"``)."""
        storage = self.settings.storage
        if storage is None or storage.url:
            return await self.has_checkpoints(folder)
        return True if await super().has_checkpoints(folder) else None

    async def take_checkpoints(self, folder: RunFolder, origin: RunFolder) -> None:
        """Nothing here: the pod of rank 0 does it, at the storage."""
        del folder, origin

    async def remove(self, folder: RunFolder) -> None:
        from pulumi_tfjobs.targets.kubernetes import adopting

        async with await self._connect() as connection:
            for api in await adopting.kinds(connection):
                for item in await connection.list(api, connection.namespace, naming.selector(folder.run_id)):
                    await connection.delete(api, connection.namespace, item["metadata"]["name"])
            await adopting.clear(connection, folder.run_id)
            if self.settings.storage is not None:
                from pulumi_tfjobs.targets.kubernetes.storage import open_storage, remove_run

                storage = open_storage(self.settings, connection)
                assert storage is not None
                async with storage:
                    await remove_run(storage, folder.run_id)

    async def recall(self, run_id: str) -> Recalled | None:
        from pulumi_tfjobs.targets.kubernetes import adopting

        async with await self._connect() as connection:
            return await adopting.recall(connection, run_id)


@contextlib.asynccontextmanager
async def _alone(folder: str) -> AsyncGenerator[None, None]:
    """While held, nobody else on this machine launches this attempt."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_SECONDS)
        yield
    finally:
        os.close(handle)


async def _last(states: AsyncGenerator[RunState, None]) -> RunState | None:
    last = None
    async with contextlib.aclosing(states):
        async for state in states:
            last = state
    return last


async def _ready(watch: Watch, ended: asyncio.Task[Any]) -> None:
    ready = asyncio.ensure_future(watch.ready.wait())
    try:
        await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ready.cancel()
