"""What replicas print, from their pipes to their logs: in big pieces, with bounded memory. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os

PIPE_BYTES = 1 << 20
TAIL_BYTES = 64 * 1024
# After a read the pipe is left alone for this long (seconds), so that a replica that prints line by line does not wake
# the supervisor for each one; the pipe holds what comes meanwhile. One that prints much must find room: with 1 MiB and
# the short rest it may print 500 MB/s.
_REST_SECONDS = 0.01
_SHORT_REST_SECONDS = 0.002
_MUCH = 64 * 1024

_buffer = memoryview(bytearray(PIPE_BYTES))


def make_pipe() -> tuple[int, int]:
    """A pipe with room for 1 MiB where the system grants it: ``(read end, write end)``; the read end never blocks."""
    reader, writer = os.pipe()
    for size in (PIPE_BYTES, PIPE_BYTES // 4):
        try:
            fcntl.fcntl(writer, getattr(fcntl, "F_SETPIPE_SZ", 1031), size)
        except OSError:  # the user's share of pipe memory is used up, or not Linux
            continue
        break
    os.set_blocking(reader, False)
    return reader, writer


def rest_after(count: int) -> float:
    """How long to leave a pipe alone after so many bytes were read from it, in seconds."""
    return _REST_SECONDS if count < _MUCH else _SHORT_REST_SECONDS


class Log:
    """One replica's log. :attr:`error` holds the error of the first write that failed; what comes after is read and
    dropped, so that the replica is not held up, but for the last 64 KiB, which :meth:`close` tries to write."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.error: OSError | None = None
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._tail = bytearray()
        self.reader: int | None = None

    def connect(self, reader: int) -> None:
        """From now on copy what arrives at this end of a pipe."""
        self.reader = reader

    def pump(self) -> int | None:
        """Copy once. Returns the bytes copied, 0 at the end of the pipe, None where nothing is there now."""
        if self.reader is None:
            return 0
        try:
            count = os.readv(self.reader, [_buffer])
        except BlockingIOError:
            return None
        if count:
            self.write(_buffer[:count])
        return count

    def drain(self) -> None:
        """Copy all that is there."""
        while self.pump():
            pass

    def disconnect(self) -> None:
        if self.reader is not None:
            os.close(self.reader)
            self.reader = None

    def write(self, data: bytes | memoryview) -> None:
        self._tail += data[-TAIL_BYTES:]
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        if self.error is not None:
            return
        try:
            self._write_all(data)
        except OSError as error:
            self.error = error

    def _write_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def tail(self, size: int) -> str:
        """The last ``size`` bytes that were printed, at most 64 KiB."""
        return bytes(self._tail[-min(size, TAIL_BYTES) :]).decode("utf-8", "replace")

    def last_line(self) -> str:
        """The last line that is not empty; empty where nothing was printed."""
        lines = self.tail(4096).split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def restart(self, move_to: str) -> None:
        """Put what was printed so far into that folder, and begin an empty log. Raises OSError."""
        os.makedirs(move_to, mode=0o700, exist_ok=True)
        os.rename(self.path, os.path.join(move_to, os.path.basename(self.path)))
        os.close(self._file)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._tail.clear()

    def close(self) -> None:
        self.disconnect()
        if self.error is not None:
            with contextlib.suppress(OSError):  # the end of the run has often freed some space
                self._write_all(b"\n[... output lost: the log could not be written ...]\n" + self._tail[-TAIL_BYTES:])
        os.close(self._file)
