"""What a change does. A preview that says "update" and then trains again, or the other way round, is a lie."""

from __future__ import annotations

from typing import Any

import pytest

from pulumi_tfjobs.plan import Change, diff
from tests.unit.jobs import HERE

OLD = {
    **HERE,
    "scriptParams": {"--lr": 0.01, "--epochs": 3},
    "pipPackages": ["tensorflow-cpu==2.15.1", "scikit-learn==1.5.2"],
    "source": {"train.py": "a" * 12, "run.sh": "b" * 12 + " x"},
    "environmentVariables": {"A": "1", "TOKEN": "s3cret"},
    "tags": {"team": "a"},
    "arguments": ["x", "y"],
    "inputs": {"data": "./data"},
    "nodeCount": 2,
    "distributedBackend": "mpi",
}


def changes(update: dict[str, Any], *, same: bool = False, unknown: frozenset[str] = frozenset()) -> list[Change]:
    new = {key: value for key, value in {**OLD, **update}.items() if value is not None}
    digest = None if unknown else "1" if same else "2"
    return diff(OLD, new, old_digest="1", new_digest=digest, unknown=unknown)


def told(*args: Any, **options: Any) -> dict[str, tuple[str, str]]:
    return {change.path: (change.kind, change.klass) for change in changes(*args, **options)}


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ({"tags": {"team": "b", "new": "x"}}, {"tags.team": "update", "tags.new": "add"}),
        ({"tags": None}, {"tags.team": "delete"}),
        ({"name": "other"}, {"name": "add"}),
        ({"waitFor": "running"}, {"waitFor": "add"}),
        ({"onCancel": "stop"}, {"onCancel": "add"}),
        ({"maxRunDurationSeconds": 5}, {"maxRunDurationSeconds": "add"}),
        ({"stopGraceSeconds": 5}, {"stopGraceSeconds": "add"}),
        ({"deleteArtifacts": True}, {"deleteArtifacts": "add"}),
        ({"computeTarget": {"kind": "local", "slots": 8}}, {"computeTarget.slots": "add"}),
        ({"sourceDirectory": "./moved"}, {"sourceDirectory": "update"}),
        ({"inputs": {"data": "/elsewhere"}}, {"inputs.data": "update"}),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_metadata_never_trains_again(update: dict[str, Any], expected: dict[str, str], same: bool) -> None:
    # With another digest (here: some other cause) it is still reported as what it is.
    found = told(update, same=same)
    assert {path: ("metadata", kind) for path, kind in expected.items()} == {
        path: (klass, kind) for path, (kind, klass) in found.items() if path != "digest"
    }
    assert ("digest" in found) == (not same)


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"stopGraceSeconds": 10.0, "waitFor": "succeeded", "tags": {"team": "a"}, "useGpu": False},
        {"pipPackages": ["Scikit_Learn == 1.5.2", "tensorflow-cpu==2.15.1"]},
        {"scriptParams": {"--epochs": 3.0, "--lr": "0.01"}},
        {"entryScript": "./train.py"},
        {"nodeCount": None, "distributedBackend": None, "distribution": {"kind": "horovod", "nodes": 2}},
        {"frameworkVersion": "2.15.1"},
    ],
)
def test_another_spelling_is_no_change(update: dict[str, Any]) -> None:
    assert changes(update, same=True) == []
    # And it is not what a new digest is blamed on.
    assert told(update) == {"digest": ("update", "retrain")}


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (
            {"scriptParams": {"--lr": 0.02, "--batch": 1}},
            {'scriptParams["--lr"]': "update", 'scriptParams["--batch"]': "add", 'scriptParams["--epochs"]': "delete"},
        ),
        (
            {"source": {"train.py": "c" * 12, "new.py": "d" * 12}},
            {'source["train.py"]': "update", 'source["new.py"]': "add", 'source["run.sh"]': "delete"},
        ),
        ({"entryScript": "other.py"}, {"entryScript": "update"}),
        ({"arguments": ["x", "z", "w"]}, {"arguments[1]": "update", "arguments[2]": "add"}),
        ({"arguments": []}, {"arguments[0]": "delete", "arguments[1]": "delete"}),
        (
            {"environmentVariables": {"A": "2", "TOKEN": "s3cret", "B": "1"}},
            {"environmentVariables.A": "update", "environmentVariables.B": "add"},
        ),
        ({"pipPackages": ["tensorflow-cpu==2.15.1", "scikit-learn==1.5.1"]}, {"pipPackages[1]": "update"}),
        ({"pipPackages": ["tensorflow-cpu==2.15.1"]}, {"pipPackages[1]": "delete"}),
        (
            {"pipPackages": ["numpy<2", "tensorflow-cpu==2.15.1", "scikit-learn==1.5.2"]},
            {"pipPackages[0]": "add"},
        ),
        ({"pipPackages": ["tensorflow-cpu==2.15.1", "numpy<2"]}, {"pipPackages[1]": "update"}),
        ({"pythonVersion": "3.10"}, {"pythonVersion": "add"}),
        ({"useGpu": True}, {"useGpu": "add"}),
        ({"nodeCount": 3}, {"nodeCount": "update"}),
        ({"processCountPerNode": 2}, {"processCountPerNode": "add"}),
        ({"distributedBackend": "multi_worker"}, {"distributedBackend": "update"}),
        ({"distributedBackend": None, "nodeCount": None}, {"distributedBackend": "delete", "nodeCount": "delete"}),
        (
            {"nodeCount": None, "distributedBackend": None, "distribution": {"kind": "horovod", "nodes": 3}},
            {"distribution.nodes": "add"},
        ),
        ({"rerun": "again"}, {"rerun": "add"}),
        ({"inputs": {"data": "./data", "more": "./x"}}, {"inputs.more": "add"}),
        ({"inputs": {}}, {"inputs.data": "delete"}),
    ],
)
def test_what_trains_again_is_named(update: dict[str, Any], expected: dict[str, str]) -> None:
    assert told(update) == {path: (kind, "retrain") for path, kind in expected.items()}


