"""Jobs with real TensorFlow, run by their life's steps without an engine; and a gate where their scripts meet the test.

Nothing waits by sleeping: a script tells the gate where it is and waits there for an answer.
"""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from pulumi_tfjobs import lifecycle
from pulumi_tfjobs.environments.examples import EXAMPLE_PACKAGES
from pulumi_tfjobs.lifecycle import ProgressLine, RunResult
from pulumi_tfjobs.lifecycle.common import open_store, open_target
from pulumi_tfjobs.spec.state import RunState

DEADLINE = 180.0
REPO = Path(__file__).resolve().parents[2]

# What scripts of these tests begin with. tell() says where a script is; it returns once the test has answered.
TELL = """
import json, os, socket

def tell(what):
    host, _, port = os.environ["GATE"].rpartition(":")
    replica = os.environ["TFJOBS_REPLICA_TYPE"] + "-" + os.environ["TFJOBS_REPLICA_INDEX"]
    with socket.create_connection((host, int(port))) as gate, gate.makefile("rw") as stream:
        stream.write(json.dumps({"replica": replica, "pid": os.getpid(), "what": what}) + "\\n")
        stream.flush()
        return stream.readline()
"""

T = TypeVar("T")


class Arrival:
    """A script that waits at the gate."""

    def __init__(self, said: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.replica: str = said["replica"]
        self.pid: int = said["pid"]
        self.what: str = said["what"]
        self._writer = writer

    def answer(self) -> None:
        """Let it go on."""
        self._writer.write(b"go on\n")


class Gate:
    """Where scripts come by; a server on loopback, for as long as the test lasts."""

    def __init__(self) -> None:
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.address = ""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if line := await reader.readline():
            self._arrivals.put_nowait(Arrival(json.loads(line), writer))

    async def arrival(self) -> Arrival:
        """The next script that comes by."""
        return await self._arrivals.get()

    async def arrivals(self, count: int) -> dict[str, Arrival]:
        """As many, by replica."""
        found = [await self.arrival() for _ in range(count)]
        return {each.replica: each for each in found}

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()


class Job:
    """A job with the example programs' TensorFlow: its script and inputs (camelCase, as on the wire)."""

    def __init__(self, directory: Path, script: str | None = None, *, name: str = "job", **inputs: Any) -> None:
        self.directory = directory
        self.name = name
        if script is not None:
            source = directory / "src"
            source.mkdir()
            (source / "train.py").write_text(TELL + textwrap.dedent(script), encoding="utf-8")
        self.inputs: dict[str, Any] = {
            "sourceDirectory": "src",
            "entryScript": "train.py",
            "computeTarget": {"kind": "local", "slots": 8},
            "pipPackages": list(EXAMPLE_PACKAGES),
            **inputs,
            "environmentVariables": {"TF_CPP_MIN_LOG_LEVEL": "2", **inputs.get("environmentVariables", {})},
        }
        self.spec = lifecycle.check(self.inputs, name=name, directory=str(directory))
        self.store = open_store(open_target(self.spec.target).namespace)
        self.folder = self.store.folder(self.spec.run_id)
        self.progress: list[ProgressLine] = []
        self.stepped = asyncio.Event()
        """Set once the row shows a step: training is under way."""

    async def run(self) -> RunResult:
        """Train, to the end."""
        ensuring = lifecycle.ensure(
            self.spec,
            inputs=self.inputs,
            urn=f"urn:pulumi:dev::project::tfjobs:index:TrainingJob::{self.name}",
            secrets={},
            timeout=None,
            cancelled=asyncio.Event(),
            progress=self._tell,
        )
        return await asyncio.wait_for(ensuring, DEADLINE)

    def _tell(self, line: ProgressLine) -> None:
        self.progress.append(line)
        if ", step " in line.text:
            self.stepped.set()

    async def state(self) -> RunState:
        """The first attempt as it is now."""
        state = await open_target(self.spec.target).state(self.folder, 1)
        assert state is not None
        return state

    async def stop(self) -> None:
        """End what a failed test has left."""
        await open_target(self.spec.target).stop(self.folder, 1, grace_seconds=0)


async def meanwhile(run: asyncio.Task[RunResult], event: Awaitable[T]) -> T:
    """What the event brings, while the run goes on; where it ends before, the test fails with what it says."""
    waiting = asyncio.ensure_future(event)
    try:
        await asyncio.wait({run, waiting}, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        assert waiting.done(), told(run.result()) if run.done() else f"nothing within {DEADLINE:g} s"
        return waiting.result()
    finally:
        waiting.cancel()


def told(result: RunResult) -> str:
    """All that a run says of itself, for a test's message."""
    return "\n".join([str(result.outputs), *result.failure, *(text for _, text in result.tails)])


def log(result: RunResult, replica: str) -> str:
    """What this replica printed."""
    return Path(result.outputs["logs"][replica]).read_text(encoding="utf-8")
