"""Arguments with a shape of their own: compute targets and distributions.

They are values, not resources: nothing is provisioned for them. Each turns into the camelCase object that the provider
takes, so the same can be written in Pulumi YAML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypedDict

import pulumi
from typing_extensions import Required


class _Value:
    """A dataclass that knows its wire form."""

    kind: ClassVar[str] = ""

    def to_inputs(self) -> dict[str, Any]:
        """The camelCase object that goes to the provider; unset fields are left out."""
        found: dict[str, Any] = {"kind": self.kind} if self.kind else {}
        for item in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, item.name)
            if value is not None:
                head, *rest = item.name.split("_")
                found[head + "".join(part.capitalize() for part in rest)] = _wire(value)
        return found


def _wire(value: Any) -> Any:
    if isinstance(value, _Value):
        return value.to_inputs()
    if isinstance(value, list | tuple):
        return [_wire(item) for item in value]
    return value


class ComputeTarget(_Value):
    """Where a job's replicas run."""


@dataclass(frozen=True)
class LocalTarget(ComputeTarget):
    """This machine: replicas are processes, supervised by one of the run's own that outlives the plugin.

    Args:
        name: How messages call it.
        slots: How many replicas may take a slot at once. Default: the number of accelerators, else of CPUs.
        gpus: Accelerators to share out: a number, or ``"auto"`` for those that are found.
        store: Which run store of this machine keeps the records and outputs. Default ``"default"``.
        hourly_price: What one slot costs an hour; previews then say what runs will cost.
        currency: Of that price. Default ``"USD"``.
    """

    kind: ClassVar[str] = "local"
    name: pulumi.Input[str] = "local"
    slots: pulumi.Input[int] | None = None
    gpus: pulumi.Input[int | str] | None = None
    store: pulumi.Input[str] | None = None
    hourly_price: pulumi.Input[float] | None = None
    currency: pulumi.Input[str] | None = None


@dataclass(frozen=True)
class Volume(_Value):
    """A volume in every pod of a job. One of ``claim``, ``nfs``, ``csi``, ``config_map``, ``secret``, ``empty_dir`` and
    ``host_path`` says what it is.

    Args:
        mount_path: Where pods see it.
        claim: Name of a PersistentVolumeClaim.
        nfs: ``{"server": …, "path": …}``.
        csi: ``{"driver": …, "volumeAttributes": {…}}``, for example a bucket of an object store.
        config_map: Name of a ConfigMap.
        secret: Name of a Secret.
        empty_dir: ``{}``, or Kubernetes' own fields of it.
        host_path: A folder of the node; the target has to say ``allow_host_path``.
        sub_path: The part of it that is mounted.
        read_only: Whether pods may not write there (default False).
    """

    mount_path: pulumi.Input[str]
    claim: pulumi.Input[str] | None = None
    nfs: pulumi.Input[Mapping[str, Any]] | None = None
    csi: pulumi.Input[Mapping[str, Any]] | None = None
    config_map: pulumi.Input[str] | None = None
    secret: pulumi.Input[str] | None = None
    empty_dir: pulumi.Input[Mapping[str, Any]] | None = None
    host_path: pulumi.Input[str] | None = None
    sub_path: pulumi.Input[str] | None = None
    read_only: pulumi.Input[bool] | None = None


@dataclass(frozen=True)
class Storage(_Value):
    """Where a job's pods keep outputs, checkpoints, event files and large sources. One of ``claim``, ``nfs``, ``csi``
    and ``host_path`` says what pods mount.

    Args:
        claim: Name of a PersistentVolumeClaim that several pods may write to.
        nfs: ``{"server": …, "path": …}``.
        csi: ``{"driver": …, "volumeAttributes": {…}}``.
        host_path: A folder of the node; the target has to say ``allow_host_path``.
        path: The folder in it that is used (default: all of it).
        url: The same files as this machine reaches them: ``s3://…``, ``abfs://…``, ``gs://…``, ``file:///…``. Default:
            through a pod of their own.
    """

    claim: pulumi.Input[str] | None = None
    nfs: pulumi.Input[Mapping[str, Any]] | None = None
    csi: pulumi.Input[Mapping[str, Any]] | None = None
    host_path: pulumi.Input[str] | None = None
    path: pulumi.Input[str] | None = None
    url: pulumi.Input[str] | None = None


