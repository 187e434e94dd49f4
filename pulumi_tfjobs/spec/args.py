"""What a user wrote: the inputs of a job, with their descriptions, and how they are read.

The schema and the reference are generated from the descriptions here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec import paths
from pulumi_tfjobs.spec.fields import (
    Count,
    Flag,
    LogBytes,
    Options,
    Params,
    PositiveSeconds,
    Priority,
    RetryOn,
    Seconds,
    Text,
    TextList,
    TextMap,
    Variables,
    Version,
    Whole,
    choice,
)
from pulumi_tfjobs.spec.suggest import for_unknown_key, kind_of, nearest, show

_COMPUTED_DIGEST = re.compile(r"[0-9a-f]{12}(?: [a-z])?\Z")

Backend = Annotated[Literal["mpi", "ps", "multi_worker"], choice("mpi", "ps", "multi_worker")]
ControllerName = Annotated[Literal["gloo", "mpi"], choice("gloo", "mpi")]
WaitForName = Annotated[Literal["submitted", "running", "succeeded"], choice("submitted", "running", "succeeded")]
DEFAULT_LOG_BYTES = 256 * 1024 * 1024
OnCancelName = Annotated[Literal["detach", "stop"], choice("detach", "stop")]
SourceDigestName = Annotated[Literal["content", "code"], choice("content", "code")]
PolicyName = Annotated[Literal["default", "all_workers"], choice("default", "all_workers")]


class _Inputs(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, validate_by_alias=True, validate_by_name=False
    )


class SingleArgs(_Inputs):
    """One process."""

    kind: Literal["single"] = Field("single", description="One process, no distribution.")


class HorovodArgs(_Inputs):
    """Horovod: ``nodes`` times ``processesPerNode`` ranks that average their gradients."""

    kind: Literal["horovod"] = Field("horovod", description="Ranks that average their gradients.")
    nodes: Count = Field(1, description="How many nodes; the local target simulates them. Default 1.")
    processes_per_node: Count = Field(1, description="Processes (ranks) on each node. Default 1.")
    controller: ControllerName = Field(
        "gloo",
        description='How ranks talk: "gloo" (default, needs nothing) or "mpi" (one mpirun starts all ranks).',
    )
    min_workers: Count | None = Field(
        None,
        description="Elastic: the run goes on as long as this many workers live. Default with maxWorkers: 1.",
    )
    max_workers: Count | None = Field(
        None,
        description="Elastic: how many workers there are at most, also after lost ones have come back. Default with "
        "minWorkers: nodes times processesPerNode.",
    )


class ParameterServerArgs(_Inputs):
    """Workers that share variables kept by parameter servers; roles come in TF_CONFIG."""

    kind: Literal["parameterServer"] = Field("parameterServer", description="Workers and parameter servers.")
    workers: Whole = Field(1, description="Replicas of type worker, at least 1. Default 1.")
    parameter_servers: Whole = Field(1, description="Replicas of type ps, at least 1. Default 1.")
    chief: Flag = Field(
        default=False,
        description="One more replica, which leads and decides success (the coordinator of "
        "ParameterServerStrategy). Default false: worker 0 leads.",
    )
    evaluator: Flag = Field(
        default=False,
        description="One more replica that evaluates checkpoints, outside the cluster. Default false.",
    )


class MultiWorkerArgs(_Inputs):
    """Workers of MultiWorkerMirroredStrategy; roles come in TF_CONFIG."""

    kind: Literal["multiWorker"] = Field("multiWorker", description="Workers that train in step.")
    workers: Whole = Field(2, description="Replicas of type worker, at least 1. Default 2.")
    chief: Flag = Field(default=False, description="One more replica, which leads. Default false: worker 0 leads.")
    evaluator: Flag = Field(
        default=False,
        description="One more replica that evaluates checkpoints, outside the cluster. Default false.",
    )


DistributionArgs = Annotated[
    SingleArgs | HorovodArgs | ParameterServerArgs | MultiWorkerArgs, Field(discriminator="kind")
]
DISTRIBUTIONS: dict[str, type[_Inputs]] = {
    "single": SingleArgs,
    "horovod": HorovodArgs,
    "parameterServer": ParameterServerArgs,
    "multiWorker": MultiWorkerArgs,
}


class JobArgs(_Inputs):
    """A TensorFlow training job, as its user wrote it. Property names on the wire are camelCase."""

    name: Text | None = Field(
        None,
        description="Name of the job: small letters, digits and dashes, at most 50. Default: made from the "
        "resource's name. A new name never trains again.",
    )
    source_directory: Text = Field(
        description="Folder with the scripts, relative to the Pulumi program. Its content (less what "
        ".amlignore, .gitignore and .tfjobsignore name) is part of the job's identity, its place is not.",
    )
    entry_script: Text = Field(description="The script to run, relative to sourceDirectory.")
    script_params: Params = Field(
        default_factory=dict,
        description="Command line of the script: flag -> text, number, boolean (given as True or False) or a "
        "list of these (`flag v1 v2`). An empty text or null gives the flag alone. Passed in sorted order of the "
        "flags. `${{inputs.name}}` is replaced by that input's path.",
    )
    arguments: TextList = Field(
        default_factory=list,
        description="More command line arguments, passed after scriptParams in the order given.",
    )
    compute_target: Options = Field(
        default_factory=lambda: {"kind": "local"},
        description="Where replicas run: {kind: local, …} or {kind: kubernetes, …}. Default: this machine.",
    )
    distribution: DistributionArgs | None = Field(
        None,
        description="How the job is distributed, typed by kind: single, horovod, parameterServer or multiWorker. "
        "Give either this or the flat nodeCount, processCountPerNode, workerCount, parameterServerCount and "
        "distributedBackend.",
    )
    node_count: Count | None = Field(
        None,
        description="Nodes. With mpi, ranks are nodeCount times processCountPerNode; with multi_worker it is the "
        "number of workers unless workerCount is given. Default 1.",
    )
    process_count_per_node: Count | None = Field(None, description="Horovod processes on each node. Default 1.")
    worker_count: Whole | None = Field(None, description="Workers, for ps (default 1) and multi_worker.")
    parameter_server_count: Whole | None = Field(None, description="Parameter servers, for ps. Default 1.")
    distributed_backend: Backend | None = Field(
        None,
        description='"mpi" (Horovod), "ps" (parameter servers) or "multi_worker" '
        "(MultiWorkerMirroredStrategy). Default: one process.",
    )
    use_gpu: Flag = Field(
        default=False,
        description="Give each training process one GPU of the target, and TensorFlow with CUDA by default.",
    )
    pip_packages: TextList = Field(
        default_factory=list,
        description="Python packages of the training environment, one PEP 508 requirement each. TensorFlow is "
        "added where none is named (tensorflow-cpu 2.15.1), Horovod where the job needs it.",
    )
    conda_packages: TextList = Field(
        default_factory=list, description="Not possible yet; name the packages in pipPackages."
    )
    framework_version: Version | None = Field(
        None, description='TensorFlow\'s version, such as "2.15.1". Default 2.15.1.'
    )
    python_version: Version | None = Field(
        None,
        description='Python of the training environment, such as "3.11". Default: 3.11, or the newest that the '
        "chosen TensorFlow runs with.",
    )
    user_managed: Flag = Field(
        default=False, description="Run in interpreterPath as it is; nothing is installed. Default false."
    )
    interpreter_path: Text | None = Field(
        None, description='With userManaged: the interpreter, a path or a command. Default "python3".'
    )
    environment_variables: Variables = Field(
        default_factory=dict,
        description="Variables for every replica, merged over its environment. Values may be secrets: those reach "
        "the replicas and nothing else.",
    )
    inputs: TextMap = Field(
        default_factory=dict,
        description="Data: name -> path of a file or folder, given to the script as TFJOBS_INPUT_<NAME> and as "
        "`${{inputs.name}}`. Its content is part of the job's identity, its path is not.",
    )
    max_run_duration_seconds: PositiveSeconds | None = Field(
        None, description="Seconds after which a running attempt is ended as timed out. Default: none."
    )
    stop_grace_seconds: Seconds = Field(
        10.0, description="Seconds between asking a replica to end and killing it. Default 10."
    )
    retries: Whole = Field(
        0,
        description="How often a failed attempt's replicas are started again, all of them, from its checkpoints. "
        "Default 0: the next update makes a new attempt.",
    )
    retry_on: RetryOn = Field(
        default_factory=lambda: ["infrastructure"],
        description='Which failures count for retries: "infrastructure" (default: ended by a signal, or an exit code '
        'of 128 or more), "any", exit codes ("3") and signals ("SIGTERM").',
    )
    retry_backoff_seconds: Seconds = Field(
        10.0, description="Seconds before the first retry; twice as long before each further one, at most 300."
    )
    parameter_server_restarts: Whole = Field(
        0,
        description="How often a parameter server that failed is started again by itself, at the same address, while "
        "the rest goes on. Default 0: its failure is the run's.",
    )
    priority: Priority = Field(
        0, description="In the queue for slots a higher number goes first, -1000 to 1000. Default 0."
    )
    max_log_bytes: LogBytes = Field(
        DEFAULT_LOG_BYTES,
        description="The most that the log of one replica takes on disk, each time that it is started. Of a longer "
        "one, head and tail are kept. Default 268435456 (256 MiB), at least 65536.",
    )
    wait_for: WaitForName = Field(
        "succeeded",
        description="When the update goes on: once the run is submitted, running or (default) succeeded.",
    )
    on_cancel: OnCancelName = Field(
        "detach",
        description='What an interrupted update does to a living run: "detach" (default) leaves it, so that the '
        'next update finds it again; "stop" ends it.',
    )
    delete_artifacts: Flag = Field(
        default=False,
        description="Remove the run's record, outputs and checkpoints when the resource is deleted. Default false.",
    )
    success_policy: PolicyName = Field(
        "default",
        description='"default": the chief, else worker 0, decides success; "all_workers": all of them. Horovod and '
        "multi-worker jobs always need all.",
    )
    rerun: Text = Field(
        "", description="Any text; changing it trains again though nothing else changed. Default empty."
    )
    resume_from: Text = Field(
        "",
        description="Id of a run in the same store: a new run starts with a copy of its checkpoints (to go on with a "
        "longer schedule, say). Default: none.",
    )
    reuse: Flag = Field(
        default=True,
        description="Take the results of a run of the same content that finished before, whoever made it. With false "
        "this job trains a run of its own. Default true.",
    )
    source_digest: SourceDigestName = Field(
        "content",
        description='What counts of Python files: "content" (default), or "code": their tokens, so that comments and '
        "white space train nothing again.",
    )
    tags: TextMap = Field(default_factory=dict, description="Texts of your own kept with the run. Never train again.")

    _skipped: frozenset[str] = PrivateAttr(default=frozenset())
    _refused: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def skipped(self) -> frozenset[str]:
        """Properties that could not be read and hold their default, and keys that do not exist. Each has a problem,
        except for those that are not known yet."""
        return self._skipped

    @property
    def refused(self) -> frozenset[str]:
        """Those of :attr:`skipped` that have a problem."""
        return self._refused


KEYS = tuple(field.alias or name for name, field in JobArgs.model_fields.items())
"""Every input's name on the wire, in the order of the reference."""

