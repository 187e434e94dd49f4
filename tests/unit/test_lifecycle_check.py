"""Check and preview: every problem at once, from wherever it comes, and not a byte written."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs import lifecycle
from pulumi_tfjobs.errors import InvalidInputs
from pulumi_tfjobs.lifecycle import checking
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.args import parse_args
from pulumi_tfjobs.spec.model import InputData, TargetRef
from tests.helpers.fake_target import World
from tests.helpers.jobs import Job, described, put, tree


@pytest.fixture
def job(tmp_path: Path, world: World) -> Job:
    return Job(tmp_path / "program")


def problems(job: Job, **changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidInputs) as caught:
        job.check(**changes)
    found = {problem.path: problem.reason for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), caught.value
    return found


# Check


def test_a_good_job_is_understood(job: Job) -> None:
    put(job.directory / "data" / "x.csv", "1,2")
    spec = job.check(name="My_Job", inputs={"data": "data"}, computeTarget={"kind": "fake", "color": "red"})
    assert spec.name == "my-job"
    assert [file.path for file in spec.source.files] == ["train.py"]
    assert spec.source.root == str(job.source)
    assert spec.target == TargetRef("fake", {"store": "default", "color": "red"})
    (data,) = spec.inputs
    assert data == InputData("data", str(job.directory / "data"), data.digest)
    put(job.directory / "data" / "x.csv", "1,3")
    assert job.check(inputs={"data": "data"}).inputs != (data,)


def test_problems_of_every_kind_are_said_at_once(job: Job) -> None:
    os.symlink("/etc/hostname", job.source / "outside")
    found = problems(
        job,
        nodeCount=-1,
        entry_script="x",
        pipPackages="numpy",
        computeTarget={"kind": "fake", "colour": "red", "size": 3},
        inputs={"data": "missing", "more": "missing-too"},
        waitFor="later",
    )
    assert sorted(found) == [
        "computeTarget.colour",
        "computeTarget.size",
        "entry_script",
        "inputs.data",
        "inputs.more",
        "nodeCount",
        "pipPackages",
        "sourceDirectory",
        "waitFor",
    ]
    for reason in found.values():
        assert "Expected: " in reason
        assert "To fix: " in reason
    assert "outside is a link that leaves the directory" in found["sourceDirectory"]


def test_cross_checks_run_beside_what_is_wrong_in_itself(job: Job, world: World) -> None:
    world.slots = 2
    found = problems(job, entryScript="trian.py", workerCount=4, distributedBackend="multi_worker", rerun=3)
    assert set(found) == {"entryScript", "workerCount", "rerun"}
    assert "train.py" in found["entryScript"]
    assert "2" in found["workerCount"]


@pytest.mark.parametrize(
    ("target", "path", "words"),
    [
        ({"kind": "fak"}, "computeTarget.kind", "write kind: fake"),
        ({"kind": "mainframe"}, "computeTarget.kind", "choose one of these"),
        ({"kind": 3}, "computeTarget", "kind"),
        ({"kind": ""}, "computeTarget", "kind"),
        ("fake", "computeTarget", "map"),
    ],
)
def test_a_wrong_target_is_said_once(job: Job, target: Any, path: str, words: str) -> None:
    found = problems(job, computeTarget=target)
    assert list(found) == [path]
    assert words in found[path]


def test_a_target_without_kind_is_this_machine_and_nulls_are_not_given(job: Job) -> None:
    assert job.check(computeTarget={"slots": None}).target.kind == "local"
    assert job.check(computeTarget=None).target.kind == "local"
    assert job.check(computeTarget={"kind": "fake", "color": None}).target.options["color"] == "none"


def test_a_source_of_the_users_own_is_told_where_it_belongs(job: Job) -> None:
    found = problems(job, source="./src", sourceDirectory=None)
    assert "sourceDirectory" in found
    assert "sourceDirectory" in found["source"]


def test_the_computed_source_of_an_earlier_check_is_passed_over(job: Job) -> None:
    spec = job.check()
    assert job.check(source=lifecycle.source_property(spec)) == spec


def test_a_secret_value_is_never_shown(job: Job) -> None:
    secret = frozenset({'environmentVariables["KEY"]', "environmentVariables.KEY", "rerun", "entryScript"})
    with pytest.raises(InvalidInputs) as caught:
        job.check(environmentVariables={"KEY": ["hush-hush"]}, rerun=31415926, secret=secret)
    assert "hush" not in str(caught.value)
    assert "31415926" not in str(caught.value)


def test_relative_paths_are_relative_to_the_program(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert job.check(sourceDirectory="./sub/../src").source.root == str(job.source)
    assert job.check(sourceDirectory=str(job.source)).source.root == str(job.source)
    monkeypatch.setenv("HOME", str(job.directory))
    assert job.check(sourceDirectory="~/src").source.root == str(job.source)


def test_unknown_values_are_passed_over(job: Job) -> None:
    inputs = {key: value for key, value in job.inputs.items() if key not in {"sourceDirectory", "computeTarget"}}
    unknown = frozenset({"sourceDirectory", "computeTarget", "scriptParams"})
    spec = lifecycle.check(inputs, name="mnist", directory=str(job.directory), unknown=unknown)
    assert unknown <= spec.unknown
    plan = asyncio.run(described(spec))
    assert (plan.klass, plan.launches, plan.run_id, plan.digest) == ("unknown", None, "", "")
    assert "not known before the update: computeTarget, scriptParams, sourceDirectory" in plan.row


# The source property


def test_the_source_property_names_each_file(job: Job) -> None:
    put(job.source / "run.sh", "true")
    (job.source / "run.sh").chmod(0o755)
    spec = job.check()
    found = lifecycle.source_property(spec)
    digests = {file.path: file.digest[:12] for file in spec.source.files}
    assert found == {"run.sh": digests["run.sh"] + " x", "train.py": digests["train.py"]}


def test_a_large_source_is_summed_up_by_folder(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "LISTED_FILES", 4)
    for index in range(4):
        put(job.source / "data" / "deep" / f"{index}.csv", str(index))
    before = lifecycle.source_property(job.check())
    assert sorted(before) == ["data/", "train.py"]
    put(job.source / "data" / "deep" / "2.csv", "changed")
    after = lifecycle.source_property(job.check())
    assert after["data/"] != before["data/"]
    assert after["train.py"] == before["train.py"]
    for index in range(5):
        put(job.source / f"{index}.py", str(index))
    assert sorted(lifecycle.source_property(job.check())) == ["./", "data/"]
    # Whatever its form, an update may give it back as it was.
    assert parse_args({**job.inputs, "source": after})[1] == []


# Preview


def test_a_preview_of_a_new_run_writes_nothing(job: Job, home: Path) -> None:
    before = tree(job.directory)
    spec = job.check()
    plan = asyncio.run(described(spec))
    assert (plan.klass, plan.launches, plan.run_id, plan.digest) == ("train", True, spec.run_id, spec.digest)
    assert plan.needs.replicas == "1 process, 1 slot"
    assert not os.path.lexists(home)
    assert tree(job.directory) == before


@pytest.mark.parametrize(
    ("phase", "known"),
    [
        (phases.SUCCEEDED, "reuses run {}"),
        (phases.FAILED, "a new attempt of {}, which failed"),
        (phases.CANCELLED, "a new attempt of {}, which was stopped"),
        (phases.TIMED_OUT, "a new attempt of {}, which ran out of time"),
        (phases.INTERRUPTED, "a new attempt of {}, which was interrupted"),
        (phases.RUNNING, "goes on with {} (running)"),
    ],
)
async def test_a_preview_says_what_the_store_knows_and_changes_none_of_it(
    job: Job, world: World, home: Path, phase: str, known: str
) -> None:
    world.on_launch = lambda state: state._replace(phase=phase)
    await job.ensure(waitFor="submitted")
    run_id = job.check().run_id
    job.store.close()
    before = tree(home)
    plan = await described(job.check(name="another-name"))
    assert plan.run_id == run_id  # of the run that has this content, whatever the job's name is now
    assert plan.row.startswith(f"mnist  {plan.klass}  {known.format(run_id)}")
    job.store.close()
    assert tree(home) == before
    assert len(world.launches) == 1


@pytest.mark.parametrize("secret", [{"computeTarget"}, {"computeTarget.name", "computeTarget.hourlyPrice"}])
def test_a_target_keeps_its_secrets(job: Job, secret: set[str]) -> None:
    target = {"kind": "local", "name": "hush", "hourlyPrice": 7.25, "slots": 1, "store": "team"}
    spec = job.check(computeTarget=target, secret=frozenset(secret))
    assert (spec.target.options["name"], spec.target.options["hourlyPrice"]) == ("[secret]", None)
    assert (spec.target.options["slots"], spec.target.options["store"]) == (1, "team")
