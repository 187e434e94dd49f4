"""What a cluster lacks for a run: all of it at once, and what to do about each. Changes nothing at the cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import InputProblem, TargetUnavailable
from pulumi_tfjobs.spec import pins
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.suggest import nearest
from pulumi_tfjobs.targets.kubernetes.api import CLAIMS, CONFIG_MAPS, MPI_JOBS_V1, SECRETS, Api
from pulumi_tfjobs.targets.kubernetes.detecting import QUICK_SECONDS, Installed, denied, detect
from pulumi_tfjobs.targets.kubernetes.failures import Unreadable
from pulumi_tfjobs.targets.kubernetes.kubeflow import QUEUES_NO_V1, TO_FIX_QUEUE, is_mpi
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.packing import Node
from pulumi_tfjobs.targets.kubernetes.permissions import PERMISSIONS, Permission
from pulumi_tfjobs.targets.kubernetes.queueing import LOCAL_QUEUES, PRIORITIES
from pulumi_tfjobs.targets.kubernetes.sharing import kept

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

_NAMESPACES = Api("", "v1", "namespaces", "Namespace")
_ACCOUNTS = Api("", "v1", "serviceaccounts", "ServiceAccount")
_POD_PRIORITIES = Api("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass")
_RUNTIMES = Api("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass")
_NAMES_SHOWN = 200
# A preview of many jobs looks once.
_KEPT_SECONDS = 10.0
_APPLY = "kubectl apply --server-side"
INSTALL = {
    "jobset": f"`{_APPLY} -f {pins.jobset_manifest()}`",
    "kueue": f"`{_APPLY} -f {pins.kueue_manifest()}`",
    "tfjob": f'`{_APPLY} -k "{pins.training_operator_folder()}"`',
    "mpijob": f"`{_APPLY} -f {pins.mpi_operator_manifest()}`",
    "gpus": f"`helm upgrade --install {pins.NVIDIA_CHART} {pins.NVIDIA_CHART} --repo {pins.NVIDIA_CHARTS} "
    f"--version {pins.NVIDIA_DEVICE_PLUGIN} --namespace {pins.NVIDIA_CHART} --create-namespace`",
}
"""The command that installs each of the versions that we test with."""
_COMPONENT = "the component tfjobs.GpuAddons does it too"
# Without these a run goes its way, and less is told of it.
_FOR_TELLING = frozenset({"events", "resourcequotas", "nodes", "workloads", "localqueues", "clusterqueues"})
_FOR_CHECKING = frozenset(
    {
        "namespaces",
        "serviceaccounts",
        "persistentvolumeclaims",
        "priorityclasses",
        "runtimeclasses",
        "workloadpriorityclasses",
    }
)


class Findings(NamedTuple):
    """``problems``: what a run would fail on, or wait for without end. ``notes``: what could not be asked."""

    problems: tuple[InputProblem, ...] = ()
    notes: tuple[str, ...] = ()


class _Named(NamedTuple):
    """An object that the options name."""

    option: str
    api: Api
    namespace: str
    name: str
    fix: str


async def missing(
    connection: Connection, options: Options, plan: LaunchPlan, *, secrets: bool = False, gpus: bool = True
) -> Findings:
    """Ask the cluster, everything at once, for a few seconds at most. ``secrets``: whether the run has secret
    variables. ``gpus``: look at the nodes for them. Raises TargetUnavailable where the cluster does not answer at all.
    """
    about = (json.dumps(options.to_json(), sort_keys=True), is_mpi(plan), plan.use_gpu, secrets, gpus)
    ask = partial(_missing, connection, options, plan, secrets=secrets, gpus=gpus)
    return await kept(connection, ("missing", about), _KEPT_SECONDS, ask)


async def _missing(
    connection: Connection, options: Options, plan: LaunchPlan, *, secrets: bool, gpus: bool
) -> Findings:
    from pulumi_tfjobs.targets.kubernetes.room import read_nodes

    needed = permissions_for(options, plan, secrets=secrets)
    named = _named(options, connection.namespace)

    async def no_nodes() -> dict[str, Node]:
        return {}

    looks_at_nodes = gpus and plan.use_gpu
    installed, (refused, unknown), nodes, objects = await asyncio.gather(
        detect(connection),
        denied(connection, needed),
        _unless_refused(read_nodes(connection, patient=QUICK_SECONDS) if looks_at_nodes else no_nodes()),
        asyncio.gather(*(_look(connection, item) for item in named)),
    )
    problems = not_installed(options, plan, installed)
    notes = [*_idle(installed), *_told(refused, options)]
    if isinstance(objects[0], InputProblem):
        objects = objects[:1]  # the namespace, and all the rest is missing with it
    problems += [problem for problem in objects if isinstance(problem, InputProblem)]
    problems += may_not(refused, connection.namespace)
    if looks_at_nodes and nodes is not None:
        problems += without_gpus(options, nodes.values(), installed)
    unasked = [f"{item.api.kind} {item.name}" for item, found in zip(named, objects, strict=True) if found is False]
    unasked += [f"whether you may {words}" for words in unknown]
    if looks_at_nodes and nodes is None:
        unasked.append("the nodes' GPUs")
    if unasked:
        notes.append(f"could not be checked at the cluster (no permission, or no answer): {', '.join(unasked)}")
    return Findings(tuple(problems), tuple(notes))


def not_installed(options: Options, plan: LaunchPlan, installed: Installed) -> list[InputProblem]:
    """What of the cluster's software is not there. Pure."""
    found = []

    def lacks(option: str, what: str, name: str, instead: str) -> None:
        fix = f"{INSTALL[name]} ({_COMPONENT}){instead}"
        found.append(InputProblem(f"computeTarget.{option}", f"the cluster has no {what}", "it is installed", fix))

    if options.engine == "jobset" and not installed.jobset:
        others = [name for name in ("tfjob", "mpijob") if getattr(installed, name)]
        lacks("engine", "JobSet", "jobset", ', or say engine: "kubeflow", which is there' if others else "")
    jobset = ', or say engine: "jobset", which is there' if installed.jobset else ""
    if options.engine == "kubeflow" and is_mpi(plan) and not installed.mpijob:
        lacks("engine", "MPIJob", "mpijob", ", or say controller: gloo")
    elif options.queue and options.engine == "kubeflow" and is_mpi(plan) and installed.mpijob == MPI_JOBS_V1.version:
        expected = "no queue with this kind of MPIJob"
        found.append(InputProblem("computeTarget.queue", QUEUES_NO_V1, expected, TO_FIX_QUEUE))
    if options.engine == "kubeflow" and not is_mpi(plan) and not installed.tfjob:
        lacks("engine", "TFJob", "tfjob", jobset)
    if options.queue and not installed.kueue:
        lacks("queue", "Kueue", "kueue", ", or leave queue out: a run then starts when there is room for all of it")
    return found


