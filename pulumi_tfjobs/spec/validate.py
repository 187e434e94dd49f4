"""From arguments to a :class:`~.model.JobSpec`: every cross-check, all problems at once. Pure."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterable
from typing import Protocol

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec import paths, software, topology
from pulumi_tfjobs.spec.args import JobArgs
from pulumi_tfjobs.spec.fields import param_values
from pulumi_tfjobs.spec.horovod import RESERVED_VARIABLES
from pulumi_tfjobs.spec.model import (
    Distribution,
    EnvironmentSpec,
    Horovod,
    InputData,
    JobSpec,
    Single,
    SourceManifest,
    TargetRef,
)
from pulumi_tfjobs.spec.software import Software, default_requirements

__all__ = ["Abilities", "build_spec", "default_requirements", "expressions", "input_variable", "job_name"]

NAME_LENGTH = 50
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_NOTHING = SourceManifest(root="", files=())


class Abilities(Protocol):
    """What the cross-checks ask of a compute target; ``pulumi_tfjobs.targets.base.Capabilities`` is one."""

    @property
    def slots(self) -> int | None:
        """How many replicas can run at once, None without a limit."""

    @property
    def gpus(self) -> int | None:
        """Accelerators, None where they are not known."""

    @property
    def controllers(self) -> frozenset[str]:
        """Horovod controllers."""

    @property
    def elastic(self) -> bool:
        """Whether lost Horovod workers are replaced."""


def job_name(text: str) -> str:
    """A resource's name as a job's: ``My_Job`` -> ``my-job``; at most 50 characters, ``job`` where nothing is left."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower())[:NAME_LENGTH].strip("-")
    return name or "job"


def input_variable(name: str) -> str:
    """``train-data`` -> ``TFJOBS_INPUT_TRAIN_DATA``."""
    return "TFJOBS_INPUT_" + name.upper().replace("-", "_")


def expressions(text: str) -> list[str]:
    """What stands in each ``${{…}}`` of a text: ``inputs.data``."""
    return [str(found) for found in _EXPRESSION.findall(text)]


def substitute(text: str, values: dict[str, str]) -> str:
    """Replace each ``${{inputs.name}}`` that is in ``values`` (name -> path); others stay."""

    def value(found: re.Match[str]) -> str:
        return values.get(found.group(1).removeprefix("inputs."), found.group(0))

    return _EXPRESSION.sub(value, text)


