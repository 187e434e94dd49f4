"""Every command of the docs, typed into a terminal in a fresh copy of the tree; the sample programs among them.

The copy has a run store, a stack and a folder for temporary files of its own. It shares the user's cache (the engine,
the training environments), which is what makes a second clone quick.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import Left, leftovers
from tests.integration.running import REPO
from tests.integration.terminal import Said, Terminal, blocks, commands
from tools.setup.paths import CACHE_VARIABLE, cache_root

# The time of the first test has the whole tour in it.
pytestmark = [pytest.mark.training, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ACCURACY = 0.95
JOBS = {"keras", "horovod", "ps", "multi_worker"}
NOT_TYPED = {
    "make test": "it is what runs this test",
    "make bench": "it takes minutes, and its figures are worth nothing while tests run",
}
# Nothing answers there: what wants to use the network fails.
NO_NETWORK = "env HTTP_PROXY={0} HTTPS_PROXY={0} ALL_PROXY={0} NO_PROXY=127.0.0.1,localhost".format(
    "http://127.0.0.1:9"
)

README = REPO / "README.md"
# Its commands need a cluster: tests/kubernetes/test_docs.py types them.
KUBERNETES = REPO / "docs" / "kubernetes.md"
OTHER_DOCS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "programs/**/*.md")
    for path in REPO.glob(pattern)
    if path not in {README, KUBERNETES}
)
# They need a cluster or a cloud account: tests/unit/test_cluster_programs.py runs them against a stand-in.
ELSEWHERE = {"aks-horovod", "kubernetes-horovod", "yaml-kubernetes"}
PROGRAMS = sorted(
    path.parent.name for path in (REPO / "programs").glob("*/Pulumi.yaml") if path.parent.name not in ELSEWHERE
)


def typable(doc: Path) -> list[str]:
    """The commands of a doc that are run here."""
    return [line for line in commands(doc.read_text("utf-8")) if not line.startswith(tuple(NOT_TYPED))]


def variables(home: Path, temporary: Path) -> dict[str, str]:
    """A user's environment: nothing of this project's is set yet, and its programs are not on PATH."""
    ours = ("PULUMI_", "TFJOBS_", "MAKE", "MFLAGS", "VIRTUAL_ENV", "PYTEST", "PYTHON", "COV_")
    kept = {key: value for key, value in os.environ.items() if key == CACHE_VARIABLE or not key.startswith(ours)}
    mine = (str(REPO), str(cache_root()))
    path = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if not part.startswith(mine)]
    return {**kept, "PATH": os.pathsep.join(path), "TFJOBS_HOME": str(home), "TMPDIR": str(temporary)}


class Clone:
    """A copy of the working tree, and what was done there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "clone"
        self.home = root / "home"
        self.temporary = root / "tmp"
        self._notes = root / "notes"
        for path in (self.folder, self.temporary, self._notes):
            path.mkdir()
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPO, capture_output=True, check=True
        )
        for name in os.fsdecode(listed.stdout).split("\0"):
            if name and (REPO / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPO / name, self.folder / name)

    def terminal(self, place: str = ".", home: Path | None = None) -> Terminal:
        """A new one, in that folder of the clone."""
        notes = self._notes / str(len(list(self._notes.iterdir())))
        notes.mkdir()
        return Terminal(self.folder / place, variables(home or self.home, self.temporary), notes)


def attempts(home: Path) -> set[str]:
    """Every attempt of every run that was ever made in that home."""
    return {str(path.relative_to(home)) for path in home.glob("stores/*/runs/*/attempts/*")}


def typed(terminal: Terminal, command: str) -> Said:
    """What the command said; it must end well, and must not show the insides of a program."""
    said = terminal.type(command)
    assert said.code == 0, said.text
    assert "Traceback" not in said.text, said.text
    return said


