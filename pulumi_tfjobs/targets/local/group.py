"""The supervisor's work: start a group of replicas, watch it, decide, leave nothing behind. Standard library only.

One thread, one epoll: pipes of the replicas, signals (SIGCHLD for exits, SIGTERM for a wish to stop) and timers.
Nothing is polled but the processes that are slow to die.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from pulumi_tfjobs.spec import policy
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.local import statefile, temporary
from pulumi_tfjobs.targets.local.blame import culprit
from pulumi_tfjobs.targets.local.detach import say, say_traceback
from pulumi_tfjobs.targets.local.ending import Ending, end_all
from pulumi_tfjobs.targets.local.launching import Launch
from pulumi_tfjobs.targets.local.logs import Log, rest_after
from pulumi_tfjobs.targets.local.members import Member, split_status
from pulumi_tfjobs.targets.local.processes import Ties, start_ticks

HEARTBEAT_SECONDS = 5.0
# How long survivors get to end by themselves once the run has been decided: their work is of no more use.
SHORT_GRACE_SECONDS = 3.0
# How long the others may take to fail by themselves once one has: a member often ends sooner than the one that it
# misses, and what they print then is worth having.
SETTLE_SECONDS = 1.0
MOST_LAUNCHES = 3
LAST_WRITE_TRIES = 25
LAST_WRITE_PAUSE = 0.2


class Supervisor:
    """One attempt of a run, from its first state to its last."""

    def __init__(
        self, folder: AttemptFolder, message: dict[str, Any], umask: int, *, confirm: Callable[[], None]
    ) -> None:
        with open(folder.plan, encoding="utf-8") as stream:
            self.plan: dict[str, Any] = json.load(stream)
        self.folder = folder
        self.confirm = confirm
        self.reserve = statefile.Reserve(folder.root)
        self.epoll = select.epoll()
        self.launch = Launch(
            folder, RunFolder(os.path.dirname(os.path.dirname(folder.root))), self.plan, message, umask, Ties()
        )
        self.state = RunState(
            run_id=self.plan["run_id"],
            attempt=folder.number,
            phase=phases.STARTING,
            created_at=time.time(),
            hostfile=self.plan["hostfile"],
            supervisor_pid=os.getpid(),
            supervisor_start_ticks=start_ticks(os.getpid()),
        )
        self.verdict: tuple[str, str] | None = None
        self.grace = 0.0
        self.failures: list[Member] = []  # in the order of their ends
        self.trouble = ""  # why the run cannot go on whatever its replicas do
        self.stop_wanted = False
        self.childless = True
        self.changed = False
        self.logs: dict[int, Log] = {}
        self.resting: dict[int, float] = {}  # pipes that are left alone, and until when
        self.heartbeat_at = 0.0
        self.deadline: float | None = None
        self.settle_at: float | None = None  # survivors are left alone until then
        self.ending = Ending()

    # The attempt

    def run(self) -> None:
        self._catch_signals()
        self.reserve.create()
        statefile.write_state(self.folder.state, self._next_state())
        self.confirm()
        try:
            if not self.launch.ties.adopt_orphans():
                self._warn("this system cannot tell orphaned processes: some may outlive the run")
            while True:
                self._start()
                self._watch()
                if not self._again():
                    break
        except Exception as error:  # noqa: BLE001 (the run must end with a state, and with no process left)
            say_traceback()
            self._conclude(phases.FAILED, f"the supervisor failed: {error!r} (see {self.folder.supervisor_log})", 0.0)
            end_all()
        self._finish()

    def _catch_signals(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self.wakeup = reader
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.epoll.register(reader, select.EPOLLIN)

    def _start(self) -> None:
        self.state = self.state._replace(launches=self.state.launches + 1, phase=phases.STARTING)
        if os.path.exists(self.folder.stop):
            self.stop_wanted = True
            self._consider()
            return
        try:
            self.launch.start()
        except OSError as error:
            self.trouble = self._disk_trouble(error) or f"the replicas could not be started: {error}"
        now = time.monotonic()
        self.childless = False
        for log in self.launch.logs():
            if log.reader is not None:
                self.logs[log.reader] = log
                self.epoll.register(log.reader, select.EPOLLIN)
        if self.launch.reports is not None:
            self.epoll.register(self.launch.reports.reader, select.EPOLLIN)
        if self.deadline is None and self.plan["max_run_duration_seconds"] is not None:
            self.deadline = now + self.plan["max_run_duration_seconds"]
        self.heartbeat_at = now + HEARTBEAT_SECONDS
        if self.state.started_at is None:
            self.state = self.state._replace(started_at=time.time())
        self.state = self.state._replace(phase=phases.RUNNING)
        self._save(sync=True)

    def _watch(self) -> None:
        """Until the run has been decided and no process of it lives."""
        while True:
            self._reap()
            self._consider()
            if self.verdict is not None and not (self.ending.begun or self.childless) and self._settled():
                self.ending.begin(self.grace, self.launch.by_pid)
            if self.changed:
                self._save()
            if self.verdict is not None and self.childless:
                return
            for handle, _ in self.epoll.poll(self._timeout()):
                self._handle(handle)
            self._tick()

    def _timeout(self) -> float:
        times = [self.heartbeat_at, *self.resting.values()]
        if self.ending.kill_at is not None:
            times.append(self.ending.kill_at)
        elif self.settle_at is not None:
            times.append(self.settle_at)
        elif self.deadline is not None:
            times.append(self.deadline)
        return max(0.0, min(times) - time.monotonic())

    def _handle(self, handle: int) -> None:
        if handle == self.wakeup:
            self.stop_wanted = self.stop_wanted or signal.SIGTERM in os.read(handle, 4096)
        elif handle in self.logs:
            self._copy(handle)
        elif self.launch.reports is not None:
            self._take_reports()

    def _take_reports(self) -> None:
        """What the ranks of an MPI run tell of themselves."""
        if self.launch.reports is None:
            return
        for report in self.launch.reports.read():
            self.changed = True
            self._note_failure(self.launch.note(report, by_us=self.ending.begun))

    def _copy(self, handle: int) -> None:
        log = self.logs[handle]
        count = log.pump()
        if log.error is not None and not self.trouble:
            self.trouble = self._disk_trouble(log.error) or f"{log.path} could not be written: {log.error}"
        if count == 0:
            self.epoll.unregister(handle)
            self.resting.pop(handle, None)
            del self.logs[handle]
            log.disconnect()
        elif count is not None:
            self.epoll.modify(handle, 0)
            self.resting[handle] = time.monotonic() + rest_after(count)

    def _tick(self) -> None:
        now = time.monotonic()
        for handle in [handle for handle, until in self.resting.items() if until <= now]:
            del self.resting[handle]
            self.epoll.modify(handle, select.EPOLLIN)
        if unending := self.ending.tick(self.launch.by_pid):
            self._warn(f"processes {unending} could not be ended")
            self.childless = True
        if self.heartbeat_at <= now:
            self._save()

    # Exits and the verdict

    def _reap(self) -> None:
        while not self.childless:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                return
            member = self.launch.by_pid.pop(pid, None)
            if self.ending.begun:
                self.ending.tell()  # its orphans may be ones that were not there before
            if member is None:
                continue  # an orphan of a replica
            if member is self.launch.launcher:
                self._take_reports()  # they say which rank it was
            code, number = split_status(status)
            member.ended(exit_code=code, signal_number=number, by_us=self.ending.begun)
            self.changed = True
            self._note_failure(member)
            if not self.ending.begun:
                self._consider()

    def _note_failure(self, member: Member | None) -> None:
        if member is None or member.phase != phases.FAILED:
            return
        self.failures.append(member)
        if self.settle_at is not None:  # the verdict stands; whose fault it was may become clearer
            self._conclude_failure(0.0)

    def _consider(self) -> None:
        """Decide, if it can be decided. The first verdict stands."""
        if self.verdict is not None:
            return
        full = float(self.plan["stop_grace_seconds"])
        short = min(full, SHORT_GRACE_SECONDS)
        helper = self.launch.helper
        if self.stop_wanted:
            reason, grace = _read_stop(self.folder.stop)
            self._conclude(phases.CANCELLED, reason, full if grace is None else grace)
        elif self.trouble:
            self._conclude(phases.FAILED, self.trouble, short)
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            limit = self.plan["max_run_duration_seconds"]
            self._conclude(phases.TIMED_OUT, f"still running after {limit:g} s (maxRunDurationSeconds)", full)
        elif helper is not None and helper.phase not in {phases.PENDING, phases.RUNNING}:
            self._conclude(
                phases.FAILED,
                f"Horovod's rendezvous server {helper.how()}: {helper.log.last_line()} ({helper.log.path})",
                short,
            )
        else:
            self._consider_replicas(short)

    def _consider_replicas(self, grace: float) -> None:
        grouped = self.launch.phases()
        phase, reason = policy.decide(grouped, success_policy=self.plan["success_policy"])
        if phase == policy.FAILED:
            self._conclude_failure(grace, reason)
            self.settle_at = time.monotonic() + SETTLE_SECONDS
        elif phase == policy.SUCCEEDED:
            self._conclude(phases.SUCCEEDED, "", grace)
        elif self.launch.all_ended():
            self._conclude(phases.FAILED, f"no replica is left, and none decided the run ({reason})", grace)

    def _conclude_failure(self, grace: float, reason: str = "") -> None:
        """Failed because of the replica whose fault it most likely was."""
        for member in self.failures:
            member.log.drain()
        first = culprit(self.failures)
        if first is not None:
            self.failures = [first, *(member for member in self.failures if member is not first)]
            reason = f"{first.name} {first.how()}"
        if self.verdict is None:
            self._conclude(phases.FAILED, reason, grace)
        elif reason:
            self.verdict = (phases.FAILED, reason)
            self.state = self.state._replace(reason=reason)

    def _settled(self) -> bool:
        """Whether it is time to end the survivors."""
        if self.settle_at is not None and (self.launch.all_ended() or time.monotonic() >= self.settle_at):
            self.settle_at = None
        return self.settle_at is None or self.stop_wanted

    def _conclude(self, phase: str, reason: str, grace: float) -> None:
        if self.verdict is None:
            self.verdict, self.grace, self.changed = (phase, reason), grace, True
            self.state = self.state._replace(phase=phases.STOPPING, reason=reason)

    # Afterwards

    def _again(self) -> bool:
        """Whether the group is to be started once more: it failed, and somebody else sits on one of its ports."""
        failed = self.verdict is not None and self.verdict[0] == phases.FAILED and not self.trouble
        if not failed or not self.failures or self.state.launches >= MOST_LAUNCHES or self.stop_wanted:
            return False
        lost = self.launch.ports.lost()
        if not lost:
            return False
        taken = ", ".join(map(str, lost))
        self._warn(f"another program took port {taken}: the replicas were started again with other ports")
        self._close_pipes()
        self.launch.reset(f"[launch {self.state.launches + 1}: another program had taken port {taken}; what is above "
                          "is from the launch before]\n")  # fmt: skip
        self.verdict, self.ending = None, Ending()
        self.failures.clear()
        self.state = self.state._replace(reason="")
        return True

    def _close_pipes(self) -> None:
        """Copy what is left in the pipes and let go of them."""
        for handle, log in list(self.logs.items()):
            self.epoll.unregister(handle)
            log.drain()
            log.disconnect()
        self.logs.clear()
        self.resting.clear()
        self._take_reports()
        if self.launch.reports is not None:
            self.epoll.unregister(self.launch.reports.reader)

    # The state

    def _next_state(self) -> RunState:
        self.state = self.state._replace(
            replicas=tuple(member.state() for member in self.launch.members),
            first_failure=self.failures[0].name if self.failures else "",
            heartbeat_at=time.time(),
            updated=self.state.updated + 1,
        )
        return self.state

    def _save(self, *, sync: bool = False) -> None:
        self.changed = False
        self.heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
        try:
            statefile.write_state(self.folder.state, self._next_state(), sync=sync)
        except OSError as error:
            trouble = self._disk_trouble(error) or f"{self.folder.state} could not be written: {error}"
            self.trouble = self.trouble or trouble

    def _warn(self, text: str) -> None:
        say(text)
        self.state = self.state._replace(warnings=(*self.state.warnings, text))
        self.changed = True

    def _disk_trouble(self, error: OSError) -> str:
        """What to tell of a full disk; empty where the error is another one."""
        if error.errno not in statefile.DISK_FULL:
            return ""
        say(f"disk full: {error}")
        return (
            f"the disk is full: {error.strerror} under {self.folder.root}. "
            "Free some space on that file system (or on your quota there), then run `pulumi up` again"
        )

    def _finish(self) -> None:
        self._close_pipes()
        self.launch.settle()
        temporary.remove(self.folder)
        phase, reason = self.verdict or (phases.FAILED, "the run ended without a verdict")
        first = self.failures[0] if self.failures else None
        code = None
        if phase == phases.SUCCEEDED:
            code = 0
        elif first is not None:
            code = first.exit_code if first.signal is None else 128 + first.signal
        self.state = self.state._replace(phase=phase, reason=reason, finished_at=time.time(), exit_code=code)
        if not self.trouble:
            self.launch.close()
        final = self._next_state()
        for _ in range(LAST_WRITE_TRIES):
            try:
                statefile.write_state(self.folder.state, final, sync=True)
                break
            except OSError as error:
                say(f"the last state could not be written: {error}")
                self.reserve.release()  # what it was put aside for
                time.sleep(LAST_WRITE_PAUSE)
        self.reserve.release()
        if self.trouble:
            self.launch.close()


def _read_stop(path: str) -> tuple[str, float | None]:
    """Why the run is stopped, and how long its replicas get: the first and second line of the file."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return "its supervisor was told to end (SIGTERM)", None
    reason = lines[0] if lines else "stopped"
    try:
        return reason, float(lines[1])
    except (IndexError, ValueError):
        return reason, None
