"""What is said of a run, from statuses as they were recorded: JobSet v0.8.2, training-operator v1.9.0, mpi-operator
v0.6.0, kubelet v1.33; the pods named ``real-…`` ran on a real node."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.state import Restart, RunState, run_state_from_json
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes.keeping import Event
from pulumi_tfjobs.targets.kubernetes.pods import Pod, pod_of, trim
from pulumi_tfjobs.targets.kubernetes.restarting import Restarts, read_restarts
from pulumi_tfjobs.targets.kubernetes.states import View, run_state, told_by, waits_of
from tests.unit.jobs import plan_of
from tests.unit.kubernetes_requests import HOROVOD_MPI, MULTI_WORKER, PS, SINGLE

RECORDED = json.loads((Path(__file__).parent / "recorded" / "kubernetes" / "runs.json").read_text("utf-8"))
# A moment after all of them; pods that were being deleted then are lost by now, or have ended.
LATER = 1796000000.0
TWO = {"distribution": {"kind": "multiWorker", "workers": 2}}


def view(name: str, **more: Any) -> View:
    """As recorded, and read through what the informer keeps."""
    item = RECORDED[name]
    pods = [pod for each in item["pods"] if (pod := pod_of(trim(each))) is not None]
    return View(**{"workload": copy.deepcopy(item["workload"]), "pods": pods, **more})


def state_of(seen: View | str, inputs: dict[str, Any], now: float = LATER, **more: Any) -> RunState:
    found = view(seen, **more) if isinstance(seen, str) else seen
    state = run_state("mnist-0123456789ab", 1, plan(inputs), AttemptFolder("/runs/x/attempts/1", 1), found, now)
    assert run_state_from_json(json.loads(json.dumps(state.to_json()))) == state
    return state


def plan(inputs: dict[str, Any]) -> LaunchPlan:
    return plan_of(dict(inputs))


def at(name: str) -> float:
    """A moment at which the pods that were being deleted may still have lived."""
    pods: list[Pod] = view(name).pods  # type: ignore[assignment]
    return max(pod.created for pod in pods) + 5


def phases_of(state: RunState) -> dict[str, str]:
    return {replica.name: replica.phase for replica in state.replicas}


# Living


@pytest.mark.parametrize(
    ("name", "inputs", "phase", "reason"),
    [
        ("jobset-running", PS, phases.RUNNING, ""),
        ("tfjob-running", MULTI_WORKER, phases.RUNNING, ""),
        ("mpijob-running", HOROVOD_MPI, phases.RUNNING, ""),
        ("jobset-suspended", SINGLE, phases.QUEUED, "waits to be let in"),
        ("tfjob-suspended", MULTI_WORKER, phases.QUEUED, "waits to be let in"),
        ("mpijob-suspended", HOROVOD_MPI, phases.QUEUED, "waits to be let in"),
        ("jobset-unschedulable", SINGLE, phases.STARTING, "unschedulable: 0/2 nodes are available: 2 Insufficient cpu"),
        ("real-claim", SINGLE, phases.STARTING, 'persistentvolumeclaim "missing" not found'),
        ("real-image", SINGLE, phases.STARTING, "the image localhost/no-such-image:1 cannot be pulled (ImagePullBackO"),
        ("real-never", SINGLE, phases.STARTING, "is not present with pull policy of Never"),
        ("real-badname", SINGLE, phases.STARTING, "repository name (Such/IMAGE) must be lowercase"),
        ("real-secret", SINGLE, phases.STARTING, ""),
        ("jobset-restarting", MULTI_WORKER, phases.RESTARTING, "0 of 3 pods running"),
        ("jobset-quota", MULTI_WORKER, phases.STARTING, "1 of 3 pods running"),
    ],
)
def test_why_it_does_not_run(name: str, inputs: dict[str, Any], phase: str, reason: str) -> None:
    state = state_of(name, inputs)
    assert (state.phase, state.finished) == (phase, False)
    assert reason in state.reason
    assert "\n" not in state.reason
    assert reason or not state.reason


def test_a_node_that_does_not_answer() -> None:
    """Recorded at a node whose heartbeats had ended: the pod's container is said to run for ever."""
    state = state_of("lost-silent", SINGLE)
    assert (state.phase, state.reason) == (phases.RUNNING, "worker-0 is on node mute-0, which does not answer")
    state = state_of("lost-deleted", SINGLE)
    assert state.phase == phases.RESTARTING
    assert state.reason.startswith(
        "worker-0 is on node mute-0, which does not answer (DeletionByTaintManager: Taint manager: deleting due to "
        "NoExecute taint): training goes on when that node answers or is given up. To fix: "
    )


