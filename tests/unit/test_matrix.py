"""The tables of versions, and what is made of them: what works passes, what does not names the nearest that does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pulumi_tfjobs.spec import matrix
from pulumi_tfjobs.spec.compatibility import Named, Versions, check, gpu_needs, nearest, overlap
from pulumi_tfjobs.spec.matrix import DRIVERS, HOROVOD_TENSORFLOW, NOTES, SERIES
from pulumi_tfjobs.spec.model import EnvironmentSpec
from pulumi_tfjobs.spec.versions import pythons_of, releases, works_with_horovod

USABLE = [release for release in releases() if pythons_of(release)]
PACKAGES = ("keras", "tf-keras", "numpy", "protobuf")
# Versions that exist of each, or will: some are good with some TensorFlow, some with none.
NUMBERS = {
    "keras": ["2.4.3", "2.9.0", "2.10.0", "2.13.1", "2.14.0", "2.15.0", "3.0.0", "3.3.3", "3.5.0", "3.10.0", "3.12.0"],
    "tf-keras": ["2.15.1", "2.16.0", "2.17.0", "2.20.1", "2.21.0"],
    "numpy": ["1.19.5", "1.23.5", "1.24.3", "1.26.4", "2.0.2", "2.1.3", "2.3.0"],
    "protobuf": ["3.9.2", "3.19.6", "3.20.3", "4.25.8", "5.29.5", "6.31.0"],
}


def versions(tensorflow: str, *packages: str, **more: object) -> Versions:
    named = tuple(Named(f"pipPackages[{place}]", Requirement(text)) for place, text in enumerate(packages, 1))
    return Versions(Requirement(tensorflow), "pipPackages[0]", packages=named, **more)  # type: ignore[arg-type]


def series_of(release: Version) -> matrix.Series:
    return SERIES[release.major, release.minor]


@st.composite
def combinations(draw: st.DrawFn) -> tuple[Version, str, list[str]]:
    """A release, a Python, and one version of each of some packages; good ones and bad ones."""
    release = draw(st.sampled_from(USABLE))
    python = f"3.{draw(st.integers(8, 14))}"
    names = draw(st.lists(st.sampled_from(PACKAGES), unique=True))
    return release, python, [f"{name}=={draw(st.sampled_from(NUMBERS[name]))}" for name in names]


def expected(release: Version, package: str) -> bool:
    requirement = Requirement(package)
    allowed = series_of(release).packages.get(requirement.name, "")
    return next(iter(requirement.specifier)).version in SpecifierSet(allowed)


@given(combinations())
def test_what_the_table_says_works_passes_and_nothing_else(combination: tuple[Version, str, list[str]]) -> None:
    release, python, packages = combination
    problems, _ = check(versions(f"tensorflow=={release}", *packages, python=python))
    wrong = {f"pipPackages[{place}]" for place, text in enumerate(packages, 1) if not expected(release, text)}
    if (3, int(python[2:])) not in pythons_of(release):
        wrong.add("pythonVersion")
    assert {problem.path for problem in problems} == wrong
    assert all(problem.found and problem.expected and problem.fix for problem in problems)


@given(combinations())
def test_the_nearest_that_is_named_is_good(combination: tuple[Version, str, list[str]]) -> None:
    release, python, packages = combination
    assume((3, int(python[2:])) in pythons_of(release))
    problems, _ = check(versions(f"tensorflow=={release}", *packages, python=python))
    for problem in problems:
        package = packages[int(problem.path[12:-1]) - 1]
        other = nearest(Requirement(package), release, python=python)
        if other is None:
            assert "choose TensorFlow" not in problem.fix
            continue
        assert f"choose TensorFlow {other}, the nearest" in problem.fix
        assert check(versions(f"tensorflow=={other}", package, python=python))[0] == []
        # As the text says it: the version of the package that goes with the TensorFlow that was asked for.
        name = Requirement(package).name
        said = versions(f"tensorflow=={release}", f"{name}{series_of(release).packages[name]}", python=python)
        assert check(said)[0] == []


@given(st.sampled_from(USABLE), st.sampled_from(PACKAGES), st.data())
def test_a_wider_wish_is_never_worse(release: Version, name: str, data: st.DataObject) -> None:
    numbers = NUMBERS[name]
    low, high = sorted((data.draw(st.integers(0, len(numbers) - 1)), data.draw(st.integers(0, len(numbers) - 1))))
    wide = versions(f"tensorflow=={release}", f"{name}>={numbers[low]},<={numbers[high]}")
    exact = versions(f"tensorflow=={release}", f"{name}=={numbers[data.draw(st.integers(low, high))]}")
    if check(exact)[0] == []:
        assert check(wide)[0] == []


@given(st.sampled_from(USABLE), st.sampled_from(USABLE))
def test_a_range_of_tensorflow_is_good_where_one_release_is(one: Version, other: Version) -> None:
    low, high = sorted((one, other))
    for package in ("keras==2.15.0", "keras==3.5.0", "numpy==2.1.3", "protobuf==5.29.5"):
        between = [release for release in USABLE if low <= release <= high]
        good = any(expected(release, package) for release in between)
        problems, _ = check(versions(f"tensorflow>={low},<={high}", package))
        assert (problems == []) == good


@pytest.mark.parametrize(
    ("tensorflow", "package", "says"),
    [
        ("tensorflow-cpu==2.15.1", "keras==3.*", "remove it: TensorFlow brings its own"),
        ("tensorflow-cpu==2.15.1", "keras==3.*", "choose TensorFlow 2.16.2, the nearest that goes with keras==3.*"),
        ("tensorflow==2.17.1", "keras<3", "choose TensorFlow 2.15.1"),
        ("tensorflow==2.15.1", "numpy>=2", "say numpy>=1.23.5,<2, or choose TensorFlow 2.18.1"),
        ("tensorflow==2.15.1", "protobuf>=5", "say protobuf>=3.20.3,<5, or choose TensorFlow 2.18.1"),
        ("tensorflow==2.17.1", "tf-keras==2.16.0", "say tf-keras>=2.17,<2.18, or choose TensorFlow 2.16.2"),
        ("tensorflow==2.17.1", "tf-keras~=2.16.0", "say tf-keras>=2.17,<2.18"),
        ("tensorflow==2.15.*", "Keras>=3.0", "remove it"),
    ],
)
def test_known_to_be_bad(tensorflow: str, package: str, says: str) -> None:
    problems, _ = check(versions(tensorflow, package))
    (problem,) = problems
    assert problem.path == "pipPackages[1]"
    assert says in problem.fix


@pytest.mark.parametrize(
    "package",
    [
        "keras",
        "keras>=2.11",
        "numpy<3",
        "numpy!=2.0.0",
        "numpy @ https://example.com/n.whl",
        "numpy===1.26.4-mkl",
        'keras>=3; python_version<"3"',
    ],
)
def test_what_leaves_room_is_fine(package: str) -> None:
    assert check(versions("tensorflow==2.15.1", package)) == ([], [])


def test_a_known_bad_one_is_told_with_all_others() -> None:
    wish = versions("tensorflow==2.15.1", "keras==3.1", "numpy==2.0.0", "protobuf==5.29.0", python="3.12")
    assert [problem.path for problem in check(wish)[0]] == [
        "pythonVersion",
        "pipPackages[1]",
        "pipPackages[2]",
        "pipPackages[3]",
    ]


def test_the_nearest_with_horovod_is_one_that_horovod_works_with() -> None:
    (problem,) = check(versions("tensorflow==2.15.1", "numpy==1.22.0", horovod=True))[0]
    assert "choose TensorFlow 2.13.1" in problem.fix
    (problem,) = check(versions("tensorflow==2.15.1", "numpy>=2", horovod=True))[0]
    assert "choose" not in problem.fix, "no TensorFlow that Horovod works with goes with NumPy 2"


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (versions("tensorflow==2.30.0"), "TensorFlow 2.30.0 is not known"),
        (versions("tensorflow==2.30.0"), "the newest that is known is 2.21.0"),
        (versions("tensorflow>2.21.1"), "newer than what is known"),
        (versions("tensorflow==2.15.9"), "was checked as 2.15.1"),
        (versions("tf-nightly"), "is no release"),
        (versions("tensorflow @ https://example.com/tf.whl"), "is from an address"),
        (versions("tensorflow>=2.16", python="3.14"), "Python 3.14 is not known to run with any TensorFlow"),
        (versions("tensorflow==2.21.0", "keras==4.0.1"), "keras==4.0.1 is not known"),
        (versions("tensorflow==2.17.1", distribution="parameterServer"), "fails under ParameterServerStrategy"),
        (versions("tensorflow==2.17.1", distribution="multiWorker"), "fails under MultiWorkerMirroredStrategy"),
        (versions("tensorflow==2.17.1", legacy_keras=True), "add tf-keras==2.17.*"),
        (versions("tensorflow-cpu==2.17.1", "tf-keras==2.17.0"), "beside tensorflow-cpu"),
        (versions("tensorflow==2.13.1", use_gpu=True), "takes CUDA 11.8 and cuDNN 8.6 from the machine"),
        (versions("tensorflow[and-cuda]==2.13.1", use_gpu=True), "takes CUDA 11.8"),
        (versions("tensorflow==2.15.1", use_gpu=True), "tensorflow[and-cuda]"),
    ],
)
def test_not_known_or_likely_wrong_is_a_warning(wish: Versions, says: str) -> None:
    problems, warnings = check(wish)
    assert problems == []
    assert says in "\n".join(warnings)


@pytest.mark.parametrize(
    "wish",
    [
        versions("tensorflow==2.15.1", distribution="parameterServer"),
        versions("tensorflow==2.17.1", "tf-keras==2.17.0", distribution="multiWorker", legacy_keras=True),
        versions("tensorflow[and-cuda]==2.15.1", use_gpu=True),
        versions("tensorflow==2.15.1", "nvidia-cudnn-cu12==8.9.4.25", use_gpu=True),
        versions("tensorflow>=2.15"),
        versions("tensorflow==2.16.0rc0"),
        versions("tensorflow==2.15.0.post1"),
        Versions(None),
    ],
)
def test_no_warning_without_a_reason(wish: Versions) -> None:
    assert check(wish) == ([], [])


def test_tensorflow_gpu_is_empty_from_2_12_on() -> None:
    (problem,) = check(versions("tensorflow-gpu==2.15.1"))[0]
    assert problem.fix == "say tensorflow[and-cuda]==2.15.1"
    (problem,) = check(versions("tensorflow-gpu"))[0]
    assert "tensorflow[and-cuda]==2.15.1" in problem.fix
    (problem,) = check(versions("tensorflow-gpu==2.13.0"))[0]
    assert problem.fix == "say tensorflow==2.13.0"
    assert check(versions("tensorflow-gpu==2.11.0"))[0] == []


def test_a_tensorflow_older_than_the_table_cannot_be_had() -> None:
    (problem,) = check(versions("tensorflow==1.12.0"))[0]
    assert "Python before 3.8" in problem.found


@pytest.mark.parametrize(
    ("one", "other", "expected_overlap"),
    [
        ("<2", ">=2", False),
        ("<=2", ">=2", True),
        ("<2", ">=1.9", True),
        ("==3.*", ">=2.15,<2.16", False),
        ("~=2.15.0", "==2.15.*", True),
        ("~=2.15", ">=3", False),
        ("~=2.15", ">=2.20", True),
        ("==2.0.0", "<2", False),
        ("", "<2", True),
        (">2", "<=2", False),
    ],
)
def test_ranges_that_meet(one: str, other: str, expected_overlap: bool) -> None:
    assert overlap(SpecifierSet(one), SpecifierSet(other)) is expected_overlap
    assert overlap(SpecifierSet(other), SpecifierSet(one)) is expected_overlap


def test_each_row_is_whole_and_has_a_source() -> None:
    for series in SERIES.values():
        assert series.oldest_python <= series.newest_python
        assert series.source
        assert sum(series.cuda in SpecifierSet(row.cuda) for row in DRIVERS) == 1
        for allowed in series.packages.values():
            SpecifierSet(allowed)
    assert all(row.source for row in (*DRIVERS, *HOROVOD_TENSORFLOW, *NOTES))
    newer = list(SERIES.values())
    cudas = [Version(series.cuda) for series in newer]
    assert cudas == sorted(cudas), "no release goes back to an older CUDA"
    assert all(one.newest_python <= other.newest_python for one, other in pairwise(newer))


def test_what_horovod_works_with_has_keras_2() -> None:
    for release in USABLE:
        if works_with_horovod(release):
            assert series_of(release).packages["keras"].startswith(">=2")


def test_what_an_environment_asks_of_a_machine_with_gpus() -> None:
    needs = gpu_needs(EnvironmentSpec(requirements=("numpy<2", "tensorflow[and-cuda]==2.15.1")))
    assert needs is not None
    assert (needs.tensorflow, needs.cuda, needs.cudnn, needs.driver) == (
        "tensorflow 2.15.1",
        "12.2",
        "8.9",
        (525, 60, 13),
    )
    older = gpu_needs(EnvironmentSpec(requirements=("tensorflow==2.13.*",)))
    assert older is not None
    assert older.driver == (450, 80, 2)
    for requirements in ((), ("tensorflow-cpu==2.15.1",), ("tensorflow==2.30.0",), ("tf-nightly",)):
        assert gpu_needs(EnvironmentSpec(requirements=requirements)) is None
    assert gpu_needs(EnvironmentSpec(interpreter="python3")) is None


def test_the_document_is_up_to_date() -> None:
    path = Path(__file__).parents[2] / "docs" / "versions.md"
    assert path.read_text("utf-8") == matrix.render(), "run python -m pulumi_tfjobs.spec.matrix"
