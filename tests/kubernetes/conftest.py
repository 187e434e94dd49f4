"""The private Kubernetes of the rig, started on first use."""

from tests.rig.fixtures import rig, rig_node

__all__ = ["rig", "rig_node"]
