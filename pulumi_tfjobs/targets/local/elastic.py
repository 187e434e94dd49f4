"""The supervisor's side of an elastic Horovod run: what it and elastic_driver.py tell each other.

Standard library only.

The driver says which worker to start, with which variables, and what has become of the run; it is told how workers
end. The protocol is in elastic_driver.py.
"""

from __future__ import annotations

import contextlib
import os
import socket

from pulumi_tfjobs.targets.local.members import Member
from pulumi_tfjobs.targets.local.mpi import Reports

DRIVER = "elastic-driver"


class Link(Reports):
    """A socket to the driver. ``other`` is the driver's end of it; while that is open here, ``reader`` has no end."""

    def __init__(self) -> None:
        ours, other = socket.socketpair()
        ours.setblocking(False)
        super().__init__(ours.detach())
        self.other = other.detach()

    def tell(self, member: Member) -> None:
        """The worker has ended."""
        code = member.exit_code if member.signal is None else 128 + member.signal
        # A driver that is gone, or does not read, has its end seen and told elsewhere.
        with contextlib.suppress(OSError):
            os.write(self.reader, b'{"ended": %d, "code": %d}\n' % (member.index, code or 0))


def program() -> str:
    """The driver's file."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "elastic_driver.py")
