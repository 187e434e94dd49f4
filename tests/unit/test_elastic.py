"""An elastic Horovod job, from its arguments to its plan; and what a change of its numbers does."""

from __future__ import annotations

import base64
import os
import pickle
from typing import Any

import pytest

from pulumi_tfjobs.plan import diff, preview_summary
from pulumi_tfjobs.spec.launch import Rendezvous, launch_plan_from_json
from pulumi_tfjobs.spec.model import Horovod
from pulumi_tfjobs.targets.base import Capabilities
from pulumi_tfjobs.targets.local.elastic_driver import check_plain, timeout_of
from pulumi_tfjobs.targets.local.gpus import share
from tests.unit.jobs import HERE, plan_of, problems_of, spec_of


def elastic(**fields: Any) -> dict[str, Any]:
    return {"distribution": {"kind": "horovod", **fields}}


@pytest.mark.parametrize(
    ("fields", "least", "most"),
    [
        ({"nodes": 2, "minWorkers": 1, "maxWorkers": 4}, 1, 4),
        ({"nodes": 2, "processesPerNode": 2, "minWorkers": 2}, 2, 4),
        ({"nodes": 2, "maxWorkers": 3}, 1, 3),
        ({"minWorkers": 1}, 1, 1),
    ],
)
def test_the_number_that_is_not_given_has_its_default(fields: dict[str, Any], least: int, most: int) -> None:
    distribution = spec_of(elastic(**fields)).distribution
    assert isinstance(distribution, Horovod)
    assert (distribution.elastic, distribution.min_workers, distribution.max_workers) == (True, least, most)


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"nodes": 2, "minWorkers": 3, "maxWorkers": 2}, "minWorkers", "say minWorkers: 2, or maxWorkers: 3"),
        ({"minWorkers": 2, "maxWorkers": 4}, "nodes", "nodes times processesPerNode is 1 times 1, and minWorkers is 2"),
        ({"nodes": 2, "minWorkers": 3}, "nodes", "raise nodes or processesPerNode, or say minWorkers: 2"),
        ({"nodes": 5, "maxWorkers": 4}, "nodes", "say maxWorkers: 5"),
        ({"processesPerNode": 5, "maxWorkers": 4}, "processesPerNode", "at most 4 workers at the start"),
        ({"nodes": 2, "minWorkers": 0}, "minWorkers", "1"),
        ({"nodes": 2, "maxWorkers": "many"}, "maxWorkers", "many"),
        ({"nodes": 2, "minWorkers": 1, "controller": "mpi"}, "controller", "remove minWorkers and maxWorkers"),
    ],
)
def test_numbers_that_do_not_fit(fields: dict[str, Any], path: str, words: str) -> None:
    found = problems_of(elastic(**fields))
    assert list(found) == [f"distribution.{path}"]
    assert words in str(found[f"distribution.{path}"])


def test_all_problems_are_told_at_once() -> None:
    found = problems_of(elastic(nodes=9, minWorkers=2, maxWorkers=4, controller="mpi"))
    assert sorted(found) == ["distribution.controller", "distribution.nodes"]


def test_what_is_not_known_yet_is_not_checked() -> None:
    unknown = frozenset({"distribution.nodes"})
    assert problems_of(elastic(minWorkers=2, maxWorkers=4), unknown=unknown) == {}
    unknown = frozenset({"distribution.minWorkers"})
    assert problems_of(elastic(nodes=2, maxWorkers=4), unknown=unknown) == {}


def test_a_target_has_slots_for_the_most_workers_or_says_so() -> None:
    small = Capabilities(slots=3, gpus=0, elastic=True)
    found = problems_of(elastic(nodes=2, maxWorkers=4), capabilities=small)
    assert "the job takes 4 slots (4 worker)" in found["distribution"].found
    assert problems_of(elastic(nodes=2, maxWorkers=3), capabilities=small) == {}


def test_a_target_that_cannot_replace_workers_says_so() -> None:
    found = problems_of(elastic(nodes=2, minWorkers=1), capabilities=Capabilities(slots=8, gpus=0))
    assert "remove minWorkers and maxWorkers" in found["distribution"].fix


