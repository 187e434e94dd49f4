"""The commands of ``tfjobs``."""

from __future__ import annotations

import typer

app = typer.Typer(name="tfjobs", no_args_is_help=True)


@app.callback()
def _tfjobs() -> None:
    """Look at, follow and end training runs."""


def run() -> None:
    """Run the command that the arguments name."""
    app()
