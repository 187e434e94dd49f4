"""A run as a JobSet: one replicated job for each replica type, a Job of one pod for each of its pods. Pure.

Only those whose end decides the run end by themselves (the others wait in their pods, see the bootstrap), so that the
JobSet's own policies say the same as ``spec/policy.py``.
"""

from __future__ import annotations

import signal
from typing import Any

from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS
from pulumi_tfjobs.targets.kubernetes.ends import TIMED_OUT, TOLD_TO_END, pod_code
from pulumi_tfjobs.targets.kubernetes.members import CONTAINER, Group, deciding, groups
from pulumi_tfjobs.targets.kubernetes.objects import Request, given, pod_template
from pulumi_tfjobs.targets.kubernetes.options import Options

HOST = "{name}-{type}-{index}-0.{name}"
DOMAIN = "jobset.sigs.k8s.io"
JOB_INDEX = f"{DOMAIN}/job-index"
RESTART_ATTEMPT = f"{DOMAIN}/restart-attempt"
QUEUE = "kueue.x-k8s.io/queue-name"
WORKLOAD_PRIORITY = "kueue.x-k8s.io/priority-class"
_EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
INFRASTRUCTURE = 128  # from here on, exit codes are signals


def jobset(request: Request) -> dict[str, Any]:
    """The JobSet of an attempt."""
    options, plan = request.options, request.plan
    exclusive = {_EXCLUSIVE: options.exclusive_topology}
    # The workers' successes count one by one where one of them decides alone: the others do not end by themselves.
    alone = plan.success_policy == "default" and deciding(plan) == ("worker",)
    body: dict[str, Any] = {
        "apiVersion": JOB_SETS.api_version,
        "kind": JOB_SETS.kind,
        "metadata": {
            "name": request.name,
            "labels": {**request.labels, **queue_labels(options)},
            "annotations": {**request.annotations, **given(exclusive)},
        },
        "spec": {
            "replicatedJobs": [_replicated_job(request, group) for group in groups(plan)],
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "Any" if alone else "All", "targetReplicatedJobs": list(deciding(plan))},
            "failurePolicy": {
                "maxRestarts": plan.retries or options.max_preemptions,
                "rules": _final_failures(plan),
            },
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
        },
    }
    # Kueue wants to let it start itself.
    if request.suspend or options.queue:
        body["spec"]["suspend"] = True
    if options.ttl_seconds_after_finished is not None:
        body["spec"]["ttlSecondsAfterFinished"] = options.ttl_seconds_after_finished
    return body


def queue_labels(options: Options) -> dict[str, str]:
    """Labels of a workload by which Kueue takes it."""
    return given({QUEUE: options.queue, WORKLOAD_PRIORITY: options.workload_priority})


def _final_failures(plan: LaunchPlan) -> list[dict[str, Any]]:
    """Failures of a Job that end the run; all others make the group start again."""
    rules: list[dict[str, Any]] = [
        {"name": "noRetry", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    if plan.ps_restarts and not plan.retries:
        # A parameter server has failed more often than it may. (Where it was taken away, that was not counted.)
        spent = {"onJobFailureReasons": ["BackoffLimitExceeded"], "targetReplicatedJobs": ["ps"]}
        rules.append({"name": "psRestarts", "action": "FailJobSet", **spent})
    return rules


def _replicated_job(request: Request, group: Group) -> dict[str, Any]:
    plan = request.plan
    template = pod_template(
        request,
        group,
        index={"valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{JOB_INDEX}']"}}},
        restart={"valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{RESTART_ATTEMPT}']"}}},
    )
    return {
        "name": group.type,
        "replicas": len(group.pods),
        "template": {
            "metadata": {"labels": {**request.labels, naming.REPLICA_TYPE: group.type}},
            "spec": {
                "parallelism": 1,
                "completions": 1,
                "completionMode": "Indexed",
                "backoffLimit": plan.ps_restarts if group.type == "ps" else 0,
                "podFailurePolicy": {"rules": _failure_rules(plan, group)},
                "template": template,
            },
        },
    }


def _failure_rules(plan: LaunchPlan, group: Group) -> list[dict[str, Any]]:
    """Which ends of a pod make the whole group start again. A pod that was taken away (preempted, evicted, its node
    drained) always counts as one of these."""
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    if group.type == "ps" and plan.ps_restarts:  # it is started again by itself
        return [{"action": "Ignore", "onPodConditions": disrupted}]
    operator, values = _final_codes(plan)
    codes = {"containerName": CONTAINER, "operator": operator, "values": values}
    return [{"action": "Count", "onPodConditions": disrupted}, {"action": "FailJob", "onExitCodes": codes}]


def _final_codes(plan: LaunchPlan) -> tuple[str, list[int]]:
    """Exit codes that are final: operator and values of a pod failure policy."""
    if plan.retries and "any" in plan.retry_on:
        return "In", [TIMED_OUT]
    again = {TOLD_TO_END}  # a pod that somebody has deleted
    if not plan.retries:
        return "In", [code for code in range(1, 256) if code not in again]
    if "infrastructure" in plan.retry_on:
        again.update(range(INFRASTRUCTURE, 256))
    for word in plan.retry_on:
        if word.isdigit():
            again.add(pod_code(int(word)))
        elif word.startswith("SIG"):
            again.add(128 + signal.Signals[word].value)
    return "In", [code for code in range(1, 256) if code not in again or code == TIMED_OUT]


def is_final(plan: LaunchPlan, options: Options, replica_type: str, code: int, restart: int) -> bool:
    """Whether a pod that fails with this code certainly ends the run. ``restart``: how often the group was started
    again before. (A parameter server that is started again by itself is counted by its Job alone.)"""
    if replica_type == "ps" and plan.ps_restarts:
        return False
    return code in _final_codes(plan)[1] or restart >= (plan.retries or options.max_preemptions)
