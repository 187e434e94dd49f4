"""What a pod does: unpack the source, start its replicas, tell how they end, and end when that decides the run.

Standard library only, for Python 3.8 and later: an image needs no package of ours. Who decides is said in
``spec/policy.py``; a replica whose end does not decide leaves its pod waiting, so that the cluster's own controllers
see only ends that count.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from pulumi_tfjobs.spec.launch import CLUSTER, LaunchPlan, launch_plan_from_json
from pulumi_tfjobs.targets.kubernetes.boot import software
from pulumi_tfjobs.targets.kubernetes.boot.folders import Damaged, Folders
from pulumi_tfjobs.targets.kubernetes.boot.network import (
    Unreachable,
    address_of,
    interface_of,
    own_address,
    wait_for,
)
from pulumi_tfjobs.targets.kubernetes.boot.output import Metrics, Output, masker_of
from pulumi_tfjobs.targets.kubernetes.boot.replicas import Replica, Replicas
from pulumi_tfjobs.targets.kubernetes.members import PORT, RENDEZVOUS_PORT, deciding, groups
from pulumi_tfjobs.targets.kubernetes.runfile import read_folder

ROOT = os.environ.get("TFJOBS_ROOT", "/tfjobs")
NO_START = 3
TIMED_OUT = 124
TOLD_TO_END = 143
_TERMINATION_BYTES = 4000
_MEET_SECONDS = 60.0
_MOST_NAMES = 64
# What a pod's environment holds that a script must not take for its own. (Kubeflow's operator gives every pod of a
# TFJob its TF_CONFIG, also those of Horovod.)
_DROPPED = ("PULUMI_", "TFJOBS_", "TF_CONFIG")


def main() -> int:
    """Run this pod's replicas; the container's exit code."""
    output = Output()
    try:
        return _main(output)
    finally:
        output.drain()


def _main(output: Output) -> int:
    run = read_folder(os.path.join(ROOT, "run"))
    try:
        pod = Pod(run, output)
        pod.make_ready()
    except (Damaged, Unreachable, OSError) as error:
        output.note(f"the pod could not start: {error}")
        _terminate({"reason": str(error)})
        return NO_START
    return pod.run_replicas()


class Pod:
    """This pod of the run."""

    def __init__(self, run: dict[str, Any], output: Output) -> None:
        self.run = run
        self.output = output
        self.plan: LaunchPlan = launch_plan_from_json(run["plan"])
        self.type = os.environ["TFJOBS_POD_TYPE"]
        self.index = int(os.environ["TFJOBS_POD_INDEX"])
        self.members = next(group for group in groups(self.plan) if group.type == self.type).pods[self.index]
        self.folders = Folders(ROOT, run)
        self.secrets = {name: os.environ[name] for name in run["secrets"] if name in os.environ}
        self.replicas = Replicas(output, masker_of(self.secrets, output))
        self.leads = any(member.env.get("TFJOBS_RANK") == "0" for member in self.members)
        self.told_to_end = False
        self.helper: Any = None

    def make_ready(self) -> None:
        """Folders, source, software. Raises Damaged, Unreachable, OSError."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end_asked)
        errors, notes = software.check(self.run["requirements"])
        for text in notes:
            self.output.note(text)
        if errors:
            raise Damaged("; ".join(errors) + ". To fix: use an image that has it, or userManaged: true")
        self.folders.make()
        self.folders.resume(leads=self.leads)

    def _end_asked(self, *_: Any) -> None:
        self.told_to_end = True
        self.replicas.changed.set()

    # Starting

    def values(self) -> dict[str, str]:
        """What is put in for the plan's placeholders."""
        found = {"{{python}}": sys.executable, CLUSTER: self.plan.cluster}  # before the addresses that it names
        for group in groups(self.plan):
            for index, pod in enumerate(group.pods):
                for place, member in enumerate(pod):
                    host = self.run["hosts"][group.type][index]
                    found[f"{{{{address:{member.type}:{member.index}}}}}"] = f"{host}:{PORT + place}"
        if self.plan.rendezvous is not None and self.plan.rendezvous.kind == "gloo":
            found.update(self._rendezvous())
        elif any(member.needs_port for member in self.plan.replicas):
            self._meet()
        return found

    def _meet(self) -> None:
        """Wait until the names of the cluster's members resolve: pods come up in any order, and not every script asks a
        second time. Not for ever: some may never come, and scripts may do without them."""
        hosts = [host for group in groups(self.plan) for host in self.run["hosts"][group.type]]
        own = self.run["hosts"][self.type][self.index]
        until = time.monotonic() + _MEET_SECONDS
        try:
            for host in hosts if len(hosts) <= _MOST_NAMES else [own, hosts[0]]:
                address_of(host, max(1.0, until - time.monotonic()))
        except Unreachable as error:
            self.output.note(f"starting without all others: {error}")

    def _rendezvous(self) -> dict[str, str]:
        """Horovod's meeting place: the first worker's pod serves it."""
        first = self.run["hosts"]["worker"][0]
        own = own_address()
        if self.index == 0:
            self._serve_rendezvous()
            address = own
        else:
            address = wait_for(first, RENDEZVOUS_PORT)
        for host in self.run["hosts"]["worker"]:
            address_of(host)  # Gloo asks once, and then gives up
        interface = interface_of(own)
        if interface is None:
            raise Unreachable(f"no network interface of this pod has its address {own}")
        return {
            "{{rendezvous:host}}": address,
            "{{rendezvous:port}}": str(RENDEZVOUS_PORT),
            "{{rendezvous:iface}}": interface,
        }

    def _serve_rendezvous(self) -> None:
        import pkgutil
        import socket

        program = os.path.join(self.folders.work, "rendezvous.py")
        described = os.path.join(self.folders.work, "plan.json")
        content = pkgutil.get_data("pulumi_tfjobs.targets.local", "rendezvous.py")
        assert content is not None
        with open(program, "wb") as stream:
            stream.write(content)
        with open(described, "w", encoding="utf-8") as text:
            json.dump(self.run["plan"], text)
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", RENDEZVOUS_PORT))  # noqa: S104 (the other pods come here)
        server.listen(128)
        self.helper = subprocess.Popen(
            [sys.executable, program, described, str(server.fileno())],
            pass_fds=[server.fileno()],
            stdin=subprocess.DEVNULL,
        )
        server.close()

    def environment(self, member: Any, values: dict[str, str]) -> dict[str, str]:
        """A replica's variables: the image's, the job's, its own."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(_DROPPED)}
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

    def run_replicas(self) -> int:
        """Start them, wait for what decides, and end the rest."""
        try:
            values = self.values()
        except Unreachable as error:
            self.output.note(f"the pod could not start: {error}")
            _terminate({"reason": str(error)})
            return NO_START
        tells = self.leads and self.run.get("tellMetrics", True)
        metrics = Metrics(self.folders.metrics, self.output) if tells else None
        if metrics is not None:
            metrics.start()
        for member in self.members:
            prefix = f"[{member.type}-{member.index}] ".encode() if len(self.members) > 1 else b""
            argv = [fill(part, values) for part in member.argv]
            self.replicas.start(member, argv, self.environment(member, values), self.folders.source, prefix)
        code, reason = self._decided()
        self.replicas.end(self.plan.stop_grace_seconds)
        if metrics is not None:
            metrics.finish()
        if code is None:
            _park(self)
        if self.helper is not None:
            self.helper.kill()
            self.helper.wait()
        _terminate({"replicas": {replica.name: _how(replica) for replica in self.replicas.all}, "reason": reason})
        return code or 0

    def _decided(self) -> tuple[int | None, str]:
        """The container's exit code once it is known, None where the pod is to wait for its end; and why."""
        until = None
        if self.plan.max_run_duration_seconds is not None:
            until = time.monotonic() + self.plan.max_run_duration_seconds
        while True:
            failed = [r for r in self.replicas.all if r.code not in (None, 0)]
            if self.told_to_end:
                self.replicas.end(self.plan.stop_grace_seconds)
                # Never a success, however well the script has tidied up: the run has not come to its end.
                return TOLD_TO_END, "the pod was told to end"
            if failed:
                first = failed[0]
                return (first.exit_code if self._failure_counts() else None), f"{first.name} failed"
            if not self.replicas.alive:
                return (0 if self._success_counts() else None), ""
            if until is not None and time.monotonic() >= until:
                limit = self.plan.max_run_duration_seconds
                reason = f"it ran longer than maxRunDurationSeconds allows ({limit:g} s)"
                self.output.tell("timeout", reason=reason)
                return TIMED_OUT, reason
            self.replicas.changed.wait(None if until is None else max(0.0, until - time.monotonic()))
            self.replicas.changed.clear()

    def _failure_counts(self) -> bool:
        """Whether a failure here is one of the run."""
        if self.type in deciding(self.plan) or self.type == "ps":
            return True
        chief = any(name in {"chief", "master"} for name in deciding(self.plan))
        return self.type == "worker" and not chief

    def _success_counts(self) -> bool:
        """Whether an end of all replicas here is what the run waits for."""
        if self.type not in deciding(self.plan):
            return False
        return self.plan.success_policy == "all_workers" or self.type != "worker" or self.index == 0


def _park(pod: Pod) -> None:
    """Wait until the pod is ended from outside: what decides the run goes on elsewhere."""
    while not pod.told_to_end:
        pod.replicas.changed.wait()
        pod.replicas.changed.clear()


def _how(replica: Replica) -> dict[str, Any]:
    code = replica.code
    if code is None:
        return {}
    return {"code": code} if code >= 0 else {"signal": -code}


def _terminate(message: dict[str, Any]) -> None:
    """What the pod's status keeps of its end."""
    text = json.dumps(message)
    if len(text) > _TERMINATION_BYTES:
        text = json.dumps({"reason": str(message.get("reason", ""))[: _TERMINATION_BYTES // 2]})
    try:
        with open(os.path.join(ROOT, "work", "termination"), "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError:
        return


def fill(text: str, values: dict[str, str]) -> str:
    """Put the values in for the placeholders of a launch plan."""
    if "{{" in text:
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
    return text
