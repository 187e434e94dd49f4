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

    kind: ClassVar[str]

    def to_inputs(self) -> dict[str, Any]:
        """The camelCase object that goes to the provider; unset fields are left out."""
        found: dict[str, Any] = {"kind": self.kind}
        for item in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, item.name)
            if value is not None:
                head, *rest = item.name.split("_")
                found[head + "".join(part.capitalize() for part in rest)] = value
        return found


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
