"""From arguments to a :class:`~.model.JobSpec`: every cross-check, all problems at once. Pure."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterable

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec import paths, topology
from pulumi_tfjobs.spec.args import JobArgs
from pulumi_tfjobs.spec.checks import Abilities, check_target, environment_of
from pulumi_tfjobs.spec.fields import param_values
from pulumi_tfjobs.spec.harmless import decides
from pulumi_tfjobs.spec.horovod import RESERVED_VARIABLES
from pulumi_tfjobs.spec.model import (
    Horovod,
    InputData,
    JobSpec,
    Single,
    SourceManifest,
    TargetRef,
)
from pulumi_tfjobs.spec.software import default_requirements

__all__ = [
    "Abilities",
    "build_spec",
    "default_requirements",
    "environment_of",
    "expressions",
    "input_variable",
    "job_name",
    "script_path",
]

NAME_LENGTH = 50
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]*-[0-9a-f]{12}\Z")
_INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_NOTHING = SourceManifest(root="", files=())


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
        :func:`~.args.parse_args` found included. A spec has no digest where ``unknown`` values decide it.
    """
    hidden = unknown | args.skipped
    problems: list[InputProblem] = []
    own_name = _check_name(args, name, problems)
    entry_script = _check_entry_script(args, source, hidden, problems)
    distribution = topology.resolve(args, hidden, problems)
    warnings: list[str] = []
    environment = environment_of(
        args, horovod=isinstance(distribution, Horovod), unknown=hidden, problems=problems, warnings=warnings
    )
    distributed_known = not any(paths.touches(key, hidden) for key in ("distribution", *topology.FLAT, "computeTarget"))
    if distributed_known:
        problems.extend(check_target(args, distribution, target, capabilities))
    problems.extend(_check_resume_from(args))
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
        unknown=frozenset(path for path in hidden if decides(path)),
        warnings=tuple(warnings),
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
    if not source.has(script):
        near = _near(script, [file.path for file in source.files])
        problems.append(InputProblem("entryScript", f"there is no {given} in {source.root}", expected, near))
    return script


def _near(script: str, files: list[str]) -> str:
    base = posixpath.basename(script)
    found = [path for path in files if posixpath.basename(path) == base or path.startswith(f"{script}/")][:3]
    found += [path for path in difflib.get_close_matches(script, files, n=3, cutoff=0.5) if path not in found]
    found = found or [path for path in sorted(files) if path.endswith(".py")][:5]
    there = f"say one of these that are there: {', '.join(found)}" if found else "put the script there"
    return f"{there} (files named by .amlignore, .gitignore or .tfjobsignore are left out)"


def _check_resume_from(args: JobArgs) -> list[InputProblem]:
    if not args.resume_from or _RUN_ID.match(args.resume_from):
        return []
    return [
        InputProblem(
            "resumeFrom",
            f"{args.resume_from!r} is no id of a run",
            "the id of a run in the same store, such as mnist-1a2b3c4d5e6f",
            "`tfjobs runs` lists them",
        )
    ]


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
