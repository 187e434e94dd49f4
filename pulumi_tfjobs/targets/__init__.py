"""Compute targets: where replicas run."""
