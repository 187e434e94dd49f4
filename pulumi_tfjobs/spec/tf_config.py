"""TF_CONFIG: what TensorFlow reads to find the other members of its cluster.

The rules are TensorFlow's and Kubeflow's: empty replica types are left out (TensorFlow 2.13 and later reject
``"ps": []``), a lone worker gets none, the evaluator is no member of the cluster but has a task of its own, and
``"environment"`` is ``"cloud"``. With ``tf.distribute.ParameterServerStrategy`` the chief is the coordinator that
drives the training, while workers and parameter servers run a ``tf.distribute.Server``; which of them a process is, its
script reads from ``task``.

The members are one placeholder (:data:`~.launch.CLUSTER`), as they are the same for all; their addresses are others
(:func:`~.launch.address`), which the target replaces by ``host:port``.
"""

from __future__ import annotations

import json

from pulumi_tfjobs.spec.launch import CLUSTER, address
from pulumi_tfjobs.spec.model import Distribution, MultiWorker, ParameterServer

CHIEF = "chief"
WORKER = "worker"
PS = "ps"
EVALUATOR = "evaluator"


def replica_counts(distribution: Distribution) -> dict[str, int]:
    """Replica type -> how many, in start order, for the kinds that use TF_CONFIG; empty types are left out.

    Empty for ``single`` and ``horovod``.
    """
    if isinstance(distribution, ParameterServer):
        servers = distribution.parameter_servers
    elif isinstance(distribution, MultiWorker):
        servers = 0
    else:
        return {}
    counts = {
        PS: servers,
        CHIEF: int(distribution.chief),
        WORKER: distribution.workers,
        EVALUATOR: int(distribution.evaluator),
    }
    return {name: count for name, count in counts.items() if count > 0}


def cluster(distribution: Distribution) -> dict[str, list[str]]:
    """Replica type -> addresses of its members, evaluator and empty types left out.

    ``{"ps": ["{{address:ps:0}}"], "worker": ["{{address:worker:0}}"]}``. Empty where there is nothing to find: one
    process, Horovod, and a worker without any companion.
    """
    counts = replica_counts(distribution)
    if sum(counts.values()) < 2:
        return {}
    return {
        name: [address(name, index) for index in range(counts[name])] for name in (CHIEF, PS, WORKER) if name in counts
    }


def cluster_text(distribution: Distribution) -> str:
    """The cluster as JSON text, or an empty string where there is none."""
    members = cluster(distribution)
    return json.dumps(members) if members else ""


def tf_config(distribution: Distribution, replica_type: str, index: int) -> str:
    """TF_CONFIG's JSON text for one replica, with :data:`~.launch.CLUSTER` for the members, or an empty string where it
    gets none.

    Raises:
        ValueError: There is no such replica in this distribution's cluster.
    """
    counts = replica_counts(distribution)
    if sum(counts.values()) < 2:
        return ""
    count = counts.get(replica_type, 0)
    if not 0 <= index < count:
        raise ValueError(f"no replica {replica_type}-{index}: the job has {count} of type {replica_type}")
    task = json.dumps({"type": replica_type, "index": index})
    return f'{{"cluster": {CLUSTER}, "task": {task}, "environment": "cloud"}}'
