"""The report as a comment on a pull request: short, the important first, nothing in it that a forge would act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

from pulumi_tfjobs.plan import describing
from pulumi_tfjobs.report.guessing import UNTOLD
from pulumi_tfjobs.report.model import (
    Job,
    Report,
    cost_of,
    duration_of,
    files_of,
    is_file,
    reason_of,
    replaced,
    value_text,
    warnings_of,
)

LIMIT = 60_000  # GitHub takes 65,536 characters
_CELL = 200  # characters of a text in a table
_TEXT = 600  # of one in a list
_DIFF_LINES = 80  # of a file
_DIFF = 6_000  # characters of it
_TAIL = 2_000  # of a log's last lines
_SHORT = 3  # lines of an error that are shown as one
_ROWS = 10  # jobs that stay as they are in the table; more are folded
_LISTED = 30  # things in a list
_RESERVE = 400  # for what is said of what was left out

# Numeric character references are text to Markdown whatever they stand for; a table's cells are split before they are
# read. Letters, digits and harmless signs stay as they are.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~&!$%^\"']")
_BLOCK = re.compile(r"\A(\d*)([-+.)])(?=\s|\Z)")  # what would begin a list or a heading
# @user, #1, !2, https://, www.: a space of no width breaks what forges look for in the finished text.
_CALLS = re.compile(r"(?<=[@#!~%$&])(?=\w)|(?<=\bGH-)(?=\d)|(?<=:)(?=//)|(?<=\bwww)(?=\.)", re.IGNORECASE)
_BLANK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# What turns text around or hides it: a reviewer must see it.
_HIDDEN = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]|[\ud800-\udfff]")
_BADGES = {
    "train": "🟢 new",
    "retrain": "🟠 retrain",
    "resume": "🔵 resume",
    "attempt": "🔴 attempt",
    "reuse": "♻️ reuse",
    "attach": "⏳ attach",
    "unknown": "❔ unknown",
    "metadata": "🏷️ metadata",
    "nothing": "⚪ nothing",
    "delete": "➖ removed",
}


def marker(report: Report) -> str:
    """The hidden first line by which a stack's comment is found again."""
    return f"<!-- tfjobs-report: {quote(report.project, safe='')}/{quote(report.stack, safe='')} -->"


def visible(text: str) -> str:
    """The text with what hides or turns text around written out."""
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def inline(text: str, most: int = _CELL) -> str:
    """The text as text: no markup, no mention, no link, no line end, at most so long."""
    text = visible(_BLANK.sub(" ", text[: 4 * most])).strip()  # what is far longer is not read to its end
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    text = _CALLS.sub("\u200b", text)
    text = _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", text)
    return _BLOCK.sub(lambda found: f"{found[1]}&#{ord(found[2])};", text)


def code(text: str, most: int = _CELL) -> str:
    """The same in a typewriter's letters."""
    return f"<code>{inline(text, most)}</code>"


