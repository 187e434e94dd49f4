"""Elastic Horovod on the local target, with the real one: lost workers are replaced; what cannot go on ends soon."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs import environments
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import Horovod
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.local import statefile
from tests.conformance.local_place import LocalPlace
from tests.conformance.place import plan_of, read, replica, until, write

pytestmark = [pytest.mark.training, pytest.mark.slow]

# Trains until somebody puts a file into the outputs; all ranks see that in the same step.
TRAIN = """
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
OUTPUTS = os.environ['TFJOBS_OUTPUT_DIR']
ME = os.environ['TFJOBS_REPLICA_TYPE'] + '-' + os.environ['TFJOBS_REPLICA_INDEX']

def there(name):
    return os.path.exists(os.path.join(OUTPUTS, name))

def hold():
    "Until the test lets it go on."
    print('HELD', flush=True)
    while not there('go'):
        time.sleep(0.01)

import time
{before}
import horovod.tensorflow.keras as hvd
import tensorflow as tf
from horovod.tensorflow import DistributedGradientTape, Sum, allreduce
tf.config.threading.set_intra_op_parallelism_threads(1)
hvd.init()
model = tf.keras.Sequential([tf.keras.layers.Input(shape=(4,)), tf.keras.layers.Dense(1)])
optimizer = tf.keras.optimizers.SGD(0.01)
optimizer.build(model.trainable_variables)
x, y = tf.ones((8, 4)), tf.ones((8, 1))

@hvd.elastic.run
def train(state):
    print('TRAIN', hvd.rank(), hvd.size(), state.step, flush=True)
    while not allreduce(tf.constant(int(there('finish'))), op=Sum):
        with DistributedGradientTape(tf.GradientTape()) as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
        state.step += 1
        {each_step}
        state.commit()
        if state.step == 5:
            print('COMMITTED', state.step, flush=True)
    print('DONE', hvd.rank(), hvd.size(), state.step, flush=True)

train(hvd.elastic.KerasState(model, optimizer, step=0))
"""


def script(*, before: str = "", each_step: str = "") -> str:
    return TRAIN.format(before=before, each_step=each_step)


def elastic_plan(least: int = 1, most: int = 2, *, start: int = 2, **fields: Any) -> LaunchPlan:
    return plan_of(Horovod(nodes=start, min_workers=least, max_workers=most), **fields)


@pytest.fixture(scope="module")
def interpreter() -> Path:
    return Path(environments.build(environments.default_spec(horovod=True), print))


@pytest.fixture
async def place(tmp_path: Path, interpreter: Path) -> AsyncIterator[LocalPlace]:
    place = LocalPlace(str(tmp_path))
    place.interpreter = str(interpreter)
    yield place
    await place.close()
    for folder, _ in place.launched:
        assert place.alive(folder) == []


def now(folder: RunFolder) -> RunState:
    state = statefile.read_state(folder.attempt(1).state)
    assert state is not None
    return state


def said(folder: RunFolder, name: str, word: str) -> list[list[int]]:
    """The numbers of every line of that word in a worker's log."""
    try:
        log = read(folder.attempt(1).replica_log(name))
    except FileNotFoundError:
        return []
    whole = log.rpartition("\n")[0].splitlines()
    return [list(map(int, line.split()[1:])) for line in whole if line.startswith(f"{word} ")]


async def training(folder: RunFolder, size: int, *names: str) -> RunState:
    """The state once these workers train in a world of this size."""
    return await until_going_on(
        folder,
        lambda: all(any(line[1] == size for line in said(folder, name, "TRAIN")[-1:]) for name in names),
        f"{names} train as {size}",
    )


async def until_going_on(folder: RunFolder, condition: Any, what: str) -> RunState:
    def ended_or_so() -> bool:
        assert not now(folder).finished, now(folder)
        return bool(condition())

    await until(ended_or_so, what)
    return now(folder)


def kill(state: RunState, name: str, number: int = signal.SIGKILL) -> None:
    pid = replica(state, name).pid
    assert pid is not None
    os.kill(pid, number)