class Step:
    """A command of the tour, and what was there after it."""

    def __init__(self, said: Said, clone: Clone) -> None:
        self.said = said
        self.attempts = attempts(clone.home)
        self.left: list[Left] = leftovers(str(clone.home))
        self.temporary = os.listdir(clone.temporary)

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """The stack's output of that name, from `make output`."""
        found: dict[str, dict[str, Any]] = json.loads(self.said.out)["jobs"]
        return found

    @property
    def resources(self) -> list[str]:
        """The engine's sum: ``["9 unchanged"]``."""
        lines = self.said.out.rpartition("Resources:\n")[2].splitlines()
        return [line.strip() for line in lines[: lines.index("") if "" in lines else None]]


class Tour:
    """All of README's commands, in order, in one terminal; and a few more in between, to see what they have done.

    Then those of the other docs, each in a terminal of its own.
    """

    def __init__(self, clone: Clone) -> None:
        self.clone = clone
        self.steps: dict[str, Step] = {}
        terminal = clone.terminal()
        try:
            for command in typable(README):
                self._type(terminal, command)
                if len(self.steps) == 1:
                    self._type(terminal, f"{NO_NETWORK} make up", "make up at once again")
                if command == "make up" and len(self.steps) > 2:
                    self._type(terminal, "make output", "make output then")
            self._type(terminal, "make up", "make up after all")
            self._type(terminal, "make output", "make output after all")
        finally:
            terminal.close()
        for doc in OTHER_DOCS:
            terminal = clone.terminal()
            try:
                for command in typable(doc):
                    typed(terminal, command)
            finally:
                terminal.close()

    def _type(self, terminal: Terminal, command: str, name: str = "") -> None:
        name = name or (command if command not in self.steps else f"{command} again")
        self.steps[name] = Step(typed(terminal, command), self.clone)

    def __getitem__(self, name: str) -> Step:
        return self.steps[name]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("docs"))


@pytest.fixture(scope="module")
def tour(clone: Clone) -> Tour:
    return Tour(clone)


# README


def test_make_up_on_a_fresh_clone_trains_four_jobs_well(tour: Tour) -> None:
    assert len(tour["make up"].attempts) == len(JOBS)
    jobs = tour["make output"].jobs
    assert set(jobs) == JOBS
    for name, job in jobs.items():
        assert job["status"] == "succeeded", name
        assert job["accuracy"] >= ACCURACY, name
        assert job["durationSeconds"] > 0, name


def test_a_second_make_up_finds_everything_unchanged_and_needs_no_network(tour: Tour) -> None:
    again = tour["make up at once again"]
    assert again.resources == ["9 unchanged"], again.said.text
    assert again.attempts == tour["make up"].attempts


def test_a_preview_names_the_one_job_and_the_parameter_that_changed(tour: Tour) -> None:
    step = tour["make preview"]
    assert re.findall(r"urn=.*TrainingJob::(\w+)\]", step.said.out) == ["horovod"]
    assert re.findall(r"\+-tfjobs:index:TrainingJob: \((\w+)\)", step.said.out) == ["replace"]
    changes = re.findall(r"^ *[~+-] (\S+): (.*)$", step.said.out.partition("--outputs:--")[0], re.MULTILINE)
    assert changes == [("scriptParams", "{"), ("--learning-rate", "0.01 => 0.02")]
    assert step.resources == ["+-1 to replace", "8 unchanged"]
    assert step.attempts == tour["make up"].attempts, "a preview trains nothing"


def test_make_up_trains_the_changed_job_alone(tour: Tour) -> None:
    before, after = tour["make output"].jobs, tour["make output then"].jobs
    new = tour["make up again"].attempts - tour["make up"].attempts
    assert new == {f"stores/default/runs/{after['horovod']['runId']}/attempts/1"}
    assert after["horovod"]["runId"] != before["horovod"]["runId"]
    assert after["horovod"]["accuracy"] >= ACCURACY
    assert {name: after[name] for name in JOBS - {"horovod"}} == {name: before[name] for name in JOBS - {"horovod"}}