def build_spec(
    args: JobArgs,
    *,
    name: str,
    source: SourceManifest | None,
    inputs: tuple[InputData, ...] = (),
    target: TargetRef,
    capabilities: Abilities,
    unknown: frozenset[str] = frozenset(),
    secret: frozenset[str] = frozenset(),
) -> tuple[JobSpec | None, list[InputProblem]]:
    """Check a job as a whole and say what it means.

    Args:
        args: The arguments, also where :func:`~.args.parse_args` found problems: what it skipped is not looked at.
        name: The resource's name, which names the job where ``args.name`` does not.
        source: The files of the source directory. None where they could not be read: whoever tried has the problem;
            there is no spec then, unless the directory is not known yet.
        inputs: The inputs whose content could be read, with its digest.
        target: The compute target, its options already checked.
        capabilities: What that target can do.
        unknown: Paths of values that are not known yet; checks that need them are left out.
        secret: Paths of secret values; ``environmentVariables`` is the only place for them.

    Returns:
        The spec and every problem found here. The spec is None where there are problems, those that
        :func:`~.args.parse_args` found included. A spec with ``unknown`` has no digest.
    """
    hidden = unknown | args.skipped
    problems: list[InputProblem] = []
    own_name = _check_name(args, name, problems)
    entry_script = _check_entry_script(args, source, hidden, problems)
    distribution = topology.resolve(args, hidden, problems)
    environment = environment_of(args, horovod=isinstance(distribution, Horovod), unknown=hidden, problems=problems)
    distributed_known = not any(paths.touches(key, hidden) for key in ("distribution", *topology.FLAT, "computeTarget"))
    if distributed_known:
        problems.extend(_check_target(args, distribution, target, capabilities))
    problems.extend(_check_variables(args, inputs))
    problems.extend(_check_expressions(args, hidden))
    if args.success_policy != "default" and isinstance(distribution, Single) and distributed_known:
        problems.append(
            InputProblem(
                "successPolicy",
                "it is all_workers, and the job has one process",
                "a distributed job",
                "remove successPolicy",
            )
        )
    problems = [_without_value(problem) if paths.touches(problem.path, secret) else problem for problem in problems]
    problems.extend(_check_secrets(args, secret))
    if source is None and paths.touches("sourceDirectory", hidden):
        source = _NOTHING
    if problems or args.refused or source is None:
        return None, sorted(set(problems))
    spec = JobSpec(
        name=own_name,
        source=source,
        entry_script=entry_script,
        environment=environment,
        target=target,
        distribution=distribution,
        script_params=tuple((flag, param_values(args.script_params[flag])) for flag in sorted(args.script_params)),
        arguments=tuple(args.arguments),
        environment_variables=dict(sorted(args.environment_variables.items())),
        secret_variables=_secret_variables(args, secret),
        inputs=tuple(sorted(inputs, key=lambda item: item.name)),
        use_gpu=args.use_gpu,
        success_policy=args.success_policy,
        rerun=args.rerun,
        resume_from=args.resume_from,
        reuse=args.reuse,
        max_run_duration_seconds=args.max_run_duration_seconds,
        stop_grace_seconds=args.stop_grace_seconds,
        retries=args.retries,
        retry_on=tuple(args.retry_on),
        retry_backoff_seconds=args.retry_backoff_seconds,
        parameter_server_restarts=args.parameter_server_restarts,
        priority=args.priority,
        max_log_bytes=args.max_log_bytes,
        wait_for=args.wait_for,
        on_cancel=args.on_cancel,
        delete_artifacts=args.delete_artifacts,
        tags=dict(sorted(args.tags.items())),
        nodes=args.node_count or 1,
        unknown=hidden,
    )
    return spec, []


def _check_name(args: JobArgs, resource_name: str, problems: list[InputProblem]) -> str:
    if args.name is None:
        return job_name(resource_name)
    if not _NAME.match(args.name) or len(args.name) > NAME_LENGTH:
        problems.append(
            InputProblem(
                "name",
                f"{args.name!r} is no name of a job",
                f"small letters, digits and dashes, a letter or digit at both ends, at most {NAME_LENGTH} characters",
                f'say "{job_name(args.name)}"',
            )
        )
    return args.name


def script_path(given: str) -> str:
    """``./train.py`` -> ``train.py``."""
    return posixpath.normpath(given) if given else ""


def _check_entry_script(
    args: JobArgs, source: SourceManifest | None, unknown: frozenset[str], problems: list[InputProblem]
) -> str:
    given = args.entry_script
    if paths.touches("entryScript", unknown):
        return given
    script = script_path(given)
    expected = "the path of a file in sourceDirectory, relative to it"
    if not given or script in {".", ".."} or script.startswith(("/", "../")):
        problems.append(InputProblem("entryScript", f"it is {given!r}", expected, "say train.py, for example"))
        return given
    if source is None or paths.touches("sourceDirectory", unknown):
        return script
    files = [file.path for file in source.files]
    if script not in files:
        problems.append(
            InputProblem("entryScript", f"there is no {given} in {source.root}", expected, _near(script, files))
        )
    return script


def _near(script: str, files: list[str]) -> str:
    base = posixpath.basename(script)
    found = [path for path in files if posixpath.basename(path) == base or path.startswith(f"{script}/")][:3]
    found += [path for path in difflib.get_close_matches(script, files, n=3, cutoff=0.5) if path not in found]
    found = found or [path for path in sorted(files) if path.endswith(".py")][:5]
    there = f"say one of these that are there: {', '.join(found)}" if found else "put the script there"
    return f"{there} (files named by .amlignore, .gitignore or .tfjobsignore are left out)"


