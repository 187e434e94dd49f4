"""A store as a preview sees it: whatever state its index is in, it is read, and not one byte beside it is written."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.store import database, peek
from pulumi_tfjobs.store.peek import PeekStore
from pulumi_tfjobs.store.runs import RunStore
from pulumi_tfjobs.store.schema import SCHEMA_VERSION
from tests.helpers.jobs import tree
from tests.helpers.store_workers import as_nobody
from tests.unit.test_store_index import first_version, open_to_all, read_only

DEADLINE = 60.0
ANSWERS = 40
RECORD = {"inputs": {}, "target": {"kind": "local"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[RunStore]:
    store = RunStore(str(root))
    yield store
    store.close()


@pytest.fixture
def peeking(root: Path) -> Iterator[PeekStore]:
    peeking = PeekStore(str(root))
    yield peeking
    peeking.close()


def reserve(store: RunStore, name: str = "mnist", digest: str = "a" * 64) -> Any:
    return store.reserve(f"{name}-{digest[:12]}", digest, name, dict(RECORD), "urn:a")


def listing(root: Path) -> dict[str, Any]:
    """Everything below, with all that a look at it could change: contents, times, sizes, inodes."""
    stats = {str(path.relative_to(root)): path.lstat() for path in [root, *root.rglob("*")]} if root.exists() else {}
    facts = {name: (s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino, s.st_mode) for name, s in stats.items()}
    return {"facts": facts, "content": tree(root)}


def ask_everything(store: RunStore) -> None:
    store.exists()
    store.runs()
    store.get("mnist-aaaaaaaaaaaa")
    store.by_digest("a" * 64)
    store.counts()
    store.references("mnist-aaaaaaaaaaaa")
    store.refers_later("mnist-aaaaaaaaaaaa", "urn:a")
    store.sources_in_use()
    store.problems()
    store.record("mnist-aaaaaaaaaaaa")


# Nothing is written


def no_store(root: Path) -> None:
    del root


def empty_folder(root: Path) -> None:
    root.mkdir()


def closed(root: Path) -> None:
    store = RunStore(str(root))
    reserve(store)
    store.close()


def with_log(root: Path, *, keep_shm: bool = True) -> None:
    """The index as a killed writer leaves it: what was written last is in the log only."""
    store = RunStore(str(root))
    reserve(store)
    copies = {name: (root / name).read_bytes() for name in os.listdir(root) if name.startswith("index.db")}
    store.close()
    assert copies["index.db-wal"]
    for name, content in copies.items():
        if keep_shm or not name.endswith("-shm"):
            (root / name).write_bytes(content)


def with_log_alone(root: Path) -> None:
    with_log(root, keep_shm=False)


def with_empty_log(root: Path) -> None:
    closed(root)
    (root / "index.db-wal").touch()


def older(root: Path) -> None:
    first_version(str(root), ("mnist",))


def lost(root: Path) -> None:
    closed(root)
    for path in root.glob("index.db*"):
        path.unlink()


def empty_index(root: Path) -> None:
    lost(root)
    (root / "index.db").touch()


STATES = [no_store, empty_folder, closed, with_log, with_log_alone, with_empty_log, older, lost, empty_index]


@pytest.mark.parametrize("state", STATES)
def test_nothing_is_written_whatever_state_the_index_is_in(root: Path, peeking: PeekStore, state: Any) -> None:
    state(root)
    before = listing(root)
    for _ in range(2):
        ask_everything(peeking)
    assert listing(root) == before
    expected = [] if state in {no_store, empty_folder} else ["mnist"]
    assert [run.job for run in peeking.runs()] == expected
    peeking.close()
    assert listing(root) == before


def test_nothing_is_written_beside_a_living_writer(root: Path, store: RunStore, peeking: PeekStore) -> None:
    reserve(store)
    before = listing(root)
    ask_everything(peeking)
    assert listing(root) == before
    assert [run.job for run in peeking.runs()] == ["mnist"]


@pytest.mark.parametrize("state", [closed, with_log, with_log_alone, older, lost])
def test_a_store_that_only_others_may_write_is_read(tmp_path: Path, state: Any) -> None:
    root = tmp_path / "store"
    state(root)
    open_to_all(root)
    read_only(str(root))
    before = listing(root)
    assert as_nobody(lambda: [run.job for run in PeekStore(str(root)).runs()]) == "['mnist']"
    assert listing(root) == before


@pytest.mark.parametrize("call", [reserve, lambda s: s.set_status("x", "failed", None), lambda s: s.remove("x")])
def test_it_cannot_be_written_through(root: Path, peeking: PeekStore, call: Any) -> None:
    closed(root)
    before = listing(root)
    with pytest.raises(AssertionError, match="writes nothing"):
        call(peeking)
    assert listing(root) == before


# What cannot be read is said


def test_a_damaged_index_is_said_to_be_damaged(root: Path, peeking: PeekStore) -> None:
    root.mkdir()
    (root / "index.db").write_bytes(b"this is no database at all" * 100)
    before = listing(root)
    with pytest.raises(StoreError, match="damaged"):
        peeking.runs()
    assert listing(root) == before


def test_a_newer_index_is_refused(root: Path, peeking: PeekStore) -> None:
    closed(root)
    with sqlite3.connect(root / "index.db") as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer"):
        peeking.runs()


def test_a_folder_that_may_not_be_read_is_a_message(tmp_path: Path) -> None:
    root = tmp_path / "store"
    closed(root)
    open_to_all(root)
    root.chmod(0)

    def ask() -> str:
        try:
            PeekStore(str(root)).runs()
        except StoreError as error:
            return f"StoreError: {error}"
        return "it was read"

    try:
        assert as_nobody(ask).startswith("StoreError: the run store")
    finally:
        root.chmod(0o700)


# What somebody else writes is seen


def test_each_commit_is_seen_by_the_next_question(store: RunStore, peeking: PeekStore) -> None:
    assert peeking.runs() == []
    for number in range(10):
        digest = f"{number:064x}"
        run = store.reserve(f"mnist-{number}", digest, "mnist", dict(RECORD), "urn:a")
        assert peeking.by_digest(digest) == run
        store.add_attempt(run.run_id, 0)
        store.set_status(run.run_id, "succeeded", 2.0, started=1.0, metric="accuracy 0.9")
        assert peeking.get(run.run_id) == store.get(run.run_id)
        store.drop_reference(run.run_id, "urn:a")
        assert peeking.references(run.run_id) == []


def test_a_commit_that_leaves_sizes_and_times_as_they_were_is_seen(
    root: Path, store: RunStore, peeking: PeekStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file's time goes on in steps of milliseconds, and a log that was taken over into the index is written again
    # from its start: two commits of one moment look the same from outside.
    run = reserve(store)
    for status in ("running", "stopping", "running", "stopping"):
        store.set_status(run.run_id, status, None)
    assert store._connection is not None
    store._connection.execute("PRAGMA wal_checkpoint(RESTART)")
    log = root / "index.db-wal"
    sleep = time.sleep
    again = ["interrupted"]

    def commit_again(seconds: float) -> None:
        looks = log.stat()
        while again:
            store.set_status(run.run_id, again.pop(), None)
            os.utime(log, ns=(looks.st_atime_ns, looks.st_mtime_ns))
            assert log.stat().st_size == looks.st_size
        sleep(seconds)

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", commit_again)
        store.set_status(run.run_id, "failed", None)
        seen = peeking.get(run.run_id)
    if again:  # it took longer than a step until it was asked
        commit_again(0)
    else:
        assert seen is not None
        assert seen.status == "interrupted"
    assert again == []


def test_an_index_that_does_not_change_is_read_once(
    root: Path, peeking: PeekStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_log(root)
    for path in root.glob("index.db*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    copies = []
    copy = database.copy_to_memory

    def counted(*args: Any, **keywords: Any) -> sqlite3.Connection:
        copies.append(args)
        return copy(*args, **keywords)

    monkeypatch.setattr(database, "copy_to_memory", counted)
    for _ in range(5):
        ask_everything(peeking)
    assert len(copies) == 1


def test_a_store_that_is_made_and_one_that_is_put_in_its_place_are_seen(
    tmp_path: Path, root: Path, peeking: PeekStore
) -> None:
    assert not peeking.exists()
    assert peeking.runs() == []
    closed(root)
    assert [run.job for run in peeking.runs()] == ["mnist"]
    other = RunStore(str(tmp_path / "other"))
    reserve(other, "resnet", "b" * 64)
    other.close()
    root.rename(tmp_path / "away")
    (tmp_path / "other").rename(root)
    assert [run.job for run in peeking.runs()] == ["resnet"]


# While somebody writes


def test_a_log_that_goes_away_while_it_is_copied_is_no_trouble(
    store: RunStore, peeking: PeekStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve(store)
    has_content = database._has_content

    def closed_just_then(path: str) -> bool:
        found = has_content(path)
        store.close()  # the last one that closes takes the log away
        return found

    monkeypatch.setattr(database, "_has_content", closed_just_then)
    assert [run.job for run in peeking.runs()] == ["mnist"]


def write_until_told(root: str, ready: Event, stop: Event) -> None:
    """Pairs of runs: whoever sees one without the other has seen half a transaction. The store is closed and opened
    again and again, so that its log comes and goes."""
    number = 0
    while not stop.is_set():
        store = RunStore(root)
        for _ in range(3):
            with store._writing() as connection:
                for half in ("left", "right"):
                    connection.execute(
                        "INSERT INTO runs (run_id, digest, job, created, metric) VALUES (?, ?, ?, ?, ?)",
                        (f"{half}-{number}", f"{half}{number}", half, float(number), "x" * 2000),
                    )
                connection.execute("DELETE FROM runs WHERE created < ?", (float(number - 20),))
            number += 1
        if number % 9 == 0:
            assert store._connection is not None
            store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.close()
        ready.set()


@pytest.mark.parametrize("careful", [False, True])
def test_beside_a_writer_no_answer_is_torn(root: Path, careful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if careful:  # as if it were always in the middle of being written
        monkeypatch.setattr(peek, "_TRIES", 0)
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    writer = context.Process(target=write_until_told, args=(str(root), ready, stop))
    writer.start()
    newest = [0.0, 0.0]
    troubles: list[BaseException] = []

    def read(index: int) -> None:
        try:
            peeking = PeekStore(str(root))
            for _ in range(ANSWERS):
                runs = peeking.runs()
                assert peeking.problems() == []
                numbers = [sorted(run.created for run in runs if run.job == half) for half in ("left", "right")]
                assert numbers[0] == numbers[1]
                assert numbers[0][-1] >= newest[index]
                newest[index] = numbers[0][-1]
            peeking.close()
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            troubles.append(error)

    try:
        assert ready.wait(DEADLINE)
        threads = [threading.Thread(target=read, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert writer.is_alive()
    finally:
        stop.set()
        writer.join(DEADLINE)
        writer.kill()
    assert troubles == []
    assert writer.exitcode == 0
    assert min(newest) > 0
