"""``tfjobs runs``: which runs there are and how they are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pulumi_tfjobs.cli.common import JsonOption, StoreOption, open_named, say_json, tell, wait_for

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle.listing import Listed
    from pulumi_tfjobs.store.runs import Query

LIMIT = 50
# A narrower terminal shows no column for the job: the run's id begins with it.
_WITH_JOB = 100


def add_to(app: typer.Typer) -> None:
    """Add the commands to the others."""
    app.command("runs")(runs)


def runs(
    job: Annotated[str | None, typer.Option("--job", metavar="NAME", help="Only runs of this job.")] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="Only these (give it several times).")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="AGE", help="Only those at most so old: 45m, 12h, 3d, 2w.")
    ] = None,
    older: Annotated[str | None, typer.Option("--older", metavar="AGE", help="Only those older than that.")] = None,
    digest: Annotated[str, typer.Option("--digest", metavar="PREFIX", help="Only those whose digest begins so.")] = "",
    prefix: Annotated[str, typer.Option("--prefix", metavar="PREFIX", help="Only those whose id begins so.")] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The newest N.")] = LIMIT,
    everything: Annotated[bool, typer.Option("--all", help="All of them, without a limit.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List the runs of a store, the newest first."""
    from pulumi_tfjobs.lifecycle.listing import list_runs

    query = _query(job, status, since, older, digest, prefix, None if everything else limit)
    opened = open_named(store)
    rows = wait_for(list_runs(opened, query))
    now = time.time()
    if as_json:
        say_json([_json(row, opened.references(row.run.run_id) if row.run.references else [], now) for row in rows])
        return
    if not rows:
        known = opened.exists() and opened.counts()
        tell(f"no run of the store {opened.root} is asked for so" if known else f"no runs yet in {opened.root}")
        return
    _show(rows, now)
    if query.limit is not None and len(rows) == query.limit:
        tell(f"The newest {query.limit}; --limit N or --all shows more")
    troubles = [row for row in rows if row.trouble]
    if troubles:
        tell(f"? as it was noted last, its target could not be asked: {troubles[0].trouble}")


def _query(
    job: str | None,
    status: list[str] | None,
    since: str | None,
    older: str | None,
    digest: str,
    prefix: str,
    limit: int | None,
) -> Query:
    from pulumi_tfjobs.cli.texts import parse_age, parse_statuses
    from pulumi_tfjobs.errors import InputProblem, InvalidInputs
    from pulumi_tfjobs.store.runs import Query

    problems: list[InputProblem] = []
    now = time.time()
    newest = parse_age(since, "--since", problems) if since is not None else None
    oldest = parse_age(older, "--older", problems) if older is not None else None
    statuses = parse_statuses(status, problems)
    if problems:
        raise InvalidInputs(problems)
    return Query(
        job,
        statuses,
        prefix,
        digest.lower(),
        None if newest is None else now - newest,
        None if oldest is None else now - oldest,
        limit,
    )


def _show(rows: list[Listed], now: float) -> None:
    from pulumi_tfjobs.cli.table import Table, width
    from pulumi_tfjobs.cli.texts import age_text

    columns = width()
    job = ("JOB",) if columns is None or columns >= _WITH_JOB else ()
    numbers = ("TRY", "AGE", "TIME", "REFS")
    table = Table(
        "RUN", *job, "STATUS", "TRY", "AGE", "TIME", "METRIC", "REFS", right=numbers, whole=("RUN", "STATUS", *numbers)
    )
    for row in rows:
        run = row.run
        table.add(
            run.run_id,
            *([run.job] if job else []),
            _status(row),
            str(row.attempt or "–"),
            age_text(now - run.created),
            _time(row, now),
            run.metric,
            f"{run.references}{'*' if run.protected else ''}",
        )
    table.show()
    if any(row.run.protected for row in rows):
        tell("* protected: never removed")


def _status(row: Listed) -> str:
    from pulumi_tfjobs.cli.table import Cell
    from pulumi_tfjobs.cli.texts import STYLES, status_text

    return Cell(status_text(row.status, row.state) + ("?" if row.trouble else ""), STYLES.get(row.status, ""))


def _seconds(row: Listed, now: float) -> float | None:
    from pulumi_tfjobs.lifecycle.finding import seconds_of

    return None if row.trouble and row.run.finished is None else seconds_of(row.run, row.state, now)


def _time(row: Listed, now: float) -> str:
    from pulumi_tfjobs.observe import duration_text

    seconds = _seconds(row, now)
    return "–" if seconds is None else duration_text(seconds)


def _json(row: Listed, references: list[str], now: float) -> dict[str, Any]:
    from pulumi_tfjobs.cli.texts import iso, json_metric

    run, state = row.run, row.state
    seconds = _seconds(row, now)
    return {
        "runId": run.run_id,
        "job": run.job,
        "digest": run.digest,
        "status": row.status,
        "reason": row.trouble or (state.reason if state is not None else ""),
        "queuePosition": state.queue_position if state is not None else None,
        "attempt": row.attempt,
        "createdAt": iso(run.created),
        "startedAt": iso(run.started if state is None else state.started_at),
        "finishedAt": iso(run.finished if state is None else state.finished_at),
        "durationSeconds": None if seconds is None else round(seconds, 3),
        "metric": json_metric(run.metric),
        "references": references,
        "protected": run.protected,
    }