def test_pods_that_are_being_taken_away_do_not_run() -> None:
    seen = view("jobset-running")
    taken = [pod._replace(deleted=LATER, taken="PreemptionByScheduler: it makes room") for pod in seen.pods]
    state = state_of(seen._replace(pods=[*taken[:2], *seen.pods[2:]]), PS)
    assert state.phase == phases.RESTARTING
    assert state.reason == (
        "2 of 4 pods running; ps-0 and 1 more are being taken away (PreemptionByScheduler: it makes room)"
    )
    evicted = view("real-evicted")
    state = state_of(evicted._replace(workload={}), SINGLE)
    assert (state.phase, state.finished) == (phases.RESTARTING, False), "before its Job has seen it"
    assert state.reason.startswith("worker-0 was taken away (Evicted: Pod ephemeral local storage usage exceeds")
    ended = evicted.pods[0].ended
    assert ended is not None
    well = seen.pods[0]._replace(running=False, ended=ended._replace(code=0), taken="EvictionByEvictionAPI: late")
    assert state_of(seen._replace(pods=[well, *seen.pods[1:]]), PS).phase == phases.RUNNING


def test_what_others_know_of_it_is_added() -> None:
    state = state_of("jobset-quota", MULTI_WORKER, hindrance="pods cannot be made: exceeded quota: q")
    assert state.reason == "1 of 3 pods running; pods cannot be made: exceeded quota: q"
    trouble = "the API server does not answer (for 12 s)"
    assert state_of("jobset-running", PS, trouble=trouble).reason == trouble
    queued = state_of("jobset-suspended", SINGLE, queue="in queue a: needs 8 more GPUs", position=2, trouble=trouble)
    assert (queued.reason, queued.queue_position) == (f"in queue a: needs 8 more GPUs; {trouble}", 2)


def test_of_several_reasons_one_is_told() -> None:
    waiting = view("jobset-unschedulable")
    other = waiting.pods[0]._replace(number=1, uid="2", waits="the image x cannot be pulled (ErrImagePull): no")
    state = state_of(waiting._replace(pods=[*waiting.pods, other]), TWO)
    assert state.reason == ("0 of 2 pods running; the image x cannot be pulled (ErrImagePull): no (and 1 more reasons)")


# Ends


@pytest.mark.parametrize(
    ("name", "inputs", "reason", "first", "code"),
    [
        ("jobset-failed", MULTI_WORKER, "worker-0 exited with code 3", "worker-0", 3),
        ("real-failed", TWO, "worker-1 exited with code 3", "worker-1", 3),
        ("real-oom", SINGLE, "worker-0 ran out of memory (OOMKilled: its limit is 128Mi)", "worker-0", 137),
        ("real-python", SINGLE, 'exec: "/no/such/python"', "worker-0", 128),
        (
            "real-evicted",
            SINGLE,
            "worker-0 was taken away (Evicted: Pod ephemeral local storage usage ex",
            "worker-0",
            143,
        ),
        ("real-deleted", SINGLE, "worker-0 was ended from outside: somebody has deleted its pod", "", None),
        ("mpijob-failed", HOROVOD_MPI, "worker-0 exited with code 3", "worker-0", 3),
        ("tfjob-failed", MULTI_WORKER, "the cluster says: Job mnist-ab14e52a0a29-1 has failed", "", None),
    ],
)
def test_why_it_has_failed(name: str, inputs: dict[str, Any], reason: str, first: str, code: int | None) -> None:
    state = state_of(name, inputs)
    assert state.phase == phases.FAILED
    assert reason in state.reason
    assert (state.first_failure, state.exit_code) == (first, code)
    assert state.finished_at is not None


