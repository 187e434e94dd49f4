"""What the terminal shows while something takes long, and the processes that take long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Callable, TextIO

from .errors import SetupError

TICK_SECONDS = 8.0
GRACE_SECONDS = 5.0


class Reporter:
    """Prints lines `name | text`; steps may run side by side, lines never mix.

    Writes to stderr: stdout belongs to what a target is asked for (`make output`, `make env`).
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, step: str, text: str) -> None:
        """One line of a step."""
        self.line(f"{step:<9}| {text}")

    def line(self, text: str) -> None:
        """One line, or several that stay together."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            print(text, file=self._stream or sys.stderr, flush=True)


class Children:
    """The processes started here: each with its own process group, all ended when the set-up ends early."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._living: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """True once `stop` was called; a process that ends then has not failed by itself."""
        return self._stopped

    @contextlib.contextmanager
    def process(self, argv: Sequence[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
        """Starts a process and ends its whole group on the way out, if it still lives.

        Raises:
            SetupError: The set-up is being stopped, or the executable cannot be started.
        """
        with self._lock:
            if self._stopped:
                raise SetupError("Not started: the set-up is being stopped.", fix="Run the same command again.")
            try:
                child: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
                    list(argv), stdin=subprocess.DEVNULL, start_new_session=True, **options
                )
            except OSError as error:
                raise SetupError(
                    f"{argv[0]} cannot be started: {error.strerror or error}.",
                    fix="See that the file is there and that its file system allows executables.",
                ) from None
            self._living.add(child)
        try:
            yield child
        finally:
            if child.poll() != 0:
                _end_group(child)
            if child.stdout is not None:
                child.stdout.close()
            with self._lock:
                self._living.discard(child)

    def stop(self) -> None:
        """Ends every living process group; later starts are refused."""
        with self._lock:
            self._stopped = True
            living = list(self._living)
        for child in living:
            _end_group(child)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    # The leader's end is not the group's: a compiler's helper may have outlived it, or ignore TERM.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=GRACE_SECONDS)


class Runner:
    """Runs the commands of one step: output to a log, a line in the terminal every few seconds."""

    def __init__(self, step: str, reporter: Reporter, children: Children, logs: Path) -> None:
        self.step = step
        self.reporter = reporter
        self.children = children
        self.logs = logs

    def say(self, text: str) -> None:
        """One line of this step."""
        self.reporter.say(self.step, text)

    def run(
        self,
        argv: Sequence[str],
        *,
        doing: str,
        fix: str,
        log: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        detail: Callable[[Path], str] | None = None,
    ) -> float:
        """Runs a command to its end, its output in `logs/<log>`.

        Args:
            argv: The command.
            doing: What it does, for the progress line ("building pulumi v3.250.0").
            fix: What to do if it fails.
            log: Name of the log file.
            cwd: Folder to run in.
            env: Variables merged over the present environment.
            detail: Reads the log and tells how far it is.

        Returns:
            Seconds that it took.

        Raises:
            SetupError: It ended with another code than 0; names the log.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / log
        start = time.monotonic()
        with path.open("wb") as output:
            output.write((" ".join(argv) + "\n").encode())
            output.flush()
            with self.children.process(
                argv, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=merged(env)
            ) as child:
                while True:
                    try:
                        code = child.wait(timeout=TICK_SECONDS)
                        break
                    except subprocess.TimeoutExpired:
                        told = detail(path) if detail is not None else ""
                        self.say(f"{doing}: {time.monotonic() - start:.0f} s{', ' + told if told else ''}")
        return self._judge(code, doing, fix, path, time.monotonic() - start)

    def follow(
        self, argv: Sequence[str], *, doing: str, fix: str, log: str, env: Mapping[str, str] | None = None
    ) -> float:
        """As `run`, for a command that tells its own progress: its lines are shown, and kept in the log.

        When it is silent for a while, its last line is repeated with the elapsed time.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / log
        start = time.monotonic()
        last = (doing, start)
        done = threading.Event()

        def tick() -> None:
            nonlocal last
            while not done.wait(1.0):
                now = time.monotonic()
                text, shown = last
                if now - shown >= TICK_SECONDS:
                    last = (text, now)
                    self.say(f"{text} ... {now - start:.0f} s in all")

        with (
            path.open("wb") as output,
            self.children.process(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=merged(env)) as child,
        ):
            ticker = threading.Thread(target=tick, daemon=True)
            ticker.start()
            try:
                assert child.stdout is not None
                for raw in child.stdout:
                    output.write(raw)
                    output.flush()
                    text = raw.decode("utf-8", errors="replace").rstrip()
                    if text:
                        last = (text, time.monotonic())
                        self.say(text)
                code = child.wait()
            finally:
                done.set()
                ticker.join()
        return self._judge(code, doing, fix, path, time.monotonic() - start)

    def _judge(self, code: int, doing: str, fix: str, log: Path, seconds: float) -> float:
        if code == 0:
            return seconds
        ending = f"failed with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        if self.children.stopped:
            ending = "was stopped"
        raise SetupError(f"{doing} {ending} after {seconds:.0f} s.", fix=fix, log=log)


def merged(env: Mapping[str, str] | None) -> dict[str, str]:
    """The present environment with `env` over it."""
    return {**os.environ, **(env or {})}
