"""What is kept of a preview and an update: the file that TFJOBS_PLAN names, the stack's total, warnings, and what the
state remembers of a run of one's own."""

from __future__ import annotations

import json
import os
from collections.abc import Container
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.lifecycle import Planned
from pulumi_tfjobs.plan import JobPlan, JobResult, decide
from pulumi_tfjobs.plan.record import ChangeRecord, read_records
from pulumi_tfjobs.provider import wire
from pulumi_tfjobs.provider.engine_log import EngineLog
from pulumi_tfjobs.provider.planned import GENERATION, PLAN_VARIABLE, Plans, current_of, result_of
from pulumi_tfjobs.provider.protos import engine_pb2, provider_pb2
from pulumi_tfjobs.spec.model import EnvironmentSpec, JobSpec, SourceManifest, TargetRef
from tests.provider.conftest import INPUTS, URN, Plugin
from tests.provider.fakes import FakeChange, RunResult

OTHER = URN.replace("mnist", "resnet")
DEADLINE = 60.0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "plan.jsonl"
    monkeypatch.setenv(PLAN_VARIABLE, str(path))
    return path


def a_plan(urn: str = URN, **fields: Any) -> JobPlan:
    given: dict[str, Any] = {"name": "mnist", "job": "mnist", "klass": "train", "launches": True, "reason": "a new job"}
    return JobPlan(urn=urn, **{**given, **fields})


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def goodbye(plugin: Plugin) -> None:
    from google.protobuf import empty_pb2

    await plugin.call("Cancel", empty_pb2.Empty())


# The file


