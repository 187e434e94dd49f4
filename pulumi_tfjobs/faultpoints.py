"""Named points of a run's life at which a test can hold this process, so that what it kills is killed exactly there.

Nothing happens unless ``$TFJOBS_FAULTPOINTS`` names a Unix socket: then each point says its name and pid there, and
waits for an answer (a line) before it goes on. Standard library only.
"""

from __future__ import annotations

import os

VARIABLE = "TFJOBS_FAULTPOINTS"

# In the order in which a create meets them. The first eight are met in the plugin, the rest in the run's supervisor.
PLUGIN_POINTS = ("reserve", "reserved", "prepare", "prepared", "launch", "launched", "wait", "return")
SUPERVISOR_POINTS = ("confirm", "queue", "start", "started", "decided", "finish")

_address = os.environ.get(VARIABLE, "")


def address() -> str:
    """The socket's path, empty where nobody listens."""
    return _address


def listen_at(path: str) -> None:
    """From now on tell the points to this socket: the supervisor does not inherit the variable."""
    global _address  # noqa: PLW0603 (set once, where the process begins)
    _address = path


def reached(point: str) -> None:
    """Tell that this point is reached, and wait until the test lets this process go on. Returns at once outside tests.

    Blocks its thread: call it from a thread where an event loop runs.
    """
    if not _address:
        return
    import json
    import socket

    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(_address)
            connection.sendall(json.dumps({"point": point, "pid": os.getpid()}).encode() + b"\n")
            connection.recv(64)
    except OSError:  # the test is over
        return
