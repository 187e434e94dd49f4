"""The index of a store: older ones are brought up to date, a lost one is made anew, and one that cannot be written is
still read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.store import schema
from pulumi_tfjobs.store.database import index_path
from pulumi_tfjobs.store.runs import Query, RunStore
from tests.helpers.store_workers import as_nobody, at_once, count_runs

RECORD: dict[str, Any] = {"inputs": {}, "target": {"kind": "local"}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    created = RunStore(str(tmp_path / "stores" / "default"))
    yield created
    created.close()


def reserve(store: RunStore, name: str = "mnist", digest: str = "a" * 64, urn: str = "urn:a") -> Any:
    return store.reserve(f"{name}-{digest[:12]}", digest, name, RECORD, urn)


def first_version(root: str, names: tuple[str, ...] = ("mnist", "resnet")) -> None:
    """A store as the first version of this package wrote it."""
    os.makedirs(root, mode=0o700)
    with sqlite3.connect(index_path(root)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in schema.STEPS[0].split(";"):
            connection.execute(statement)
        for number, name in enumerate(names):
            digest = f"{number:x}" * 64
            connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, 'succeeded', ?, 9.5)", (f"{name}-1", digest, name, 100.0 - number)
            )
            connection.execute("INSERT INTO refs VALUES (?, 'urn:a')", (f"{name}-1",))
            connection.execute("INSERT INTO attempts VALUES (?, 1, 5.0)", (f"{name}-1",))
            connection.execute("INSERT INTO attempts VALUES (?, 2, 6.0)", (f"{name}-1",))
        connection.execute("PRAGMA user_version = 1")
    connection.close()


def open_to_all(path: Path) -> None:
    """Let the folders above be passed by a user who is not root."""
    for folder in path.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)


def read_only(root: str) -> None:
    """The store as somebody else's, who lets everybody read it."""
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o555)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o444)


# Versions


def test_a_store_of_the_first_version_keeps_its_runs_references_and_attempts(store: RunStore) -> None:
    first_version(store.root)
    newest, oldest = store.runs()
    assert (newest.run_id, newest.status, newest.created, newest.finished) == ("resnet-1", "succeeded", 99.0, 9.5)
    assert (newest.attempts, newest.references, newest.protected, newest.metric) == (2, 1, False, "")
    assert oldest.run_id == "mnist-1"
    assert store.references("mnist-1") == ["urn:a"]
    store.protect(["mnist-1"], protected=True)
    store.remove("resnet-1")
    assert store.references("resnet-1") == []  # references go with their run still
    store.close()
    (left,) = RunStore(store.root).runs()
    assert left.protected


