"""Elastic Horovod on this machine: two ranks at the start; the job goes on while one lives, and gets the other back.

Each worker is a host of its own to Horovod, so that losing one takes no other along. The job takes max_workers slots.
"""

from __future__ import annotations

import pulumi

import pulumi_tfjobs as tfjobs

target = tfjobs.LocalTarget("here", slots=4)
job = tfjobs.TensorFlow(
    "digits",
    compute_target=target,
    source_directory="../digits/horovod_elastic",
    entry_script="train.py",
    script_params={"--epochs": 40, "--learning-rate": 0.01},
    distribution=tfjobs.Horovod(nodes=2, min_workers=1, max_workers=2),
    pip_packages=["tensorflow-cpu==2.15.1", "scikit-learn==1.5.2"],
)

pulumi.export("accuracy", job.metrics["accuracy"])
pulumi.export("worldSizes", job.world_sizes)
pulumi.export("logs", job.logs)