REQUIRED = frozenset(field.alias or "" for field in JobArgs.model_fields.values() if field.is_required())


def parse_args(
    inputs: Mapping[str, Any],
    unknown: frozenset[str] = frozenset(),
    *,
    secret: frozenset[str] = frozenset(),
) -> tuple[JobArgs | None, list[InputProblem]]:
    """Read a job's inputs; nothing is raised for wrong ones.

    Args:
        inputs: Property name (camelCase) -> plain value. A top-level null counts as not given. Numbers may
            be int or float (``3.0`` is 3). ``source`` as Check computed it and names that start with ``__`` are passed
            over.
        unknown: Paths of values that are not known yet, and that are therefore not in ``inputs``.
        secret: Paths of secret values, which are never shown in a problem.

    Returns:
        The arguments and every problem. Where there are problems, the arguments hold what could be read
        (``args.skipped`` tells the rest), so that the cross-checks can still run; None where too little is left.
    """
    given = {
        key: value
        for key, value in inputs.items()
        if value is not None and not str(key).startswith("__") and not _is_computed(key, value)
    }
    problems: list[InputProblem] = []
    skipped: set[str] = set()
    refused: set[str] = set()
    for key in REQUIRED - given.keys():
        if not paths.touches(key, unknown):
            problems.append(_missing(key, given))
            refused.add(key)
        skipped.add(key)
    # A stand-in lets the rest be read; `skipped` keeps it from being looked at.
    usable = {**given, **dict.fromkeys(skipped, "-")}
    wrong: set[str] = set()
    for error in _errors(usable):
        location = error["loc"]
        top = str(location[0]) if location else ""
        wrong.add(top)
        path = _path(location)
        if error["type"] not in {"missing", "union_tag_not_found"} or not paths.touches(path, unknown):
            problems.append(_problem(error, path, secret))
            refused.add(top)
    skipped |= wrong
    for key in wrong:
        usable.pop(key, None)
        if key in REQUIRED:
            usable[key] = "-"
    try:
        args = JobArgs.model_validate(usable)
    except ValidationError:
        return None, sorted(set(problems))
    args._skipped, args._refused = frozenset(skipped), frozenset(refused)  # noqa: SLF001 - the only writer
    return args, sorted(set(problems))