def without_gpus(options: Options, nodes: Iterable[Node], installed: Installed) -> list[InputProblem]:
    """That no node has the GPU resource. Pure. Where nodes come by themselves, those that are not there may have it."""
    have = {name for node in nodes for name, amount in node.allocatable.items() if "/" in name and amount}
    if options.gpu_resource in have or installed.autoscaled:
        return []
    fix = f"install the device plugin: {INSTALL['gpus']} ({_COMPONENT})"
    near = nearest(options.gpu_resource, have)
    if options.gpu_resource != "nvidia.com/gpu":
        fix = "correct gpuResource, or install the device plugin that brings it"
    if near or have:
        fix = f'say gpuResource: "{near or min(have)}", if that is meant; or {fix}'
    others = f"; they have {', '.join(sorted(have))}" if have else ""
    doubt = "" if installed.autoscaled is False else ", or a node pool that grows from none (then all is well)"
    return [
        InputProblem(
            "computeTarget.gpuResource",
            f"no node of the cluster has {options.gpu_resource}{others}",
            f"nodes with it{doubt}",
            fix,
        )
    ]


def permissions_for(options: Options, plan: LaunchPlan, *, secrets: bool) -> list[Permission]:
    """What of :data:`PERMISSIONS` this run needs. Pure."""
    helper = options.storage is not None and not options.storage.url
    workload = {"kubeflow": "mpijobs" if is_mpi(plan) else "tfjobs"}.get(options.engine, "jobsets")
    unneeded = {"jobsets", "tfjobs", "mpijobs"} - {workload} | _FOR_CHECKING
    if not secrets:
        unneeded.add("secrets")
    if not helper:
        unneeded.add("pods/exec")
    if not options.queue:
        unneeded |= {"workloads", "localqueues", "clusterqueues"}
    found = [item for item in PERMISSIONS if item.resource not in unneeded]
    if helper:
        return found
    reading = ("get", "list", "watch")
    return [item._replace(verbs=reading) if item.resource == "pods" else item for item in found]


