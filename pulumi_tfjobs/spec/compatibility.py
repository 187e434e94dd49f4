"""What of the software that a job asks for cannot be together, and what nobody knows: the tables of :mod:`.matrix`
asked. Pure.

A combination that is known not to work is a problem, and names the nearest that does. One that is not in the tables is
a warning: it may well work, and the tables are older than the newest release.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec.matrix import (
    AND_CUDA_SINCE,
    DEFAULT_TENSORFLOW,
    HOROVOD_VERSION,
    KERAS_3_SINCE,
    KNOWN_KERAS,
    NO_TENSORFLOW_GPU_SINCE,
    SERIES,
    Series,
    driver_of,
)
from pulumi_tfjobs.spec.model import EnvironmentSpec
from pulumi_tfjobs.spec.versions import (
    admits_newer,
    allowed_releases,
    best_with_horovod,
    minor,
    pinned,
    python_for,
    pythons_of,
    releases,
    why_not_horovod,
    works_with_horovod,
)

_KERAS = frozenset({"keras", "keras-nightly"})
_CUDA_DISTRIBUTIONS = frozenset({"tensorflow", "tensorflow-gpu"})


class Named(NamedTuple):
    """A requirement and the property path that it is from."""

    path: str
    requirement: Requirement

    @property
    def name(self) -> str:
        """The canonical name of what it asks for."""
        return canonicalize_name(self.requirement.name)


class Versions(NamedTuple):
    """What a job's software is made of.

    ``tensorflow``: None where it is not known yet; ``where``: the path that names it. ``python`` is ``3.11``-like,
    empty where it is left open. ``packages``: all others. ``distribution``: the job's kind (``parameterServer`` …);
    ``legacy_keras``: whether TF_USE_LEGACY_KERAS is set.
    """

    tensorflow: Requirement | None
    where: str = "pipPackages"
    python: str = ""
    packages: tuple[Named, ...] = ()
    horovod: bool = False
    use_gpu: bool = False
    distribution: str = ""
    legacy_keras: bool = False

    @property
    def text(self) -> str:
        """The TensorFlow in words: ``tensorflow-cpu 2.15.1``."""
        assert self.tensorflow is not None
        version = pinned(self.tensorflow.specifier)
        return f"{self.tensorflow.name} {version or self.tensorflow.specifier}".strip()


class GpuNeeds(NamedTuple):
    """What an environment's TensorFlow asks of a machine with GPUs. ``driver``: the oldest that will do."""

    tensorflow: str
    cuda: str
    cudnn: str
    driver: tuple[int, ...]


def check(versions: Versions) -> tuple[list[InputProblem], list[str]]:
    """What cannot be, and what is likely wrong or not known (texts for people). A path is named once at most."""
    framework = versions.tensorflow
    if framework is None:
        return [], []
    if framework.url is not None:
        if versions.horovod:
            return [_no_version(framework, versions.where)], []
        return [], [f"{framework.name} is from an address: what goes with its version was not checked"]
    problems = [*_distribution(versions), *_python(versions)]
    if versions.horovod:
        problems += _horovod(versions)
    if not any(problem.path == versions.where for problem in problems):
        problems += _packages(versions)
    first = {problem.path: problem for problem in reversed(problems)}
    return [problem for problem in problems if first[problem.path] is problem], _warnings(versions)


def gpu_needs(environment: EnvironmentSpec) -> GpuNeeds | None:
    """What the newest TensorFlow that the environment may get needs; None where that is not known, or uses no CUDA."""
    for text in environment.requirements:
        requirement = Requirement(text)
        found = _newest(requirement)
        if canonicalize_name(requirement.name) in _CUDA_DISTRIBUTIONS and found is not None:
            series = SERIES[found.major, found.minor]
            return GpuNeeds(
                Versions(requirement).text.partition("[")[0], series.cuda, series.cudnn, driver_of(series.cuda)
            )
    return None