def _is_computed(key: str, value: Any) -> bool:
    return (
        key == "source"
        and isinstance(value, Mapping)
        and all(isinstance(text, str) and _COMPUTED_DIGEST.match(text) for text in value.values())
    )


def _errors(inputs: dict[str, Any]) -> list[ErrorDetails]:
    try:
        JobArgs.model_validate(inputs)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _path(location: tuple[str | int, ...]) -> str:
    parts = [part for part in location if part != "[key]"]
    if len(parts) > 1 and parts[0] == "distribution" and parts[1] in DISTRIBUTIONS:
        del parts[1]  # pydantic names the member of the union; the user did not write it
    return paths.join(*parts)


def _missing(key: str, given: Mapping[str, Any]) -> InputProblem:
    # A misspelled key is reported where it stands; here the likely slip is named too.
    near = nearest(key, [name for name in given if name not in KEYS])
    fix = f"rename `{near}` to `{key}`" if near else f"give `{key}`"
    expected = (JobArgs.model_fields[_field(key)].description or "a value").split(". ")[0]
    return InputProblem(key, "it is missing", expected.rstrip("."), fix)


def _field(key: str) -> str:
    return next(name for name, field in JobArgs.model_fields.items() if field.alias == key)


def _problem(error: ErrorDetails, path: str, secret: frozenset[str]) -> InputProblem:
    context = error.get("ctx") or {}
    hidden = paths.touches(path, secret)
    if error["type"] == "tfjobs":
        found, fix = ("hidden", "hidden_fix") if hidden else ("found", "fix")
        return InputProblem(path, str(context[found]), str(context["expected"]), str(context[fix]))
    location = error["loc"]
    value = kind_of(error.get("input")) if hidden else show(error.get("input"))
    if error["type"] == "extra_forbidden":
        inside = "distribution" if location[0] == "distribution" and len(location) > 1 else ""
        model = DISTRIBUTIONS.get(str(location[1]), JobArgs) if inside else JobArgs
        known = [field.alias or name for name, field in model.model_fields.items()]
        where = f"a {location[1]} distribution" if inside else "a training job"
        fix = for_unknown_key(str(location[-1]), known, inside=inside)
        return InputProblem(path, f"{where} has no property of this name", "a known property", fix)
    if error["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        tag = str(context.get("tag", ""))
        near = nearest(tag, DISTRIBUTIONS)
        return InputProblem(
            "distribution.kind",
            f"{'this' if hidden else repr(tag)} is no kind of distribution" if tag else "it is missing",
            "one of " + ", ".join(DISTRIBUTIONS),
            f"say `kind: {near or 'horovod'}`",
        )
    if error["type"] in {"dict_type", "model_type", "model_attributes_type"}:
        return InputProblem(path, f"it is {value}", "a map", "write it as a map of names to values")
    if error["type"] == "list_type":
        fix = f"write it as a list: [{value}]" if isinstance(error.get("input"), str) else "write a list"
        return InputProblem(path, f"it is {value}", "a list", fix)
    return InputProblem(path, f"{value} cannot be used here", str(error["msg"]), "change the value")
