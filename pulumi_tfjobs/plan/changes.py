"""What a change of a job's inputs does: nothing, new metadata, or a new training; property by property."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pulumi_tfjobs.spec import paths, topology
from pulumi_tfjobs.spec.args import JobArgs, parse_args
from pulumi_tfjobs.spec.fields import param_values
from pulumi_tfjobs.spec.harmless import IMAGE, MAPS_OF_METADATA, METADATA, PLACE, is_harmless
from pulumi_tfjobs.spec.model import Distribution, EnvironmentSpec, Horovod
from pulumi_tfjobs.spec.validate import environment_of, script_path

ChangeKind = Literal["add", "update", "delete"]
ChangeClass = Literal["metadata", "retrain", "nothing"]

HIDDEN = "[secret]"
_LONGEST = 80
_ROTATED = "a secret's value is not the result's"
_SOFTWARE = ("frameworkVersion", "pythonVersion", "userManaged", "interpreterPath", "useGpu")


class Change(NamedTuple):
    """One difference between a job's old and new inputs.

    ``path`` is a Pulumi property path, ``digest`` where the content differs and no property does. ``klass``:
    ``metadata`` (updated in place) or ``retrain`` (replaced). ``reason`` says what it means and never holds a value.
    ``before`` and ``after`` are the values as people read them; empty where there is none or it is not to be shown.
    """

    path: str
    kind: ChangeKind
    klass: ChangeClass
    reason: str
    before: str = ""
    after: str = ""


def diff(
    old_inputs: Mapping[str, Any],
    new_inputs: Mapping[str, Any],
    *,
    old_digest: str,
    new_digest: str | None,
    unknown: frozenset[str] = frozenset(),
    secret: frozenset[str] = frozenset(),
) -> list[Change]:
    """Every change, sorted by path; empty where nothing that matters differs.

    Args:
        old_inputs: Inputs as they were last checked, ``source`` (file -> short digest) included.
        new_inputs: Inputs as they are now checked, less unknown values.
        old_digest: The digest that the job's run has; empty where it has none.
        new_digest: The new one, None where unknown values decide it. Equal digests mean the same run: only metadata is
            reported then, however differently the rest is written.
        unknown: Paths of new values that are not known yet. Each that could change the result is reported as such.
        secret: Paths of values, old or new, that are not shown.
    """
    old, new = _Side(old_inputs, frozenset()), _Side(new_inputs, unknown)
    found = [*_metadata(old, new), *_place(old, new), *_unknown(old, unknown)]
    if new_digest is None or new_digest != old_digest:
        identity = [change for change in _identity(old, new) if not paths.touches(change.path, unknown)]
        if new_digest is not None and old_digest:
            identity = [_rotated(change) if _is_rotated(change, secret) else change for change in identity]
        found += identity
        trains = any(change.klass == "retrain" for change in identity)
        if not trains and new_digest is not None and old_digest:
            found.append(_hidden(new))
    else:
        found += _secrets(old, new)
    return [_hide(change) if _is_secret(change.path, secret) else change for change in _by_path(found)]


def _is_secret(path: str, secret: frozenset[str]) -> bool:
    # A package is found by its name, and has another place in each list: which of them is secret cannot be told.
    return paths.touches(path, secret) or (paths.inside(path, "pipPackages") and paths.touches("pipPackages", secret))


def _is_rotated(change: Change, secret: frozenset[str]) -> bool:
    in_variables = paths.inside(change.path, "environmentVariables")
    return change.kind == "update" and in_variables and paths.touches(change.path, secret)


def _rotated(change: Change) -> Change:
    return change._replace(klass="metadata", reason=_ROTATED)


def _hide(change: Change) -> Change:
    return change._replace(before=change.before and HIDDEN, after=change.after and HIDDEN)


def _secrets(old: _Side, new: _Side) -> Iterator[Change]:
    """Of the variables, only the values of secrets can differ where the digests are equal."""
    before, after = old.mapping("environmentVariables"), new.mapping("environmentVariables")
    for name in _keys(before, after):
        if before.get(name) != after.get(name):
            path = paths.join("environmentVariables", name)
            kind = _kind(name in before, name in after)
            shown = (HIDDEN if name in before else "", HIDDEN if name in after else "")
            yield Change(path, kind, "metadata", _ROTATED, *shown)


class _Side:
    """One side of the comparison: as it was written, and as it is meant."""

    def __init__(self, inputs: Mapping[str, Any], unknown: frozenset[str]) -> None:
        self.raw = {key: value for key, value in inputs.items() if value is not None}
        self.unknown = unknown
        args, _ = parse_args(self.raw, unknown)
        self.args = args if args is not None else JobArgs(sourceDirectory="-", entryScript="-")
        # Read by another version, or edited by hand: what cannot be read is compared as it is written.
        self.skipped = self.args.skipped

    def has(self, *parts: str) -> bool:
        value: Any = self.raw
        for part in parts:
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.raw.get(key)
        return dict(value) if isinstance(value, Mapping) else {}

    def value(self, key: str) -> Any:
        """A property with its default and in its normal form."""
        if key in self.skipped:
            return self.raw.get(key)
        return getattr(self.args, _attribute(key))

    def environment(self) -> EnvironmentSpec:
        horovod = isinstance(self.distribution(), Horovod)
        return environment_of(self.args, horovod=horovod, unknown=self.unknown, problems=[])

    def distribution(self) -> Distribution:
        return topology.resolve(self.args, self.unknown, [])


_ATTRIBUTES = {field.alias: name for name, field in JobArgs.model_fields.items()}


def _attribute(key: str) -> str:
    return _ATTRIBUTES[key]


def _kind(old: bool, new: bool) -> ChangeKind:
    return "update" if old == new else "add" if new else "delete"


def _keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted({*old, *new})


def _metadata(old: _Side, new: _Side) -> Iterator[Change]:
    for key in METADATA:
        if old.value(key) != new.value(key) and not paths.touches(key, new.unknown):
            yield _property(old, new, key, "metadata", "does not change the result")
    for key in (*MAPS_OF_METADATA, "computeTarget", "inputs"):
        before, after = old.mapping(key), new.mapping(key)
        for name in _keys(before, after):
            path = paths.join(key, name)
            if before.get(name) == after.get(name) or paths.touches(path, new.unknown):
                continue
            if key == "computeTarget" and name in {*PLACE, IMAGE}:
                continue
            if key == "inputs" and (name not in before or name not in after):
                continue  # another set of inputs is another job
            where = "says where it is, not what it holds" if key == "inputs" else "does not change the result"
            yield _entry(path, before, after, name, "metadata", where)
    if old.distribution() == new.distribution() and not isinstance(new.distribution(), Horovod):
        key = "nodeCount"
        if (old.value(key) or 1) != (new.value(key) or 1) and not paths.touches(key, new.unknown):
            yield _property(old, new, key, "metadata", "spreads the same replicas over nodes")


def _place(old: _Side, new: _Side) -> Iterator[Change]:
    before, after = old.mapping("computeTarget"), new.mapping("computeTarget")
    for name, default in PLACE.items():
        path = paths.join("computeTarget", name)
        if before.get(name, default) != after.get(name, default) and not paths.touches(path, new.unknown):
            reason = "runs are kept elsewhere: the run is looked up there, and trained there if it is not known"
            yield _entry(path, before, after, name, "retrain", reason)


def _unknown(old: _Side, unknown: frozenset[str]) -> Iterator[Change]:
    for path in sorted(unknown):
        top = path.partition(".")[0].partition("[")[0]
        if top not in _ATTRIBUTES:
            continue
        kind: ChangeKind = "update" if old.has(top) else "add"
        if is_harmless(path):
            yield Change(path, kind, "metadata", "not known before the update; it does not change the result")
        else:
            reason = "not known before the update: if it differs then, the job is trained again"
            yield Change(path, kind, "retrain", reason)


def _identity(old: _Side, new: _Side) -> Iterator[Change]:
    yield from _source(old, new)
    if _differs(old, new, "entryScript", script_path):
        shown = (_shown(old.value("entryScript")), _shown(new.value("entryScript")))
        yield Change("entryScript", "update", "retrain", "another script is run", *shown)
    yield from _entries(old, new, "scriptParams", "the script gets another command line", param_values)
    yield from _arguments(old, new)
    yield from _entries(old, new, "environmentVariables", "replicas get another environment", str)
    yield from _topology(old, new)
    if old.environment() != new.environment():
        yield from _packages(old, new)
        for key in _SOFTWARE:
            if _differs(old, new, key):
                yield _property(old, new, key, "retrain", "the job runs in other software")
    elif _differs(old, new, "useGpu"):
        yield _property(old, new, "useGpu", "retrain", "the job runs on other hardware")
    before, after = old.mapping("computeTarget"), new.mapping("computeTarget")
    if before.get(IMAGE) != after.get(IMAGE):
        path = paths.join("computeTarget", IMAGE)
        yield _entry(path, before, after, IMAGE, "retrain", "replicas run in another image")
    for name in sorted(old.mapping("inputs").keys() ^ new.mapping("inputs").keys()):
        kind = _kind(old.has("inputs", name), new.has("inputs", name))
        yield Change(paths.join("inputs", name), kind, "retrain", "the job reads other data")
    for key, reason in _REASONS:
        if _differs(old, new, key):
            yield _property(old, new, key, "retrain", reason)


_REASONS = (
    ("successPolicy", "success is decided by other replicas"),
    ("rerun", "a new run is asked for"),
    ("resumeFrom", "the run starts from other checkpoints"),
    ("sourceDigest", "what counts of the source is decided otherwise"),
)


def _shown(value: Any) -> str:
    """A value as people read it: in a line, and no longer than that."""
    if value is None:
        return ""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list | tuple):
        text = " ".join(_shown(item) for item in value)
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _property(old: _Side, new: _Side, key: str, klass: ChangeClass, reason: str) -> Change:
    shown = [_shown(side.value(key)) if side.has(key) else "" for side in (old, new)]
    return Change(key, _kind(old.has(key), new.has(key)), klass, reason, *shown)


def _entry(
    path: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str, klass: ChangeClass, reason: str
) -> Change:
    kind = _kind(name in before, name in after)
    return Change(path, kind, klass, reason, _shown(before.get(name)), _shown(after.get(name)))


def _differs(old: _Side, new: _Side, key: str, normal: Any = None) -> bool:
    before, after = old.value(key), new.value(key)
    if normal is not None and key not in old.skipped and key not in new.skipped:
        return bool(normal(before) != normal(after))
    return bool(before != after)


def _source(old: _Side, new: _Side) -> Iterator[Change]:
    if not old.has("source") or not new.has("source") or _differs(old, new, "sourceDigest"):
        return
    before, after = old.mapping("source"), new.mapping("source")
    for name in _keys(before, after):
        if before.get(name) != after.get(name):
            kind = _kind(name in before, name in after)
            what = {"add": "is new", "delete": "is gone", "update": "has another content"}[kind]
            if kind == "update" and str(before[name]).split()[:1] == str(after[name]).split()[:1]:
                what = "has another mode"
            noun = "folder" if name.endswith("/") else "file"
            yield Change(paths.join("source", name), kind, "retrain", f"the {noun} {what}")


def _entries(old: _Side, new: _Side, key: str, reason: str, normal: Any) -> Iterator[Change]:
    if key in old.skipped or key in new.skipped:
        before, after = old.mapping(key), new.mapping(key)
    else:
        before = {name: normal(value) for name, value in old.value(key).items()}
        after = {name: normal(value) for name, value in new.value(key).items()}
    for name in _keys(before, after):
        if name not in before or name not in after or before[name] != after[name]:
            yield _entry(paths.join(key, name), before, after, name, "retrain", reason)


def _arguments(old: _Side, new: _Side) -> Iterator[Change]:
    before, after = old.value("arguments"), new.value("arguments")
    if not isinstance(before, list) or not isinstance(after, list):
        return
    for index in range(max(len(before), len(after))):
        was, becomes = before[index : index + 1], after[index : index + 1]
        if was != becomes:
            kind = _kind(bool(was), bool(becomes))
            shown = (_shown(was), _shown(becomes))
            yield Change(
                paths.join("arguments", index), kind, "retrain", "the script gets another command line", *shown
            )


def _packages(old: _Side, new: _Side) -> Iterator[Change]:
    """Packages by name, so that another order is no change."""
    before, after = _by_name(old.value("pipPackages")), _by_name(new.value("pipPackages"))
    for name in _keys(before, after):
        was, becomes = before.get(name, (0, set()))[1], after.get(name, (0, set()))[1]
        if was != becomes:
            index = (after.get(name) or before[name])[0]
            kind = _kind(name in before, name in after)
            shown = (_shown(sorted(was)), _shown(sorted(becomes)))
            path = paths.join("pipPackages", index)
            yield Change(path, kind, "retrain", f"other software: the package {name}", *shown)


def _by_name(packages: Any) -> dict[str, tuple[int, set[str]]]:
    """Package -> where it is first named, and everything that is asked of it."""
    found: dict[str, tuple[int, set[str]]] = {}
    for index, text in enumerate(packages if isinstance(packages, list) else ()):
        try:
            requirement = Requirement(str(text))
        except InvalidRequirement:
            name, normal = str(text), str(text)
        else:
            name = canonicalize_name(requirement.name)
            requirement.name = name
            normal = str(requirement)
        found.setdefault(name, (index, set()))[1].add(normal)
    return found


def _topology(old: _Side, new: _Side) -> Iterator[Change]:
    before, after = old.distribution(), new.distribution()
    if before == after:
        return
    reason = "another number or other roles of processes"
    if before.kind == after.kind:
        for field, value in vars(after).items():
            if vars(before)[field] == value:
                continue
            written = ("distribution", topology.property_name(field))
            if field in {"min_workers", "max_workers"} and not (old.has(*written) or new.has(*written)):
                continue  # a default that follows from what has changed
            yield _count_change(old, new, after.kind, field, reason)
        return
    for parts in (("distribution", "kind"), ("distributedBackend",)):
        was, becomes = old.has(*parts), new.has(*parts)
        if (was or becomes) and _at(old, parts) != _at(new, parts):
            shown = (_shown(_at(old, parts)), _shown(_at(new, parts)))
            path = paths.join(*parts)
            yield Change(path, _kind(was, becomes), "retrain", "another way to distribute the job", *shown)
    for key in topology.FLAT:
        if key != "distributedBackend" and _differs(old, new, key):
            yield _property(old, new, key, "retrain", reason)


def _at(side: _Side, parts: Iterable[str]) -> Any:
    value: Any = side.raw
    for part in parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _count_change(old: _Side, new: _Side, kind: str, field: str, reason: str) -> Change:
    flat = topology.FLAT_NAMES[kind].get(field)
    if new.has("distribution") or flat is None:
        parts: tuple[str, ...] = ("distribution", topology.property_name(field))
    elif flat == "workerCount" and not old.has(flat) and not new.has(flat):
        parts = ("nodeCount",)  # multi_worker: the number of nodes is that of workers
    else:
        parts = (flat,)
    shown = [_shown(vars(side.distribution())[field]) for side in (old, new)]
    return Change(paths.join(*parts), _kind(old.has(*parts), new.has(*parts)), "retrain", reason, *shown)


def _hidden(new: _Side) -> Change:
    """The digest differs, and no property does."""
    names = ", ".join(sorted(new.mapping("inputs")))
    what = f"the content of its inputs ({names})" if names else "what the job is made of"
    return Change("digest", "update", "retrain", f"{what} has changed")


def _by_path(changes: list[Change]) -> list[Change]:
    """One change a path, the graver first: a package that left and one that took its place share a path."""
    found: dict[str, Change] = {}
    for change in changes:
        known = found.get(change.path)
        if known is None or (known.klass == "metadata" and change.klass == "retrain"):
            found[change.path] = change
        elif known.kind != change.kind and known.klass == change.klass:
            before, after = (" ".join(filter(None, pair)) for pair in zip(known[-2:], change[-2:], strict=True))
            found[change.path] = known._replace(kind="update", before=before, after=after)
    return [found[path] for path in sorted(found)]
