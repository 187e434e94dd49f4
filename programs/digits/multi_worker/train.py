"""Handwritten digits with Keras and MultiWorkerMirroredStrategy: the workers find each other through TF_CONFIG.

By hand, without TF_CONFIG, `python train.py` is a cluster of one.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

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
    """Reports the test loss and accuracy after each epoch; only worker 0 has it."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs:
            step = int(self.model.optimizer.iterations.numpy())
            report(step, loss=logs["val_loss"], accuracy=logs["val_accuracy"])


def build_model() -> tf.keras.Model:
    return tf.keras.Sequential(
        [
            tf.keras.layers.Input(shape=(64,)),
            tf.keras.layers.Dense(128, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=0.02, help="at the start; falls to 0 along a cosine")
    parser.add_argument("--batch-size", type=int, default=128, help="of all workers together")
    parser.add_argument("--seed", type=int, default=0, help="of weights and shuffling; the split is always the same")
    args = parser.parse_args()

    # A model this small gains nothing from more threads, and the workers share the machine.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(args.seed)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    cluster = strategy.cluster_resolver
    chief = cluster.task_id in (None, 0)
    print(f"worker {cluster.task_id or 0} of {strategy.num_replicas_in_sync}", flush=True)

    images, labels = load_digits(return_X_y=True)
    images = (images / 8.0 - 1.0).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    # There are no files to share out, so each worker takes every n-th example.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    train = tf.data.Dataset.from_tensor_slices((x_train, y_train)).shuffle(len(x_train), seed=args.seed)
    train = train.batch(args.batch_size, drop_remainder=True).with_options(options)
    test = tf.data.Dataset.from_tensor_slices((x_test, y_test)).batch(len(x_test) // 2).with_options(options)

    steps = args.epochs * (len(x_train) // args.batch_size)
    learning_rate = tf.keras.optimizers.schedules.CosineDecay(args.learning_rate, steps)
    with strategy.scope():
        model = build_model()
        model.compile(
            optimizer=tf.keras.optimizers.Adam(learning_rate),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    model.fit(
        train,
        epochs=args.epochs,
        validation_data=test,
        callbacks=[Report()] if chief else [],
        verbose=2 if chief else 0,
    )

    # Every worker takes part: the metric is summed over all of them.
    loss, accuracy = model.evaluate(test, verbose=0)
    if chief:
        report(int(model.optimizer.iterations.numpy()), loss=loss, accuracy=accuracy)
        OUTPUTS.mkdir(parents=True, exist_ok=True)
        # Saving a distributed model needs all workers; a plain copy of it needs only this one.
        plain = build_model()
        plain.set_weights(model.get_weights())
        plain.save(OUTPUTS / "model.keras")
        print(f"test accuracy {accuracy:.4f}, loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
