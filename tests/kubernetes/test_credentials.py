"""A kubeconfig given as content: its keys are in clear nowhere but in the program, whatever is done with the job."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.harness import Project
from tests.kubernetes.cluster_jobs import Place

pytestmark = pytest.mark.slow


def needles(content: str) -> list[str]:
    """What must not be found: parts of the private key, as it is in the kubeconfig and as it is in a file."""
    (user,) = yaml.safe_load(content)["users"]
    encoded = user["user"]["client-key-data"]
    lines = base64.b64decode(encoded).decode().splitlines()
    return [encoded[40:80], encoded[-60:-20], lines[1], lines[2]]


def written(root: Path, program: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder, the program's own aside."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_relative_to(program):
                yield str(path.relative_to(root)), path.read_bytes().decode("utf-8", "replace")


def everything(place: Place) -> dict[str, Any]:
    """All objects of the namespace that a run makes or that tell of it."""
    core = f"/api/v1/namespaces/{place.namespace}"
    kinds = [f"{core}/{kind}" for kind in ("configmaps", "secrets", "pods", "events")]
    kinds += [
        f"/apis/{group}/namespaces/{place.namespace}/{kind}"
        for group, kind in (("batch/v1", "jobs"), ("jobset.x-k8s.io/v1alpha2", "jobsets"))
    ]
    return {kind: place.rig.api.items(kind) for kind in kinds}


def of_secrets(found: dict[str, Any]) -> str:
    return "".join(
        base64.b64decode(value).decode("utf-8", "replace")
        for kind, items in found.items()
        if kind.endswith("/secrets")
        for item in items
        for value in (item.get("data") or {}).values()
    )


def test_a_kubeconfig_is_in_clear_nowhere(project: Project, place: Place) -> None:
    content = place.rig.kubeconfig.read_text(encoding="utf-8")
    secrets = needles(content)
    as_json = json.dumps(yaml.safe_load(content))
    given: dict[str, Any] = {"plain": content, "secret": {"fn::secret": content}, "json": as_json}
    project.yaml(
        {
            name: project.job(
                computeTarget=place.target(kubeconfig=kubeconfig, name=name), scriptParams={"--accuracy": f"0.9{index}"}
            )
            for index, (name, kubeconfig) in enumerate(given.items())
        }
    )
    found: dict[str, str] = {}

    def check(where: str, text: str) -> None:
        if any(needle in text for needle in secrets):
            found[where] = next(text[max(0, text.index(n) - 300) :][:600] for n in secrets if n in text)

    check("preview", project.preview().text)
    check("up", project.up().text)
    cluster = everything(place)
    assert all(cluster[kind] for kind in cluster if kind.rpartition("/")[2] in {"configmaps", "pods", "jobsets"})
    check("cluster", json.dumps(cluster) + of_secrets(cluster))
    check("state", project.export())
    assert project.preview().changed == {}, "and it is still what was given"
    check("refresh", project.refresh().text)
    for name in given:
        check(f"show {name}", json.dumps(project.state()[name]))
    check("destroy", project.destroy().text)
    for name, text in written(project.root, project.folder):
        check(name, text)
    assert found == {}