def nearest(package: Requirement, near: Version, *, python: str = "", horovod: bool = False) -> Version | None:
    """The TensorFlow release nearest to ``near`` that the package goes with; None where there is none."""
    fitting = [
        release
        for release in _newest_patches()
        if _goes(package, SERIES[release.major, release.minor])
        and (not python or _python_of(python) in pythons_of(release))
        and (not horovod or works_with_horovod(release))
    ]
    order = {key: place for place, key in enumerate(SERIES)}
    place = order[near.major, near.minor]
    return min(fitting, key=lambda release: abs(order[release.major, release.minor] - place), default=None)


def overlap(one: SpecifierSet, other: SpecifierSet) -> bool:
    """Whether some version is in both, as far as bounds tell (``!=`` is passed over)."""
    exact = pinned(one) or pinned(other)
    if exact is not None:
        return one.contains(exact, prereleases=True) and other.contains(exact, prereleases=True)
    lower: list[tuple[Version, bool]] = []
    upper: list[tuple[Version, bool]] = []
    for item in [*one, *other]:
        _bounds(item, lower, upper)
    if not lower or not upper:
        return True
    low, high = max(bound for bound, _ in lower), min(bound for bound, _ in upper)
    closed = all(included for bound, included in [*lower, *upper] if bound in {low, high})
    return low < high or (low == high and closed)


def _bounds(item: Specifier, lower: list[tuple[Version, bool]], upper: list[tuple[Version, bool]]) -> None:
    """Add the item's bounds; each is (version, whether it is itself allowed)."""
    if item.operator == "===":
        return  # any text, of which no bound is known
    version = Version(item.version.removesuffix(".*"))
    if item.operator in {">=", ">"}:
        lower.append((version, item.operator == ">="))
    elif item.operator in {"<=", "<"}:
        upper.append((version, item.operator == "<="))
    elif item.operator == "~=" or (item.operator == "==" and item.version.endswith(".*")):
        prefix = version.release[:-1] if item.operator == "~=" else version.release
        lower.append((version, True))
        upper.append((Version(".".join(map(str, (*prefix[:-1], prefix[-1] + 1)))), False))


def _newest_patches() -> list[Version]:
    return [Version(f"{major}.{number}.{series.patch}") for (major, number), series in SERIES.items()]


def _newest(framework: Requirement) -> Version | None:
    """The newest known release that the requirement allows; None where nothing is known of what it allows."""
    if framework.url is not None or (_nightly(framework) and pinned(framework.specifier) is None):
        return None
    return max(allowed_releases(framework.specifier), default=None)


def _nightly(framework: Requirement) -> bool:
    return framework.name.lower().startswith("tf-nightly")


def _python_of(text: str) -> tuple[int, int]:
    """``3.11.4`` -> ``(3, 11)``."""
    first, second, *_ = text.split(".")
    return int(first), int(second)


def _goes(package: Requirement, series: Series) -> bool:
    allowed = series.packages.get(canonicalize_name(package.name), "")
    return overlap(package.specifier, SpecifierSet(allowed))


# What cannot be


def _distribution(versions: Versions) -> Iterable[InputProblem]:
    framework = versions.tensorflow
    assert framework is not None
    newest = _newest(framework)
    if canonicalize_name(framework.name) != "tensorflow-gpu" or newest is None:
        return
    if (newest.major, newest.minor) >= NO_TENSORFLOW_GPU_SINCE:
        since = ".".join(map(str, NO_TENSORFLOW_GPU_SINCE))
        pin = framework.specifier if pinned(framework.specifier) else f"=={DEFAULT_TENSORFLOW}"
        extra = "[and-cuda]" if _and_cuda(pinned(SpecifierSet(str(pin)))) else ""
        yield InputProblem(
            versions.where,
            f"tensorflow-gpu is empty from {since} on and cannot be installed",
            "the distribution tensorflow, which has the same content",
            f"say tensorflow{extra}{pin}",
        )


def _and_cuda(version: Version | None) -> bool:
    return version is not None and (version.major, version.minor) >= AND_CUDA_SINCE