def sizes(state: RunState) -> list[int]:
    return [size for _, size in state.world_sizes]


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_killed_worker_is_replaced_and_training_goes_on_from_the_last_commit(
    place: LocalPlace, lost: int
) -> None:
    folder = await place.launch(elastic_plan(), script())
    other, name = f"worker-{1 - lost}", f"worker-{lost}"
    await until_going_on(folder, lambda: said(folder, other, "COMMITTED"), "there is something to go on from")
    kill(now(folder), name)
    await training(folder, 1, other)
    await training(folder, 2, "worker-0", "worker-1")
    write(os.path.join(folder.outputs, "finish"))
    state = await place.end(folder)
    assert (state.phase, state.exit_code, state.first_failure) == (phases.SUCCEEDED, 0, ""), state
    assert sizes(state) == [2, 1, 2]
    assert [each.phase for each in state.replicas] == ["succeeded", "succeeded"]
    steps = [line[2] for line in said(folder, other, "TRAIN")]
    assert steps == sorted(steps)
    assert (steps[0], len(steps)) == (0, 3)
    assert steps[1] >= 5
    assert said(folder, name, "TRAIN")[0][2] == steps[2], "the new worker starts where the others are"
    (restart,) = state.restarts
    assert (restart.replica, restart.exit_code) == (name, 137)
    assert "TRAIN" in read(os.path.join(restart.logs, f"{name}.log"))


async def test_a_worker_that_is_killed_before_it_joins_is_started_again_in_its_place(place: LocalPlace) -> None:
    folder = await place.launch(elastic_plan(), script(before="if ME == 'worker-1': hold()"))
    log = folder.attempt(1).replica_log("worker-1")
    state = await until_going_on(folder, lambda: os.path.exists(log) and "HELD" in read(log), "worker-1 is held")
    write(os.path.join(folder.outputs, "go"))
    kill(state, "worker-1")
    await training(folder, 2, "worker-0", "worker-1")
    write(os.path.join(folder.outputs, "finish"))
    state = await place.end(folder)
    assert (state.phase, sizes(state)) == (phases.SUCCEEDED, [2]), state
    assert [restart.replica for restart in state.restarts] == ["worker-1"]


async def test_a_worker_that_is_killed_while_it_waits_for_the_first_others_is_started_again(place: LocalPlace) -> None:
    folder = await place.launch(elastic_plan(), script(before="if ME == 'worker-1': hold()"))
    driver = folder.attempt(1).replica_log("elastic-driver")
    state = await until_going_on(folder, lambda: "rank 0 has come" in read(driver), "worker-0 waits for worker-1")
    kill(state, "worker-0")
    await until_going_on(folder, lambda: now(folder).restarts, "it is started again")
    write(os.path.join(folder.outputs, "go"))
    await training(folder, 2, "worker-0", "worker-1")
    write(os.path.join(folder.outputs, "finish"))
    state = await place.end(folder)
    assert (state.phase, sizes(state)) == (phases.SUCCEEDED, [2]), state


async def test_another_is_lost_before_the_new_worker_is_there(place: LocalPlace) -> None:
    # Horovod notices some losses among three only when a message does not come.
    plan = elastic_plan(start=3, most=3, environment_variables={"HOROVOD_GLOO_TIMEOUT_SECONDS": "3"})
    folder = await place.launch(plan, script(before="if ME == 'worker-1' and there('hold'): hold()"))
    state = await training(folder, 3, "worker-0", "worker-1", "worker-2")
    write(os.path.join(folder.outputs, "hold"))
    kill(state, "worker-1")
    state = await training(folder, 2, "worker-0", "worker-2")
    log = folder.attempt(1).replica_log("worker-1")
    await until_going_on(folder, lambda: "HELD" in read(log), "it waits")
    kill(state, "worker-0")
    await training(folder, 1, "worker-2")
    write(os.path.join(folder.outputs, "go"))
    await training(folder, 3, "worker-0", "worker-1", "worker-2")
    write(os.path.join(folder.outputs, "finish"))
    state = await place.end(folder)
    assert (state.phase, sizes(state)[:3], sizes(state)[-1]) == (phases.SUCCEEDED, [3, 2, 1], 3), state
    # Worker 1 was told a rank that it did not have any more, and that is not taken for a failure.
    assert [restart.replica for restart in state.restarts].count("worker-1") == 2


async def test_it_grows_from_its_number_at_the_start_to_the_most(place: LocalPlace) -> None:
    folder = await place.launch(elastic_plan(start=1), script())
    await training(folder, 2, "worker-0", "worker-1")
    write(os.path.join(folder.outputs, "finish"))
    state = await place.end(folder)
    assert (state.phase, sizes(state)) == (phases.SUCCEEDED, [1, 2]), state
    assert state.restarts == ()


