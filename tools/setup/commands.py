"""What the Makefile's targets do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import engine, environments, venv
from .errors import SetupError
from .paths import Paths, default_paths, make_backend_folder, pulumi_environment
from .progress import Children, Reporter, Runner
from .timing import Timings, table

SHOW_TABLE_FROM_SECONDS = 5.0
IMPATIENT = 3
STOP_SECONDS = 6.0
TIMINGS_VARIABLE = "TFJOBS_SETUP_TIMINGS"

CHECKS = (
    ("ruff check", ["ruff", "check", "."]),
    ("ruff format", ["ruff", "format", "--check", "."]),
    ("mypy", ["mypy"]),
    ("imports", ["lint-imports"]),
)

# Only what tools write into the project's folder; the stack's state and the runs are the user's.
LITTER = (
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".import_linter_cache",
    ".hypothesis",
    "build",
    "dist",
)


class Session:
    """One call of the set-up: its paths, its terminal, its timings."""

    def __init__(self, *, reporter: Reporter, children: Children, paths: Paths | None = None) -> None:
        self.paths = paths or default_paths()
        self.reporter = reporter
        self.children = children
        self.timings = Timings()

    def runner(self, step: str) -> Runner:
        """A runner whose lines begin with the step's name."""
        return Runner(step, self.reporter, self.children, self.paths.logs)

    # -- set-up

    def set_up(self, only: str = "", *, quiet_table: bool = False) -> None:
        """Brings what is missing; the engine beside the rest, since it waits for nothing of it.

        Args:
            only: `venv`, `engine` or `environments` (which needs .venv); default: all.
            quiet_table: Leaves the table of times to the caller.

        Raises:
            SetupError: The first step that failed; the others were stopped then.
        """
        steps = {"engine": [self._engine], "venv": [self._venv], "environments": [self._python_side]}
        self._side_by_side(steps.get(only, [self._engine, self._python_side]))
        elapsed = self.timings.elapsed()
        if quiet_table:
            return
        if elapsed >= SHOW_TABLE_FROM_SECONDS:
            note = "" if only else "(engine and training side by side)"
            self.reporter.line(table(self.timings.rows, elapsed, note=note))
        else:
            notes = ", ".join(f"{row.name} {row.note}" for row in self.timings.rows)
            self.reporter.say("setup", f"{notes} ({elapsed:.1f} s)")

    def _engine(self) -> None:
        with self.timings.step("engine") as note:
            found = engine.ensure(self.paths, self.runner("engine"))
            note.append(f"{found.version} {found.way}" + ("" if found.fresh else ", unchanged"))

    def _venv(self) -> None:
        with self.timings.step("venv") as note:
            changed = venv.ensure(self.paths, self.runner("venv"))
            note.append("installed" if changed else "unchanged")

    def _python_side(self) -> None:
        self._venv()
        with self.timings.step("training") as note:
            environments.ensure(self.paths, self.runner("training"))
            note.append("ready")

    def _rig(self) -> None:
        """The programs of the cluster that tests run: a step of its own, since nothing else needs them."""
        with self.timings.step("rig") as note:
            runner = self.runner("rig")
            runner.follow(
                [str(self.paths.python), "-m", "tests.rig", "build"],
                doing="the programs of the test cluster",
                fix="See the log; they are built from Go modules and Debian packages (tests/rig/building.py).",
                log="rig.log",
            )
            note.append("ready")

    def _side_by_side(self, steps: list[Callable[[], None]]) -> None:
        """Runs steps in threads, even a single one: Ctrl-C then finds the main thread waiting, never half-way through
        starting a process that nobody would end."""
        failures: list[BaseException] = []

        def guarded(step: Callable[[], None], ended: threading.Event) -> None:
            try:
                step()
            except BaseException as error:  # noqa: BLE001  handed to the main thread, which raises it
                # After the first, the others fail because they were stopped.
                failures.append(error)
                self.children.stop()
            finally:
                ended.set()

        # Events, not join(): before Python 3.13 an interrupted join takes a thread that still runs for ended.
        ends = [threading.Event() for _ in steps]
        for step, ended in zip(steps, ends):
            threading.Thread(target=guarded, args=(step, ended), daemon=True).start()
        try:
            for ended in ends:
                ended.wait()
        except KeyboardInterrupt:
            self.children.stop()
            # So that they remove their temporary files; one that waits for another set-up's lock may go on waiting.
            for ended in ends:
                ended.wait(STOP_SECONDS)
            raise
        if failures:
            raise failures[0]

    # -- running

    def environment(self) -> dict[str, str]:
        """Variables to run Pulumi with, over the present ones.

        Raises:
            SetupError: The set-up was not run yet.
        """
        found, why_not = engine.locate(self.paths)
        if found is None or not self.paths.python.exists():
            what = "Pulumi engine" if found is None else ".venv"
            raise SetupError(f"There is no {what} yet. {why_not}".rstrip(), fix="Run: make setup")
        added = pulumi_environment(self.paths, found.bin)
        make_backend_folder(added["PULUMI_BACKEND_URL"])
        Path(added["PULUMI_HOME"]).mkdir(parents=True, exist_ok=True)
        return added

    def exports(self) -> str:
        """The same as lines for a POSIX shell: `eval "$(make -s env)"`."""
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in self.environment().items())

    def run(self, command: list[str]) -> NoReturn:
        """Becomes the command, with the environment of `environment`.

        Raises:
            SetupError: The set-up was not run, or there is no such command.
        """
        command = command[1:] if command[:1] == ["--"] else command
        if not command:
            raise SetupError("`run` was given no command.", fix="For example: python3 -m tools.setup run pulumi stack")
        env = {**os.environ, **self.environment()}
        executable = shutil.which(command[0], path=env["PATH"])
        if executable is None:
            raise SetupError(f"There is no {command[0]} on PATH.", fix="Check the spelling, or run: make setup")
        os.chdir(self.paths.repo)
        os.execve(executable, command, env)

    # -- checks and tests

    def check(self, *, with_table: bool = True) -> int:
        """Runs all static checks, also after one has failed; output only of those that fail.

        Returns:
            How many failed.
        """
        failed = 0

        def all_checks() -> None:
            nonlocal failed
            self._venv()
            for name, command in CHECKS:
                with self.timings.step(name) as note:
                    ok = self._one_check(name, [str(self.paths.venv / "bin" / command[0]), *command[1:]])
                    note.append("ok" if ok else "FAILED")
                    failed += not ok

        self._side_by_side([all_checks])
        if with_table:
            rows = [row for row in self.timings.rows if row.name != "venv"]
            self.reporter.line(table(rows, self.timings.elapsed(), note=f"{failed} failed" if failed else "all ok"))
        return failed

    def _one_check(self, name: str, argv: list[str]) -> bool:
        runner = self.runner("check")
        log = f"check-{name.replace(' ', '-')}.log"
        path = f"{self.paths.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        try:
            seconds = runner.run(argv, doing=name, fix="", log=log, cwd=self.paths.repo, env={"PATH": path})
        except SetupError:
            if self.children.stopped:
                raise
            output = (self.paths.logs / log).read_text(encoding="utf-8", errors="replace")
            self.reporter.line(f"{output.rstrip()}\ncheck    | {name}: FAILED")
            return False
        runner.say(f"{name}: ok ({seconds:.1f} s)")
        return True

    def test(self, arguments: list[str]) -> int:
        """Set-up, checks, then pytest, which shows the table of times of all three and has the last word.

        Args:
            arguments: For pytest, for example a folder or `-k word`.

        Returns:
            pytest's exit code, or 1 when only checks failed.
        """
        self.set_up(quiet_table=True)
        self._side_by_side([self._rig])
        failed = self.check(with_table=False)
        rows = [[row.name, row.seconds, row.note] for row in self.timings.rows if row.seconds >= 0.1]
        env = {
            # Tests start thousands of plugins: Python is to be compiled once, not by each of them.
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            **self.environment(),
            TIMINGS_VARIABLE: json.dumps({"rows": rows, "elapsed": self.timings.elapsed(), "failed_checks": failed}),
        }
        # The terminal is pytest's now: its colours, its progress, and Ctrl-C, are as a developer knows them.
        argv = [str(self.paths.python), "-m", "pytest", "-p", "tools.setup.pytest_timing", "--durations=25"]
        # Two at a time: engine, cluster and training make tests wait more than they make them compute. In their order:
        # the longest come first.
        argv += ["--numprocesses=2", "--dist=loadscope", "--no-loadscope-reorder"]
        code = _in_foreground([*argv, *arguments], env, self.paths.repo)
        return code or min(failed, 1)

    def clean(self) -> None:
        """Removes what tools wrote into this folder; neither the stack's state, nor runs, nor the cache."""
        for name in LITTER:
            path = self.paths.repo / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.exists():
                shutil.rmtree(path)
        for top in ("pulumi_tfjobs", "tests", "tools", "programs", "benchmarks"):
            for path in sorted((self.paths.repo / top).rglob("__pycache__")):
                shutil.rmtree(path, ignore_errors=True)
        self.reporter.say("clean", f"kept: .pulumi-state (the stack; `make destroy` ends it) and {self.paths.cache}")


def _in_foreground(argv: list[str], env: dict[str, str], cwd: Path) -> int:
    """Runs a command in this process group, and through Ctrl-C waits for it to end in its own way."""
    child = subprocess.Popen(argv, env=env, cwd=cwd)
    interrupts = 0
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts > IMPATIENT:
                child.kill()