def environment_of(
    args: JobArgs, *, horovod: bool, unknown: frozenset[str], problems: list[InputProblem]
) -> EnvironmentSpec:
    """The software that the arguments ask for; problems are added to ``problems``."""
    if args.conda_packages:
        listed = ", ".join(f'"{package}"' for package in args.conda_packages)
        problems.append(
            InputProblem(
                "condaPackages",
                "conda environments cannot be built yet",
                "packages of the Python package index",
                f"move them to pipPackages: [{listed}]",
            )
        )
    if args.user_managed:
        for key, value in (
            ("pipPackages", args.pip_packages),
            ("frameworkVersion", args.framework_version),
            ("pythonVersion", args.python_version),
        ):
            if value:
                problems.append(
                    InputProblem(
                        key,
                        "it is given together with userManaged, where nothing is installed",
                        "an interpreter that has everything",
                        f"remove {key}, or userManaged and interpreterPath",
                    )
                )
        return EnvironmentSpec(python="", interpreter=args.interpreter_path or "python3")
    if args.interpreter_path is not None and not paths.touches("userManaged", unknown):
        problems.append(
            InputProblem(
                "interpreterPath",
                "it is given without userManaged",
                "an interpreterPath only for a user-managed environment",
                "say userManaged: true, or remove interpreterPath",
            )
        )
    wanted = Software(
        packages=tuple(args.pip_packages),
        framework_version=args.framework_version,
        python_version=args.python_version,
        use_gpu=args.use_gpu,
        horovod=horovod,
        unknown=unknown,
    )
    environment, found = software.resolve(wanted)
    problems.extend(found)
    return environment


def _check_target(
    args: JobArgs, distribution: Distribution, target: TargetRef, capabilities: Abilities
) -> list[InputProblem]:
    found = []
    needed = topology.slots_needed(distribution)
    where = "distribution" if args.distribution is not None else _flat_path(args)
    counts = topology.process_counts(distribution)
    members = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "ps")
    if capabilities.slots is not None and needed > capabilities.slots:
        more = f"LocalTarget(slots={needed})" if target.kind == "local" else "a larger compute target"
        found.append(
            InputProblem(
                where,
                f"the job takes {needed} slots ({members}), and the compute target has {capabilities.slots}",
                f"at most {capabilities.slots} processes that train",
                f"give the target more slots ({more}, computeTarget.slots: {needed}), or the job fewer processes",
            )
        )
    if args.use_gpu and capabilities.gpus is not None and capabilities.gpus < needed:
        none = capabilities.gpus == 0
        found.append(
            InputProblem(
                "useGpu",
                "the compute target has no GPU"
                if none
                else f"{needed} processes want a GPU each, and the compute target has {capabilities.gpus}",
                "a target with a GPU for each process that trains",
                "say useGpu: false, or choose a target with GPUs"
                if none
                else "use fewer processes, or say useGpu: false",
            )
        )
    if isinstance(distribution, Horovod) and distribution.controller not in capabilities.controllers:
        names = ", ".join(sorted(capabilities.controllers)) or "none"
        found.append(
            InputProblem(
                "distribution.controller" if args.distribution is not None else "distributedBackend",
                f"the compute target cannot start Horovod with the {distribution.controller} controller",
                f"a controller that it has: {names}",
                f"say controller: {names.split(', ')[0]}" if names != "none" else "choose another compute target",
            )
        )
    if isinstance(distribution, Horovod) and distribution.elastic and not capabilities.elastic:
        found.append(
            InputProblem(
                "distribution",
                "minWorkers or maxWorkers make it elastic, and the compute target cannot replace lost workers",
                "a fixed number of workers",
                "remove minWorkers and maxWorkers, or choose another compute target",
            )
        )
    return found


