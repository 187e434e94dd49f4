"""The supervisor's work: wait for slots, start a group of replicas, watch it, decide, leave nothing behind.

One thread, one epoll: pipes of the replicas, signals (SIGCHLD for exits, SIGTERM for a wish to stop), the ends of runs
that hold slots, and timers. Nothing is polled but the processes that are slow to die. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from pulumi_tfjobs.faultpoints import reached
from pulumi_tfjobs.spec import retrying
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import Restart
from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.local import temporary
from pulumi_tfjobs.targets.local.deciding import Decision, read_stop
from pulumi_tfjobs.targets.local.ending import Ending, end_all
from pulumi_tfjobs.targets.local.launching import Launch
from pulumi_tfjobs.targets.local.logs import Log, rest_after
from pulumi_tfjobs.targets.local.members import Member, split_status
from pulumi_tfjobs.targets.local.processes import Ties
from pulumi_tfjobs.targets.local.record import Record
from pulumi_tfjobs.targets.local.saying import say_traceback
from pulumi_tfjobs.targets.local.turns import Turns

# How often a group is started anew because other programs sit on its ports.
MOST_PORT_TRIES = 3


class Supervisor:
    """One attempt of a run, from its first state to its last."""

    def __init__(
        self, folder: AttemptFolder, message: dict[str, Any], umask: int, *, confirm: Callable[[], None]
    ) -> None:
        with open(folder.plan, encoding="utf-8") as stream:
            self.plan: dict[str, Any] = json.load(stream)
        self.folder = folder
        self.confirm = confirm
        run = RunFolder(os.path.dirname(os.path.dirname(folder.root)))
        self.launch = Launch(folder, run, self.plan, message, umask, Ties())
        self.record = Record(folder, self.plan, self.launch.members)
        self.decision = Decision(self.plan, self.launch, self.record)
        self.turns = Turns(run, folder, self.plan, message.get("capacity"))
        self.epoll = select.epoll()
        self.childless = True
        self.logs: dict[int, Log] = {}
        self.resting: dict[int, float] = {}  # pipes that are left alone, and until when
        self.ending = Ending()
        self.port_tries = 1

    # The attempt

    def run(self) -> None:
        self._catch_signals()
        for warning in self.launch.warnings:
            self.record.warn(warning)
        self.record.begin()
        reached("confirm")
        self.confirm()
        try:
            if not self.launch.ties.adopt_orphans():
                self.record.warn("this system cannot tell orphaned processes: some may outlive the run")
            self._wait_for_slots()
            while True:
                self._start()
                self._watch()
                if not self._again():
                    break
        except Exception as error:  # noqa: BLE001 (the run must end with a state, and with no process left)
            say_traceback()
            log = self.folder.supervisor_log
            self.decision.conclude(phases.FAILED, f"the supervisor failed: {error!r} (see {log})", 0.0)
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

    def _wait_for_slots(self) -> None:
        """Until the run has its slots, or is stopped before."""
        reached("queue")
        self._look_for_stop()
        while not (self.decision.stop_wanted or self.record.trouble):
            try:
                turn = self.turns.look()
            except OSError as error:
                self.record.note_trouble(error, "the queue for slots cannot be used")
                return
            if turn.granted:
                self.record.set(reason="", queue_position=None)
                return
            self.record.set(phase=phases.QUEUED, reason=turn.reason, queue_position=turn.position)
            if self.record.changed:
                self.record.save()
            with self.turns.watched(turn) as handles:
                for handle in handles:
                    self.epoll.register(handle, select.EPOLLIN)
                self._idle(time.monotonic() + self.turns.patience(), [*handles, self.wakeup])
                for handle in handles:
                    self.epoll.unregister(handle)

    def _idle(self, until: float, handles: list[int]) -> None:
        """Nothing runs: wait until then, for one of the handles, a wish to stop or the time limit."""
        while not self.decision.stop_wanted and time.monotonic() < until:
            deadline = self.decision.deadline
            if deadline is not None and time.monotonic() >= deadline:
                return
            times = [until, self.record.heartbeat_at, *([] if deadline is None else [deadline])]
            ready = [handle for handle, _ in self.epoll.poll(max(0.0, min(times) - time.monotonic()))]
            for handle in ready:
                if handle == self.wakeup or handle not in handles:
                    self._handle(handle)
            if any(handle in handles for handle in ready):
                return
            if self.record.heartbeat_at <= time.monotonic():
                self.record.save()

    def _look_for_stop(self) -> None:
        self.decision.stop_wanted = self.decision.stop_wanted or os.path.exists(self.folder.stop)

    def _start(self) -> None:
        self._look_for_stop()
        self.decision.consider()
        if self.decision.verdict is not None:
            return
        reached("start")
        self.record.set(launches=self.record.state.launches + 1, phase=phases.STARTING)
        try:
            self.launch.start()
        except OSError as error:
            self.record.note_trouble(error, "the replicas could not be started")
        now = time.monotonic()
        self.childless = False
        for log in self.launch.logs():
            self._listen(log)
        if self.launch.reports is not None:
            self.epoll.register(self.launch.reports.reader, select.EPOLLIN)
        if self.decision.deadline is None and self.plan["max_run_duration_seconds"] is not None:
            self.decision.deadline = now + self.plan["max_run_duration_seconds"]
        if self.record.state.started_at is None:
            self.record.set(started_at=time.time())
        self.record.set(phase=phases.RUNNING, reason="")
        self.record.save(sync=True)
        reached("started")

    def _listen(self, log: Log) -> None:
        if log.reader is not None:
            self.logs[log.reader] = log
            self.epoll.register(log.reader, select.EPOLLIN)

    def _watch(self) -> None:
        """Until the run has been decided and no process of it lives."""
        decision = self.decision
        while True:
            self._reap()
            decision.consider()
            if decision.verdict is not None and not (self.ending.begun or self.childless) and decision.settled():
                reached("decided")
                self.ending.begin(decision.grace, self.launch.by_pid)
            if self.record.changed:
                self.record.save()
            if decision.verdict is not None and self.childless:
                return
            for handle, _ in self.epoll.poll(self._timeout()):
                self._handle(handle)
            self._tick()

    def _timeout(self) -> float:
        times = [self.record.heartbeat_at, *self.resting.values()]
        times += [log.due for log in self.logs.values() if log.due is not None]
        if self.ending.kill_at is not None:
            times.append(self.ending.kill_at)
        elif self.decision.settle_at is not None:
            times.append(self.decision.settle_at)
        elif self.decision.deadline is not None:
            times.append(self.decision.deadline)
        return max(0.0, min(times) - time.monotonic())

    def _handle(self, handle: int) -> None:
        if handle == self.wakeup:
            if signal.SIGTERM in os.read(handle, 4096):
                self._told_to_stop()
        elif handle in self.logs:
            self._copy(handle)
        elif self.launch.reports is not None:
            self._take_reports()

    def _told_to_stop(self) -> None:
        self.decision.stop_wanted = True
        if self.ending.begun:  # by somebody with more patience
            _, grace = read_stop(self.folder.stop)
            if grace is not None:
                self.ending.hurry(grace)

    def _take_reports(self) -> None:
        """What those tell that started replicas for us: the ranks of an MPI run, Horovod's elastic driver."""
        if self.launch.reports is None:
            return
        for report in self.launch.reports.read():
            self.record.changed = True
            if "world_size" in report:
                sizes = self.record.state.world_sizes
                self.record.set(world_sizes=(*sizes, (time.time(), report["world_size"])))
            elif "start" in report:
                self._start_worker(self.launch.replicas[report["start"]], report["env"])
            elif "end" in report:
                self.launch.send_away(self.launch.replicas[report["end"]])
            elif "verdict" in report:
                self.decision.judged(report["verdict"], report["reason"])
            else:
                self.decision.note_failure(self.launch.note(report, by_us=self.ending.begun))

    def _copy(self, handle: int) -> None:
        log = self.logs[handle]
        count = log.pump()
        if log.error is not None and not self.record.trouble:
            self.record.note_trouble(log.error, f"{log.path} could not be written")
        if count == 0:
            self._leave(handle)
        elif count is not None and (rest := rest_after(count)):
            self.epoll.modify(handle, 0)
            self.resting[handle] = time.monotonic() + rest

    def _leave(self, handle: int) -> None:
        """Copy what is left in the pipe and let go of it."""
        log = self.logs.pop(handle)
        self.epoll.unregister(handle)
        self.resting.pop(handle, None)
        log.drain()
        log.disconnect()

    def _tick(self) -> None:
        now = time.monotonic()
        for handle in [handle for handle, until in self.resting.items() if until <= now]:
            del self.resting[handle]
            self.epoll.modify(handle, select.EPOLLIN)
        for log in self.logs.values():
            if log.due is not None and log.due <= now:
                log.show_held()
        if unending := self.ending.tick(self.launch.by_pid):
            self.record.warn(f"processes {unending} could not be ended")
            self.childless = True
        if self.record.heartbeat_at <= now:
            self._look_for_stop()  # whoever asked may not have known whom to signal yet
            self.record.save()

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
            member.ended(exit_code=code, signal_number=number, by_us=self.ending.begun or member.unwanted)
            self.record.changed = True
            if self._replaced(member):
                continue
            self.decision.note_failure(member)
            if not self.ending.begun:
                self.decision.consider()

    # Once more

    def _replaced(self, member: Member) -> bool:
        """A parameter server that failed is started again by itself, as often as the plan allows. What becomes of an
        elastic run that has lost a worker, Horovod's driver says."""
        if self.decision.verdict is not None:
            return False
        if self.launch.driver is not None and member.type == "worker":
            self.launch.driver.tell(member)
            self.decision.note_loss(member)
            return True
        if member.type != "ps" or member.phase != phases.FAILED:
            return False
        if self._restarts(member.name) >= self.plan["ps_restarts"]:
            return False
        self._start_alone(member)
        return True

    def _start_worker(self, member: Member, env: dict[str, str]) -> None:
        """Horovod's elastic driver asks for a worker, or for one in the place of one that was lost."""
        if self.decision.verdict is None and not self.decision.stop_wanted:
            self._start_alone(member, env)

    def _start_alone(self, member: Member, env: dict[str, str] | None = None) -> None:
        if member.pid is not None:
            if member.log.reader in self.logs:
                self._leave(member.log.reader)
            how = "was told a rank that it could not have" if member.unwanted else member.how()
            self._note_restart(member, f"{member.name} {how}", replica=member.name)
        try:
            self.launch.start_alone(member, env)
        except OSError as error:
            self.record.note_trouble(error, f"{member.name} could not be started again")
        self._listen(member.log)

    def _restarts(self, replica: str = "") -> int:
        """How often this one was started again by itself; the whole group without a name."""
        return sum(1 for restart in self.record.state.restarts if restart.replica == replica)

    def _note_restart(self, member: Member, reason: str, *, replica: str = "") -> None:
        """Put the logs so far aside, and tell in the state why."""
        number = len(self.record.state.restarts) + 1
        folder = self.folder.restart(number)
        for log in [member.log] if replica else self.launch.logs():
            try:
                log.restart(folder)
            except OSError as error:
                self.record.note_trouble(error, f"the logs could not be moved to {folder}")
        code = member.exit_code if member.signal is None else 128 + member.signal
        restart = Restart(number, member.finished_at or time.time(), reason, code, replica, folder)
        self.record.set(restarts=(*self.record.state.restarts, restart))

    def _again(self) -> bool:
        """Whether the group is to be started once more. It is ready for that then."""
        if not self.decision.failed:
            return False
        return self._with_other_ports() or self._retry()

    def _with_other_ports(self) -> bool:
        """It failed, and somebody else sits on one of its ports: that was no failure of its own."""
        lost = self.launch.ports.lost() if self.port_tries < MOST_PORT_TRIES else []
        if not lost:
            return False
        taken = ", ".join(map(str, lost))
        self.port_tries += 1
        self.record.warn(f"another program took port {taken}: the replicas were started again with other ports")
        self._begin_anew()
        self.launch.separate(
            f"[launch {self.record.state.launches + 1}: another program had taken port {taken}; what is above is from "
            "the launch before]\n"
        )
        return True

    def _retry(self) -> bool:
        """It failed in a way that is worth another try, and there are tries left: after a pause."""
        first = self.record.failures[0]
        made, most = self._restarts(), self.plan["retries"]
        if made >= most:
            return False
        if not retrying.is_retried(self.plan["retry_on"], first.exit_code, first.signal):
            return False
        reason = f"{first.name} {first.how()}"
        seconds = retrying.pause(self.plan["retry_backoff_seconds"], made + 1)
        self._close_pipes()
        self._note_restart(first, reason)
        self._begin_anew()
        self.record.set(
            phase=phases.RESTARTING,
            reason=f"{reason}; retry {made + 1} of {most}" + (f" after {seconds:g} s" if seconds else ""),
        )
        self.record.save(sync=True)
        self._idle(time.monotonic() + seconds, [])
        return True

    def _begin_anew(self) -> None:
        self._close_pipes()
        self.launch.reset()
        self.decision.again()
        self.ending = Ending()

    def _close_pipes(self) -> None:
        for handle in list(self.logs):
            self._leave(handle)
        self._take_reports()
        if self.launch.reports is not None:
            self.epoll.unregister(self.launch.reports.reader)
            self.launch.let_go()

    # The end

    def _finish(self) -> None:
        self._close_pipes()
        self.launch.settle()
        temporary.remove(self.folder)
        reached("finish")
        phase, reason = self.decision.verdict or (phases.FAILED, "the run ended without a verdict")
        if not self.record.trouble:
            self.launch.close()
        self.turns.leave()
        self.record.end(phase, reason, self.decision.exit_code())
        if self.record.trouble:
            self.launch.close()
