"""What a spec starts: replicas, roles, ranks, arguments, environment."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_tfjobs.plan import build_plan, preview_summary
from pulumi_tfjobs.spec.launch import launch_plan_from_json
from pulumi_tfjobs.spec.model import InputData
from tests.unit.jobs import plan_of, spec_of

PS = {
    "distribution": {"kind": "parameterServer", "workers": 2, "parameterServers": 2, "chief": True, "evaluator": True}
}
HOROVOD = {"distributedBackend": "mpi", "nodeCount": 2, "processCountPerNode": 2}


def test_one_process() -> None:
    plan = plan_of({"scriptParams": {"--lr": 0.1, "--flag": ""}, "arguments": ["more", "--last"]})
    (replica,) = plan.replicas
    assert (replica.name, replica.slot, replica.needs_port) == ("worker-0", True, False)
    assert replica.argv == ("{{python}}", "train.py", "--flag", "--lr", "0.1", "more", "--last")
    assert "TF_CONFIG" not in replica.env
    assert (plan.world_size, plan.slots, plan.rendezvous, plan.hostfile) == (1, 1, None, "")
    assert plan.success_policy == "default"
    assert plan.run_id == f"mnist-{plan.digest[:12]}"


def test_a_run_keeps_its_id() -> None:
    spec = spec_of({})
    plan = build_plan(spec, "old-name-0123456789ab")
    assert plan.run_id == plan.env["TFJOBS_RUN_ID"] == "old-name-0123456789ab"
    assert plan.digest == spec.digest


def test_what_is_not_known_can_be_shown() -> None:
    plan = plan_of(HOROVOD, unknown=frozenset({'scriptParams["--lr"]'}))
    assert (plan.run_id, plan.digest) == ("", "")
    assert preview_summary(plan) == "4 workers (Horovod, Gloo), 4 slots, tensorflow-cpu 2.15.1"


def test_every_replica_is_told_who_it_is() -> None:
    plan = plan_of(PS)
    told = {
        replica.name: (
            replica.env["TFJOBS_REPLICA_TYPE"],
            replica.env["TFJOBS_REPLICA_INDEX"],
            replica.env.get("TFJOBS_RANK"),
        )
        for replica in plan.replicas
    }
    assert told == {
        "ps-0": ("ps", "0", None),
        "ps-1": ("ps", "1", None),
        "chief-0": ("chief", "0", "0"),
        "worker-0": ("worker", "0", "1"),
        "worker-1": ("worker", "1", "2"),
        "evaluator-0": ("evaluator", "0", None),
    }
    assert plan.env["TFJOBS_WORLD_SIZE"] == "3" == str(plan.world_size)
    assert (plan.env["TFJOBS_JOB"], plan.env["TFJOBS_RUN_ID"]) == ("mnist", plan.run_id)


def test_parameter_servers() -> None:
    plan = plan_of(PS)
    config = {replica.name: json.loads(plan.tf_config(replica)) for replica in plan.replicas}
    assert all(config[r.name]["task"] == {"type": r.type, "index": r.index} for r in plan.replicas)
    assert "evaluator" not in config["worker-0"]["cluster"]
    assert {r.name for r in plan.replicas if not r.needs_port} == {"evaluator-0"}
    assert {r.name for r in plan.replicas if not r.slot} == {"ps-0", "ps-1"}
    assert plan.success_policy == "default"


def test_a_plan_names_the_members_of_its_cluster_once() -> None:
    """A thousand replicas that each named a thousand would be as many megabytes, in memory, on disk and in each pod."""
    sizes = [
        len(json.dumps(plan_of({"distribution": {"kind": "multiWorker", "workers": n}}).to_json())) for n in (8, 64)
    ]
    assert sizes[1] < 8 * sizes[0]


def test_an_address_stands_for_every_port_that_is_opened() -> None:
    plan = plan_of(PS)
    clusters = [json.loads(plan.tf_config(replica))["cluster"] for replica in plan.replicas]
    addresses = {address for cluster in clusters for group in cluster.values() for address in group}
    assert addresses == {f"{{{{address:{r.type}:{r.index}}}}}" for r in plan.replicas if r.needs_port}


@pytest.mark.parametrize(
    ("inputs", "policy"),
    [
        (HOROVOD, "all_workers"),
        ({"distributedBackend": "multi_worker", "workerCount": 2}, "all_workers"),
        ({"distributedBackend": "ps", "workerCount": 2}, "default"),
        ({"distributedBackend": "ps", "workerCount": 2, "successPolicy": "all_workers"}, "all_workers"),
    ],
)
def test_who_decides(inputs: dict[str, Any], policy: str) -> None:
    assert plan_of(inputs).success_policy == policy


def test_horovod() -> None:
    plan = plan_of(HOROVOD)
    assert plan.hostfile == "node-0 slots=2\nnode-1 slots=2\n"
    assert plan.rendezvous is not None
    assert plan.rendezvous.kind == "gloo"
    assert [slot["rank"] for slot in plan.rendezvous.slots] == [0, 1, 2, 3]
    assert set(plan.rendezvous.slots[0]) == {
        *("hostname", "rank", "local_rank", "cross_rank", "size", "local_size", "cross_size"),
    }
    assert [(r.node, r.local_rank) for r in plan.replicas] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [r.env["HOROVOD_RANK"] for r in plan.replicas] == [r.env["TFJOBS_RANK"] for r in plan.replicas]
    assert not any(r.needs_port or "TF_CONFIG" in r.env for r in plan.replicas)


def test_horovod_by_mpi() -> None:
    plan = plan_of({"distribution": {"kind": "horovod", "nodes": 2, "controller": "mpi"}})
    assert plan.rendezvous is not None
    assert plan.rendezvous.kind == "mpi"
    assert "HOROVOD_RANK" not in plan.replicas[0].env
    assert plan.replicas[1].env["TFJOBS_RANK"] == "1"
    assert "(Horovod, MPI)" in preview_summary(plan)


def test_replicas_are_spread_over_the_nodes() -> None:
    plan = plan_of({"distributedBackend": "ps", "nodeCount": 2, "workerCount": 4, "parameterServerCount": 2})
    nodes = {r.name: (r.node, r.local_rank) for r in plan.replicas}
    assert [nodes[f"worker-{i}"] for i in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert {nodes["ps-0"][0], nodes["ps-1"][0]} == {0, 1}


def test_variables_are_merged_and_secrets_left_out() -> None:
    plan = plan_of(
        {"environmentVariables": {"A": "1", "TOKEN": "s3cret", "PYTHONUNBUFFERED": "0"}},
        secret=frozenset({"environmentVariables.TOKEN"}),
    )
    assert plan.env["A"] == "1"
    assert plan.env["PYTHONUNBUFFERED"] == "0"
    assert "s3cret" not in json.dumps(plan.to_json())
    assert plan_of({}).env["PYTHONUNBUFFERED"] == "1"


def test_inputs_are_paths_for_the_script() -> None:
    plan = plan_of(
        {
            "inputs": {"train-data": "./d"},
            "scriptParams": {"--data": "${{inputs.train-data}}", "--list": ["${{ inputs.train-data }}/a", "b"]},
            "arguments": ["x=${{inputs.train-data}}"],
        },
        data=(InputData("train-data", "/abs/d \\1", "1" * 64),),
    )
    assert plan.env["TFJOBS_INPUT_TRAIN_DATA"] == "/abs/d \\1"
    assert plan.replicas[0].argv[2:] == ("--data", "/abs/d \\1", "--list", "/abs/d \\1/a", "b", "x=/abs/d \\1")


def test_limits_reach_the_target() -> None:
    plan = plan_of({"maxRunDurationSeconds": 90, "stopGraceSeconds": 3, "useGpu": True})
    assert (plan.max_run_duration_seconds, plan.stop_grace_seconds, plan.use_gpu) == (90.0, 3.0, True)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "1 process, 1 slot, tensorflow-cpu 2.15.1"),
        ({"useGpu": True}, "1 process, 1 GPU, tensorflow 2.15.1"),
        ({"pipPackages": ["tensorflow-cpu==2.15.*"]}, "1 process, 1 slot, tensorflow-cpu ==2.15.*"),
        ({"userManaged": True}, "1 process, 1 slot, python3"),
        ({"distributedBackend": "mpi", "nodeCount": 2}, "2 workers (Horovod, Gloo), 2 slots, tensorflow-cpu 2.15.1"),
        (
            {"distributedBackend": "ps", "workerCount": 2},
            "1 parameter server, 2 workers, 2 slots, tensorflow-cpu 2.15.1",
        ),
        (PS, "2 parameter servers, 1 chief, 2 workers, 1 evaluator, 4 slots, tensorflow-cpu 2.15.1"),
    ],
)
def test_the_summary(inputs: dict[str, Any], text: str) -> None:
    assert preview_summary(plan_of(inputs)) == text


_COUNT = st.integers(1, 6)
_DISTRIBUTIONS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("single")}),
    st.fixed_dictionaries(
        {
            "kind": st.just("horovod"),
            "nodes": _COUNT,
            "processesPerNode": _COUNT,
            "controller": st.sampled_from(["gloo", "mpi"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("parameterServer"),
            "workers": _COUNT,
            "parameterServers": _COUNT,
            "chief": st.booleans(),
            "evaluator": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {"kind": st.just("multiWorker"), "workers": _COUNT, "chief": st.booleans(), "evaluator": st.booleans()}
    ),
)


@settings(deadline=None)
@given(_DISTRIBUTIONS)
def test_any_plan_is_whole_and_survives_json(distribution: dict[str, Any]) -> None:
    plan = plan_of({"distribution": distribution})
    names = [replica.name for replica in plan.replicas]
    assert len(set(names)) == len(names)
    ranks = sorted(int(r.env["TFJOBS_RANK"]) for r in plan.replicas if "TFJOBS_RANK" in r.env)
    assert ranks == list(range(plan.world_size))
    places = [(r.node, r.local_rank) for r in plan.replicas if r.slot]
    assert len(set(places)) == len(places)
    assert launch_plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
