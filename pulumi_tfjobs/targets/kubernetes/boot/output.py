"""What a pod prints: its replicas' output, masked, and between their lines what the reader of the log is told.

A line of ours is ``::tfjobs:: {json}``. Standard library only.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pulumi_tfjobs.targets.local.blame import TAIL
from pulumi_tfjobs.targets.local.masking import Secrets

MARK = "::tfjobs:: "
_BLOCK = 1 << 16
_HOLD_SECONDS = 0.5
# For a runtime to take what a container has printed, and then to write it down.
_DRAIN_SECONDS = 5.0
_TAKEN_SECONDS = 0.1


class Output:
    """Standard output, shared by threads."""

    def __init__(self, handle: int = 1) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._between_lines = True
        self._masker: Callable[[], Any] = _no_masker

    def hide(self, masker: Callable[[], Any]) -> None:
        """Mask secrets in what is told from now on. ``masker`` makes one, or None where there is nothing to mask.
        (What replicas print is masked as it comes, see :class:`Copier`.)"""
        self._masker = masker

    def masked(self, text: str) -> str:
        """The text without secrets."""
        masker = self._masker()
        if masker is None:
            return text
        data = text.encode("utf-8", "surrogateescape")
        shown: bytes = masker.feed(data) + masker.finish()
        return shown.decode("utf-8", "surrogateescape")

    def write(self, data: bytes) -> None:
        """As it is."""
        if not data:
            return
        with self._lock:
            self._put(data)
            self._between_lines = data.endswith(b"\n")

    def tell(self, event: str, **values: Any) -> None:
        """A line for whoever reads the log."""
        values = {name: self._hidden(value) for name, value in values.items()}
        text = json.dumps({"e": event, "time": round(time.time(), 3), **values}, separators=(",", ":"))
        with self._lock:
            self._put((b"" if self._between_lines else b"\n") + f"{MARK}{text}\n".encode())
            self._between_lines = True

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.masked(value)
        return [self._hidden(item) for item in value] if isinstance(value, list) else value

    def note(self, text: str) -> None:
        """Something that people should know."""
        self.tell("note", text=text)

    def drain(self) -> None:
        """Wait until what was written was taken: a runtime may drop what is in the pipe when its container ends."""
        import fcntl
        import struct
        import termios

        until = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < until:
            try:
                waiting = struct.unpack("i", fcntl.ioctl(self._handle, termios.FIONREAD, b"\0" * 4))[0]
            except OSError:  # no pipe
                return
            if not waiting:
                time.sleep(_TAKEN_SECONDS)
                return
            time.sleep(0.01)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]


def _no_masker() -> None:
    return None


class Copier(threading.Thread):
    """Copies what a replica prints until all that hold its pipe have ended, and remembers the end of it. ``prefix`` is
    put before each line, where a pod has several replicas."""

    def __init__(self, reader: int, output: Output, masker: Any, prefix: bytes = b"") -> None:
        super().__init__(daemon=True)
        self._reader = reader
        self._output = output
        self._masker = masker
        self._prefix = prefix
        self._rest = b""
        self._last = b""

    def tail(self, size: int) -> str:
        """The end of what was printed, at most so many bytes (and 16 KiB)."""
        return self._last[-size:].decode("utf-8", "replace")

    def run(self) -> None:
        import select

        while True:
            held = self._masker is not None and self._masker.waits
            ready = select.select([self._reader], [], [], _HOLD_SECONDS if held else None)[0]
            if not ready:
                self._show(self._masker.show())
                continue
            try:
                data = os.read(self._reader, _BLOCK)
            except OSError:
                data = b""
            if not data:
                break
            self._show(self._masker.feed(data) if self._masker is not None else data)
        if self._masker is not None:
            self._show(self._masker.finish())
        if self._rest:
            self._output.write(self._prefix + self._rest + b"\n")
        os.close(self._reader)

    def _show(self, data: bytes) -> None:
        self._last = (self._last + data)[-TAIL:]
        if not self._prefix:
            self._output.write(data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            self._output.write(b"".join(self._prefix + line + b"\n" for line in lines))
        if len(self._rest) > _BLOCK:  # a line without an end
            self._output.write(self._prefix + self._rest + b"\n")
            self._rest = b""


class Metrics(threading.Thread):
    """Tells the lines of the metrics file as they come, once a second."""

    def __init__(self, path: str, output: Output) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._output = output
        self._end = threading.Event()
        # Lines of attempts before this one were told by them.
        self._place = self._size()

    def run(self) -> None:
        while not self._end.wait(1.0):
            self._poll()

    def finish(self) -> None:
        """The rest, an unfinished line included."""
        self._end.set()
        self.join()
        self._poll(last=True)

    def _size(self) -> int:
        try:
            return os.path.getsize(self._path)
        except OSError:
            return 0

    def _poll(self, *, last: bool = False) -> None:
        try:
            with open(self._path, "rb") as stream:
                if self._size() < self._place:  # written anew
                    self._place = 0
                stream.seek(self._place)
                data = stream.read()
        except OSError:
            return
        end = len(data) if last else data.rfind(b"\n") + 1
        lines = data[:end].decode("utf-8", "replace").splitlines()
        self._place += end
        for start in range(0, len(lines), 100):
            self._output.tell("metrics", lines=lines[start : start + 100])


def secrets_of(variables: Mapping[str, str], output: Output) -> Callable[[], Any]:
    """Makes maskers for the values of these variables; ``output`` masks them from now on, and tells which cannot be."""
    found = Secrets(variables)
    # As they stand in a line of JSON, where that is another way: metrics are such lines.
    escaped = {name: text for name, value in variables.items() if (text := json.dumps(value)[1:-1]) != value}
    masker = Secrets({**variables, **{f"{name} in JSON": text for name, text in escaped.items()}}).masker
    output.hide(masker)
    for text in found.warnings():
        output.note(text)
    return masker
