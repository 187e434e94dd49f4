"""The pods of an MPIJob. Standard library only.

A worker's pod makes itself ready, lets mpirun in, and otherwise waits. The launcher's pod waits for them all, and runs
mpirun, which starts this bootstrap once more for each rank, in the workers' pods. A rank's bootstrap runs that replica
of the plan; what it prints goes to the launcher's pod, so that this one's log and end tell of all.

With mpi-operator (v2beta1) pods have names, and mpirun reaches them by ssh; with training-operator (v1) the launcher's
has none, and mpirun reaches the others by kubectl.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import Any

from pulumi_tfjobs.spec.launch import LaunchPlan, launch_plan_from_json
from pulumi_tfjobs.targets.kubernetes.boot import kubexec, meeting, relay, software, ssh
from pulumi_tfjobs.targets.kubernetes.boot.folders import Damaged
from pulumi_tfjobs.targets.kubernetes.boot.leaving import Leaving
from pulumi_tfjobs.targets.kubernetes.boot.output import Copier, Output, secrets_of
from pulumi_tfjobs.targets.kubernetes.boot.pod import (
    SETTLE_ELSEWHERE_SECONDS,
    Pod,
    meeting_port,
    start_of,
)
from pulumi_tfjobs.targets.kubernetes.boot.signals import Ending
from pulumi_tfjobs.targets.kubernetes.boot.waiting import Waiting
from pulumi_tfjobs.targets.kubernetes.ends import (
    BY_ORDER,
    BY_REPLICA,
    BY_START,
    BY_TIME,
    TIMED_OUT,
    TOLD_TO_END,
    pod_code,
)
from pulumi_tfjobs.targets.kubernetes.members import LAUNCHER, RANK, groups
from pulumi_tfjobs.targets.kubernetes.runfile import read_folder
from pulumi_tfjobs.targets.local.blame import culprit, is_consequence

HOSTS = "/etc/mpi/hostfile"  # the operator's: each worker's name, and how many ranks it takes
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
# What mpirun and its daemons give a rank. All else is as in the rank's pod: ssh brings none of that.
_FROM_MPIRUN = ("OMPI_", "OPAL_", "PMIX_", "PRTE_", "PMI_", "ORTE_", "UCX_", relay.VARIABLE)
# The operators': our own ssh does that, and these have other names in every Open MPI.
_OPERATORS = (
    "OMPI_MCA_plm_rsh_agent",
    "OMPI_MCA_plm_rsh_args",
    "OMPI_MCA_orte_default_hostfile",
    "OMPI_MCA_orte_set_default_slots",
)
_LIBRARIES = "LD_LIBRARY_PATH"
_TOLD = "told"  # a file that is there once the pod was told to end
_LAST_LINES_SECONDS = 10.0
_OWN_SECONDS = 2.0


# A worker's pod


def lend(root: str, run: dict[str, Any], output: Output, ending: Ending, leaving: Leaving) -> int:
    """Let mpirun start ranks in this pod until it is told to end. Raises ToldToEnd, TooLate, OSError."""
    pod = Pod(root, run, output, ending)
    said = {"run": start_of(run), "pod": f"{pod.type}-{pod.index}", "id": uuid.uuid4().hex}
    os.makedirs(_ranks_in(root), exist_ok=True)
    with open(os.path.join(root, "work", "host"), "w", encoding="ascii") as stream:
        stream.write(str(os.getpid()))
    server = None
    try:
        pod.make_ready()
        if run["hosts"][LAUNCHER]:
            server = ssh.serve(root, pod.waiting())
    except (Damaged, OSError) as error:
        said["failed"] = output.masked(str(error))
    try:
        names = run["hosts"][LAUNCHER] or [kubexec.wait_for_address(root, pod.waiting())]
        meeting.attend(names[0], meeting_port(), "the launcher", said, pod.waiting())
        ending.asked.wait()
        with open(os.path.join(root, "work", _TOLD), "w", encoding="ascii"):
            pass
        _end_ranks(root, pod.plan.stop_grace_seconds)
    finally:
        if server is not None:
            server.kill()
            server.wait()
    return leaving.leave(TOLD_TO_END, "the pod was told to end", BY_ORDER, told=True)


def _end_ranks(root: str, grace: float) -> None:
    """Their bootstraps tell the scripts to end; wait for these."""
    scripts = []
    for name in os.listdir(_ranks_in(root)):
        with contextlib.suppress(OSError, ValueError):
            with open(os.path.join(_ranks_in(root), name), encoding="ascii") as stream:
                bootstrap, script = map(int, stream.read().split())
            scripts.append(script)
            os.kill(bootstrap, signal.SIGTERM)
    until = time.monotonic() + grace
    while any(os.path.exists(f"/proc/{script}") for script in scripts) and time.monotonic() < until:
        time.sleep(0.05)


def _ranks_in(root: str) -> str:
    return os.path.join(root, "work", "ranks")


# A rank in it


def run_rank(root: str) -> int:
    """Run one of mpirun's ranks; its exit code, as mpirun takes it."""
    _take_environment(root)
    handle = relay.connect(os.environ.get(relay.VARIABLE, ""))
    output = Output(1 if handle is None else handle)
    ending = Ending()
    pod = Pod(root, read_folder(os.path.join(root, "run")), output, ending)
    number = int(next(os.environ[name] for name in _RANK_VARIABLES if name in os.environ))
    (member,) = (item for item in pod.plan.replicas if item.env.get("TFJOBS_RANK") == str(number))
    metrics = pod.metrics() if number == 0 else None
    replica = pod.start(member, pod.addresses(), f"[{member.name}] ".encode())
    if replica.process is not None:
        with open(os.path.join(_ranks_in(root), str(number)), "w", encoding="ascii") as stream:
            stream.write(f"{os.getpid()} {replica.process.pid}")
    while replica.code is None and not ending.asked.is_set():
        pod.replicas.changed.wait()
        pod.replicas.changed.clear()
    if replica.code is None:
        pod.replicas.end(pod.plan.stop_grace_seconds)
    if os.path.exists(os.path.join(root, "work", _TOLD)):
        output.tell("lost", replica=member.name, pod=f"{pod.type}-{pod.index}")
    if metrics is not None:
        metrics.finish()
    if replica.exit_code and not replica.by_us and is_consequence(replica):
        # mpirun ends all ranks when the first has failed: the one whose fault it was gets a moment to fail by itself.
        ending.asked.wait(SETTLE_ELSEWHERE_SECONDS)
    return replica.exit_code


