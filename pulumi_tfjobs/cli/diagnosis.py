"""``tfjobs doctor``: what is wrong with this machine for training runs, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from pulumi_tfjobs.cli.checks import FAILURE, GOOD, WARNING, Check
from pulumi_tfjobs.cli.common import BAD, OK, JsonOption, StoreOption, open_named, say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable

_STYLES = {GOOD: "green", WARNING: "yellow", FAILURE: "bold red"}


def add_to(app: typer.Typer) -> None:
    """Add the command to the others."""
    app.command("doctor")(doctor)


def doctor(as_json: JsonOption = False, store: StoreOption = None) -> None:
    """Look for what is wrong with this machine, its store and its tools, and say how to mend it.

    Exit code 1 where anything fails; warnings are of what only some jobs need.
    """
    from pulumi_tfjobs.cli import machine, storage

    opened = open_named(store)
    found = [
        *(_tried(name, check) for name, check in machine.CHECKS.items()),
        *(_tried(name, lambda check=check: check(opened)) for name, check in storage.CHECKS.items()),  # type: ignore[misc]
    ]
    if as_json:
        say_json([check._asdict() for check in found])
    else:
        _show(found)
    raise typer.Exit(BAD if any(check.level == FAILURE for check in found) else OK)


def _tried(name: str, check: Callable[[], Check]) -> Check:
    """What the check found; one that breaks has found something too."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - the other checks go on
        summary = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Check(name, FAILURE, summary, "mend what this says; if it says nothing, please report it")


def _show(found: list[Check]) -> None:
    from pulumi_tfjobs.cli.table import Cell, Table

    table = Table("", "NAME", "FOUND", fold=("FOUND",), header=False)
    for check in found:
        fix = f"\nTo fix: {check.fix}" if check.fix and check.level != GOOD else ""
        table.add(Cell(check.level, _STYLES[check.level]), check.name, check.found + fix)
    table.show()
    bad = [sum(1 for check in found if check.level == level) for level in (FAILURE, WARNING)]
    say("all is well" if not any(bad) else f"{bad[0]} failed, {bad[1]} warnings")
