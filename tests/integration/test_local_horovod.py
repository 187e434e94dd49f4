"""Real Horovod on the local target: it reduces, with either controller, and a lost rank ends the run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pulumi_tfjobs import environments
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import Horovod
from pulumi_tfjobs.spec.state import RunState
from tests.conformance.local_place import LocalPlace
from tests.conformance.place import plan_of, replica

pytestmark = [pytest.mark.training, pytest.mark.slow]

SECRET = "correct horse battery staple"
FAIL_SECONDS = 10.0

SUM = """
    import horovod.tensorflow as hvd
    import tensorflow as tf
    hvd.init()
    total = hvd.allreduce(tf.constant([float(hvd.rank() + 1)]), op=hvd.Sum).numpy()[0]
    print('RANK', hvd.rank(), hvd.size(), hvd.local_rank(), hvd.cross_rank(), total, flush=True)
    print('CONTROLLER', 'mpi' if hvd.mpi_enabled() else 'gloo', flush=True)
"""


@pytest.fixture(scope="module")
def interpreter() -> Path:
    return Path(environments.build(environments.default_spec(horovod=True), print))


@pytest.fixture
async def place(tmp_path: Path, interpreter: Path) -> AsyncIterator[LocalPlace]:
    place = LocalPlace(str(tmp_path))
    place.interpreter = str(interpreter)
    yield place
    await place.close()


def ranks(place: LocalPlace, state: RunState) -> list[str]:
    """What each worker's own log says of its rank."""
    logs = [place.log(state, each.name) for each in state.replicas if each.type == "worker"]
    return [line for log in logs for line in log.split("\n") if line.startswith("RANK")]


def no_mpi(interpreter: Path) -> bool:
    return not os.access(interpreter.with_name("mpirun"), os.X_OK)


async def test_gloo(place: LocalPlace) -> None:
    state = await place.run(plan_of(Horovod(nodes=2, processes_per_node=2)), SUM)
    assert state.phase == phases.SUCCEEDED, state
    assert ranks(place, state) == ["RANK 0 4 0 0 10.0", "RANK 1 4 1 0 10.0", "RANK 2 4 0 1 10.0", "RANK 3 4 1 1 10.0"]
    assert "CONTROLLER gloo" in place.log(state, "worker-0")


async def test_mpi(place: LocalPlace, interpreter: Path) -> None:
    if no_mpi(interpreter):
        pytest.skip("no Open MPI package for this platform: Horovod was built with Gloo only")
    plan = plan_of(
        Horovod(nodes=2, controller="mpi"),
        environment_variables={"TOKEN": ""},
        secret_variables=frozenset({"TOKEN"}),
    )
    folder = await place.launch(plan, SUM + "    assert os.environ['TOKEN'].endswith('staple')\n", {"TOKEN": SECRET})
    state = await place.end(folder)
    assert state.phase == phases.SUCCEEDED, state
    assert ranks(place, state) == ["RANK 0 2 0 0 3.0", "RANK 1 2 1 0 3.0"]
    assert "CONTROLLER mpi" in place.log(state, "worker-1")
    assert [each.exit_code for each in state.replicas if each.type == "worker"] == [0, 0]


@pytest.mark.parametrize("controller", ["gloo", "mpi"])
async def test_a_rank_is_killed_while_the_other_waits_in_an_allreduce(
    place: LocalPlace, interpreter: Path, controller: str
) -> None:
    if controller == "mpi" and no_mpi(interpreter):
        pytest.skip("no Open MPI package for this platform: Horovod was built with Gloo only")
    state = await place.run(
        plan_of(Horovod(nodes=2, controller=controller)),  # type: ignore[arg-type]
        SUM
        + """
    if hvd.rank() == 1:
        os.kill(os.getpid(), 9)
    hvd.allreduce(tf.constant([1.0]), name='never')
    print('the allreduce came back')
    while True: pass
    """,
    )
    assert (state.phase, state.first_failure, state.exit_code) == (phases.FAILED, "worker-1", 137), state
    assert "SIGKILL" in state.reason
    assert "the allreduce came back" not in place.log(state, "worker-0")
    assert state.finished_at is not None
    assert state.finished_at - replica(state, "worker-1").finished_at < FAIL_SECONDS
    assert place.alive(place.launched[0][0]) == []


async def test_the_rank_with_the_fault_is_named(place: LocalPlace) -> None:
    state = await place.run(
        plan_of(Horovod(nodes=2)),
        SUM
        + """
    if hvd.rank() == 1:
        raise ValueError('the real fault')
    hvd.allreduce(tf.constant([1.0]), name='never')
    """,
    )
    assert (state.phase, state.first_failure, state.exit_code) == (phases.FAILED, "worker-1", 1), state
    assert "ValueError: the real fault" in place.log(state, "worker-1")
