"""The training script of these tests. It leaves proof of what it did outside of its run's folder.

Standard library only; copied into each project's source folder. ``EVIDENCE`` is a folder: ``records`` in it has a line
for each launch and each thing that was written, and locks there tell whether two of them ever lived at once.
``HOLDER`` is where it comes by (see holder.py); ``--steps`` makes it train that many steps from its checkpoint.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

EVIDENCE = os.environ["EVIDENCE"]
OUTPUTS = os.environ["TFJOBS_OUTPUT_DIR"]
RUN = os.environ["TFJOBS_RUN_ID"]
ATTEMPT = int(os.environ["TFJOBS_ATTEMPT"])
TYPE = os.environ["TFJOBS_REPLICA_TYPE"]
ROLE = f"{TYPE}-{os.environ['TFJOBS_REPLICA_INDEX']}"
OPTIONS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
HELD: list[int | None] = []  # handles whose locks are held as long as this process lives


def record(kind: str, **values: object) -> None:
    line = {"kind": kind, "run": RUN, "attempt": ATTEMPT, "role": ROLE, "pid": os.getpid(), **values}
    handle = os.open(os.path.join(EVIDENCE, "records"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, (json.dumps(line) + "\n").encode())
    os.close(handle)


def lock(name: str, how: int) -> int | None:
    handle = os.open(os.path.join(EVIDENCE, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def be_alone() -> None:
    """Find out whether another replica of this role, or any of another attempt of this run, is alive."""
    mutex = lock(f"{RUN}.mutex", fcntl.LOCK_EX)
    assert mutex is not None
    mine = f"{RUN}.attempt-{ATTEMPT}"
    for name in sorted(os.listdir(EVIDENCE)):
        if name.startswith(f"{RUN}.attempt-") and name != mine:
            other = lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if other is None:
                record("doubled", other=name)
            else:
                os.close(other)
    for name, how in ((f"{RUN}.{ROLE}", fcntl.LOCK_EX), (mine, fcntl.LOCK_SH)):
        handle = lock(name, how | fcntl.LOCK_NB)
        if handle is None:
            record("doubled", other=name)
        HELD.append(handle)
    os.close(mutex)


def keep(name: str) -> None:
    """Write an output that can be told from any other, and note what it must stay."""
    content = hashlib.sha256(f"{RUN} {ROLE} {ATTEMPT} {name}".encode()).digest() * 500
    with open(os.path.join(OUTPUTS, name), "wb") as stream:
        stream.write(content)
    record("wrote", name=name, digest=hashlib.sha256(content).hexdigest())


def come_by() -> None:
    if "HOLDER" not in os.environ:
        return
    with socket.socket(socket.AF_UNIX) as holder:
        holder.connect(os.environ["HOLDER"])
        hello = {"point": ROLE, "pid": os.getpid(), "attempt": os.environ["TFJOBS_ATTEMPT_DIR"]}
        holder.sendall(json.dumps(hello).encode() + b"\n")
        if not holder.recv(64):
            sys.exit(9)


def train(steps: int, seconds: float) -> None:
    """Each step is a line in the outputs, then in the records, then a checkpoint."""
    checkpoint = os.path.join(os.environ["TFJOBS_CHECKPOINT_DIR"], ROLE)
    try:
        with open(checkpoint, encoding="utf-8") as stream:
            first = int(stream.read())
    except FileNotFoundError:
        first = 0
    for step in range(first, steps):
        text = f"{step} {ATTEMPT} {os.getpid()}"
        line = f"{text} {hashlib.sha256(text.encode()).hexdigest()[:16]}\n"
        with open(os.path.join(OUTPUTS, f"{ROLE}.txt"), "a", encoding="utf-8") as stream:
            stream.write(line)
        record("step", line=line, step=step, first=first)
        with open(f"{checkpoint}.new", "w", encoding="utf-8") as stream:
            stream.write(str(step + 1))
        os.replace(f"{checkpoint}.new", checkpoint)
        with open(os.environ["TFJOBS_METRICS_FILE"], "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\n")
        time.sleep(seconds)


def main() -> None:
    be_alone()
    record("launched")
    keep(f"early-{ROLE}-{os.getpid()}.bin")
    sys.stderr.write(f"{ROLE} of attempt {ATTEMPT}\n")
    if "--child" in OPTIONS:  # it outlives whoever started it, unless somebody ends it
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    come_by()
    if TYPE == "ps":
        while True:  # a parameter server never ends by itself
            signal.pause()
    train(int(OPTIONS.get("--steps", 1)), float(OPTIONS.get("--seconds", 0)))
    keep(f"model-{ROLE}-{os.getpid()}.bin")
    record("finished")


main()
