from __future__ import annotations

import asyncio
import os

import pytest

from pulumi_tfjobs.provider.engine_log import EngineLog, shows_terminal
from tests.provider.fakes import DEADLINE, FakeEngine

URN = "urn:pulumi:dev::p::t:index:R::r"


async def test_a_row_shows_the_first_line_of_the_newest_and_the_final_at_once(engine: tuple[FakeEngine, str]) -> None:
    told, address = engine
    log = EngineLog(interval=3600)
    log.connect(address)
    row = log.row(URN)
    row("one\nmore")
    await told.until(lambda logged: len(logged) == 1)
    row("two")
    row("three")
    row("four", final=True)
    await told.until(lambda logged: len(logged) == 2)
    row("five")
    await asyncio.wait_for(row.finish(), DEADLINE)
    assert told.rows() == ["one", "four", "five"]
    assert {entry.urn for entry in told.logged} == {URN}
    await log.close()


async def test_the_same_text_is_said_once(engine: tuple[FakeEngine, str]) -> None:
    told, address = engine
    log = EngineLog(interval=0.001)
    log.connect(address)
    row = log.row(URN)
    for _ in range(3):
        row("running")
        await row.finish()
    row("  \n ")
    await row.finish()
    assert told.rows() == ["running"]
    await log.close()


async def test_an_engine_that_is_gone_hurts_nobody(unused_tcp_port: int) -> None:
    log = EngineLog(interval=0.001)
    row = log.row(URN)
    row("before there is an engine")
    await row.finish()
    log.connect(f"127.0.0.1:{unused_tcp_port}")
    await asyncio.wait_for(log.block(URN, "text"), DEADLINE)
    row("nobody listens")
    await asyncio.wait_for(row.finish(), DEADLINE)
    await log.close()
    await log.info(URN, "after it was closed")


async def test_another_engine_can_take_over(engine: tuple[FakeEngine, str], unused_tcp_port: int) -> None:
    told, address = engine
    log = EngineLog()
    log.connect(f"127.0.0.1:{unused_tcp_port}")
    await log.info(URN, "to nobody")
    log.connect(address)
    log.connect("")
    await log.info(URN, "to the new one")
    assert [entry.message for entry in told.logged] == ["to the new one"]
    await log.close()


def test_statuses_come_ever_more_seldom_where_each_is_a_line() -> None:
    log = EngineLog(interactive=False)
    assert [log.interval(elapsed) for elapsed in (0, 5, 60, 3600)] == [1.0, 1.0, 6.0, 30.0]
    assert EngineLog(interactive=True).interval(3600) == 1.0


@pytest.mark.parametrize(("text", "seconds"), [("5", 5.0), ("0.5", 0.5), ("0", 1.0), ("soon", 1.0), ("nan", 1.0)])
def test_the_interval_can_be_set(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv("TFJOBS_STATUS_SECONDS", text)
    assert EngineLog(interactive=True).interval(100) == seconds


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="asks /proc")
def test_a_terminal_is_told_from_a_pipe() -> None:
    import subprocess
    import sys

    sleeper = [sys.executable, "-c", "import sys; print('ready', file=sys.stderr, flush=True); sys.stdin.read()"]
    main, terminal = os.openpty()
    try:
        for output, expected, more in [
            (terminal, True, []),
            (subprocess.PIPE, False, []),
            (terminal, False, ["--non-interactive"]),
        ]:
            streams = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.PIPE}
            with subprocess.Popen([*sleeper, *more], **streams) as process:
                assert process.stderr is not None
                assert process.stderr.readline() == b"ready\n"  # before its exec, it is still this process
                assert shows_terminal(process.pid) is expected
                process.communicate()
    finally:
        os.close(main)
        os.close(terminal)
