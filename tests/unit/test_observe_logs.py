"""What a user sees of a run: log tails fit for a terminal, progress lines, and why it failed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pulumi_tfjobs import observe
from pulumi_tfjobs.observe import Metrics, duration_text, failure_reason, failure_tails, progress, tail
from pulumi_tfjobs.spec.state import ReplicaState, RunState
from pulumi_tfjobs.targets.folder import RunFolder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker-0.log"


# Tails


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", ""),
        (b"\n\n", ""),
        (b"one\ntwo\n", "one\ntwo"),
        (b"one\r\ntwo\r\n", "one\ntwo"),
        (b"no line end", "no line end"),
        (b"\x1b[1;31mError\x1b[0m: \x1b[2Kbad", "Error: bad"),
        (b"\x1b]0;a title\x07text \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "text link"),
        (b"\x1b(Bplain\x1b=", "plain"),
        (b"10%\r50%\r100%\ndone", "100%\ndone"),
        (b"10%\r50%\r   \r\ndone", "50%\ndone"),
        (b"1/2 [=> ]\x08\x08\x08\x08\x08\x08\x08\x08\x082/2 [==>]\n", "2/2 [==>]"),
        (b"wait |\x08/\x08-\x08.\n", "wait ."),
        (b"bell\x07 nul\x00 c1\xc2\x9bm tab\tend", "bell nul c1 tab\tend"),
        (b"bad \xff\xfe utf8", "bad \ufffd\ufffd utf8"),
        ("grün 日本\n".encode(), "grün 日本"),
        (b"trailing   \n  leading", "trailing\n  leading"),
        (b"a\n\nb", "a\n\nb"),
    ],
    ids=range(17),
)
def test_a_tail_is_what_a_terminal_would_show(log: Path, data: bytes, shown: str) -> None:
    log.write_bytes(data)
    assert tail(str(log)) == shown


def test_only_the_last_lines_are_kept_and_none_is_cut_in_front(log: Path) -> None:
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    lines = tail(str(log)).split("\n")
    assert lines == [f"line {number}" for number in range(99_980, 100_000)]
    assert tail(str(log), lines=2) == "line 99998\nline 99999"
    # Of a line that does not fit whole, nothing is shown rather than its end.
    assert tail(str(log), lines=5, limit=25) == "line 99998\nline 99999"


def test_a_huge_line_keeps_its_beginning_and_end_as_far_as_it_was_read(log: Path) -> None:
    log.write_bytes(b"first\n" + b"x" * 10_000_000 + b" the end")
    shown = tail(str(log))
    assert len(shown) < 2_000
    assert shown.endswith("xxx the end")
    log.write_bytes(b"start " + b"x" * 5_000 + b" the end\nlast\n")
    first, last = tail(str(log)).split("\n")
    assert first.startswith("start xxx")
    assert first.endswith("xxx the end")
    assert len(first) <= observe.MAX_TAIL_LINE + 3
    assert last == "last"


def test_a_progress_bar_of_megabytes_is_its_last_state(log: Path) -> None:
    log.write_bytes(b"".join(b"\r%d%% of much" % percent for percent in range(100)) * 2_000)
    assert tail(str(log)) == "99% of much"


def test_a_binary_log_says_nothing_that_a_terminal_would_obey(log: Path) -> None:
    log.write_bytes(bytes(range(256)) * 500)
    shown = tail(str(log))
    assert all(character in "\n\t" or character.isprintable() or character == "\ufffd" for character in shown)


def test_a_log_that_is_not_there_or_no_file_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("", str(tmp_path / "missing"), str(tmp_path), str(tmp_path / "pipe")):
        assert tail(path) == ""


# Progress


def run(phase: str = "running", **fields: object) -> RunState:
    return RunState(run_id="mnist-1", attempt=1, phase=phase)._replace(**fields)


def replica(index: int, phase: str = "running", **fields: object) -> ReplicaState:
    return ReplicaState(type="worker", index=index, phase=phase)._replace(**fields)


def test_a_progress_line_has_phase_step_metric_time_and_replicas(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    state = run(started_at=100.0, replicas=(replica(0), replica(1, "failed")))
    metrics = Metrics(folder)
    assert progress(state, metrics, 142.9) == "running, 42s, 1/2 replicas"
    Path(folder.metrics).write_text('{"step": 120, "loss": 0.0341234, "accuracy": 0.9}\n')
    metrics.poll()
    assert progress(state, metrics, 142.9) == "running, step 120, loss 0.03412, 42s, 1/2 replicas"
    assert progress(state._replace(attempt=3), metrics, 142.0).startswith("running (attempt 3), step 120")


def test_a_progress_line_says_why(tmp_path: Path) -> None:
    metrics = Metrics(RunFolder(str(tmp_path)))
    assert progress(run("stopping", reason="worker-1 failed"), metrics, 0.0) == "stopping, worker-1 failed"
    assert progress(run("running", reason="all well"), metrics, 0.0) == "running, all well"
    ended = run("failed", created_at=10.0, finished_at=85.0, replicas=(replica(0, "failed"),))
    assert progress(ended, metrics, 1000.0) == "failed, 1m 15s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m 00s"), (185, "3m 05s"), (3600, "1h 00m"), (7_620, "2h 07m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# Failures


def test_the_first_to_fail_comes_first_and_only_failures_are_told(tmp_path: Path) -> None:
    replicas = []
    for index, (phase, code, number, at) in enumerate(
        [("ended", None, 15, 3.0), ("failed", 1, None, 9.0), ("failed", 3, None, 5.0), ("failed", None, 9, 7.0)]
    ):
        log = tmp_path / f"worker-{index}.log"
        log.write_text(f"said by {index}\n")
        replicas.append(replica(index, phase, exit_code=code, signal=number, finished_at=at, log=str(log)))
    state = run("failed", replicas=tuple(replicas), first_failure="worker-3")
    tails = failure_tails(state)
    assert [name for name, _ in tails] == ["worker-3", "worker-2", "worker-1"]
    assert tails[0][1] == f"worker-3 was ended by SIGKILL. Its last lines ({tmp_path}/worker-3.log):\nsaid by 3"
    assert tails[1][1].startswith("worker-2 exited with code 3. ")


def test_a_replica_that_printed_nothing_is_told_too(tmp_path: Path) -> None:
    silent = replica(0, "failed", signal=9, log=str(tmp_path / "missing"))
    assert failure_tails(run("failed", replicas=(silent,))) == [
        ("worker-0", "worker-0 was ended by SIGKILL. It printed nothing")
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"exit_code": 3}, "exited with code 3"),
        ({"signal": 11}, "was ended by SIGSEGV"),
        ({"signal": 63}, "was ended by signal 63"),
        ({}, "ended, and nobody saw how"),
    ],
)
def test_how_a_replica_ended(fields: dict[str, int], text: str) -> None:
    assert observe.ended_how(replica(0, "failed", **fields)) == text


def test_why_a_run_failed() -> None:
    failed = replica(1, "failed", exit_code=3)
    state = run("failed", replicas=(replica(0, "ended"), failed), first_failure="worker-1")
    assert failure_reason(state) == "worker-1 failed first: it exited with code 3"
    assert failure_reason(state._replace(reason="ran out of time")) == "ran out of time"
    assert failure_reason(run("interrupted")) == "interrupted"
