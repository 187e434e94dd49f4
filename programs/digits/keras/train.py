"""Handwritten digits with Keras, in one process.

Nothing here knows about tfjobs: by hand, `python train.py` writes to ./outputs and ./logs. Run as a job, the same
folders belong to the run, and the TFJOBS_* variables say where checkpoints and metrics go.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

OUTPUTS = Path(os.environ.get("TFJOBS_OUTPUT_DIR", "outputs"))
LOGS = Path(os.environ.get("TFJOBS_LOG_DIR", "logs"))
METRICS = Path(os.environ.get("TFJOBS_METRICS_FILE", OUTPUTS / "metrics.jsonl"))


def report(step: int, **scalars: float) -> None:
    """Append one line to the metrics file: the last value of each scalar becomes an output of the job."""
    METRICS.parent.mkdir(parents=True, exist_ok=True)
    with METRICS.open("a", encoding="utf-8") as file:
        rounded = {name: round(float(value), 6) for name, value in scalars.items()}
        file.write(json.dumps({"step": step, **rounded}) + "\n")


class Report(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """Reports the test loss and accuracy after each epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs:
            step = int(self.model.optimizer.iterations.numpy())
            report(step, loss=logs["val_loss"], accuracy=logs["val_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=0.02, help="at the start; falls to 0 along a cosine")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of weights and shuffling; the split is always the same")
    args = parser.parse_args()

    # A model this small gains nothing from more threads, and it may share the machine with other jobs.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(args.seed)

    images, labels = load_digits(return_X_y=True)
    images = (images / 8.0 - 1.0).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)

    steps = args.epochs * math.ceil(len(x_train) / args.batch_size)
    learning_rate = tf.keras.optimizers.schedules.CosineDecay(args.learning_rate, steps)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input(shape=(64,)),
            tf.keras.layers.Dense(128, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    callbacks = [tf.keras.callbacks.TensorBoard(str(LOGS), write_graph=False), Report()]
    if checkpoints := os.environ.get("TFJOBS_CHECKPOINT_DIR"):
        # A second attempt of the same run goes on after the last epoch that was finished.
        callbacks.append(tf.keras.callbacks.BackupAndRestore(os.path.join(checkpoints, "keras")))
    model.fit(
        x_train,
        y_train,
        batch_size=args.batch_size,
        epochs=args.epochs,
        validation_data=(x_test, y_test),
        callbacks=callbacks,
        verbose=2,
    )

    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    report(int(model.optimizer.iterations.numpy()), loss=loss, accuracy=accuracy)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    model.save(OUTPUTS / "model.keras")
    print(f"test accuracy {accuracy:.4f}, loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
