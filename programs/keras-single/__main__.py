"""The smallest program: one process trains a Keras model; its test accuracy is the stack's output."""

from __future__ import annotations

import pulumi

import pulumi_tfjobs as tfjobs

job = tfjobs.TensorFlow(
    "digits",
    compute_target=tfjobs.LocalTarget("here"),
    source_directory="../digits/keras",
    entry_script="train.py",
    script_params={"--epochs": 15},
    pip_packages=["tensorflow-cpu==2.15.1", "scikit-learn==1.5.2"],
)

pulumi.export("accuracy", job.metrics["accuracy"])
pulumi.export("outputs", job.outputs_dir)
