"""Handwritten digits with Keras and elastic Horovod: ranks may be lost and come back while it trains.

By hand, `horovodrun -np 2 --min-np 1 --max-np 2 -H localhost:2 python train.py`. As a job, workers come from the target
(min_workers, max_workers): kill one while it trains, and the others go on from the last epoch.
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


class Commit(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """After each epoch: what has been learned is kept, and workers that are new may join. Rank 0 reports."""

    def __init__(self, state: hvd.elastic.KerasState) -> None:
        super().__init__()
        self.state = state

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if hvd.rank() == 0 and logs:
            report(epoch + 1, loss=logs["val_loss"], accuracy=logs["val_accuracy"], workers=hvd.size())
        self.state.epoch = epoch + 1
        self.state.commit()


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
    tf.keras.utils.set_random_seed(args.seed + hvd.rank())
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[hvd.local_rank() % len(gpus)], "GPU")

    images, labels = load_digits(return_X_y=True)
    images = (images / 8.0 - 1.0).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input(shape=(64,)),
            tf.keras.layers.Dense(128, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=hvd.DistributedOptimizer(tf.keras.optimizers.Adam(args.learning_rate)),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # Its variables must be there before the state is made: they are what a worker that joins is given.
    model.optimizer.build(model.trainable_variables)

    def learning_rate(epoch: int) -> float:
        return float(args.learning_rate * hvd.size() * (1 + math.cos(math.pi * epoch / args.epochs)) / 2)

    @hvd.elastic.run  # type: ignore[misc]
    def train(state: hvd.elastic.KerasState) -> None:
        """Called anew in every world: rank and size may be others each time."""
        rank, size = hvd.rank(), hvd.size()
        print(f"rank {rank} of {size} from epoch {state.epoch}", flush=True)
        # All ranks must take the same number of steps, or the last allreduce waits for one that has ended.
        share = len(x_train) // size
        model.fit(
            x_train[rank::size][:share],
            y_train[rank::size][:share],
            batch_size=args.batch_size,
            initial_epoch=state.epoch,
            epochs=args.epochs,
            validation_data=(x_test, y_test) if rank == 0 else None,
            callbacks=[tf.keras.callbacks.LearningRateScheduler(learning_rate), Commit(state)],
            verbose=2 if rank == 0 else 0,
        )

    train(hvd.elastic.KerasState(model, epoch=0))

    if hvd.rank() == 0:
        loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
        report(args.epochs, loss=loss, accuracy=accuracy)
        OUTPUTS.mkdir(parents=True, exist_ok=True)
        # Saved without its optimizer: that one is Horovod's, and who loads the model need not have Horovod.
        tf.keras.Model(model.inputs, model.outputs).save(OUTPUTS / "model.keras")
        print(f"test accuracy {accuracy:.4f}, loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
