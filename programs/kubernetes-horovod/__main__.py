"""Two Horovod ranks on a Kubernetes cluster that is there.

GpuAddons installs what the cluster lacks; leave out what it has (``device_plugin=False`` …). Where an administrator has
done that already, a job needs the target alone: ``tfjobs.KubernetesTarget(context=…, namespace=…, queue=…, image=…)``.
"""

from __future__ import annotations

import pulumi

import pulumi_tfjobs as tfjobs

config = pulumi.Config()

addons = tfjobs.GpuAddons(
    "gpu",
    context=config.require("context"),
    namespaces=[tfjobs.JobNamespace("vision", submitters=[tfjobs.Subject("vision", type="Group")])],
    flavors=[tfjobs.Flavor("gpu")],
    queues=[tfjobs.Queue("vision", [tfjobs.Quota("gpu", gpus=8)])],
    # The class has to provide ReadWriteMany.
    storage=tfjobs.SharedStorage(size="100Gi", storage_class=config.get("storageClass")),
    target=tfjobs.KubernetesTarget(image=config.require("image"), cpu="4", memory="16Gi"),
)
job = tfjobs.TensorFlow(
    "digits",
    compute_target=addons.target,
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
pulumi.export("logs", job.logs)
pulumi.export("versions", addons.versions)
