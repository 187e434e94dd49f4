"""A run is its content: what changes the digest trains again, what does not never does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_tfjobs.spec.model import InputData, JobSpec, SourceFile, SourceManifest
from tests.unit.jobs import SOURCE, spec_of

BASE: dict[str, Any] = {
    "scriptParams": {"--lr": 0.01, "--epochs": 3},
    "arguments": ["x"],
    "pipPackages": ["tensorflow-cpu==2.15.1", "scikit-learn==1.5.2"],
    "environmentVariables": {"A": "1"},
    "inputs": {"data": "/data"},
    "distributedBackend": "mpi",
    "nodeCount": 2,
}
DATA = (InputData("data", "/data", "1" * 64),)


def job(update: dict[str, Any] | None = None, **options: Any) -> JobSpec:
    return spec_of({**BASE, **(update or {})}, **{"data": DATA, **options})


def source(*files: SourceFile, root: str = "/src") -> SourceManifest:
    return SourceManifest(root, files)


def test_the_digest_is_written_down() -> None:
    # It names runs that exist. A change here makes every job train again: raise DIGEST_VERSION and say so.
    assert spec_of({}).digest == "683c14824879d4921f2bd3e386071f1067288dc3afdd1dc9c70374c19384fc2e"
    assert spec_of({}).run_id == "mnist-683c14824879"


@pytest.mark.parametrize(
    "update",
    [
        {"entryScript": "lib/model.py"},
        {"scriptParams": {"--lr": 0.02, "--epochs": 3}},
        {"scriptParams": {"--lr": 0.01}},
        {"scriptParams": {"--lr": 0.01, "--epochs": 3, "--flag": ""}},
        {"scriptParams": {"--lr": 0.01, "--epochs": [3, 1]}},
        {"arguments": ["y"]},
        {"arguments": []},
        {"pipPackages": ["tensorflow-cpu==2.15.1", "scikit-learn==1.5.1"]},
        {"pipPackages": ["tensorflow-cpu==2.15.0", "scikit-learn==1.5.2"]},
        {"pythonVersion": "3.10"},
        {"environmentVariables": {"A": "2"}},
        {"environmentVariables": {"A": "1", "B": ""}},
        {"nodeCount": 3},
        {"processCountPerNode": 2},
        {"distributedBackend": "multi_worker"},
        {"rerun": "again"},
    ],
)
def test_what_can_change_the_result_is_in_the_digest(update: dict[str, Any]) -> None:
    assert job(update).digest != job().digest


def test_files_are_in_the_digest_by_name_mode_and_content() -> None:
    one = SourceFile("train.py", "a" * 64, 10)
    digests = {
        job(source=source(*files)).digest
        for files in (
            (one,),
            (one, SourceFile("new.py", "b" * 64, 1)),
            (one, SourceFile("other.py", "b" * 64, 1)),
            (one, SourceFile("other.py", "b" * 64, 1, "x")),
            (SourceFile("train.py", "c" * 64, 10),),
        )
    }
    assert len(digests) == 5


def test_inputs_are_in_the_digest_by_name_and_content() -> None:
    other = (InputData("data", "/data", "2" * 64),)
    renamed = (InputData("more", "/data", "1" * 64),)
    digests = {job().digest, job(data=other).digest, job({"inputs": {"more": "/data"}}, data=renamed).digest}
    assert len(digests) == 3


@pytest.mark.parametrize(
    "update",
    [
        {"name": "another"},
        {"tags": {"team": "a"}},
        {"waitFor": "submitted"},
        {"onCancel": "stop"},
        {"maxRunDurationSeconds": 60},
        {"stopGraceSeconds": 1},
        {"deleteArtifacts": True},
        {"sourceDirectory": "./elsewhere"},
        {"computeTarget": {"kind": "local", "slots": 9}},
        # other spellings of the same job
        {"pipPackages": ["Scikit_Learn==1.5.2", "tensorflow-cpu == 2.15.1", "scikit-learn==1.5.2"]},
        {"frameworkVersion": "2.15.1"},
        {"pythonVersion": "3.11"},
        {"scriptParams": {"--epochs": "3", "--lr": 0.01}},
        {"entryScript": "./train.py"},
        {"distributedBackend": None, "nodeCount": None, "distribution": {"kind": "horovod", "nodes": 2.0}},
    ],
)
def test_what_cannot_change_the_result_is_not(update: dict[str, Any]) -> None:
    assert job(update).digest == job().digest


def test_where_things_lie_is_not_in_the_digest() -> None:
    moved = SourceManifest("/other/place", SOURCE.files)
    data = (InputData("data", "/elsewhere", "1" * 64),)
    with_path = {"scriptParams": {"--data": "${{inputs.data}}"}}
    assert job(source=moved, data=data).digest == job().digest
    assert job(with_path, data=data).digest == job(with_path).digest
    assert job({"distributedBackend": "ps", "nodeCount": 3}).digest == job({"distributedBackend": "ps"}).digest


_NAMES = st.text("abcdefgh-_é", min_size=1, max_size=6)
_VALUES = st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False) | _NAMES


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(_NAMES, _VALUES | st.lists(_VALUES.filter(lambda v: v is not None), max_size=3), max_size=5),
    st.dictionaries(_NAMES, _NAMES, max_size=4),
    st.randoms(use_true_random=False),
)
def test_the_order_of_maps_is_nothing(params: dict[str, Any], tags: dict[str, str], random: Any) -> None:
    def shuffled(mapping: dict[str, Any]) -> dict[str, Any]:
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    inputs = {"scriptParams": params, "environmentVariables": {f"V{k}": v for k, v in tags.items()}, "tags": tags}
    again = {key: shuffled(value) for key, value in inputs.items()}
    assert spec_of(inputs).digest == spec_of(shuffled(again)).digest


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(_NAMES, _VALUES, max_size=3), st.dictionaries(_NAMES, _VALUES, max_size=3))
def test_the_digest_is_the_command_line(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = spec_of({"scriptParams": one}), spec_of({"scriptParams": other})
    assert (first.digest == second.digest) == (first.script_params == second.script_params)


def test_parts_cannot_slip_into_each_other() -> None:
    assert job({"arguments": ["a", "b"]}).digest != job({"arguments": ["ab"]}).digest
    one = job({"scriptParams": {"--a": ["b", "c"]}, "arguments": []})
    other = job({"scriptParams": {"--a": "b"}, "arguments": ["c"]})
    assert one.digest != other.digest


def test_a_rotated_secret_trains_nothing_again() -> None:
    secret = frozenset({"environmentVariables.TOKEN"})
    first = job({"environmentVariables": {"TOKEN": "old"}}, secret=secret)
    assert first.digest == job({"environmentVariables": {"TOKEN": "new"}}, secret=secret).digest
    assert first.digest != job({"environmentVariables": {}}).digest
    assert first.digest != job({"environmentVariables": {"TOKEN": "old"}}).digest  # not a secret any more: it counts