async def test_all_ranks_fail_by_an_error_of_the_script(place: LocalPlace) -> None:
    state = await place.run(
        elastic_plan(retries=1), script(each_step="if state.step == 3: print('the real fault'); sys.exit(3)")
    )
    assert (state.phase, state.exit_code, state.restarts) == (phases.FAILED, 3, ()), state
    assert re.match(r"worker-\d exited with code 3", state.reason)
    assert "the real fault" in place.log(state, state.first_failure)


async def test_a_worker_that_fails_again_and_again_ends_the_run(place: LocalPlace) -> None:
    fault = "if ME == 'worker-1' and state.step >= 3: print('the real fault'); sys.exit(3)"
    state = await place.run(elastic_plan(), script(each_step=fault))
    assert (state.phase, state.exit_code, state.first_failure) == (phases.FAILED, 3, "worker-1"), state
    assert "worker-1 exited with code 3; worker-1 failed 2 times in a row" in state.reason
    assert "the real fault" in place.log(state, "worker-1")
    assert sizes(state) == [2, 1, 2]


async def test_an_error_of_a_new_worker_before_it_joins(place: LocalPlace) -> None:
    fault = "if ME == 'worker-1' and there('fault'): print('the real fault'); sys.exit(3)"
    folder = await place.launch(elastic_plan(), script(before=fault))
    state = await training(folder, 2, "worker-0", "worker-1")
    write(os.path.join(folder.outputs, "fault"))
    kill(state, "worker-1")
    state = await place.end(folder)
    assert (state.phase, state.exit_code, state.first_failure) == (phases.FAILED, 3, "worker-1"), state
    assert sizes(state) == [2, 1], "the other one goes on meanwhile"
    assert "the real fault" in place.log(state, "worker-1")


async def test_too_few_workers_for_too_long(place: LocalPlace) -> None:
    plan = elastic_plan(2, environment_variables={"HOROVOD_ELASTIC_TIMEOUT": "2"}, stop_grace_seconds=0.5)
    folder = await place.launch(plan, script())
    state = await training(folder, 2, "worker-0", "worker-1")
    kill(state, "worker-0", signal.SIGSTOP)  # it cannot meet anew
    kill(state, "worker-1")
    state = await place.end(folder)
    assert (state.phase, state.exit_code, state.first_failure) == (phases.FAILED, 137, "worker-1"), state
    assert "1 of at least 2 workers (minWorkers) for 2 s (HOROVOD_ELASTIC_TIMEOUT)" in state.reason


async def test_with_all_workers_lost_the_retries_of_the_job_count(place: LocalPlace) -> None:
    folder = await place.launch(elastic_plan(retries=1, retry_backoff_seconds=0.0), script())
    state = await training(folder, 2, "worker-0", "worker-1")
    kill(state, "worker-0", signal.SIGSTOP)
    kill(state, "worker-1")
    kill(state, "worker-0")
    await until_going_on(folder, lambda: now(folder).launches == 2, "it is started again")
    await training(folder, 2, "worker-0", "worker-1")
    write(os.path.join(folder.outputs, "finish"))
    state = await place.end(folder)
    assert (state.phase, sizes(state)) == (phases.SUCCEEDED, [2, 2]), state
    assert [restart.replica for restart in state.restarts] == [""]


async def test_stop(place: LocalPlace) -> None:
    folder = await place.launch(elastic_plan(), script())
    await training(folder, 2, "worker-0", "worker-1")
    state = await place.target.stop(folder, 1, grace_seconds=1)
    assert state is not None
    assert (state.phase, state.restarts) == (phases.CANCELLED, ()), state
    assert [each.phase for each in state.replicas] == ["ended", "ended"]


@pytest.mark.parametrize("who", ["driver", "supervisor"])
async def test_nothing_is_left_behind_whoever_is_killed(place: LocalPlace, who: str) -> None:
    folder = await place.launch(elastic_plan(), script())
    state = await training(folder, 2, "worker-0", "worker-1")
    supervisor = state.supervisor_pid
    assert supervisor is not None
    if who == "driver":
        (driver,) = [int(line.split()[0]) for line in place.alive(folder) if "elastic_driver.py" in line]
        os.kill(driver, signal.SIGKILL)
        state = await place.end(folder)
        assert "Horovod's elastic driver was ended by SIGKILL" in state.reason
        assert state.phase == phases.FAILED
    else:
        os.kill(supervisor, signal.SIGKILL)
        await until(lambda: place.alive(folder) == [], "nothing of it lives")
