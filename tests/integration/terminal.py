"""What the docs say, and a terminal in which it is done: one bash, into which a test types."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

COMMAND_SECONDS = 420.0
END_SECONDS = 60.0

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of that language, in order."""
    return [body for found, body in _BLOCK.findall(text) if found == language]


def commands(text: str) -> list[str]:
    """What a reader types: the lines after ``$`` of the console blocks."""
    lines = [line for block in blocks(text, "console") for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


class Said(NamedTuple):
    """What a command printed, and how it ended."""

    command: str
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return f"$ {self.command}\n{self.out}{self.err}[exit code {self.code}]"


class Terminal:
    """A bash of its own, so that what one command sets is there for the next."""

    def __init__(self, folder: Path, environment: Mapping[str, str], notes: Path) -> None:
        self._notes = notes
        self._count = 0
        self._ended, ended = os.pipe()
        self._handle = ended
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[ended],
            start_new_session=True,
        )
        os.close(ended)

    def type(self, command: str) -> Said:
        """Run the line and wait for its end. Whether it went well is for the caller to say."""
        self._count += 1
        out, err = (self._notes / f"{self._count}.{kind}" for kind in ("out", "err"))
        assert self._bash.stdin is not None
        # Braces, not parentheses: the variables that it sets stay.
        line = f"{{ {command}\n}} </dev/null >'{out}' 2>'{err}' {self._handle}>&-; echo $? >&{self._handle}\n"
        self._bash.stdin.write(line.encode())
        self._bash.stdin.flush()
        ready, _, _ = select.select([self._ended], [], [], COMMAND_SECONDS)
        code = os.read(self._ended, 16).decode() if ready else ""
        said = Said(command, int(code or -1), out.read_text("utf-8"), err.read_text("utf-8"))
        assert code, f"no end within {COMMAND_SECONDS:g} s, or bash is gone:\n{said.text}"
        return said

    def close(self) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        try:
            self._bash.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, signal.SIGKILL)
            self._bash.wait(END_SECONDS)
        os.close(self._ended)
