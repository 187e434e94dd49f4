"""The policy pack under the real engine: what is mandatory ends a preview, what is advisory is said."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import pytest

from pulumi_tfjobs import policies as pack
from tests.engine.harness import Project
from tests.engine.running import Result

FOLDER = os.path.dirname(pack.__file__)
SECRET = "correct-" + "horse-battery"


def preview(project: Project, config: Mapping[str, Any] | None = None, *, expected: int = 0) -> Result:
    options = ["--policy-pack", FOLDER]
    if config is not None:
        path = project.root / "policies.json"
        path.write_text(json.dumps(config))
        options += ["--policy-pack-config", str(path)]
    return project.pulumi("preview", *options, expected=expected)


@pytest.fixture
def analyzer(project: Project) -> Mapping[str, Any]:
    """``plugins`` of Pulumi.yaml that names the folder of the executables: then the engine does not search PATH."""
    found = shutil.which("pulumi-analyzer-policy-tfjobs", path=project.environment["PATH"])
    assert found is not None, "it is installed with the package; run: make setup"
    folder = os.path.dirname(found)
    return {
        "providers": [{"name": "tfjobs", "path": folder}],
        "analyzers": [{"name": "policy-tfjobs", "path": folder}],
    }


def test_what_is_mandatory_ends_the_preview(project: Project, analyzer: Mapping[str, Any]) -> None:
    def program(params: Mapping[str, Any]) -> None:
        jobs = {"one": project.job(scriptParams=params, distributedBackend="mpi")}
        project.yaml(jobs, plugins=analyzer)

    program({"--api-key": SECRET})
    result = preview(project, expected=1)
    assert "no-secrets-in-params" in result.text
    assert 'scriptParams["--api-key"]: its name says that it is a secret' in result.text
    # The engine shows the parameter itself; the pack does not.
    said = [event["policyEvent"]["message"] for event in result.events if "policyEvent" in event]
    assert said
    assert all(SECRET not in text for text in said)

    program({"--accuracy": 0.5})
    result = preview(project)
    assert "Horovod with 1 × 1 ranks makes 1 that trains" in result.text  # advisory
    assert "from $PATH" not in result.text
    result = preview(project, {"distributed-needs-workers": "mandatory"}, expected=1)
    assert "Expected: at least 2 in a distributed job" in result.text
    assert "makes 1" not in preview(project, {"distributed-needs-workers": "disabled"}).text
    result = preview(project, {"distributed-needs-workers": {"min": "two"}}, expected=1)
    assert "min: Invalid type" in result.text
    assert project.launched() == []


def test_a_budget_counts_what_would_be_started(project: Project, analyzer: Mapping[str, Any]) -> None:
    secret = {"TOKEN": {"fn::secret": SECRET}}

    def program(accuracy: float, **more: Any) -> None:
        params = {"--accuracy": accuracy}
        # The name makes no second job of it: both are asked, one launches.
        jobs = {
            name: project.job(name="mnist", scriptParams=params, environmentVariables=secret, **more)
            for name in ("one", "two")
        }
        project.yaml(jobs, plugins=analyzer)

    limits = {"slot-hours-per-job": {"max": 1}, "slot-hours-per-stack": {"max": 0, "unknown": "deny"}}
    program(0.5)
    result = preview(project, {"slot-hours-per-job": {"max": 1}})
    assert "no run of it has finished yet, and it has no maxRunDurationSeconds" in result.text
    # Which of the two launches it, the order decides in which the engine asks about them.
    assert re.search("what (one|two) takes is not known", preview(project, limits, expected=1).text)
    program(0.5, maxRunDurationSeconds=7200)
    assert "takes up to 2.00 slot-hours" in preview(project, limits, expected=1).text
    project.up()
    assert "slot-hours" not in preview(project, limits).text  # unchanged
    program(0.25)
    result = preview(project, limits, expected=1)
    assert "this update takes about" in result.text
    assert "the run before" in preview(project, {"slot-hours-per-job": {"max": 0}}, expected=1).text
    project.up()
    program(0.5)
    assert "slot-hours" not in preview(project, limits).text  # reused
    assert len(set(project.launched())) == 2