def fenced(text: str, language: str = "") -> str:
    """A block in which nothing means anything, whatever is in it."""
    text = visible(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", "", text.replace("\r\n", "\n"))).rstrip("\n")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def folded(summary: str, body: str) -> str:
    """What is opened with a click. ``summary`` is markup already."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


class _Part(NamedTuple):
    """A piece of a job's details that may be left out."""

    kind: str
    text: str


def render(report: Report, limit: int = LIMIT) -> str:
    """The whole comment, at most ``limit`` characters."""
    head = _head(report)
    left = limit - len(head) - _RESERVE
    left_out: dict[str, int] = {}

    def takes(text: str, kind: str) -> bool:
        nonlocal left
        if len(text) + 2 <= left:
            left -= len(text) + 2
            return True
        left_out[kind] = left_out.get(kind, 0) + 1
        return False

    # Every job's row before any job's details.
    title, rows = _table(report)
    left -= len(title)
    shown = [row for row in rows if takes(row, "rows of jobs")]
    table = f"{title}\n" + "\n".join(shown) if shown else ""
    idle = _idle(report)
    unchanged = folded(f"{len(idle)} jobs that stay as they are", _names(idle)) if idle else ""
    unchanged = unchanged if unchanged and takes(unchanged, "the list of unchanged jobs") else ""
    infrastructure = _infrastructure(report)
    infrastructure = infrastructure if infrastructure and takes(infrastructure, "the list of other resources") else ""
    parts: dict[int, list[_Part]] = {number: [] for number in range(len(report.jobs))}
    wrappers: dict[int, str] = {}
    # All changes before any plan, all plans before any diff.
    passes: tuple[Callable[[Job], Iterator[_Part]], ...] = (_changes, _plan, _diffs)
    for pieces in passes:
        for number, job in enumerate(report.jobs):
            for part in pieces(job):
                wrapper = _summary(job) if number not in wrappers else ""
                if takes(part.text + (folded(wrapper, "") if wrapper else ""), part.kind):
                    wrappers.setdefault(number, wrapper)
                    parts[number].append(part)
    details = [
        folded(wrappers[number], "\n\n".join(part.text for part in found))
        for number, found in parts.items()
        if number in wrappers
    ]
    blocks = [head, table, unchanged, *details, infrastructure]
    if left_out:
        what = ", ".join(f"{count} × {kind}" for kind, count in left_out.items())
        blocks.append(f"_Left out, for a comment has a limit: {what}. The report's page has all of it._")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _head(report: Report) -> str:
    lines = [marker(report), f"### {inline(report.title)}"]
    if report.headline:
        lines.append(f"**{inline(report.headline, _TEXT)}**")
    if report.done and report.total:
        lines.append(f"Planned: {inline(report.total, _TEXT)}")
    for text in report.errors[:5]:
        said = [line for line in text.splitlines() if line.strip()]
        if len(said) <= _SHORT:
            lines.append(f"> ❌ {inline(text, _TEXT)}")
        else:  # a traceback: its last line is what went wrong
            lines.append(f"> ❌ {inline(said[0])} {inline(said[-1], _TEXT)}")
            lines.append(folded("All of it", fenced(text[-_TAIL:])))
    warnings = warnings_of(report.jobs)
    lines += [f"> ⚠️ {code(job.plan.name, 80)}: {inline(text, _TEXT)}" for job, text in warnings[:10]]
    lines += [f"> ⚠️ {inline(text, _TEXT)}" for text in report.warnings[:5]]
    more = sum(max(0, len(said) - most) for said, most in ((report.errors, 5), (warnings, 10), (report.warnings, 5)))
    if more:
        lines.append(f"> and {more} more errors and warnings")
    if report.untold:
        lines.append(f"> ℹ️ {inline(UNTOLD[:1].upper() + UNTOLD[1:])}")
    return "\n\n".join(lines)


def _idle(report: Report) -> list[Job]:
    """Jobs of which there is nothing to say, where they are so many that they would hide the others."""
    found = [job for job in report.jobs if _is_idle(job)]
    return found if len(found) > _ROWS else []


def _is_idle(job: Job) -> bool:
    return job.klass == "nothing" and not job.failed and job.result is None


def _names(jobs: list[Job]) -> str:
    more = f" and {len(jobs) - 300} more" if len(jobs) > 300 else ""
    return ", ".join(inline(job.plan.name, 80) for job in jobs[:300]) + more


def _table(report: Report) -> tuple[str, list[str]]:
    idle = _idle(report)
    jobs = [job for job in report.jobs if not (idle and _is_idle(job))]
    if not jobs:
        return "", []
    if report.done:
        title = "| Job | Plan | What came of it | Took | Metric | Before |\n|:--|:--|:--|--:|:--|--:|"
        return title, [_result_row(job, report.now) for job in jobs]
    title = "| Job | Class | Why | Duration | Cost | Replaces |\n|:--|:--|:--|--:|--:|--:|"
    return title, [_plan_row(job, report.now) for job in jobs]


def _plan_row(job: Job, now: float) -> str:
    slots = f", {job.plan.needs.slots} {'GPU' if job.plan.needs.gpus else 'slot'}{'s' * (job.plan.needs.slots != 1)}"
    duration = duration_of(job) + (slots if job.plan.launches is not False and job.plan.needs.slots else "")
    sign = "❌ " if job.failed else ""
    badge = "⛔ cannot run" if job.refused else _BADGES[job.klass]
    return (
        f"| **{inline(job.plan.name, 80)}** | {badge} | {sign}{inline(reason_of(job, now))} "
        f"| {inline(duration)} | {inline(cost_of(job))} | {inline(replaced(job) or '–', 60)} |"
    )


def _result_row(job: Job, now: float) -> str:
    result = job.result
    status = "–"
    if result is not None:
        sign = "❌ " if job.failed else "✅ " if result.status == "succeeded" else ""
        status = f"{sign}{result.action}, {result.status}"
        if job.failed:
            status += f": {reason_of(job, now)}"
    elif job.errors:
        status = f"❌ {job.errors[0]}"
    main = next((metric for metric in job.metrics if metric.new is not None), None)
    new, old = "–", "–"
    if main is not None:
        judged = "" if main.better is None else " better" if main.better else " worse"
        new = f"{main.tag} {value_text(main.new, 4)}" + (f" ({main.delta}{judged})" if main.delta else "")
        old = value_text(main.old, 4)
    return (
        f"| **{inline(job.plan.name, 80)}** | {_BADGES[job.klass]} | {inline(status)} "
        f"| {inline(duration_of(job))} | {inline(new, 100)} | {inline(old, 60)} |"
    )


def _summary(job: Job) -> str:
    row = job.plan.row or job.plan.name
    return f"{code(row, _TEXT)}" if job.klass != "delete" else f"{code(f'{job.plan.name}  removed')}"


def _changes(job: Job) -> Iterator[_Part]:
    lines = [f"- ❌ {inline(text, _TEXT)}" for text in job.errors[:5]]
    if job.plan.reason and job.klass != "delete" and not job.plan.changes and not job.refused:
        lines.append(f"- {inline(job.plan.reason, _TEXT)}")
    files = files_of(job.plan)
    listed = [change for change in job.plan.changes if not is_file(change)]
    for change in listed[:_LISTED]:
        secret = "" if change.before or change.after else f" {change.reason}"
        lines.append(f"- {code(describing.change_text(change) + secret, _TEXT)}")
    if len(listed) > _LISTED:
        lines.append(f"- and {len(listed) - _LISTED} more changes")
    lines += [f"- {code(describing.file_line(file), _TEXT)}" for file in files[:_LISTED]]
    if len(files) > _LISTED:
        lines.append(f"- and {len(files) - _LISTED} more files")
    if job.plan.unknown:
        lines.append(f"- not known before the update: {inline(', '.join(job.plan.unknown), _TEXT)}")
    lines += [f"- {inline(note, _TEXT)}" for note in job.plan.notes[:_LISTED]]
    metrics = [metric for metric in job.metrics if metric.new is not None and job.result is not None][:_LISTED]
    if metrics:
        lines += ["", "| Metric | Before | After | Change |", "|:--|--:|--:|:--|"]
        for metric in metrics:
            judged = "" if metric.better is None else " better" if metric.better else " worse"
            lines.append(
                f"| {inline(metric.tag, 80)} | {inline(value_text(metric.old), 40)} "
                f"| {inline(value_text(metric.new), 40)} | {metric.delta or '–'}{judged} |"
            )
    if job.tail:
        lines += ["", fenced(job.tail[-_TAIL:])]
    if lines and (job.klass != "nothing" or job.failed or job.result is not None):
        yield _Part("lists of changes", "\n".join(lines))


def _plan(job: Job) -> Iterator[_Part]:
    plan = job.plan
    if plan.launches is False or not plan.needs.replicas:
        return
    software = f"{plan.environment.text}, {plan.environment.state}" if plan.environment.text else ""
    lines = [
        f"- {inline(text, _TEXT)}"
        for text in (
            plan.needs.replicas + (f", target {plan.target}" if plan.target else ""),
            software,
            describing.cost_text(plan),
            f"run {plan.run_id}" if plan.run_id else "",
        )
        if text
    ]
    for name, text in list(plan.tf_config.items())[:1]:
        lines += ["", f"TF&#95;CONFIG of {inline(name)}:", "", fenced(describing.readable(text)[:2_000], "json")]
    if plan.hostfile:
        lines += ["", "Hostfile:", "", fenced(plan.hostfile[:2_000])]
    yield _Part("plans", folded("Plan", "\n".join(lines)))


def _diffs(job: Job) -> Iterator[_Part]:
    for file in files_of(job.plan)[:200]:
        if not file.diff:
            continue
        lines = file.diff.splitlines()
        kept = "\n".join(lines[:_DIFF_LINES])[:_DIFF]
        more = len(lines) - kept.count("\n") - 1
        text = fenced(kept, "diff") + (f"\n\nand {more} more lines" if more > 0 else "")
        yield _Part("diffs of files", folded(code(describing.file_text(file)), text))


def _infrastructure(report: Report) -> str:
    if not report.resources:
        return ""
    rows = ["| | Type | Name | Changes |", "|:--|:--|:--|:--|"]
    for item in report.resources[: 3 * _LISTED]:
        changed = ", ".join(item.changed[:5]) + (f" and {len(item.changed) - 5} more" if len(item.changed) > 5 else "")
        rows.append(f"| {inline(item.op, 30)} | {code(item.type, 80)} | {inline(item.name, 80)} | {inline(changed)} |")
    if len(report.resources) > 3 * _LISTED:
        rows.append(f"| | | and {len(report.resources) - 3 * _LISTED} more | |")
    count = len(report.resources)
    return folded(f"{count} other resource{'' if count == 1 else 's'}", "\n".join(rows))
