"""Handwritten digits with Keras and Horovod: every rank trains on its share of the data, gradients are averaged.

By hand, `python train.py` is one rank; `horovodrun -np 2 python train.py` is two. As a job, the ranks come from the
target (HOROVOD_* variables, or mpirun).
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import horovod.tensorflow.keras as hvd
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

OUTPUTS = Path(os.environ.get("TFJOBS_OUTPUT_DIR", "outputs"))
METRICS = Path(os.environ.get("TFJOBS_METRICS_FILE", OUTPUTS / "metrics.jsonl"))


def report(step: int, **scalars: float) -> None:
    """Append one line to the metrics file: the last value of each scalar becomes an output of the job."""
    METRICS.parent.mkdir(parents=True, exist_ok=True)
    with METRICS.open("a", encoding="utf-8") as file:
        rounded = {name: round(float(value), 6) for name, value in scalars.items()}
        file.write(json.dumps({"step": step, **rounded}) + "\n")


class Report(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """Reports the test loss and accuracy after each epoch; only rank 0 has it."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs:
            step = int(self.model.optimizer.iterations.numpy())
            report(step, loss=logs["val_loss"], accuracy=logs["val_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--learning-rate", type=float, default=0.01, help="multiplied by the number of ranks; falls to 0 along a cosine"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="of one rank")
    parser.add_argument("--seed", type=int, default=0, help="of weights and shuffling; the split is always the same")
    args = parser.parse_args()

    # A model this small gains nothing from more threads, and the ranks share the machine.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    hvd.init()
    rank, size = hvd.rank(), hvd.size()
    print(f"rank {rank} of {size}, local rank {hvd.local_rank()} of {hvd.local_size()}", flush=True)
    tf.keras.utils.set_random_seed(args.seed + rank)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[hvd.local_rank() % len(gpus)], "GPU")

    images, labels = load_digits(return_X_y=True)
    images = (images / 8.0 - 1.0).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    # All ranks must take the same number of steps, or the last allreduce waits for one that has ended.
    share = len(x_train) // size
    x_train, y_train = x_train[rank::size][:share], y_train[rank::size][:share]

    steps = args.epochs * math.ceil(share / args.batch_size)
    learning_rate = tf.keras.optimizers.schedules.CosineDecay(args.learning_rate * size, steps)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input(shape=(64,)),
            tf.keras.layers.Dense(128, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=hvd.DistributedOptimizer(tf.keras.optimizers.Adam(learning_rate)),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    if rank == 0:
        callbacks.append(Report())
    model.fit(
        x_train,
        y_train,
        batch_size=args.batch_size,
        epochs=args.epochs,
        validation_data=(x_test, y_test) if rank == 0 else None,
        callbacks=callbacks,
        verbose=2 if rank == 0 else 0,
    )

    if rank == 0:
        loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
        report(int(model.optimizer.iterations.numpy()), loss=loss, accuracy=accuracy)
        OUTPUTS.mkdir(parents=True, exist_ok=True)
        # Saved without its optimizer: that one is Horovod's, and who loads the model need not have Horovod.
        tf.keras.Model(model.inputs, model.outputs).save(OUTPUTS / "model.keras")
        print(f"test accuracy {accuracy:.4f}, loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