def test_make_destroy_leaves_the_outputs_and_nothing_else(tour: Tour) -> None:
    step = tour["make destroy"]
    assert step.left == []
    assert step.temporary == []
    for job in [*tour["make output"].jobs.values(), tour["make output then"].jobs["horovod"]]:
        outputs = tour.clone.home / "stores" / "default" / "runs" / job["runId"] / "outputs"
        assert list(outputs.glob("model.*")), f"{outputs} has lost its model"


def test_make_up_after_destroy_trains_nothing_again(tour: Tour) -> None:
    step = tour["make up after all"]
    assert step.resources == ["+ 9 created"]
    assert step.attempts == tour["make up again"].attempts
    assert step.said.out.count("reuses run") >= len(JOBS)
    assert tour["make output after all"].jobs == tour["make output then"].jobs


def test_make_help_lists_every_target(clone: Clone) -> None:
    makefile = (REPO / "Makefile").read_text("utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    done = subprocess.run(
        ["make", "help"],
        cwd=clone.folder,
        env=variables(clone.home, clone.temporary),
        capture_output=True,
        text=True,
        check=True,
    )
    listed = dict(re.findall(r"^make ([\w-]+) +(.+)$", done.stdout, re.MULTILINE))
    assert sorted(listed) == sorted(phony.split())


def test_the_python_of_the_readme_is_right_to_the_type(tmp_path: Path) -> None:
    found = blocks(README.read_text("utf-8"), "python")
    assert found
    program = tmp_path / "readme.py"
    program.write_text("\n".join(found), encoding="utf-8")  # one after another, as a reader has them
    compile(program.read_text("utf-8"), str(program), "exec")
    argv = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(program)]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# The sample programs


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, tour: Tour) -> Iterator[tuple[str, Terminal, Path]]:
    """A sample program's name, a terminal in its folder as its own comment asks for it, and the home of its runs."""
    # The YAML program says the same as the root program's Horovod job, whose run it would find and not train at all.
    home = tour.clone.root / "home-yaml" if request.param == "yaml-horovod" else tour.clone.home
    terminal = tour.clone.terminal(f"programs/{request.param}", home)
    typed(terminal, 'eval "$(make -s -C ../.. env)"')
    yield request.param, terminal, home
    try:
        typed(terminal, "pulumi destroy --yes --stack dev")
    finally:
        terminal.close()
    assert leftovers(str(home)) == []
    assert os.listdir(tour.clone.temporary) == []


def test_a_sample_program(program: tuple[str, Terminal, Path], tour: Tour) -> None:
    name, terminal, home = program
    text = (REPO / "programs" / name / "Pulumi.yaml").read_text("utf-8")
    asked = re.findall(r"^#   (pulumi .*)$", text, re.MULTILINE)
    assert asked == ["pulumi stack init dev", "pulumi preview", "pulumi up", "pulumi stack output"]
    before = attempts(home)
    for command in asked[:2]:
        typed(terminal, command)
    assert attempts(home) == before, "a preview trains nothing"
    typed(terminal, f"{asked[2]} --yes")  # nobody is there to be asked
    outputs = json.loads(typed(terminal, f"{asked[3]} --json").out)
    assert outputs["accuracy"] >= ACCURACY
    # Two of them say what jobs of the root program say, and are answered with their runs.
    trained = len(attempts(home) - before)
    assert trained == (name not in {"local-horovod", "local-ps"})
    if name == "yaml-horovod":
        run = home / "stores" / "default" / "runs" / outputs["runId"]
        printed = "".join(log.read_text("utf-8") for log in run.glob("attempts/1/replicas/worker-*.log"))
        assert sorted(re.findall(r"rank (\d) of 2", printed)) == ["0", "1"]
    assert re.search(r"^Resources:\n +\d+ unchanged$", typed(terminal, "pulumi preview").out, re.MULTILINE)