def may_not(refused: Sequence[str], namespace: str) -> list[InputProblem]:
    """That permissions are missing, in one problem. Pure."""
    lacking = [words for words in refused if not _only_tells(words)]
    if not lacking:
        return []
    fix = (
        f"let a cluster administrator bind such a role in {namespace} ({_COMPONENT}: the role tfjobs-submitter); check "
        f"with `kubectl auth can-i --list --namespace {namespace}`"
    )
    found = f"these credentials may not, in {namespace}: {'; '.join(lacking)}"
    return [InputProblem("computeTarget", found, "what a run needs is allowed", fix)]


def _told(refused: Sequence[str], options: Options) -> list[str]:
    less = [words for words in refused if _only_tells(words)]
    if not less:
        return []
    about = "room, queue and reasons" if options.queue else "room and reasons"
    return [f"less is told about {about}, as these credentials may not: {'; '.join(less)}"]


def _only_tells(words: str) -> bool:
    return words.partition(" ")[2].partition(".")[0] in _FOR_TELLING


def _idle(installed: Installed) -> list[str]:
    names = {"jobset": "JobSet", "kueue": "Kueue", "tfjob": "the training operator", "mpijob": "the MPI operator"}
    return [f"{names[name]} is installed, and no pod of its controller is ready" for name in installed.idle]


def _named(options: Options, namespace: str) -> list[_Named]:
    """The namespace first."""
    found = [_Named("namespace", _NAMESPACES, "", namespace, f"`kubectl create namespace {namespace}`")]

    def add(option: str, api: Api, name: Any, fix: str, *, everywhere: bool = False) -> None:
        if isinstance(name, str) and name:
            found.append(_Named(option, api, "" if everywhere else namespace, name, fix))

    patched = (options.pod_template_patch.get("spec") or {}).get("serviceAccountName")
    account = patched or options.service_account
    add("serviceAccount", _ACCOUNTS, account, "`kubectl create serviceaccount {name} -n {namespace}`")
    add("queue", LOCAL_QUEUES, options.queue, "make a LocalQueue of that name in {namespace}: GpuAddons' queues do")
    make = "make one of that name: GpuAddons does"
    add("workloadPriority", PRIORITIES, options.workload_priority, f"{make} (workload_priorities)", everywhere=True)
    add("priorityClass", _POD_PRIORITIES, options.priority_class, f"{make} (pod_priorities)", everywhere=True)
    add("runtimeClass", _RUNTIMES, options.runtime_class, "install the runtime that brings it", everywhere=True)
    login = "`kubectl create secret docker-registry {name} -n {namespace} --docker-server=…`"
    for number, name in enumerate(options.image_pull_secrets):
        add(f"imagePullSecrets[{number}]", SECRETS, name, login)
    claim = "make a claim of that name in {namespace}: GpuAddons' storage does"
    for number, volume in enumerate(options.volumes):
        add(f"volumes[{number}].claim", CLAIMS, volume.claim, claim)
        add(f"volumes[{number}].configMap", CONFIG_MAPS, volume.config_map, "make one of that name in {namespace}")
        add(f"volumes[{number}].secret", SECRETS, volume.secret, "make one of that name in {namespace}")
    if options.storage is not None:
        add("storage.claim", CLAIMS, options.storage.claim, claim)
    return found


async def _look(connection: Connection, item: _Named) -> InputProblem | bool:
    """A problem where it is not there, False where that could not be asked."""
    try:
        if await connection.get(item.api, item.namespace, item.name, patient=QUICK_SECONDS) is not None:
            return True
    except Unreadable as error:
        # An API that is not there is told once, by not_installed.
        return error.status == 404
    except TargetUnavailable:
        return False
    try:
        there = await connection.list(item.api, item.namespace, limit=_NAMES_SHOWN, patient=QUICK_SECONDS)
    except TargetUnavailable:
        there = []
    names = sorted(other["metadata"]["name"] for other in there)
    near = nearest(item.name, names)
    fix = item.fix.format(name=item.name, namespace=item.namespace)
    if near:
        fix = f"say {near}, if that is meant; or {fix}"
    where = f" in namespace {item.namespace}" if item.namespace else ""
    some = f": {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names and item.api != SECRETS else ""
    return InputProblem(
        f"computeTarget.{item.option}",
        f"there is no {item.api.kind} {item.name}{where}",
        f"one that is there{some}",
        fix,
    )


async def _unless_refused(answer: Awaitable[dict[str, Node]]) -> dict[str, Node] | None:
    try:
        return await answer
    except TargetUnavailable:
        return None
