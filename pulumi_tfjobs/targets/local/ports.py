"""Free loopback ports for the members of a group, claimed against the supervisors of other runs. Standard library only.

A port is chosen outside the range from which the kernel hands out ports by itself, claimed by binding an abstract Unix
socket named after it, and tried. The claim has exactly the reach of the port (a network namespace) and life (it ends
with the supervisor, however that ends), and leaves no file. Programs that know nothing of claims can still take the
port before the replica binds it: then the group is started again with other ports.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket  # loaded where a run needs ports: most runs of one process do not, and start sooner

# Above the ports of well-known services, below where Linux starts to hand out ports by itself.
_LOWEST = 20000
_HIGHEST = 65535
_ENOUGH = 1000


class Claim:
    """A name that one process at a time holds. Where abstract sockets do not exist, nothing is claimed."""

    def __init__(self, name: str) -> None:
        self._socket: socket.socket | None = None
        if sys.platform == "linux":
            import socket

            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                self._socket.bind(f"\0pulumi_tfjobs/{name}")
            except OSError:
                self._socket.close()
                raise

    def release(self) -> None:
        if self._socket is not None:
            self._socket.close()


class Ports:
    """The ports of one group of replicas."""

    def __init__(self) -> None:
        self._claims: list[Claim] = []
        self.numbers: list[int] = []

    def take(self, count: int) -> list[int]:
        """Claim that many ports that are free now. Raises OSError where there are not that many."""
        if not count:
            return []
        low, high = usable_range()
        span = high - low + 1
        start = int.from_bytes(os.urandom(4), "little") % span  # spreads the runs
        taken: list[int] = []
        for step in range(span):
            if len(taken) == count:
                break
            port = low + (start + step) % span
            try:
                claim = Claim(f"port/{port}")
            except OSError:
                continue
            if is_free(port, fresh=True):
                self._claims.append(claim)
                taken.append(port)
            else:
                claim.release()
        if len(taken) < count:
            raise OSError(f"only {len(taken)} of {count} ports are free on 127.0.0.1 between {low} and {high}")
        self.numbers += taken
        return taken

    def release(self) -> None:
        for claim in self._claims:
            claim.release()
        self._claims, self.numbers = [], []

    def lost(self) -> list[int]:
        """Ports that somebody holds although none of our processes lives any more."""
        return [port for port in self.numbers if not is_free(port, fresh=False)]


def usable_range(path: str = "/proc/sys/net/ipv4/ip_local_port_range") -> tuple[int, int]:
    """First and last port to choose from: the larger room beside the kernel's own range."""
    try:
        with open(path, encoding="ascii") as stream:
            first, last = map(int, stream.read().split())
    except (OSError, ValueError):
        first, last = 32768, 60999
    below = (_LOWEST, first - 1)
    above = (last + 1, _HIGHEST)
    best = max(below, above, key=lambda room: room[1] - room[0])
    if best[1] - best[0] + 1 < _ENOUGH:  # the kernel's range covers nearly everything: a small risk beats no port
        return _LOWEST, _HIGHEST
    return best


def is_free(port: int, *, fresh: bool) -> bool:
    """Whether a server could bind the port. ``fresh`` wants it unused in every way; otherwise connections of a server
    that has ended, which linger in TIME_WAIT, do not count."""
    import socket

    # TensorFlow's servers bind all addresses whatever TF_CONFIG says, so the port must be free on all of them. Binding
    # without listening lets nobody in.
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if not fresh:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def listen() -> socket.socket:
    """A listening loopback socket on a port that the kernel chose: it is handed over open, so nobody can take it."""
    import socket

    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.bind(("127.0.0.1", 0))
    server.listen(min(1024, socket.SOMAXCONN if os.name == "posix" else 128))
    return server