@dataclass(frozen=True)
class KubernetesTarget(ComputeTarget):
    """A Kubernetes cluster: replicas are pods of a JobSet, or of Kubeflow's TFJob and MPIJob.

    Args:
        name: How messages call it (default ``"kubernetes"``).
        kubeconfig: Path of a kubeconfig, or its content (kept as a secret). Default: ``$KUBECONFIG``, else the one in
            ``~/.kube``.
        context: The kubeconfig's context. Default: its current one.
        in_cluster: Use the service account of the pod that Pulumi runs in.
        namespace: Where the job's objects are made. Default: the context's, else ``"default"``.
        image: The image that replicas run in; a part of the job's identity.
        python: The interpreter in the image (default ``"python3"``).
        image_pull_policy: ``Always``, ``IfNotPresent`` or ``Never``.
        image_pull_secrets: Names of Secrets to pull the image with.
        service_account: The pods' service account.
        node_selector: Labels that nodes must have.
        tolerations: Taints that pods tolerate, in Kubernetes' own form.
        affinity: Kubernetes' own affinity.
        priority_class: The pods' PriorityClass.
        runtime_class: The pods' RuntimeClass.
        gpu_resource: What a GPU is called (default ``"nvidia.com/gpu"``; a MIG slice, ``"amd.com/gpu"`` …).
        cpu: CPUs of a replica, such as ``"4"``.
        memory: Memory of a replica, such as ``"16Gi"``.
        shared_memory: Size of ``/dev/shm``, such as ``"8Gi"``.
        volumes: Volumes of every pod.
        allow_host_path: Whether volumes and storage may be folders of the node (default False).
        pod_labels: Labels of the pods.
        pod_annotations: Annotations of the pods.
        pod_template_patch: Merged into the pod template last, for whatever there is no argument for.
        engine: ``"jobset"`` (default) or ``"kubeflow"``.
        queue: The Kueue LocalQueue that admits the job.
        workload_priority: The Kueue WorkloadPriorityClass.
        exclusive_topology: Node label (a rack, a zone): each pod gets a domain of it for itself, in which no other pod
            of a JobSet is: a job needs as many domains as it has pods. A pod is a replica; with Horovod a node.
        ttl_seconds_after_finished: After how long the finished object is removed. Default: it is kept.
        max_preemptions: How often a run is started again after pods were preempted or lost (default 3).
        storage: Where pods keep what they write. Without it, that ends with the pods; metrics come by the log.
        collect: What is brought here: ``"outputs"`` (default: metrics, event files, outputs), ``"metrics"``, ``"all"``
            (checkpoints too).
        source_path: The source is in the image, in this folder.
        slots: The most replicas that take a slot at once. Default: no limit of ours.
        store: Which run store of this machine keeps the records (default ``"kubernetes"``).
        hourly_price: What one slot costs an hour; previews then say what runs will cost.
        currency: Of that price. Default ``"USD"``.
    """

    kind: ClassVar[str] = "kubernetes"
    name: pulumi.Input[str] | None = None
    kubeconfig: pulumi.Input[str | Mapping[str, Any]] | None = None
    context: pulumi.Input[str] | None = None
    in_cluster: pulumi.Input[bool] | None = None
    namespace: pulumi.Input[str] | None = None
    image: pulumi.Input[str] | None = None
    python: pulumi.Input[str] | None = None
    image_pull_policy: pulumi.Input[Literal["Always", "IfNotPresent", "Never"]] | None = None
    image_pull_secrets: pulumi.Input[Sequence[pulumi.Input[str]]] | None = None
    service_account: pulumi.Input[str] | None = None
    node_selector: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None = None
    tolerations: pulumi.Input[Sequence[Mapping[str, Any]]] | None = None
    affinity: pulumi.Input[Mapping[str, Any]] | None = None
    priority_class: pulumi.Input[str] | None = None
    runtime_class: pulumi.Input[str] | None = None
    gpu_resource: pulumi.Input[str] | None = None
    cpu: pulumi.Input[str | float] | None = None
    memory: pulumi.Input[str] | None = None
    shared_memory: pulumi.Input[str] | None = None
    volumes: Sequence[Volume | Mapping[str, Any]] | pulumi.Input[Sequence[Mapping[str, Any]]] | None = None
    allow_host_path: pulumi.Input[bool] | None = None
    pod_labels: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None = None
    pod_annotations: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None = None
    pod_template_patch: pulumi.Input[Mapping[str, Any]] | None = None
    engine: pulumi.Input[Literal["jobset", "kubeflow"]] | None = None
    queue: pulumi.Input[str] | None = None
    workload_priority: pulumi.Input[str] | None = None
    exclusive_topology: pulumi.Input[str] | None = None
    ttl_seconds_after_finished: pulumi.Input[int] | None = None
    max_preemptions: pulumi.Input[int] | None = None
    storage: Storage | pulumi.Input[Mapping[str, Any]] | None = None
    collect: pulumi.Input[Literal["outputs", "metrics", "all"]] | None = None
    source_path: pulumi.Input[str] | None = None
    slots: pulumi.Input[int] | None = None
    store: pulumi.Input[str] | None = None
    hourly_price: pulumi.Input[float] | None = None
    currency: pulumi.Input[str] | None = None


