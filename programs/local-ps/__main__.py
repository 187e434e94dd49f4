"""One parameter server and two workers on this machine; each finds the others through TF_CONFIG.

The script is a low-level one (tf.train.ClusterSpec and Server). The server never exits by itself: it ends with the job.
"""

from __future__ import annotations

import pulumi

import pulumi_tfjobs as tfjobs

target = tfjobs.LocalTarget("here", slots=4)
job = tfjobs.TensorFlow(
    "digits",
    compute_target=target,
    source_directory="../digits/ps",
    entry_script="train.py",
    script_params={"--epochs": 15, "--learning-rate": 0.01},
    worker_count=2,
    parameter_server_count=1,
    distributed_backend="ps",
    pip_packages=["tensorflow-cpu==2.15.1", "scikit-learn==1.5.2"],
)

pulumi.export("accuracy", job.metrics["accuracy"])
pulumi.export("tfConfig", job.tf_config)
pulumi.export("logs", job.logs)