def _take_environment(root: str) -> None:
    """Have the variables of the pod, those of the run included, which are in the environment of its first process."""
    with open(os.path.join(root, "work", "host"), encoding="ascii") as stream:
        first = int(stream.read())
    with open(f"/proc/{first}/environ", "rb") as file:
        items = [item.partition(b"=") for item in file.read().split(b"\0") if item]
    found = {os.fsdecode(name): os.fsdecode(value) for name, _, value in items}
    given = {name: value for name, value in os.environ.items() if name.startswith(_FROM_MPIRUN)}
    libraries = [path for path in (os.environ.get(_LIBRARIES), found.get(_LIBRARIES)) if path]
    if libraries:
        given[_LIBRARIES] = os.pathsep.join(libraries)
    os.environ.clear()
    os.environ.update(found)
    os.environ.update(given)


# The launcher's pod


class Launcher:
    """Runs mpirun once all workers are ready, and ends as the run has ended. Raises Damaged, OSError."""

    def __init__(self, root: str, run: dict[str, Any], output: Output, ending: Ending, leaving: Leaving) -> None:
        self.root = root
        self.run = run
        self.output = output
        self.ending = ending
        self.leaving = leaving
        self.plan: LaunchPlan = launch_plan_from_json(run["plan"])
        self.workers = [f"{group.type}-{number}" for group in groups(self.plan) for number in range(len(group.pods))]
        self.masker = secrets_of({name: os.environ[name] for name in run["secrets"] if name in os.environ}, output)
        errors, notes = software.check(
            run["requirements"]
        )  # the workers have the same image, and nobody reads their logs
        for text in notes:
            output.note(text)
        if errors:
            raise Damaged(f"{'; '.join(errors)}. {software.TO_FIX}")
        self.mpirun = _find_mpirun()
        self.unnamed = not run["hosts"][LAUNCHER]
        self.programs = kubexec.client(root) if self.unnamed else ssh.client(root)
        self.relay = relay.Relay(output)
        self.address = ""
        self.changed = threading.Event()
        ending.tell(self.changed.set)

    def wait_for_workers(self) -> None:
        """Until all can take ranks. Raises Damaged, OSError, ToldToEnd, TooLate."""
        host = meeting.Host(start_of(self.run), self.workers, meeting_port())
        self.ending.tell(host.close)
        host.start()
        waiting = Waiting(self.output, self.ending.asked, self.plan.max_run_duration_seconds)
        caller = kubexec.Caller(self.root, self.run["hosts"]["worker"] if self.unnamed else (), self.output)
        caller.start()
        try:
            meeting.hosted(host, waiting)
        finally:
            caller.stop()
        waiting.over(f"all {len(self.workers)} workers are here")
        self.address = host.address

    def launch(self) -> int:
        """mpirun, to its end; the container's exit code. Raises OSError."""
        self.relay.start()
        ranks = sum(1 for replica in self.plan.replicas if replica.type == "worker")
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []  # containers; mpirun refuses it otherwise
        argv = [self.mpirun, *root, "--hostfile", HOSTS, "-np", str(ranks), "--bind-to", "none", "--map-by", "slot"]
        argv += ["-x", relay.VARIABLE, sys.executable, sys.argv[0], RANK]
        reader, writer = os.pipe()
        copier = Copier(reader, self.output, self.masker())
        copier.start()
        process = subprocess.Popen(
            argv, cwd="/", env=self._environment(), stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
        )
        os.close(writer)
        threading.Thread(target=self._wait, args=(process,), daemon=True).start()
        late = self._decided(process)
        if process.returncode is None:
            self._end(process, told=not late)
        self.relay.wait(_LAST_LINES_SECONDS)
        self.relay.close()
        copier.join(_OWN_SECONDS)
        return self._told(process.returncode, late, copier)

    def _environment(self) -> dict[str, str]:
        env = {**os.environ, **self.plan.env}
        env["PATH"] = os.pathsep.join([self.programs, env.get("PATH", os.defpath)])
        env[relay.VARIABLE] = self.relay.address(self.address)
        for make in ("OMPI", "PRTE"):  # seconds that a rank has to end, once it is told to
            env.setdefault(f"{make}_MCA_odls_base_sigkill_timeout", str(int(self.plan.stop_grace_seconds) + 2))
        if self.unnamed:  # only this pod has kubectl, so that no worker could start another one
            env.update({"OMPI_MCA_plm_rsh_no_tree_spawn": "1", "PRTE_MCA_plm_ssh_no_tree_spawn": "1"})
        for name in _OPERATORS:
            env.pop(name, None)
        return env

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self.changed.set()

    def _decided(self, process: subprocess.Popen[bytes]) -> str:
        """Until mpirun has ended, or is to: why its time is over, empty where it is not."""
        until = None
        if self.plan.max_run_duration_seconds is not None:
            until = time.monotonic() + self.plan.max_run_duration_seconds
        while process.poll() is None and not self.ending.asked.is_set():
            if until is not None and time.monotonic() >= until:
                reason = f"it ran longer than maxRunDurationSeconds allows ({self.plan.max_run_duration_seconds:g} s)"
                self.output.tell("timeout", reason=reason)
                return reason
            self.changed.wait(None if until is None else max(0.0, until - time.monotonic()))
            self.changed.clear()
        return ""

    def _end(self, process: subprocess.Popen[bytes], *, told: bool) -> None:
        """End mpirun and its ranks. Where the run was ended from outside, the workers' pods are told so themselves, and
        ranks that end because of that can tell how."""
        if told:
            self.relay.wait(self.plan.stop_grace_seconds)
        for number, seconds in ((signal.SIGTERM, self.plan.stop_grace_seconds + 2), (signal.SIGKILL, None)):
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)

    def _told(self, code: int, late: str, copier: Copier) -> int:
        """What the pod's status keeps of its end, and its exit code."""
        ranks = sorted(self.relay.ranks, key=lambda rank: not (rank.over and not rank.by_us and rank.exit_code))
        if late:
            return self._left(late, BY_TIME, ranks, TIMED_OUT)
        first = culprit(self.relay.failed())
        if first is not None:
            ranks.remove(first)
            return self._left(f"{first.name} failed", BY_REPLICA, [first, *ranks], pod_code(first.exit_code))
        if self.ending.asked.is_set():
            return self._left("the pod was told to end", BY_ORDER, ranks, TOLD_TO_END)
        if code == 0:
            return self._left("", BY_REPLICA, ranks, 0)
        lost = next((rank.lost for rank in self.relay.ranks if rank.lost), "")
        if lost:
            reason = f"{lost} was ended from outside: somebody has deleted its pod"
            return self._left(reason, BY_START, (), pod_code(code) if code > 0 else 128 - code)
        words = next((line.strip() for line in reversed(copier.tail(2000).splitlines()) if line.strip()), "")
        code = 128 - code if code < 0 else code
        return self._left(f"mpirun ended with code {code}: {words}", BY_START, (), pod_code(code))

    def _left(self, reason: str, cause: str, ranks: Any, code: int) -> int:
        how = {rank.name: rank.how() for rank in ranks if rank.name}
        return self.leaving.leave(code, reason, cause, how, told=self.ending.asked.is_set())


def _find_mpirun() -> str:
    """The interpreter's own, else the image's. Raises Damaged."""
    beside = os.path.join(os.path.dirname(sys.executable), "mpirun")
    return beside if os.access(beside, os.X_OK) else ssh.program("mpirun", what="Open MPI")


def launch(root: str, run: dict[str, Any], output: Output, ending: Ending, leaving: Leaving) -> int:
    """What the launcher's pod does. Raises Damaged, OSError, ToldToEnd, TooLate."""
    launcher = Launcher(root, run, output, ending, leaving)
    launcher.wait_for_workers()
    return launcher.launch()
