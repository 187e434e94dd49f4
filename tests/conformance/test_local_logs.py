"""The local target and what replicas print: much of it, and secrets among it."""

from __future__ import annotations

import json
import os

import pytest

from pulumi_tfjobs import observe
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets import logfiles
from tests.conformance.local_place import LocalPlace
from tests.conformance.place import files_with, plan_of, replica, until

MIB = 1 << 20
SECRET = "s3cr3t-token-0123456789"

MUCH = """
line = b"the loss is 0.123456 and the accuracy 0.9876\\n"
block = line * (1024 * 1024 // len(line))
os.write(1, b"the first line\\n")
for number in range(2048):
    view = memoryview(block)
    while view: view = view[os.write(1, view):]
os.write(1, b"the last line\\n")
open("outputs/done", "w").close()
"""

# Writes and waits until the supervisor has taken it, so that what comes next comes by itself.
APART = """
import array, fcntl, termios, time
token = os.environ["TOKEN"].encode()
def say(data):
    os.write(1, data)
    left = array.array("i", [1])
    while left[0]:
        time.sleep(0.001)
        fcntl.ioctl(1, termios.FIONREAD, left)
"""


@pytest.fixture
async def place(local_place: LocalPlace) -> LocalPlace:
    return local_place


async def test_two_gigabytes_take_a_megabyte(place: LocalPlace) -> None:
    folder = await place.launch(plan_of(max_log_bytes=MIB), MUCH)
    log = folder.attempt(1).replica_log("worker-0")
    sizes: list[int] = []

    def written() -> bool:
        sizes.append(logfiles.size(log))
        return place.output(folder, "done") is not None

    await until(written, "everything is printed")
    state = await place.end(folder)
    assert state.phase == phases.SUCCEEDED, state
    sizes.append(logfiles.size(log))
    assert max(sizes) <= MIB
    assert sizes[-1] > MIB // 2 + MIB // 4
    shown = logfiles.read_all(log).split(b"\n")
    assert shown[0] == b"the first line"
    assert shown[-2] == b"the last line"
    (mark,) = [line for line in shown if b"left out" in line]
    assert mark == b"[... 2.0 GiB left out ...]"


async def test_secrets_are_in_no_file_of_the_run(place: LocalPlace) -> None:
    script = APART + (
        "print('whole', token.decode(), flush=True)\n"
        "for part in (b'parts ', token[:7], token[7:8], token[8:], b' end\\n', b'half ', token[:9]): say(part)\n"
        "os._exit(3)\n"
    )
    folder = await place.launch(plan_of(), script, {"TOKEN": SECRET})
    state = await place.end(folder)
    assert state.phase == phases.FAILED
    assert place.log(state, "worker-0") == "whole ***\nparts *** end\nhalf ***"
    assert files_with(folder.root, SECRET) == []
    assert state.warnings == ()


async def test_a_prompt_is_shown_though_its_end_could_begin_a_secret(place: LocalPlace) -> None:
    script = APART + (
        "say(b'go on? ' + token[:2])\n"
        "while not os.path.exists('outputs/go'): time.sleep(0.01)\n"
        "say(token[2:] + b' done\\n')\n"
    )
    folder = await place.launch(plan_of(), script, {"TOKEN": SECRET, "PIN": "12"})
    log = folder.attempt(1).replica_log("worker-0")
    await until(lambda: logfiles.read_all(log) == b"go on? s3", "the prompt is there")
    open(os.path.join(folder.outputs, "go"), "w").close()
    state = await place.end(folder)
    assert place.log(state, "worker-0") == "go on? s3*** done\n"
    (warning,) = state.warnings
    assert "PIN" in warning
    assert "not masked" in warning


async def test_the_reason_of_a_failure_names_no_secret(place: LocalPlace) -> None:
    state = await place.run(
        plan_of(retries=0), "print('no such token: ' + os.environ['TOKEN'])\nsys.exit(3)\n", {"TOKEN": SECRET}
    )
    assert SECRET not in json.dumps(state.to_json())
    assert SECRET not in str(observe.failure_tails(state))
    assert logfiles.read_all(replica(state, "worker-0").log) == b"no such token: ***\n"