def _no_version(framework: Requirement, where: str) -> InputProblem:
    return InputProblem(
        where,
        f"{framework.name} from an address has no version to build Horovod for",
        f"a TensorFlow that Horovod {HOROVOD_VERSION} trains with",
        f"say {framework.name}=={DEFAULT_TENSORFLOW}",
    )


def _python(versions: Versions) -> Iterable[InputProblem]:
    framework = versions.tensorflow
    assert framework is not None
    allowed = allowed_releases(framework.specifier)
    exact = pinned(framework.specifier)
    ancient = exact is not None and (exact.major, exact.minor) < min(SERIES)
    if ancient or (allowed and not any(pythons_of(release) for release in allowed)):
        yield InputProblem(
            versions.where,
            f"{framework} runs only with a Python before 3.8, which cannot be had any more",
            "TensorFlow 2.2 or later",
            f'say {DEFAULT_TENSORFLOW}: scripts for TensorFlow 1 run there with "import tensorflow.compat.v1 as tf"',
        )
    elif versions.python and allowed and not _unheard_of(versions):
        chosen = _python_of(versions.python)
        if not any(chosen in pythons_of(release) for release in allowed):
            fits = ", ".join(f"{a}.{b}" for a, b in pythons_of(max(allowed)))
            yield InputProblem(
                "pythonVersion",
                f"TensorFlow {max(allowed)} does not run with Python {versions.python}",
                f"one of {fits or 'none that can be had'}",
                f'say "{python_for(allowed)}", or choose a TensorFlow for Python {versions.python} with '
                "frameworkVersion",
            )


def _unheard_of(versions: Versions) -> bool:
    """Whether it is a Python newer than any in the table, with a TensorFlow that may be newer as well."""
    assert versions.tensorflow is not None
    newest = max(series.newest_python for series in SERIES.values())
    return _python_of(versions.python) > (3, newest) and admits_newer(versions.tensorflow.specifier)


def _horovod(versions: Versions) -> Iterable[InputProblem]:
    framework = versions.tensorflow
    assert framework is not None
    version = pinned(framework.specifier)
    if version is None or not works_with_horovod(version):
        found = framework.specifier if len(framework.specifier) > 0 else framework.name
        near = best_with_horovod(SpecifierSet())
        yield InputProblem(
            versions.where,
            f"{framework.name} {found}: {why_not_horovod(version, framework.specifier)}",
            f"a TensorFlow that Horovod {HOROVOD_VERSION} trains with",
            f"say {framework.name}=={near}, the nearest that works"
            + (f' (frameworkVersion: "{near}")' if versions.where == "frameworkVersion" else ""),
        )
    for item in versions.packages:
        if item.name in _KERAS and _keras_3_alone(item.requirement):
            yield InputProblem(
                item.path,
                f"{item.requirement} is Keras 3, with which Horovod's DistributedOptimizer does not reduce gradients: "
                "ranks drift apart without an error",
                "Keras 2, which TensorFlow up to 2.15 brings along",
                "remove it",
            )


def _keras_3_alone(requirement: Requirement) -> bool:
    specifier = requirement.specifier
    return len(specifier) > 0 and not any(specifier.contains(f"2.{number}.0") for number in range(10, 16))


def _packages(versions: Versions) -> Iterable[InputProblem]:
    framework = versions.tensorflow
    assert framework is not None
    newest = _newest(framework)
    if newest is None:
        return
    allowed = {(release.major, release.minor) for release in allowed_releases(framework.specifier)}
    for item in versions.packages:
        package = item.requirement
        if package.url is not None or package.marker is not None or any(_goes(package, SERIES[key]) for key in allowed):
            continue
        # Of a range the last series is told: it is the one that would be installed.
        wanted = SERIES[newest.major, newest.minor].packages[item.name]
        other = nearest(package, newest, python=versions.python, horovod=versions.horovod)
        ways = [f"say {item.name}{wanted}"]
        if item.name == "keras":
            ways.insert(0, "remove it: TensorFlow brings its own")
        if other is not None:
            ways.append(f"choose TensorFlow {other}, the nearest that goes with {package}")
        yield InputProblem(
            item.path, f"{package} does not go with {versions.text}", f"{item.name}{wanted}", ", or ".join(ways)
        )


