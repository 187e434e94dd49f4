"""What a preview says, in words: the row of a job, the lines below it, the total of a stack. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from pulumi_tfjobs.plan.record import LAUNCHING, ChangeRecord, FileRecord, JobPlan, RunRecord
from pulumi_tfjobs.spec import paths

_NAMED = 2  # so many changes are named in a row; the rest is counted
_FILES = 20  # and so many files below it
_UNITS = ((86400.0, "day", "days"), (3600.0, "hour", "hours"), (60.0, "minute", "minutes"))
_CLASSES = ("train", "retrain", "resume", "attempt", "reuse", "attach", "metadata", "unknown", "nothing")
_DONE = {
    "train": ("new", "new"),
    "retrain": ("retrain", "retrain"),
    "resume": ("resumes", "resume"),
    "attempt": ("is tried again", "are tried again"),
    "reuse": ("is reused", "are reused"),
    "attach": ("goes on", "go on"),
    "metadata": ("is updated", "are updated"),
    "unknown": ("cannot be told yet", "cannot be told yet"),
    "nothing": ("is unchanged", "are unchanged"),
}


def row(plan: JobPlan, now: float) -> str:
    """The job in a line: ``mnist  retrain  --learning-rate 0.01 → 0.001  ·  ~4 min, 2 slots  ·  replaces 0.971``.

    ``now``: seconds since the epoch, for ages.
    """
    parts = [headline(plan, now)]
    if plan.launches is not False and plan.needs.slots:
        parts.append(", ".join(text for text in (_about(plan.needs.seconds), _slots(plan)) if text))
    if plan.replaces is not None and plan.klass in {"retrain", "resume", "reuse"} and plan.replaces.metric:
        parts.append(f"replaces {plan.replaces.metric.rpartition(' ')[2]}")
    return clean(f"{plan.name}  {plan.klass}  " + "  ·  ".join(part for part in parts if part))


def clean(text: str) -> str:
    """The text in one line that does nothing to a terminal: names and values are anybody's."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def headline(plan: JobPlan, now: float) -> str:
    """Why, in a few words."""
    if plan.klass == "reuse" and plan.reuses is not None:
        return f"reuses run {plan.reuses.run_id}{_facts(plan.reuses, now)}"
    if plan.klass in {"attempt", "attach", "nothing"} or (plan.klass == "train" and not plan.changes):
        return plan.reason
    if plan.klass == "unknown":
        return f"not known before the update: {', '.join(_short(path) for path in plan.unknown)}"
    texts = _changed(plan)
    if not texts:
        return plan.reason
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _changed(plan: JobPlan) -> list[str]:
    """What has changed, the script's parameters first, files last."""
    files = {file.path: file for file in plan.files}
    launching = plan.klass in LAUNCHING or plan.klass == "reuse"
    wanted = [change for change in plan.changes if (change.klass == "retrain") == launching]
    listed = [change for change in wanted if not paths.inside(change.path, "source")]
    listed.sort(key=lambda change: not change.path.startswith("scriptParams"))
    sources = [change for change in wanted if paths.inside(change.path, "source")]
    return [*map(change_text, listed), *(_source_text(change, files) for change in sources)]


def change_text(change: ChangeRecord) -> str:
    """``--learning-rate 0.01 → 0.001``; what is new with ``+``, what is gone with ``−``."""
    if change.path == "digest":
        return change.reason
    name = _short(change.path)
    if change.before or change.after:
        if name.startswith("pipPackages"):
            name = ""
        if change.kind == "update":
            return f"{name} {change.before or '(none)'} → {change.after or '(none)'}".strip()
        name = f"{name} {change.after if change.kind == 'add' else change.before}".strip()
    return {"add": "+", "update": "", "delete": "−"}[change.kind] + name


def _source_text(change: ChangeRecord, files: Mapping[str, FileRecord]) -> str:
    path = _short(change.path)
    file = files.get(path)
    return file_text(file) if file is not None else f"{path} {_VERBS[change.kind]}"


_VERBS = {"add": "added", "update": "changed", "delete": "removed"}


def file_text(file: FileRecord) -> str:
    """``train.py +12 −3 lines``, ``notes.txt removed``, ``train.py changed (comments only)``."""
    lines = ""
    if file.kind == "update" and file.added is not None and file.removed is not None and (file.added or file.removed):
        lines = f" +{file.added} −{file.removed} lines"
    text = f"{file.path}{lines}" if lines else f"{file.path} {_VERBS[file.kind]}"
    return f"{text} ({file.note})" if file.note else text


def file_line(file: FileRecord) -> str:
    """``source["train.py"]: changed, +12 −3 lines``."""
    text = f"source[{json.dumps(file.path, ensure_ascii=False)}]: {_VERBS[file.kind]}"
    if file.added is not None and file.removed is not None:
        if file.kind == "update":
            text += f", +{file.added} −{file.removed} lines"
        else:
            text += f", {_count(file.added if file.kind == 'add' else file.removed, 'line')}"
    return f"{text} ({file.note})" if file.note else text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short(path: str) -> str:
    """``scriptParams["--lr"]`` → ``--lr``, ``scriptParams.epochs`` → ``epochs``; others as they are."""
    for key in ("scriptParams", "source", "environmentVariables"):
        if (inner := paths.below(path, key)) != path:
            return inner
    return path


