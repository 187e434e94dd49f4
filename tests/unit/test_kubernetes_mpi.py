"""The pods of an MPIJob as processes: the real bootstrap, with programs in the places of mpirun, ssh and kubectl that
start the ranks on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec.model import Horovod
from tests.conformance.place import plan_of
from tests.unit.test_kubernetes_boot import SECRET, Pod, find_python

FOUR = Horovod(nodes=2, processes_per_node=2, controller="mpi")
MPIRUN = """#!{python}
import os, signal, subprocess, sys, time
if os.path.exists(os.environ["FAKE"] + "/broken"):
    print("ssh: connect to host worker-1: No route to host", file=sys.stderr)
    sys.exit(213)
given = sys.argv[1:]
count = int(given[given.index("-np") + 1])
argv = given[given.index("-x") + 2:]
roots = os.environ["FAKE_ROOTS"].split(":")
ranks = []
for rank in range(count):
    env = {{"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(count), "SSH_CONNECTION": "here",
           "PATH": "/of/ssh", "TFJOBS_RELAY": os.environ["TFJOBS_RELAY"],
           "TFJOBS_ROOT": roots[rank * len(roots) // count]}}
    ranks.append(subprocess.Popen(argv, env=env))
def end(*_):
    for rank in ranks: rank.terminate()
signal.signal(signal.SIGTERM, end)
code = 0
while None in [rank.poll() for rank in ranks]:
    failed = [rank.returncode for rank in ranks if rank.returncode]
    if failed and not code:
        code = failed[0]
        end()
    time.sleep(0.01)
sys.exit(code or next((rank.returncode for rank in ranks if rank.returncode), 0))
"""
SSHD = """#!{python}
import re, socket, sys
port = int(re.search(r"^Port (\\d+)", open(sys.argv[sys.argv.index("-f") + 1]).read(), re.M)[1])
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", port))
server.listen()
while True:
    link, _ = server.accept()
    link.sendall(b"SSH-2.0-fake\\r\\n")
    link.close()
"""
KUBECTL = """#!{python}
import os, re, sys
words = sys.argv[1:]
pod, command = words[words.index("exec") + 1], words[words.index("--") + 1:]
said = os.path.join(os.environ["FAKE"], pod)
if not os.path.exists(said):
    open(said, "w").close()
    sys.exit("error: unable to upgrade connection: container not found")
roots = os.environ["FAKE_ROOTS"].split(":")
os.environ["TFJOBS_ROOT"] = roots[int(pod.rpartition("-")[2])]
os.execv(command[0], command)
"""


class Job:
    """The pods of one MPIJob. ``unnamed``: training-operator's, whose names do not resolve."""

    def __init__(self, folder: Path, *, unnamed: bool = False) -> None:
        self.folder = folder
        self.unnamed = unnamed
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name, text in {"mpirun": MPIRUN, **self._ways()}.items():
            (self.bin / name).write_text(text.format(python=sys.executable))
            (self.bin / name).chmod(0o755)
        self.store = folder / "store"
        self.store.mkdir()
        self.pods: list[Pod] = []
        self.meeting = _free_port()

    def _ways(self) -> dict[str, str]:
        return {"kubectl": KUBECTL} if self.unnamed else {"sshd": SSHD, "ssh": "#!/bin/sh\nexit 1\n"}

    @property
    def workers(self) -> list[Pod]:
        return self.pods[1:]

    def start(self, script: str, *, interpreter: str = sys.executable, source: Any = None, **fields: Any) -> Pod:
        """All three pods; the launcher's."""
        plan = plan_of(
            FOUR,
            environment_variables={"TOKEN": "", "GIVEN": "x y"},
            secret_variables=frozenset({"TOKEN"}),
            **{"stop_grace_seconds": 10.0, **fields},
        )
        roots = [self.folder / f"worker-{number}" for number in (0, 1)]
        more = {} if source is None else {"source": source}
        hosts = {"launcher": ["127.0.0.1"], "worker": ["127.0.0.1"] * 2}
        if self.unnamed:
            hosts = {"launcher": [], "worker": ["digits-worker-0", "digits-worker-1"]}
        for name, number, word in (("launcher", 0, "launch"), ("worker", 0, "lend"), ("worker", 1, "lend")):
            env = {
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "TFJOBS_MEETING_PORT": str(self.meeting),
                "TFJOBS_SSH_PORT": str(_free_port()),
                "TFJOBS_KUBECTL": str(self.bin / "kubectl"),
                "TFJOBS_POD_IP": "127.0.0.1",
                "FAKE": str(self.folder),
                "FAKE_ROOTS": ":".join(map(str, roots)),
                "OF_THE_POD": f"{name}-{number}",
                "TFJOBS_LAUNCH": "abc",
            }
            self.pods.append(
                Pod(
                    self.folder / f"{name}-{number}",
                    plan,
                    script,
                    pod=(name, number),
                    words=(word,),
                    secrets={"TOKEN": SECRET},
                    interpreter=interpreter,
                    store=self.store,
                    env=env,
                    keys=dict.fromkeys(("id_rsa", "id_rsa.pub"), "key"),
                    hosts=hosts,
                    **more,
                )
            )
        return self.pods[0]

    def outputs(self) -> set[str]:
        (run,) = (self.store / "runs").iterdir()
        return set(os.listdir(run / "outputs"))

    def kept(self) -> dict[str, Any]:
        """What the launcher's pod has kept of its end on the storage."""
        (path,) = self.store.glob("runs/*/attempts/1/ended/abc/0/launcher-0.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def log(self, rank: int) -> list[str]:
        """What a rank has printed."""
        start = f"[worker-{rank}] "
        return [line.removeprefix(start) for line in self.pods[0].log if line.startswith(start)]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path / "job")
    yield made
    for pod in made.pods:
        if pod.process.poll() is None:
            pod.process.send_signal(signal.SIGTERM)
    for pod in made.pods:
        pod.ends()


def test_a_launcher_without_a_name_leaves_its_address_with_the_workers(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", unnamed=True)
    launcher = job.start("print('rank', os.environ['TFJOBS_RANK'])")
    assert launcher.ends() == 0, launcher.lines
    assert [job.log(rank) for rank in range(4)] == [[f"rank {rank}"] for rank in range(4)]
    # As mpirun calls it.
    ssh = launcher.root / "work" / "bin" / "ssh"
    env = {"FAKE": str(job.folder), "FAKE_ROOTS": "one:two", "PATH": os.environ["PATH"]}
    call = [ssh, "-x", "digits-worker-1", "echo", '"$TFJOBS_ROOT"']
    said = subprocess.run(call, env=env, capture_output=True, text=True, check=True)
    assert said.stdout == "two\n"
    for pod in job.workers:
        pod.process.send_signal(signal.SIGTERM)
        assert pod.ends() == 143


def test_a_launcher_that_was_brought_no_kubectl(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", unnamed=True)
    (job.bin / "kubectl").unlink()
    launcher = job.start("print('begun')")
    assert launcher.ends() == 3
    assert "which the operator of the MPIJob brings" in launcher.termination()["reason"]
    for pod in job.workers:
        pod.process.send_signal(signal.SIGTERM)
        assert pod.ends() == 143


@pytest.mark.parametrize("oldest", [False, True])
def test_ranks_have_their_pods_variables_and_tell_the_launcher(job: Job, oldest: bool) -> None:
    interpreter = find_python("3.8") if oldest else sys.executable
    if interpreter is None:
        pytest.skip("this machine has no Python 3.8")
    launcher = job.start(
        """
        names = ('TFJOBS_RANK', 'GIVEN', 'OF_THE_POD', 'OMPI_COMM_WORLD_SIZE', 'SSH_CONNECTION', 'TFJOBS_RELAY')
        print([os.environ.get(name) for name in names])
        print(os.environ['TOKEN'], '/of/ssh' in os.environ['PATH'], os.path.basename(os.getcwd()))
        if os.environ['TFJOBS_RANK'] == '0':
            open(os.environ['TFJOBS_METRICS_FILE'], 'a').write('{"loss": 1}\\n')
        print('to stderr', file=sys.stderr)
        """,
        interpreter=interpreter,
    )
    assert launcher.ends() == 0, launcher.lines
    for rank in range(4):
        expected = [str(rank), "x y", f"worker-{rank // 2}", "4", None, None]
        assert sorted(job.log(rank)) == sorted([repr(expected), "*** False src", "to stderr"])
    assert launcher.event("metrics")["lines"] == ['{"loss": 1}']
    assert launcher.termination()["replicas"] == {f"worker-{rank}": {"code": 0} for rank in range(4)}
    assert (job.kept()["code"], job.kept()["replicas"]) == (0, launcher.termination()["replicas"])
    for pod in job.workers:
        assert pod.process.poll() is None, "its operator ends it"
        pod.process.send_signal(signal.SIGTERM)
        assert pod.ends() == 143


def test_the_launcher_ends_as_the_rank_whose_fault_it_was(job: Job) -> None:
    launcher = job.start(
        """
        import signal
        rank = os.environ['TFJOBS_RANK']
        if rank == '0':
            print('Connection closed by peer', flush=True)
            open('outputs/gone', 'w').close()
            sys.exit(1)
        while not os.path.exists('outputs/gone'): pass
        if rank == '3': os.kill(os.getpid(), signal.SIGSEGV)
        while True: signal.pause()
        """
    )
    assert launcher.ends() == 139
    ended = launcher.termination()
    assert (ended["reason"], ended["cause"]) == ("worker-3 failed", "replica")
    assert next(iter(ended["replicas"].items())) == ("worker-3", {"signal": 11})
    assert (job.kept()["code"], job.kept()["replicas"]) == (139, ended["replicas"])
    exits = {item["replica"]: item for item in launcher.told if item["e"] == "exit"}
    assert {name: item["by_us"] for name, item in exits.items()} == {
        "worker-0": False,
        "worker-1": True,
        "worker-2": True,
        "worker-3": False,
    }


TIDY = """
    import signal
    def tidy(*_):
        open('outputs/tidied-' + os.environ['TFJOBS_RANK'], 'w').close()
        sys.exit(0)
    signal.signal(signal.SIGTERM, tidy)
    print('ready', flush=True)
    while True: signal.pause()
"""


def _all_ready(job: Job) -> None:
    for rank in range(4):
        job.pods[0].says(f"[worker-{rank}] ready")


def test_ranks_may_tidy_up_when_all_pods_are_told_to_end(job: Job) -> None:
    launcher = job.start(TIDY)
    _all_ready(job)
    for pod in job.pods:
        pod.process.send_signal(signal.SIGTERM)
    assert [pod.ends() for pod in job.pods] == [143, 143, 143]
    assert job.outputs() == {f"tidied-{rank}" for rank in range(4)}
    assert launcher.termination()["cause"] == "order"
    assert all(item["by_us"] for item in launcher.told if item["e"] == "exit")


def test_a_worker_that_somebody_ends(job: Job) -> None:
    launcher = job.start(TIDY.replace("sys.exit(0)", "sys.exit(9)"))
    _all_ready(job)
    job.workers[1].process.send_signal(signal.SIGTERM)
    assert launcher.ends() not in {0, 143}
    ended = launcher.termination()
    assert ended["reason"] == "worker-1 was ended from outside: somebody has deleted its pod"
    assert "replicas" not in ended, "no rank has failed by itself"


def test_the_time_limit(job: Job) -> None:
    launcher = job.start(TIDY, max_run_duration_seconds=8.0)
    assert launcher.ends() == 124
    assert "maxRunDurationSeconds allows (8 s)" in launcher.termination()["reason"]
    assert job.outputs() == {f"tidied-{rank}" for rank in range(4)}


def test_an_mpirun_that_fails_by_itself(job: Job) -> None:
    (job.folder / "broken").touch()
    launcher = job.start("print('begun')")
    assert launcher.ends() == 213
    ended = launcher.termination()
    assert ended["cause"] == "start"
    assert ended["reason"] == "mpirun ended with code 213: ssh: connect to host worker-1: No route to host"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda job: (job.bin / "sshd").unlink(), "the image has no sshd"),
        (lambda job: (job.bin / "sshd").write_text("#!/bin/sh\necho no such user >&2\nexit 9\n"), "no such user"),
        (lambda job: (job.bin / "mpirun").unlink(), "the image has no mpirun"),
    ],
)
def test_what_the_image_lacks_is_told_by_the_launcher(job: Job, change: Callable[[Job], Any], reason: str) -> None:
    change(job)
    name = reason.rpartition(" ")[2]
    if reason.startswith("the image") and shutil.which(name, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"):
        pytest.skip(f"this machine has a {name} of its own")
    launcher = job.start("print('begun')")
    assert launcher.ends() == 3
    assert reason in launcher.termination()["reason"]
    assert launcher.termination()["cause"] == "start"
