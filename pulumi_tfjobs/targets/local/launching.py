"""From a launch plan to living processes: ports, variables, pipes, helpers. Standard library only."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.local import elastic, gpus, mpi, temporary
from pulumi_tfjobs.targets.local.logs import Log, make_pipe
from pulumi_tfjobs.targets.local.masking import Secrets
from pulumi_tfjobs.targets.local.members import MARKER, Member, fill, replica_environment, spawn
from pulumi_tfjobs.targets.local.ports import Claim, Ports, listen
from pulumi_tfjobs.targets.local.processes import Ties, send_group

LOOPBACK = "127.0.0.1"
RENDEZVOUS = "rendezvous"


class Launch:
    """The group of one attempt: its members, what they need, and how they are started (perhaps more than once)."""

    def __init__(
        self,
        folder: AttemptFolder,
        run: RunFolder,
        plan: dict[str, Any],
        message: dict[str, Any],
        umask: int,
        ties: Ties,
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.python: str = message["python"]
        self.secrets: dict[str, str] = message["secrets"]
        self._masked = Secrets(self.secrets)
        self.warnings = self._masked.warnings()
        self.umask = umask
        self.ties = ties
        self.ports = Ports()
        self.by_pid: dict[int, Member] = {}
        self.helper: Member | None = None
        self.launcher: Member | None = None
        self.reports: mpi.Reports | None = None
        self.driver: elastic.Link | None = None
        self._writers: list[int] = []
        self._claims: list[Claim] = []
        kind = (plan.get("rendezvous") or {}).get("kind")
        os.makedirs(folder.replicas, mode=0o700, exist_ok=True)
        self.replicas = [self._member(replica) for replica in plan["replicas"]]
        self.members = list(self.replicas)
        if kind == "mpi":
            self.launcher = Member(mpi.LAUNCHER, 0, self._log(f"{mpi.LAUNCHER}-0"))
            self.members.append(self.launcher)
        elif kind == "gloo":
            self.helper = Member(RENDEZVOUS, 0, self._log(RENDEZVOUS))
        elif kind == "elastic":
            self.helper = Member(elastic.DRIVER, 0, self._log(elastic.DRIVER))
        self._devices: list[str] = message["devices"]
        self._visible: dict[str, str] | None = None
        self._ready: dict[str, tuple[list[str], dict[str, str]]] = {}
        self._base = self._base_environment(run)

    def _member(self, replica: dict[str, Any]) -> Member:
        name = f"{replica['type']}-{replica['index']}"
        log = self._log(name)
        return Member(
            replica["type"], replica["index"], log, node=f"node-{replica['node']}", needs_port=replica["needs_port"]
        )

    def _log(self, name: str) -> Log:
        return Log(self.folder.replica_log(name), self.plan["max_log_bytes"], self._masked.masker())

    def _free_first(self, devices: list[str]) -> list[str]:
        """The GPUs, those that no other run of this machine has claimed first; ours are claimed."""
        if not self.plan["use_gpu"]:
            return []
        free: list[str] = []
        shared: list[str] = []
        wanted = sum(1 for replica in self.plan["replicas"] if replica["slot"])
        for device in devices:
            if len(free) < wanted:
                try:
                    self._claims.append(Claim(f"gpu/{device}"))
                except OSError:
                    shared.append(device)
                    continue
                free.append(device)
        return free + shared[: max(0, wanted - len(free))]

    def _base_environment(self, run: RunFolder) -> dict[str, str]:
        env = dict(os.environ)
        folder = os.path.dirname(self.python)
        if os.path.exists(os.path.join(os.path.dirname(folder), "pyvenv.cfg")):
            env["VIRTUAL_ENV"] = os.path.dirname(folder)
            env["PATH"] = os.pathsep.join([folder, env.get("PATH", os.defpath)])
        env.update(
            PYTHONUNBUFFERED="1",
            TFJOBS_OUTPUT_DIR=run.outputs,
            TFJOBS_CHECKPOINT_DIR=run.checkpoints,
            TFJOBS_LOG_DIR=run.logs,
            TFJOBS_METRICS_FILE=run.metrics,
            TFJOBS_ATTEMPT=str(self.folder.number),
        )
        env[MARKER] = os.path.realpath(self.folder.root)
        if private := temporary.make(self.folder):
            env["TMPDIR"] = private
        if self.plan["use_gpu"]:
            env.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's order, from which the indices are
        return env

    # Starting

    def start(self) -> None:
        """Start every member. Raises OSError; those that were started before it are then in ``by_pid``."""
        if self._visible is None:  # not before the run has its slots: others may still use the GPUs
            self._visible = gpus.share(self.plan, self._free_first(self._devices))
        # The cluster before the addresses that it names.
        values = {"{{python}}": self.python, "{{tf_config:cluster}}": self.plan.get("cluster", "")}
        open_ports = [m for m in self.replicas if m.needs_port]
        for member, port in zip(open_ports, self.ports.take(len(open_ports)), strict=True):
            member.address = f"{LOOPBACK}:{port}"
        for member in self.replicas:
            values[f"{{{{address:{member.type}:{member.index}}}}}"] = member.address
        if self.helper is not None and not self.elastic:
            self._start_helper(self.helper, values)
        ready = []
        for member, replica in zip(self.replicas, self.plan["replicas"], strict=True):
            own = {**replica, "env": dict(replica["env"])}
            if "CUDA_VISIBLE_DEVICES" not in self.plan["env"]:  # else the user has chosen
                own["env"]["CUDA_VISIBLE_DEVICES"] = self._visible[member.name]
            env = replica_environment(self._base, self.plan, own, values)
            member.tf_config = env.get("TF_CONFIG", "")
            argv = [fill(part, values) for part in replica["argv"]]
            ready.append((member, argv, own, env))
            self._ready[member.name] = (argv, env)
        if self.launcher is not None:
            self._start_mpirun(
                self.launcher,
                [
                    (member, argv, {key: fill(value, values) for key, value in own["env"].items()})
                    for member, argv, own, _ in ready
                ],
            )
        elif self.elastic and self.helper is not None:
            self._start_driver(self.helper)  # which asks for the workers
        else:
            for member, argv, _, env in ready:
                self._spawn(member, argv, {**env, **self.secrets})

    def start_alone(self, member: Member, env: Mapping[str, str] | None = None) -> None:
        """Start one replica, perhaps once more, at its address, with further variables. Raises OSError."""
        argv, own = self._ready[member.name]
        member.revive()
        self._spawn(member, argv, {**own, **(env or {}), **self.secrets})

    def send_away(self, member: Member) -> None:
        """End a replica that has nothing to save yet, without its being a failure."""
        if member.pid is not None and self.by_pid.get(member.pid) is member:
            member.unwanted = True
            send_group(member.pid, signal.SIGKILL)

    def _spawn(self, member: Member, argv: list[str], env: dict[str, str], *, keep: int | None = None) -> None:
        reader, writer = make_pipe()
        member.log.connect(reader)
        try:
            pid = spawn(argv, env, cwd=self.folder.source, output=writer, ties=self.ties, umask=self.umask, keep=keep)
        finally:
            os.close(writer)
        member.started(pid)
        self.by_pid[pid] = member

    def _start_helper(self, helper: Member, values: dict[str, str]) -> None:
        with listen() as server:
            host, port = server.getsockname()[:2]
            values.update({"{{rendezvous:host}}": host, "{{rendezvous:port}}": str(port), "{{rendezvous:iface}}": "lo"})
            program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rendezvous.py")
            self._spawn(
                helper, [self.python, program, self.folder.plan, str(server.fileno())], self._base, keep=server.fileno()
            )

    def _start_driver(self, helper: Member) -> None:
        self.driver = self.reports = elastic.Link()
        self._writers = [self.driver.other]
        argv = [self.python, elastic.program(), self.folder.plan, str(self.driver.other)]
        self._spawn(helper, argv, self._base, keep=self.driver.other)

    def _start_mpirun(self, launcher: Member, ranks: list[tuple[Member, list[str], dict[str, str]]]) -> None:
        env = {**self._base, **self.plan["env"], **self.secrets}
        mpirun = mpi.find_mpirun(self.python, env.get("PATH"))
        if mpirun is None:
            raise FileNotFoundError("the environment has no mpirun and there is none on PATH; use controller gloo")
        reader, status = make_pipe()
        self.reports = mpi.Reports(reader)
        self._writers = [status]
        described = []
        for member, argv, own in ranks:
            log_reader, log_writer = make_pipe()
            member.log.connect(log_reader)
            self._writers.append(log_writer)
            described.append({"argv": argv, "env": own, "cwd": self.folder.source, "log": log_writer})
        description = os.path.join(self.folder.root, "ranks.json")
        mpi.describe(description, described, status)
        self._spawn(launcher, mpi.command(mpirun, self.python, len(ranks), description), env)

    # While it runs

    @property
    def elastic(self) -> bool:
        """Whether Horovod's elastic driver says which workers there are, and decides the run."""
        return self.helper is not None and self.helper.type == elastic.DRIVER

    def logs(self) -> list[Log]:
        return [member.log for member in self._with_helper()]

    def phases(self) -> dict[str, list[str]]:
        """Phases by replica type, as the success policy wants them."""
        grouped: dict[str, list[str]] = {}
        for member in self.members:
            grouped.setdefault(member.type, []).append(member.phase)
        if self.launcher is not None and phases.FAILED in grouped["worker"]:
            grouped[mpi.LAUNCHER] = [phases.FAILED]  # mpirun takes a while to notice
        return grouped

    def all_ended(self) -> bool:
        return not any(member.phase in {phases.PENDING, phases.RUNNING} for member in self.members)

    def note(self, report: dict[str, int], *, by_us: bool) -> Member | None:
        """Take in what the wrapper of a rank tells. Returns the rank where it has ended."""
        member = self.replicas[report["rank"]]
        code, number = report.get("code"), report.get("signal")
        if code is None and number is None:
            member.started(report["pid"])
            return None
        member.ended(exit_code=code, signal_number=number, by_us=by_us)
        return member

    # Afterwards

    def settle(self) -> None:
        """Nothing lives any more: ranks whose wrappers could not tell of their end are taken as ended."""
        for member in self.members:
            if member.phase == phases.RUNNING:
                member.ended(exit_code=None, signal_number=None, by_us=True)

    def reset(self) -> None:
        """Make ready for another start after the group has ended, with other ports."""
        self.let_go()
        self.ports.release()
        for member in self._with_helper():
            member.reset()

    def separate(self, text: str) -> None:
        """A line in every log between one start of the group and the next."""
        for member in self._with_helper():
            member.log.write(text.encode())

    def _with_helper(self) -> list[Member]:
        return [*self.members, *([] if self.helper is None else [self.helper])]

    def let_go(self) -> None:
        """Close what those report through that started replicas for us."""
        for handle in self._writers:
            os.close(handle)
        self._writers = []
        if self.reports is not None:
            os.close(self.reports.reader)
            self.reports = self.driver = None

    def close(self) -> None:
        for log in self.logs():
            log.close()
        self.let_go()
