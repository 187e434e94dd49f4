"""``tfjobs gc``, ``protect``, ``unprotect`` and ``release``: what is kept, and what goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pulumi_tfjobs.cli.common import (
    BAD,
    USAGE,
    StoreOption,
    complete_run,
    find_run,
    is_interactive,
    open_named,
    say,
    say_error,
    tell,
    wait_for,
)

if TYPE_CHECKING:
    from pulumi_tfjobs.environments.cleaning import Unused
    from pulumi_tfjobs.lifecycle.collecting import Collection
    from pulumi_tfjobs.store.gc import Rules

_SHOWN_NAME = 40


def add_to(app: typer.Typer) -> None:
    """Add the commands to the others."""
    app.command("gc")(gc)
    app.command("protect")(protect)
    app.command("unprotect")(unprotect)
    app.command("release")(release)


def gc(
    older: Annotated[
        str | None, typer.Option("--older", metavar="AGE", help="Remove runs that ended longer ago: 12h, 30d.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", min=0, help="Keep the newest N runs of each job.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Remove the oldest until the store fits: 20G.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="Only runs that are so (several times).")
    ] = None,
    environments: Annotated[
        str | None,
        typer.Option("--environments", metavar="AGE", help="Also training environments not used for that long."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
) -> None:
    """Remove runs that nobody needs, with their outputs, checkpoints and logs.

    Never a run that a Pulumi state refers to, that lives, or that is protected. Without a rule only leftovers go:
    source snapshots of no run, and what an earlier removal left half done.
    """
    from pulumi_tfjobs.lifecycle import collecting

    rules, unused_for = _rules(older, keep, max_size, status, environments)
    opened = open_named(store)
    collection = wait_for(collecting.plan(opened, rules))
    unused = wait_for(collecting.unused_environments(unused_for)) if unused_for is not None else []
    _show(collection, unused)
    if rules.max_size is not None and collection.total - collection.freed > rules.max_size:
        tell("the store stays larger than asked for: the other runs are referred to, live, are protected or kept")
    for run_id, why in collection.kept.items():
        tell(f"{run_id} stays, since its target could not be asked: {why}")
    count = len(collection.runs) + len(collection.leftovers) + len(unused)
    if dry_run or count == 0:
        return
    if not yes and not _agreed():
        raise typer.Exit(USAGE if not is_interactive() else BAD)
    gone = wait_for(collecting.collect(opened, collection))
    gone += [(item.path, item.size) for item in unused if item.remove()]
    from pulumi_tfjobs.store.limits import size_text

    say(f"removed {len(gone)} of {count}, freed {size_text(sum(size for _, size in gone))}")


def _rules(
    older: str | None, keep: int | None, max_size: str | None, status: list[str] | None, environments: str | None
) -> tuple[Rules, float | None]:
    from pulumi_tfjobs.cli.texts import parse_age, parse_size, parse_statuses
    from pulumi_tfjobs.errors import InputProblem, InvalidInputs
    from pulumi_tfjobs.store.gc import Rules

    problems: list[InputProblem] = []
    rules = Rules(
        parse_age(older, "--older", problems) if older is not None else None,
        keep,
        parse_size(max_size, "--max-size", problems) if max_size is not None else None,
        parse_statuses(status, problems),
    )
    unused_for = parse_age(environments, "--environments", problems) if environments is not None else None
    if problems:
        raise InvalidInputs(problems)
    return rules, unused_for


def _show(collection: Collection, unused: list[Unused]) -> None:
    from pulumi_tfjobs.cli.table import Table
    from pulumi_tfjobs.store.limits import size_text

    total = collection.freed + sum(item.size for item in unused)
    rows = [(entry.run.run_id, entry.run.status, entry.why, size_text(entry.size)) for entry in collection.runs]
    # Of a snapshot's folder the beginning of the digest says enough.
    names = ["/".join(left.path.split("/")[-2:]) for left in collection.leftovers]
    rows += [
        (name if len(name) <= _SHOWN_NAME else f"{name[: _SHOWN_NAME - 1]}…", "", left.what, size_text(left.size))
        for name, left in zip(names, collection.leftovers, strict=True)
    ]
    rows += [(item.path, "", item.what, size_text(item.size)) for item in unused]
    if not rows:
        tell("nothing to remove")
        return
    table = Table("WHAT", "STATUS", "WHY", "SIZE", right=("SIZE",), fold=("WHAT",))
    for row in rows:
        table.add(*row)
    table.show()
    say(f"{len(rows)} to remove, {size_text(total)}")


def _agreed() -> bool:
    if not is_interactive():
        say_error("nothing was removed: nobody is here to be asked. To fix: add --yes (or --dry-run to look only)")
        return False
    tell("Remove them? What is removed cannot be brought back. [y/N] ")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


_Runs = Annotated[
    list[str], typer.Argument(metavar="RUN…", help="Runs: ids or the starts of them.", autocompletion=complete_run)
]


def protect(run: _Runs, store: StoreOption = None) -> None:
    """Keep runs for good: neither gc nor deleteArtifacts removes them."""
    _set_protected(run, store, protected=True)


def unprotect(run: _Runs, store: StoreOption = None) -> None:
    """Let runs be removed again."""
    _set_protected(run, store, protected=False)


def _set_protected(names: list[str], store: str | None, *, protected: bool) -> None:
    for known in [find_run(name, store) for name in names]:
        known.store.protect([known.run.run_id], protected=protected)
        say(f"{known.run.run_id} is {'protected' if protected else 'no longer protected'}")


def release(
    run: _Runs,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="TEXT", help="Only resources whose URN holds this text.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Forget that resources refer to runs, so that gc may remove them.

    For references that nobody will ever drop: of a stack that is gone, or of a resource with retainOnDelete. One that
    still exists refers to its run again with its next update.
    """
    for known in [find_run(name, store) for name in run]:
        run_id = known.run.run_id
        dropped = [urn for urn in known.store.references(run_id) if reference is None or reference in urn]
        for urn in dropped:
            known.store.drop_reference(run_id, urn)
            say(f"{run_id} is no longer referred to by {urn}")
        if not dropped:
            tell(f"nothing refers to {run_id}" + ("" if reference is None else f" with {reference!r} in its URN"))