def test_a_script_with_the_exit_code_of_the_time_limit() -> None:
    seen = view("real-failed")
    code = {"worker-1": {"code": 124}}
    pods = [
        pod._replace(ended=pod.ended._replace(code=125, replicas=code)) if pod.ended and pod.number == 1 else pod
        for pod in seen.pods
    ]
    state = state_of(seen._replace(pods=pods), TWO)
    assert (state.phase, state.exit_code, state.reason) == (phases.FAILED, 124, "worker-1 exited with code 124")


def test_for_what_pods_wait_is_told_until_they_begin() -> None:
    seen = view("jobset-running")
    name = next(pod.name for pod in seen.pods if pod.running)
    events = [
        Event(name, "", {"e": "waiting", "time": 100.0, "text": "waits for worker-1, worker-2"}),
        Event("another", "", {"e": "waiting", "time": 100.0, "text": "of a pod that is gone"}),
        Event(name, "", {"e": "waiting", "time": 105.0, "text": "waits for worker-2"}),
    ]
    state = state_of(seen._replace(waits=waits_of(events, seen.pods)), PS)
    assert (state.phase, state.reason, state.warnings) == (phases.RUNNING, "waits for worker-2", ())
    events.append(Event(name, "", {"e": "waited", "time": 106.0}))
    assert waits_of(events, seen.pods) == ""


def test_the_time_limit() -> None:
    state = state_of("real-timeout", SINGLE)
    assert (state.phase, state.exit_code, state.first_failure) == (phases.TIMED_OUT, 124, "")
    assert "maxRunDurationSeconds" in state.reason


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("jobset-succeeded", MULTI_WORKER), ("tfjob-succeeded", MULTI_WORKER), ("mpijob-succeeded", HOROVOD_MPI)],
)
def test_success(name: str, inputs: dict[str, Any]) -> None:
    state = state_of(name, inputs)
    assert (state.phase, state.exit_code, state.reason) == (phases.SUCCEEDED, 0, "")
    assert set(phases_of(state).values()) == {phases.SUCCEEDED}


def test_what_is_decided_ends_only_when_nothing_of_it_lives() -> None:
    # The chief of all, worker 0, has succeeded; a parameter server and the other worker are being ended.
    inputs = {"distribution": {"kind": "parameterServer", "workers": 2, "parameterServers": 1}}
    state = state_of("real-succeeded-ps", inputs, at("real-succeeded-ps"))
    assert (state.phase, state.reason, state.finished_at) == (phases.STOPPING, "2 pods are being ended", None)
    lost = state_of("real-succeeded-ps", inputs)
    assert lost.phase == phases.SUCCEEDED, "pods of a node that is gone are not waited for"
    assert phases_of(lost) == {"worker-0": "succeeded", "worker-1": "ended", "ps-0": "ended"}


def test_who_was_only_ended_is_not_blamed() -> None:
    seen = view("jobset-failed")
    first, second, third = seen.pods
    told, _ = told_by(
        [
            Event(first.name, "worker-0", {"e": "exit", "time": 100.0, "code": 1, "signal": None}),
            Event(second.name, "worker-1", {"e": "exit", "time": 101.0, "code": 3, "signal": None}),
            Event(third.name, "worker-2", {"e": "exit", "time": 99.0, "code": None, "signal": 15, "by_us": True}),
        ]
    )
    state = state_of(seen._replace(told=told), MULTI_WORKER)
    assert (state.first_failure, state.exit_code) == ("worker-0", 1)
    assert phases_of(state)["worker-2"] == "ended"
    state = state_of(seen._replace(told=told, blamed="worker-1"), MULTI_WORKER)
    assert (state.first_failure, state.exit_code, state.reason) == ("worker-1", 3, "worker-1 exited with code 3")


def test_deleted_by_somebody_else_and_by_us() -> None:
    words = "the JobSet mnist-1 was deleted in default by somebody else"
    running = view("jobset-running")
    gone = View(None, past=running.pods, gone=words)
    state = state_of(gone, PS)
    assert (state.phase, state.reason, state.first_failure) == (phases.INTERRUPTED, words, "")
    assert state.finished_at is not None
    stopped = state_of(gone._replace(stopped="stopped on request"), PS)
    assert (stopped.phase, stopped.reason, stopped.exit_code) == (phases.CANCELLED, "stopped on request", None)
    assert set(phases_of(stopped).values()) == {"ended"}
    being = state_of(gone._replace(past=(), pods=running.pods), PS)
    assert (being.phase, being.reason) == (phases.STOPPING, f"{words}; 4 pods are being ended")


