"""The environments of the example programs, built ahead by the set-up so that a first ``pulumi up`` need not wait."""

from __future__ import annotations

from pulumi_tfjobs.spec.model import EnvironmentSpec
from pulumi_tfjobs.spec.software import Software, resolve

EXAMPLE_PACKAGES = ("tensorflow-cpu==2.15.1", "scikit-learn==1.5.2")
"""``pipPackages`` of the programs in ``programs/``: the default TensorFlow, and the data set that they train on."""


def default_spec(horovod: bool = False) -> EnvironmentSpec:
    """What a job with the examples' packages runs in; ``horovod`` for those with distributed_backend "mpi"."""
    return resolve(Software(packages=EXAMPLE_PACKAGES, horovod=horovod)).environment
