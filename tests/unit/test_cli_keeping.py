"""`tfjobs gc`, `protect`, `unprotect` and `doctor`."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs import lifecycle
from pulumi_tfjobs.lifecycle.common import open_store
from pulumi_tfjobs.store.database import index_path
from tests.helpers.commands import Commands, LocalRuns, reserve
from tests.helpers.fake_target import World

DAY = 86400.0


@pytest.fixture
def tfjobs(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.fixture
def runs(tmp_path: Path, home: Path) -> Iterator[LocalRuns]:
    created = LocalRuns(tmp_path / "jobs")
    yield created
    created.close()


def left() -> list[str]:
    """The runs that there still are: those with a row and a folder."""
    store = open_store("default")
    names = [run.run_id for run in store.runs()]
    assert sorted(names) == sorted(os.listdir(os.path.join(store.root, "runs")))
    return names


def old(name: str, digest: str, days: float = 10, **fields: Any) -> str:
    ended = time.time() - days * DAY
    return reserve(name, digest, created=ended - 60, finished=ended, **fields)


# gc


def test_a_dry_run_says_what_would_go_and_removes_nothing(tfjobs: Commands, world: World) -> None:
    run_id = old("mnist", "aa", world=world)
    Path(open_store("default").folder(run_id).outputs, "model").write_bytes(bytes(100_000))
    answer = tfjobs("gc", "--older", "7d", "--dry-run")
    assert answer.code == 0
    assert run_id in answer.out
    assert "age" in answer.out
    assert "KiB" in answer.out
    assert left() == [run_id]
    assert tfjobs("gc", "--older", "11d", "--dry-run").out == ""


def test_without_a_terminal_nothing_goes_unless_yes_is_said(tfjobs: Commands, world: World) -> None:
    run_id = old("mnist", "aa", world=world)
    answer = tfjobs("gc", "--older", "7d")
    assert answer.code == 2
    assert "--yes" in answer.err
    assert left() == [run_id]
    answer = tfjobs("gc", "--older", "7d", "--yes")
    assert answer.code == 0
    assert "removed 1 of 1" in answer.out
    assert left() == []


def test_on_a_terminal_it_asks(tfjobs: Commands, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    old("mnist", "aa", world=world)
    monkeypatch.setattr("pulumi_tfjobs.cli.keeping.is_interactive", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    answer = tfjobs("gc", "--older", "7d")
    assert answer.code == 1
    assert "[y/N]" in answer.err
    assert len(left()) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert tfjobs("gc", "--older", "7d").code == 0
    assert left() == []


@pytest.mark.parametrize("rule", [("--older", "1d"), ("--keep", "0"), ("--max-size", "0")])
def test_what_is_needed_stays_whatever_the_rule(tfjobs: Commands, world: World, rule: tuple[str, ...]) -> None:
    kept = [
        old("referred", "aa", urn="urn:a", world=world),
        old("protected", "bb", world=world),
        old("living", "cc", status="running", world=world),
        old("queued", "dd", status="running"),
    ]
    world.states[kept[3], 1] = world.states[kept[2], 1]._replace(run_id=kept[3], phase="queued")
    open_store("default").protect(["protected-bb"], protected=True)
    gone = old("spare", "ee", world=world)
    answer = tfjobs("gc", *rule, "--yes")
    assert answer.code == 0
    assert gone in answer.out
    assert sorted(left()) == sorted(kept)


def test_one_whose_supervisor_is_gone_does_not_live(tfjobs: Commands, world: World) -> None:
    run_id = old("mnist", "aa", status="running")
    from pulumi_tfjobs.spec.state import RunState

    world.states[run_id, 1] = RunState(run_id, 1, "interrupted", finished_at=1.0)
    assert tfjobs("gc", "--status", "interrupted", "--yes").code == 0
    assert left() == []


def test_one_whose_target_does_not_answer_stays(tfjobs: Commands, world: World) -> None:
    run_id = old("mnist", "aa", status="running", world=world)
    world.unavailable = True
    answer = tfjobs("gc", "--older", "1d", "--yes")
    assert answer.code == 0
    assert f"{run_id} stays" in answer.err
    assert left() == [run_id]


def test_one_that_is_being_started_stays(tfjobs: Commands, world: World) -> None:
    run_id = old("mnist", "aa", status="failed", world=world)
    with open(os.path.join(open_store("default").folder(run_id).root, "start.lock"), "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        tfjobs("gc", "--older", "1d", "--yes")
        assert left() == [run_id]
    tfjobs("gc", "--older", "1d", "--yes")
    assert left() == []


def test_by_count_size_and_status_together(tfjobs: Commands, world: World) -> None:
    for number in range(4):
        run_id = old(
            "mnist", f"{number}0", days=9 - number, status="failed" if number == 0 else "succeeded", world=world
        )
        Path(open_store("default").folder(run_id).outputs, "model").write_bytes(os.urandom(1 << 20))
    assert tfjobs("gc", "--keep", "2", "--dry-run").out.count("mnist-") == 2
    answer = tfjobs("gc", "--max-size", "3.5M", "--yes")
    assert left() == ["mnist-30", "mnist-20", "mnist-10"]
    assert "size" in answer.out
    answer = tfjobs("gc", "--max-size", "1K", "--keep", "1", "--status", "failed", "--yes")
    assert len(left()) == 3
    assert "stays larger" in answer.err
    assert tfjobs("gc", "--keep", "1", "--yes").code == 0
    assert left() == ["mnist-30"]


def test_what_was_cut_off_is_finished_by_the_next_one(
    tfjobs: Commands, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        old("mnist", f"{number}0", world=world)
    store = open_store("default")
    with monkeypatch.context() as patch:
        # Killed once the first run's folder is put aside, and again before the second one is.
        patch.setattr("pulumi_tfjobs.store.runs.remove_tree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert tfjobs("gc", "--older", "1d", "--yes").code == 130
    assert any(name.startswith(".removed-") for name in os.listdir(os.path.join(store.root, "runs")))
    assert len(store.runs()) == 2
    assert tfjobs("gc", "--older", "1d", "--yes").code == 0
    assert left() == []


def test_a_killed_gc_leaves_whole_runs_or_none(tfjobs: Commands, world: World) -> None:
    for number in range(6):
        old("mnist", f"{number}0", world=world)
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        from pulumi_tfjobs.store.runs import RunStore

        try:
            other = RunStore(open_store("default").root)
            rename = os.rename

            def dies(old_name: str, new_name: str) -> None:
                rename(old_name, new_name)
                os.kill(os.getpid(), signal.SIGKILL)

            os.rename = dies  # type: ignore[assignment]
            other.remove_unused("mnist-00", 1)
        finally:
            os._exit(1)
    os.waitpid(pid, os.WUNTRACED)
    os.kill(pid, signal.SIGCONT)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    store = open_store("default")
    assert len(store.runs()) == 6, "what was not committed did not happen"
    assert tfjobs("runs").code == 0
    assert tfjobs("gc", "--older", "1d", "--yes").code == 0
    assert left() == []


def test_source_snapshots_of_no_run_go_even_without_a_rule(tfjobs: Commands, runs: LocalRuns) -> None:
    run_id = runs.make("print('hello')")
    store = open_store("default")
    (used,) = os.listdir(store.sources)
    os.mkdir(os.path.join(store.sources, "f" * 64))
    os.mkdir(os.path.join(store.root, "runs", ".removed-x-1-1"))
    assert tfjobs("gc", "--yes").code == 0
    assert os.listdir(store.sources) == [used]
    assert left() == [run_id]
    (urn,) = store.references(run_id)
    store.drop_reference(run_id, urn)
    assert tfjobs("gc", "--keep", "0", "--yes").code == 0
    assert os.listdir(store.sources) == []
    assert left() == []
    assert tfjobs("gc", "--yes").err.strip() == "nothing to remove"


def test_bad_rules_are_told_all_at_once(tfjobs: Commands) -> None:
    answer = tfjobs("gc", "--older", "x", "--max-size", "huge", "--status", "dead", "--environments", "y")
    assert answer.code == 2
    assert [line.split(":")[1].strip() for line in answer.err.splitlines()] == [
        "--older",
        "--max-size",
        "--status",
        "--environments",
    ]


def test_environments_that_nothing_has_used_for_long_go(
    tfjobs: Commands, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("PULUMI_TFJOBS_CACHE", str(cache))
    for name, age in (("old", 40), ("new", 1), ("held", 40)):
        folder = cache / "envs" / name
        folder.mkdir(parents=True)
        (folder / ".complete").write_text("{}")
        (folder / "package").write_bytes(bytes(9000))
        os.utime(folder / ".complete", (time.time() - age * DAY,) * 2)
    wheel = cache / "wheels" / "key"
    wheel.mkdir(parents=True)
    os.utime(wheel, (time.time() - 40 * DAY,) * 2)
    with open(cache / "envs" / "held.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        living = old("mnist", "aa", days=50, status="running", world=world)
        assert tfjobs("gc", "--environments", "30d", "--yes").err.strip() == "nothing to remove", living
        world.states[living, 1] = world.states[living, 1]._replace(phase="failed", finished_at=2.0)
        answer = tfjobs("gc", "--environments", "30d", "--yes")
    assert answer.code == 0
    assert sorted(path.name for path in (cache / "envs").iterdir() if path.is_dir()) == ["held", "new"]
    assert not wheel.exists()


# protect


def test_a_protected_run_stays_and_says_so_when_its_resource_goes(tfjobs: Commands, world: World) -> None:
    run_id = reserve("mnist", "aa", urn="urn:a", world=world)
    other = reserve("other", "bb", world=world)
    answer = tfjobs("protect", "mnist", "other")
    assert answer.code == 0
    assert answer.out.splitlines() == [f"{run_id} is protected", f"{other} is protected"]
    assert tfjobs("show", "mnist", "--json").json["protected"]
    said: list[str] = []
    import asyncio

    asyncio.run(
        lifecycle.delete(
            f"fake/default/{run_id}",
            urn="urn:a",
            inputs={"deleteArtifacts": True},
            progress=lambda line: said.append(line.text),
        )
    )
    assert any("protected" in text and f"tfjobs unprotect {run_id}" in text for text in said)
    assert sorted(left()) == [run_id, other]
    assert tfjobs("gc", "--keep", "0", "--yes").code == 0
    assert sorted(left()) == [run_id, other]
    assert tfjobs("unprotect", "mnist").code == 0
    assert tfjobs("gc", "--keep", "0", "--yes").code == 0
    assert left() == [other]


def test_none_is_protected_where_one_is_not_found(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", world=world)
    assert tfjobs("protect", "mnist", "nothing").code == 3
    assert not tfjobs("show", "mnist", "--json").json["protected"]


# release


def test_references_of_stacks_that_are_gone_can_be_dropped(tfjobs: Commands, world: World) -> None:
    run_id = old("mnist", "aa", urn="urn:pulumi:dev::project::job::mnist", world=world)
    store = open_store("default")
    record = store.record(run_id)
    assert record is not None
    store.reserve(run_id, "aa".ljust(64, "0"), "mnist", record, "urn:pulumi:prod::project::job::mnist")
    answer = tfjobs("release", "mnist", "--reference", ":dev:")
    assert (answer.code, answer.out) == (
        0,
        f"{run_id} is no longer referred to by urn:pulumi:dev::project::job::mnist\n",
    )
    tfjobs("gc", "--older", "1d", "--yes")
    assert left() == [run_id], "the other stack still refers to it"
    assert "nothing refers to" in tfjobs("release", "mnist", "--reference", ":dev:").err
    assert tfjobs("release", "mnist").code == 0
    tfjobs("gc", "--older", "1d", "--yes")
    assert left() == []


# doctor


def levels(answer: Any) -> dict[str, str]:
    return {check["name"]: check["level"] for check in answer.json}


def test_a_machine_that_is_well(tfjobs: Commands, world: World, home: Path) -> None:
    answer = tfjobs("doctor", "--json")
    assert answer.code == 0, answer.out
    assert "FAIL" not in levels(answer).values()
    assert not home.exists(), "looking changes nothing"
    for name in ("python", "uv", "plugin", "/proc", "pidfd", "loopback", "store", "locks", "index", "runs", "slots"):
        assert levels(answer)[name] == "ok", answer.out
    reserve("mnist", "aa", world=world)
    text = tfjobs("doctor")
    assert text.code == 0
    assert "1 runs (1 succeeded)" in text.out
    before = sorted(os.listdir(open_store("default").root))
    tfjobs("doctor")
    assert sorted(os.listdir(open_store("default").root)) == before


def test_a_damaged_index_fails_and_says_how_to_mend_it(tfjobs: Commands, world: World) -> None:
    run_id = reserve("mnist", "aa", world=world)
    store = open_store("default")
    store.close()
    for path in Path(store.root).glob("index.db*"):
        path.write_bytes(b"this is no database, and long enough to be seen as one" * 50)
    answer = tfjobs("doctor", "--json")
    assert answer.code == 1
    assert levels(answer)["index"] == "FAIL"
    assert levels(answer)["uv"] == "ok"
    found = next(check["found"] for check in answer.json if check["name"] == "index")
    assert "move index.db* away" in found
    for path in Path(store.root).glob("index.db*"):
        path.unlink()
    assert tfjobs("doctor", "--json").code == 0
    assert left() == [run_id]


def test_pages_of_the_index_that_are_torn_are_found(tfjobs: Commands, world: World) -> None:
    for number in range(200):
        reserve("mnist", f"{number:04x}", attempts=0, status="failed")
    store = open_store("default")
    with store._writing():
        pass
    store._open().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    with open(index_path(store.root), "r+b") as stream:
        stream.seek(4096 * 8)
        stream.write(bytes(4096 * 4))
    answer = tfjobs("doctor", "--json")
    assert answer.code == 1
    assert levels(answer)["index"] == "FAIL"


def test_runs_without_their_supervisor_or_folder_are_warned_of(tfjobs: Commands, runs: LocalRuns, world: World) -> None:
    script = "import time\nprint('began', flush=True)\nwhile True: time.sleep(0.01)"
    run_id = runs.make(script, wait="running")
    pid = runs.state(run_id).supervisor_pid
    assert pid is not None
    handle = os.pidfd_open(pid)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    assert select.select([handle], [], [], 60)[0]
    os.close(handle)
    shutil.rmtree(open_store("default").folder(reserve("gone", "aa", world=world)).root)
    answer = tfjobs("doctor", "--json")
    while levels(answer)["runs"] == "ok":  # its guardian is still at it; the test's own deadline ends this
        answer = tfjobs("doctor", "--json")
    assert answer.code == 0
    assert levels(answer)["runs"] == "warn"
    assert run_id in next(check["found"] for check in answer.json if check["name"] == "runs")
    assert levels(answer)["index"] == "warn"
    assert "gone-aa" in next(check["found"] for check in answer.json if check["name"] == "index")


def test_a_clock_that_was_set_back_is_noticed(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", created=time.time() + 3600, finished=time.time() + 3700, world=world)
    assert levels(tfjobs("doctor", "--json"))["clock"] == "warn"
    (run,) = tfjobs("runs", "--json").json
    assert run["status"] == "succeeded"
    assert " 0s " in tfjobs("runs").lines[1]


def test_a_store_that_is_open_to_others_is_warned_of(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", world=world)
    root = open_store("default").root
    os.chmod(root, 0o755)
    answer = tfjobs("doctor", "--json")
    check = next(check for check in answer.json if check["name"] == "store")
    assert (check["level"], check["fix"]) == ("warn", f"chmod 700 {root}")


def test_missing_tools_are_named_with_what_to_do(
    tfjobs: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PULUMI_TFJOBS_CACHE", str(tmp_path / "cache"))
    answer = tfjobs("doctor", "--json")
    told = {check["name"]: check for check in answer.json}
    assert told["pulumi"]["level"] == "warn"
    assert "install" in told["pulumi"]["fix"]
    assert told["horovod"]["level"] == "warn"
    assert "build-essential" in told["horovod"]["fix"]
    assert told["mpi"]["level"] == "ok"


def test_a_check_that_breaks_does_not_keep_the_others_from_being_made(
    tfjobs: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pulumi_tfjobs.cli import machine

    def breaks() -> Any:
        raise RuntimeError("what is this")

    monkeypatch.setitem(machine.CHECKS, "uv", breaks)
    answer = tfjobs("doctor", "--json")
    assert answer.code == 1
    assert levels(answer)["uv"] == "FAIL"
    assert levels(answer)["slots"] == "ok"
