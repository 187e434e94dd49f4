"""docs/kubernetes.md: every command is typed at a private cluster, every program is run, and its tables say what is so.

Its walk from an empty cluster to a finished job is done in one terminal, as a reader does it. What cannot be done here
is in NOT_HERE and SECTIONS_NOT_HERE, with the reason, and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from pulumi_tfjobs.sdk.clusters import access
from pulumi_tfjobs.spec import pins
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.args import parse_args
from pulumi_tfjobs.targets.kubernetes.permissions import PERMISSIONS
from tests.conformance.kubernetes_place import target_options
from tests.engine.harness import Project
from tests.engine.running import STACK
from tests.helpers.mocked_cluster import Cloud, plain, run
from tests.integration.terminal import Said, Terminal, blocks, commands
from tests.rig.cluster import Cluster
from tools.setup.paths import default_paths

DOC = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"
TEXT = DOC.read_text("utf-8")

NOT_HERE = {
    "python3 -m venv": "the environment that tests run in stands for it",
    "pip install": "it installs from the package index what is tested here from this folder",
    "kubectl apply --server-side -f https://": "it is on the web; the private cluster has the same version of JobSet",
    "kubectl taint nodes gpu-3": "test_disruptions.py loses a node, and types it",
    "kubectl wait deployment/jobset-controller-manager": "JobSet's controller runs beside the private cluster",
}
SECTIONS_NOT_HERE = {
    "On a cluster that is there: GpuAddons": "the engine's plugin of pulumi-kubernetes is on the web; "
    "tests/unit/test_cluster_programs.py runs the program, test_addons_applied.py applies what it makes",
    "From nothing, on Azure: AksGpuCluster": "it needs an Azure account, and costs money; "
    "tests/unit/test_cluster_programs.py runs the program",
}
TEAM = "team-a"
EPOCHS = 20


def section(title: str) -> str:
    """What is below a heading, up to the next."""
    (found,) = re.findall(rf"^##+ {re.escape(title)}\n(.*?)(?=^##+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def programs(language: str) -> dict[str, str]:
    """The files that the doc shows: those that begin with a comment of their name."""
    found = {}
    for block in blocks(TEXT, language):
        named = re.match(r"# (\S+\.\w+)\n", block)
        if named:
            found[named[1]] = block
    return found


def typable() -> list[str]:
    elsewhere = [command for title in SECTIONS_NOT_HERE for command in commands(section(title))]
    left = list(commands(TEXT))
    for command in reversed(elsewhere):  # those sections come last
        del left[len(left) - 1 - left[::-1].index(command)]
    return [command for command in left if not command.startswith(tuple(NOT_HERE))]


class Walk:
    """All of the doc's commands in one terminal, in order; and what each has said."""

    def __init__(self, project: Project, rig: Cluster) -> None:
        self.project = project
        self.said: dict[str, Said] = {}
        self.namespace: list[dict[str, Any]] = []
        files = {**programs("yaml"), **programs("python")}
        files["Pulumi.yaml"] = at_the_rig(files["Pulumi.yaml"], rig)
        for name, text in files.items():
            project.write_program(name, text)
        (project.folder / ".venv").symlink_to(default_paths().venv)
        notes = project.root / "notes"
        notes.mkdir()
        terminal = Terminal(project.folder, {**project.environment, **variables(project.root, rig)}, notes)
        try:
            for command in typable():
                if command.startswith("kubectl delete"):
                    self.namespace = rig.api.items(f"/api/v1/namespaces/{TEAM}/configmaps")
                said = terminal.type(command)
                assert said.code == 0, said.text
                assert "Traceback" not in said.text, said.text
                self.said[command] = said
        finally:
            terminal.close()

    def __getitem__(self, beginning: str) -> str:
        """What the command that begins so has said."""
        (found,) = [said for command, said in self.said.items() if command.startswith(beginning)]
        return found.text