# What is likely wrong, or not known


def _warnings(versions: Versions) -> list[str]:
    return [*_unknown(versions), *_keras_warnings(versions), *_gpu_warnings(versions)]


def _unknown(versions: Versions) -> Iterable[str]:
    framework = versions.tensorflow
    assert framework is not None
    last = _newest_patches()[-1]
    exact = pinned(framework.specifier)
    unchecked = "which Python, Keras and CUDA go with it was not checked"
    if _nightly(framework):
        yield f"{framework.name} is no release: {unchecked} (the newest release that is known is {last})"
    elif exact is not None and not exact.is_prerelease and not {exact, Version(exact.base_version)} & {*releases()}:
        series = SERIES.get((exact.major, exact.minor))
        if series is not None:
            known = f"{minor(exact)}.{series.patch}"
            yield f"TensorFlow {exact} is not known, and was checked as {known}, the newest {minor(exact)} that is"
        elif exact > last:
            yield f"TensorFlow {exact} is not known: {unchecked} (the newest that is known is {last})"
    elif exact is None and _newest(framework) is None and admits_newer(framework.specifier):
        yield f"{versions.text} is newer than what is known: {unchecked} (the newest that is known is {last})"
    if versions.python and _newest(framework) is not None and _unheard_of(versions):
        newest = max(series.newest_python for series in SERIES.values())
        yield (
            f"Python {versions.python} is not known to run with any TensorFlow (the newest that is known is "
            f"3.{newest}, with TensorFlow {last})"
        )
    for item in versions.packages:
        if item.name in _KERAS and not overlap(item.requirement.specifier, SpecifierSet(KNOWN_KERAS)):
            yield f"{item.requirement} is not known: whether it goes with {versions.text} was not checked (Keras 3 is)"


def _keras_warnings(versions: Versions) -> Iterable[str]:
    framework = versions.tensorflow
    assert framework is not None
    newest = _newest(framework)
    new = admits_newer(framework.specifier) if newest is None else (newest.major, newest.minor) >= KERAS_3_SINCE
    legacy = [item for item in versions.packages if item.name == "tf-keras"]
    if versions.legacy_keras and new and not legacy:
        pin = f"=={minor(newest)}.*" if newest is not None else ""
        yield (
            "TF_USE_LEGACY_KERAS is set and tf-keras is not among the packages: tf.keras will not load. To fix: add "
            f"tf-keras{pin}"
        )
    if legacy and canonicalize_name(framework.name) != "tensorflow":
        yield (
            f"tf-keras installs the distribution tensorflow beside {framework.name}, over the same files. To fix: name "
            "tensorflow instead"
        )
    if versions.distribution in {"parameterServer", "multiWorker"} and new and not versions.legacy_keras:
        servers = versions.distribution == "parameterServer"
        strategy = "ParameterServer" if servers else "MultiWorkerMirrored"
        seen = "seen with 2.21" + ("; a coordinator's own loop works" if servers else "")
        yield (
            f"{versions.text} has Keras 3, whose fit() fails under {strategy}Strategy ({seen}). "
            f"To fix, where the script calls fit: TensorFlow {DEFAULT_TENSORFLOW}, or tensorflow with tf-keras and "
            "TF_USE_LEGACY_KERAS=1"
        )


def _gpu_warnings(versions: Versions) -> Iterable[str]:
    framework = versions.tensorflow
    assert framework is not None
    newest = _newest(framework)
    if not versions.use_gpu or newest is None or canonicalize_name(framework.name) not in _CUDA_DISTRIBUTIONS:
        return
    brings = _and_cuda(newest) and "and-cuda" in framework.extras
    if not brings and not any(item.name.startswith("nvidia-") for item in versions.packages):
        series = SERIES[newest.major, newest.minor]
        hint = f". To have them installed: {framework.name}[and-cuda]" if _and_cuda(newest) else ""
        yield f"{versions.text} takes CUDA {series.cuda} and cuDNN {series.cudnn} from the machine{hint}"
