"""`tfjobs logs`, `attach` and `stop` with real runs of plain scripts."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulumi_tfjobs.lifecycle.common import open_store
from tests.helpers.commands import Commands, LocalRuns, finish, reserve, start, until
from tests.helpers.fake_target import World
from tests.helpers.jobs import is_locked

# Prints, and goes on until the file is there.
WAITING = """
import os, time
print("began", flush=True)
while not os.path.exists(os.path.join(os.environ["TFJOBS_OUTPUT_DIR"], "go")):
    time.sleep(0.01)
print("went on", flush=True)
"""
# A parameter server is ended with the workers: they wait until it has printed.
TWO_KINDS = """
import json, os, time
task = json.loads(os.environ["TF_CONFIG"])["task"]
print("I am", task["type"], task["index"], flush=True)
mark = os.path.join(os.environ["TFJOBS_OUTPUT_DIR"], "printed")
if task["type"] == "ps":
    open(mark, "w").close()
while not os.path.exists(mark):
    time.sleep(0.01)
"""
PS = {"distribution": {"kind": "parameterServer", "workers": 2, "parameterServers": 1}}


@pytest.fixture
def tfjobs(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.fixture
def runs(tmp_path: Path, home: Path) -> Iterator[LocalRuns]:
    created = LocalRuns(tmp_path / "jobs")
    yield created
    created.close()


def go(run_id: str) -> None:
    Path(open_store("default").folder(run_id).outputs, "go").touch()


def printed(run_id: str, text: str) -> bool:
    log = Path(open_store("default").folder(run_id).attempt(1).replica_log("worker-0"))
    return log.exists() and text in log.read_text()


# logs


def test_the_only_replicas_log_is_given_byte_for_byte(runs: LocalRuns) -> None:
    run_id = runs.make(r"import os; os.write(1, b'one\ntwo \xff\xfe \x1b[31mred\x1b[0m\rthree')")
    process = start("logs", run_id)
    process.wait(60)
    assert process.stdout is not None
    assert process.stdout.buffer.read() == b"one\ntwo \xff\xfe \x1b[31mred\x1b[0m\rthree"
    process.communicate()


def test_several_replicas_have_their_names_before_each_line(tfjobs: Commands, runs: LocalRuns) -> None:
    run_id = runs.make(TWO_KINDS, **PS)
    lines = [line.split(" | ") for line in tfjobs("logs", run_id).lines]
    told = {name.strip(): text for name, text in lines}
    assert {name.rpartition("-")[0] for name in told} >= {"ps", "worker"}
    assert told["ps-0"] == "I am ps 0"
    assert told["worker-0"] in {"I am worker 0", "I am chief 0"}
    for text in ("worker:0", "worker-0"):
        assert tfjobs("logs", run_id, "--replica", text).lines == [told["worker-0"]]
    assert tfjobs("logs", run_id, "--replica", "ps").lines == ["I am ps 0"]


def test_a_replica_that_is_not_there_is_wrong_usage_and_the_others_are_named(tfjobs: Commands, runs: LocalRuns) -> None:
    run_id = runs.make(TWO_KINDS, **PS)
    for text, found in (("worker:9", "no replica"), ("?", "no replica"), ("evaluator", "no replica")):
        answer = tfjobs("logs", run_id, "--replica", text)
        assert answer.code == 2, text
        assert found in answer.err
        assert "ps-0" in answer.err


def test_only_the_last_lines(tfjobs: Commands, runs: LocalRuns) -> None:
    run_id = runs.make("for number in range(20_000): print('line', number)")
    assert tfjobs("logs", run_id, "--tail", "2").lines == ["line 19998", "line 19999"]
    assert tfjobs("logs", run_id, "-n", "0").out == ""
    assert len(tfjobs("logs", run_id, "--tail", "90000").lines) == 20_000
    assert tfjobs("logs", run_id, "-f", "--tail", "3").lines == ["line 19997", "line 19998", "line 19999"]


def test_logs_of_an_attempt_that_there_is_not(tfjobs: Commands, runs: LocalRuns, world: World) -> None:
    run_id = runs.make("print('hello')")
    answer = tfjobs("logs", run_id, "--attempt", "2")
    assert answer.code == 3
    assert "one attempt" in answer.err
    assert tfjobs("logs", run_id, "--attempt", "1").lines == ["hello"]
    reserve("never", "aa", attempts=0)
    assert tfjobs("logs", "never").code == 3


def test_following_goes_on_to_the_end_and_says_how_it_was(runs: LocalRuns) -> None:
    run_id = runs.make(WAITING + "raise SystemExit(7)", wait="running")
    process = start("logs", "-f", run_id)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    assert process.poll() is None
    go(run_id)
    answer = finish(process)
    assert answer.out == "went on\n"
    assert "attempt 1, failed" in answer.err
    assert "exited with code 7" in answer.err
    assert answer.code == 1
    noted = open_store("default").get(run_id)
    assert noted is not None
    assert noted.status == "failed"


def test_following_one_that_succeeds_is_code_0(tfjobs: Commands, runs: LocalRuns) -> None:
    answer = tfjobs("logs", "-f", runs.make("print('hello')"))
    assert (answer.code, answer.out) == (0, "hello\n")
    assert "succeeded" in answer.err


def test_following_survives_a_restart(runs: LocalRuns) -> None:
    script = WAITING + (
        "import signal\n"
        "mark = os.path.join(os.environ['TFJOBS_OUTPUT_DIR'], 'second')\n"
        "if not os.path.exists(mark):\n"
        "    open(mark, 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "print('the second time', flush=True)\n"
    )
    run_id = runs.make(script, wait="running", retries=1, retryBackoffSeconds=0)
    process = start("logs", "-f", run_id)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    go(run_id)
    answer = finish(process)
    assert answer.code == 0
    assert "went on\n" in answer.out
    assert answer.out.endswith("the second time\n")


def test_a_reader_that_has_seen_enough_is_no_error(runs: LocalRuns) -> None:
    run_id = runs.make("for number in range(200_000): print('line', number)")
    process = start("logs", run_id)
    assert process.stdout is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(60) == -signal.SIGPIPE


def test_following_waits_while_somebody_prepares_the_attempt(world: World) -> None:
    run_id = reserve("mnist", "aa", kind="local")
    with (Path(open_store("default").folder(run_id).root) / "start.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        process = start("logs", "-f", run_id)
        assert process.stderr is not None
        assert "being prepared" in process.stderr.readline()
        assert process.poll() is None
    answer = finish(process)
    assert answer.code == 1
    assert "never launched" in answer.err


# attach


def test_attach_waits_for_the_end_and_tells_the_metric(runs: LocalRuns) -> None:
    script = WAITING + "open(os.environ['TFJOBS_METRICS_FILE'], 'a').write('{\"step\": 5, \"loss\": 0.25}\\n')"
    run_id = runs.make(script, wait="running")
    process = start("attach", run_id)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("running, ")
    assert process.poll() is None
    go(run_id)
    answer = finish(process)
    assert answer.code == 0
    assert f"{run_id}, attempt 1, succeeded" in answer.out
    assert "loss 0.25" in answer.out
    noted = open_store("default").get(run_id)
    assert noted is not None
    assert (noted.status, noted.metric) == ("succeeded", "loss 0.25")


def test_attach_to_one_that_failed_tells_why_with_its_last_lines(tfjobs: Commands, runs: LocalRuns) -> None:
    run_id = runs.make("print('no such file: data.csv'); raise SystemExit(4)")
    answer = tfjobs("attach", run_id)
    assert answer.code == 1
    assert "failed" in answer.out
    assert "exited with code 4" in answer.out
    assert "no such file: data.csv" in answer.out


def test_ctrl_c_detaches_and_the_run_goes_on(tfjobs: Commands, runs: LocalRuns) -> None:
    run_id = runs.make(WAITING, wait="running")
    process = start("attach", run_id)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("running, ")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert time.monotonic() - began < 10
    assert answer.code == 130
    for part in ("detached", f"tfjobs logs -f {run_id}", f"tfjobs attach {run_id}", f"tfjobs stop {run_id}"):
        assert part in answer.err
    assert "Traceback" not in answer.err
    assert runs.state(run_id).phase == "running"
    go(run_id)
    assert tfjobs("attach", run_id).code == 0


def test_attach_to_a_run_whose_supervisor_was_killed_says_so(tfjobs: Commands, runs: LocalRuns) -> None:
    run_id = runs.make(WAITING, wait="running")
    process = start("attach", run_id)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("running, ")
    pid = runs.state(run_id).supervisor_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    answer = finish(process)
    assert answer.code == 1
    assert "was interrupted" in answer.out
    assert tfjobs("runs", "--status", "interrupted", "--json").json[0]["runId"] == run_id


def test_attach_to_what_was_never_launched_says_what_to_do(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", attempts=0)
    answer = tfjobs("attach", "mnist")
    assert answer.code == 1
    assert "pulumi up" in answer.err


def test_attach_waits_while_somebody_prepares_the_run(world: World, tmp_path: Path) -> None:
    run_id = reserve("mnist", "aa", attempts=0)
    lock = Path(open_store("default").folder(run_id).root) / "start.lock"
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert is_locked(str(lock))
        process = start("attach", run_id)
        assert process.stderr is not None
        assert "being prepared" in process.stderr.readline()
        assert process.poll() is None
    answer = finish(process)
    assert answer.code == 1
    assert "never launched" in answer.err


# stop


def test_stop_gives_time_to_save_and_waits_until_nothing_lives(tfjobs: Commands, runs: LocalRuns) -> None:
    script = """
