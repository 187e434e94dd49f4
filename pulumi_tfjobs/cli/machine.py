"""What ``tfjobs doctor`` looks at besides the store: the system, the tools, the training environments."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig

from pulumi_tfjobs.cli.checks import FAILURE, GOOD, WARNING, Check

_ANSWER_SECONDS = 20.0
_CACHE_WARNING_BYTES = 3 << 30
_TRAINING_PYTHONS = ("3.11", "3.10", "3.9")
PLUGIN = "pulumi-resource-tfjobs"


def _answer(argv: list[str]) -> str | None:
    """The first line that the tool prints, None where it does not work."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return (lines or [""])[0].strip() if done.returncode == 0 else None


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", GOOD, f"{version} at {sys.executable}")


def _system() -> Check:
    if sys.platform != "linux":
        return Check("system", WARNING, f"{sys.platform}: runs are not supervised as safely as on Linux", "use Linux")
    import platform

    return Check("system", GOOD, f"Linux {platform.release()}, {os.cpu_count()} CPUs")


def _proc() -> Check:
    from pulumi_tfjobs.targets.local.processes import boot_id, start_ticks

    if start_ticks(os.getpid()) is None:
        return Check("/proc", FAILURE, "processes cannot be looked at", "mount /proc (mount -t proc proc /proc)")
    if not boot_id():
        return Check("/proc", WARNING, "there is no boot id: a reboot cannot be told from a kill", "mount all of /proc")
    if start_ticks(1) is None:
        return Check(
            "/proc", WARNING, "other users' processes are hidden (hidepid)", "nothing, where all runs are one user's"
        )
    return Check("/proc", GOOD, "processes are known by pid and start time")


def _pidfd() -> Check:
    try:
        handle = os.pidfd_open(os.getpid())
    except (AttributeError, OSError) as error:
        return Check("pidfd", FAILURE, f"processes cannot be watched ({error})", "use Linux 5.3 or later")
    try:
        signal.pidfd_send_signal(handle, 0)
    except (AttributeError, OSError) as error:
        return Check(
            "pidfd", FAILURE, f"processes cannot be signalled ({error})", "allow pidfd_send_signal (seccomp profile)"
        )
    finally:
        os.close(handle)
    return Check("pidfd", GOOD, "the end of a process is seen at once")


def _subreaper() -> Check:
    code = "from pulumi_tfjobs.targets.local.processes import Ties; raise SystemExit(not Ties().adopt_orphans())"
    if _answer([sys.executable, "-c", code]) is None:
        return Check(
            "subreaper", WARNING, "orphans of a script cannot be adopted (prctl)", "allow prctl (seccomp profile)"
        )
    return Check("subreaper", GOOD, "processes that a script leaves behind are found")


def _loopback() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
            port = server.getsockname()[1]
    except OSError as error:
        return Check(
            "loopback", FAILURE, f"127.0.0.1 cannot be connected to ({error})", "bring it up: ip link set lo up"
        )
    return Check("loopback", GOOD, f"ports of 127.0.0.1 can be used ({port} was tried)")