def variables(root: Path, rig: Cluster) -> dict[str, str]:
    """The administrator's kubeconfig, whose copy the doc's commands may change, and kubectl."""
    kubeconfig = root / "kubeconfig"
    content = json.loads(rig.kubeconfig.read_text("utf-8"))
    content["contexts"][0]["name"] = content["current-context"] = "gpu-cluster"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(json.dumps(content), encoding="utf-8")
    kubectl = os.path.dirname(rig.programs.go("kubectl"))
    return {"KUBECONFIG": str(kubeconfig), "PATH": f"{os.environ['PATH']}{os.pathsep}{kubectl}"}


def at_the_rig(program: str, rig: Cluster) -> str:
    """The doc's program, with an image that is here and the folders that its Python needs."""
    content = yaml.safe_load(program)
    (job,) = content["resources"].values()
    target = job["properties"]["computeTarget"]
    here = target_options(rig, TEAM, sys.executable, "")
    for name in ("image", "imagePullPolicy", "python", "nodeSelector", "volumes", "allowHostPath"):
        target[name] = here[name]
    text: str = yaml.safe_dump(content)
    return text


@pytest.fixture(scope="module")
def walk(rig_node: Cluster, tmp_path_factory: pytest.TempPathFactory, pulumi_home: Path) -> Iterator[Walk]:
    root = tmp_path_factory.mktemp("docs")
    project = Project(root, pulumi_home)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{TEAM}-runs"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "nfs",
            "capacity": {"storage": "100Gi"},
            "hostPath": {"path": str(root / "volume"), "type": "DirectoryOrCreate"},
        },
    }
    rig_node.api.create(volume)
    try:
        yield Walk(project, rig_node)
    finally:
        project.close()
        bound = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
        for item in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}},
            {**bound, "metadata": {"name": f"{TEAM}-ci"}},
            {**bound, "kind": "ClusterRole", "metadata": {"name": access.SUBMITTER}},
            volume,
        ):
            with contextlib.suppress(OSError):
                rig_node.api.delete(rig_node.api.path(item))


# The walk


@pytest.mark.slow
def test_from_an_empty_cluster_to_a_finished_job(walk: Walk) -> None:
    preview = walk["pulumi preview"]
    assert re.search(r"line\s+train", preview), preview
    assert "there is no" not in preview, "nothing is missing"
    assert "these credentials may not" not in preview, "the role is enough"
    assert re.search(r"\+ \d created", walk["pulumi up"])
    outputs = re.search(r"loss\s+(\S+)", walk["pulumi stack output"])
    assert outputs is not None
    assert float(outputs[1]) == pytest.approx(9 * 0.8 ** (2 * EPOCHS), rel=1e-3)


@pytest.mark.slow
def test_what_the_page_shows_is_what_is_seen(walk: Walk) -> None:
    shown = 0
    for block in blocks(TEXT, "console"):
        seen: set[str] = set()
        for line in block.splitlines():
            if line.startswith("$ "):
                said = walk.said.get(line[2:])
                seen = {shape(each) for each in said.text.splitlines()} if said else set()
            elif line.strip():
                assert shape(line) in seen, line
                shown += 1
    assert shown > 10


def shape(line: str) -> str:
    """The line without what is different each time: digests, ends of pods' names, how long it took."""
    line = re.sub(r"-[0-9a-f]{12}\b", "-DIGEST", line)
    line = re.sub(r"(worker-\d-\d)-\w{5}\b", r"\1-POD", line)
    return " ".join(re.sub(r"\b(?:[\d.]+(?:ms|s|m|h) ?)+(?![\w])", "TIME ", line).split())


@pytest.mark.slow
def test_what_the_run_has_written_is_here_and_on_the_claim_and_stays(walk: Walk) -> None:
    (run_folder,) = (walk.project.home / "stores" / "kubernetes" / "runs").iterdir()
    for outputs in (run_folder / "outputs", walk.project.root / "volume" / "runs" / run_folder.name / "outputs"):
        assert sorted(os.listdir(outputs)) == ["weight-0.txt", "weight-1.txt"]


