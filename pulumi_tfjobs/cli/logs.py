"""``tfjobs logs``: what the replicas of a run printed, and what they print."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from pulumi_tfjobs.cli.common import BAD, OK, RunArgument, StoreOption, find_run, tell, wait_for
from pulumi_tfjobs.errors import TfJobsError
from pulumi_tfjobs.spec import state as phases

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle.finding import KnownRun
    from pulumi_tfjobs.spec.state import RunState
    from pulumi_tfjobs.targets.logfiles import Follower

_PAUSE_SECONDS = 0.1
_LAST_BYTES = 64 * 1024
_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)
_REPLICA = re.compile(r"([a-z]+)(?:[:-](\d+))?")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the others."""
    app.command("logs")(logs)


def logs(
    run: RunArgument,
    replica: Annotated[
        str | None, typer.Option("--replica", metavar="NAME", help="Of this one alone: worker:1 or worker-1.")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", min=1, help="Of this attempt (default: the last).")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the attempt ends.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", metavar="N", min=0, help="Only the last N lines (of each replica).")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Show the logs of a run's replicas, each line with its replica's name where there are several.

    With -f it also says how the attempt ended: exit code 0 where it succeeded, 1 where not.
    """
    known = find_run(run, store)
    raise typer.Exit(wait_for(_Logs(known, attempt, replica, tail).show(follow=follow)))


class _Logs:
    """The logs of one attempt, or of one of its replicas."""

    def __init__(self, known: KnownRun, attempt: int | None, replica: str | None, lines: int | None) -> None:
        self.known = known
        self.attempt = _attempt(known, attempt)
        self.files = known.folder.attempt(self.attempt)
        self.wanted = _Wanted(replica)
        self.lines = lines
        self.state: RunState | None = None
        self.colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    async def show(self, *, follow: bool) -> int:
        self.state = await self.known.state(self.attempt)
        names = self._names()
        self.wanted.check(names, final=self.named)
        if follow:
            return await self._follow()
        if not names:
            tell(f"nothing of {self.known.run.run_id}, attempt {self.attempt}, has printed anything yet")
        for name in self.wanted.of(names):
            self._print_all(name, self._out(name, names))
        return OK

    @property
    def named(self) -> bool:
        """Whether it is known by now which replicas there are."""
        return self.state is not None and (self.state.finished or bool(self.state.replicas))

    def _names(self) -> list[str]:
        """The replicas, in the order in which the run names them."""
        if self.state is not None and self.state.replicas:
            return [replica.name for replica in self.state.replicas]
        try:
            found = sorted(os.listdir(self.files.replicas))
        except OSError:
            return []
        return [name.removesuffix(".log") for name in found if name.endswith(".log")]

    def _out(self, name: str, names: list[str]) -> _Out:
        if len(names) == 1 or self.wanted.name is not None:
            return _Out("", colours=self.colours)
        width = max(map(len, names))
        prefix = f"{name:<{width}} | "
        if self.colours:
            prefix = f"\x1b[{_COLOURS[names.index(name) % len(_COLOURS)]}m{prefix}\x1b[0m"
        return _Out(prefix, colours=self.colours)

    def _print_all(self, name: str, out: _Out) -> None:
        from pulumi_tfjobs.targets import logfiles

        path = self.files.replica_log(name)
        if self.lines is None:
            for data in logfiles.iter_bytes(path):
                out.put(data)
        elif self.lines:
            out.put(_last_lines(path, self.lines))
        out.end()

    async def _follow(self) -> int:
        from pulumi_tfjobs.cli.texts import ended_text

        watching = asyncio.ensure_future(self._watch())
        followed: dict[str, tuple[Follower, _Out]] = {}
        try:
            while True:
                last_round = watching.done()
                names = self._names()
                self.wanted.check(names, final=self.named)
                for name in self.wanted.of(names):
                    if name not in followed:
                        followed[name] = self._begin(name, names)
                for follower, out in followed.values():
                    while data := follower.read():
                        out.put(data)
                sys.stdout.flush()
                if last_round:
                    break
                await asyncio.wait({watching}, timeout=_PAUSE_SECONDS)
            for _, out in followed.values():
                out.end()
            watching.result()
        finally:
            watching.cancel()
            for follower, _ in followed.values():
                follower.close()
        state = self.state
        if state is None:
            tell(f"{self.known.run.run_id}, attempt {self.attempt}, was never launched. `pulumi up` launches it")
            return BAD
        tell(ended_text(state))
        self.known.noted(state)
        with contextlib.suppress(TfJobsError):
            self.known.refresh()
        if self.known.run.attempts > self.attempt:
            tell(f"attempt {self.known.run.attempts} has been made since: tfjobs logs -f {self.known.run.run_id}")
        return OK if state.phase == phases.SUCCEEDED else BAD

    async def _watch(self) -> None:
        told = False
        while True:
            async for state in self.known.watch(self.attempt):
                self.state = state
            if self.state is not None or not self.known.being_started():
                return
            if not told:
                tell("nothing to follow yet: it is being prepared by another process")
                told = True
            await asyncio.sleep(_PAUSE_SECONDS)

    def _begin(self, name: str, names: list[str]) -> tuple[Follower, _Out]:
        from pulumi_tfjobs.targets.logfiles import Follower

        path = self.files.replica_log(name)
        out = self._out(name, names)
        if self.lines is None:
            return Follower(path), out
        follower = Follower(path)
        kept: deque[bytes] = deque(maxlen=self.lines)
        rest = b""
        while data := follower.read():
            *whole, rest = (rest + data).split(b"\n")
            kept.extend(whole)
        out.put(b"".join(line + b"\n" for line in kept) + rest)
        return follower, out


class _Wanted:
    """Which replicas are asked for: all, or one as a person names it (``worker:1``, ``worker-1``; ``chief`` alone where
    there is one of its type)."""

    def __init__(self, text: str | None) -> None:
        self._text = text
        found = None if text is None else _REPLICA.fullmatch(text.strip().lower())
        self.name: str | None = None if text is None else f"{found[1]}-{found[2] or 0}" if found else ""
        self._type = f"{found[1]}-" if found and found[2] is None else ""

    def check(self, names: list[str], *, final: bool) -> None:
        """Raises InvalidInputs where there is no such replica, or the name does not say which. Unless ``names`` is
        ``final``, it may still come."""
        from pulumi_tfjobs.errors import InputProblem, InvalidInputs

        if self._text is None:
            return
        several = sum(1 for name in names if self._type and name.startswith(self._type))
        if several > 1:
            found = f"there are {several} replicas of the type {self._text!r}"
        elif self.name == "" or (final and self.name not in names):
            found = f"there is no replica {self._text!r}"
        else:
            return
        expected = "one of " + ", ".join(names) if names else "a type and an index"
        raise InvalidInputs([InputProblem("--replica", found, expected, "write for example worker:0")])

    def of(self, names: list[str]) -> list[str]:
        return [name for name in names if self.name is None or name == self.name]


class _Out:
    """Where one replica's log goes: as it is into a file or pipe, without what would disturb a terminal onto one, and
    line by line behind a prefix where other replicas' lines are between."""

    def __init__(self, prefix: str, *, colours: bool) -> None:
        self._prefix = prefix
        self._colours = colours
        self._plain = not prefix and not sys.stdout.isatty()
        self._rest = b""

    def put(self, data: bytes) -> None:
        if self._plain:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._line(line)

    def end(self) -> None:
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        sys.stdout.flush()

    def _line(self, line: bytes) -> None:
        from pulumi_tfjobs.cli.texts import log_line

        text = f"{self._prefix}{log_line(line, colours=self._colours)}\n"
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))


def _attempt(known: KnownRun, wanted: int | None) -> int:
    from pulumi_tfjobs.errors import RunNotFound

    last = known.run.attempts
    if wanted is not None and wanted > last:
        have = f"attempts 1 to {last}" if last > 1 else "one attempt" if last else "none yet: `pulumi up` makes one"
        raise RunNotFound(f"{known.run.run_id} has no attempt {wanted}; it has {have}")
    if last == 0:
        raise RunNotFound(f"{known.run.run_id} has no logs: it has no attempt yet. `pulumi up` makes one")
    return wanted or last


def _last_lines(path: str, count: int) -> bytes:
    from pulumi_tfjobs.targets import logfiles

    limit = max(_LAST_BYTES, 200 * count)
    while True:
        data = logfiles.tail_bytes(path, limit)
        lines = data.removesuffix(b"\n").split(b"\n")
        if len(lines) > count or limit >= logfiles.size(path):
            return data if len(lines) <= count else b"\n".join(lines[-count:]) + data[len(data.rstrip(b"\n")) :][:1]
        limit *= 4
