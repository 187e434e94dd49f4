"""From inputs to a spec. Nothing here changes anything."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pulumi_tfjobs.errors import InputProblem, InvalidInputs
from pulumi_tfjobs.spec import paths
from pulumi_tfjobs.spec.args import parse_args
from pulumi_tfjobs.spec.model import InputData, JobSpec, SourceFile, SourceManifest, TargetRef, canonical_digest
from pulumi_tfjobs.spec.suggest import nearest
from pulumi_tfjobs.spec.validate import build_spec
from pulumi_tfjobs.store.source import digest_of, scan, warnings_of
from pulumi_tfjobs.targets.base import Capabilities, Target
from pulumi_tfjobs.targets.registry import kinds, target_class

SOURCE_PROPERTY = "source"
# A source with more files than this is shown in a diff by folder, so that the state stays small.
LISTED_FILES = 500
# Where the target is not known yet or wrong in itself, nothing is said of what the job asks of it.
_UNKNOWN_TARGET = Capabilities(slots=None, gpus=None, controllers=frozenset({"gloo", "mpi"}), elastic=True)


def check(
    inputs: Mapping[str, Any],
    *,
    name: str,
    directory: str,
    unknown: frozenset[str] = frozenset(),
    secret: frozenset[str] = frozenset(),
) -> JobSpec:
    """Inputs as the user wrote them → what they mean. Raises InvalidInputs with every problem at once.

    ``name`` is the resource's name, used where the inputs name no job. Relative paths are relative to ``directory``.
    ``unknown`` and ``secret`` are property paths; unknown values are left out of ``inputs``. Changes nothing.
    """
    # `source` as an earlier check computed it; anything else of that name is the user's, who means sourceDirectory.
    plain = {key: value for key, value in inputs.items() if key != SOURCE_PROPERTY or not isinstance(value, Mapping)}
    args, problems = parse_args(plain, unknown, secret=secret)
    code = args is not None and args.source_digest == "code"
    source = _scan_source(plain.get("sourceDirectory"), directory, problems, code=code)
    data = _digest_inputs(plain.get("inputs"), directory, problems)
    vague = _unknown_options(unknown)
    target, target_problems = _check_target(plain.get("computeTarget"), vague, directory)
    problems.extend(target_problems)
    spec: JobSpec | None = None
    if args is not None:
        ref = TargetRef("local", {}, vague)
        if target is not None:
            ref = TargetRef(target.kind, _shown_options(target.options, secret), vague, target.credentials)
        capabilities = target.capabilities() if target is not None else _UNKNOWN_TARGET
        spec, more = build_spec(
            args,
            name=name,
            source=source,
            inputs=data,
            target=ref,
            capabilities=capabilities,
            unknown=unknown,
            secret=secret,
        )
        problems.extend(more)
        if spec is not None and target is not None:
            if target.image:
                spec = replace(spec, environment=replace(spec.environment, image=target.image))
            problems.extend(target.check(spec))
    if problems or spec is None:
        raise InvalidInputs(sorted(set(problems)))
    return replace(spec, warnings=(*spec.warnings, *warnings_of(spec.source)))


def _scan_source(path: Any, directory: str, problems: list[InputProblem], *, code: bool) -> SourceManifest | None:
    if not isinstance(path, str):
        return None  # missing, or said by parse_args
    if not path:
        problems.append(
            InputProblem("sourceDirectory", "it is empty", "the folder that holds the script", 'say "." for this one')
        )
        return None
    try:
        return scan(_resolve(path, directory), code=code)
    except InvalidInputs as error:
        problems.extend(error.problems)
        return None


def _digest_inputs(inputs: Any, directory: str, problems: list[InputProblem]) -> tuple[InputData, ...]:
    found = []
    if isinstance(inputs, Mapping):
        for name, path in sorted(inputs.items()):
            if not isinstance(path, str) or not path:
                continue  # said by parse_args and build_spec
            resolved = _resolve(path, directory)
            try:
                digest = digest_of(resolved, property_path=paths.join("inputs", name))
            except InvalidInputs as error:
                problems.extend(error.problems)
            else:
                found.append(InputData(name, resolved, digest))
    return tuple(found)


def _resolve(path: str, directory: str) -> str:
    return os.path.normpath(os.path.join(directory, os.path.expanduser(path)))


def _unknown_options(unknown: frozenset[str]) -> frozenset[str]:
    """The target's options that are not known yet; ``kind`` among them where it is not known which target it is."""
    found = {paths.below(path, "computeTarget") for path in unknown if paths.inside(path, "computeTarget")}
    return frozenset(
        {re.split(r"[.\[]", name)[0] for name in found} | ({"kind"} if "computeTarget" in unknown else set())
    )


def _shown_options(options: Mapping[str, Any], secret: frozenset[str]) -> dict[str, Any]:
    """The target's options, less those that only people read where they are secrets: a plan and a run's record show
    them."""
    hidden = {"name": "[secret]", "hourlyPrice": None}
    secrets = {name for name in hidden if paths.touches(f"computeTarget.{name}", secret)}
    return {name: hidden[name] if name in secrets else value for name, value in options.items()}


def _check_target(value: Any, vague: frozenset[str], directory: str) -> tuple[Target | None, list[InputProblem]]:
    if "kind" in vague:
        return None, []
    if value is None:
        value = {"kind": "local"}
    if not isinstance(value, Mapping):
        return None, []  # said by parse_args
    given = {str(key): item for key, item in value.items() if item is not None}
    kind = given.pop("kind", "local")
    if not isinstance(kind, str) or not kind:
        return None, []  # said by parse_args
    try:
        cls = target_class(kind)
    except KeyError:
        near = nearest(kind, kinds())
        return None, [
            InputProblem(
                "computeTarget.kind",
                f"there is no compute target of kind {kind!r}",
                "one of " + ", ".join(kinds()),
                f"write kind: {near}" if near else "choose one of these, or install the package that brings it",
            )
        ]
    for option in cls.paths:
        path = given.get(option)
        if isinstance(path, str) and path and "\n" not in path and not path.lstrip().startswith("{"):
            given[option] = _resolve(path, directory)
    options, problems = cls.check_options(given)
    if problems:
        return None, [problem._replace(path=_below("computeTarget", problem.path)) for problem in problems]
    return cls.from_options(options), []


def _below(parent: str, path: str) -> str:
    return f"{parent}{path}" if path.startswith("[") else f"{parent}.{path}" if path else parent


def source_property(spec: JobSpec) -> dict[str, str]:
    """File → short digest, so that a diff names the files that changed.

    Where there are more than 500, the folders at the top are summed up (``data/``), and the files there (``./``) where
    they are too many themselves.
    """
    files = spec.source.files
    if len(files) <= LISTED_FILES:
        return {f.path: _short(f) for f in files}
    top = [f for f in files if "/" not in f.path]
    if len(top) > LISTED_FILES:
        listed = {"./": canonical_digest([[f.path, f.mode, f.counts] for f in top])[:12]}
    else:
        listed = {f.path: _short(f) for f in top}
    return listed | {name: digest[:12] for name, digest in spec.source.folders.items()}


def _short(file: SourceFile) -> str:
    return file.counts[:12] + (f" {file.mode}" if file.mode else "")
