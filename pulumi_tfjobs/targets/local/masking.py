"""Secrets in what replicas print become ``***``, also where one arrives in parts. Standard library only.

Only what can be told from other text is masked: a value of four characters or more that is no mere ``true`` or
``none``. Of one with several lines (a key, a JSON document) each line of eight characters or more is masked by itself
as well, since programs print such values line by line or with their line ends escaped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

MASK = b"***"
LEAST_VALUE = 4
LEAST_LINE = 8
_COMMON = frozenset({"true", "false", "none", "null"})
# What looks like the beginning of a secret is shown after a while if it is no more than this, and no more than a
# quarter of the secret: most likely it is something else, a prompt that waits for an answer.
_LITTLE = 3


class Secrets:
    """The values to mask, common to all logs of a run."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        values: set[str] = set()
        self._unmasked: list[str] = []
        for name, variable in variables.items():
            value = variable.strip()
            if len(value) >= LEAST_VALUE and value.lower() not in _COMMON:
                values.add(value)
                lines = [line.strip() for line in value.splitlines()]
                values.update(line for line in lines if len(line) >= LEAST_LINE)
            elif value:
                self._unmasked.append(name)
        # The longest first: in a text full of secrets that leaves the least to do.
        self._values = sorted((_Value(_encoded(value)) for value in values), key=lambda value: -len(value.text))

    def warnings(self) -> list[str]:
        """About variables whose values cannot be masked."""
        return [
            f"the secret environment variable {name} is not masked in logs: its value is shorter than {LEAST_VALUE} "
            "characters or a common word"
            for name in self._unmasked
        ]

    def masker(self) -> Masker | None:
        """For one log. None where there is nothing to mask."""
        return Masker(self._values) if self._values else None


class _Value:
    def __init__(self, text: bytes) -> None:
        self.text = text
        self.step = _period(text)
        self.little = min(_LITTLE, len(text) // 4)

    def begun(self, data: bytes) -> int:
        """How many bytes at the end of the data are a beginning of this value, at most; less than all of it."""
        end = data[1 - len(self.text) :]
        at = end.find(self.text[:1])
        while at >= 0 and not self.text.startswith(end[at:]):
            at = end.find(self.text[:1], at + 1)
        return 0 if at < 0 else len(end) - at


class Masker:
    """Masks what arrives piece by piece; :meth:`feed` holds back an end that may be the beginning of a secret.

    Every byte of every occurrence is covered, also where occurrences overlap.
    """

    def __init__(self, values: list[_Value]) -> None:
        self._values = values
        self._held = b""
        # So many bytes of what is held are told already: covered by a mask, or shown after a while.
        self._told = 0
        self._covered = False

    @property
    def waits(self) -> bool:
        """Whether something is held back that :meth:`show` would show."""
        return self._told < len(self._held) and all(value.begun(self._held) <= value.little for value in self._values)

    def feed(self, data: bytes) -> bytes:
        """What can be told now."""
        if self._held:
            data = self._held + data
        keep = max(value.begun(data) for value in self._values)
        if not (self._held or keep or any(value.text in data for value in self._values)):
            return data
        return self._tell(data, len(data) - keep)

    def show(self) -> bytes:
        """What is held back, as far as it is little. It still counts as the beginning of a secret."""
        if not self.waits:
            return b""
        shown = self._held[self._told :]
        self._told, self._covered = len(self._held), False
        return shown

    def finish(self) -> bytes:
        """The rest, when nothing more will come: a great part of a secret is masked like the whole."""
        data, told = self._held, self._told
        spans = self._spans(data)
        part = max((begun for value in self._values if (begun := value.begun(data)) > value.little), default=0)
        if part:
            spans = _merged([*spans, (len(data) - part, len(data))])
        result = self._text(data, spans, told, len(data))
        self._held, self._told, self._covered = b"", 0, False
        return result

    def _tell(self, data: bytes, end: int) -> bytes:
        """Everything before ``end``; what comes after it is held."""
        spans = self._spans(data)
        result = self._text(data, spans, self._told, end)
        told = max(0, self._told - end)
        covered = self._covered and told > 0
        for start, stop in spans:
            if start < end < stop:
                # Its mask has been told, so the part of it that is held must not be told again.
                told, covered = max(told, stop - end), True
        self._held, self._told, self._covered = data[end:], told, covered
        return result

    def _spans(self, data: bytes) -> list[tuple[int, int]]:
        """What is covered by secrets, in order, occurrences that overlap as one."""
        found = []
        for value in self._values:
            at = data.find(value.text)
            while at >= 0:
                found.append((at, at + len(value.text)))
                at = data.find(value.text, at + value.step)
        return _merged(found)

    def _text(self, data: bytes, spans: list[tuple[int, int]], told: int, end: int) -> bytes:
        parts = []
        position = told
        covered = self._covered and told > 0
        for start, stop in spans:
            if start >= end:
                break
            if stop <= told:
                continue
            if start < told and covered:
                position = stop  # goes on where a mask has been told
                continue
            parts += [data[position:start], MASK]
            position = stop
        if position < end:
            parts.append(data[position:end])
        return b"".join(parts)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _period(text: bytes) -> int:
    """The least distance at which the text can occur again: its length, less if its end is also its beginning."""
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = borders[length - 1]
        if text[index] == text[length]:
            length += 1
        borders[index] = length
    return len(text) - length


def _encoded(value: str) -> bytes:
    try:
        return os.fsencode(value)  # as a replica gets it
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
