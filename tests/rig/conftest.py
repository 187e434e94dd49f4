"""The rig's own tests use it as all others do."""

from tests.rig.fixtures import rig, rig_node

__all__ = ["rig", "rig_node"]
