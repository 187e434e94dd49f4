"""The kinds of objects that a run can be at a cluster, behind one interface. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import Horovod, JobSpec, MultiWorker
from pulumi_tfjobs.spec.retrying import INFRASTRUCTURE
from pulumi_tfjobs.targets.kubernetes import jobset, kubeflow
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS, MPI_JOBS, MPI_JOBS_V1, TF_JOBS, Api
from pulumi_tfjobs.targets.kubernetes.members import LAUNCHER
from pulumi_tfjobs.targets.kubernetes.objects import Request, config_map, hosts_of, secret

_USE_JOBSET = 'leave computeTarget.engine out (it is "jobset" then)'


class Engine(Protocol):
    """One way to run a plan's replicas at a cluster."""

    @property
    def name(self) -> str:
        """As ``computeTarget.engine`` has it."""

    @property
    def controllers(self) -> frozenset[str]:
        """Horovod's controllers that it can start."""

    def api(self, plan: LaunchPlan) -> Api:
        """The kind of the run's workload."""

    def check(self, spec: JobSpec) -> list[InputProblem]:
        """What of a job it can never do."""

    def objects(self, request: Request) -> list[dict[str, Any]]:
        """The attempt's objects, in the order in which they are to be made: the workload is the last."""

    def suspended(self, workload: Mapping[str, Any]) -> bool:
        """Whether the workload waits to be let in."""

    def resumed(self) -> dict[str, Any]:
        """The merge patch that lets a suspended workload begin."""


@dataclass(frozen=True)
class JobSets:
    """JobSet, which needs no operator of a framework."""

    name: str = "jobset"
    controllers: frozenset[str] = frozenset({"gloo"})

    def api(self, plan: LaunchPlan) -> Api:
        del plan
        return JOB_SETS

    def check(self, spec: JobSpec) -> list[InputProblem]:
        del spec
        return []

    def objects(self, request: Request) -> list[dict[str, Any]]:
        return [*_beside(request, jobset.HOST), jobset.jobset(request)]

    def suspended(self, workload: Mapping[str, Any]) -> bool:
        return bool((workload.get("spec") or {}).get("suspend"))

    def resumed(self) -> dict[str, Any]:
        return {"spec": {"suspend": False}}


@dataclass(frozen=True)
class Kubeflow:
    """Kubeflow's TFJob and MPIJob. ``mpi``: whose MPIJob the cluster has, mpi-operator's or training-operator's."""

    name: str = "kubeflow"
    controllers: frozenset[str] = frozenset({"gloo", "mpi"})
    mpi: Api = MPI_JOBS

    def api(self, plan: LaunchPlan) -> Api:
        return self.mpi if kubeflow.is_mpi(plan) else TF_JOBS

    def check(self, spec: JobSpec) -> list[InputProblem]:
        found = []
        horovod = spec.distribution if isinstance(spec.distribution, Horovod) else None
        if spec.retries and (horovod is not None or isinstance(spec.distribution, MultiWorker)):
            found.append(
                InputProblem(
                    "retries",
                    f"it is {spec.retries}, and Kubeflow's operators start lost replicas again one by one, which the "
                    "others of a collective cannot go on with",
                    "0 with the engine kubeflow and this distribution",
                    f"{_USE_JOBSET}, or remove retries",
                )
            )
        elif spec.retries and spec.retry_on != (INFRASTRUCTURE,):
            found.append(
                InputProblem(
                    "retryOn",
                    f"it is {', '.join(spec.retry_on)}",
                    f"{INFRASTRUCTURE}, all that Kubeflow's operators tell apart",
                    f"{_USE_JOBSET}, or remove retryOn",
                )
            )
        if spec.parameter_server_restarts:
            found.append(
                InputProblem(
                    "parameterServerRestarts",
                    f"it is {spec.parameter_server_restarts}, and a TFJob counts no restarts of one type",
                    "0 with the engine kubeflow",
                    f"{_USE_JOBSET}, or remove it",
                )
            )
        chief = bool(getattr(spec.distribution, "chief", False))
        if chief and (spec.success_policy == "all_workers" or isinstance(spec.distribution, MultiWorker)):
            found.append(
                InputProblem(
                    "distribution.chief",
                    "a TFJob ends with its chief, also when workers are not done, and here all are to end well",
                    "no chief with the engine kubeflow: worker 0 leads then",
                    f"{_USE_JOBSET}, or remove chief",
                )
            )
        return found

    def objects(self, request: Request) -> list[dict[str, Any]]:
        if self.api(request.plan) == MPI_JOBS_V1:
            return [*_beside(request, kubeflow.MPIJOB_POD, {LAUNCHER: []}), kubeflow.mpijob_v1(request)]
        if kubeflow.is_mpi(request.plan):
            launcher = {LAUNCHER: [kubeflow.LAUNCHER_HOST.format(name=request.name)]}
            return [*_beside(request, kubeflow.MPIJOB_HOST, launcher), kubeflow.mpijob(request)]
        return [*_beside(request, kubeflow.TFJOB_HOST), kubeflow.tfjob(request)]

    def suspended(self, workload: Mapping[str, Any]) -> bool:
        return bool(((workload.get("spec") or {}).get("runPolicy") or {}).get("suspend"))

    def resumed(self) -> dict[str, Any]:
        return {"spec": {"runPolicy": {"suspend": False}}}


ENGINES: Mapping[str, Engine] = {"jobset": JobSets(), "kubeflow": Kubeflow()}


def _beside(request: Request, host: str, more: Mapping[str, list[str]] | None = None) -> list[dict[str, Any]]:
    found = [config_map(request, {**hosts_of(request, host), **(more or {})})]
    return [*found, secret(request)] if request.secrets else found
