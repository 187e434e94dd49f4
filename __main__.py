"""The same model trained in four ways on this machine, on scikit-learn's handwritten digits.

`pulumi config set horovod-learning-rate 0.02` and `pulumi preview` shows which job will train again, and why: that one
alone. So does an edit of one of the scripts in programs/digits/.
"""

from __future__ import annotations

import pulumi

import pulumi_tfjobs as tfjobs

config = pulumi.Config()
target = tfjobs.LocalTarget("here", slots=8)
packages = ["tensorflow-cpu==2.15.1", "scikit-learn==1.5.2"]

keras = tfjobs.TensorFlow(
    "keras",
    compute_target=target,
    source_directory="programs/digits/keras",
    entry_script="train.py",
    script_params={"--epochs": 15, "--learning-rate": config.get_float("keras-learning-rate", 0.02)},
    pip_packages=packages,
)

# Two Horovod ranks, one on each of two nodes that this machine plays.
horovod = tfjobs.TensorFlow(
    "horovod",
    compute_target=target,
    source_directory="programs/digits/horovod",
    entry_script="train.py",
    script_params={"--epochs": 15, "--learning-rate": config.get_float("horovod-learning-rate", 0.01)},
    node_count=2,
    process_count_per_node=1,
    distributed_backend="mpi",
    pip_packages=packages,
)

ps = tfjobs.TensorFlow(
    "ps",
    compute_target=target,
    source_directory="programs/digits/ps",
    entry_script="train.py",
    script_params={"--epochs": 15, "--learning-rate": config.get_float("ps-learning-rate", 0.01)},
    worker_count=2,
    parameter_server_count=1,
    distributed_backend="ps",
    pip_packages=packages,
)

multi_worker = tfjobs.TensorFlow(
    "multi_worker",
    compute_target=target,
    source_directory="programs/digits/multi_worker",
    entry_script="train.py",
    script_params={"--epochs": 15, "--learning-rate": config.get_float("multi_worker-learning-rate", 0.02)},
    worker_count=2,
    distributed_backend="multi_worker",
    pip_packages=packages,
)

jobs = {"keras": keras, "horovod": horovod, "ps": ps, "multi_worker": multi_worker}
pulumi.export(
    "jobs",
    {
        name: {
            "status": job.status,
            "runId": job.run_id,
            "durationSeconds": job.duration_seconds,
            "accuracy": job.metrics["accuracy"],
        }
        for name, job in jobs.items()
    },
)