def test_numbers_of_parameter_servers() -> None:
    old = {**HERE, "distributedBackend": "ps", "workerCount": 2}
    new = {**old, "workerCount": 3, "parameterServerCount": 2, "nodeCount": 2}
    found = {c.path: (c.kind, c.klass) for c in diff(old, new, old_digest="1", new_digest="2")}
    assert found == {"workerCount": ("update", "retrain"), "parameterServerCount": ("add", "retrain")}
    found = {c.path: (c.kind, c.klass) for c in diff(old, {**old, "nodeCount": 2}, old_digest="1", new_digest="1")}
    assert found == {"nodeCount": ("add", "metadata")}


def test_fields_of_a_typed_distribution() -> None:
    old = {**HERE, "distribution": {"kind": "parameterServer", "chief": True}}
    new = {**HERE, "distribution": {"kind": "parameterServer", "parameterServers": 2}}
    found = {c.path: (c.kind, c.klass) for c in diff(old, new, old_digest="1", new_digest="2")}
    assert found == {
        "distribution.chief": ("delete", "retrain"),
        "distribution.parameterServers": ("add", "retrain"),
    }


@pytest.mark.parametrize("same", [True, False])
def test_another_place_for_runs_is_another_resource(same: bool) -> None:
    found = told({"computeTarget": {"kind": "local", "store": "other"}}, same=same)
    assert found["computeTarget.store"] == ("add", "retrain")
    assert told({"computeTarget": {"kind": "local", "store": "default"}}, same=True) == {}


def test_what_no_property_shows_is_told_at_the_digest() -> None:
    (change,) = changes({})
    assert (change.path, change.klass) == ("digest", "retrain")
    assert "data" in change.reason


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ('scriptParams["--lr"]', ("update", "retrain")),
        ("scriptParams", ("update", "retrain")),
        ("sourceDirectory", ("update", "retrain")),
        ("inputs.data", ("update", "retrain")),
        ("nodeCount", ("update", "retrain")),
        ("frameworkVersion", ("add", "retrain")),
        ("computeTarget", ("add", "retrain")),
        ("computeTarget.store", ("add", "retrain")),
        ("computeTarget.slots", ("add", "metadata")),
        ("tags.team", ("update", "metadata")),
        ("tags", ("update", "metadata")),
        ("maxRunDurationSeconds", ("add", "metadata")),
    ],
)
def test_values_that_are_not_known_yet(path: str, expected: tuple[str, str]) -> None:
    top = path.partition(".")[0].partition("[")[0]
    rest = (
        {key: value for key, value in OLD.get(top, {}).items() if key not in path}
        if isinstance(OLD.get(top), dict)
        else None
    )
    update: dict[str, Any] = {top: rest if path != top else None}
    if top == "sourceDirectory":
        update["source"] = None
    (change,) = changes(update, unknown=frozenset({path}))
    assert (change.path, (change.kind, change.klass)) == (path, expected)
    assert "not known before the update" in change.reason


def test_known_changes_stand_beside_unknown_ones() -> None:
    found = told({"scriptParams": {"--epochs": 4}}, unknown=frozenset({'scriptParams["--lr"]'}))
    assert found == {'scriptParams["--lr"]': ("update", "retrain"), 'scriptParams["--epochs"]': ("update", "retrain")}


def test_reasons_never_hold_a_value() -> None:
    found = changes({"environmentVariables": {"A": "1", "TOKEN": "n3w"}, "scriptParams": {"--lr": "s3cret"}})
    assert {c.path for c in found} >= {"environmentVariables.TOKEN", 'scriptParams["--lr"]'}
    assert not any(text in change.reason for change in found for text in ("s3cret", "n3w"))


def test_inputs_of_another_version_are_compared_as_they_are() -> None:
    old = {**HERE, "nodeCount": -1, "gone": 1, "scriptParams": [1], "pipPackages": {"a": 1}, "distribution": 3}
    found = {c.path for c in diff(old, HERE, old_digest="1", new_digest="2")}
    assert found
    assert diff(old, old, old_digest="1", new_digest="1") == []


def test_a_run_without_a_digest_is_compared_by_its_inputs() -> None:
    assert diff(OLD, OLD, old_digest="", new_digest="2") == []
    assert diff(OLD, {**OLD, "rerun": "x"}, old_digest="", new_digest="2")[0].path == "rerun"


def test_a_rotated_secret_is_an_update_that_shows_no_value() -> None:
    old, new = ({"environmentVariables": {"TOKEN": value}} for value in ("s3cret-1", "s3cret-2"))
    (change,) = diff(old, new, old_digest="d", new_digest="d")
    assert (change.path, change.kind, change.klass) == ("environmentVariables.TOKEN", "update", "metadata")
    assert "s3cret" not in change.reason
