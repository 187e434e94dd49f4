"""Kinds of objects at a Kubernetes API, and where they are. Pure."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote


class Api(NamedTuple):
    """A kind of object: ``group`` is empty for the core group, ``plural`` its name in paths and permissions."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def resource(self) -> str:
        """As permissions and kubectl name it: ``jobsets.jobset.x-k8s.io``, ``pods``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """As an object's ``apiVersion`` has it."""
        return f"{self.group}/{self.version}" if self.group else self.version


PODS = Api("", "v1", "pods", "Pod")
CONFIG_MAPS = Api("", "v1", "configmaps", "ConfigMap")
SECRETS = Api("", "v1", "secrets", "Secret")
EVENTS = Api("", "v1", "events", "Event")
CLAIMS = Api("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
NODES = Api("", "v1", "nodes", "Node")
QUOTAS = Api("", "v1", "resourcequotas", "ResourceQuota")
JOB_SETS = Api("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
TF_JOBS = Api("kubeflow.org", "v1", "tfjobs", "TFJob")
MPI_JOBS = Api("kubeflow.org", "v2beta1", "mpijobs", "MPIJob")  # of mpi-operator
MPI_JOBS_V1 = Api("kubeflow.org", "v1", "mpijobs", "MPIJob")  # of training-operator; a cluster has one of them


def path_of(api: Api, namespace: str = "", name: str = "", part: str = "") -> str:
    """The path of a collection, or with ``name`` of one object, or of its ``part`` (``log``, ``status``). Without a
    namespace: of the whole cluster."""
    parts = ["apis", api.group, api.version] if api.group else ["api", api.version]
    if namespace:
        parts += ["namespaces", namespace]
    parts.append(api.plural)
    parts += [piece for piece in (name, part) if piece]
    return "/" + "/".join(quote(piece, safe="") for piece in parts)
