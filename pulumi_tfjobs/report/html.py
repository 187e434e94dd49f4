"""The report as one page that needs nothing else: no script, no font, no picture from anywhere."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pulumi_tfjobs.plan import describing
from pulumi_tfjobs.plan.record import ChangeRecord, FileRecord
from pulumi_tfjobs.report.curves import HEIGHT, WIDTH, Chart, charts_of
from pulumi_tfjobs.report.guessing import UNTOLD
from pulumi_tfjobs.report.markdown import visible
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

BADGES = {
    "train": ("+", "new"),
    "retrain": ("↻", "retrain"),
    "resume": ("↷", "resume"),
    "attempt": ("!", "attempt"),
    "reuse": ("✓", "reuse"),
    "attach": ("…", "attach"),
    "unknown": ("?", "unknown"),
    "metadata": ("≈", "metadata"),
    "nothing": ("=", "nothing"),
    "delete": ("−", "removed"),
}
_DIFF_LINES = 2_000


class Tile(NamedTuple):
    """A number of the summary."""

    value: str
    label: str


class View(NamedTuple):
    """A job with what its part of the page shows. ``told``: whether there is more to say than its row does."""

    anchor: str
    told: bool
    job: Job
    charts: list[Chart]
    changes: list[ChangeRecord]
    files: tuple[FileRecord, ...]


def render(report: Report) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("pulumi_tfjobs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Text that hides or turns itself around is shown as what it is, wherever it is shown.
    environment.finalize = _shown
    environment.filters.update(value=value_text, span=describing.span, readable=_readable)
    environment.globals.update(
        badges=BADGES,
        width=WIDTH,
        height=HEIGHT,
        untold=UNTOLD,
        cost_of=cost_of,
        duration_of=duration_of,
        reason_of=reason_of,
        replaced=replaced,
        diff_lines=diff_lines,
        file_text=describing.file_text,
        cost_text=describing.cost_text,
        age=describing.age,
    )
    views = [
        View(
            f"job-{number}",
            job.klass != "nothing" or job.failed or bool(job.result or job.plan.notes or job.plan.warnings),
            job,
            charts_of(job),
            [change for change in job.plan.changes if not is_file(change)],
            files_of(job.plan),
        )
        for number, job in enumerate(report.jobs, 1)
    ]
    page = environment.get_template("report.html")
    made = datetime.fromtimestamp(report.now, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    text = page.render(report=report, views=views, tiles=tiles(report), warnings=warnings_of(report.jobs), made=made)
    return f"{text.strip()}\n"


def tiles(report: Report) -> list[Tile]:
    """The numbers on top."""
    jobs = [job for job in report.jobs if job.klass != "delete"]
    found = [Tile(str(len(jobs)), "job" if len(jobs) == 1 else "jobs")]
    if report.done:
        results = [job.result for job in jobs if job.result is not None]
        good = sum(1 for result in results if result.status == "succeeded" and result.action in {"launched", "waited"})
        bad = sum(1 for job in jobs if job.failed)
        reused = sum(1 for result in results if result.action == "reused")
        found += [Tile(str(good), "succeeded")]
        found += [Tile(str(bad), "failed")] if bad else []
        found += [Tile(str(reused), "reused")] if reused else []
        better = sum(1 for job in jobs for metric in job.metrics[:1] if metric.better)
        worse = sum(1 for job in jobs for metric in job.metrics[:1] if metric.better is False)
        found += [Tile(str(better), "better than before")] if better else []
        found += [Tile(str(worse), "worse than before")] if worse else []
        return found
    train = [job for job in jobs if job.launches]
    found.append(Tile(str(len(train)), "trains" if len(train) == 1 else "train"))
    reused = sum(1 for job in jobs if job.klass == "reuse")
    found += [Tile(str(reused), "reused")] if reused else []
    for gpus in (False, True):
        hours = [job.plan.needs.hours for job in train if job.plan.needs.gpus == gpus]
        known = [value for value in hours if value is not None]
        if known:
            number = describing.number(sum(known))
            sign = "≥ " if len(known) < len(hours) else "~"
            value = number if number.startswith("<") else f"{sign}{number}"
            found.append(Tile(value, "GPU-hours" if gpus else "slot-hours"))
    timeless = sum(1 for job in train if job.plan.needs.hours is None)
    found += [Tile(str(timeless), "of unknown duration")] if timeless else []
    costs: dict[str, float] = {}
    for job in train:
        if job.plan.needs.cost is not None:
            currency = job.plan.needs.currency
            costs[currency] = costs.get(currency, 0.0) + job.plan.needs.cost
    unpriced = any(job.plan.needs.cost is None for job in train)
    for currency, amount in sorted(costs.items()):
        text = describing.money(amount, "")
        found.append(Tile(f"≥ {text}" if unpriced and not text.startswith("<") else text, currency or "cost"))
    return found


def diff_lines(file: FileRecord) -> list[tuple[str, str, str]]:
    """(kind, sign, text) of a diff's lines, as the page colours them; the sign is there for those who see no colour."""
    found = []
    lines = file.diff.splitlines()
    # The names of the two files are above; a line that begins so later is one of the content.
    while lines and lines[0].startswith(("+++ ", "--- ")):
        del lines[0]
    for line in lines[:_DIFF_LINES]:
        kind = {"+": "add", "-": "del", "@": "hunk"}.get(line[:1], "")
        sign = {"add": "+", "del": "−"}.get(kind, " ")
        found.append((kind, sign, line[1:] if kind in {"add", "del"} or line[:1] == " " else line))
    if len(lines) > _DIFF_LINES:
        found.append(("hunk", " ", f"and {len(lines) - _DIFF_LINES} more lines"))
    return found


def _readable(config: str) -> str:
    """A TF_CONFIG over several lines."""
    text = describing.readable(config)
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _shown(value: object) -> object:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(value.replace("\0", ""))
