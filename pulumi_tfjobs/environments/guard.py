"""Runs one command for the environment builder and ends it when the builder is gone. Standard library only.

Started as ``python -I -S guard.py <command…>`` with a pipe as standard input, whose other end only the builder
holds. A compiler run has many descendants, and a builder that was killed cannot end them: the kernel closes the pipe,
and this process then ends the command's whole process group (TERM, five seconds, KILL). Exits as the command did (a
signal as 128 + its number).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

GRACE_SECONDS = 5


def main(argv: list[str]) -> int:
    """Run ``argv`` until it ends or the builder is gone; its exit code."""
    # The read end that SIGCHLD writes to: one place to wait for both the command's end and the builder's.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Who wants the command ended closes the pipe; a signal to us alone would leave the command running.
        signal.signal(number, lambda *_: None)
    try:
        # close_fds=False: the builder's lock stays held as long as anything of the command lives.
        command = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, close_fds=False)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", flush=True)  # noqa: T201 -- stdout is the command's log
        return 127
    builder_lives = True
    while command.poll() is None:
        ready, _, _ = select.select([wake_read, *([0] if builder_lives else [])], [], [], 60)
        if wake_read in ready:
            os.read(wake_read, 4096)
        if 0 in ready and not os.read(0, 4096):
            builder_lives = False
            end(command)
    code = command.returncode
    return code if code >= 0 else 128 - code


def end(command: subprocess.Popen[bytes]) -> None:
    """End the command's process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(command.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(GRACE_SECONDS)
        # The leader may have ended while members of its group live on.
        os.killpg(command.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
