"""Two Horovod ranks on this machine, which plays two nodes of one process each.

Horovod is not among the packages: a job with the backend "mpi" gets it, built for its TensorFlow.
"""

from __future__ import annotations

import pulumi

import pulumi_tfjobs as tfjobs

target = tfjobs.LocalTarget("here", slots=4)
job = tfjobs.TensorFlow(
    "digits",
    compute_target=target,
    source_directory="../digits/horovod",
    entry_script="train.py",
    script_params={"--epochs": 15, "--learning-rate": 0.01},
    node_count=2,
    process_count_per_node=1,
    distributed_backend="mpi",
    pip_packages=["tensorflow-cpu==2.15.1", "scikit-learn==1.5.2"],
)

pulumi.export("accuracy", job.metrics["accuracy"])
pulumi.export("hostfile", job.hostfile)
pulumi.export("logs", job.logs)
