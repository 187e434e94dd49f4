"""Every version that the set-up itself chooses, and the oldest that it accepts from the machine.

The Python packages' versions are in requirements/dev.txt; the Go modules', with their checksums, in gomod/.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Version = tuple[int, int, int]

ENGINE = "v3.250.0"
"""Release of the Pulumi engine that is downloaded or built."""

OLDEST_ENGINE: Version = (3, 200, 0)
"""A `pulumi` on PATH older than this is passed over."""

OLDEST_UV: Version = (0, 5, 0)
OLDEST_PYTHON: Version = (3, 10, 0)
NEWEST_TRIED_PYTHON: Version = (3, 13, 0)

OLDEST_GO: Version = (1, 21, 0)
"""From 1.21 on, `go` fetches the toolchain that a go.mod asks for, if its own is older."""

WANTED_GO = "1.25.11"
"""What gomod/pulumi/go.mod asks for: this or later builds without fetching a toolchain."""

INSTALLER_URL = "https://get.pulumi.com/releases/sdk"
"""The official place of the engine's tarballs. PULUMI_TFJOBS_ENGINE_URL names a mirror of it."""


class GoBinary(NamedTuple):
    """One executable of the engine that is built from a Go module.

    Attributes:
        name: The executable's file name.
        folder: Folder in gomod/ with go.mod and go.sum.
        package: The main package.
        module: The module it is in.
        version: The module's version.
        version_symbol: The variable that the linker sets to `version`; without it `pulumi version` is empty
            and the Automation API refuses the engine.
        extras: Files beside the executable: name -> path in the module.
        about: How long the build takes on two idle cores, for the progress line.
    """

    name: str
    folder: str
    package: str
    module: str
    version: str
    version_symbol: str
    extras: dict[str, str]
    about: str


_SDK = "github.com/pulumi/pulumi/sdk/v3"

GO_BINARIES: tuple[GoBinary, ...] = (
    # The small ones first: what can go wrong (no proxy, an old Go) is then known within a minute.
    GoBinary(
        name="pulumi-language-python",
        folder="language-python",
        package=f"{_SDK}/python/cmd/pulumi-language-python",
        module=_SDK,
        # The last release whose module still holds the Python language host; it works with the newer engine.
        version="v3.79.0",
        version_symbol=f"{_SDK}/go/common/version.Version",
        extras={"pulumi-language-python-exec": "python/cmd/pulumi-language-python-exec"},
        about="about 1 min",
    ),
    GoBinary(
        name="pulumi-language-yaml",
        folder="language-yaml",
        package="github.com/pulumi/pulumi-yaml/cmd/pulumi-language-yaml",
        module="github.com/pulumi/pulumi-yaml",
        version="v1.10.3",
        version_symbol="github.com/pulumi/pulumi-yaml/pkg/version.Version",
        extras={},
        about="about 1 min",
    ),
    GoBinary(
        name="pulumi",
        folder="pulumi",
        package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
        module="github.com/pulumi/pulumi/pkg/v3",
        version=ENGINE,
        version_symbol=f"{_SDK}/go/common/version.Version",
        extras={},
        about="about 5 min on two cores",
    ),
)

REQUIRED_BINARIES: tuple[str, ...] = (
    "pulumi",
    "pulumi-language-python",
    "pulumi-language-python-exec",
    "pulumi-language-yaml",
)

_VERSION = re.compile(r"(?:^|[^0-9.])v?(\d+)\.(\d+)(?:\.(\d+))?")


def parse_version(text: str) -> Version | None:
    """The first version number in what a tool prints; None where there is none.

    Examples: `v3.250.0`, `3.251.0-dev.1` (pulumi), `go version go1.26.8 linux/amd64`, `uv 0.13.9 (x86_64…)`.
    """
    match = _VERSION.search(text)
    if match is None:
        return None
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def show(version: Version) -> str:
    """`(3, 200, 0)` as `3.200.0`."""
    return ".".join(map(str, version))
