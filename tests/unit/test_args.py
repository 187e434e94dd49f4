"""Reading what a user wrote: every problem at once, each where it is and with what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec.args import KEYS, JobArgs, parse_args
from pulumi_tfjobs.spec.model import JobSpec
from tests.unit.jobs import HERE, check


def problems(inputs: Any, unknown: frozenset[str] = frozenset(), **options: Any) -> dict[str, InputProblem]:
    return {p.path: p for p in parse_args({**HERE, **inputs}, unknown, **options)[1]}


def test_all_problems_come_at_once_with_their_paths() -> None:
    _, found = parse_args(
        {
            "entryscript": "train.py",
            "scriptParams": {"--lr": {"a": 1}, "--sizes": [1, None]},
            "pipPackages": ["numpy", None],
            "nodeCount": -1,
            "distribution": {"kind": "horovod", "nodes": 0, "process_count_per_node": 2},
            "environmentVariables": {"B=": "1", "FLAG": True},
            "waitFor": "success",
        }
    )
    assert [problem.path for problem in found] == sorted(
        [
            "sourceDirectory",
            "entryScript",
            "entryscript",
            'scriptParams["--lr"]',
            'scriptParams["--sizes"]',
            "pipPackages[1]",
            "nodeCount",
            "distribution.nodes",
            "distribution.process_count_per_node",
            'environmentVariables["B="]',
            "environmentVariables.FLAG",
            "waitFor",
        ]
    )
    assert all(problem.found and problem.expected and problem.fix for problem in found)


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("node_count", "`nodeCount`"),
        ("NodeCount", "`nodeCount`"),
        ("scriptParam", "`scriptParams`"),
        ("entry_script", "`entryScript`"),
        ("conda_packages", "`condaPackages`"),
        ("framework_version", "`frameworkVersion`"),
        ("max_run_duration_seconds", "`maxRunDurationSeconds`"),
        ("distributed_training", "`distributedBackend: mpi`"),
        ("distributedTraining", "`distributedBackend: mpi`"),
        ("pip_requirements_file", "`pipPackages`"),
        ("source", "`sourceDirectory`"),
        ("xyzzy", "remove it"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(key: Any, fix: Any) -> None:
    assert fix in problems({key: 1})[key].fix


def test_azure_mls_name_inside_a_distribution() -> None:
    found = problems({"distribution": {"kind": "horovod", "process_count_per_node": 2}})
    assert "`processesPerNode`" in found["distribution.process_count_per_node"].fix


@pytest.mark.parametrize("kind", ["Horovod", "horovd", "hvd", None])
def test_a_distribution_needs_a_kind(kind: Any) -> None:
    found = problems({"distribution": {"kind": kind} if kind else {"nodes": 2}})
    assert set(found) == {"distribution.kind"}
    assert "kind:" in found["distribution.kind"].fix


@pytest.mark.parametrize("value", [3, 3.0])
def test_whole_numbers_arrive_as_either(value: Any) -> None:
    args, found = parse_args({**HERE, "nodeCount": value, "maxRunDurationSeconds": value})
    assert not found
    assert args.node_count == 3
    assert args.max_run_duration_seconds == 3.0


@pytest.mark.parametrize("value", [True, False, "2", 2.5, 0, -3, float("nan"), float("inf"), 10**400, [], {}])
@pytest.mark.parametrize("key", ["nodeCount", "processCountPerNode"])
def test_what_is_no_count(key: Any, value: Any) -> None:
    assert set(problems({key: value})) == {key}


@pytest.mark.parametrize("value", [True, "10", -1, 0, float("nan"), float("inf"), 10**400])
def test_what_is_no_duration(value: Any) -> None:
    assert set(problems({"maxRunDurationSeconds": value})) == {"maxRunDurationSeconds"}


def test_no_grace_at_all_is_a_choice() -> None:
    assert not problems({"stopGraceSeconds": 0})


@pytest.mark.parametrize("value", [1, "true", "yes", 0.0])
def test_flags_are_booleans(value: Any) -> None:
    assert set(problems({"useGpu": value})) == {"useGpu"}


def test_a_version_as_a_number_has_lost_a_digit() -> None:
    assert "quotes" in problems({"pythonVersion": 3.1})["pythonVersion"].fix


def test_text_in_place_of_a_list() -> None:
    found = problems({"pipPackages": "numpy"})
    assert "['numpy']" in found["pipPackages"].fix


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize("key", ["scriptParams", "environmentVariables", "tags"])
def test_what_no_process_can_be_given(key: Any, text: Any) -> None:
    assert set(problems({key: {"X": text}})) == {f"{key}.X"}
    assert set(problems({"arguments": [text]})) == {"arguments[0]"}


def test_values_of_variables_are_never_shown() -> None:
    found = problems({"environmentVariables": {"TOKEN": ["s3cret"], "KEY": {"a": "s3cret"}, "N": "s3cret\0"}})
    assert set(found) == {f"environmentVariables.{name}" for name in ("TOKEN", "KEY", "N")}
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    "inputs",
    [
        {"waitFor": "s3cret"},
        {"distribution": "s3cret"},
        {"distribution": {"kind": "s3cret"}},
        {"pipPackages": "s3cret"},
        {"pipPackages": ["s3cret s3cret"]},
        {"name": "S3CRET!"},
        {"frameworkVersion": "s3cret"},
        {"nodeCount": "s3cret"},
        {"nodeCount": "5553"},
        {"scriptParams": {"--key": "${{s3cret}}"}},
    ],
)
def test_secret_values_are_never_shown(inputs: Any) -> None:
    key = next(iter(inputs))
    spec, found = check(inputs, secret=frozenset({key}))
    assert spec is None
    assert any(problem.path.startswith(key) for problem in found)
    assert not any(text in str(found) for text in ("s3cret", "S3CRET", "5553"))


def test_unknown_values_are_not_asked_for() -> None:
    unknown = frozenset({"sourceDirectory", "entryScript", "distribution.kind"})
    args, found = parse_args({"distribution": {"nodes": 2}}, unknown)
    assert found == []
    assert args is not None
    assert args.skipped == {"sourceDirectory", "entryScript", "distribution"}


def test_the_rest_is_read_though_something_is_wrong() -> None:
    args, found = parse_args({**HERE, "nodeCount": 0, "pipPackages": ["numpy"]})
    assert [problem.path for problem in found] == ["nodeCount"]
    assert args is not None
    assert args.pip_packages == ["numpy"]
    assert args.skipped == {"nodeCount"}


def test_what_check_computed_and_the_engine_added_is_passed_over() -> None:
    computed = {"train.py": "0123456789ab", "run.sh": "0123456789ab x", "data/": "0123456789ab"}
    assert not problems({"source": computed, "__defaults": [], "name": None})


def test_the_defaults_are_those_of_the_reference() -> None:
    args, _ = parse_args(HERE)
    assert args.model_dump(by_alias=True, exclude={"source_directory", "entry_script"}) == {
        "name": None,
        "scriptParams": {},
        "arguments": [],
        "computeTarget": {"kind": "local"},
        "distribution": None,
        "nodeCount": None,
        "processCountPerNode": None,
        "workerCount": None,
        "parameterServerCount": None,
        "distributedBackend": None,
        "useGpu": False,
        "pipPackages": [],
        "condaPackages": [],
        "frameworkVersion": None,
        "pythonVersion": None,
        "userManaged": False,
        "interpreterPath": None,
        "environmentVariables": {},
        "inputs": {},
        "maxRunDurationSeconds": None,
        "stopGraceSeconds": 10.0,
        "retries": 0,
        "retryOn": ["infrastructure"],
        "retryBackoffSeconds": 10.0,
        "parameterServerRestarts": 0,
        "priority": 0,
        "maxLogBytes": 256 * 1024 * 1024,
        "waitFor": "succeeded",
        "onCancel": "detach",
        "deleteArtifacts": False,
        "successPolicy": "default",
        "rerun": "",
        "resumeFrom": "",
        "reuse": True,
        "sourceDigest": "content",
        "tags": {},
    }


def test_every_input_is_described_for_users() -> None:
    schema = JobArgs.model_json_schema()
    assert set(schema["properties"]) == set(KEYS)
    assert all(len(prop.get("description", "")) > 20 for prop in schema["properties"].values())
    assert sorted(schema["required"]) == ["entryScript", "sourceDirectory"]
    json.dumps(schema)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_WORDS = st.sampled_from(
    ["mpi", "ps", "multi_worker", "horovod", "parameterServer", "multiWorker", "tensorflow", "2.15"]
)
_KEYS = st.sampled_from([*KEYS, "node_count", "source", "__x"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(_KEYS, _JSON | _WORDS | st.lists(_WORDS, max_size=3), max_size=6),
    st.frozensets(st.sampled_from([*KEYS, "distribution.workers", 'scriptParams["--lr"]']), max_size=3),
    st.frozensets(st.sampled_from(["", *KEYS]), max_size=2),
)
def test_any_json_gives_a_spec_or_problems_and_never_an_exception(inputs: Any, unknown: Any, secret: Any) -> None:
    spec, found = check(inputs, unknown=unknown, secret=secret)
    assert (spec is None) == bool(found)
    assert all(problem.path and problem.found and problem.expected and problem.fix for problem in found)
    assert spec is None or isinstance(spec, JobSpec)
