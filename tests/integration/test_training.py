"""Real training, through the steps of a job's life: what a user's script meets, and what becomes of it when it breaks.

The sample jobs to the accuracy that they promise: test_readme.py. Horovod at the target alone: test_local_horovod.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs import environments
from pulumi_tfjobs.lifecycle import RunResult
from tests.helpers.processes import wait_until_gone
from tests.integration.running import REPO, Gate, Job, log, meanwhile, told

pytestmark = [pytest.mark.training, pytest.mark.slow]

ACCURACY = 0.95
# A run is to fail within 10 s of a member's death; that is a promise to users and not a measurement.
FAIL_SECONDS = 10.0
# How long what ends with a run may take to be gone.
END_SECONDS = 5.0

NewJob = Callable[..., Job]


@pytest.fixture
async def new_job(tmp_path: Path, home: Path, temporary: Path, gate: Gate) -> AsyncIterator[NewJob]:
    """Makes the test's job. Afterwards nothing of it lives, and it has left no temporary file."""
    made: list[Job] = []

    def make(script: str | None = None, **inputs: Any) -> Job:
        if script is not None:
            inputs["environmentVariables"] = {"GATE": gate.address}
        made.append(Job(tmp_path, script, **inputs))
        return made[-1]

    yield make
    left = wait_until_gone(str(home), END_SECONDS)  # a guardian ends a moment after its supervisor
    for job in made:
        await job.stop()
    assert left == [], "a run that has ended has left processes"
    assert os.listdir(temporary) == []


def succeeded(result: RunResult) -> dict[str, Any]:
    assert result.failure == [], told(result)
    assert result.outputs["status"] == "succeeded"
    return result.outputs


