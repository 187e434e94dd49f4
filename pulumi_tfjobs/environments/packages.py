"""Packages through uv: which versions, and putting them into an environment, with short progress and short errors."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pulumi_tfjobs.environments.cache import wheelhouse
from pulumi_tfjobs.environments.process import Tools, tail, tool_environment
from pulumi_tfjobs.errors import EnvironmentBuildFailed

REASON_LENGTH = 600

_NO_NETWORK = re.compile(
    r"error sending request|dns error|failed to lookup address|connection (?:refused|reset)|network is unreachable"
    r"|operation timed out|network (?:connectivity )?(?:is|was) disabled|tls handshake",
    re.IGNORECASE,
)
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:401|403)\b|unauthorized|forbidden", re.IGNORECASE)
_BLAMED = (
    re.compile(
        r"failed to (?:build|download|fetch)(?: and build)?:? `?([A-Za-z0-9][\w.-]*?)(?:==[^`\s]*)?[`\s]", re.IGNORECASE
    ),
    re.compile(r"Because ([A-Za-z0-9][\w.-]*)\S* was not found"),
    re.compile(r"(?:no versions? of|only \S+ versions? of) ([A-Za-z0-9][\w.-]*?)(?:\[|[=<>!~]|\s)"),
    re.compile(r"Because ([A-Za-z0-9][\w.-]*?)(?:\[|[=<>!~]|\s)"),
)


def find_uv() -> str:
    """Path of uv: the one that the ``uv`` package ships, else the one on PATH. Raises EnvironmentBuildFailed."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise EnvironmentBuildFailed(
            "uv is missing, which builds the training environments. Expected: the package `uv` beside this one, or uv "
            "on PATH. To fix: pip install uv"
        )
    return found


