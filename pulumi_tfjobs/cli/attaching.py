"""``tfjobs attach`` and ``tfjobs stop``: waiting for a run's end, and bringing it about."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from pulumi_tfjobs.cli.common import BAD, INTERRUPTED, OK, RunArgument, StoreOption, find_run, say, tell, wait_for
from pulumi_tfjobs.spec import state as phases

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle.finding import KnownRun
    from pulumi_tfjobs.observe import Metrics
    from pulumi_tfjobs.spec.state import RunState

_TICK_SECONDS = 1.0
# With no terminal a line is said where the phase changes, and else this often (seconds).
_QUIET_SECONDS = 30.0
_BEGIN_SECONDS = 0.2
_CLEAR_LINE = "\r\x1b[K"


def add_to(app: typer.Typer) -> None:
    """Add the commands to the others."""
    app.command("attach")(attach)
    app.command("stop")(stop)


def attach(run: RunArgument, store: StoreOption = None) -> None:
    """Wait for a run's end, with a line that says how it goes. Ctrl-C ends waiting, not the run.

    Exit code 0 where it succeeded, 1 where it ended otherwise, 130 after Ctrl-C.
    """
    known = find_run(run, store)
    row = _Row()
    try:
        raise typer.Exit(wait_for(_attach(known, row)))
    except KeyboardInterrupt:
        row.clear()
        name = known.run.run_id
        tell(
            f"detached; {name} goes on in the background. To follow it: `tfjobs logs -f {name}`. To wait for it again: "
            f"`tfjobs attach {name}`. To stop it: `tfjobs stop {name}`"
        )
        raise typer.Exit(INTERRUPTED) from None


async def _attach(known: KnownRun, row: _Row) -> int:
    from pulumi_tfjobs import observe
    from pulumi_tfjobs.cli.texts import ended_text
    from pulumi_tfjobs.lifecycle.outputs import main_metric

    state = await _launched(known, row)
    if state is None:
        name = known.run.run_id
        tell(f"error: nothing of {name} runs: it was reserved, and never launched. To fix: `pulumi up` launches it")
        return BAD
    metrics = observe.Metrics(known.folder)
    if not state.finished:
        state = await _wait(known, state, metrics, row)
    await asyncio.to_thread(metrics.finish)
    last = {tag: value if abs(value) < float("inf") else str(value) for tag, value in metrics.last.items()}
    await asyncio.to_thread(known.noted, state, main_metric(last))
    row.clear()
    metric = main_metric(last)
    say(ended_text(state) + (f", {metric}" if metric and state.phase == phases.SUCCEEDED else ""))
    for _, text in observe.failure_tails(state):
        say(text)
    return OK if state.phase == phases.SUCCEEDED else BAD


async def _launched(known: KnownRun, row: _Row) -> RunState | None:
    """The last attempt's state. While some process prepares or launches one, that is waited for."""
    while True:
        known.refresh()
        starting = known.being_started()
        state = await known.state()
        if state is not None and not (state.finished and starting):
            return state
        if not starting:
            return state
        row.show("being prepared by another process", phases.PREPARING)
        await asyncio.sleep(_BEGIN_SECONDS)


async def _wait(known: KnownRun, state: RunState, metrics: Metrics, row: _Row) -> RunState:
    """Tell how it goes until it has ended; its last state."""
    from pulumi_tfjobs import observe

    async def to_the_end() -> RunState:
        nonlocal state
        async for found in known.watch(known.run.attempts):
            state = found
        return state

    watching = asyncio.ensure_future(to_the_end())
    try:
        while not watching.done():
            await asyncio.to_thread(metrics.poll)
            row.show(observe.progress(state, metrics, time.time()), state.phase)
            await asyncio.wait({watching}, timeout=_TICK_SECONDS)
        last = watching.result()
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    return last


class _Row:
    """One line that changes in place on a terminal; elsewhere a line now and then. It goes to stderr."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._phase = ""
        self._next = 0.0
        self._shown = False

    def show(self, text: str, phase: str) -> None:
        if self._live:
            width = max(10, shutil.get_terminal_size().columns - 1)
            sys.stderr.write(f"{_CLEAR_LINE}{text if len(text) <= width else text[: width - 1] + '…'}")
            sys.stderr.flush()
            self._shown = True
        elif phase != self._phase or time.monotonic() >= self._next:
            tell(text)
            self._next = time.monotonic() + _QUIET_SECONDS
        self._phase = phase

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()
            self._shown = False


def stop(
    run: RunArgument,
    force: Annotated[bool, typer.Option("--force", help="Kill at once: no time to save a checkpoint.")] = False,
    grace: Annotated[
        float | None,
        typer.Option("--grace", metavar="SECONDS", min=0, help="Time between TERM and KILL (default: the job's own)."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """End a run: TERM to every replica, KILL after the grace period. Waits until nothing of it lives.

    Record, outputs, checkpoints and logs stay.
    """
    from pulumi_tfjobs.errors import InputProblem, InvalidInputs

    if force and grace is not None:
        raise InvalidInputs(
            [InputProblem("--force", "it comes with --grace", "one of the two", "leave out --grace, or --force")]
        )
    known = find_run(run, store)
    raise typer.Exit(wait_for(_stop(known, 0.0 if force else grace)))


async def _stop(known: KnownRun, grace: float | None) -> int:
    from pulumi_tfjobs.cli.texts import ended_text

    name = known.run.run_id
    state = await known.state()
    if state is not None and state.finished and not known.being_started():
        known.noted(state)
        say(f"nothing to stop: {ended_text(state)}")
        return OK
    if state is None or state.finished:
        if known.being_started():
            tell(f"error: {name} is just being prepared by another process. To fix: end that one (Ctrl-C), or wait")
            return BAD
        say(f"nothing to stop: nothing of {name} was launched")
        return OK
    tell(f"stopping {name}" + (f" (at most {grace:g} s of grace)" if grace else ""))
    state = await known.stop(grace)
    if state is None or not state.finished:
        supervisor = "" if state is None else f": {state.reason or state.phase} (supervisor {state.supervisor_pid})"
        tell(f"error: {name} could not be ended{supervisor}. To fix: `tfjobs stop --force {name}`")
        return BAD
    say(ended_text(state))
    return OK
