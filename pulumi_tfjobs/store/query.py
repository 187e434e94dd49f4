"""Rows of the index, and questions for them that an index of SQLite answers."""

from __future__ import annotations

from typing import Any, NamedTuple


class Run(NamedTuple):
    """A row of the index. Times are seconds since the epoch; ``attempts`` is the number of the last one, 0 for none.

    ``protected``: never removed. ``started``, ``metric`` (``accuracy 0.98``): as they were when the status was noted.
    ``references``: how many resources refer to it. ``number`` grows with each new run, whatever the clock says.
    """

    run_id: str
    digest: str
    job: str
    status: str
    created: float
    finished: float | None
    attempts: int
    protected: bool = False
    started: float | None = None
    metric: str = ""
    references: int = 0
    number: int = 0


SELECT = """
SELECT run_id, digest, job, status, created, finished,
       (SELECT COALESCE(MAX(number), 0) FROM attempts WHERE attempts.run_id = runs.run_id),
       protected, started, metric,
       (SELECT COUNT(*) FROM refs WHERE refs.run_id = runs.run_id),
       rowid
FROM runs
"""


class Query(NamedTuple):
    """Which runs: each field that is set narrows them. ``prefix`` is of the run id, ``digest`` a prefix of the digest;
    ``since`` and ``before`` bound the time at which it was reserved. At most ``limit`` of them, the newest."""

    job: str | None = None
    statuses: tuple[str, ...] = ()
    prefix: str = ""
    digest: str = ""
    since: float | None = None
    before: float | None = None
    limit: int | None = None


def compose(query: Query) -> tuple[str, list[Any]]:
    """The SQL of a question, newest first, and its parameters."""
    terms: list[str] = []
    values: list[Any] = []
    if query.job is not None:
        terms.append("job = ?")
        values.append(query.job)
    if query.statuses:
        terms.append(f"status IN ({', '.join('?' * len(query.statuses))})")
        values += query.statuses
    for column, prefix in (("run_id", query.prefix), ("digest", query.digest)):
        if prefix:
            # A range, not LIKE: it uses the index, and knows no wildcards.
            terms.append(f"{column} >= ? AND {column} < ?")
            values += [prefix, prefix + "\U0010ffff"]
    if query.since is not None:
        terms.append("created >= ?")
        values.append(query.since)
    if query.before is not None:
        terms.append("created < ?")
        values.append(query.before)
    where = f"WHERE {' AND '.join(terms)} " if terms else ""
    limit = ""
    if query.limit is not None:
        limit = " LIMIT ?"
        values.append(query.limit)
    # By insertion: a clock that was set back must not turn the order around.
    return f"{SELECT}{where}ORDER BY rowid DESC{limit}", values