class Uv:
    """uv under one build's lock and log."""

    def __init__(self, tools: Tools) -> None:
        self._bin = find_uv()
        self._tools = tools
        self.log = tools.log

    def run(
        self,
        *arguments: str,
        on_line: Callable[[str], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> tuple[int, list[str]]:
        return self._tools.run(
            [self._bin, *arguments], env=tool_environment(UV_NO_PROGRESS="1"), on_line=on_line, tick=tick
        )

    def python(self, version: str, *, managed: bool = False) -> str | None:
        """An interpreter of this version that is already on the machine, None where uv finds none."""
        answer = subprocess.run(
            [
                self._bin,
                *("python", "find", "--no-python-downloads", "--no-project"),
                "--managed-python" if managed else "--system",
                version,
            ],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=tool_environment(),
            cwd=self._tools.folder,
            check=False,
        )
        return answer.stdout.strip() or None if answer.returncode == 0 else None

    def try_offline_first(
        self,
        arguments: Sequence[str],
        *,
        offline_first: bool,
        on_line: Callable[[str], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> tuple[int, list[str]]:
        """Run uv from its cache alone, and with the network if that does not do; or the other way round.

        Pinned requirements want nothing new, so that a machine without a network serves them from uv's cache at once.
        For a range, the cache knows only what was fetched once: it is asked where the network cannot be.
        """
        offline = [*arguments, "--offline"]
        if offline_first:
            code, lines = self.run(*offline, on_line=on_line, tick=tick)
            return (code, lines) if code == 0 else self.run(*arguments, on_line=on_line, tick=tick)
        code, lines = self.run(*arguments, on_line=on_line, tick=tick)
        if code != 0 and _NO_NETWORK.search("\n".join(lines)):
            second, others = self.run(*offline, on_line=on_line, tick=tick)
            if second == 0:
                return second, others
        return code, lines


def find_links() -> list[str]:
    """uv's arguments for the wheelhouse, if there is one."""
    folder = wheelhouse()
    return ["--find-links", str(folder)] if folder is not None else []


def pinned(requirements: Sequence[str]) -> bool:
    """Whether each requirement names one version (``==`` without ``*``) or a direct reference."""
    return all(_pinned(line) for line in requirements)


def _pinned(line: str) -> bool:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return False
    return requirement.url is not None or any(
        one.operator in {"==", "==="} and not one.version.endswith("*") for one in requirement.specifier
    )


def resolved_versions(lines: Sequence[str]) -> dict[str, str]:
    """``name==version`` lines → canonical name → version; other lines (direct references) are left out."""
    found = {}
    for line in lines:
        name, sign, version = line.split(";")[0].strip().partition("==")
        if sign and name and not name.startswith("#"):
            found[str(canonicalize_name(name.split("[")[0]))] = version.strip()
    return found


def resolve(
    uv: Uv, requirements: Sequence[str], python: str, workspace: Path, tick: Callable[[], None]
) -> tuple[Path, dict[str, str]]:
    """Choose versions for ``requirements`` and all that they need; returns the file that pins them, and the pins.

    Raises EnvironmentBuildFailed that names the package to blame and uv's reason.
    """
    wanted, chosen = workspace / "requirements.in", workspace / "requirements.txt"
    wanted.write_text("".join(f"{line}\n" for line in requirements), "utf-8")
    code, lines = uv.try_offline_first(
        [
            *("pip", "compile", str(wanted), "--output-file", str(chosen), "--python", python),
            *("--no-header", "--no-annotate", "--quiet", *find_links()),
        ],
        offline_first=pinned(requirements),
        tick=tick,
    )
    if code != 0:
        raise EnvironmentBuildFailed(package_failure(requirements, lines), str(uv.log))
    return chosen, resolved_versions(chosen.read_text("utf-8").splitlines())


def make_environment(uv: Uv, folder: Path, python: str) -> None:
    """An empty virtual environment at ``folder``. Raises EnvironmentBuildFailed."""
    code, lines = uv.run("venv", "--python", python, str(folder))
    if code != 0:
        raise EnvironmentBuildFailed(
            f"The virtual environment {folder} could not be made with {python}:\n{tail(lines, 4)}\n{_advice(lines)}",
            str(uv.log),
        )


def install(
    uv: Uv,
    python: Path,
    packages: Sequence[str],
    *,
    dependencies: bool,
    say: Callable[[str], None],
    tick: Callable[[], None],
) -> None:
    """Install ``packages`` (requirements, wheels, ``-r``/``-c`` options) into the environment of ``python``.

    Without ``dependencies`` exactly these. Raises EnvironmentBuildFailed.
    """

    def tell(line: str) -> None:
        if text := short_progress(line):
            say(text)

    code, lines = uv.try_offline_first(
        [
            # Compiled once here rather than by every replica of the first run at the same moment.
            *("pip", "install", "--compile-bytecode", "--python", str(python), *find_links()),
            *(() if dependencies else ("--no-deps",)),
            *packages,
        ],
        offline_first=True,
        on_line=tell,
        tick=tick,
    )
    if code != 0:
        raise EnvironmentBuildFailed(package_failure(packages, lines), str(uv.log))


_MEGABYTE = re.compile(r"\((\d[\d.]*) ?([KMG]iB)\)")


def short_progress(line: str) -> str:
    """What a line of uv's output says, in a few words; empty where it is no news."""
    line = line.strip()
    if match := re.match(r"Resolved (\d+) packages?", line):
        return f"installing {_packages(match[1])}"
    if match := re.match(r"Prepared (\d+) packages?", line):
        return f"unpacking {_packages(match[1])}"
    if match := re.match(r"(Downloading|Building) (\S+)", line):
        size = _MEGABYTE.search(line)
        return f"{match[1].lower()} {match[2]}{f' {size[1]} {size[2]}' if size else ''}"
    return ""


def _packages(count: str) -> str:
    return f"{count} package{'' if count == '1' else 's'}"


def package_failure(requirements: Sequence[str], lines: Sequence[str]) -> str:
    """An error message from uv's output: which package, why, what to do."""
    reason = short_reason(lines)
    blamed = _blamed(requirements, reason)
    what = f"The package {blamed} could not be installed" if blamed else "The packages could not be installed"
    return f"{what}: {reason}\n{_advice(lines)}"


def short_reason(lines: Sequence[str]) -> str:
    """uv's explanation without frames, tags and repetition, at most 600 characters."""
    words = []
    for raw in lines:
        line = re.sub(r"^[\s×╰─▶│├]+", "", raw).strip()
        line = re.sub(r"^(?:error|cause|warning):\s*", "", line)
        if line and not line.startswith(("Resolved", "Prepared", "Using", "Downloading", "$ ")):
            words.append(line)
    text = " ".join(words)
    text = re.sub(r"^No solution found when resolving dependencies:?\s*", "", text)
    text = text.replace(" in the package registry", " in the package index")
    # uv closes with what the reader knows.
    text = re.sub(
        r"\.?(?: And because you require [^,]+)?, we can conclude that your requirements are [^.]*\.", ".", text
    )
    return text if len(text) <= REASON_LENGTH else f"{text[:REASON_LENGTH]}…"


def _blamed(requirements: Sequence[str], reason: str) -> str:
    names = {}
    for line in requirements:
        try:
            names[str(canonicalize_name(Requirement(line).name))] = line
        except InvalidRequirement:
            continue
    for pattern in _BLAMED:
        for match in pattern.finditer(f"{reason} "):
            name = str(canonicalize_name(match[1].rstrip(".")))
            if name in names:
                return names[name]
            if name not in {"you", "your", "only", "there", "the", "all"}:
                return name
    return next((line for name, line in names.items() if re.search(rf"\b{re.escape(name)}\b", reason)), "")


def _advice(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if _NO_SPACE.search(text):
        return (
            "Expected: some 2 GB free in the cache folder. To fix: free disk space, or set PULUMI_TFJOBS_CACHE (and "
            "UV_CACHE_DIR) to a folder on a larger disk."
        )
    if _NO_NETWORK.search(text):
        return (
            "Expected: a package index that answers. To fix: check the network, set HTTPS_PROXY, or name an index that "
            "can be reached in UV_DEFAULT_INDEX (uv does not read pip's configuration); or put wheels into a folder "
            "and name it in PULUMI_TFJOBS_WHEELHOUSE."
        )
    if _DENIED.search(text):
        return (
            "Expected: an index that lets you in. To fix: give uv the credentials (UV_DEFAULT_INDEX, or "
            "UV_INDEX_<NAME>_USERNAME and _PASSWORD, or a netrc file)."
        )
    return (
        "Expected: packages that exist for this Python and platform and that agree with each other. To fix: correct "
        "the requirement in pipPackages (name, version), or choose versions that agree."
    )
