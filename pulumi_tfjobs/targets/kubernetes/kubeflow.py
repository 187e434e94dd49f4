"""A run as one of Kubeflow's jobs: a TFJob, or for Horovod over MPI an MPIJob. Pure.

Horovod over Gloo is a TFJob of workers alone: it needs pods that know each other's names, and nothing else.
"""

from __future__ import annotations

from typing import Any

from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.kubernetes.api import MPI_JOBS, MPI_JOBS_V1, TF_JOBS, Api
from pulumi_tfjobs.targets.kubernetes.boot.kubexec import ADDRESS
from pulumi_tfjobs.targets.kubernetes.boot.ssh import KEYS
from pulumi_tfjobs.targets.kubernetes.jobset import INFRASTRUCTURE, queue_labels
from pulumi_tfjobs.targets.kubernetes.members import CONTAINER, LAUNCH, LAUNCHER, LEND, Group, groups
from pulumi_tfjobs.targets.kubernetes.objects import ROOT, Request, pod_template

# Services of its operator have these names; a JobSet's pods are below one service.
TFJOB_HOST = "{name}-{type}-{index}"
MPIJOB_HOST = "{name}-{type}-{index}.{name}"
MPIJOB_POD = "{name}-{type}-{index}"  # of v1, whose pods have no service: kubectl knows them by it
REPLICA_INDEX = "training.kubeflow.org/replica-index"
QUEUES_NO_V1 = "the cluster's MPIJob is training-operator's (v1), which Kueue does not know: it would never be let in"
TO_FIX_QUEUE = "leave queue out, or say controller: gloo, or install mpi-operator (v2beta1) in its place"
LAUNCHER_HOST = "{name}-launcher.{name}"
TFJOB_CONTAINER = "tensorflow"
_TFJOB_PORT = "tfjob-port"
_TYPES = {"chief": "Chief", "master": "Master", "ps": "PS", "worker": "Worker", "evaluator": "Evaluator"}


def tfjob(request: Request) -> dict[str, Any]:
    """The TFJob of an attempt. Its operator starts failed replicas again one by one, and only those that were ended by
    a signal (exit codes from 128 on), where the plan has retries at all."""
    plan = request.plan
    again = "ExitCode" if plan.retries else "Never"
    replicas = {
        _TYPES[group.type]: {
            "replicas": len(group.pods),
            "restartPolicy": again,
            "template": _tfjob_pod(request, group),
        }
        for group in groups(plan)
    }
    policy = _run_policy(request)
    if not plan.retries:
        # Nothing is started again with "Never". With a limit of 0 its operator would delete the pods that have failed,
        # their logs with them, and make one of them anew before it tells that the job has failed.
        del policy["backoffLimit"]
    return _workload(
        request,
        TF_JOBS,
        {
            "successPolicy": "AllWorkers" if plan.success_policy == "all_workers" else "",
            "runPolicy": policy,
            "tfReplicaSpecs": replicas,
        },
    )


def mpijob(request: Request) -> dict[str, Any]:
    """The MPIJob of an attempt, for mpi-operator. The launcher waits for the workers, and runs mpirun, which reaches
    them over ssh: the image has Open MPI and OpenSSH's server and client."""
    spec = {
        "runPolicy": _run_policy(request),
        **_mpi(request),
        # Elsewhere than in root's home, so that it can be read by whoever the image runs as.
        "sshAuthMountPath": f"{ROOT}/{KEYS}",
        "mpiImplementation": "OpenMPI",
    }
    return _workload(request, MPI_JOBS, spec)


def mpijob_v1(request: Request) -> dict[str, Any]:
    """The same for training-operator. mpirun reaches the workers by kubectl, which the operator brings into the
    launcher's pod; the image has Open MPI."""
    policy = _run_policy(request)
    del policy["backoffLimit"]  # as with a TFJob
    spec = {"runPolicy": policy, "mainContainer": CONTAINER, **_mpi(request)}
    launcher = spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]
    # The operator makes an account that may run commands in the workers' pods, and in no other one.
    launcher.pop("serviceAccountName", None)
    launcher.pop("automountServiceAccountToken", None)
    container = next(item for item in launcher["containers"] if item["name"] == CONTAINER)
    container["env"].append({"name": ADDRESS, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    return _workload(request, MPI_JOBS_V1, spec)


def _mpi(request: Request) -> dict[str, Any]:
    """What both kinds of MPIJob have in common."""
    workers = next(group for group in groups(request.plan) if group.type == "worker")
    # Of it there is one, and it trains nothing: no GPU, and no CPU to speak of.
    launcher = _pod(request, Group(LAUNCHER, ((),)), LAUNCH)
    launcher["metadata"]["labels"][REPLICA_INDEX] = "0"
    worker = _pod(request, workers, LEND)
    return {
        "slotsPerWorker": max(len(pod) for pod in workers.pods),
        "mpiReplicaSpecs": {
            "Launcher": {"replicas": 1, "restartPolicy": "Never", "template": launcher},
            "Worker": {"replicas": len(workers.pods), "restartPolicy": "Never", "template": worker},
        },
    }


def is_mpi(plan: LaunchPlan) -> bool:
    """Whether mpirun starts the plan's replicas."""
    return plan.rendezvous is not None and plan.rendezvous.kind == "mpi"


def is_final(plan: LaunchPlan, code: int) -> bool:
    """Whether a pod that fails with this code certainly ends the run: its operator tells only by that."""
    return not plan.retries or code < INFRASTRUCTURE


def _workload(request: Request, api: Api, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": api.api_version,
        "kind": api.kind,
        "metadata": {
            "name": request.name,
            "labels": {**request.labels, **queue_labels(request.options)},
            "annotations": dict(request.annotations),
        },
        "spec": spec,
    }


def _run_policy(request: Request) -> dict[str, Any]:
    options = request.options
    policy: dict[str, Any] = {"cleanPodPolicy": "Running", "backoffLimit": request.plan.retries}
    if request.suspend or options.queue:
        policy["suspend"] = True
    if options.ttl_seconds_after_finished is not None:
        policy["ttlSecondsAfterFinished"] = options.ttl_seconds_after_finished
    return policy


def _tfjob_pod(request: Request, group: Group) -> dict[str, Any]:
    template = pod_template(request, group, index=_index(), container=TFJOB_CONTAINER)
    container = next(item for item in template["spec"]["containers"] if item["name"] == TFJOB_CONTAINER)
    # By this name its operator finds the port; without it, it adds one of the same number beside ours.
    for port in container.get("ports", ())[:1]:
        port.setdefault("name", _TFJOB_PORT)
    return template


def _pod(request: Request, group: Group, word: str) -> dict[str, Any]:
    # The launcher's Job does not label its pods with a number; there is only one.
    index = {"value": "0"} if group.type == LAUNCHER else _index()
    return pod_template(request, group, index=index, words=[word])


def _index() -> dict[str, Any]:
    return {"valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{REPLICA_INDEX}']"}}}