def lines(plan: JobPlan, now: float, *, warnings: bool = True) -> list[str]:
    """The row, and below it what will be started, what it takes, and what is to be known."""
    found = [row(plan, now)]
    if plan.launches is not False and plan.needs.replicas:
        software = f"{plan.environment.text} ({plan.environment.state})" if plan.environment.text else ""
        where = f"target {plan.target}" if plan.target else ""
        name = f"{plan.run_id}: " if plan.run_id else ""
        found.append(f"  {name}{', '.join(text for text in (plan.needs.replicas, software, where) if text)}")
        for name, text in list(plan.tf_config.items())[:1]:
            found.append(f"  TF_CONFIG of {name}: {readable(text)}")
        if plan.hostfile:
            found.append(f"  hostfile: {', '.join(plan.hostfile.split(chr(10))).strip(', ')}")
        found.append(f"  {cost_text(plan)}")
    found += [f"  {file_line(file)}" for file in plan.files[:_FILES]]
    if len(plan.files) > _FILES:
        found.append(f"  and {_count(len(plan.files) - _FILES, 'more file')}")
    found += [f"  {note}" for note in plan.notes]
    found += [f"  warning: {text}" for text in plan.warnings if warnings]
    return [clean(line) for line in found]


def readable(config: str) -> str:
    """A TF_CONFIG with the addresses that are only known at the launch as ``worker-0``."""
    try:
        value = json.loads(config)
    except ValueError:
        return config
    if not isinstance(value, dict):
        return config
    cluster = value.get("cluster")
    if isinstance(cluster, dict):
        value["cluster"] = {
            kind: [f"{kind}-{index}" if "{{" in str(at) else at for index, at in enumerate(members)]
            for kind, members in cluster.items()
            if isinstance(members, list)
        }
    return json.dumps(value)


def cost_text(plan: JobPlan) -> str:
    """``takes ~4 minutes (median of 5 earlier runs), 0.13 slot-hours, 0.05 USD``."""
    needs = plan.needs
    if needs.seconds is None or needs.hours is None:
        vague = paths.touches("computeTarget", plan.unknown)
        why = "where its runs are kept is not known" if vague else "no run of this job has finished yet"
        return f"takes {_slots(plan)}; how long is not known, for {why}"
    runs = "as the run before" if needs.runs == 1 else f"median of {needs.runs} earlier runs"
    parts = [f"{_about(needs.seconds)} ({runs})", hours_text(needs.hours, gpus=needs.gpus)]
    if needs.cost is not None:
        parts.append(money(needs.cost, needs.currency))
    return "takes " + ", ".join(parts)


def hours_text(hours: float, *, gpus: bool) -> str:
    """``0.13 slot-hours``."""
    return f"{number(hours)} {'GPU' if gpus else 'slot'}-hours"


def money(amount: float, currency: str) -> str:
    """``0.05 USD``; less than a cent is said so."""
    return f"{'< 0.01' if 0 < amount < 0.01 else format(amount, ',.2f')} {currency}".strip()


def number(value: float) -> str:
    """Two digits that count; no more than two after the point where it is 1 or more."""
    if value == 0:
        return "0"
    return format(value, ",.2f") if value >= 1 else format(value, ".2g") if value >= 0.001 else "< 0.001"


def span(seconds: float) -> str:
    """``45 s``, ``4 min``, ``1 h 30 min``."""
    if seconds < 0.95:
        return f"{max(seconds, 0.01):.1g} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {rest} min" if rest else "")
    return f"{round(hours / 24)} days"


def age(seconds: float) -> str:
    """``3 days ago``."""
    for size, one, many in _UNITS:
        count = int(seconds // size)
        if count:
            return f"{count} {one if count == 1 else many} ago"
    return "just now"


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f"~{span(seconds)}"


def _slots(plan: JobPlan) -> str:
    return _count(plan.needs.slots, "GPU" if plan.needs.gpus else "slot")


def _facts(run: RunRecord, now: float) -> str:
    parts = [run.metric, "" if run.finished is None else age(max(0.0, now - run.finished))]
    text = ", ".join(part for part in parts if part)
    return f" ({text})" if text else ""


def total(plans: Iterable[JobPlan]) -> str:
    """A stack in a line: ``3 of 7 jobs train (1 new, 2 retrain), 1 is reused; ~0.4 slot-hours, 0.12 USD``. Empty where
    there is no job."""
    known = list(plans)
    if not known:
        return ""
    counts = {klass: sum(1 for plan in known if plan.klass == klass) for klass in _CLASSES}
    trains = [f"{counts[klass]} {_verb(klass, counts)}" for klass in _CLASSES if klass in LAUNCHING and counts[klass]]
    others = [
        f"{counts[klass]} {_verb(klass, counts)}" for klass in _CLASSES if klass not in LAUNCHING and counts[klass]
    ]
    launched = sum(counts[klass] for klass in LAUNCHING)
    jobs = _count(len(known), "job")
    verb = "trains" if launched == 1 else "train"
    text = f"{launched} of {jobs} {verb} ({', '.join(trains)})" if launched else f"none of {jobs} trains"
    text = ", ".join([text, *others])
    costs = _costs([plan for plan in known if plan.klass in LAUNCHING])
    return f"{text}; {costs}" if costs else text


def _verb(klass: str, counts: Mapping[str, int]) -> str:
    return _DONE[klass][counts[klass] != 1]


def _costs(plans: Sequence[JobPlan]) -> str:
    found = []
    for gpus in (False, True):
        hours = [plan.needs.hours for plan in plans if plan.needs.gpus == gpus and plan.needs.hours is not None]
        if hours:
            text = hours_text(sum(hours), gpus=gpus)
            found.append(text if text.startswith("<") else f"~{text}")
    for currency in sorted({plan.needs.currency for plan in plans if plan.needs.cost is not None}):
        amounts = [p.needs.cost for p in plans if p.needs.cost is not None and p.needs.currency == currency]
        found.append(money(sum(amounts), currency))
    unknown = sum(1 for plan in plans if plan.needs.hours is None)
    if unknown:
        found.append(f"how long is not known for {unknown}")
    return ", ".join(found)
