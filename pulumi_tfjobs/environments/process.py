"""Running a build tool: its output goes to a log and, line by line, to whoever watches."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

TAIL_LINES = 12
TICK_SECONDS = 1.0
_GUARD = str(Path(__file__).with_name("guard.py"))

# Variables of the interpreter that runs the plugin: a tool that works on another interpreter must not see them.
_OF_THIS_INTERPRETER = (
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "UV_PYTHON",
    "UV_PROJECT_ENVIRONMENT",
    "UV_SYSTEM_PYTHON",
    "UV_TARGET",
    "UV_PREFIX",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_USER",
    "PIP_REQUIRE_VIRTUALENV",
)


def tool_environment(**changes: str) -> dict[str, str]:
    """The user's environment (proxies, package index and certificates stay as set) less what names this interpreter,
    with ``changes`` merged over it."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THIS_INTERPRETER}
    return {**kept, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **changes}


class Tools:
    """Runs commands under one lock, into one log.

    ``lock`` is the descriptor of the lock that the build holds. ``folder`` is the commands' working directory (a
    folder of the cache, so that no project file of the user's is picked up).
    """

    def __init__(self, log: Path, lock: int, folder: Path) -> None:
        self.log = log
        self.folder = folder
        self._lock = lock
        with self._append() as handle:
            handle.truncate(0)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> tuple[int, list[str]]:
        """Run ``argv`` to its end; returns the exit code (128 + number for a signal) and the last 200 lines.

        ``on_line`` gets each line of stdout and stderr together, ``tick`` is called about once a second. An exception
        from either, or KeyboardInterrupt, ends the command with all its descendants and is passed on.
        """
        lines: deque[str] = deque(maxlen=200)
        with self._append() as log, contextlib.ExitStack() as stack:
            log.write(f"$ {' '.join(argv)}\n".encode("utf-8", "surrogateescape"))
            log.flush()
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", _GUARD, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else tool_environment(),
                cwd=self.folder,
                pass_fds=(self._lock,),
                # A terminal's Ctrl-C is for the caller, who decides; the guard ends the command when told so.
                start_new_session=True,
            )
            assert guard.stdin is not None
            assert guard.stdout is not None
            stack.callback(guard.wait)
            stack.enter_context(guard.stdout)
            # Left first: closing this pipe is what tells the guard to end a command that still runs.
            stack.enter_context(guard.stdin)
            for line in _lines(guard.stdout, log, tick):
                lines.append(line)
                if on_line is not None:
                    on_line(line)
            code = guard.wait()
            log.write(f"[exit {code}]\n".encode())
        return code, list(lines)

    def _append(self) -> BinaryIO:
        return os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb")


def _lines(stream: IO[bytes], log: BinaryIO, tick: Callable[[], None] | None) -> Iterator[str]:
    """Lines of ``stream`` as they come, copied to ``log``; calls ``tick`` about once a second meanwhile."""
    descriptor = stream.fileno()
    rest = b""
    ticked = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            ready = selector.select(TICK_SECONDS)
            if tick is not None and time.monotonic() - ticked >= TICK_SECONDS:
                ticked = time.monotonic()
                tick()
            if not ready:
                continue
            chunk = os.read(descriptor, 1 << 16)
            log.write(chunk)
            log.flush()
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode("utf-8", "replace").rstrip("\r") for line in whole)
            if not chunk:
                break
    if rest:
        yield rest.decode("utf-8", "replace")


def tail(lines: Sequence[str], count: int = TAIL_LINES) -> str:
    """The last lines that say something, indented, for an error message."""
    return "\n".join(f"  | {line[:200]}" for line in [line for line in lines if line.strip()][-count:])
