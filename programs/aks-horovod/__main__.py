"""A GPU cluster on Azure from nothing, and two Horovod ranks on it.

Its GPU pools are at 0 nodes when no job runs. With ``spot=True`` a pool costs a fraction, and a run that loses a node
starts again from its checkpoint.
"""

from __future__ import annotations

import pulumi

import pulumi_tfjobs as tfjobs

config = pulumi.Config()

cluster = tfjobs.AksGpuCluster(
    "train",
    pools=[
        tfjobs.NodePool("t4", "Standard_NC4as_T4_v3", max_count=2),
        tfjobs.NodePool("t4spot", "Standard_NC4as_T4_v3", max_count=4, spot=True),
    ],
    target=tfjobs.KubernetesTarget(image=config.require("image"), memory="16Gi"),
    tags={"project": pulumi.get_project()},
)
job = tfjobs.TensorFlow(
    "digits",
    compute_target=cluster.target,
    source_directory="../digits/horovod",
    entry_script="train.py",
    script_params={"--epochs": 15, "--learning-rate": 0.01},
    node_count=2,
    process_count_per_node=1,
    distributed_backend="mpi",
    use_gpu=True,
    user_managed=True,
)

pulumi.export("accuracy", job.metrics["accuracy"])
pulumi.export("registry", cluster.registry_server)
pulumi.export("kubeconfig", cluster.kubeconfig)