def roles(outputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Replica → its TF_CONFIG, decoded."""
    return {name: json.loads(text) for name, text in outputs["tfConfig"].items()}


# Horovod


async def test_mpirun_trains_and_every_rank_knows_who_it_is(new_job: NewJob, tmp_path: Path) -> None:
    interpreter = Path(environments.build(environments.default_spec(horovod=True), print))
    if not interpreter.with_name("mpirun").exists():
        pytest.skip("no Open MPI package for this platform: Horovod was built with Gloo only")
    shutil.copytree(REPO / "programs" / "digits" / "horovod", tmp_path / "src")
    (tmp_path / "src" / "start.py").write_text(
        "import os, runpy\n"
        "names = ('REPLICA_TYPE', 'REPLICA_INDEX', 'RANK', 'WORLD_SIZE')\n"
        "print('I AM', *(os.environ[f'TFJOBS_{name}'] for name in names), flush=True)\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    job = new_job(
        entryScript="start.py",
        scriptParams={"--epochs": 15, "--learning-rate": 0.01},
        distribution={"kind": "horovod", "nodes": 2, "controller": "mpi"},
    )
    result = await job.run()
    outputs = succeeded(result)
    assert outputs["metrics"]["accuracy"] >= ACCURACY
    assert outputs["worldSize"] == 2
    assert len(outputs["hostfile"].splitlines()) == 2
    assert set(outputs["logs"]) == {"launcher-0", "worker-0", "worker-1"}
    for rank in range(2):
        lines = log(result, f"worker-{rank}").splitlines()
        assert [line for line in lines if line.startswith("I AM")] == [f"I AM worker {rank} {rank} 2"]
        assert [line.partition(",")[0] for line in lines if line.startswith("rank ")] == [f"rank {rank} of 2"]


async def test_a_rank_is_killed_while_the_other_waits_for_it_in_an_allreduce(new_job: NewJob, gate: Gate) -> None:
    job = new_job(
        """
        import horovod.tensorflow as hvd
        import tensorflow as tf
        hvd.init()

        @tf.function
        def step(number):
            if number > 0:  # a branch that TensorFlow rewrites, for which it writes a temporary file
                number = number + 1
            return hvd.allreduce(number, name="step")

        step(tf.constant(1.0))
        tell("in the loop")
        if hvd.rank() == 1:
            tell("late for the allreduce")
        step(tf.constant(1.0))
        print("the allreduce came back")
        """,
        distribution={"kind": "horovod", "nodes": 2},
    )
    run = asyncio.create_task(job.run())
    ranks = await meanwhile(run, gate.arrivals(2))
    assert {rank.what for rank in ranks.values()} == {"in the loop"}
    ranks["worker-0"].answer()
    ranks["worker-1"].answer()
    late = await meanwhile(run, gate.arrival())
    assert (late.replica, late.what) == ("worker-1", "late for the allreduce")
    os.kill(late.pid, signal.SIGKILL)
    result = await asyncio.wait_for(run, FAIL_SECONDS)
    assert result.outputs["status"] == "failed", told(result)
    assert "worker-1 was ended by SIGKILL" in result.failure[0]
    assert (await job.state()).first_failure == "worker-1"
    assert "the allreduce came back" not in log(result, "worker-0")
    assert os.path.dirname(result.outputs["logs"]["worker-1"]) in result.failure[0]


# Parameter servers


async def test_the_low_level_sample_as_azure_ml_documented_it(new_job: NewJob) -> None:
    job = new_job(
        """
        import os, json
        import tensorflow as tf

        tf_config = os.environ.get('TF_CONFIG')
        if not tf_config or tf_config == "":
            raise ValueError("TF_CONFIG not found.")
        tf_config_json = json.loads(tf_config)
        cluster = tf_config_json['cluster']
        cluster_spec = tf.train.ClusterSpec(cluster)

        tf1 = tf.compat.v1
        task = tf_config_json['task']
        server = tf1.train.Server(cluster_spec, job_name=task['type'], task_index=task['index'])
        if task['type'] == 'ps':
            server.join()
        with tf.Graph().as_default():
            with tf.device('/job:ps/task:0'):
                count = tf1.get_variable('count', (), tf.int32, tf1.zeros_initializer())
            add, missing = tf1.assign_add(count, 1), tf1.report_uninitialized_variables()
            chief = task['index'] == 0
            with tf1.Session(server.target) as session:
                if chief:
                    session.run(count.initializer)
                while session.run(missing).size:
                    pass
                session.run(add)
                while chief and session.run(count) < 2:  # worker 0 decides the run: it is the last
                    pass
                print(task['type'], task['index'], 'is done', flush=True)
        """,
        nodeCount=2,
        workerCount=2,
        parameterServerCount=1,
        distributedBackend="ps",
    )
    result = await job.run()
    outputs = succeeded(result)
    assert "worker 0 is done" in log(result, "worker-0")
    seen = roles(outputs)
    assert {name: each["task"] for name, each in seen.items()} == {
        "ps-0": {"type": "ps", "index": 0},
        "worker-0": {"type": "worker", "index": 0},
        "worker-1": {"type": "worker", "index": 1},
    }
    (cluster,) = {json.dumps(each["cluster"]) for each in seen.values()}
    assert {role: len(members) for role, members in json.loads(cluster).items()} == {"ps": 1, "worker": 2}
    assert {each["environment"] for each in seen.values()} == {"cloud"}
    phases = {replica.name: replica.phase for replica in (await job.state()).replicas}
    assert phases["ps-0"] == "ended"


async def test_a_parameter_server_is_killed_in_the_middle_of_training(new_job: NewJob) -> None:
    job = new_job(
        sourceDirectory=str(REPO / "programs" / "digits" / "ps"),
        scriptParams={"--epochs": 100_000},
        workerCount=2,
        parameterServerCount=1,
        distributedBackend="ps",
    )
    run = asyncio.create_task(job.run())
    await meanwhile(run, job.stepped.wait())
    (server,) = [replica for replica in (await job.state()).replicas if replica.type == "ps"]
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    result = await asyncio.wait_for(run, FAIL_SECONDS)
    assert result.outputs["status"] == "failed", told(result)
    assert "ps-0 was ended by SIGKILL" in result.failure[0]
    assert (await job.state()).first_failure == "ps-0"


async def test_a_chief_coordinates_while_an_evaluator_reads_its_checkpoints(new_job: NewJob, gate: Gate) -> None:
    job = new_job(
        """
        import tensorflow as tf

        checkpoints = os.path.join(os.environ["TFJOBS_CHECKPOINT_DIR"], "model")
        task = json.loads(os.environ["TF_CONFIG"])["task"]
        print("I AM", task["type"], task["index"], flush=True)
        one = tf.ones((1, 1))

        def build():
            model = tf.keras.Sequential([tf.keras.layers.Dense(1, use_bias=False, input_shape=(1,))])
            model.compile(tf.keras.optimizers.SGD(0.1), "mse")
            return model

        if task["type"] == "evaluator":
            for path in tf.train.checkpoints_iterator(os.path.dirname(checkpoints), min_interval_secs=0):
                model = build()
                tf.train.Checkpoint(model=model).restore(path).expect_partial()
                loss = float(model.evaluate(one, one, verbose=0))
                with open(os.environ["TFJOBS_METRICS_FILE"], "a") as stream:
                    stream.write(json.dumps({"step": 1, "evaluated_loss": loss}) + chr(10))
                tell("evaluated")
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        if task["type"] in ("ps", "worker"):
            server = tf.distribute.Server(resolver.cluster_spec(), task["type"], task["index"], protocol="grpc")
            server.join()
        strategy = tf.distribute.ParameterServerStrategy(resolver)
        with strategy.scope():
            model = build()
        data = tf.keras.utils.experimental.DatasetCreator(
            lambda _: tf.data.Dataset.from_tensors((one, one)).repeat()
        )
        model.fit(data, epochs=1, steps_per_epoch=20, verbose=2)
        print("kept on", model.weights[0].device, flush=True)
        tf.train.Checkpoint(model=model).save(checkpoints)
        tell("trained")
        """,
        distribution={"kind": "parameterServer", "workers": 1, "chief": True, "evaluator": True},
    )
    run = asyncio.create_task(job.run())
    arrivals = await meanwhile(run, gate.arrivals(2))
    assert {name: each.what for name, each in arrivals.items()} == {"chief-0": "trained", "evaluator-0": "evaluated"}
    arrivals["chief-0"].answer()  # and the evaluator waits on: it ends with the job
    result = await run
    outputs = succeeded(result)
    assert "kept on /job:ps/" in log(result, "chief-0")
    assert outputs["metrics"]["evaluated_loss"] < 0.5
    seen = roles(outputs)
    assert {name: each["task"]["type"] for name, each in seen.items()} == {
        name: name.partition("-")[0] for name in ("ps-0", "chief-0", "worker-0", "evaluator-0")
    }
    for name, each in seen.items():
        assert set(each["cluster"]) == {"chief", "ps", "worker"}, "the evaluator is no member of the cluster"
        assert f"I AM {name.replace('-', ' ')}" in log(result, name)
    phases = {replica.name: replica.phase for replica in (await job.state()).replicas}
    assert phases == {"chief-0": "succeeded", "ps-0": "ended", "worker-0": "ended", "evaluator-0": "ended"}


async def test_an_estimator_finds_its_cluster_by_itself(new_job: NewJob) -> None:
    job = new_job(
        """
        import tensorflow as tf

        def data():
            return tf.data.Dataset.from_tensor_slices(({"x": [[1.0]] * 8}, [[2.0]] * 8)).repeat().batch(8)

        column = tf.feature_column.numeric_column("x")
        config = tf.estimator.RunConfig(save_checkpoints_steps=50, log_step_count_steps=None)
        estimator = tf.estimator.LinearRegressor([column], os.environ["TFJOBS_CHECKPOINT_DIR"], config=config)
        tf.estimator.train_and_evaluate(
            estimator,
            tf.estimator.TrainSpec(data, max_steps=100),
            tf.estimator.EvalSpec(data, steps=1, start_delay_secs=0, throttle_secs=0),
        )
        print("chief" if config.is_chief else config.task_type, "of", config.num_ps_replicas, "ps is done", flush=True)
        """,
        distribution={"kind": "parameterServer", "workers": 1, "chief": True},
    )
    result = await job.run()
    succeeded(result)
    assert "chief of 1 ps is done" in log(result, "chief-0")
    assert (Path(result.outputs["checkpointsDir"]) / "model.ckpt-100.index").exists()


async def test_a_port_that_another_program_takes_before_tensorflow_binds_it(new_job: NewJob, gate: Gate) -> None:
    job = new_job(
        """
        tell("about to start")
        import tensorflow as tf
        task = json.loads(os.environ["TF_CONFIG"])["task"]
        cluster = tf.train.ClusterSpec(json.loads(os.environ["TF_CONFIG"])["cluster"])
        server = tf.compat.v1.train.Server(cluster, job_name=task["type"], task_index=task["index"])
        if task["type"] == "ps":
            server.join()
        with tf.Graph().as_default(), tf.device("/job:ps/task:0"), tf.compat.v1.Session(server.target) as session:
            print("counted", session.run(tf.constant(1) + 1), flush=True)
        """,
        workerCount=1,
        parameterServerCount=1,
        distributedBackend="ps",
    )
    run = asyncio.create_task(job.run())
    first = await meanwhile(run, gate.arrivals(2))
    addresses = {replica.name: replica.address for replica in (await job.state()).replicas}
    host, _, port = addresses["worker-0"].rpartition(":")
    with socket.create_server((host, int(port))):
        first["worker-0"].answer()  # it fails at its server; the ps is still at the gate then
        second = await meanwhile(run, gate.arrivals(2))
        for each in second.values():
            each.answer()
        result = await run
    succeeded(result)
    state = await job.state()
    assert (state.launches, result.outputs["attempt"]) == (2, 1)
    assert port in state.warnings[0]
    assert addresses["worker-0"] not in result.outputs["tfConfig"]["worker-0"]
    assert "counted 2" in log(result, "worker-0")


# Multi-worker, and what is read of a run


async def test_multi_worker_with_a_chief_reduces_over_both(new_job: NewJob) -> None:
    job = new_job(
        """
        import tensorflow as tf
        strategy = tf.distribute.MultiWorkerMirroredStrategy()

        @tf.function
        def total():
            def own():
                return tf.constant(float(strategy.cluster_resolver.task_type == "chief") + 1.0)
            return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(own), axis=None)

        print("sum", float(total()), "over", strategy.num_replicas_in_sync, flush=True)
        """,
        distribution={"kind": "multiWorker", "workers": 1, "chief": True},
    )
    result = await job.run()
    outputs = succeeded(result)
    assert {name: set(each["cluster"]) for name, each in roles(outputs).items()} == {
        "chief-0": {"chief", "worker"},
        "worker-0": {"chief", "worker"},
    }
    assert "sum 3.0 over 2" in log(result, "chief-0")


async def test_tensorboard_event_files_become_metrics_and_curves(new_job: NewJob) -> None:
    job = new_job(
        sourceDirectory=str(REPO / "programs" / "digits" / "keras"),
        scriptParams={"--epochs": 3},
    )
    outputs = succeeded(await job.run())
    metrics = outputs["metrics"]
    assert 0.5 < metrics["validation/epoch_accuracy"] == pytest.approx(metrics["accuracy"], abs=1e-5)
    curves = json.loads((Path(outputs["outputsDir"]).parent / "curves.json").read_text())
    assert [step for step, _, _ in curves["validation/epoch_accuracy"]] == [0, 1, 2]
    assert curves["validation/epoch_accuracy"][-1][2] == metrics["validation/epoch_accuracy"]
    assert len(curves["accuracy"]) == 4, "three epochs and the last word"