def test_a_stopped_run_that_came_to_its_end_before() -> None:
    assert state_of("jobset-succeeded", MULTI_WORKER, stopped="stopped on request").phase == phases.SUCCEEDED
    assert state_of("jobset-failed", MULTI_WORKER, stopped="stopped on request").phase == phases.CANCELLED


def test_what_mpirun_starts_is_told_by_its_launcher() -> None:
    seen = view("mpijob-running")
    launcher = next(pod for pod in seen.pods if pod.type == "launcher")
    told, _ = told_by([Event(launcher.name, "worker-1", {"e": "start", "time": 100.0, "tf_config": ""})])
    state = state_of(seen._replace(told=told), HOROVOD_MPI)
    assert phases_of(state)["worker-1"] == phases.RUNNING
    assert state.replicas[1].started_at == 100.0
    assert {replica.node for replica in state.replicas} == {pod.node for pod in seen.pods if pod.type == "worker"}


# What was started again


def test_restarts_of_the_group(tmp_path: Path) -> None:
    files = AttemptFolder(str(tmp_path), 1)
    seen = view("jobset-restarting")
    restarts = Restarts(files)
    restarts.see({**seen.workload, "status": {}}, seen.pods)
    assert restarts.all == ()
    for _ in range(2):
        restarts.see(seen.workload, seen.pods)
        (found,) = restarts.all
        assert (found.number, found.reason, found.exit_code, found.replica) == (1, *SIGKILLED, "")
        assert found.logs == files.restart(1)
    assert read_restarts(files) == restarts.all
    again = Restarts(files)  # of the next process
    again.see(seen.workload, ())
    assert again.all == restarts.all
    state = state_of(seen._replace(restarts=again.all), MULTI_WORKER)
    assert (state.phase, state.launches, state.restarts) == (phases.RESTARTING, 2, again.all)


SIGKILLED = ("worker-0 was ended by SIGKILL (by the kernel when memory runs out, or by somebody)", 137)


def test_one_pod_that_its_operator_has_started_again(tmp_path: Path) -> None:
    seen = view("jobset-running")
    restarts = Restarts(AttemptFolder(str(tmp_path), 1))
    restarts.see(seen.workload, seen.pods)
    server = next(pod for pod in seen.pods if (pod.type, pod.number) == ("ps", 1))
    next_one = server._replace(uid="next", name="next", created=server.created + 9)
    restarts.see(seen.workload, [*seen.pods, next_one])
    (found,) = restarts.all
    assert (found.replica, found.reason) == ("ps-1", "ps-1: its pod was lost")
    state = state_of(seen._replace(past=[server], pods=[*seen.pods, next_one], restarts=restarts.all), PS)
    assert state.phase == phases.RUNNING


def test_a_run_that_kueue_has_put_back(tmp_path: Path) -> None:
    seen = view("jobset-running")
    restarts = Restarts(AttemptFolder(str(tmp_path), 1))
    restarts.see(seen.workload, seen.pods)
    back = {**seen.workload, "spec": {"suspend": True}}
    restarts.see(back, seen.pods)
    # Its pods take a while to end, and are known as they were last also when others have taken their places.
    for _ in range(2):
        restarts.see(back, seen.pods, "preempted by a run of higher priority; in queue a: needs 8 more")
    fresh = [pod._replace(uid=f"{pod.uid}-2", created=pod.created + 9) for pod in seen.pods]
    restarts.see(seen.workload, [*seen.pods, *fresh])
    assert [(item.reason, item.replica) for item in restarts.all] == [("preempted by a run of higher priority", "")]


def test_how_often_it_was_tried_is_told() -> None:
    tried = tuple(Restart(number, 1.0, "worker-1 failed") for number in (1, 2))
    state = state_of("jobset-retried-failed", MULTI_WORKER, restarts=tried)
    assert state.phase == phases.FAILED
    assert state.reason.startswith("worker-1 was ended by SIGKILL")
    assert state.reason.endswith("(after 2 restarts)")
