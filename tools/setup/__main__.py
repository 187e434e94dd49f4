"""`python3 -m tools.setup <what>`: see the package's text, or --help."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from . import commands
from .errors import SetupError
from .progress import Children, Reporter


def main(arguments: list[str] | None = None) -> int:
    """Runs one command of the set-up.

    Returns:
        The exit code: 0, 1 after a message, 130 after an interrupt, or that of the tool that was run.
    """
    parser = argparse.ArgumentParser(prog="python3 -m tools.setup", description=sys.modules[__package__].__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, text in (
        ("all", "everything that `make up` and `make test` need"),
        ("venv", "only .venv"),
        ("engine", "only the Pulumi engine"),
        ("environments", "only the training environments"),
        ("env", "print the variables for a shell, as export lines"),
        ("check", "formatting, lint, types, import contracts"),
        ("clean", "remove .venv and the tools' caches from this folder"),
    ):
        what.add_parser(name, help=text)
    test = what.add_parser("test", help="set-up, checks and tests, with a table of where the time went")
    test.add_argument("pytest", nargs="*", help="arguments for pytest")
    run = what.add_parser("run", help="run a command with .venv and the engine on PATH and Pulumi's variables set")
    run.add_argument("command", nargs=argparse.REMAINDER)
    parsed, rest = parser.parse_known_args(arguments)
    if rest and parsed.what != "test":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")

    reporter = Reporter()
    children = Children()
    try:
        return _dispatch(parsed, rest, reporter, children)
    except SetupError as error:
        children.stop()
        reporter.line(error.render())
        return 1
    except KeyboardInterrupt:
        children.stop()
        reporter.line("interrupted: what is done stays; the same command goes on from there.")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        children.stop()
        where = f" ({error.filename})" if error.filename else ""
        reporter.line(
            SetupError(
                f"The system refused: {error.strerror or error}{where}.",
                fix="Check free space and permissions there; PULUMI_TFJOBS_CACHE moves the cache elsewhere.",
            ).render()
        )
        return 1


def _dispatch(parsed: argparse.Namespace, rest: list[str], reporter: Reporter, children: Children) -> int:
    session = commands.Session(reporter=reporter, children=children)
    if parsed.what == "all":
        session.set_up()
    elif parsed.what in {"venv", "engine", "environments"}:
        session.set_up(only=parsed.what)
    elif parsed.what == "env":
        print(session.exports())
    elif parsed.what == "check":
        return min(session.check(), 1)
    elif parsed.what == "clean":
        session.clean()
    elif parsed.what == "test":
        return session.test([*parsed.pytest, *rest])
    else:
        session.run(parsed.command)
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sys.exit(main())
