from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pulumi_tfjobs.targets.local import processes
from pulumi_tfjobs.targets.local.blame import culprit
from pulumi_tfjobs.targets.local.members import Member


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child of its own; the latter's pid is the first line of its output."""
    script = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()']).pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TFJOBS_TEST_MARK": "a b"},
        start_new_session=True,
    ) as process:
        yield process
        processes.send_group(process.pid, signal.SIGKILL)


def test_a_process_is_its_pid_and_its_start(child: subprocess.Popen[bytes]) -> None:
    ticks = processes.start_ticks(child.pid)
    assert ticks is not None
    assert processes.is_same(child.pid, ticks)
    assert not processes.is_same(child.pid, ticks + 1)
    assert not processes.is_same(None, None)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.start_ticks(child.pid) is None, "a zombie is no living process"


@pytest.mark.parametrize("kernel_lists", [True, False])
def test_descendants(child: subprocess.Popen[bytes], kernel_lists: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_lists_children", lambda: kernel_lists)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    assert processes.descendants(child.pid) == [grandchild]
    assert {child.pid, grandchild} <= set(processes.descendants(os.getpid()))


def test_carriers_of_a_variable(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    deadline = time.monotonic() + 10
    # A process that is just executing its program shows no environment for a moment.
    while set(processes.carriers("TFJOBS_TEST_MARK", "a b")) != {child.pid, grandchild}:
        assert time.monotonic() < deadline
    assert processes.carriers("TFJOBS_TEST_MARK", "a") == []


def test_a_signal_to_nobody_is_no_error() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    assert not processes.send(gone.pid, signal.SIGTERM)
    assert not processes.send_group(gone.pid, signal.SIGTERM)


class FakeLog:
    def __init__(self, text: str) -> None:
        self.text = text

    def tail(self, size: int) -> str:
        return self.text[-size:]


def failed(index: int, text: str, *, signal_number: int | None = None) -> Member:
    member = Member("worker", index, FakeLog(text))  # type: ignore[arg-type]
    member.ended(exit_code=None if signal_number else 1, signal_number=signal_number, by_us=False)
    return member


def test_the_first_to_fail_is_to_blame_unless_it_only_missed_another() -> None:
    missed = failed(0, "UnknownError: Horovod has been shut down. This was caused by an exception on one of the ranks")
    fault = failed(1, "ValueError: no such layer")
    killed = failed(2, "Connection closed by peer", signal_number=9)
    other = failed(3, "Horovod has been shut down")
    assert culprit([missed, fault]) is fault
    assert culprit([fault, missed]) is fault
    assert culprit([missed, killed]) is killed
    assert culprit([missed, other]) is missed
    assert culprit([]) is None
