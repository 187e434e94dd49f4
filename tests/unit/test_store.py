"""The run store: one run a content, whoever asks and however often; nothing half-made; only the user can read it."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.store import files, home
from pulumi_tfjobs.store.runs import RunStore
from pulumi_tfjobs.store.schema import SCHEMA_VERSION
from tests.helpers.store_workers import as_nobody, at_once, reserve_and_attempt

DIGEST = "a" * 64
RECORD: dict[str, Any] = {"inputs": {"entryScript": "train.py"}, "target": {"kind": "local"}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    created = RunStore(str(tmp_path / "stores" / "default"))
    yield created
    created.close()


def reserve(store: RunStore, name: str = "mnist", digest: str = DIGEST, urn: str = "urn:a") -> Any:
    return store.reserve(f"{name}-{digest[:12]}", digest, name, RECORD, urn)


# Reserving


def test_a_reservation_leaves_a_record_and_folders_that_only_the_user_can_read(store: RunStore) -> None:
    run = reserve(store)
    folder = store.folder(run.run_id)
    assert run.status == "pending"
    assert run.attempts == 0
    for path in (store.root, folder.root, folder.outputs, folder.checkpoints, folder.logs):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700, path
    for path in (folder.record, *(str(path) for path in Path(store.root).glob("index.db*"))):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path
    record = json.loads(Path(folder.record).read_text())
    assert record == {**RECORD, "runId": run.run_id, "digest": DIGEST, "job": "mnist", "created": run.created}
    assert store.record(run.run_id) == record


def test_the_same_content_is_one_run_whatever_its_name(store: RunStore) -> None:
    first = reserve(store)
    again = reserve(store, name="renamed", urn="urn:b")
    assert again == first._replace(references=2)
    assert [run.run_id for run in store.runs()] == [first.run_id]
    assert store.references(first.run_id) == ["urn:a", "urn:b"]
    assert os.listdir(os.path.join(store.root, "runs")) == [first.run_id]
    assert store.by_digest(DIGEST) == store.get(first.run_id) == again


def test_many_processes_at_once_make_one_run_and_one_attempt(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    answers = at_once(reserve_and_attempt, [(root, index) for index in range(6)])
    assert len({(run_id, created) for run_id, created, _ in answers}) == 1
    assert [attempt for _, _, attempt in answers] == [1] * 6
    store = RunStore(root)
    (run,) = store.runs()
    assert run.run_id == answers[0][0]
    assert run.attempts == 1
    assert store.references(run.run_id) == [f"urn-{index}" for index in range(6)]
    assert store.folder(run.run_id).attempts() == [1]
    assert len(os.listdir(os.path.join(root, "runs"))) == 1
    store.close()


def test_a_new_index_that_somebody_else_is_just_making_is_waited_for(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite answers so at once, without its own waiting, where two turn a new file to WAL at the same moment.
    refusals = [3]

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if "journal_mode" in sql and refusals[0]:
                refusals[0] -= 1
                raise sqlite3.OperationalError("database is locked")
            return super().execute(sql, *parameters)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **keywords: connect(*args, **keywords, factory=Connection))
    assert reserve(store).attempts == 0
    assert refusals == [0]


def test_an_index_that_stays_locked_is_a_message(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve(store)
    monkeypatch.setattr("pulumi_tfjobs.store.database.BUSY_SECONDS", 0.02)
    other = RunStore(store.root)
    with store._writing(), pytest.raises(StoreError, match="database is locked"):
        reserve(other, digest="b" * 64)
    other.close()


def test_a_second_process_sees_what_the_first_one_reserved(store: RunStore) -> None:
    run = reserve(store)
    other = RunStore(store.root)
    assert other.get(run.run_id) == run
    other.close()


def test_a_failing_write_leaves_no_run_behind(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, value: Any, **_: bool) -> None:
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr("pulumi_tfjobs.store.runs.write_json", full)
        with pytest.raises(StoreError, match=r"No space left on device.*free disk space"):
            reserve(store)
    assert store.runs() == []
    assert reserve(store).attempts == 0


# Attempts


def test_whoever_comes_second_gets_the_attempt_of_the_first(store: RunStore) -> None:
    run = reserve(store)
    assert store.add_attempt(run.run_id, 0) == 1
    assert store.add_attempt(run.run_id, 0) == 1
    assert store.add_attempt(run.run_id, 1) == 2
    assert store.add_attempt(run.run_id, 0) == 2
    found = store.get(run.run_id)
    assert found is not None
    assert found.attempts == 2
    assert store.folder(run.run_id).attempts() == [1, 2]


def test_an_attempt_of_no_run_is_an_error(store: RunStore) -> None:
    reserve(store)
    with pytest.raises(StoreError):
        store.add_attempt("nothing-000000000000", 0)


# References, status, removal


def test_references_are_counted(store: RunStore) -> None:
    run = reserve(store)
    reserve(store, urn="urn:b")
    assert store.drop_reference(run.run_id, "urn:c") == 2
    assert store.drop_reference(run.run_id, "urn:a") == 1
    assert store.drop_reference(run.run_id, "urn:a") == 1
    assert store.drop_reference(run.run_id, "urn:b") == 0
    assert store.get(run.run_id) is not None


def test_status_is_kept_for_listings(store: RunStore) -> None:
    run = reserve(store)
    store.set_status(run.run_id, "succeeded", 12.5)
    found = store.get(run.run_id)
    assert found is not None
    assert (found.status, found.finished) == ("succeeded", 12.5)
    store.set_status(run.run_id, "running", None)
    found = store.get(run.run_id)
    assert found is not None
    assert (found.status, found.finished) == ("running", None)


def test_removing_forgets_the_run_its_references_and_its_files(store: RunStore) -> None:
    run = reserve(store)
    store.add_attempt(run.run_id, 0)
    Path(store.folder(run.run_id).outputs, "model").write_text("weights")
    store.remove(run.run_id)
    assert store.get(run.run_id) is None
    assert store.references(run.run_id) == []
    assert os.listdir(os.path.join(store.root, "runs")) == []
    anew = reserve(store)
    assert anew.attempts == 0
    assert os.listdir(store.folder(anew.run_id).outputs) == []


def test_removing_what_is_not_there_is_no_error(store: RunStore) -> None:
    run = reserve(store)
    store.remove("nothing-000000000000")
    assert store.get(run.run_id) is not None


# Reading


def test_reading_creates_nothing(store: RunStore) -> None:
    assert store.get("x") is None
    assert store.by_digest(DIGEST) is None
    assert store.runs() == []
    assert store.references("x") == []
    assert store.record("x") is None
    assert not os.path.lexists(store.root)


def test_a_newer_store_is_refused_with_what_to_do(store: RunStore) -> None:
    reserve(store)
    store.close()
    with sqlite3.connect(os.path.join(store.root, "index.db")) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match=r"newer pulumi_tfjobs .*Update pulumi_tfjobs.*TFJOBS_HOME"):
        store.runs()
    with pytest.raises(StoreError, match="newer"):
        reserve(store)
    # Nothing of it was changed.
    with sqlite3.connect(os.path.join(store.root, "index.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
        assert connection.execute("SELECT COUNT(*) FROM runs").fetchone() == (1,)
    connection.close()


def test_a_damaged_index_is_said_to_be_damaged(store: RunStore) -> None:
    reserve(store)
    store.close()
    for path in Path(store.root).glob("index.db*"):
        path.write_bytes(b"this is no database, and it is long enough to be seen as one" * 20)
    with pytest.raises(StoreError, match=r"index of the run store .* is damaged .*restore it from a backup"):
        store.runs()


def test_a_folder_that_cannot_be_written_is_a_message_not_a_traceback(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)

    def attempt() -> str:
        try:
            reserve(RunStore(str(closed / "store")))
        except StoreError as error:
            return str(error)
        return "nothing was said"

    message = as_nobody(attempt)
    assert str(closed / "store") in message
    assert "Permission denied" in message
    assert "TFJOBS_HOME" in message
    assert os.listdir(closed) == []


def test_a_file_in_the_place_of_the_store_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="TFJOBS_HOME"):
        reserve(RunStore(str(tmp_path / "store")))


@pytest.mark.parametrize("text", ["", '{"inputs": {"entryScr', "[]", "{}", "[" * 100_000], ids=range(5))
def test_a_half_written_record_is_an_error_and_never_an_empty_state(store: RunStore, text: str) -> None:
    run = reserve(store)
    Path(store.folder(run.run_id).record).write_text(text)
    with pytest.raises(StoreError, match=r"record of the run mnist-a+ is missing or damaged .*To fix: "):
        store.record(run.run_id)
    reserve(store)  # `pulumi up` writes it again, as the message says
    names = {"runId": run.run_id, "digest": DIGEST, "job": "mnist", "created": run.created}
    assert store.record(run.run_id) == {**RECORD, **names}


def test_a_run_whose_folder_was_deleted_can_be_reserved_again(store: RunStore) -> None:
    run = reserve(store)
    store.add_attempt(run.run_id, 0)
    files_of_run = Path(store.folder(run.run_id).root)
    for path in sorted(files_of_run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    files_of_run.rmdir()
    assert store.record(run.run_id) is None
    again = reserve(store, name="other")
    assert again.run_id == run.run_id
    record = store.record(run.run_id)
    assert record is not None
    assert record["job"] == "mnist"
    assert os.path.isdir(store.folder(run.run_id).checkpoints)


# Files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": [1, 2, object()]})
    assert files.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_file_that_is_not_there_or_no_json_is_none(tmp_path: Path) -> None:
    (tmp_path / "half").write_text('{"a": ')
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "half", "binary", "half/below"):
        assert files.read_json(str(tmp_path / name)) is None


def test_a_folder_is_made_with_its_parents_and_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    files.make_folder(str(tmp_path / "a" / "b" / "c"))
    files.make_folder(str(tmp_path / "a" / "b" / "c"))
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        files.make_folder(str(tmp_path / "file"))


def test_the_home_is_chosen_by_the_variable_else_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFJOBS_HOME", "~/runs")
    assert home.store_root("default") == str(tmp_path / "runs" / "stores" / "default")
    monkeypatch.setenv("TFJOBS_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert home.home() == str(tmp_path / "data" / "tfjobs")