def test_many_processes_bring_a_store_up_to_date_once(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    first_version(root)
    assert at_once(count_runs, [(root,)] * 4) == [2] * 4


def test_bringing_it_up_to_date_is_done_wholly_or_not_at_all(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first_version(store.root)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", (schema.STEPS[0], schema.STEPS[1] + "; SELECT no_such_function()"))
        with pytest.raises(StoreError):
            store.runs()
    with sqlite3.connect(index_path(store.root)) as connection:
        assert schema.version_of(connection) == 1
        assert "protected" not in {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
    connection.close()
    assert len(store.runs()) == 2


# A lost index


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_an_index_that_was_lost_is_made_anew_of_the_records(store: RunStore, left: str) -> None:
    mnist, resnet = reserve(store), reserve(store, "resnet", "b" * 64)
    store.add_attempt(mnist.run_id, 0)
    store.add_attempt(mnist.run_id, 1)
    half = reserve(store, "half", "c" * 64)
    Path(store.folder(half.run_id).record).write_text('{"target": {"ki')
    os.mkdir(os.path.join(store.root, "runs", ".removed-x"))
    store.close()
    for path in Path(store.root).glob("index.db*"):
        path.unlink()
    if left == "an empty file":
        Path(index_path(store.root)).touch()
    again = {run.run_id: run for run in store.runs()}
    assert set(again) == {mnist.run_id, resnet.run_id}
    assert again[mnist.run_id].attempts == 2
    assert again[mnist.run_id].digest == mnist.digest
    assert abs(again[mnist.run_id].created - mnist.created) < 1e-3
    assert all(run.protected for run in again.values()), "who refers to them is not known any more"
    assert store.by_digest("a" * 64) == again[mnist.run_id]


# Order


def test_the_order_is_that_of_reserving_whatever_the_clock_does(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, now in enumerate((5000.0, 4000.0, 4500.0)):
        monkeypatch.setattr("pulumi_tfjobs.store.runs.time.time", lambda now=now: now)
        reserve(store, "mnist", f"{number}" * 64)
    assert [run.digest[0] for run in store.runs()] == ["2", "1", "0"]
    assert [run.digest[0] for run in store.search(Query(limit=2))] == ["2", "1"]


def test_a_question_narrows_by_all_that_it_names(store: RunStore) -> None:
    for number, name in enumerate(("mnist", "mnist", "resnet", "m_ist")):
        run = reserve(store, name, f"{number}a" * 32)
        store.set_status(run.run_id, "failed" if number == 1 else "succeeded", 1.0)

    def found(**query: Any) -> list[str]:
        return [run.run_id for run in store.search(Query(**query))]

    assert found(job="mnist") == ["mnist-1a1a1a1a1a1a", "mnist-0a0a0a0a0a0a"]
    assert found(job="mnist", statuses=("failed",)) == ["mnist-1a1a1a1a1a1a"]
    assert found(statuses=("failed", "cancelled")) == ["mnist-1a1a1a1a1a1a"]
    assert found(prefix="m_ist-3") == ["m_ist-3a3a3a3a3a3a"]
    assert found(prefix="m_") == ["m_ist-3a3a3a3a3a3a"]
    assert found(prefix="mnist-%") == []
    assert found(digest="2a2") == ["resnet-2a2a2a2a2a2a"]
    assert found(digest="2a2", prefix="mnist") == []
    times = {run.run_id: run.created for run in store.runs()}
    assert found(before=times["mnist-0a0a0a0a0a0a"]) == []
    assert len(found(since=times["mnist-0a0a0a0a0a0a"])) == 4
    assert found(limit=1) == ["m_ist-3a3a3a3a3a3a"]


# What cannot be written


@pytest.mark.parametrize("case", ["closed", "with its log", "of the first version"])
def test_a_store_that_can_only_be_read_is_read(tmp_path: Path, case: str) -> None:
    root = str(tmp_path / "seen")
    if case == "of the first version":
        first_version(root)
    else:
        store = RunStore(str(tmp_path / "made"))
        for name, digest in (("mnist-1", "1" * 64), ("resnet-1", "0" * 64)):
            store.reserve(name, digest, name.partition("-")[0], RECORD, "urn:a")
        if case == "closed":
            store.close()
        # As a backup has it: what was written last is in the log beside the index.
        shutil.copytree(store.root, root, ignore=shutil.ignore_patterns("*-shm"))
        store.close()
        assert os.path.exists(f"{index_path(root)}-wal") == (case == "with its log")
    open_to_all(tmp_path / "seen" / "x")
    read_only(root)
    before = {path: path.stat().st_mtime_ns for path in sorted(Path(root).rglob("*"))}

    def look() -> str:
        store = RunStore(root)
        names = [run.run_id for run in store.search(Query(limit=50))]
        try:
            store.protect(names, protected=True)
        except StoreError as error:
            return json.dumps([names, store.references("mnist-1"), str(error)])
        return "it could be written"

    names, references, message = json.loads(as_nobody(look))
    assert sorted(names) == ["mnist-1", "resnet-1"]
    assert references == ["urn:a"]
    assert "TFJOBS_HOME" in message
    assert {path: path.stat().st_mtime_ns for path in sorted(Path(root).rglob("*"))} == before


def test_a_full_disk_loses_nothing_and_can_be_read(store: RunStore) -> None:
    run = reserve(store)
    store.close()

    def look() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        store = RunStore(shared)
        names = [run.run_id for run in store.runs()]
        messages = []
        for work in (
            lambda: store.set_status(names[0], "failed", None),
            lambda: store.remove(names[0]),
            lambda: reserve(store, "other", "b" * 64),
        ):
            try:
                work()
            except StoreError as error:
                messages.append(str(error))
        return json.dumps([names, messages])

    # Whoever is not root must come to it, too.
    shared = store.root
    open_to_all(Path(shared) / "x")
    for folder, _, files in os.walk(shared):
        os.chmod(folder, 0o777)
        for name in files:
            os.chmod(os.path.join(folder, name), 0o666)
    names, messages = json.loads(as_nobody(look))
    assert names == [run.run_id]
    assert len(messages) == 3
    assert all("free disk space" in message for message in messages)
    assert store.get(run.run_id) is not None
    assert os.path.isdir(store.folder(run.run_id).outputs)
    assert store.record(run.run_id) is not None


def test_a_new_attempt_forgets_how_the_one_before_ended(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path / "store"))
    store.reserve("mnist-1", "d" * 64, "mnist", {"target": {"kind": "local"}}, "urn:a")
    store.add_attempt("mnist-1", 0)
    store.set_status("mnist-1", "failed", 5.0, started=4.0)
    store.add_attempt("mnist-1", 1)
    run = store.get("mnist-1")
    store.close()
    assert run is not None
    assert (run.status, run.started, run.finished, run.attempts) == ("pending", None, None, 2)
