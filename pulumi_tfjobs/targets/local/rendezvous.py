"""Horovod's rendezvous server on a socket that is already open. Runs in the training environment's interpreter.

    python rendezvous.py <plan.json> <handle of the listening socket>

The supervisor has opened the socket, so the ranks start at the same moment as this and need no port to be free later.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any


class Slot:
    """What the server asks of a rank: its host name, sizes and local rank."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def main() -> None:
    """Serve until killed."""
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path != own]  # Horovod must not find our queue.py as the library's
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    with open(sys.argv[1], encoding="utf-8") as stream:
        slots = [Slot(values) for values in json.load(stream)["rendezvous"]["slots"]]
    inherited = socket.socket(fileno=int(sys.argv[2]))

    class Server(RendezvousHTTPServer):  # type: ignore[misc]
        daemon_threads = True

        def server_bind(self) -> None:
            self.socket.close()
            self.socket: socket.socket = inherited
            self.server_address = inherited.getsockname()
            self.server_name, self.server_port = self.server_address[:2]

        def server_activate(self) -> None:
            """The socket listens already."""

    server = Server(inherited.getsockname(), RendezvousHandler, 0)
    server.init(slots)
    server.serve_forever()


if __name__ == "__main__":
    main()
