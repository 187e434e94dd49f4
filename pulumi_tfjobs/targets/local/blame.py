"""Which of several failed replicas failed by itself, and which only because of another. Standard library only, and for
Python 3.8: the bootstrap of pods judges by it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

# What the libraries print in a process whose peer is gone. Such a process often ends before the one that it missed:
# that one still tidies up, or tells the others first and then ends.
_CONSEQUENCES = (
    "Horovod has been shut down",
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Socket closed",
    "failed to connect to all addresses",
)
TAIL = 16 * 1024


class Printed(Protocol):
    """What a replica has printed."""

    def tail(self, size: int, /) -> str:
        """The end of it, at most so many bytes."""


class Failed(Protocol):
    """A replica that has failed. ``signal``: the one that has ended it, if one has."""

    @property
    def signal(self) -> int | None: ...

    @property
    def log(self) -> Printed: ...


_F = TypeVar("_F", bound=Failed)


def culprit(failed: Sequence[_F]) -> _F | None:
    """The replica to name first: the first to fail whose log does not tell that it only missed another; else the first.

    ``failed`` is in the order in which they ended.
    """
    return next((member for member in failed if not is_consequence(member)), failed[0] if failed else None)


def is_consequence(member: Failed) -> bool:
    """Whether it tells that it failed because it missed another."""
    if member.signal is not None:
        return False
    text = member.log.tail(TAIL)
    return any(phrase in text for phrase in _CONSEQUENCES)
