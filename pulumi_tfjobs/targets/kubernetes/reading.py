"""A pod's log as the API sends it, read so that no line is lost or doubled however often the connection is cut. Pure.

Each line comes with its time. Who goes on asks for what was printed since the *second* of the last line, as no finer
time reaches the kubelet, and skips what it has of that second.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import NamedTuple

# A line is held back until it ends, if it is no longer than this; a longer one is passed on in parts.
LONGEST = 256 * 1024
# What the bootstrap writes for us may be longer, and is no use in parts.
_LONGEST_MARKER = 4 << 20
MARKER = b"::tfjobs:: "
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_LONGEST_TIME = 36
# The kubelet's own words where a log has gone; they come without a time.
_NOT_PRINTED = (b"unable to retrieve container logs for ", b"failed to try resolving symlinks in path ")


class Mark(NamedTuple):
    """How far a log was read: ``time`` of the latest line (UTC, without zone), ``had`` lines of its second or later.
    ``part``: how much of the next line's text was passed on already."""

    time: str = ""
    had: int = 0
    part: int = 0

    @property
    def since(self) -> str:
        """From when to read on, as the API takes it; empty for the beginning."""
        return f"{self.time[:19]}Z" if self.time else ""


class LogReader:
    """From chunks to texts. A text is a line with its end, or a part of one that is very long.

    :attr:`mark` is what to go on from after all texts that were returned so far.
    """

    def __init__(self, mark: Mark = Mark()) -> None:  # noqa: B008 it cannot change
        self._last = mark.time.encode()
        self._count = mark.had
        self._part = mark.part
        self._held = bytearray()
        self.begin()

    def begin(self) -> None:
        """A new connection, which reads from ``mark.since``."""
        self._held.clear()
        self._skip = self._count
        # Within a line that is too long to be held: how much of its text has come, and whether it is had already.
        self._inside = False
        self._place = 0
        self._dropping = False

    @property
    def mark(self) -> Mark:
        return Mark(self._last.decode(), self._count, self._part)

    def feed(self, chunk: bytes) -> list[bytes]:
        """What the chunk completes."""
        self._held += chunk
        if b"\n" not in chunk and len(self._held) <= LONGEST:
            return []
        *lines, rest = bytes(self._held).split(b"\n")
        texts: list[bytes] = []
        for line in lines:
            self._take(line, texts)
        self._held = bytearray(rest)
        if len(rest) > LONGEST and not (self._is_marker(rest) and len(rest) <= _LONGEST_MARKER):
            self._take_part(rest, texts)
            self._held.clear()
        return texts

    def finish(self) -> list[bytes]:
        """The last line where the log ended without an end of line."""
        texts: list[bytes] = []
        if self._held:
            self._take(bytes(self._held), texts)
            self._held.clear()
        return texts

    def _is_marker(self, line: bytes) -> bool:
        return not self._inside and line[: _LONGEST_TIME + len(MARKER)].partition(b" ")[2].startswith(MARKER)

    def _take(self, line: bytes, texts: list[bytes]) -> None:
        """A line, or the rest of a long one."""
        text = line
        if not self._inside:
            time, text = _split(line)
            if not time:
                if not line.startswith(_NOT_PRINTED):
                    texts.append(line + b"\n")
                return
            self._meet(time)
        if not self._dropping:
            texts.append(self._new(text) + b"\n")
            self._count += 1
            self._part = 0
        self._inside, self._place = False, 0

    def _take_part(self, text: bytes, texts: list[bytes]) -> None:
        """The beginning of a long line, or more of it."""
        if not self._inside:
            time, text = _split(text)
            self._meet(time)
            self._inside = True
        if not self._dropping:
            if new := self._new(text):
                texts.append(new)
            self._part = max(self._part, self._place)

    def _meet(self, time: bytes) -> None:
        self._dropping = self._had(time)
        if self._dropping:
            return
        if time != self._last:
            self._part = 0
        if time[:19] > self._last[:19]:
            self._count = 0
        self._last = max(self._last, time)

    def _new(self, text: bytes) -> bytes:
        """The text without what an earlier connection has brought of this line."""
        had = max(0, self._part - self._place)
        self._place += len(text)
        return text[had:] if had else text

    def _had(self, time: bytes) -> bool:
        """Whether a line with this time is one of those that are to be skipped. Times may be out of order within a
        log, so lines are counted; a log that was rotated meanwhile has fewer, and the first later time shows it."""
        if self._skip and time <= self._last:
            self._skip -= 1
            return True
        self._skip = 0
        return False


def _split(line: bytes) -> tuple[bytes, bytes]:
    """A line's time, in UTC and without zone so that it can be compared, and its text; no time where it has none."""
    time, _, text = line.partition(b" ")
    if len(time) > _LONGEST_TIME or not _TIME.fullmatch(time):
        return b"", line
    if time.endswith(b"Z"):
        return time[:-1], text
    whole, zone = time[:19], time[-6:]
    moment = datetime.fromisoformat((whole + zone).decode()).astimezone(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S").encode() + time[19:-6], text
