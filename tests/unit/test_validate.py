"""Cross-checks of a whole job: each problem at its property, with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from pulumi_tfjobs.spec.model import (
    Horovod,
    InputData,
    MultiWorker,
    ParameterServer,
    Single,
    SourceManifest,
)
from pulumi_tfjobs.spec.validate import job_name
from pulumi_tfjobs.targets.base import Capabilities
from tests.unit.jobs import check, problems_of, spec_of

SMALL = Capabilities(slots=2, gpus=0, controllers=frozenset({"gloo"}))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, Single()),
        ({"workerCount": 1, "parameterServerCount": 0, "nodeCount": 1}, Single()),
        ({"distributedBackend": "mpi"}, Horovod(nodes=1, processes_per_node=1)),
        (
            {"distributedBackend": "mpi", "nodeCount": 2, "processCountPerNode": 3},
            Horovod(nodes=2, processes_per_node=3, controller="gloo"),
        ),
        ({"distributedBackend": "ps"}, ParameterServer(workers=1, parameter_servers=1)),
        (
            {"distributedBackend": "ps", "nodeCount": 2, "workerCount": 2, "parameterServerCount": 3},
            ParameterServer(workers=2, parameter_servers=3),
        ),
        ({"distributedBackend": "multi_worker", "workerCount": 3}, MultiWorker(workers=3)),
        ({"distributedBackend": "multi_worker", "nodeCount": 3}, MultiWorker(workers=3)),
        ({"distributedBackend": "multi_worker", "nodeCount": 2, "workerCount": 4}, MultiWorker(workers=4)),
        ({"distribution": {"kind": "single"}}, Single()),
        (
            {"distribution": {"kind": "horovod", "nodes": 2, "processesPerNode": 2, "controller": "mpi"}},
            Horovod(nodes=2, processes_per_node=2, controller="mpi"),
        ),
        (
            {"distribution": {"kind": "parameterServer", "parameterServers": 2, "chief": True, "evaluator": True}},
            ParameterServer(workers=1, parameter_servers=2, chief=True, evaluator=True),
        ),
        ({"distribution": {"kind": "multiWorker"}}, MultiWorker(workers=2)),
    ],
)
def test_how_a_job_is_distributed(inputs: dict[str, Any], expected: Any) -> None:
    assert spec_of(inputs).distribution == expected


@pytest.mark.parametrize(
    ("inputs", "path", "fix"),
    [
        ({"nodeCount": 2}, "nodeCount", '"mpi" (Horovod) or "multi_worker"'),
        ({"processCountPerNode": 2}, "processCountPerNode", '"mpi"'),
        ({"workerCount": 2}, "workerCount", '"ps" (parameter servers) or "multi_worker"'),
        ({"parameterServerCount": 1}, "parameterServerCount", '"ps"'),
        ({"workerCount": 0}, "workerCount", "remove"),
        ({"distributedBackend": "ps", "workerCount": 0}, "workerCount", "1 or more"),
        ({"distributedBackend": "ps", "parameterServerCount": 0}, "parameterServerCount", "multi_worker"),
        ({"distributedBackend": "ps", "processCountPerNode": 2}, "processCountPerNode", '"mpi"'),
        ({"distributedBackend": "mpi", "workerCount": 2}, "workerCount", "nodeCount"),
        ({"distributedBackend": "mpi", "parameterServerCount": 1}, "parameterServerCount", '"ps"'),
        ({"distributedBackend": "multi_worker"}, "workerCount", "workerCount: 2"),
        ({"distributedBackend": "multi_worker", "workerCount": 0}, "workerCount", "1 or more"),
        (
            {"distributedBackend": "multi_worker", "workerCount": 2, "parameterServerCount": 1},
            "parameterServerCount",
            '"ps"',
        ),
        ({"distribution": {"kind": "horovod"}, "nodeCount": 1}, "distribution", "remove nodeCount"),
        ({"distribution": {"kind": "parameterServer", "workers": 0}}, "distribution.workers", "1 or more"),
        (
            {"distribution": {"kind": "parameterServer", "parameterServers": 0}},
            "distribution.parameterServers",
            "multiWorker",
        ),
        ({"distribution": {"kind": "multiWorker", "workers": 0}}, "distribution.workers", "1 or more"),
        ({"successPolicy": "all_workers"}, "successPolicy", "remove"),
    ],
)
def test_counts_that_mean_nothing(inputs: dict[str, Any], path: str, fix: str) -> None:
    found = problems_of(inputs)
    assert set(found) == {path}
    assert fix in found[path].fix


def test_two_forms_name_every_flat_argument() -> None:
    found = problems_of({"distribution": {"kind": "single"}, "workerCount": 1, "distributedBackend": "ps"})
    assert "workerCount, distributedBackend" in found["distribution"].found


@pytest.mark.parametrize(
    ("inputs", "path"),
    [
        ({"distributedBackend": "mpi", "nodeCount": 3}, "nodeCount"),
        ({"distributedBackend": "mpi", "processCountPerNode": 3}, "processCountPerNode"),
        ({"distributedBackend": "ps", "workerCount": 3}, "workerCount"),
        ({"distributedBackend": "multi_worker", "nodeCount": 3}, "nodeCount"),
        ({"distribution": {"kind": "parameterServer", "workers": 2, "chief": True}}, "distribution"),
        ({"distribution": {"kind": "multiWorker", "evaluator": True}}, "distribution"),
    ],
)
def test_more_processes_than_slots(inputs: dict[str, Any], path: str) -> None:
    found = problems_of(inputs, capabilities=SMALL)
    assert set(found) == {path}
    assert "LocalTarget(slots=3)" in found[path].fix


def test_parameter_servers_take_no_slot() -> None:
    spec_of({"distributedBackend": "ps", "workerCount": 2, "parameterServerCount": 5}, capabilities=SMALL)


def test_gpus() -> None:
    assert "useGpu: false" in problems_of({"useGpu": True}, capabilities=SMALL)["useGpu"].fix
    two = Capabilities(slots=8, gpus=2)
    assert (
        "4 processes"
        in problems_of({"useGpu": True, "distributedBackend": "mpi", "nodeCount": 4}, capabilities=two)["useGpu"].found
    )
    spec_of({"useGpu": True}, capabilities=Capabilities(slots=None, gpus=None))


def test_a_controller_that_the_target_lacks() -> None:
    found = problems_of({"distribution": {"kind": "horovod", "controller": "mpi"}}, capabilities=SMALL)
    assert found["distribution.controller"].fix == "say controller: gloo"


def test_the_entry_script_is_looked_for() -> None:
    assert "train.py" in problems_of({"entryScript": "trian.py"})["entryScript"].fix
    assert "lib/model.py" in problems_of({"entryScript": "model.py"})["entryScript"].fix
    assert "lib/model.py" in problems_of({"entryScript": "lib"})["entryScript"].fix
    empty = SourceManifest("/src", ())
    assert "put the script there" in problems_of({}, source=empty)["entryScript"].fix


@pytest.mark.parametrize("script", ["", ".", "..", "/src/train.py", "../train.py", "lib/../../train.py"])
def test_the_entry_script_lies_in_the_source_directory(script: str) -> None:
    assert set(problems_of({"entryScript": script})) == {"entryScript"}


@pytest.mark.parametrize(
    ("written", "script"),
    [
        ("./train.py", "train.py"),
        ("lib/../train.py", "train.py"),
        ("run.sh", "run.sh"),
        ("lib//model.py", "lib/model.py"),
    ],
)
def test_spellings_of_a_script_are_one(written: str, script: str) -> None:
    assert spec_of({"entryScript": written}).entry_script == script


def test_a_source_that_could_not_be_read_is_somebody_elses_problem() -> None:
    assert check({}, source=None) == (None, [])


@pytest.mark.parametrize(
    "name",
    ["TF_CONFIG", "HOROVOD_RANK", "HOROVOD_GLOO_RENDEZVOUS_PORT", "HOROVOD_SIZE", "TFJOBS_RUN_ID", "TFJOBS_MINE"],
)
def test_variables_that_the_job_sets(name: str) -> None:
    assert set(problems_of({"environmentVariables": {name: "x", "MINE": "y"}})) == {f"environmentVariables.{name}"}


def test_horovods_tunables_are_the_users() -> None:
    spec = spec_of({"environmentVariables": {"HOROVOD_FUSION_THRESHOLD": 0, "TF_CPP_MIN_LOG_LEVEL": "2"}})
    assert spec.environment_variables == {"HOROVOD_FUSION_THRESHOLD": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}


@pytest.mark.parametrize("name", ["", "My Job", "-a", "a-", "a_b", "A", "a" * 51, "ä", "a\n"])
def test_names_that_are_none(name: str) -> None:
    found = problems_of({"name": name})
    assert set(found) == {"name"}
    spec_of({"name": found["name"].fix.split('"')[1]})  # what it suggests is good


@pytest.mark.parametrize(("given", "name"), [("My_Job", "my-job"), ("a.b", "a-b"), ("ÄÖ", "job"), ("x" * 80, "x" * 50)])
def test_a_resources_name_becomes_the_jobs(given: str, name: str) -> None:
    assert job_name(given) == name
    assert spec_of({}, name=given).name == name


def test_inputs_in_arguments() -> None:
    inputs = {
        "inputs": {"data": "./data"},
        "scriptParams": {"--ok": "${{inputs.data}}/x", "--typo": "${{ inputs.dat }}", "--other": "${{outputs.y}}"},
        "arguments": ["${{inputs.none}}"],
    }
    found = problems_of(inputs)
    assert set(found) == {'scriptParams["--typo"]', 'scriptParams["--other"]', "arguments[0]"}
    assert "${{inputs.data}}" in found['scriptParams["--typo"]'].fix
    assert "inputs" in found["arguments[0]"].fix


def test_an_input_that_is_not_known_yet_may_be_named() -> None:
    spec_of({"arguments": ["${{inputs.data}}"]}, unknown=frozenset({"inputs.data"}))
    spec_of({"arguments": ["${{inputs.data}}"]}, unknown=frozenset({"inputs"}))


def test_names_of_inputs() -> None:
    found = problems_of({"inputs": {"a b": "x", "in-put": "x", "in_put": "x", "empty": ""}})
    assert set(found) == {'inputs["a b"]', "inputs.in_put", "inputs.empty"}
    assert "TFJOBS_INPUT_IN_PUT" in found["inputs.in_put"].found


@pytest.mark.parametrize("path", ['scriptParams["--token"]', "scriptParams", "arguments[0]", "pipPackages[0]"])
def test_secrets_where_others_could_read_them(path: str) -> None:
    inputs = {"scriptParams": {"--token": "x"}, "arguments": ["x"], "pipPackages": ["x"]}
    found = problems_of(inputs, secret=frozenset({path}))
    assert set(found) == {path}


@pytest.mark.parametrize("path", ["environmentVariables.TOKEN", "environmentVariables"])
def test_secret_variables_are_known_as_such(path: str) -> None:
    spec = spec_of({"environmentVariables": {"TOKEN": "x"}}, secret=frozenset({path}))
    assert spec.secret_variables == {"TOKEN"}


def test_conda_packages_go_to_pip() -> None:
    found = problems_of({"condaPackages": ["scikit-learn", "numpy"]})
    assert '["scikit-learn", "numpy"]' in found["condaPackages"].fix


def test_a_user_managed_environment() -> None:
    environment = spec_of({"userManaged": True, "interpreterPath": "/opt/py"}).environment
    assert (environment.interpreter, environment.requirements, environment.python) == ("/opt/py", (), "")
    assert spec_of({"userManaged": True}).environment.interpreter == "python3"
    found = problems_of({"userManaged": True, "pipPackages": ["numpy"], "frameworkVersion": "2.15.1"})
    assert set(found) == {"pipPackages", "frameworkVersion"}
    assert set(problems_of({"interpreterPath": "python3"})) == {"interpreterPath"}


def test_checks_of_every_kind_come_together() -> None:
    found = problems_of(
        {
            "name": "X Y",
            "entryScript": "trian.py",
            "distributedBackend": "mpi",
            "nodeCount": 8,
            "workerCount": 3,
            "useGpu": True,
            "pipPackages": ["tensorflow==2.17.0", "numpy=1"],
            "condaPackages": ["x"],
            "environmentVariables": {"TF_CONFIG": "{}"},
            "arguments": ["${{inputs.x}}"],
            "waitFor": "later",
        },
        capabilities=SMALL,
    )
    assert set(found) == {
        *("name", "entryScript", "nodeCount", "workerCount", "useGpu", "pipPackages[0]", "pipPackages[1]"),
        *("condaPackages", "environmentVariables.TF_CONFIG", "arguments[0]", "waitFor"),
    }


def test_unknown_values_leave_their_checks_out() -> None:
    spec = spec_of({}, unknown=frozenset({"entryScript", "sourceDirectory"}), source=None)
    assert spec.unknown == {"entryScript", "sourceDirectory"}
    with pytest.raises(ValueError, match="entryScript"):
        _ = spec.digest
    spec_of({"workerCount": 2}, unknown=frozenset({"distributedBackend"}))
    spec_of({"distributedBackend": "multi_worker"}, unknown=frozenset({"workerCount"}))
    spec_of(
        {"distribution": {"kind": "horovod", "nodes": 9}},
        unknown=frozenset({"computeTarget.slots"}),
        capabilities=SMALL,
    )


def test_script_params_become_text_in_the_order_of_their_flags() -> None:
    params = {"--z": 3.0, "--a": 0.01, "--flag": "", "--none": None, "--on": True, "--off": False, "--l": [1, 2.5, "x"]}
    assert spec_of({"scriptParams": params}).script_params == (
        ("--a", ("0.01",)),
        ("--flag", ()),
        ("--l", ("1", "2.5", "x")),
        ("--none", ()),
        ("--off", ("False",)),
        ("--on", ("True",)),
        ("--z", ("3",)),
    )


def test_inputs_and_metadata_reach_the_spec() -> None:
    data = (InputData("b", "/b", "2" * 64), InputData("a", "/a", "1" * 64))
    spec = spec_of(
        {"inputs": {"a": "/a", "b": "/b"}, "tags": {"k": "v"}, "maxRunDurationSeconds": 60, "onCancel": "stop"},
        data=data,
    )
    assert [item.name for item in spec.inputs] == ["a", "b"]
    assert (spec.tags, spec.max_run_duration_seconds, spec.on_cancel) == ({"k": "v"}, 60.0, "stop")
