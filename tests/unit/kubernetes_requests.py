"""Requests for the tests of a Kubernetes target's objects: a job's inputs and a target's options → the objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pulumi_tfjobs.targets.base import RunContext
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.objects import Request, Source
from pulumi_tfjobs.targets.kubernetes.options import Options, check_options
from tests.unit.jobs import plan_of

IMAGE = "example.org/train:1"
SINGLE: dict[str, Any] = {}
PS = {"distribution": {"kind": "parameterServer", "workers": 2, "parameterServers": 2}}
PS_CHIEF = {"distribution": {**PS["distribution"], "chief": True, "evaluator": True}}
MULTI_WORKER = {"distribution": {"kind": "multiWorker", "workers": 3}}
HOROVOD = {"distribution": {"kind": "horovod", "nodes": 2, "processesPerNode": 4}}
HOROVOD_MPI = {"distribution": {**HOROVOD["distribution"], "controller": "mpi"}}
JOBS = {
    "single": SINGLE,
    "ps": PS,
    "ps with chief and evaluator": PS_CHIEF,
    "multi-worker": MULTI_WORKER,
    "horovod": HOROVOD,
    "horovod mpi": HOROVOD_MPI,
}
# Engine and job, for each pair that goes together: a JobSet starts no mpirun.
CASES = [
    (engine, job) for engine in ("jobset", "kubeflow") for job in JOBS if (engine, job) != ("jobset", "horovod mpi")
]


def options_of(given: Mapping[str, Any]) -> Options:
    found, problems = check_options({"image": IMAGE, **given})
    assert not problems, problems
    return Options.from_json(found)


def request_of(
    inputs: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
    name: str = "mnist",
    suspend: bool = False,
) -> Request:
    """The first attempt of a job, as it is launched."""
    plan = plan_of(dict(inputs), name=name)
    context = RunContext(urn="urn:pulumi:dev::vision::tfjobs:index:TrainingJob::mnist", stack="dev", project="vision")
    return Request(
        options=options_of(options or {}),
        plan=plan,
        run_id=plan.run_id,
        attempt=1,
        python="python3",
        source=Source("config", "5" * 64, 2, "6" * 64),
        boot=b"what runs first",
        secrets=secrets or {},
        labels=naming.labels_of(plan.run_id, 1, plan.digest, plan.job, context),
        annotations=naming.annotations_of(plan.run_id, plan.slots, context, {"runId": plan.run_id}),
        requirements=("tensorflow==2.15.1",),
        suspend=suspend,
    )
