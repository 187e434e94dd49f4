"""The commands of ``tfjobs``, and what their errors come to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pulumi_tfjobs import __version__
from pulumi_tfjobs.cli import attaching, diagnosis, keeping, listing, logs, planning, reporting, showing
from pulumi_tfjobs.cli.common import BAD, INTERRUPTED, NOT_FOUND, OK, UNAVAILABLE, USAGE, chosen, say_error
from pulumi_tfjobs.errors import InvalidInputs, RunNotFound, StoreError, TargetUnavailable, TfJobsError

app = typer.Typer(
    name="tfjobs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 the run ended badly or doctor found a failure, 2 wrong usage, 3 no such run, "
    "4 the store or target is unavailable, 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"tfjobs {__version__}\n")
        raise typer.Exit


@app.callback()
def _tfjobs(
    store: Annotated[
        str | None, typer.Option("--store", metavar="NAME", help="The store of the runs (default: default).")
    ] = None,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Look at, follow and end training runs.

    A run is named by its id, the start of it, the start of its digest, or the resource's id in a Pulumi state.
    """
    chosen.store = store


for _module in (listing, showing, logs, attaching, keeping, planning, reporting, diagnosis):
    _module.add_to(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; its exit code. Errors are lines on stderr, never tracebacks."""
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="tfjobs", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except InvalidInputs as error:
        for problem in error.problems:
            say_error(str(problem))
        return USAGE
    except TfJobsError as error:
        say_error(str(error))
        if isinstance(error, RunNotFound):
            return NOT_FOUND
        return UNAVAILABLE if isinstance(error, (StoreError, TargetUnavailable)) else BAD
    except UnicodeEncodeError:
        say_error("an argument is no valid text. To fix: write run ids and names in letters, digits and dashes")
        return USAGE
    except OSError as error:
        say_error(f"what was asked for could not be written: {error.strerror or error}. To fix: free space there")
        return BAD
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        if isinstance(code := getattr(error, "exit_code", None), int) and hasattr(error, "format_message"):
            _say_usage(error)
            return code
        from pulumi_tfjobs.store.plugin_log import unexpected

        say_error(
            unexpected(error, " ".join(["tfjobs", *(sys.argv[1:] if arguments is None else arguments)]), "tfjobs")
        )
        return BAD


def _say_usage(error: Exception) -> None:
    """What typer (or the click it is built on) has to say about the arguments."""
    message = str(error.format_message()).strip()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if type(error).__name__.startswith("NoArgsIsHelp"):
        sys.stderr.write(f"{message}\n")
        return
    path = context.command_path if context is not None else "tfjobs"
    say_error(f"{message.rstrip('.')}. To fix: see `{path} --help`")
