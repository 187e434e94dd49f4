"""What cluster components install is what our tests run: the pinned versions are those of the rig's Go modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pulumi_tfjobs.spec import pins

REPO = Path(__file__).resolve().parents[2]
GO_MODULES = REPO / "tests" / "rig" / "gomod"
_REQUIRED = re.compile(r"^\s*(?:require\s+)?(\S+) (v\S+)$", re.MULTILINE)


def direct() -> dict[str, set[str]]:
    """Go module → its versions, of those that a rig's module itself requires: what others ask for is not run."""
    found: dict[str, set[str]] = {}
    for file in GO_MODULES.glob("*/go.mod"):
        for module, version in _REQUIRED.findall(file.read_text()):
            found.setdefault(module, set()).add(version)
    return found


@pytest.mark.parametrize(
    ("module", "pinned"),
    [
        ("sigs.k8s.io/jobset", pins.JOBSET),
        ("sigs.k8s.io/kueue", pins.KUEUE),
        ("github.com/kubeflow/training-operator", pins.TRAINING_OPERATOR),
        ("github.com/kubeflow/mpi-operator", pins.MPI_OPERATOR),
    ],
)
def test_what_is_installed_is_what_is_tested(module: str, pinned: str) -> None:
    assert direct()[module] == {pinned}


def test_a_new_cluster_has_the_kubernetes_that_is_tested() -> None:
    (tested,) = direct()["k8s.io/kubernetes"]
    assert tested.startswith(f"v{pins.KUBERNETES}.")


@pytest.mark.parametrize(
    "words",
    [
        pins.jobset_manifest(),
        f"JobSet {pins.JOBSET}",
        f"Kueue {pins.KUEUE}",
        f"training operator {pins.TRAINING_OPERATOR}",
        f"MPI operator {pins.MPI_OPERATOR}",
        f"device plugin {pins.NVIDIA_DEVICE_PLUGIN}",
    ],
)
def test_the_docs_name_the_same_versions(words: str) -> None:
    assert words in (REPO / "docs" / "kubernetes.md").read_text(encoding="utf-8")
