"""The command line ``tfjobs``: runs, their logs and their ends, with no Pulumi project around."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
    from pulumi_tfjobs.cli.app import run

    run()