async def test_each_job_of_a_preview_is_a_line(plugin: Plugin, file: Path) -> None:
    for urn in (URN, OTHER):
        inputs = {**INPUTS, "scriptParams": {"--of": urn}}
        await plugin.create(await plugin.checked(inputs, urn), preview=True, urn=urn)
    found = records(file)
    assert [(line["kind"], line["urn"], line["klass"], line["launches"]) for line in found] == [
        ("plan", URN, "train", True),
        ("plan", OTHER, "train", True),
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    plans, results = read_records(file.read_text().splitlines())
    assert (set(plans), results) == ({URN, OTHER}, {})


async def test_an_update_adds_what_it_did(plugin: Plugin, file: Path) -> None:
    created = await plugin.create(await plugin.checked(INPUTS))
    plans, results = read_records(file.read_text().splitlines())
    assert plans[URN].klass == "train"
    result = results[URN]
    run_id = wire.decode(created.properties)["runId"]
    assert (result.action, result.run_id, result.status, result.metrics) == (
        "launched",
        run_id,
        "succeeded",
        {"accuracy": 0.97},
    )


async def test_a_job_whose_change_is_ignored_is_in_the_file_too(plugin: Plugin, file: Path) -> None:
    created = await plugin.create(await plugin.checked(INPUTS))
    news = await plugin.checked({**INPUTS, "sourceDirectory": "./other"})
    file.unlink()
    await plugin.call("Update", provider_pb2.UpdateRequest(id=created.id, urn=URN, olds=created.properties, news=news))
    plans, results = read_records(file.read_text().splitlines())
    assert set(plans) == {URN}
    assert (results[URN].action, results[URN].run_id) == ("updated", created.id.split("/")[-1])


async def test_a_job_with_which_nothing_happens_is_in_the_file_too(plugin: Plugin, file: Path) -> None:
    inputs = await plugin.checked(INPUTS)
    created = await plugin.create(inputs)
    file.unlink()
    await plugin.checked(INPUTS)
    await plugin.call(
        "Diff",
        provider_pb2.DiffRequest(id=created.id, urn=URN, olds=created.properties, old_inputs=inputs, news=inputs),
    )
    (line,) = records(file)
    assert (line["urn"], line["klass"], line["launches"]) == (URN, "nothing", False)


async def test_without_the_variable_nothing_is_written(
    plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLAN_VARIABLE, raising=False)
    await plugin.create(await plugin.checked(INPUTS), preview=True)
    await plugin.create(await plugin.checked(INPUTS))
    monkeypatch.setenv(PLAN_VARIABLE, "")
    await plugin.create(await plugin.checked(INPUTS), preview=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("where", ["missing/plan.jsonl", ".", "file/below"])
async def test_a_file_that_cannot_be_written_is_no_failure(
    plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(PLAN_VARIABLE, str(tmp_path / where))
    inputs = await plugin.checked(INPUTS)
    await plugin.create(inputs, preview=True)
    created = await plugin.create(inputs)
    assert wire.decode(created.properties)["status"] == "succeeded"


async def test_nothing_secret_is_in_the_file(plugin: Plugin, file: Path) -> None:
    inputs = await plugin.checked({**INPUTS, "environmentVariables": {"TOKEN": wire.Secret("hush")}})
    await plugin.create(inputs, preview=True)
    await plugin.create(inputs)
    assert len(records(file)) == 3
    assert "hush" not in file.read_text()


def append(barrier: Barrier, answers: Any, path: str, index: int) -> None:
    """One plugin of several: forty jobs, each with a long diff."""
    os.environ[PLAN_VARIABLE] = path
    plans = Plans(EngineLog())
    barrier.wait(DEADLINE)
    for number in range(40):
        text = f"{index}:" * 5000
        change = ChangeRecord(path="x", kind="update", klass="retrain", reason="r", before=text, after="\n\u2028é")
        plans.keep(a_plan(f"urn-{index}-{number}", changes=(change,)))
        plans.result(JobResult(urn=f"urn-{index}-{number}", action="launched", run_id="x", status="succeeded"))
    answers.put(index)


def test_several_plugins_append_to_one_file(file: Path) -> None:
    from tests.helpers.store_workers import at_once

    at_once(append, [(str(file), index) for index in range(4)])
    lines = file.read_text().splitlines()
    assert len(lines) == 4 * 40 * 2
    plans, results = read_records(lines)
    assert len(plans) == len(results) == 160
    for urn, plan in plans.items():
        index = urn.split("-")[1]
        assert plan.changes[0].before == f"{index}:" * 5000
        assert plan.changes[0].after == "\n\u2028é"


def test_lines_that_are_neither_are_passed_over_and_the_last_of_a_urn_counts() -> None:
    plan, later = a_plan(reason="first"), a_plan(reason="second")
    # What a result quotes does not make it a plan.
    result = JobResult(urn=URN, action="reused", run_id="x", status="succeeded", reason='"kind":"plan"')
    texts = [json.dumps(record.to_json()) for record in (plan, later, result)]
    newer = json.dumps({**plan.to_json(), "klass": "dreamt", "urn": "newer"})
    more = json.dumps({**later.to_json(), "andMore": 1})
    plans, results = read_records([texts[0], "", "{", "[]", "3", "null", newer, texts[1][:-20], more, texts[2]])
    assert plans == {URN: later}
    assert results == {URN: result}


def test_old_names_and_python_names_are_both_read() -> None:
    plan = a_plan(run_id="mnist-1", unknown=("a",))
    assert "runId" in plan.to_json()
    assert JobPlan.model_validate(plan.to_json()) == plan
    assert JobPlan.model_validate_json(json.dumps(plan.to_json())) == plan


# What is said


async def test_the_total_is_said_once_and_only_after_a_preview(plugin: Plugin) -> None:
    def totals() -> list[str]:
        return [said.message for said in plugin.engine.logged if said.message.startswith("training jobs:")]

    await plugin.create(await plugin.checked(INPUTS), preview=True)
    await plugin.create(await plugin.checked(INPUTS, OTHER), preview=True, urn=OTHER)
    assert totals() == []
    await goodbye(plugin)
    (total,) = totals()
    assert "of 2 jobs" in total
    (said,) = (said for said in plugin.engine.logged if said.message == total)
    assert (said.urn, said.severity, said.ephemeral) == ("", engine_pb2.INFO, False)
    await goodbye(plugin)
    assert totals() == [total]


async def test_an_update_says_no_total(plugin: Plugin) -> None:
    await plugin.create(await plugin.checked(INPUTS))
    await goodbye(plugin)
    assert not [said for said in plugin.engine.logged if "training jobs" in said.message]


async def test_the_next_preview_of_the_same_plugin_counts_anew(plugin: Plugin) -> None:
    await plugin.create(await plugin.checked(INPUTS), preview=True)
    await goodbye(plugin)
    await plugin.call("Configure", provider_pb2.ConfigureRequest())  # another update
    await plugin.create(await plugin.checked(INPUTS, OTHER), preview=True, urn=OTHER)
    await goodbye(plugin)
    assert "of 1 job " in plugin.engine.logged[-1].message


async def test_what_is_likely_wrong_is_a_warning(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = a_plan(warnings=("the interpreter is not there", "an odd combination"), notes=("needs 2 slots",))

    async def describe(planned: Planned, *, urn: str, name: str, coming: Container[str] = ()) -> JobPlan:
        return plan

    monkeypatch.setattr(plugin.lifecycle, "describe", describe)
    await plugin.create(await plugin.checked(INPUTS), preview=True)
    said = [(log.severity, log.urn, log.message) for log in plugin.engine.logged]
    assert said == [
        (engine_pb2.INFO, URN, "mnist  train  a new job\n  needs 2 slots"),
        (engine_pb2.WARNING, URN, "the interpreter is not there"),
        (engine_pb2.WARNING, URN, "an odd combination"),
    ]


# Two jobs of one preview


async def test_two_new_jobs_of_the_same_content_launch_once(plugin: Plugin, file: Path) -> None:
    inputs = {**INPUTS, "name": "same"}
    for urn in (URN, OTHER):
        await plugin.create(await plugin.checked(inputs, urn), preview=True, urn=urn)
    first, second = records(file)
    assert (first["klass"], second["klass"], second["launches"]) == ("train", "attach", False)
    assert "mnist" in second["reason"]
    # And so it is.
    for urn in (URN, OTHER):
        await plugin.create(await plugin.checked(inputs, urn), urn=urn)
    (run,) = plugin.lifecycle.runs.values()
    assert run.attempt == 1


async def test_a_job_hears_which_runs_the_preview_has_launched_before(plugin: Plugin, file: Path) -> None:
    for urn in (URN, OTHER):
        inputs = await plugin.checked({**INPUTS, "scriptParams": {"--of": urn}}, urn)
        await plugin.create(inputs, preview=True, urn=urn)
    first, second = records(file)
    assert first["runId"] in plugin.lifecycle.coming
    assert second["runId"] not in plugin.lifecycle.coming


def a_spec(**fields: Any) -> JobSpec:
    return JobSpec("mnist", SourceManifest("/src", ()), "train.py", EnvironmentSpec(), TargetRef("local"), **fields)


def new_one(spec: JobSpec) -> Planned:
    return Planned(spec, decide(exists=False, digest=spec.digest, run=None), None, None)


async def test_jobs_of_one_name_below_two_parents_share_a_run_as_well(plugin: Plugin, file: Path) -> None:
    urns = [URN.replace("tfjobs:index", f"my:index:{parent}$tfjobs:index") for parent in ("A", "B")]
    for urn in (*urns, urns[0]):
        await plugin.create(await plugin.checked(INPUTS, urn), preview=True, urn=urn)
    # Asked again, the first one still launches it.
    assert [line["klass"] for line in records(file)] == ["train", "attach", "train"]


async def test_two_jobs_that_want_a_run_of_their_own_are_not_told_of_the_same(
    plugin: Plugin, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def own(spec: JobSpec, urn: str, current: Any, taken: Any = ()) -> JobSpec:
        runs = (replace(spec, generation=number) for number in range(1, 9))
        return next(run for run in runs if run.digest not in taken)

    monkeypatch.setattr(plugin.lifecycle, "own", own)
    inputs = {**INPUTS, "name": "same"}
    for urn in (URN, OTHER, URN, OTHER):
        await plugin.create(await plugin.checked(inputs, urn), preview=True, urn=urn)
    first, second, again, other = records(file)
    assert {line["klass"] for line in records(file)} == {"train"}
    assert first["runId"] != second["runId"]
    assert (again["runId"], other["runId"]) == (first["runId"], second["runId"])


def test_a_shared_run_has_the_id_that_is_made_of_the_first_ones_name() -> None:
    plans = Plans(EngineLog())
    first, second = a_spec(), JobSpec(**{**vars(a_spec()), "name": "resnet"})
    plans.shared(new_one(first), URN)
    shared = plans.shared(new_one(second), OTHER)
    assert shared.run is not None
    assert shared.run.run_id == first.run_id != second.run_id


async def test_jobs_that_are_replaced_by_one_run_are_said_to_launch_it_once(plugin: Plugin, file: Path) -> None:
    created = {
        urn: await plugin.create(await plugin.checked({**INPUTS, "name": urn[-4:]}, urn), urn=urn)
        for urn in (URN, OTHER)
    }
    plugin.differ.changes = [FakeChange("scriptParams", "update", "retrain")]
    news = {}
    for urn in (URN, OTHER):  # the engine compares every resource before the first is replaced
        news[urn] = await plugin.checked({**INPUTS, "name": "same", "scriptParams": {"--lr": 1}}, urn)
        request = {"id": created[urn].id, "urn": urn, "olds": created[urn].properties, "news": news[urn]}
        await plugin.call("Diff", provider_pb2.DiffRequest(**request))
    file.unlink()
    for urn in (URN, OTHER):
        await plugin.create(news[urn], urn=urn)
    assert [line["klass"] for line in records(file) if line["kind"] == "plan"] == ["retrain", "attach"]


async def test_a_replacement_that_the_user_asks_for_is_planned_as_it_is_made(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = await plugin.checked(INPUTS)
    created = await plugin.create(inputs)
    inputs = await plugin.checked(INPUTS)
    await plugin.call("Diff", provider_pb2.DiffRequest(id=created.id, urn=URN, olds=created.properties, news=inputs))
    asked: list[Any] = []

    async def own(spec: JobSpec, urn: str, current: Any, taken: Any = ()) -> JobSpec:
        asked.append(current)
        return spec

    monkeypatch.setattr(plugin.lifecycle, "own", own)
    await plugin.create(inputs, preview=True)
    assert asked == [None]  # Create does not know what the resource had: with `reuse` off it makes another run


def test_whoever_wants_a_run_of_its_own_shares_none() -> None:
    plans = Plans(EngineLog())
    decisions = [plans.shared(new_one(a_spec(reuse=False, generation=1)), urn).decision for urn in (URN, OTHER)]
    assert [(decision.klass, decision.launches) for decision in decisions] == [("train", True), ("train", True)]


def test_stores_share_nothing() -> None:
    plans = Plans(EngineLog())
    for number, store in enumerate(("default", "other")):
        spec = a_spec()
        planned = new_one(JobSpec(**{**vars(spec), "target": TargetRef("local", {"store": store})}))
        assert plans.shared(planned, f"urn-{number}").decision.klass == "train"


# What the state remembers


async def test_the_generation_is_kept_by_read_and_update(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure = plugin.lifecycle.ensure

    async def third(*args: Any, **keywords: Any) -> RunResult:
        return (await ensure(*args, **keywords))._replace(generation=2)

    with monkeypatch.context() as patched:
        patched.setattr(plugin.lifecycle, "ensure", third)
        inputs = await plugin.checked(INPUTS)
        created = await plugin.create(inputs)
        assert wire.decode(created.properties)[GENERATION] == 2
        update = provider_pb2.UpdateRequest(
            id=created.id, urn=URN, olds=created.properties, news=inputs, old_inputs=inputs
        )
        updated = await plugin.call("Update", update)
        assert wire.decode(updated.properties)[GENERATION] == 2
    read = await plugin.call(
        "Read", provider_pb2.ReadRequest(id=created.id, urn=URN, properties=created.properties, inputs=inputs)
    )
    outputs = wire.decode(read.properties)
    assert outputs[GENERATION] == 2
    assert current_of(created.id, outputs).generation == 2
    assert GENERATION not in wire.decode(read.inputs)


async def test_the_first_run_of_a_content_needs_no_generation(plugin: Plugin) -> None:
    created = await plugin.create(await plugin.checked(INPUTS))
    assert GENERATION not in wire.decode(created.properties)


@pytest.mark.parametrize(
    ("resource_id", "outputs", "expected"),
    [
        (
            "local/mine/mnist-1",
            {"runId": "mnist-1", "digest": "d", "status": "failed", "metrics": {"a": 1.0}, GENERATION: 3},
            ("mnist-1", "d", "failed", {"a": 1.0}, 3, "mine"),
        ),
        ("local/mine/mnist-1", {}, ("mnist-1", "", "", {}, 0, "mine")),
        ("odd", {"metrics": "odd", GENERATION: "odd", "digest": None}, ("odd", "", "", {}, 0, "default")),
    ],
)
def test_the_run_that_a_resource_has(resource_id: str, outputs: dict[str, Any], expected: tuple[Any, ...]) -> None:
    current = current_of(resource_id, outputs)
    assert (
        current.run_id,
        current.digest,
        current.status,
        current.metrics,
        current.generation,
        current.store,
    ) == expected


def test_a_result_is_made_of_outputs() -> None:
    outputs = {
        "runId": "mnist-1",
        "status": "succeeded",
        "reason": "",
        "metrics": {"loss": "NaN", "accuracy": 0.9},
        "durationSeconds": 12.5,
        "outputsDir": "/home/stores/default/runs/mnist-1/outputs",
    }
    result = result_of(URN, "launched", outputs)
    assert result.model_dump() == {
        "kind": "result",
        "urn": URN,
        "action": "launched",
        "run_id": "mnist-1",
        "status": "succeeded",
        "reason": "",
        "metrics": {"loss": "NaN", "accuracy": 0.9},
        "seconds": 12.5,
        "run_folder": "/home/stores/default/runs/mnist-1",
    }
    empty = result_of(URN, "waited", {})
    assert (empty.run_id, empty.seconds, empty.run_folder) == ("", None, "")
