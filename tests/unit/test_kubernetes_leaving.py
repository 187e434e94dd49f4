"""What a pod keeps on the storage of its end: the real bootstrap, by itself, with a folder in the storage's place."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import MultiWorker, ParameterServer
from pulumi_tfjobs.targets.kubernetes.boot.leaving import Leaving
from pulumi_tfjobs.targets.kubernetes.boot.output import Output
from tests.conformance.place import plan_of, until
from tests.unit.test_kubernetes_boot import FOR_EVER, SECRET, Pod

LAUNCH = "abc123"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def start(tmp_path: Path, store: Path) -> Iterator[Callable[..., Pod]]:
    """Start a pod of a run on that storage."""
    made: list[Pod] = []

    def start(plan: LaunchPlan, script: str, *, restart: int = 0, **more: Any) -> Pod:
        env = {"TFJOBS_LAUNCH": LAUNCH, "TFJOBS_POD_NAME": f"pod-{len(made)}", "TFJOBS_RESTART": str(restart)}
        made.append(Pod(tmp_path / str(len(made)), plan, script, **{"store": store, "env": env, **more}))
        return made[-1]

    yield start
    for pod in made:
        if pod.process.poll() is None:
            pod.process.send_signal(signal.SIGTERM)
            pod.ends()


def kept(store: Path) -> dict[str, dict[str, Any]]:
    """What pods have kept, by its place in the launch's folder; all that is there."""
    (folder,) = store.glob("runs/*/attempts/1/ended/*")
    assert folder.name == LAUNCH
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): json.loads(path.read_text() or "{}") for path in files}


@pytest.mark.parametrize(
    ("script", "code", "how", "reason"),
    [
        ("pass", 0, {"code": 0}, ""),
        ("sys.exit(7)", 7, {"code": 7}, "worker-0 failed"),
        ("os.kill(os.getpid(), 9)", 137, {"signal": 9}, "worker-0 failed"),
    ],
)
def test_an_end_is_kept_for_each_start_of_the_group(
    start: Callable[..., Pod], store: Path, script: str, code: int, how: dict[str, int], reason: str
) -> None:
    pods = [start(plan_of(), script, restart=restart) for restart in (0, 2)]
    assert [pod.ends() for pod in pods] == [code, code]
    found = kept(store)
    assert sorted(found) == ["0/begun", "0/worker-0.json", "2/begun", "2/worker-0.json"]
    last = found["2/worker-0.json"]
    assert (last["code"], last["replicas"], last["reason"]) == (code, {"worker-0": how}, reason)
    assert (last["cause"], last["told"], last["pod"]) == ("replica", False, "pod-1")
    assert last["began"] <= last["ended"]


def test_a_pod_that_is_told_to_end_says_so_and_one_that_begins_anew_has_not_ended(
    start: Callable[..., Pod], store: Path
) -> None:
    pod = start(plan_of(), "print('ready', flush=True)\n" + FOR_EVER)
    pod.says("ready")
    assert list(kept(store)) == ["0/begun"], "it lives"
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ends() == 143
    found = kept(store)["0/worker-0.json"]
    assert (found["code"], found["cause"], found["told"]) == (143, "order", True)
    # Kueue takes a run back and lets it in again: the same start of the group, other pods.
    pod = start(plan_of(), "print('ready', flush=True)\n" + FOR_EVER)
    pod.says("ready")
    assert list(kept(store)) == ["0/begun"]


async def test_whoever_waits_for_the_end_of_the_run_has_kept_its_own(start: Callable[..., Pod], store: Path) -> None:
    pod = start(plan_of(ParameterServer(workers=2, parameter_servers=1)), "pass", pod=("worker", 1))
    pod.says('"e":"exit"')
    await until(lambda: "0/worker-1.json" in kept(store), "its end is kept")
    assert pod.process.poll() is None
    assert kept(store)["0/worker-1.json"]["replicas"] == {"worker-1": {"code": 0}}


def test_who_has_missed_another_says_that_it_was_told_to_end(start: Callable[..., Pod], store: Path) -> None:
    pod = start(plan_of(MultiWorker(workers=2)), "print('Socket closed', flush=True); sys.exit(2)")
    pod.says('"e":"exit"')
    pod.process.send_signal(signal.SIGTERM)
    assert pod.ends() == 2
    found = kept(store)["0/worker-0.json"]
    assert (found["code"], found["cause"], found["told"]) == (2, "replica", True)


def test_no_secret_is_kept(start: Callable[..., Pod], store: Path) -> None:
    pod = start(
        plan_of(environment_variables={"TOKEN": ""}, secret_variables=frozenset({"TOKEN"})),
        "pass",
        secrets={"TOKEN": SECRET},
        requirements=[f"tensorflow @ https://{SECRET}@example.org"],
    )
    assert pod.ends() == 3
    found = kept(store)["0/worker-0.json"]
    assert (found["code"], found["cause"]) == (3, "start")
    assert "tensorflow @ https://***@example.org" in found["reason"]
    assert SECRET not in json.dumps(found)


def test_a_storage_that_takes_no_record_does_not_change_how_the_pod_ends(
    start: Callable[..., Pod], store: Path
) -> None:
    plan = plan_of()
    (store / "runs" / plan.run_id).mkdir(parents=True)
    (store / "runs" / plan.run_id / "attempts").touch()
    pod = start(plan, "pass")
    assert pod.ends() == 0
    assert "how this pod has ended could not be kept on the storage" in pod.event("note")["text"]
    assert pod.termination()["replicas"] == {"worker-0": {"code": 0}}


def test_a_pod_without_a_storage_keeps_nothing(start: Callable[..., Pod], tmp_path: Path) -> None:
    pod = start(plan_of(), "pass", store=None)
    assert pod.ends() == 0
    assert list(pod.root.glob("**/ended")) == []


def test_a_bucket_that_cannot_rename(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(os, "replace", refuse)
    for name, value in {"LAUNCH": LAUNCH, "POD_TYPE": "worker", "POD_INDEX": "0"}.items():
        monkeypatch.setenv(f"TFJOBS_{name}", value)
    leaving = Leaving(str(tmp_path), Output())
    leaving.begin({"storage": True, "runId": "mnist-0", "attempt": 1})
    leaving.keep(0, "", "replica")
    assert sorted(kept(tmp_path / "store")) == ["0/begun", "0/worker-0.json"]
    assert kept(tmp_path / "store")["0/worker-0.json"]["code"] == 0