class Distribution(_Value):
    """How a job is spread over replicas."""


@dataclass(frozen=True)
class Single(Distribution):
    """One process."""

    kind: ClassVar[str] = "single"


@dataclass(frozen=True)
class Horovod(Distribution):
    """``nodes`` × ``processes_per_node`` Horovod ranks.

    Args:
        nodes: Number of nodes. The local target simulates them.
        processes_per_node: Ranks on each node.
        controller: ``"gloo"`` (default, needs nothing else) or ``"mpi"`` (ranks are started by ``mpirun``).
        min_workers: Elastic: the run goes on as long as this many workers live (default with ``max_workers``: 1).
        max_workers: Elastic: the most workers (default with ``min_workers``: ``nodes`` × ``processes_per_node``).
    """

    kind: ClassVar[str] = "horovod"
    nodes: pulumi.Input[int] = 1
    processes_per_node: pulumi.Input[int] = 1
    controller: pulumi.Input[Literal["gloo", "mpi"]] | None = None
    min_workers: pulumi.Input[int] | None = None
    max_workers: pulumi.Input[int] | None = None


@dataclass(frozen=True)
class ParameterServer(Distribution):
    """Workers and parameter servers, each with a TF_CONFIG.

    Args:
        workers: Number of replicas of type ``worker``.
        parameter_servers: Number of replicas of type ``ps``.
        chief: Whether a replica of type ``chief`` leads; it then decides success. Else worker 0 does.
        evaluator: Whether a replica of type ``evaluator`` runs beside them.
    """

    kind: ClassVar[str] = "parameterServer"
    workers: pulumi.Input[int] = 1
    parameter_servers: pulumi.Input[int] = 1
    chief: pulumi.Input[bool] | None = None
    evaluator: pulumi.Input[bool] | None = None


@dataclass(frozen=True)
class MultiWorker(Distribution):
    """Workers of ``tf.distribute.MultiWorkerMirroredStrategy``, each with a TF_CONFIG.

    Args:
        workers: Number of replicas of type ``worker``.
        chief: Whether one more replica, of type ``chief``, leads. Else worker 0 does.
        evaluator: Whether a replica of type ``evaluator`` runs beside them.
    """

    kind: ClassVar[str] = "multiWorker"
    workers: pulumi.Input[int] = 2
    chief: pulumi.Input[bool] | None = None
    evaluator: pulumi.Input[bool] | None = None


Scalar = str | int | float | bool
ScriptParam = Scalar | Sequence[Scalar] | None
Backend = Literal["mpi", "ps", "multi_worker"]


