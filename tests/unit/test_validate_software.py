"""Which software a job gets, and which wishes cannot go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from packaging.version import Version

from pulumi_tfjobs.spec.matrix import HOROVOD_TENSORFLOW
from pulumi_tfjobs.spec.software import default_requirements
from pulumi_tfjobs.spec.versions import horovod_row, pythons_of, releases
from tests.unit.jobs import problems_of, spec_of

MPI = {"distributedBackend": "mpi"}


def software(inputs: dict[str, Any]) -> tuple[tuple[str, ...], str, str, bool]:
    environment = spec_of(inputs).environment
    return environment.requirements, environment.python, environment.horovod, environment.mpi


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, (("tensorflow-cpu==2.15.1",), "3.11", "", False)),
        (MPI, (("tensorflow-cpu==2.15.1",), "3.11", "0.28.1", True)),
        ({"useGpu": True}, (("tensorflow[and-cuda]==2.15.1",), "3.11", "", False)),
        ({"useGpu": True, "frameworkVersion": "2.13.1"}, (("tensorflow==2.13.1",), "3.11", "", False)),
        ({"frameworkVersion": "2.17.1"}, (("tensorflow-cpu==2.17.1",), "3.11", "", False)),
        ({"frameworkVersion": "2.17"}, (("tensorflow-cpu==2.17.*",), "3.11", "", False)),
        ({"frameworkVersion": "2.10.1"}, (("tensorflow-cpu==2.10.1",), "3.10", "", False)),
        ({"frameworkVersion": "2.17.1", "pythonVersion": "3.12"}, (("tensorflow-cpu==2.17.1",), "3.12", "", False)),
        ({"pipPackages": ["tensorflow-cpu==2.15.*"]}, (("tensorflow-cpu==2.15.*",), "3.11", "", False)),
        ({**MPI, "pipPackages": ["tensorflow-cpu==2.15.*"]}, (("tensorflow-cpu==2.15.1",), "3.11", "0.28.1", True)),
        ({**MPI, "pipPackages": ["tensorflow"]}, (("tensorflow==2.15.1",), "3.11", "0.28.1", True)),
        ({**MPI, "pipPackages": ["tensorflow>=2.12,<2.15"]}, (("tensorflow==2.14.1",), "3.11", "0.28.1", True)),
        ({**MPI, "frameworkVersion": "2.15"}, (("tensorflow-cpu==2.15.1",), "3.11", "0.28.1", True)),
        ({**MPI, "frameworkVersion": "2.15.0"}, (("tensorflow-cpu==2.15.0",), "3.11", "0.28.1", True)),
        ({**MPI, "pipPackages": ["horovod==0.28.1"]}, (("tensorflow-cpu==2.15.1",), "3.11", "0.28.1", True)),
        ({"pipPackages": ["horovod[tensorflow]"]}, (("tensorflow-cpu==2.15.1",), "3.11", "0.28.1", True)),
        (
            {"pipPackages": ["Scikit_Learn == 1.5.2", "numpy<2", "numpy>=1.20", "tensorflow-cpu==2.15.1"]},
            (("numpy<2,>=1.20", "scikit-learn==1.5.2", "tensorflow-cpu==2.15.1"), "3.11", "", False),
        ),
    ],
)
def test_what_is_chosen(inputs: dict[str, Any], expected: Any) -> None:
    assert software(inputs) == expected


def test_the_order_and_spelling_of_packages_make_no_other_environment() -> None:
    one = spec_of({"pipPackages": ["numpy<2", "scikit-learn==1.5.2"]}).environment
    other = spec_of({"pipPackages": ["Scikit_Learn==1.5.2", "NumPy <2", "numpy<2"]}).environment
    assert one.digest == other.digest


def test_default_requirements() -> None:
    assert default_requirements() == ("tensorflow-cpu==2.15.1",)
    assert default_requirements(use_gpu=True) == ("tensorflow[and-cuda]==2.15.1",)


@pytest.mark.parametrize(
    ("inputs", "path", "says"),
    [
        ({**MPI, "pipPackages": ["tensorflow-cpu==2.16.1"]}, "pipPackages[0]", "silently does not reduce gradients"),
        ({**MPI, "pipPackages": ["tensorflow>=2.17"]}, "pipPackages[0]", "tensorflow==2.15.1"),
        ({**MPI, "frameworkVersion": "2.21.0"}, "frameworkVersion", 'frameworkVersion: "2.15.1"'),
        ({**MPI, "frameworkVersion": "2.16"}, "frameworkVersion", "silently"),
        ({**MPI, "frameworkVersion": "2.8.0"}, "frameworkVersion", "2.15.1"),
        ({**MPI, "frameworkVersion": "2.30.0"}, "frameworkVersion", "silently"),
        ({**MPI, "pipPackages": ["tf-nightly==2.17.0.dev20240101"]}, "pipPackages[0]", "silently"),
        ({**MPI, "pipPackages": ["tensorflow @ https://example.com/tf.whl"]}, "pipPackages[0]", "tensorflow==2.15.1"),
        ({**MPI, "pipPackages": ["keras>=3"]}, "pipPackages[0]", "Keras 3"),
        ({**MPI, "pipPackages": ["numpy>=2"]}, "pipPackages[0]", "numpy>=1.23.5,<2"),
        ({"pipPackages": ["tensorflow==2.17.1", "keras<3"]}, "pipPackages[1]", "TensorFlow 2.15.1"),
        ({"pipPackages": ["keras==3.*"]}, "pipPackages[0]", "remove it"),
        ({"pipPackages": ["tensorflow-gpu==2.15.1"], "useGpu": True}, "pipPackages[0]", "tensorflow[and-cuda]==2.15.1"),
        ({"frameworkVersion": "1.4.0"}, "frameworkVersion", "tensorflow.compat.v1"),
        ({"pipPackages": ["horovod==0.27.0"]}, "pipPackages[0]", "0.28.1"),
        ({"pipPackages": ["tensorflow-cpu==2.15.1", "tensorflow"]}, "pipPackages[1]", "both install"),
        ({"pipPackages": ["tensorflow==2.15.1", "tensorflow==2.16.1"]}, "pipPackages[0]", "no TensorFlow release"),
        ({"pipPackages": ["tensorflow-cpu==2.15.1"], "useGpu": True}, "pipPackages[0]", "tensorflow[and-cuda]"),
        ({"pipPackages": ["tensorflow==2.15.1"], "frameworkVersion": "2.16.1"}, "frameworkVersion", "pipPackages[0]"),
        ({"pipPackages": ["tensorflow<2.15"], "frameworkVersion": "2.15"}, "frameworkVersion", "one version"),
        ({"frameworkVersion": "newest"}, "frameworkVersion", "no version"),
        ({"frameworkVersion": "1.13"}, "frameworkVersion", "tensorflow.compat.v1"),
        ({"pythonVersion": "3.12"}, "pythonVersion", "3.9, 3.10, 3.11"),
        ({"pythonVersion": "3.12", "frameworkVersion": "2.14.0"}, "pythonVersion", "frameworkVersion"),
        ({"pythonVersion": "3.7"}, "pythonVersion", "3.8 or later"),
        ({"pythonVersion": "three"}, "pythonVersion", '"3.11"'),
        ({"pipPackages": ["numpy=1.26"]}, "pipPackages[0]", "numpy==1.26"),
        ({"pipPackages": ["numpy scipy"]}, "pipPackages[0]", "item of its own"),
        ({"pipPackages": ["-r requirements.txt"]}, "pipPackages[0]", "option of pip"),
        ({"pipPackages": ["./numpy-1.0-py3-none-any.whl"]}, "pipPackages[0]", "name @"),
        ({"pipPackages": ["git+https://example.com/x"]}, "pipPackages[0]", "name @ git+https://example.com/x"),
        ({"pipPackages": [" "]}, "pipPackages[0]", "empty"),
    ],
)
def test_what_cannot_be(inputs: dict[str, Any], path: str, says: str) -> None:
    found = problems_of(inputs)
    assert set(found) == {path}
    assert says in str(found[path])


def test_keras_2_and_a_range_that_holds_it_are_fine_with_horovod() -> None:
    spec_of({**MPI, "pipPackages": ["keras", "keras>=2.11"]})


def test_packages_that_are_not_known_yet_name_no_tensorflow() -> None:
    unknown = frozenset({"pipPackages"})
    assert spec_of({}, unknown=unknown).environment.requirements == ()
    spec_of({"pythonVersion": "3.12"}, unknown=unknown)


def test_each_release_has_one_row_in_horovods_table() -> None:
    for release in releases():
        rows = [row for row in HOROVOD_TENSORFLOW if row == horovod_row(release)]
        assert len(rows) == 1
        assert (rows[0].verdict == "refused") == (not Version("2.10") <= release < Version("2.16"))
    assert all(row.source for row in HOROVOD_TENSORFLOW)


def test_the_default_runs_with_what_it_says() -> None:
    assert [f"{major}.{minor}" for major, minor in pythons_of(Version("2.15.1"))] == ["3.9", "3.10", "3.11"]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"frameworkVersion": "2.30.0"}, "TensorFlow 2.30.0 is not known"),
        ({"frameworkVersion": "2.30.0", "pythonVersion": "3.15"}, "TensorFlow 2.30.0 is not known"),
        ({"pipPackages": ["tensorflow>=2.16"], "pythonVersion": "3.14"}, "Python 3.14"),
        (
            {"pipPackages": ["tensorflow==2.17.1"], "distributedBackend": "ps", "workerCount": 2},
            "ParameterServerStrategy",
        ),
        (
            {"pipPackages": ["tensorflow==2.17.1"], "distribution": {"kind": "multiWorker", "workers": 2}},
            "MultiWorkerMirroredStrategy",
        ),
        ({"frameworkVersion": "2.17.1", "environmentVariables": {"TF_USE_LEGACY_KERAS": "1"}}, "add tf-keras==2.17.*"),
        ({"useGpu": True, "frameworkVersion": "2.13.1"}, "CUDA 11.8"),
    ],
)
def test_what_is_not_known_or_likely_wrong_is_a_warning(inputs: dict[str, Any], says: str) -> None:
    (warning,) = spec_of(inputs).warnings
    assert says in warning


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        MPI,
        {"useGpu": True},
        {"frameworkVersion": "2.17.1"},
        {"distributedBackend": "ps", "workerCount": 2},
        {"userManaged": True, "useGpu": True},
        {
            "pipPackages": ["tensorflow==2.17.1", "tf-keras==2.17.0"],
            "environmentVariables": {"TF_USE_LEGACY_KERAS": "1"},
            "distributedBackend": "ps",
        },
    ],
)
def test_a_usual_job_has_no_warnings(inputs: dict[str, Any]) -> None:
    assert spec_of(inputs).warnings == ()


def test_a_warning_does_not_change_what_a_job_is() -> None:
    spec = spec_of({"frameworkVersion": "2.30.0"})
    assert spec.warnings
    assert replace(spec, warnings=()).digest == spec.digest
