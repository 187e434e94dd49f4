"""What a URN says."""

from __future__ import annotations


def resource_name(urn: str) -> str:
    """The name in a URN: ``urn:pulumi:dev::project::tfjobs:index:TrainingJob::mnist`` → ``mnist``."""
    return urn.split("::", 3)[-1]


def resource_type(urn: str) -> str:
    """The type in a URN, without those of its parents."""
    parts = urn.split("::", 3)
    return parts[2].rpartition("$")[2] if len(parts) == 4 else ""
