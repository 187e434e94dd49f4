"""Handwritten digits with parameter servers, low-level: variables live on the ps, each worker updates them on its own.

The roles come from TF_CONFIG: {"cluster": {"ps": […], "worker": […]}, "task": {"type": "worker", "index": 0}}.
By hand, without TF_CONFIG, `python train.py` is one worker that keeps the variables itself.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1

OUTPUTS = Path(os.environ.get("TFJOBS_OUTPUT_DIR", "outputs"))
LOGS = Path(os.environ.get("TFJOBS_LOG_DIR", "logs"))
METRICS = Path(os.environ.get("TFJOBS_METRICS_FILE", OUTPUTS / "metrics.jsonl"))
# The first steps are slow and the workers do not start at the same time. Each takes a few, then waits for the others:
# else the first might have done all the work before the last has imported TensorFlow.
WARM_UP_STEPS = 2
JOIN_SECONDS = 120.0


def report(step: int, **scalars: float) -> None:
    """Append one line to the metrics file: the last value of each scalar becomes an output of the job."""
    METRICS.parent.mkdir(parents=True, exist_ok=True)
    with METRICS.open("a", encoding="utf-8") as file:
        rounded = {name: round(float(value), 6) for name, value in scalars.items()}
        file.write(json.dumps({"step": step, **rounded}) + "\n")


def load_data() -> tuple[Any, Any, Any, Any]:
    """x_train [1437, 64], x_test [360, 64] in -1..1, y_train [1437], y_test [360] in 0..9."""
    # Imported here: a parameter server needs no data.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 8.0 - 1.0).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    return x_train, x_test, y_train, y_test


def dense(name: str, inputs: Any, units: int, seed: int) -> Any:
    glorot = tf1.glorot_uniform_initializer(seed=seed)
    kernel = tf1.get_variable(f"{name}/kernel", (inputs.shape[1], units), initializer=glorot)
    bias = tf1.get_variable(f"{name}/bias", (units,), initializer=tf1.zeros_initializer())
    return tf.matmul(inputs, kernel) + bias


def wait_for_chief(target: str, config: Any) -> None:
    """Return once worker 0 has initialised the variables.

    MonitoredTrainingSession would wait too, but it looks only every 30 seconds.
    """
    uninitialized = tf1.report_uninitialized_variables()
    with tf1.Session(target, config=config) as session:
        while session.run(uninitialized).size:
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15, help="passes over the data, of all workers together")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="at the start; falls to 0 along a cosine")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of weights and shuffling; the split is always the same")
    args = parser.parse_args()

    tf_config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    cluster: dict[str, list[str]] = tf_config.get("cluster", {"worker": ["localhost:0"]})
    task = tf_config.get("task", {"type": "worker", "index": 0})
    role, index, workers = task["type"], int(task["index"]), len(cluster["worker"])
    spec = tf.train.ClusterSpec(cluster)

    # One thread for one op: a model this small gains nothing from more, and all tasks share the machine. A task that
    # talks only to the ps and itself cannot hang on a worker that starts late or is gone.
    filters = ["/job:ps", f"/job:{role}/task:{index}"]
    config = tf1.ConfigProto(intra_op_parallelism_threads=1, device_filters=filters)
    server = tf1.train.Server(spec, job_name=role, task_index=index, config=config)
    print(f"{role} {index} of {len(cluster[role])} at {cluster[role][index]}", flush=True)
    if role == "ps":
        server.join()  # never returns: the job ends it when the workers are done
        return

    chief = index == 0
    x_train, x_test, y_train, y_test = load_data()
    last_step = args.epochs * len(x_train) // args.batch_size
    local = f"/job:worker/task:{index}"
    with tf.Graph().as_default():
        with tf1.device(tf1.train.replica_device_setter(cluster=spec, worker_device=local)):
            step = tf1.train.get_or_create_global_step()
            joined = tf1.get_variable("joined", (), tf.int32, tf1.zeros_initializer(), trainable=False)
            join = tf1.assign_add(joined, 1)
            x = tf1.placeholder(tf.float32, (None, 64))
            y = tf1.placeholder(tf.int64, (None,))
            logits = dense("output", tf.nn.relu(dense("hidden", x, 128, args.seed)), 10, args.seed + 1)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
            accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, axis=1), y), tf.float32))
            # The smaller the steps at the end, the less it matters that the workers' gradients are not in step.
            learning_rate = tf1.train.cosine_decay(args.learning_rate, step, last_step)
            train = tf1.train.AdamOptimizer(learning_rate).minimize(loss, global_step=step)
            weights = tf1.trainable_variables()
            tf1.summary.scalar("train_loss", loss)
        if not chief:
            wait_for_chief(server.target, config)

        with tf1.train.MonitoredTrainingSession(
            master=server.target,
            is_chief=chief,
            config=config,
            # A second attempt of the same run goes on from the first one's checkpoint.
            checkpoint_dir=os.environ.get("TFJOBS_CHECKPOINT_DIR"),
            save_checkpoint_secs=10,
            summary_dir=str(LOGS) if chief else None,
            save_summaries_steps=50,
            log_step_count_steps=None,
        ) as session:
            random = np.random.default_rng(args.seed + 100 * index)
            test = {x: x_test, y: y_test}
            now, own, reported = 0, 0, 0
            while now < last_step:
                if own == WARM_UP_STEPS:
                    session.run_step_fn(lambda step_context: step_context.session.run(join))
                    deadline = time.monotonic() + JOIN_SECONDS
                    while session.run_step_fn(lambda step_context: step_context.session.run(joined)) < workers:
                        if time.monotonic() > deadline:
                            print(f"not all {workers} workers came within {JOIN_SECONDS:.0f} s: going on", flush=True)
                            break
                        time.sleep(0.01)
                batch = random.choice(len(x_train), args.batch_size, replace=False)
                now, _ = session.run([step, train], {x: x_train[batch], y: y_train[batch]})
                own += 1
                if chief and now >= reported + 50:
                    reported = int(now)
                    test_loss, test_accuracy = session.run_step_fn(
                        lambda step_context: step_context.session.run([loss, accuracy], test)
                    )
                    report(reported, loss=test_loss, accuracy=test_accuracy)
                    print(f"step {reported} of {last_step}: test accuracy {test_accuracy:.4f}", flush=True)
            print(f"worker {index} did {own} of {last_step} steps", flush=True)

            if chief:
                now, test_loss, test_accuracy, values = session.run_step_fn(
                    lambda step_context: step_context.session.run([step, loss, accuracy, weights], test)
                )
                report(int(now), loss=test_loss, accuracy=test_accuracy)
                OUTPUTS.mkdir(parents=True, exist_ok=True)
                np.savez(OUTPUTS / "model.npz", **{v.op.name: value for v, value in zip(weights, values, strict=True)})
                print(f"test accuracy {test_accuracy:.4f}, loss {test_loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
