"""What runs first in a pod: the real file, started by itself, with a folder in the place of /tfjobs."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import Horovod, MultiWorker, ParameterServer
from pulumi_tfjobs.targets.kubernetes import source
from pulumi_tfjobs.targets.kubernetes.boot.output import MARK
from pulumi_tfjobs.targets.kubernetes.boot.package import pyz
from pulumi_tfjobs.targets.kubernetes.members import groups
from tests.conformance.place import plan_of

DEADLINE = 30.0
SECRET = "correct horse battery staple"
FOR_EVER = "import signal\nwhile True: signal.pause()\n"


class Pod:
    """A pod without a cluster: its folders, and its process."""

    def __init__(
        self,
        root: Path,
        plan: LaunchPlan,
        script: str,
        *,
        pod: tuple[str, int] = ("worker", 0),
        secrets: dict[str, str] | None = None,
        files: dict[str, str] | None = None,
        interpreter: str = sys.executable,
        store: Path | None = None,
        env: dict[str, str] | None = None,
        words: tuple[str, ...] = (),
        keys: dict[str, str] | None = None,
        **changes: Any,
    ) -> None:
        self.root = root
        given = root / "given"
        given.mkdir(parents=True)
        for name, text in {"train.py": "import json, os, sys\n" + textwrap.dedent(script), **(files or {})}.items():
            (given / name).parent.mkdir(parents=True, exist_ok=True)
            (given / name).write_text(text)
        content = source.archive(str(given))
        for folder in ("boot", "run", "source", "work", "ssh"):
            (root / folder).mkdir()
        for name, text in (keys or {}).items():
            (root / "ssh" / name).write_text(text)
        (root / "boot" / "tfjobs.pyz").write_bytes(pyz())
        if store is not None:
            (root / "store").symlink_to(store)
        digest = hashlib.sha256(content).hexdigest()
        for number, piece in enumerate(source.parts(content)):
            (root / "source" / f"part-{number}").write_bytes(piece)
        hosts = {
            group.type: [f"127.0.{place}.{i}" for i in range(1, len(group.pods) + 1)]
            for place, group in enumerate(groups(plan), 1)
        }
        run = {
            "v": 1,
            "runId": plan.run_id,
            "attempt": 1,
            "plan": plan.to_json(),
            "hosts": hosts,
            "source": {"kind": "config", "digest": digest, "parts": 1, "sha256": digest, "path": ""},
            "storage": store is not None,
            "requirements": [],
            "secrets": sorted(secrets or {}),
            "resume": "",
            **changes,
        }
        (root / "run" / "run.json").write_text(json.dumps(run))
        variables = {
            "PATH": os.environ["PATH"],
            "TFJOBS_ROOT": str(root),
            "TFJOBS_POD_TYPE": pod[0],
            "TFJOBS_POD_INDEX": str(pod[1]),
            "PULUMI_ACCESS_TOKEN": SECRET,
            "TF_CONFIG": '{"cluster": {}}',  # of Kubeflow's operator, for whoever is none of a cluster too
            **(secrets or {}),
            **(env or {}),
        }
        self.process = subprocess.Popen(
            [interpreter, str(root / "boot" / "tfjobs.pyz"), *words], env=variables, stdout=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with self._more:
                    self.lines.append(line.rstrip("\n"))
                    self._more.notify_all()

    def says(self, text: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: any(text in line for line in self.lines), DEADLINE), self.lines

    def ends(self) -> int:
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    @property
    def told(self) -> list[dict[str, Any]]:
        """What the reader of the log is told."""
        return [json.loads(line.removeprefix(MARK)) for line in self.lines if line.startswith(MARK)]

    def event(self, kind: str) -> dict[str, Any]:
        return next(item for item in self.told if item["e"] == kind)

    @property
    def log(self) -> list[str]:
        """What a replica has printed."""
        return [line for line in self.lines if not line.startswith(MARK)]

    def termination(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "work" / "termination").read_text())
        return found


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Any]:
    made: list[Pod] = []

    def make(plan: LaunchPlan, script: str, **more: Any) -> Pod:
        made.append(Pod(tmp_path / str(len(made)), plan, script, **more))
        return made[-1]

    yield make
    for pod in made:
        if pod.process.poll() is None:
            pod.process.kill()
            pod.ends()


def test_a_script_that_ends_well(pods: Any) -> None:
    plan = plan_of(script_params=(("--epochs", ("3",)),), environment_variables={"GIVEN": "x y"})
    pod = pods(
        plan,
        """
        open('outputs/model', 'w').write('m')
        open('logs/events', 'w').write('e')
        with open(os.environ['TFJOBS_METRICS_FILE'], 'a') as stream:
            stream.write('{"step": 1, "loss": 0.5}\\n{"step": 2}')
        names = ('GIVEN', 'CUDA_VISIBLE_DEVICES', 'TFJOBS_RUN_ID', 'TFJOBS_ATTEMPT', 'PULUMI_ACCESS_TOKEN', 'TF_CONFIG')
        print(sys.argv[1:], [os.environ.get(name) for name in names], os.path.basename(os.getcwd()))
        print('to stderr', file=sys.stderr)
        """,
    )
    assert pod.ends() == 0
    values = ["x y", "-1", plan.run_id, "1", None, None]
    assert pod.log == [f"['--epochs', '3'] {values!r} src", "to stderr"]
    own = pod.root / "work" / "runs" / plan.run_id
    assert (own / "outputs" / "model").read_text() == "m"
    assert (own / "logs" / "events").read_text() == "e"
    assert pod.event("metrics")["lines"] == ['{"step": 1, "loss": 0.5}', '{"step": 2}']
    assert (pod.event("exit")["replica"], pod.event("exit")["code"]) == ("worker-0", 0)
    assert pod.termination()["replicas"] == {"worker-0": {"code": 0}}


@pytest.mark.parametrize(
    ("ending", "code", "how"),
    [
        ("sys.exit(3)", 3, {"code": 3}),
        ("os.kill(os.getpid(), 9)", 137, {"signal": 9}),
        ("import subprocess; subprocess.Popen(['sleep', '600']); sys.exit(4)", 4, {"code": 4}),
    ],
)
def test_how_a_script_ends_is_how_the_pod_ends(pods: Any, ending: str, code: int, how: dict[str, int]) -> None:
    pod = pods(plan_of(), f"print('the last words', flush=True); {ending}")
    assert pod.ends() == code
    assert pod.log == ["the last words"]
    assert pod.termination()["replicas"] == {"worker-0": how}


def test_who_does_not_decide_waits_for_the_end_of_the_run(pods: Any) -> None:
    with_chief = plan_of(ParameterServer(workers=2, parameter_servers=1, chief=True))
    alone = plan_of(ParameterServer(workers=2, parameter_servers=1))
    all_of_them = plan_of(MultiWorker(workers=2))
    waiting = [
        pods(with_chief, "sys.exit(5)", pod=("worker", 0)),
        pods(with_chief, "pass", pod=("ps", 0)),
        pods(alone, "pass", pod=("worker", 1)),
    ]
    ending = {
        pods(with_chief, "sys.exit(6)", pod=("ps", 0)): 6,
        pods(with_chief, "pass", pod=("chief", 0)): 0,
        pods(alone, "sys.exit(5)", pod=("worker", 1)): 5,
        pods(alone, "pass", pod=("worker", 0)): 0,
        pods(all_of_them, "pass", pod=("worker", 1)): 0,
    }
    for pod, code in ending.items():
        assert pod.ends() == code
    for pod in waiting:
        pod.says('"e":"exit"')
        assert pod.process.poll() is None
        pod.process.send_signal(signal.SIGTERM)
        assert pod.ends() == 0
    assert waiting[0].event("exit")["code"] == 5


def test_a_script_may_tidy_up_and_one_that_will_not_stop_is_killed(pods: Any) -> None:
    tidy = pods(
        plan_of(),
        """
        import signal
        def tidy(*_):
            open('outputs/tidied', 'w').close()
            sys.exit(0)
        signal.signal(signal.SIGTERM, tidy)
        print('ready', flush=True)
        while True: signal.pause()
        """,
    )
    stubborn = pods(
        plan_of(stop_grace_seconds=0.2),
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\n" + FOR_EVER,
    )
    for pod in (tidy, stubborn):
        pod.says("ready")
        pod.process.send_signal(signal.SIGTERM)
    assert tidy.ends() == 143, "no success of the run"
    assert (tidy.root / "work" / "runs" / plan_of().run_id / "outputs" / "tidied").exists()
    assert stubborn.ends() == 143
    assert (stubborn.event("exit")["signal"], stubborn.event("exit")["by_us"]) == (9, True)


def test_the_time_limit(pods: Any) -> None:
    pod = pods(plan_of(max_run_duration_seconds=0.3), FOR_EVER)
    assert pod.ends() == 124
    assert "maxRunDurationSeconds allows (0.3 s)" in pod.termination()["reason"]


def test_the_time_limit_counts_all_starts_of_the_attempt(pods: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    plan = plan_of(max_run_duration_seconds=60.0, retries=3, retry_backoff_seconds=0.0)
    began = time.time()
    assert pods(plan, "sys.exit(200)", store=store).ends() == 200
    (file,) = (store / "runs" / plan.run_id).glob(".began-*")
    assert file.stat().st_mtime >= began - 1
    os.utime(file, (began - 59.0, began - 59.0))
    pod = pods(plan, FOR_EVER, store=store, env={"TFJOBS_RESTART": "1"})
    assert pod.ends() == 124
    assert "60 s" in pod.event("timeout")["reason"]
    # Without a storage that outlives the pod nobody knows of the first start.
    pod = pods(plan, "print('here')", env={"TFJOBS_RESTART": "1"})
    assert pod.ends() == 0


def test_a_retry_waits_before_it_begins(pods: Any) -> None:
    plan = plan_of(retries=2, retry_backoff_seconds=3.0)
    pod = pods(plan, "print('here', flush=True)", env={"TFJOBS_RESTART": "2"})
    pod.says("waits for the pause of 6 s before retry 2 of 2")
    assert pod.log == []
    pod.process.terminate()
    assert pod.ends() == 143
    assert pod.log == []
    pod = pods(plan_of(), "print('here')", env={"TFJOBS_RESTART": "2"})  # it was taken away, and has not failed
    assert pod.ends() == 0
    assert pod.log == ["here"]


def test_secrets_reach_the_script_and_are_masked_in_what_it_prints(pods: Any) -> None:
    pod = pods(
        plan_of(environment_variables={"TOKEN": ""}, secret_variables=frozenset({"TOKEN"})),
        f"assert os.environ['TOKEN'] == {SECRET[::-1]!r}[::-1]\nprint('token', os.environ['TOKEN'], 'told')",
        secrets={"TOKEN": SECRET},
    )
    assert pod.ends() == 0
    assert pod.log == ["token *** told"]


def test_secrets_are_masked_in_what_the_pod_tells(pods: Any) -> None:
    secret = 'two "words" of\\it'
    pod = pods(
        plan_of(environment_variables={"TOKEN": ""}, secret_variables=frozenset({"TOKEN"})),
        """
        with open(os.environ['TFJOBS_METRICS_FILE'], 'a') as stream:
            stream.write(json.dumps({'step': 1, 'note': 'by ' + os.environ['TOKEN'] + '!'}) + '\\n')
        """,
        secrets={"TOKEN": secret},
        requirements=[f"pytest=={secret.split(maxsplit=1)[0]}1.0", f"no-such-package @ https://{secret}@example.org"],
    )
    assert pod.ends() == 0
    assert [json.loads(line) for line in pod.event("metrics")["lines"]] == [{"step": 1, "note": "by ***!"}]
    notes = [item["text"] for item in pod.told if item["e"] == "note"]
    assert any("https://***@example.org" in text for text in notes)
    assert "of" not in "".join(pod.lines).replace("of the", "")


def test_several_replicas_of_a_pod_have_names_before_their_lines(pods: Any) -> None:
    plan = plan_of(Horovod(nodes=2, processes_per_node=2, controller="mpi"))
    pod = pods(
        plan,
        """
        rank = os.environ['TFJOBS_RANK']
        print('I am', rank, flush=True)
        open('outputs/' + rank, 'w').close()
        while len(os.listdir('outputs')) < 2: pass
        if rank == '3': sys.exit(7)
        import signal
        while True: signal.pause()
        """,
        pod=("worker", 1),
    )
    assert pod.ends() == 7
    assert sorted(pod.log) == ["[worker-2] I am 2", "[worker-3] I am 3"]
    assert pod.termination()["reason"] == "worker-3 failed"


def test_who_only_missed_another_is_not_blamed(pods: Any) -> None:
    plan = plan_of(Horovod(nodes=1, processes_per_node=2, controller="mpi"))
    pod = pods(
        plan,
        """
        import time
        if os.environ['TFJOBS_RANK'] == '0':
            print('[1]<stderr>: Connection reset by peer', flush=True)
            open('outputs/gone', 'w').close()
            sys.exit(1)
        while not os.path.exists('outputs/gone'): pass
        print('no such file: data.csv', flush=True)
        sys.exit(7)
        """,
    )
    assert pod.ends() == 7
    assert pod.termination() == {
        "reason": "worker-1 failed",
        "cause": "replica",
        "replicas": {"worker-1": {"code": 7}, "worker-0": {"code": 1}},
    }


def test_a_pod_that_only_missed_another_ends_as_it_has_failed_also_if_it_is_told_to(pods: Any) -> None:
    pod = pods(plan_of(MultiWorker(workers=2)), "print('Socket closed', flush=True); sys.exit(2)")
    pod.says('"e":"exit"')
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ends() == 2


def test_a_script_that_ends_with_the_code_of_the_time_limit(pods: Any) -> None:
    pod = pods(plan_of(), "sys.exit(124)")
    assert pod.ends() not in {0, 124}, "the cluster is not to take it for the limit"
    assert pod.termination() == {
        "reason": "worker-0 failed",
        "cause": "replica",
        "replicas": {"worker-0": {"code": 124}},
    }


def test_tf_config_names_the_hosts(pods: Any) -> None:
    pod = pods(
        plan_of(ParameterServer(workers=2, parameter_servers=1)), "print(os.environ['TF_CONFIG'])", pod=("worker", 0)
    )
    assert pod.ends() == 0
    assert json.loads(pod.log[0]) == {
        "cluster": {"ps": ["127.0.1.1:2222"], "worker": ["127.0.2.1:2222", "127.0.2.2:2222"]},
        "task": {"type": "worker", "index": 0},
        "environment": "cloud",
    }
    assert pod.event("start")["tf_config"] == pod.log[0]


def test_what_cannot_start_says_why(pods: Any) -> None:
    damaged = pods(
        plan_of(), "pass", source={"kind": "config", "digest": "d", "parts": 1, "sha256": "0" * 64, "path": ""}
    )
    unfit = pods(plan_of(), "pass", requirements=["tensorflow==2.15.1", "no-such-package>=1"])
    old = pods(plan_of(), "pass", requirements=["pytest==1.0"])
    assert damaged.ends() == unfit.ends() == 3
    assert "the source is damaged" in damaged.event("note")["text"]
    assert "the image has no tensorflow" in unfit.termination()["reason"]
    assert old.ends() == 0
    assert "the job asks for pytest==1.0" in old.event("note")["text"]


# Waiting for each other


@pytest.fixture
def meeting_place() -> dict[str, str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return {"TFJOBS_MEETING_PORT": str(found.getsockname()[1])}


def test_the_others_begin_when_rank_0_has_copied_the_checkpoints(
    pods: Any, meeting_place: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    before = store / "runs" / "before" / "checkpoints"
    before.mkdir(parents=True)
    (before / "step").write_text("7")
    plan = plan_of(ParameterServer(workers=1, parameter_servers=1))
    more = {"store": store, "env": meeting_place, "resume": "before"}
    script = "print('step', open(os.environ['TFJOBS_CHECKPOINT_DIR'] + '/step').read())"
    server = pods(plan, script, pod=("ps", 0), **more)
    server.says("waits for worker-0")
    assert server.log == []
    worker = pods(plan, script, pod=("worker", 0), **more)
    assert worker.ends() == 0
    server.says("step 7")
    server.process.send_signal(signal.SIGTERM)
    assert server.ends() == 0
    # Of a later start: nobody is asked, and rank 0's pod may be gone for good.
    (store / "runs" / plan.run_id / "checkpoints" / "step").write_text("8")
    again = pods(plan, script, pod=("ps", 0), **more)
    again.says("step 8")


@pytest.mark.parametrize("ending", ["told", "late"])
def test_a_pod_that_waits_ends_when_it_is_told_to_or_the_time_is_over(
    pods: Any, meeting_place: dict[str, str], tmp_path: Path, ending: str
) -> None:
    limit = {"max_run_duration_seconds": 3.0} if ending == "late" else {}
    pod = pods(
        plan_of(MultiWorker(workers=2), **limit),
        "print('begun')",
        pod=("worker", 1),
        store=tmp_path,
        env=meeting_place,
        resume="before",
    )
    pod.says("waits for worker-0")
    if ending == "told":
        pod.process.send_signal(signal.SIGTERM)
    assert pod.ends() == (143 if ending == "told" else 124)
    assert pod.log == []
    assert pod.termination()["cause"] == ("order" if ending == "told" else "time")
    if ending == "late":
        assert "waiting for worker-0" in pod.termination()["reason"]
        assert "3 s (maxRunDurationSeconds)" in pod.termination()["reason"]


def find_python(version: str) -> str | None:
    """An interpreter of this machine, by itself or as pyenv keeps it."""
    places = [shutil.which(f"python{version}")]
    places += sorted(str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
    for path in filter(None, places):
        if subprocess.run([path, "-c", "pass"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def test_the_oldest_python_of_an_image(pods: Any, meeting_place: dict[str, str], tmp_path: Path) -> None:
    oldest = find_python("3.8")
    if oldest is None:
        pytest.skip("this machine has no Python 3.8")
    (tmp_path / "store" / "runs" / "before" / "checkpoints").mkdir(parents=True)
    made = [
        pods(
            plan_of(
                Horovod(nodes=2, processes_per_node=2, controller="mpi"),
                environment_variables={"TOKEN": ""},
                secret_variables=frozenset({"TOKEN"}),
            ),
            """
            print(sys.version_info[:2], os.environ['TOKEN'], flush=True)
            open(os.environ['TFJOBS_METRICS_FILE'], 'a').write('{"loss": 1}\\n')
            """,
            pod=("worker", number),
            interpreter=oldest,
            secrets={"TOKEN": SECRET},
            store=tmp_path / "store",
            env=meeting_place,
            resume="before",
            requirements=["no-such-package"],
        )
        for number in (1, 0)
    ]
    assert [pod.ends() for pod in made] == [0, 0]
    assert sorted(made[0].log) == ["[worker-2] (3, 8) ***", "[worker-3] (3, 8) ***"]


def test_every_module_of_the_bootstrap_is_python_3_8() -> None:
    with zipfile.ZipFile(io.BytesIO(pyz())) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        assert len(names) > 10
        for name in names:
            ast.parse(archive.read(name), name, feature_version=(3, 8))


def test_an_outputs_folder_that_the_source_brings_is_kept(pods: Any) -> None:
    pod = pods(plan_of(), "print(open('outputs/start.txt').read())", files={"outputs/start.txt": "brought"})
    assert pod.ends() == 0
    assert pod.log == ["brought"]


def test_the_archive_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "empty").mkdir(parents=True)
        (tmp_path / name / "run.sh").write_text("#!/bin/sh\n")
        (tmp_path / name / "run.sh").chmod(0o755)
        (tmp_path / name / "link").symlink_to("run.sh")
    os.utime(tmp_path / "a" / "run.sh", (1, 1))
    assert source.archive(str(tmp_path / "a")) == source.archive(str(tmp_path / "b"))
    content = os.urandom(source.PART_BYTES * 2 + 1)
    assert [len(piece) for piece in source.parts(content)] == [source.PART_BYTES, source.PART_BYTES, 1]
    assert source.parts(content * 2) == [], "too large for ConfigMaps"