@pytest.mark.slow
def test_nothing_of_the_run_is_left_in_the_namespace(walk: Walk, rig_node: Cluster) -> None:
    mine = {item["metadata"]["name"] for item in walk.namespace if item["metadata"]["name"] != "kube-root-ca.crt"}
    assert len(mine) == 2, "its configuration with what pods run first, and its source"
    for name in mine:
        rig_node.api.wait_gone(f"/api/v1/namespaces/{TEAM}/configmaps/{name}")
    for api, kind in (("apis/jobset.x-k8s.io/v1alpha2", "jobsets"), ("apis/batch/v1", "jobs"), ("api/v1", "pods")):
        rig_node.api.wait(
            f"/{api}/namespaces/{TEAM}/{kind}", lambda found: not found["items"], f"the {kind} are gone", 60
        )


@pytest.mark.slow
def test_the_first_program_is_one_that_the_cluster_takes(walk: Walk, rig_node: Cluster) -> None:
    project = walk.project
    project.python(blocks(TEXT, "python")[0])
    project.pulumi("stack", "init", STACK)
    preview = project.preview(environment=variables(project.root, rig_node))
    assert "train" in preview.said("digits")
    assert "2 workers (Horovod" in preview.text
    assert "there is no" not in preview.text


# The programs with components, against stand-ins of their clouds


@pytest.mark.parametrize("title", list(SECTIONS_NOT_HERE))
def test_a_program_with_a_component(title: str) -> None:
    (program,) = blocks(section(title), "python")
    cloud = Cloud()
    done: dict[str, Any] = {}

    def declare() -> Any:
        exec(compile(program, str(DOC), "exec"), done)
        return pulumi.Output.from_input("")

    run(cloud, declare)
    jobs = [plain(item.inputs) for item in cloud.registered.values() if item.typ == "tfjobs:index:TrainingJob"]
    assert jobs
    for inputs in jobs:
        args, problems = parse_args(inputs)
        assert (problems, args is not None) == ([], True)


# What the page says


def test_every_command_of_the_page_is_typed_or_listed_as_one_that_is_not() -> None:
    for beginning in NOT_HERE:
        assert any(command.startswith(beginning) for command in commands(TEXT)), f"{beginning} is not in the page"
    languages = {found for found in re.findall(r"^```(\w*)$", TEXT, re.MULTILINE) if found}
    assert languages == {"console", "python", "yaml"}
    assert len(re.findall(r"^```$", TEXT, re.MULTILINE)) == len(re.findall(r"^```\w+$", TEXT, re.MULTILINE))
    for language in ("console", "python", "yaml"):
        for block in blocks(TEXT, language):
            assert language != "console" or block.startswith("$ "), block
            assert language != "yaml" or block.startswith("# "), "a file without a name is not run"


def test_permissions_are_those_that_a_run_needs() -> None:
    rows = [line.strip("| ").split(" | ") for line in section("Permissions").splitlines() if line.startswith("| ")]
    told = [(group.replace("core", ""), kind, tuple(verbs.split(", ")), why) for group, kind, verbs, why in rows[1:]]
    assert told == [tuple(item) for item in PERMISSIONS]
    role, cluster_role = yaml.safe_load_all(programs("yaml")["submitter.yaml"])
    assert role["rules"] == access.role(TEAM, PERMISSIONS)["rules"]
    assert cluster_role["rules"] == access.cluster_role(access.SUBMITTER, PERMISSIONS)["rules"]


def test_every_state_has_a_row() -> None:
    first = [line.split(" | ")[0] for line in section("What a row says").splitlines() if line.startswith("| `")]
    told = {word for cell in first for word in re.findall(r"`(\w+)", cell)}
    states = {value for name, value in vars(phases).items() if name.isupper() and isinstance(value, str)}
    assert states <= told, states - told


def test_versions_are_those_that_are_installed() -> None:
    table = section("On a cluster that is there: GpuAddons")
    for version in (pins.NVIDIA_DEVICE_PLUGIN, pins.JOBSET, pins.KUEUE, pins.TRAINING_OPERATOR, pins.MPI_OPERATOR):
        assert version in table
    assert f"/jobset/releases/download/{pins.JOBSET}/manifests.yaml" in TEXT