def test_horovods_elastic_mode_is_no_variable_of_the_users_but_its_timeouts_are() -> None:
    variables = dict.fromkeys(("ELASTIC", "ELASTIC_TIMEOUT", "GLOO_TIMEOUT_SECONDS"), "7")
    given = {f"HOROVOD_{name}": text for name, text in variables.items()}
    found = problems_of({**elastic(nodes=2, minWorkers=1), "environmentVariables": given})
    assert list(found) == ["environmentVariables.HOROVOD_ELASTIC"]


def test_the_plan() -> None:
    plan = plan_of(elastic(nodes=2, minWorkers=1, maxWorkers=4))
    assert plan.rendezvous == Rendezvous("elastic", min_workers=1, max_workers=4)
    assert [replica.name for replica in plan.replicas] == ["worker-0", "worker-1", "worker-2", "worker-3"]
    assert (plan.world_size, plan.slots, plan.success_policy) == (2, 4, "all_workers")
    # What changes while it runs is not told in advance, where it would soon be wrong.
    told = {name for replica in plan.replicas for name in {**plan.env, **replica.env}}
    assert not told & {"HOROVOD_RANK", "HOROVOD_SIZE", "TFJOBS_RANK", "TFJOBS_WORLD_SIZE", "TF_CONFIG"}
    assert launch_plan_from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("least", "most", "words"),
    [
        (2, 4, "2–4 workers (Horovod elastic, Gloo), 4 slots"),
        (2, 2, "2 workers (Horovod elastic, Gloo), 2 slots"),
        (1, 2, "1–2 workers (Horovod elastic, Gloo), 2 slots"),
    ],
)
def test_preview_shows_both_numbers(least: int, most: int, words: str) -> None:
    plan = plan_of(elastic(nodes=2, minWorkers=least, maxWorkers=most))
    assert preview_summary(plan) == f"{words}, tensorflow-cpu 2.15.1"


def test_a_job_that_is_not_elastic_keeps_its_digest() -> None:
    spec = spec_of(elastic(nodes=2))
    assert set(spec.identity()["distribution"]) == {"kind", "nodes", "processes_per_node", "controller"}
    assert spec_of(elastic(nodes=2, minWorkers=1)).digest != spec.digest
    assert spec_of(elastic(nodes=2, minWorkers=1)).digest == spec_of(elastic(nodes=2, maxWorkers=2)).digest


def test_each_worker_has_a_gpu_of_its_own() -> None:
    plan = plan_of({**elastic(processesPerNode=2, minWorkers=1), "useGpu": True}).to_json()
    assert share(plan, ["0", "1"]) == {"worker-0": "0", "worker-1": "1"}


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({"nodes": 2}, {"nodes": 2, "minWorkers": 1}, {"minWorkers": "add"}),
        ({"nodes": 2, "maxWorkers": 3}, {"nodes": 2, "maxWorkers": 4}, {"maxWorkers": "update"}),
        ({"nodes": 2, "minWorkers": 1}, {"nodes": 2}, {"minWorkers": "delete"}),
        ({"nodes": 2, "minWorkers": 1}, {"nodes": 3, "minWorkers": 1}, {"nodes": "update"}),
        ({"nodes": 2, "minWorkers": 1}, {"nodes": 2, "maxWorkers": 2}, {}),
    ],
)
def test_another_number_trains_again_and_is_named(
    old: dict[str, Any], new: dict[str, Any], paths: dict[str, str]
) -> None:
    before, after = {**HERE, **elastic(**old)}, {**HERE, **elastic(**new)}
    digests = [spec_of(inputs).digest for inputs in (before, after)]
    changes = diff(before, after, old_digest=digests[0], new_digest=digests[1])
    assert {change.path: change.kind for change in changes} == {
        f"distribution.{path}": kind for path, kind in paths.items()
    }
    assert all(change.klass == "retrain" for change in changes)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("here",)


def test_what_horovod_unpickles_may_name_no_code(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_plain(base64.b64encode(pickle.dumps(({"lo": [("127.0.0.1", 4711)]}, b"key"))))
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        check_plain(base64.b64encode(pickle.dumps(Evil())))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("env", "seconds"), [({}, 600.0), ({"HOROVOD_ELASTIC_TIMEOUT": "5"}, 5.0)])
def test_how_long_there_may_be_too_few(env: dict[str, str], seconds: float) -> None:
    assert timeout_of(env) == seconds
    assert timeout_of({"HOROVOD_ELASTIC_TIMEOUT": "soon"}) == 600.0
