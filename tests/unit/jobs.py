"""Jobs for the tests of spec and plan: inputs as a user writes them → problems, spec, plan."""

from __future__ import annotations

from typing import Any

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.plan import build_plan
from pulumi_tfjobs.spec.args import parse_args
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import InputData, JobSpec, SourceFile, SourceManifest, TargetRef
from pulumi_tfjobs.spec.validate import build_spec
from pulumi_tfjobs.targets.base import Capabilities

SOURCE = SourceManifest(
    "/src",
    (
        SourceFile("train.py", "a" * 64, 10),
        SourceFile("lib/model.py", "b" * 64, 20),
        SourceFile("run.sh", "c" * 64, 5, "x"),
    ),
)
LARGE = Capabilities(slots=64, gpus=64, controllers=frozenset({"gloo", "mpi"}), elastic=True)
HERE = {"sourceDirectory": "./src", "entryScript": "train.py"}


def check(
    inputs: dict[str, Any],
    *,
    capabilities: Capabilities = LARGE,
    unknown: frozenset[str] = frozenset(),
    secret: frozenset[str] = frozenset(),
    source: SourceManifest | None = SOURCE,
    data: tuple[InputData, ...] = (),
    name: str = "mnist",
) -> tuple[JobSpec | None, list[InputProblem]]:
    """As the lifecycle does it: both steps, all problems. ``inputs`` are added to a source and a script."""
    given = {key: value for key, value in {**HERE, **inputs}.items() if key not in unknown}
    args, problems = parse_args(given, unknown, secret=secret)
    if args is None:
        return None, problems
    spec, more = build_spec(
        args,
        name=name,
        source=source,
        inputs=data,
        target=TargetRef("local"),
        capabilities=capabilities,
        unknown=unknown,
        secret=secret,
    )
    return spec, problems + more


def spec_of(inputs: dict[str, Any], **options: Any) -> JobSpec:
    spec, problems = check(inputs, **options)
    assert not problems, problems
    assert spec is not None
    return spec


def plan_of(inputs: dict[str, Any], **options: Any) -> LaunchPlan:
    return build_plan(spec_of(inputs, **options))


def problems_of(inputs: dict[str, Any], **options: Any) -> dict[str, InputProblem]:
    """Path → problem; a path that is named twice fails the test."""
    _, problems = check(inputs, **options)
    found = {problem.path: problem for problem in problems}
    assert len(found) == len(problems), problems
    return found