import os, signal, sys, time
def save(*_):
    open(os.path.join(os.environ["TFJOBS_CHECKPOINT_DIR"], "saved"), "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("began", flush=True)
while True:
    time.sleep(0.01)
"""
    run_id = runs.make(script, wait="running")
    until(lambda: printed(run_id, "began"), "it began")
    answer = tfjobs("stop", run_id)
    assert answer.code == 0
    assert "was stopped" in answer.out
    folder = open_store("default").folder(run_id)
    assert os.listdir(folder.checkpoints) == ["saved"]
    assert not is_locked(folder.attempt(1).lock)
    noted = open_store("default").get(run_id)
    assert noted is not None
    assert noted.status == "cancelled"
    again = tfjobs("stop", run_id)
    assert again.code == 0
    assert "nothing to stop" in again.out


@pytest.mark.parametrize("options", [("--force",), ("--grace", "0.2")])
def test_one_that_ignores_term_is_killed(tfjobs: Commands, runs: LocalRuns, options: tuple[str, ...]) -> None:
    script = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('began', flush=True)\n"
    run_id = runs.make(script + "while True: time.sleep(0.01)", wait="running", stopGraceSeconds=3600)
    until(lambda: printed(run_id, "began"), "it began")
    answer = tfjobs("stop", run_id, *options)
    assert answer.code == 0
    (replica,) = runs.state(run_id).replicas
    assert replica.signal == signal.SIGKILL


def test_force_with_a_grace_period_is_wrong_usage(tfjobs: Commands) -> None:
    assert tfjobs("stop", "x", "--force", "--grace", "3").code == 2
    assert tfjobs("stop", "x", "--grace", "-1").code == 2


def test_stopping_what_was_never_launched_is_no_error(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", attempts=0)
    answer = tfjobs("stop", "mnist")
    assert answer.code == 0
    assert "nothing to stop" in answer.out


def test_one_that_cannot_be_ended_is_an_error(tfjobs: Commands, world: World) -> None:
    reserve("mnist", "aa", status="running", world=world)
    world.on_stop = lambda state: state._replace(phase="stopping", reason="it hangs")
    answer = tfjobs("stop", "mnist")
    assert answer.code == 1
    assert "--force" in answer.err