def _flat_path(args: JobArgs) -> str:
    order = ("processCountPerNode", "nodeCount") if args.distributed_backend == "mpi" else ("workerCount", "nodeCount")
    for key in order:
        if (getattr(args, topology.FLAT[key]) or 1) > 1:
            return key
    return "computeTarget.slots"


def _check_variables(args: JobArgs, inputs: Iterable[InputData]) -> list[InputProblem]:
    found = []
    for name in args.environment_variables:
        if name == "TF_CONFIG" or name in RESERVED_VARIABLES or name.startswith("TFJOBS_"):
            fix = "remove it" if not name.startswith("TFJOBS_") else "remove it, or rename it: TFJOBS_ is reserved"
            found.append(
                InputProblem(
                    paths.join("environmentVariables", name),
                    "every replica gets its own value of this variable from the job",
                    "a variable that the job does not set",
                    fix,
                )
            )
    variables: dict[str, str] = {}
    for name in sorted({*args.inputs, *(item.name for item in inputs)}):
        path = paths.join("inputs", name)
        if not _INPUT_NAME.match(name):
            found.append(
                InputProblem(
                    path,
                    f"{name!r} cannot be part of a variable's name",
                    "letters, digits, dashes and underscores, a letter first",
                    f"rename it to {re.sub(r'[^A-Za-z0-9_-]+', '_', name).lstrip('0123456789-') or 'data'}",
                )
            )
        other = variables.setdefault(input_variable(name), name)
        if other != name:
            found.append(
                InputProblem(path, f"it and {other} are both {input_variable(name)}", "names that differ", "rename one")
            )
        if name in args.inputs and not args.inputs[name]:
            found.append(InputProblem(path, "it is empty", "the path of a file or folder", "give its path"))
    return found


def _check_expressions(args: JobArgs, unknown: frozenset[str]) -> list[InputProblem]:
    texts = [(paths.join("scriptParams", flag), param_values(value)) for flag, value in args.script_params.items()]
    texts += [(paths.join("arguments", index), (text,)) for index, text in enumerate(args.arguments)]
    found = []
    for path, values in texts:
        for inside in (expression for value in values for expression in expressions(value)):
            name = inside.removeprefix("inputs.")
            if not inside.startswith("inputs."):
                problem = f"${{{{{inside}}}}} is not known here", "write ${{inputs.<name>}}"
            elif name in args.inputs or paths.touches(paths.join("inputs", name), unknown):
                continue
            else:
                near = difflib.get_close_matches(name, args.inputs, n=1)
                names = ", ".join(sorted(args.inputs)) or "none"
                fix = f"write ${{{{inputs.{near[0]}}}}}" if near else f'add inputs: {{"{name}": <path>}}'
                problem = f"there is no input {name!r} (inputs: {names})", fix
            found.append(InputProblem(path, problem[0], "the name of one of the job's inputs", problem[1]))
    return found


def _without_value(problem: InputProblem) -> InputProblem:
    return problem._replace(found="its value, a secret that is not shown, is wrong", fix="write it as expected")


def _check_secrets(args: JobArgs, secret: frozenset[str]) -> list[InputProblem]:
    """Secrets where they could not be kept: on command lines, and in what an environment is made of."""
    places = {
        "scriptParams": (args.script_params, "command lines are seen by every process of the machine"),
        "arguments": (args.arguments, "command lines are seen by every process of the machine"),
        "pipPackages": (args.pip_packages, "packages are written down with the environment"),
    }
    return [
        InputProblem(
            path,
            f"it is a secret, and {why}",
            "secrets in environmentVariables",
            "pass it as an environment variable, and read that in the script"
            if key != "pipPackages"
            else "name the package without credentials, and give these to pip or uv by its own configuration",
        )
        for key, (value, why) in places.items()
        for path in sorted({path or key for path in secret})
        if value and paths.touches(path, {key})
    ]


def _secret_variables(args: JobArgs, secret: frozenset[str]) -> frozenset[str]:
    return frozenset(
        name
        for name in args.environment_variables
        if any(paths.within(paths.join("environmentVariables", name), outer) for outer in secret)
    )
