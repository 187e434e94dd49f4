"""The real environments of the example programs (built by the set-up; taken from the cache here)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pulumi_tfjobs import environments

pytestmark = [pytest.mark.training, pytest.mark.slow]

RANK = """
import json
import tensorflow as tf
import horovod.tensorflow as hvd
hvd.init()
mean = float(hvd.allreduce(tf.constant(float(hvd.rank()))))
maps = open("/proc/self/maps").read().split()
mpi = sorted({word for word in maps if "libmpi.so" in word})
answer = json.dumps({"size": hvd.size(), "mean": mean, "mpi": hvd.mpi_enabled(), "libmpi": mpi})
print("answer " + answer, flush=True)
"""


@pytest.fixture(scope="module")
def interpreter() -> Path:
    return Path(environments.build(environments.default_spec(horovod=True), print))


def answers(argv: list[str], env: dict[str, str]) -> list[dict[str, object]]:
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line.split("answer ", 1)[1]) for line in done.stdout.splitlines() if "answer " in line]


def test_plain_and_horovod_environment_hold_the_same_packages(interpreter: Path) -> None:
    plain = environments.build(environments.default_spec(), print)
    code = "import tensorflow, sklearn; print('answer', f'[\"{tensorflow.__version__}\", \"{sklearn.__version__}\"]')"
    for python in (plain, str(interpreter)):
        assert answers([python, "-c", code], {"PATH": os.defpath}) == [["2.15.1", "1.5.2"]]


def test_ranks_of_mpirun_reduce_without_any_library_path(interpreter: Path) -> None:
    mpirun = interpreter.with_name("mpirun")
    if not mpirun.exists():
        pytest.skip("no Open MPI package for this platform: Horovod was built with Gloo only")
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    where = ["--bind-to", "none", "--map-by", "slot:oversubscribe", "-np", "2"]
    env = {"PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), "TF_CPP_MIN_LOG_LEVEL": "2"}
    found = answers([str(mpirun), *root, *where, str(interpreter), "-c", RANK], env)
    library = str(interpreter.parent.parent / "lib" / "libmpi.so.40")
    assert found == [{"size": 2, "mean": 0.5, "mpi": True, "libmpi": [library]}] * 2


def test_another_mpi_of_the_user_does_not_get_in_front(interpreter: Path, tmp_path: Path) -> None:
    if not interpreter.with_name("mpirun").exists():
        pytest.skip("no Open MPI package for this platform: Horovod was built with Gloo only")
    # The loader refuses this one, and would fail if it were first.
    (tmp_path / "libmpi.so.40").write_bytes(b"another Open MPI")
    env = {"PATH": os.defpath, "LD_LIBRARY_PATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "2"}
    code = "import horovod.tensorflow as hvd; print('answer', f'[{int(hvd.mpi_built())}, {int(hvd.gloo_built())}]')"
    assert answers([str(interpreter), "-c", code], env) == [[1, 1]]