class JobArgs(TypedDict, total=False):
    """Arguments of a training job, named as those of the Azure ML v1 ``TensorFlow`` estimator.

    Keys:
        source_directory: Directory with the job's files, relative to the Pulumi program. ``.tfjobsignore``,
            ``.amlignore`` or ``.gitignore`` says what is left out.
        entry_script: The script to run, relative to ``source_directory``.
        script_params: Flag → value. A list gives several values, ``""`` the flag alone. Sorted by flag.
        arguments: Further command-line arguments, after the params, in this order.
        compute_target: Where to run. Default: this machine.
        distribution: ``Horovod(...)``, ``ParameterServer(...)`` or ``MultiWorker(...)``; or the flat arguments below.
        node_count: Number of nodes (default 1).
        process_count_per_node: Horovod ranks on each node (default 1).
        worker_count: Number of workers, with ``"ps"`` and ``"multi_worker"``.
        parameter_server_count: Number of parameter servers, with ``"ps"``.
        distributed_backend: ``"mpi"`` (Horovod), ``"ps"``, ``"multi_worker"``; None for one process.
        use_gpu: Whether replicas get accelerators (default False).
        pip_packages: Requirements of the environment. TensorFlow is added where none is named.
        conda_packages: Not yet possible; the error says what to do.
        framework_version: TensorFlow's version (default 2.15.1).
        python_version: The environment's Python, such as ``"3.11"``.
        user_managed: Run in ``interpreter_path`` as it is; nothing is built.
        interpreter_path: The interpreter of a user-managed environment (default ``python3``).
        environment_variables: Variables for the script. Secrets are kept out of records and logs.
        inputs: Name → file or folder that the script reads; ``TFJOBS_INPUT_<NAME>`` holds its path.
        max_run_duration_seconds: The run is ended after this long, as ``timed_out``.
        stop_grace_seconds: Seconds between SIGTERM and SIGKILL when a run is stopped (default 10).
        retries: How often a failed attempt's replicas are started again by themselves (default 0).
        retry_on: Which failures count: ``"infrastructure"`` (default; a signal, or exit code >= 128), ``"any"``, exit
            codes (``"3"``), signals (``"SIGTERM"``).
        retry_backoff_seconds: Seconds before the first retry (default 10), doubled for each further one, at most 300.
        parameter_server_restarts: How often a failed parameter server is started again by itself (default 0).
        priority: In the queue for slots a higher number goes first (default 0).
        max_log_bytes: The most that one replica's log takes on disk (default 256 MiB); head and tail are kept.
        wait_for: What the update waits for (default ``"succeeded"``).
        on_cancel: What Ctrl-C does to the run: ``"detach"`` (default, it goes on) or ``"stop"``.
        delete_artifacts: Whether deleting the resource also deletes record, outputs, checkpoints and logs.
        success_policy: ``"default"`` (chief, else worker 0) or ``"all_workers"``.
        rerun: Change this token to train again with nothing else changed.
        resume_from: Id of a run whose checkpoints a new run starts with.
        reuse: Take the results of a finished run of the same content (default True); False trains one of its own.
        source_digest: ``"content"`` (default) or ``"code"``: comments and white space in Python files train nothing.
        tags: Free labels.
        name: The job's name; run ids begin with it. Default: the resource's name.
    """

    source_directory: Required[pulumi.Input[str]]
    entry_script: Required[pulumi.Input[str]]
    script_params: pulumi.Input[Mapping[str, pulumi.Input[ScriptParam]]] | None
    arguments: pulumi.Input[Sequence[pulumi.Input[Scalar]]] | None
    compute_target: ComputeTarget | pulumi.Input[Mapping[str, Any]] | None
    distribution: Distribution | pulumi.Input[Mapping[str, Any]] | None
    node_count: pulumi.Input[int] | None
    process_count_per_node: pulumi.Input[int] | None
    worker_count: pulumi.Input[int] | None
    parameter_server_count: pulumi.Input[int] | None
    distributed_backend: pulumi.Input[Backend] | None
    use_gpu: pulumi.Input[bool] | None
    pip_packages: pulumi.Input[Sequence[pulumi.Input[str]]] | None
    conda_packages: pulumi.Input[Sequence[pulumi.Input[str]]] | None
    framework_version: pulumi.Input[str] | None
    python_version: pulumi.Input[str] | None
    user_managed: pulumi.Input[bool] | None
    interpreter_path: pulumi.Input[str] | None
    environment_variables: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None
    inputs: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None
    max_run_duration_seconds: pulumi.Input[float] | None
    stop_grace_seconds: pulumi.Input[float] | None
    retries: pulumi.Input[int] | None
    retry_on: pulumi.Input[Sequence[pulumi.Input[str]]] | None
    retry_backoff_seconds: pulumi.Input[float] | None
    parameter_server_restarts: pulumi.Input[int] | None
    priority: pulumi.Input[int] | None
    max_log_bytes: pulumi.Input[int] | None
    wait_for: pulumi.Input[Literal["submitted", "running", "succeeded"]] | None
    on_cancel: pulumi.Input[Literal["detach", "stop"]] | None
    delete_artifacts: pulumi.Input[bool] | None
    success_policy: pulumi.Input[Literal["default", "all_workers"]] | None
    rerun: pulumi.Input[str] | None
    resume_from: pulumi.Input[str] | None
    reuse: pulumi.Input[bool] | None
    source_digest: pulumi.Input[Literal["content", "code"]] | None
    tags: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None
    name: pulumi.Input[str] | None
