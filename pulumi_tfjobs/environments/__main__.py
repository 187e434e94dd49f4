"""``python -m pulumi_tfjobs.environments build …``: build environments ahead, with plain progress lines on stdout.

Exit codes: 0 built (or there already), 1 a build failed, 2 bad arguments, 130 interrupted.
"""

from __future__ import annotations

import argparse
import re
import sys
import time

from pulumi_tfjobs.environments import build, default_spec, is_built
from pulumi_tfjobs.errors import TfJobsError
from pulumi_tfjobs.spec.model import EnvironmentSpec
from pulumi_tfjobs.spec.software import Software, resolve

SAY_AGAIN_SECONDS = 10.0


class Lines:
    """Progress as lines: each new step at once, a step that lasts every ten seconds."""

    def __init__(self) -> None:
        self._step = ""
        self._said = 0.0

    def __call__(self, message: str) -> None:
        step = re.sub(r"[\d.]+(?:%| s\))", "", message)
        now = time.monotonic()
        if step != self._step or now - self._said >= SAY_AGAIN_SECONDS:
            self._step, self._said = step, now
            print(message, flush=True)  # noqa: T201


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pulumi_tfjobs.environments", description="Build training environments ahead of the jobs."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="build environments that are not built yet")
    make.add_argument("--default", action="store_true", help="the environment of the example programs")
    make.add_argument(
        "--horovod",
        action="store_true",
        help="the example programs' environment with Horovod; with --pip: add Horovod to those packages",
    )
    make.add_argument(
        "--pip",
        action="append",
        default=[],
        metavar="REQUIREMENT",
        help="an environment of these packages (repeatable)",
    )
    make.add_argument("--python", metavar="X.Y", help="the Python version of the --pip environment")
    options = parser.parse_args(argv)
    if not (options.default or options.horovod or options.pip):
        parser.error("nothing to build: give --default, --horovod or --pip")
    specs: list[EnvironmentSpec] = []
    if options.default:
        specs.append(default_spec(horovod=False))
    if options.pip:
        wanted = Software(packages=tuple(options.pip), python_version=options.python, horovod=options.horovod)
        found = resolve(wanted)
        for warning in found.warnings:
            print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
        if found.problems:
            for problem in found.problems:
                print(problem, file=sys.stderr)  # noqa: T201
            return 2
        specs.append(found.environment)
    elif options.horovod:
        specs.append(default_spec(horovod=True))
    return _build_all(specs)


def _build_all(specs: list[EnvironmentSpec]) -> int:
    for spec in specs:
        what = ", ".join((*spec.requirements, *([f"horovod=={spec.horovod}"] if spec.horovod else [])))
        ready = is_built(spec)
        try:
            interpreter = build(spec, Lines())
        except TfJobsError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            return 1
        except KeyboardInterrupt:
            print("interrupted; run it again to go on", file=sys.stderr)  # noqa: T201
            return 130
        print(f"{'already built' if ready else 'built'}: {what}: {interpreter}", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
