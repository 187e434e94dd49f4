"""How long `tfjobs runs` takes where a store has 100,000 runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sqlite3
import time

from benchmarks.measure import Aim, Figure, interleaved
from benchmarks.plugin import Workplace
from benchmarks.tell import Tell
from pulumi_tfjobs.cli.app import run
from pulumi_tfjobs.lifecycle.common import open_store

RUNS = 100_000
JOBS = 200
SHOWN = 50
LIMIT_SECONDS = 0.3
_ENDED = ("succeeded",) * 7 + ("failed", "failed", "cancelled")

# What is asked for: the command's options, and the same question to a plain table that knows nothing else.
_ASKED = {
    "": ((), "1", ()),
    "_prefix": (("--prefix", "job-17-"), "run_id >= ? AND run_id < ?", ("job-17-", "job-17.")),
    "_digest": (("--digest", "c0f"), "digest >= ? AND digest < ?", ("c0f", "c0g")),
    "_job": (("--job", "job-42"), "job = ?", ("job-42",)),
    "_status": (("--status", "failed"), "status = ?", ("failed",)),
}
_WHAT = {
    "": "the newest 50",
    "_prefix": "those whose id begins so",
    "_digest": "those whose digest begins so",
    "_job": "those of a job",
    "_status": "those that failed",
}


def questions(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    """From the command's arguments to its table, the store opened anew; beside it the same rows of a plain table."""
    before = os.environ.get("TFJOBS_HOME")
    os.environ["TFJOBS_HOME"] = place.home
    try:
        return _measure(repeats, place, tell)
    finally:
        open_store("default").close()
        os.environ.pop("TFJOBS_HOME")
        if before is not None:
            os.environ["TFJOBS_HOME"] = before


def _measure(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
    tell(f"making {RUNS:,} runs")
    plain = _make(place)
    figures = []
    for name, (options, where, values) in _ASKED.items():
        samples = interleaved(
            repeats,
            {
                "ours": lambda _, options=options: _ours(options),
                "plain": lambda _, where=where, values=values: _plain(plain, where, values),
            },
            tell,
        )
        figures.append(
            Figure(
                f"store_100k{name}",
                f"`tfjobs runs` of {RUNS:,} runs, {_WHAT[name]}, inside the process; baseline: SELECT of a plain table",
                "s",
                samples["ours"],
                samples["plain"],
                Aim(value_at_most=LIMIT_SECONDS),
            )
        )
    return figures


def _rows() -> list[tuple[str, str, str, str, float, float]]:
    found = []
    for number in range(RUNS):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        job = f"job-{number % JOBS}"
        created = 1.7e9 + number
        found.append((f"{job}-{digest[:12]}", digest, job, _ENDED[number % len(_ENDED)], created, created + 60))
    return found


def _make(place: Workplace) -> str:
    """The store, and a database with the same rows and one index a question."""
    rows = _rows()
    store = open_store("default")
    store.reserve("first-000000000000", "0" * 64, "first", {"target": {"kind": "local"}}, "urn")
    with store._writing() as connection:  # noqa: SLF001 - a reservation each would take an hour
        connection.executemany(
            "INSERT INTO runs (run_id, digest, job, status, created, finished) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        connection.executemany("INSERT INTO attempts VALUES (?, 1, 0)", [(row[0],) for row in rows])
        connection.executemany("INSERT INTO refs VALUES (?, 'urn')", [(row[0],) for row in rows])
    plain = place.path("plain.db")
    with contextlib.closing(sqlite3.connect(plain)) as connection, connection:
        connection.execute("CREATE TABLE runs (run_id, digest, job, status, created, finished)")
        connection.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)", rows)
        for column in ("run_id", "digest", "job", "status"):
            connection.execute(f"CREATE INDEX by_{column} ON runs ({column})")
    return plain


def _ours(options: tuple[str, ...]) -> float:
    open_store("default").close()
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        code = run(["runs", *options])
    seconds = time.perf_counter() - began
    lines = out.getvalue().splitlines()
    if code or len(lines) < 2:
        raise SystemExit(f"tfjobs runs {' '.join(options)}: exit code {code}, {len(lines)} lines")
    return seconds


def _plain(path: str, where: str, values: tuple[str, ...]) -> float:
    began = time.perf_counter()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            f"SELECT * FROM runs WHERE {where} ORDER BY rowid DESC LIMIT {SHOWN}", values
        ).fetchall()
    if not rows:
        raise SystemExit(f"no rows: {where}")
    return time.perf_counter() - began
