"""``KubernetesTarget``: replicas as the pods of a JobSet at any cluster."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

from pulumi_tfjobs.errors import InputProblem, TargetUnavailable
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import EnvironmentSpec, JobSpec
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.base import Capabilities, EnvironmentState, Headroom, Progress, Recalled, Target
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS, PODS
from pulumi_tfjobs.targets.kubernetes.handle import (
    Handle,
    read_end,
    read_handle,
    read_plan,
    write_end,
)
from pulumi_tfjobs.targets.kubernetes.options import Options, check_options
from pulumi_tfjobs.targets.local.statefile import write_file

_STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_STOPPED = "stopped on request"


class KubernetesTarget(Target):
    """A Kubernetes cluster. Options: see the SDK's class of this name."""

    kind: ClassVar[str] = "kubernetes"
    paths: ClassVar[tuple[str, ...]] = ("kubeconfig",)

    def __init__(self, options: Options) -> None:
        self.settings = options
        self._requirements: tuple[str, ...] = ()

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
        options = self.settings
        where = options.kubeconfig or ("its own" if options.in_cluster else "default")
        return f"kubernetes {where} {options.context} {options.namespace}"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            slots=self.settings.slots,
            gpus=None,
            controllers=frozenset({"gloo"}),
            elastic=False,
            hourly_price=self.settings.hourly_price,
            currency=self.settings.currency,
        )

    def check(self, spec: JobSpec) -> Sequence[InputProblem]:
        found = []
        if self.settings.engine != "jobset":
            found.append(
                InputProblem(
                    "computeTarget.engine",
                    f"it is {self.settings.engine}, which this version does not run yet",
                    "jobset",
                    "leave it out: JobSet runs the same jobs, without an operator of a framework",
                )
            )
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
        del plan, store
        return Headroom(slots=self.settings.slots, unit="GPU")

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
            await launching.launch(
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

    async def _connect(self) -> Any:
        from pulumi_tfjobs.targets.kubernetes.client import Connection

        return await Connection.open(self.settings)

    async def state(self, folder: RunFolder, attempt: int) -> RunState | None:
        return await self._now(folder, attempt, record=True)

    async def look(self, folder: RunFolder, attempt: int) -> RunState | None:
        return await self._now(folder, attempt, record=False)

    async def _now(self, folder: RunFolder, attempt: int, *, record: bool) -> RunState | None:
        from pulumi_tfjobs.targets.kubernetes import watching

        at = folder.attempt(attempt)
        recorded = await asyncio.to_thread(read_end, at)
        if recorded is not None:
            return recorded
        async with await self._connect() as connection:
            handle = await self._handle(connection, folder, attempt)
            plan = await self._plan(connection, handle, folder, attempt)
            if plan is None:
                return None
            found: RunState | None = await watching.look(connection, handle, folder, attempt, plan)
            if found is None:
                if not handle.uid:
                    return None
                found = watching.gone(folder, attempt, handle, plan, stopped=_stopped(folder, attempt))
                if record:
                    await asyncio.to_thread(write_end, at, found)
            return found

    async def _handle(self, connection: Any, folder: RunFolder, attempt: int) -> Handle:
        """Where the attempt is: as recorded, else where it would be."""
        found = await asyncio.to_thread(read_handle, folder.attempt(attempt))
        if found is None:
            name = naming.object_name(folder.run_id, attempt)
            return Handle("jobset", connection.server, connection.namespace, name)
        if found.server != connection.server:
            raise TargetUnavailable(
                f"{folder.run_id} runs at {found.server}, and the kubeconfig leads to {connection.server}. To fix: "
                "name that cluster's kubeconfig or context"
            )
        return found

    async def _plan(self, connection: Any, handle: Handle, folder: RunFolder, attempt: int) -> LaunchPlan | None:
        """What was launched, from here or from the workload's own configuration; None where nothing was."""
        plan = await asyncio.to_thread(read_plan, folder.attempt(attempt))
        if plan is not None:
            return plan
        import json

        from pulumi_tfjobs.spec.launch import launch_plan_from_json
        from pulumi_tfjobs.targets.kubernetes.api import CONFIG_MAPS

        config = await connection.get(CONFIG_MAPS, handle.namespace, handle.name)
        if config is None:
            return None
        return launch_plan_from_json(json.loads(config["data"]["run.json"])["plan"])

    async def watch(self, folder: RunFolder, attempt: int) -> AsyncGenerator[RunState, None]:
        from pulumi_tfjobs.targets.kubernetes.watching import Watch

        recorded = await asyncio.to_thread(read_end, folder.attempt(attempt))
        if recorded is not None:
            yield recorded
            return
        async with await self._connect() as connection:
            handle = await self._handle(connection, folder, attempt)
            plan = await self._plan(connection, handle, folder, attempt)
            if plan is None or (
                not handle.uid and await connection.get(JOB_SETS, handle.namespace, handle.name) is None
            ):
                return
            watch = Watch(connection, handle, folder, attempt, plan)
            async with contextlib.aclosing(watch.states(lambda: _stopped(folder, attempt))) as states:
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
        found = await self.state(folder, attempt)
        if found is None or found.finished:
            return found
        at = folder.attempt(attempt)
        write_file(at.stop, f"{_STOPPED}\n".encode(), sync=True)
        async with await self._connect() as connection:
            handle = await self._handle(connection, folder, attempt)
            watching = asyncio.create_task(self._last(folder, attempt))
            await connection.delete(JOB_SETS, handle.namespace, handle.name, propagation="Foreground")
            if grace_seconds is not None:
                selector = naming.selector(folder.run_id, attempt)
                for pod in await connection.list(PODS, handle.namespace, selector):
                    grace = max(1, round(grace_seconds))
                    await connection.delete(PODS, handle.namespace, pod["metadata"]["name"], grace=grace)
            ended = await watching
        return ended or await self.state(folder, attempt)

    async def _last(self, folder: RunFolder, attempt: int) -> RunState | None:
        last = None
        async with contextlib.aclosing(self.watch(folder, attempt)) as states:
            async for state in states:
                last = state
        return last

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

    async def take_checkpoints(self, folder: RunFolder, origin: RunFolder) -> None:
        """Nothing here: the pod of rank 0 does it, at the storage."""
        del folder, origin

    async def remove(self, folder: RunFolder) -> None:
        async with await self._connect() as connection:
            selector = naming.selector(folder.run_id)
            for item in await connection.list(JOB_SETS, connection.namespace, selector):
                await connection.delete(JOB_SETS, connection.namespace, item["metadata"]["name"])
            if self.settings.storage is not None:
                from pulumi_tfjobs.targets.kubernetes.storage import open_storage, remove_run

                storage = open_storage(self.settings, connection)
                assert storage is not None
                async with storage:
                    await remove_run(storage, folder.run_id)

    async def recall(self, run_id: str) -> Recalled | None:
        from pulumi_tfjobs.targets.kubernetes.launching import record_of

        async with await self._connect() as connection:
            found = await connection.list(JOB_SETS, connection.namespace, naming.selector(run_id))
        known = {int(item["metadata"]["labels"].get(naming.ATTEMPT) or 0): item for item in found}
        if not known:
            return None
        last = max(known)
        return Recalled(record_of(known[last]), last)


@contextlib.asynccontextmanager
async def _alone(folder: str) -> AsyncGenerator[None, None]:
    """While held, nobody else on this machine launches this attempt."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await asyncio.to_thread(fcntl.flock, handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _stopped(folder: RunFolder, attempt: int) -> str:
    """Why the attempt was to end; empty where nobody has asked for that here."""
    try:
        with open(folder.attempt(attempt).stop, encoding="utf-8") as stream:
            return stream.readline().strip() or _STOPPED
    except OSError:
        return ""
