"""Where the scripts of a test come by: they announce themselves, and do what the test answers."""

from __future__ import annotations

import json
import socket
import struct

import psutil

DEADLINE = 60.0

# One training script for every test. It notes each launch in a file outside, then does as its parameters say; with
# GATE in its environment it asks the test what to do.
SCRIPT = """
import json, os, socket, sys

def record(**values):
    if os.environ.get("TFJOBS_RANK") != "0":  # of several that write, a late one's first line would be the last
        return
    with open(os.environ["TFJOBS_METRICS_FILE"], "a") as stream:
        stream.write(json.dumps(values) + "\\n")

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(os.environ["LAUNCHES"], "a") as stream:
    stream.write(json.dumps({"run": os.environ["TFJOBS_RUN_ID"], "pid": os.getpid(), "argv": sys.argv[1:]}) + "\\n")
print("training with", options, flush=True)
code = int(options.get("--exit", 0))
if "GATE" in os.environ:
    gate = socket.socket(socket.AF_UNIX)
    gate.connect(os.environ["GATE"])
    hello = {"pid": os.getpid(), "run": os.environ["TFJOBS_RUN_ID"], "argv": sys.argv[1:]}
    gate.sendall((json.dumps(hello) + "\\n").encode())
    code = int(gate.makefile().readline() or 9)
record(step=1, accuracy=0.5)
record(step=2, accuracy=float(options.get("--accuracy", 0.97)))
with open(os.path.join(os.environ["TFJOBS_OUTPUT_DIR"], "model.txt"), "w") as stream:
    stream.write("weights")
if code:
    print("the loss is no number", flush=True)
sys.exit(code)
"""


class Arrival:
    """A script that waits at the gate for what it is to do."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(DEADLINE)
        with connection.makefile() as stream:
            hello = json.loads(stream.readline())
        self.pid: int = hello["pid"]
        self.run: str = hello["run"]
        self.argv: list[str] = hello["argv"]
        # As this machine has it: a pod counts its processes by itself.
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.process = psutil.Process(struct.unpack("3i", credentials)[0])

    def answer(self, code: int = 0) -> None:
        """Let the script end with this exit code."""
        self._connection.sendall(f"{code}\n".encode())
        self._connection.close()

    def gone(self) -> bool:
        """Whether its process has ended, waiting for that until the deadline."""
        return has_ended(self.process)

    def close(self) -> None:
        self._connection.close()


class Gate:
    """Where the scripts of a test come by. A launch is an arrival, so that launches are counted exactly."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(16)
        self._arrivals: list[Arrival] = []

    def wait(self, deadline: float = DEADLINE) -> Arrival:
        """The next script that starts."""
        self._socket.settimeout(deadline)
        connection, _ = self._socket.accept()
        arrival = Arrival(connection)
        self._arrivals.append(arrival)
        return arrival

    def close(self) -> None:
        for arrival in self._arrivals:
            arrival.close()
        self._socket.close()


def has_ended(process: psutil.Process) -> bool:
    """Whether it has ended, or does so until the deadline."""
    try:
        process.wait(DEADLINE)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True
