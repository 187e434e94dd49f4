"""From inputs to a spec, and what a preview can say of it. Nothing here changes anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pulumi_tfjobs.errors import InputProblem, InvalidInputs
from pulumi_tfjobs.lifecycle.common import PreviewInfo, open_store, open_target
from pulumi_tfjobs.plan import build_plan, preview_summary
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.args import parse_args
from pulumi_tfjobs.spec.model import InputData, JobSpec, SourceManifest, TargetRef, canonical_digest
from pulumi_tfjobs.spec.suggest import nearest
from pulumi_tfjobs.spec.validate import build_spec
from pulumi_tfjobs.store.source import digest_of, scan
from pulumi_tfjobs.targets.base import Target
from pulumi_tfjobs.targets.registry import kinds, target_class

SOURCE_PROPERTY = "source"
# A source with more files than this is shown in a diff by folder, so that the state stays small.
LISTED_FILES = 500


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
    plain = {key: value for key, value in inputs.items() if key != SOURCE_PROPERTY}
    args, problems = parse_args(plain, unknown)
    source = _scan_source(plain.get("sourceDirectory"), directory, problems)
    data = _digest_inputs(plain.get("inputs"), directory, problems)
    target, target_problems = _check_target(plain.get("computeTarget"), unknown)
    problems.extend(target_problems)
    spec: JobSpec | None = None
    if args is not None:
        ref = TargetRef(target.kind, dict(target.options)) if target is not None else TargetRef("local", {})
        capabilities = target.capabilities() if target is not None else None
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
    if problems or spec is None:
        raise InvalidInputs(sorted(set(problems)))
    return spec


def _scan_source(path: Any, directory: str, problems: list[InputProblem]) -> SourceManifest | None:
    if not isinstance(path, str) or not path:
        return None
    try:
        return scan(_resolve(path, directory))
    except InvalidInputs as error:
        problems.extend(error.problems)
        return None


def _digest_inputs(inputs: Any, directory: str, problems: list[InputProblem]) -> tuple[InputData, ...]:
    found = []
    if isinstance(inputs, Mapping):
        for name, path in sorted(inputs.items()):
            if not isinstance(path, str):
                continue
            resolved = _resolve(path, directory)
            try:
                digest = digest_of(resolved, property_path=f'inputs["{name}"]')
            except InvalidInputs as error:
                problems.extend(error.problems)
            else:
                found.append(InputData(name, resolved, digest))
    return tuple(found)


def _resolve(path: str, directory: str) -> str:
    return os.path.normpath(os.path.join(directory, os.path.expanduser(path)))


def _check_target(value: Any, unknown: frozenset[str]) -> tuple[Target | None, list[InputProblem]]:
    if any(path == "computeTarget" or path.startswith(("computeTarget.", "computeTarget[")) for path in unknown):
        return None, []
    if value is None:
        value = {"kind": "local"}
    if not isinstance(value, Mapping):
        return None, []  # said by parse_args
    kind = value.get("kind", "local")
    try:
        cls = target_class(str(kind))
    except KeyError:
        near = nearest(str(kind), kinds())
        return None, [
            InputProblem(
                "computeTarget.kind",
                f"there is no compute target of kind {kind!r}",
                "one of " + ", ".join(kinds()),
                f"write kind: {near}" if near else "choose one of these, or install the package that brings it",
            )
        ]
    options, problems = cls.check_options({key: item for key, item in value.items() if key != "kind"})
    if problems:
        return None, [problem._replace(path=_below("computeTarget", problem.path)) for problem in problems]
    return cls.from_options(options), []


def _below(parent: str, path: str) -> str:
    return f"{parent}{path}" if path.startswith("[") else f"{parent}.{path}" if path else parent


def source_property(spec: JobSpec) -> dict[str, str]:
    """File → short digest, so that a diff names the files that changed. Large sources are summed up by folder."""
    files = spec.source.files
    if len(files) <= LISTED_FILES:
        return {f.path: f.digest[:12] + (f" {f.mode}" if f.mode else "") for f in files}
    folders: dict[str, list[list[str]]] = {}
    for f in files:
        folders.setdefault(f.path.partition("/")[0] if "/" in f.path else f.path, []).append([f.path, f.mode, f.digest])
    return {folder: f"{canonical_digest(entries)[:12]} ({len(entries)} files)" for folder, entries in folders.items()}


def preview(spec: JobSpec) -> PreviewInfo:
    """What `pulumi up` would start, and what the store already knows of it. Changes nothing."""
    if spec.unknown:
        unknown = ", ".join(sorted(spec.unknown))
        return PreviewInfo(None, None, f"the run cannot be named before {unknown} is known", None)
    digest = spec.digest
    summary = preview_summary(build_plan(spec))
    run = open_store(open_target(spec.target).namespace).by_digest(digest)
    if run is None:
        return PreviewInfo(spec.run_id, digest, summary, None)
    known = {
        phases.SUCCEEDED: f"reuses the finished run {run.run_id}",
        phases.FAILED: f"makes a new attempt of {run.run_id}, which failed",
        phases.CANCELLED: f"makes a new attempt of {run.run_id}, which was stopped",
        phases.TIMED_OUT: f"makes a new attempt of {run.run_id}, which ran out of time",
        phases.INTERRUPTED: f"makes a new attempt of {run.run_id}, which was interrupted",
    }.get(run.status, f"goes on with the run {run.run_id} ({run.status})")
    return PreviewInfo(run.run_id, digest, summary, known)
