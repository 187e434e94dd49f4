"""Which of several failed replicas failed by itself, and which only because of another. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence

from pulumi_tfjobs.targets.local.members import Member

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
_TAIL = 16 * 1024


def culprit(failed: Sequence[Member]) -> Member | None:
    """The replica to name first: the first to fail whose log does not tell that it only missed another; else the first.

    ``failed`` is in the order in which they ended.
    """
    for member in failed:
        if member.signal is not None or not _is_consequence(member):
            return member
    return failed[0] if failed else None


def _is_consequence(member: Member) -> bool:
    text = member.log.tail(_TAIL)
    return any(phrase in text for phrase in _CONSEQUENCES)
