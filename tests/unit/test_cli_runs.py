"""`tfjobs runs`, `show`, and how a run is named: no Pulumi project around, the truth asked of the target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.cli.common import complete_run
from pulumi_tfjobs.lifecycle.common import open_store
from pulumi_tfjobs.spec.state import ReplicaState, Restart
from tests.helpers.commands import PROGRAM, Commands, reserve
from tests.helpers.fake_target import World


@pytest.fixture
def tfjobs(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


def ids(answer: Any) -> list[str]:
    assert answer.code == 0
    return [run["runId"] for run in answer.json]


# runs


def test_an_empty_home_has_no_runs_and_stays_empty(tfjobs: Commands, home: Path) -> None:
    answer = tfjobs("runs")
    assert answer.code == 0
    assert answer.out == ""
    assert "no runs yet" in answer.err
    assert tfjobs("runs", "--json").json == []
    assert not home.exists()


def test_the_newest_run_comes_first_in_aligned_plain_text(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", world=world, finished=1.0)
    reserve("a-job-with-a-rather-long-name", "bb", status="failed", urn="urn:b", world=world, finished=1.0)
    open_store("default").protect(["mnist-aa"], protected=True)
    answer = tfjobs("runs")
    header, newest, oldest = answer.lines
    assert newest.split()[:3] == ["a-job-with-a-rather-long-name-bb", "a-job-with-a-rather-long-name", "failed"]
    assert oldest.split()[:3] == ["mnist-aa", "mnist", "succeeded"]
    column = header.index("STATUS")
    assert newest[column:].startswith("failed")
    assert oldest[column:].startswith("succeeded")
    assert (newest.split()[-1], oldest.split()[-1]) == ("1", "0*")
    assert "\x1b" not in answer.out
    assert not any(line.endswith(" ") for line in answer.lines)
    assert "never removed" in answer.err


def test_what_lives_is_asked_of_its_target_and_the_end_is_noted(tfjobs: Commands, world: World) -> None:
    running = reserve("a", "aa", status="running", world=world, started_at=time.time() - 90)
    lost = reserve("b", "bb", status="running")
    Path(open_store("default").folder(lost).metrics).write_text('{"step": 1, "loss": 0.5}\n{"los')
    world.states[lost, 1] = world.states[running, 1]._replace(
        run_id=lost, phase="interrupted", reason="the supervisor is gone", started_at=1.0, finished_at=31.0
    )
    queued = reserve("c", "cc", status="running", world=world)
    world.states[queued, 1] = world.states[queued, 1]._replace(phase="queued", queue_position=3)
    found = {run["runId"]: run for run in tfjobs("runs", "--json").json}
    assert found[running]["status"] == "running"
    assert 90 <= found[running]["durationSeconds"] < 150
    assert (found[lost]["status"], found[lost]["reason"]) == ("interrupted", "the supervisor is gone")
    assert found[lost]["durationSeconds"] == 30.0
    assert (found[queued]["status"], found[queued]["queuePosition"]) == ("queued", 3)
    assert any(line.split()[:4] == [queued, "c", "queued", "3"] for line in tfjobs("runs").lines)
    noted = open_store("default").get(lost)
    assert noted is not None
    assert (noted.status, noted.metric) == ("interrupted", "loss 0.5")
    assert {run["runId"]: run["metric"] for run in tfjobs("runs", "--json").json}[lost] == {
        "name": "loss",
        "value": 0.5,
    }


def test_filters_by_job_status_age_digest_and_prefix(tfjobs: Commands, world: World) -> None:
    now = time.time()
    for number, (name, status) in enumerate((("mnist", "failed"), ("mnist", "succeeded"), ("resnet", "running"))):
        reserve(name, f"{number}{number}ab", status=status, created=now - 86400 * (3 - number), world=world)
    gone = reserve("gone", "9f", status="running")
    world.states[gone, 1] = world.states["resnet-22ab", 1]._replace(run_id=gone, phase="failed")
    assert ids(tfjobs("runs", "--json")) == ["gone-9f", "resnet-22ab", "mnist-11ab", "mnist-00ab"]
    assert ids(tfjobs("runs", "--job", "mnist", "--json")) == ["mnist-11ab", "mnist-00ab"]
    # The index takes the one that is gone for running: the status that counts is the target's.
    assert ids(tfjobs("runs", "--status", "failed", "--json")) == ["gone-9f", "mnist-00ab"]
    assert ids(tfjobs("runs", "--status", "running", "--json")) == ["resnet-22ab"]
    assert ids(tfjobs("runs", "--status", "running", "--status", "succeeded", "--json")) == [
        "resnet-22ab",
        "mnist-11ab",
    ]
    assert ids(tfjobs("runs", "--since", "36h", "--json")) == ["gone-9f", "resnet-22ab"]
    assert ids(tfjobs("runs", "--older", "1d12h", "--json")) == ["mnist-11ab", "mnist-00ab"]
    assert ids(tfjobs("runs", "--digest", "22A", "--json")) == ["resnet-22ab"]
    assert ids(tfjobs("runs", "--prefix", "mnist-1", "--json")) == ["mnist-11ab"]
    assert ids(tfjobs("runs", "--limit", "1", "--status", "failed", "--json")) == ["gone-9f"]


def test_fifty_are_shown_unless_more_are_asked_for(tfjobs: Commands, world: World) -> None:
    for number in range(53):
        reserve("mnist", f"{number:04x}", attempts=0)
    few, everything = tfjobs("runs"), tfjobs("runs", "--all")
    assert len(few.lines) == 51
    assert "--all" in few.err
    assert len(everything.lines) == 54
    assert "--all" not in everything.err
    assert len(tfjobs("runs", "--limit", "7", "--json").json) == 7


def test_a_target_that_does_not_answer_leaves_the_noted_status(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", status="running", world=world)
    world.unavailable = True
    answer = tfjobs("runs")
    assert answer.code == 0
    assert "running?" in answer.out
    assert "could not be asked" in answer.err


def test_every_problem_of_the_options_is_told_at_once(tfjobs: Commands) -> None:
    answer = tfjobs("runs", "--since", "soon", "--older", "1x", "--status", "faild")
    assert answer.code == 2
    lines = answer.err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["--since", "--older", "--status"]
    assert "write failed" in lines[2]
    assert tfjobs("runs", "--limit", "0").code == 2
    assert tfjobs("runs", "--nothing").code == 2
    assert tfjobs("nothing").code == 2
    assert tfjobs().code == 2
    assert tfjobs("runs", "--store", "../x").code == 2


def test_names_and_metrics_from_scripts_do_no_harm(tfjobs: Commands, world: World) -> None:
    run_id = reserve("mnist", "aa", world=world)
    open_store("default").set_status(run_id, "succeeded", 2.0, started=1.0, metric="[red]x\x1b[2J 0.5")
    answer = tfjobs("runs")
    assert "[red]x[2J 0.5" in answer.out
    assert "\x1b" not in answer.out


# Naming a run


def test_a_run_is_named_by_any_start_that_is_its_alone(tfjobs: Commands, world: World) -> None:
    run_id = reserve("mnist", "abcdef012345", world=world)
    reserve("mnist", "abc999", world=world)
    reserve("mnist-large", "777", world=world)
    digest = "abcdef012345".ljust(64, "0")
    for text in (run_id, "mnist-abcd", digest, "ABCDE", "abcdef0123450", f"fake/default/{run_id}"):
        assert tfjobs("show", text, "--json").json["runId"] == run_id, text
    for text in ("mnist", "mnist-", "abc"):
        answer = tfjobs("show", text)
        assert answer.code == 3
        assert run_id in answer.err
        assert "mnist-abc999" in answer.err
        assert "To fix" in answer.err
    assert tfjobs("show", "mnist-l", "--json").json["runId"] == "mnist-large-777"


def test_an_exact_id_is_meant_even_where_others_begin_so(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", world=world)
    reserve("mnist-aa", "bb", world=world)
    assert tfjobs("show", "mnist-aa", "--json").json["runId"] == "mnist-aa"


def test_no_such_run_is_code_3_and_says_what_to_do(tfjobs: Commands, world: World) -> None:
    answer = tfjobs("show", "mnist")
    assert answer.code == 3
    assert "TFJOBS_HOME" in answer.err
    reserve("mnist", "aa", world=world)
    answer = tfjobs("show", "resnet")
    assert answer.code == 3
    assert "tfjobs runs --all" in answer.err
    answer = tfjobs("show", "mnist", "--store", "other")
    assert answer.code == 3
    assert "--store default" in answer.err
    for command in ("logs", "attach", "stop", "protect", "unprotect"):
        assert tfjobs(command, "resnet").code == 3


def test_the_store_is_named_before_or_after_the_command(tfjobs: Commands, world: World) -> None:
    store = open_store("other")
    store.reserve("x-1", "1" * 64, "x", {"target": {"kind": "fake"}}, "urn:x")
    assert ids(tfjobs("--store", "other", "runs", "--json")) == ["x-1"]
    assert ids(tfjobs("runs", "--store", "other", "--json")) == ["x-1"]
    assert tfjobs("runs", "--json").json == []


def test_a_shell_completes_the_ids_of_runs(world: World, home: Path) -> None:
    run_id = reserve("mnist", "aa")
    reserve("resnet", "bb")
    assert complete_run("mn") == [run_id]
    asked = {**os.environ, "_TFJOBS_COMPLETE": "complete_bash", "COMP_WORDS": "tfjobs show mn", "COMP_CWORD": "2"}
    done = subprocess.run([PROGRAM], env=asked, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == [run_id]
    open_store("default").close()
    (home / "stores" / "default" / "index.db").write_bytes(b"damaged" * 1000)
    done = subprocess.run([PROGRAM], env=asked, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


# show


def test_show_tells_everything(tfjobs: Commands, world: World, home: Path) -> None:
    run_id = reserve("mnist", "aa", status="running", urn="urn:a", attempts=2)
    folder = open_store("default").folder(run_id)
    Path(folder.metrics).write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25, "accuracy": NaN}\n')
    replica = ReplicaState("worker", 0, "failed", 1234, exit_code=3, started_at=2.0, finished_at=40.0, log="/l")
    from pulumi_tfjobs.spec.state import RunState

    world.states[run_id, 1] = RunState(run_id, 1, "failed", reason="worker-0 exited with code 9")
    world.states[run_id, 2] = RunState(
        run_id,
        2,
        "failed",
        reason="worker-0 exited with code 3",
        replicas=(replica,),
        started_at=2.0,
        finished_at=42.0,
        exit_code=3,
        warnings=("a secret is too short",),
        restarts=(Restart(1, 20.0, "worker-0 was ended by SIGKILL"),),
        world_sizes=((2.0, 4), (20.0, 3)),
    )
    answer = tfjobs("show", "mnist", "--json")
    assert answer.code == 0
    found = answer.json
    assert (found["status"], found["exitCode"], found["attempt"], found["durationSeconds"]) == ("failed", 3, 2, 40.0)
    assert found["replicas"][0] | {"pid": 1234, "exitCode": 3} == found["replicas"][0]
    assert [attempt["reason"] for attempt in found["attempts"]] == [
        "worker-0 exited with code 9",
        "worker-0 exited with code 3",
    ]
    assert found["metrics"] == {"accuracy": "nan", "loss": 0.25}
    assert found["references"] == ["urn:a"]
    assert [size["size"] for size in found["worldSizes"]] == [4, 3]
    text = tfjobs("show", "mnist").out
    for part in (
        "worker-0 exited with code 3",
        "1234",
        "exited with code 3",
        "restart 1",
        "SIGKILL",
        "attempt 1 failed: worker-0 exited with code 9",
        "loss 0.25",
        "urn:a",
        "a secret is too short",
        folder.outputs,
        folder.checkpoints,
        "4 from ",
        f"tfjobs logs {run_id}",
    ):
        assert part in text, part
    noted = open_store("default").get(run_id)
    assert noted is not None
    assert (noted.status, noted.metric, noted.started, noted.finished) == ("failed", "accuracy nan", 2.0, 42.0)


def test_a_run_without_its_folder_or_its_target_is_told_as_such(tfjobs: Commands, world: World) -> None:
    run_id = reserve("mnist", "aa", world=world)
    folder = open_store("default").folder(run_id)
    record = json.loads(Path(folder.record).read_text())
    Path(folder.record).write_text(json.dumps({**record, "target": {"kind": "cloud"}}))
    answer = tfjobs("show", "mnist")
    assert answer.code == 4
    assert "'cloud'" in answer.err
    Path(folder.record).write_text("{")
    assert tfjobs("show", "mnist").code == 4
    import shutil

    shutil.rmtree(folder.root)
    answer = tfjobs("show", "mnist")
    assert answer.code == 3
    assert "tfjobs gc" in answer.err
    assert tfjobs("runs").code == 0


def test_a_damaged_store_is_code_4_without_a_traceback(tfjobs: Commands, home: Path) -> None:
    reserve("mnist", "aa")
    open_store("default").close()
    for path in (home / "stores" / "default").glob("index.db*"):
        path.write_bytes(b"this is no database, and long enough to be seen as one" * 50)
    for command in (("runs",), ("show", "mnist"), ("stop", "mnist"), ("gc",)):
        answer = tfjobs(*command)
        assert answer.code == 4, command
        assert answer.err.startswith("error: ")
        assert "damaged" in answer.err


def test_an_error_that_nobody_expected_goes_to_the_log(
    tfjobs: Commands, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("seven")

    monkeypatch.setattr("pulumi_tfjobs.store.runs.RunStore.search", broken)
    answer = tfjobs("runs", "--job", "x")
    assert answer.code == 1
    assert "ZeroDivisionError: seven" in answer.err
    assert str(home / "plugin.log") in answer.err
    log = (home / "plugin.log").read_text()
    assert "tfjobs runs --job x" in log
    assert "Traceback" in log


def test_it_starts_without_what_it_does_not_need(home: Path) -> None:
    reserve("mnist", "aa")
    code = (
        "import sys; from pulumi_tfjobs.cli.app import run; code = run(['runs']);"
        "heavy = {'pulumi', 'grpc', 'numpy', 'tensorboard', 'google.protobuf'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "mnist-aa" in done.stdout


def test_the_version_and_the_help(tfjobs: Commands) -> None:
    from pulumi_tfjobs import __version__

    assert tfjobs("--version").out == f"tfjobs {__version__}\n"
    answer = tfjobs("--help")
    assert answer.code == 0
    for command in ("runs", "show", "logs", "attach", "stop", "gc", "protect", "unprotect", "doctor"):
        assert command in answer.out
        assert tfjobs(command, "--help").code == 0


def test_with_its_output_closed_it_ends_without_a_traceback(home: Path) -> None:
    done = subprocess.run(["sh", "-c", 'exec "$0" runs >&-', PROGRAM], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
