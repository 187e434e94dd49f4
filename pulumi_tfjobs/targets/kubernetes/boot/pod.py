"""What a pod does: unpack the source, start its replicas, tell how they end, and end when that decides the run.

Who decides is said in ``spec/policy.py``; a replica whose end does not decide leaves its pod waiting, so that the
cluster's own controllers see only ends that count. Standard library only.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from typing import Any

from pulumi_tfjobs.spec import retrying
from pulumi_tfjobs.spec.launch import CLUSTER, LaunchPlan, launch_plan_from_json
from pulumi_tfjobs.targets.kubernetes.boot import meeting, rendezvous, software
from pulumi_tfjobs.targets.kubernetes.boot.folders import Damaged, Folders
from pulumi_tfjobs.targets.kubernetes.boot.leaving import Leaving
from pulumi_tfjobs.targets.kubernetes.boot.network import Unreachable, address_of, is_own
from pulumi_tfjobs.targets.kubernetes.boot.output import Metrics, Output, secrets_of
from pulumi_tfjobs.targets.kubernetes.boot.replicas import Replica, Replicas
from pulumi_tfjobs.targets.kubernetes.boot.signals import Ending
from pulumi_tfjobs.targets.kubernetes.boot.waiting import Waiting
from pulumi_tfjobs.targets.kubernetes.ends import (
    BY_ORDER,
    BY_REPLICA,
    BY_TIME,
    TIMED_OUT,
    TOLD_TO_END,
    pod_code,
)
from pulumi_tfjobs.targets.kubernetes.members import MEETING_PORT, PORT, deciding, decisive, groups, lead
from pulumi_tfjobs.targets.local.blame import culprit, is_consequence

_MEET_SECONDS = 60.0
_MOST_NAMES = 64
# How long the others may take to fail by themselves once one has: a replica often ends sooner than the one that it
# misses. In this pod, and in others where this pod's replica tells that it has missed one.
_SETTLE_SECONDS = 1.0
SETTLE_ELSEWHERE_SECONDS = 3.0
# What a pod's environment holds that a script must not take for its own. (Kubeflow's operator gives every pod of a
# TFJob its TF_CONFIG, also those of Horovod.)
_DROPPED = ("PULUMI_", "TFJOBS_", "TF_CONFIG")


class Pod:
    """This pod of the run."""

    def __init__(self, root: str, run: dict[str, Any], output: Output, ending: Ending) -> None:
        self.root = root
        self.run = run
        self.output = output
        self.ending = ending
        self.secrets = {name: os.environ[name] for name in run["secrets"] if name in os.environ}
        masker = secrets_of(self.secrets, output)
        self.plan: LaunchPlan = launch_plan_from_json(run["plan"])
        self.groups = groups(self.plan)
        self.type = os.environ["TFJOBS_POD_TYPE"]
        self.index = int(os.environ["TFJOBS_POD_INDEX"])
        self.members = next(group for group in self.groups if group.type == self.type).pods[self.index]
        self.folders = Folders(root, run)
        self.replicas = Replicas(output, masker)
        ending.tell(self.replicas.changed.set)
        self.leads = (self.type, self.index) == lead(self.plan)
        self.host: meeting.Host | None = None
        self.server: Any = None
        # Seconds that the attempt's earlier starts have taken, and when this one began.
        self.taken, self.began = 0.0, time.monotonic()

    @property
    def told_to_end(self) -> bool:
        return self.ending.asked.is_set()

    def make_ready(self) -> None:
        """Folders, source, software. Raises Damaged, OSError."""
        errors, notes = software.check(self.run["requirements"])
        for text in notes:
            self.output.note(text)
        if errors:
            raise Damaged(f"{'; '.join(errors)}. {software.TO_FIX}")
        self.folders.make()
        if self.plan.max_run_duration_seconds is not None:
            self.taken = self.folders.since_start()
            self.began = time.monotonic()
        self._pause()
        self.folders.resume(leads=self.leads)

    # Starting

    def values(self) -> dict[str, str]:
        """Wait for the other pods as far as need be; what is put in for the plan's placeholders. Raises Unreachable,
        OSError, ToldToEnd, TooLate."""
        found = self.addresses()
        if self.plan.rendezvous is not None and self.plan.rendezvous.kind == "gloo":
            hosts = self.run["hosts"]["worker"]
            if self.leads:  # it serves before anybody comes
                self.server = rendezvous.serve(self.run["plan"], self.folders.work)
            address = self.meet(everybody=True)
            found.update(rendezvous.values(address, hosts, self.waiting()))
        elif self.run["resume"]:
            self.meet(everybody=False)
        if any(member.needs_port for member in self.plan.replicas):
            self._resolve()
        return found

    def addresses(self) -> dict[str, str]:
        """What is known beforehand of the plan's placeholders: the interpreter, and where replicas listen."""
        found = {"{{python}}": sys.executable, CLUSTER: self.plan.cluster}  # before the addresses that it names
        for group in self.groups:
            for index, pod in enumerate(group.pods):
                for place, member in enumerate(pod):
                    host = self.run["hosts"][group.type][index]
                    found[f"{{{{address:{member.type}:{member.index}}}}}"] = f"{host}:{PORT + place}"
        return found

    def waiting(self) -> Waiting:
        """A wait that may last as long as the run."""
        taken = self.taken + time.monotonic() - self.began
        return Waiting(self.output, self.ending.asked, self.plan.max_run_duration_seconds, taken)

    def _pause(self) -> None:
        """Before a retry, as long as the plan says. Raises ToldToEnd, TooLate."""
        restart = os.environ.get("TFJOBS_RESTART") or "0"
        if not self.plan.retries or not restart.isdigit() or restart == "0":
            return
        seconds = retrying.pause(self.plan.retry_backoff_seconds, int(restart))
        waiting = self.waiting()
        while waiting.seconds < seconds:
            left = seconds - waiting.seconds
            waiting.pause(f"the pause of {seconds:g} s before retry {restart} of {self.plan.retries}", min(1.0, left))

    def meet(self, *, everybody: bool) -> str:
        """Wait until the pod of rank 0 is ready, and with ``everybody`` all others too; that pod's address, empty where
        it is this one. Raises OSError, ToldToEnd, TooLate."""
        others = [f"{group.type}-{number}" for group in self.groups for number in range(len(group.pods))]
        leader = lead(self.plan)
        others.remove(f"{leader[0]}-{leader[1]}")
        if not others:
            return ""
        port, start = meeting_port(), start_of(self.run)
        waiting, address = self.waiting(), ""
        if self.leads:
            self.host = meeting.Host(start, others if everybody else (), port)
            self.ending.tell(self.host.close)
            self.host.start()
            meeting.hosted(self.host, waiting)
        else:
            said = {"run": start, "pod": f"{self.type}-{self.index}", "id": uuid.uuid4().hex}
            host = self.run["hosts"][leader[0]][leader[1]]
            # Whoever comes late may find that rank 0's pod has ended already.
            known = (lambda: False) if everybody else (lambda: self.folders.resumed)
            address = meeting.attend(host, port, f"{leader[0]}-{leader[1]}", said, waiting, known)
        waiting.over(f"all {len(others) + 1} pods are here" if everybody else f"{leader[0]}-{leader[1]} is ready")
        return address

    def _resolve(self) -> None:
        """Wait until the names of the cluster's members resolve: pods come up in any order, and not every script asks a
        second time. Not for ever: some may never come, and scripts may do without them."""
        hosts = [host for group in self.groups for host in self.run["hosts"][group.type]]
        own = self.run["hosts"][self.type][self.index]
        until = time.monotonic() + _MEET_SECONDS
        try:
            for host in hosts if len(hosts) <= _MOST_NAMES else [own, hosts[0]]:
                address_of(host, self.waiting(), max(1.0, until - time.monotonic()))
        except Unreachable as error:
            self.output.note(f"starting without all others: {error}")

    def environment(self, member: Any, values: dict[str, str]) -> dict[str, str]:
        """A replica's variables: the image's, the job's, its own."""
        given = [(key, value) for key, value in os.environ.items() if not key.startswith(_DROPPED)]
        env = {key: value for key, value in given if not is_own(key, value)}
        folder = os.path.dirname(sys.executable)
        env["PATH"] = os.pathsep.join([folder, env.get("PATH", os.defpath)])
        env.update(self.folders.variables())
        env["TFJOBS_ATTEMPT"] = str(self.run["attempt"])
        env["TFJOBS_RESTART"] = os.environ.get("TFJOBS_RESTART") or "0"
        if self.plan.use_gpu:
            env.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        elif "CUDA_VISIBLE_DEVICES" not in self.plan.env:
            env["CUDA_VISIBLE_DEVICES"] = "-1"
        env.update(self.plan.env)
        env.update({key: fill(value, values) for key, value in member.env.items()})
        env.update(self.secrets)
        return env

    # Running

    def run_replicas(self, values: dict[str, str], leaving: Leaving) -> int:
        """Start them, wait for what decides, and end the rest."""
        metrics = self.metrics() if self.leads else None
        for member in self.members:
            prefix = f"[{member.type}-{member.index}] ".encode() if len(self.members) > 1 else b""
            self.start(member, values, prefix)
        code, reason, cause = self._decided()
        self.replicas.end(self.plan.stop_grace_seconds)
        if metrics is not None:
            metrics.finish()
        how = {replica.name: _how(replica) for replica in self.replicas.all}
        leaving.keep(code or 0, reason, cause, how, told=self.told_to_end)
        if code is None:
            _park(self)
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        if self.host is not None:
            self.host.close()
        leaving.terminate(reason, cause, how)
        return code or 0

    def metrics(self) -> Metrics | None:
        """Begin to tell the run's metrics, where they are not written to where they are read."""
        if not self.run.get("tellMetrics", True):
            return None
        metrics = Metrics(self.folders.metrics, self.output)
        metrics.start()
        return metrics

    def start(self, member: Any, values: dict[str, str], prefix: bytes) -> Replica:
        argv = [fill(part, values) for part in member.argv]
        return self.replicas.start(member, argv, self.environment(member, values), self.folders.source, prefix)

    def _decided(self) -> tuple[int | None, str, str]:
        """The container's exit code once it is known, None where the pod is to wait for its end; why in words, and
        what has caused it."""
        until = None
        if self.plan.max_run_duration_seconds is not None:
            until = self.began + self.plan.max_run_duration_seconds - self.taken
        while True:
            if self.replicas.failed:
                if not self._failure_counts():
                    return None, "", BY_REPLICA
                first = self._blamed()
                return pod_code(first.exit_code), f"{first.name} failed", BY_REPLICA
            if self.told_to_end:
                self.replicas.end(self.plan.stop_grace_seconds)
                # Never a success, however well the script has tidied up: the run has not come to its end.
                return TOLD_TO_END, "the pod was told to end", BY_ORDER
            if not self.replicas.alive:
                return (0 if self._success_counts() else None), "", BY_REPLICA
            if until is not None and time.monotonic() >= until:
                limit = self.plan.max_run_duration_seconds
                reason = f"it ran longer than maxRunDurationSeconds allows ({limit:g} s)"
                self.output.tell("timeout", reason=reason)
                return TIMED_OUT, reason, BY_TIME
            self.replicas.changed.wait(None if until is None else max(0.0, until - time.monotonic()))
            self.replicas.changed.clear()

    def _blamed(self) -> Replica:
        """Of the replicas that have failed, the one whose fault it most likely was: named first, and the pod ends as
        it has ended. The others get a moment to fail by themselves; and where this pod's only misses one of another
        pod, that pod gets a moment to end before this one does."""
        self._settle(_SETTLE_SECONDS)
        first = culprit(self.replicas.failed)
        assert first is not None
        self.replicas.all.remove(first)
        self.replicas.all.insert(0, first)
        if len(self.plan.replicas) > len(self.members) and is_consequence(first):
            self.ending.asked.wait(SETTLE_ELSEWHERE_SECONDS)
        return first

    def _settle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.replicas.alive and not self.told_to_end and time.monotonic() < until:
            self.replicas.changed.wait(max(0.0, until - time.monotonic()))
            self.replicas.changed.clear()

    def _failure_counts(self) -> bool:
        """Whether a failure here is one of the run."""
        if self.type in deciding(self.plan) or self.type == "ps":
            return True
        chief = any(name in {"chief", "master"} for name in deciding(self.plan))
        return self.type == "worker" and not chief

    def _success_counts(self) -> bool:
        """Whether an end of all replicas here is what the run waits for."""
        return (self.type, self.index) in decisive(self.plan)


def _park(pod: Pod) -> None:
    """Wait until the pod is ended from outside: what decides the run goes on elsewhere."""
    pod.ending.asked.wait()


def _how(replica: Replica) -> dict[str, int]:
    code = replica.code
    if code is None:
        return {}
    return {"code": code} if code >= 0 else {"signal": -code}


def start_of(run: dict[str, Any]) -> str:
    """Names this start of the run, for those who meet."""
    return f"{run['runId']} {run['attempt']} {os.environ.get('TFJOBS_RESTART') or '0'}"


def meeting_port() -> int:
    """Where the host of the meeting listens."""
    return int(os.environ.get("TFJOBS_MEETING_PORT") or MEETING_PORT)


def fill(text: str, values: dict[str, str]) -> str:
    """Put the values in for the placeholders of a launch plan."""
    if "{{" in text:
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
    return text
