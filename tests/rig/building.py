"""The rig's programs, built once into the cache: Kubernetes from Go modules, etcd and containerd from Debian.

Versions and checksums are locked in gomod/*/go.sum. What controllers need besides (custom resources, webhooks) is in
their modules too, and copied into the cache as JSON: a warm start reads nothing but `<cache>/rig/<key>`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.rig.pruning import note_use, prune
from tools.setup.errors import SetupError
from tools.setup.gobuild import BUILD_ENVIRONMENT, BUILD_FLAGS, find_go, how_far
from tools.setup.locks import exclusive, put, read_json, write_json
from tools.setup.paths import cache_root
from tools.setup.progress import Children, Reporter, Runner

GOMOD = Path(__file__).parent / "gomod"
KUBERNETES = "v1.33.13"
STEP = "rig"

_VERSION_FLAGS = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in {"gitVersion": KUBERNETES, "gitMajor": "1", "gitMinor": "33"}.items()
)


@dataclass(frozen=True)
class _Module:
    """One folder of gomod/: modules whose requirements agree are built together.

    Attributes:
        folder: Its name in gomod/.
        packages: Executable → Go package.
        ldflags: What the linker sets, besides leaving out the symbols.
    """

    folder: str
    packages: dict[str, str]
    ldflags: str = ""


MODULES = (
    _Module("tools", {"certs": "./certs", "pause": "./pause", "deliver": "./deliver"}),
    _Module(
        "core",
        {
            "kubernetes": "./kubernetes",
            "kubectl": "k8s.io/kubernetes/cmd/kubectl",
            "jobset": "sigs.k8s.io/jobset",
            "kwok": "sigs.k8s.io/kwok/cmd/kwok",
        },
        _VERSION_FLAGS,
    ),
    _Module(
        "queueing",
        {
            "coredns": "./coredns",
            "mpi-operator": "./mpi-operator",
            "kueue": "sigs.k8s.io/kueue/cmd/kueue",
        },
    ),
    _Module("training-operator", {"training-operator": "./training-operator"}),
)

# Name → (module folder, Go module, globs in it): what is in the files is written to manifests/<name>.json.
MANIFESTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "jobset-crd": ("core", "sigs.k8s.io/jobset", ("config/components/crd/bases/*.yaml",)),
    "jobset-webhooks": ("core", "sigs.k8s.io/jobset", ("config/components/webhook/manifests.yaml",)),
    "kueue-crd": ("queueing", "sigs.k8s.io/kueue", ("config/components/crd/bases/*.yaml",)),
    "kueue-webhooks": ("queueing", "sigs.k8s.io/kueue", ("config/components/webhook/manifests.yaml",)),
    "mpi-operator-crd": ("queueing", "github.com/kubeflow/mpi-operator", ("manifests/base/kubeflow.org_mpijobs.yaml",)),
    "training-operator-crd": (
        "training-operator",
        "github.com/kubeflow/training-operator",
        ("manifests/base/crds/kubeflow.org_*.yaml",),
    ),
    "training-operator-webhooks": (
        "training-operator",
        "github.com/kubeflow/training-operator",
        ("manifests/base/webhook/manifests.yaml",),
    ),
}

# Debian package → the file that shows that it is there, below the root they are unpacked to.
DEBIAN = {
    "etcd-server": "usr/bin/etcd",
    "containerd": "usr/bin/containerd",
    "runc": "usr/sbin/runc",
    "containernetworking-plugins": "usr/lib/cni/bridge",
}

# ssh for mpirun between pods. No part of the key: nothing that is built depends on it; what is missing is unpacked.
_LIBRARIES = f"usr/lib/{platform.machine()}-linux-gnu"
SSH = {"openssh-server": "usr/sbin/sshd", "libwrap0": f"{_LIBRARIES}/libwrap.so.0"}

_BUILD_FIX = (
    "Run the same command again: it goes on where it was. If the log speaks of a download, see that the Go\n"
    "module proxy (go env GOPROXY) is reached; of space, free 6 GB (go env GOCACHE GOMODCACHE)."
)


@dataclass(frozen=True)
class Programs:
    """Where the rig's programs are.

    Attributes:
        home: Folder in the cache, whole.
    """

    home: Path

    def go(self, name: str) -> str:
        """A program that was built."""
        return str(self.home / "bin" / name)

    def system(self, name: str) -> str:
        """A program of the system: the one on PATH, else the one of the unpacked package."""
        found = shutil.which(name)
        return found or next(str(path) for path in self._unpacked(name) if path.is_file())

    def _unpacked(self, name: str) -> list[Path]:
        return [self.home / "root/usr" / folder / name for folder in ("bin", "sbin")]

    @property
    def sshd(self) -> dict[str, Path]:
        """sshd and the library that it needs, where this machine has none of its own: name → file."""
        found = {Path(file).name: self.home / "root" / file for file in SSH.values()}
        return {} if _installed(SSH["openssh-server"]) else found

    @property
    def cni(self) -> Path:
        """Folder of the network plugins."""
        installed = Path("/usr/lib/cni")
        return installed if (installed / "bridge").is_file() else self.home / "root/usr/lib/cni"

    def manifests(self, name: str) -> list[dict[str, Any]]:
        """The objects that a controller wants in the cluster (a key of `MANIFESTS`)."""
        objects: list[dict[str, Any]] = json.loads((self.home / "manifests" / f"{name}.json").read_text("utf-8"))
        return objects


def key() -> str:
    """Names what would be built: changes with the Go sources, the locked versions, and this list of them."""
    digest = hashlib.sha256(repr((MODULES, MANIFESTS, DEBIAN, BUILD_FLAGS)).encode())
    for file in sorted(GOMOD.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(GOMOD)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def built() -> Programs | None:
    """The programs if they are built; None where `ensure` would have to build something."""
    home = cache_root() / "rig" / key()
    whole = read_json(home / "installed.json").get("whole") and not _not_unpacked(home)
    return Programs(home) if whole else None


def ensure(reporter: Reporter | None = None, children: Children | None = None) -> Programs:
    """Builds what is missing, minutes the first time, and says how far it is.

    Two at once wait for each other. What an interrupted build had done stays; what earlier versions have built goes.

    Args:
        reporter: Where lines go; default stdout.
        children: The processes started are among these, for a caller that may have to end them.

    Raises:
        SetupError: A build failed, or something that the build needs is not there.
    """
    home = cache_root() / "rig" / key()
    note_use(home)
    found = built()
    if found is not None:
        return found
    runner = Runner(STEP, reporter or Reporter(sys.stdout), children or Children(), cache_root() / "logs")

    def waiting(holder: str, seconds: float) -> None:
        runner.say(f"process {holder} builds the same; waiting ({seconds:.0f} s)")

    with exclusive(home.with_suffix(".lock"), waiting=waiting):
        if built() is None:
            _unpack(home, runner)
            go = _need_go()
            for module in MODULES:
                _build(module, home, go, runner)
            _copy_manifests(home, go)
            write_json(home / "installed.json", {"whole": True})
            runner.say(f"the programs of the test cluster are in {home}")
            for old in prune(home):
                runner.say(f"removed those of an earlier version ({old})")
    return Programs(home)


def _need_go() -> Path:
    go = find_go()
    if isinstance(go, str):
        raise SetupError(
            f"The test cluster is built from Go modules: {go}.",
            fix="Install Go 1.24 or later (https://go.dev/dl/) and run the same command again.",
        )
    return go


def _build(module: _Module, home: Path, go: Path, runner: Runner) -> None:
    bin_folder = home / "bin"
    names = [name for name in module.packages if not os.access(bin_folder / name, os.X_OK)]
    if not names:
        return
    bin_folder.mkdir(parents=True, exist_ok=True)
    what = ", ".join(names)
    runner.say(f"building {what} from Go modules")
    with tempfile.TemporaryDirectory(prefix=".build.", dir=home) as temporary:
        seconds = runner.run(
            [
                str(go),
                "build",
                *BUILD_FLAGS,
                "-ldflags",
                f"-s -w {module.ldflags}".strip(),
                "-o",
                temporary + "/",
                *(module.packages[name] for name in names),
            ],
            doing=f"building {what}",
            fix=_BUILD_FIX,
            log=f"rig-{module.folder}.log",
            cwd=GOMOD / module.folder,
            env=BUILD_ENVIRONMENT,
            detail=how_far,
        )
        for name in names:
            put(Path(temporary) / module.packages[name].rpartition("/")[2], bin_folder / name, mode=0o755)
    runner.say(f"built {what} in {seconds:.0f} s")


def _copy_manifests(home: Path, go: Path) -> None:
    folder = home / "manifests"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (place, module, globs) in MANIFESTS.items():
        listed = subprocess.run(
            [str(go), "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module],
            capture_output=True,
            text=True,
            check=False,
            cwd=GOMOD / place,
            env={**os.environ, **BUILD_ENVIRONMENT},
        )
        source = Path(listed.stdout.strip() or "/nonexistent")
        files = [file for pattern in globs for file in sorted(source.glob(pattern))]
        if not files:
            raise SetupError(
                f"The manifests of {module} were not found. {listed.stderr.strip()}".strip(),
                fix="Clear Go's module cache (go clean -modcache) and run the same command again.",
            )
        objects = [item for file in files for item in yaml.load_all(file.read_bytes(), _LOADER) if item]
        (folder / f"{name}.json").write_text(json.dumps(objects), encoding="utf-8")


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _installed(file: str) -> bool:
    # Of the network plugins only this very file will do: iproute2 has a program `bridge` too.
    return Path("/", file).is_file() or ("/cni/" not in file and shutil.which(Path(file).name) is not None)


def _not_unpacked(home: Path) -> list[str]:
    root = home / "root"
    wanted = {**DEBIAN, **SSH}
    return [package for package, file in wanted.items() if not (_installed(file) or (root / file).is_file())]


def _unpack(home: Path, runner: Runner) -> None:
    """Debian's packages, where their programs are not installed. Unpacking needs no root, and installs nothing."""
    root = home / "root"
    missing = _not_unpacked(home)
    if not missing:
        return
    fix = (
        f"Install {' '.join(missing)} yourself, so that etcd, containerd and runc are on PATH and the network\n"
        "plugins in /usr/lib/cni. On Debian and Ubuntu: apt-get update, then the same command again."
    )
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise SetupError(
            f"This system has no apt-get to bring {', '.join(missing)} for the test cluster.",
            expected="Debian or Ubuntu, or these programs installed",
            fix=fix,
        )
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".deb.", dir=home) as temporary:
        # apt downloads as its own user where it can; that user has to get into the folder.
        Path(temporary).chmod(0o777)
        runner.run(
            ["apt-get", "download", *missing],
            doing=f"downloading {', '.join(missing)}",
            fix=fix,
            log="rig-debian.log",
            cwd=Path(temporary),
        )
        for file in sorted(Path(temporary).glob("*.deb")):
            runner.run(
                ["dpkg", "-x", str(file), str(root)], doing=f"unpacking {file.name}", fix=fix, log="rig-dpkg.log"
            )
