"""When an attempt is decided, and by what: its replicas, a wish to stop, its time limit. Standard library only."""

from __future__ import annotations

import copy
import time
from typing import Any

from pulumi_tfjobs.spec import policy
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets.local.blame import culprit
from pulumi_tfjobs.targets.local.launching import Launch
from pulumi_tfjobs.targets.local.members import Member
from pulumi_tfjobs.targets.local.record import Record

# How long survivors get to end by themselves once the run has been decided: their work is of no more use.
SHORT_GRACE_SECONDS = 3.0
# How long the others may take to fail by themselves once one has: a member often ends sooner than the one that it
# misses, and what they print then is worth having.
SETTLE_SECONDS = 1.0


class Decision:
    """The verdict on one start of the group. The first one stands; whose fault it was may become clearer."""

    def __init__(self, plan: dict[str, Any], launch: Launch, record: Record) -> None:
        self.plan = plan
        self.launch = launch
        self.record = record
        self.verdict: tuple[str, str] | None = None
        self.grace = 0.0
        self.stop_wanted = False
        self.deadline: float | None = None
        self.settle_at: float | None = None
        """Survivors are left alone until then."""
        self.lost: Member | None = None
        """The worker that an elastic run has lost last, as it was then."""
        self.added = ""
        """What Horovod's elastic driver adds to how the first to fail ended."""

    def again(self) -> None:
        """Another start of the group: nothing is decided."""
        self.verdict, self.settle_at, self.added = None, None, ""
        self.lost = None
        self.record.failures.clear()

    @property
    def failed(self) -> bool:
        """Whether replicas have failed, and nothing else keeps the run from going on."""
        failed = self.verdict is not None and self.verdict[0] == phases.FAILED
        return failed and bool(self.record.failures) and not (self.record.trouble or self.stop_wanted)

    def note_failure(self, member: Member | None) -> None:
        if member is None or member.phase != phases.FAILED:
            return
        self.record.failures.append(member)
        if self.settle_at is not None:
            self._conclude_failure(0.0)

    def consider(self) -> None:
        """Decide, if it can be decided."""
        if self.verdict is not None:
            return
        full = float(self.plan["stop_grace_seconds"])
        short = min(full, SHORT_GRACE_SECONDS)
        helper = self.launch.helper
        if self.stop_wanted:
            reason, grace = read_stop(self.record.folder.stop)
            self.conclude(phases.CANCELLED, reason, full if grace is None else grace)
        elif self.record.trouble:
            self.conclude(phases.FAILED, self.record.trouble, short)
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            limit = self.plan["max_run_duration_seconds"]
            self.conclude(phases.TIMED_OUT, f"still running after {limit:g} s (maxRunDurationSeconds)", full)
        elif helper is not None and helper.phase not in {phases.PENDING, phases.RUNNING}:
            name = "Horovod's elastic driver" if self.launch.elastic else "Horovod's rendezvous server"
            self.conclude(phases.FAILED, f"{name} {helper.how()}: {helper.log.last_line()} ({helper.log.path})", short)
        elif not self.launch.elastic:
            self._consider_replicas(short)

    def _consider_replicas(self, grace: float) -> None:
        phase, reason = policy.decide(self.launch.phases(), success_policy=self.plan["success_policy"])
        if phase == policy.FAILED:
            self._conclude_failure(grace, reason)
            self.settle_at = time.monotonic() + SETTLE_SECONDS
        elif phase == policy.SUCCEEDED:
            self.conclude(phases.SUCCEEDED, "", grace)
        elif self.launch.all_ended():
            self.conclude(phases.FAILED, f"no replica is left, and none decided the run ({reason})", grace)

    def note_loss(self, member: Member) -> None:
        """An elastic run has lost a worker, which alone is no failure of the run."""
        if member.phase == phases.FAILED:
            self.lost = copy.copy(member)

    def judged(self, phase: str, added: str) -> None:
        """What Horovod's elastic driver says of the run, and what there is to add to how its workers ended."""
        grace = min(float(self.plan["stop_grace_seconds"]), SHORT_GRACE_SECONDS)
        if self.verdict is not None:
            return
        if phase == phases.SUCCEEDED:
            self.conclude(phases.SUCCEEDED, "", grace)
            return
        failed = [member for member in self.launch.replicas if member.phase == phases.FAILED]
        if not failed and self.lost is not None:
            failed = [self.lost]  # another one is already being started in its place
        self.record.failures = sorted(failed, key=lambda member: member.finished_at or 0.0)
        self.added = added
        self._conclude_failure(grace, added)
        self.settle_at = time.monotonic() + SETTLE_SECONDS

    def _conclude_failure(self, grace: float, reason: str = "") -> None:
        """Failed because of the replica whose fault it most likely was."""
        failures = self.record.failures
        for member in failures:
            member.log.drain()
        first = culprit(failures)
        if first is not None:
            self.record.failures = [first, *(member for member in failures if member is not first)]
            reason = f"{first.name} {first.how()}" + (f"; {self.added}" if self.added else "")
        if self.verdict is None:
            self.conclude(phases.FAILED, reason, grace)
        elif reason:
            self.verdict = (phases.FAILED, reason)
            self.record.set(reason=reason)

    def conclude(self, phase: str, reason: str, grace: float) -> None:
        """Decide it, unless it has been decided. Survivors get ``grace`` seconds."""
        if self.verdict is None:
            self.verdict, self.grace = (phase, reason), grace
            self.record.set(phase=phases.STOPPING, reason=reason)

    def settled(self) -> bool:
        """Whether it is time to end the survivors."""
        if self.settle_at is not None and (self.launch.all_ended() or time.monotonic() >= self.settle_at):
            self.settle_at = None
        return self.settle_at is None or self.stop_wanted

    def exit_code(self) -> int | None:
        """The attempt's exit code as a shell would give it."""
        if self.verdict is not None and self.verdict[0] == phases.SUCCEEDED:
            return 0
        if not self.record.failures:
            return None
        first = self.record.failures[0]
        return first.exit_code if first.signal is None else 128 + first.signal


def read_stop(path: str) -> tuple[str, float | None]:
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