def _open_files() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        return Check("open files", WARNING, f"at most {soft} (up to {hard})", "ulimit -n 4096")
    return Check("open files", GOOD, "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def _uv() -> Check:
    path: str | None
    try:
        import uv

        path = uv.find_uv_bin()
    except (ImportError, FileNotFoundError):
        path = shutil.which("uv")
    version = None if path is None else _answer([path, "--version"])
    if version is None:
        return Check("uv", FAILURE, "there is no uv that works", f"{sys.executable} -m pip install --upgrade uv")
    return Check("uv", GOOD, f"{version} at {path}")


def _engine() -> Check:
    path = shutil.which("pulumi")
    if path is None:
        return Check(
            "pulumi",
            WARNING,
            "the Pulumi engine is not on PATH",
            "install it (https://www.pulumi.com/docs/install/) and add its folder to PATH; tfjobs itself needs none",
        )
    version = _answer([path, "version"])
    if version is None:
        return Check("pulumi", WARNING, f"{path} does not answer", "install the Pulumi engine anew")
    return Check("pulumi", GOOD, f"{version} at {path}")


def _plugin() -> Check:
    beside = os.path.join(sysconfig.get_path("scripts"), PLUGIN)
    path = beside if os.access(beside, os.X_OK) else shutil.which(PLUGIN)
    if path is None:
        return Check("plugin", FAILURE, f"there is no {PLUGIN}", f"{sys.executable} -m pip install pulumi-tfjobs")
    if shutil.which(PLUGIN) is None:
        fix = f"name its folder in the program's Pulumi.yaml (plugins: providers: path: {os.path.dirname(path)})"
        return Check("plugin", GOOD, f"{path}; it is not on PATH: {fix}")
    return Check("plugin", GOOD, path)


def _training() -> Check:
    from pulumi_tfjobs.environments.cache import MARKER, Cache

    envs = Cache().envs
    try:
        built = sum(1 for entry in os.scandir(envs) if os.path.isfile(os.path.join(entry.path, MARKER)))
    except OSError:
        built = 0
    here = [version for version in _TRAINING_PYTHONS if shutil.which(f"python{version}")]
    own = ".".join(map(str, sys.version_info[:2]))
    if own in _TRAINING_PYTHONS and own not in here:
        here.append(own)
    told = f"{built} training environment{'' if built == 1 else 's'} built in {envs}"
    if not here and not built:
        return Check(
            "training",
            WARNING,
            f"{told}; no Python {', '.join(_TRAINING_PYTHONS)} for TensorFlow 2.15: uv will try to download one",
            f"install python{_TRAINING_PYTHONS[0]}, or set pythonVersion and a later TensorFlow in the job",
        )
    return Check("training", GOOD, told + (f"; Python {', '.join(here)} here" if here else ""))


def _cache() -> Check:
    from pulumi_tfjobs.environments.cache import CACHE_VARIABLE, cache_root
    from pulumi_tfjobs.store.limits import size_text

    root = str(cache_root())
    place = root
    while not os.path.isdir(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if not os.access(place, os.W_OK | os.X_OK):
        fix = f"make it writable, or set {CACHE_VARIABLE} to another folder"
        return Check("cache", FAILURE, f"{place} cannot be written, so no environment can be built", fix)
    free = shutil.disk_usage(place).free
    if free < _CACHE_WARNING_BYTES:
        fix = f"free some (`tfjobs gc --environments 30d`), or set {CACHE_VARIABLE} to another folder"
        return Check("cache", WARNING, f"{size_text(free)} free at {root}; an environment takes some 1.5 GiB", fix)
    return Check("cache", GOOD, f"{root}, {size_text(free)} free")


def _horovod() -> Check:
    from pulumi_tfjobs.environments.cache import Cache

    try:
        ready = [entry.name for entry in os.scandir(Cache().wheels) if entry.is_dir() and os.listdir(entry.path)]
    except OSError:
        ready = []
    if ready:
        return Check("horovod", GOOD, f"{len(ready)} wheel{'' if len(ready) == 1 else 's'} compiled already")
    needed = {"C++ compiler": ("c++", "g++", "clang++"), "make": ("make",)}
    missing = [name for name, tools in needed.items() if not any(map(shutil.which, tools))]
    if missing:
        return Check(
            "horovod",
            WARNING,
            f"there is no {' and no '.join(missing)}: Horovod cannot be compiled",
            "install them (Debian, Ubuntu: apt-get install build-essential), or name ready wheels in "
            "PULUMI_TFJOBS_WHEELHOUSE; other jobs need none",
        )
    return Check("horovod", GOOD, "not compiled yet; a compiler is here")


def _mpi() -> Check:
    path = shutil.which("mpirun")
    if path is None:
        return Check("mpi", GOOD, "no Open MPI on PATH: environments bring their own")
    version = _answer([path, "--version"])
    if version is None:
        return Check("mpi", WARNING, f"{path} does not answer", "install Open MPI anew, or take it off PATH")
    return Check("mpi", GOOD, f"{version} at {path}")


def _gpus() -> Check:
    from pulumi_tfjobs.targets.local import gpus

    path = shutil.which("nvidia-smi")
    if path is None:
        return Check("gpus", GOOD, "no NVIDIA driver: runs use the CPUs")
    found = gpus.find()
    if not found:
        if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
            return Check("gpus", WARNING, "CUDA_VISIBLE_DEVICES hides every GPU", "unset it, or name the GPUs to use")
        return Check("gpus", WARNING, f"{path} finds no GPU", "mend the NVIDIA driver (run nvidia-smi to see why)")
    return Check("gpus", GOOD, f"{len(found)} to be used: {', '.join(found)}")


CHECKS = {
    "python": _python,
    "system": _system,
    "/proc": _proc,
    "pidfd": _pidfd,
    "subreaper": _subreaper,
    "loopback": _loopback,
    "open files": _open_files,
    "uv": _uv,
    "pulumi": _engine,
    "plugin": _plugin,
    "cache": _cache,
    "training": _training,
    "horovod": _horovod,
    "mpi": _mpi,
    "gpus": _gpus,
}
