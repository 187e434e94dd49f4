"""What the commands share: exit codes, the options that most have, how a run is found, where texts go."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pulumi_tfjobs.errors import InputProblem

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle.finding import KnownRun
    from pulumi_tfjobs.store.runs import RunStore

OK = 0
BAD = 1
USAGE = 2
NOT_FOUND = 3
UNAVAILABLE = 4
INTERRUPTED = 130

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
COMPLETIONS = 50

_T = TypeVar("_T")


class _Chosen:
    """What was chosen before the command's name."""

    store: str | None = None


chosen = _Chosen()


def store_name(option: str | None) -> str:
    """The store that the options name."""
    return option or chosen.store or "default"


def open_named(option: str | None) -> RunStore:
    """That store. Raises InvalidInputs where the name cannot be one."""
    from pulumi_tfjobs.errors import InvalidInputs
    from pulumi_tfjobs.lifecycle.common import open_store

    name = store_name(option)
    if "/" in name or "\0" in name or name in {".", ".."}:
        raise InvalidInputs(
            [InputProblem("--store", f"{name!r} is not the name of a store", "a name such as default", "correct it")]
        )
    return open_store(name)


def find_run(text: str, option: str | None) -> KnownRun:
    """The run that the argument means. Raises RunNotFound, StoreError."""
    from pulumi_tfjobs.lifecycle.finding import find

    open_named(option)
    return find(text, store_name(option))


def complete_run(incomplete: str) -> list[str]:
    """Ids of runs that begin so, for the shell. Whatever is wrong there is said by the command itself."""
    try:
        from pulumi_tfjobs.store.runs import Query

        return [run.run_id for run in open_named(None).search(Query(prefix=incomplete, limit=COMPLETIONS))]
    except Exception:  # noqa: BLE001 - a shell that completes shows no errors
        return []


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run id, the start of one or of a digest.",
        autocompletion=complete_run,
        show_default=False,
    ),
]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="NAME", help="The store of the run (default: default).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def say(text: str) -> None:
    """A line of what was asked for."""
    sys.stdout.write(f"{_encodable(printable(text), sys.stdout.encoding)}\n")


def tell(text: str) -> None:
    """A line beside it: it goes to stderr, so that what was asked for can be piped on."""
    sys.stdout.flush()
    sys.stderr.write(f"{_encodable(printable(text), sys.stderr.encoding)}\n")
    sys.stderr.flush()


def say_error(text: str) -> None:
    """What went wrong and what to do, for a person."""
    tell(f"error: {text}")


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor: names, metrics and reasons come from scripts."""
    return _CONTROL.sub("", text)


def _encodable(text: str, encoding: str | None) -> str:
    return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def say_json(value: Any) -> None:
    """The value as JSON that any parser takes: no NaN, no lone surrogates."""
    say(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


def is_interactive() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def wait_for(work: Coroutine[Any, Any, _T]) -> _T:
    """Run asynchronous work to its end."""
    return asyncio.run(work)
