"""From the packages that a job names to the software its replicas run in: TensorFlow, Python, Horovod. Pure.

What is chosen where the user left it open:

==============  ==================================================================================================
TensorFlow      tensorflow-cpu 2.15.1; with ``useGpu`` tensorflow[and-cuda] 2.15.1
``==2.15.*``    with Horovod, an open or ranged TensorFlow becomes the version that Horovod is known to work with
Python          3.11, or the newest that an older TensorFlow runs with
Horovod         0.28.1, where the job is a Horovod job or names horovod itself
==============  ==================================================================================================
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec import compatibility, paths
from pulumi_tfjobs.spec.compatibility import Named, Versions
from pulumi_tfjobs.spec.matrix import (
    AND_CUDA_SINCE,
    DEFAULT_PYTHON,
    DEFAULT_TENSORFLOW,
    HOROVOD_VERSION,
    OLDEST_PYTHON,
)
from pulumi_tfjobs.spec.model import EnvironmentSpec
from pulumi_tfjobs.spec.versions import (
    TENSORFLOW_DISTRIBUTIONS,
    allowed_releases,
    best_with_horovod,
    minor,
    pinned,
    python_for,
)

_FILES = (".whl", ".tar.gz", ".zip")
_OPTION_FIX = (
    "give packages as PEP 508 requirements, such as scikit-learn==1.5.2; options belong to the user's pip.conf"
)


class Software(NamedTuple):
    """What :func:`resolve` reads. ``unknown``: paths whose values are not known yet. ``distribution`` and
    ``legacy_keras`` as in :class:`~.compatibility.Versions`."""

    packages: tuple[str, ...] = ()
    framework_version: str | None = None
    python_version: str | None = None
    use_gpu: bool = False
    horovod: bool = False
    unknown: frozenset[str] = frozenset()
    distribution: str = ""
    legacy_keras: bool = False


class Resolved(NamedTuple):
    """The environment, every problem on the way, and what is likely wrong or not known (texts for people). With
    problems, the environment is only a guess."""

    environment: EnvironmentSpec
    problems: list[InputProblem]
    warnings: list[str]


def default_requirements(*, use_gpu: bool = False) -> tuple[str, ...]:
    """Requirements of a job that names no package."""
    return resolve(Software(use_gpu=use_gpu)).environment.requirements


def framework_text(environment: EnvironmentSpec) -> str:
    """The environment's TensorFlow in words: ``tensorflow-cpu 2.15.1``; an interpreter is named as it is."""
    if environment.interpreter:
        return environment.interpreter
    for text in environment.requirements:
        requirement = Requirement(text)
        if requirement.name in TENSORFLOW_DISTRIBUTIONS:
            version = pinned(requirement.specifier)
            return f"{requirement.name} {version or requirement.specifier}".strip()
    return ""


def resolve(wanted: Software) -> Resolved:
    """The software that a job gets."""
    found = _resolved(wanted)
    return found._replace(problems=[*found.problems], warnings=[*found.warnings])


@lru_cache(maxsize=256)  # the jobs of a program mostly want the same
def _resolved(wanted: Software) -> Resolved:
    problems: list[InputProblem] = []
    named = _parse(wanted.packages, problems)
    own_horovod = [item for item in named if item.name == "horovod"]
    for item in own_horovod:
        problems.extend(_check_horovod(item))
    horovod = wanted.horovod or bool(own_horovod)
    frameworks = [item for item in named if item.name in TENSORFLOW_DISTRIBUTIONS]
    others = [item for item in named if item not in frameworks and item not in own_horovod]
    framework = _framework(wanted, frameworks, problems)
    where = _framework_path(wanted, frameworks)
    if horovod and framework is not None:
        framework = _with_horovod(framework)
    python, asked = _python(wanted, framework, problems)
    found, warnings = compatibility.check(
        Versions(
            framework,
            where,
            python=asked,
            packages=tuple(others),
            horovod=horovod,
            use_gpu=wanted.use_gpu,
            distribution=wanted.distribution,
            legacy_keras=wanted.legacy_keras,
        )
    )
    # Where a path is wrong already, what follows from it would only mislead.
    wrong = {problem.path for problem in problems}
    problems.extend(problem for problem in found if problem.path not in wrong)
    requirements = _normalise([item.requirement for item in others] + ([framework] if framework is not None else []))
    environment = EnvironmentSpec(
        requirements=requirements,
        python=python,
        horovod=HOROVOD_VERSION if horovod else "",
        mpi=horovod,
    )
    return Resolved(environment, problems, warnings)


def _parse(packages: tuple[str, ...], problems: list[InputProblem]) -> list[Named]:
    named = []
    for index, text in enumerate(packages):
        path = paths.join("pipPackages", index)
        if text.strip().endswith(_FILES) and "@" not in text:
            problems.append(_bad_requirement(path, text.strip(), "a file without a name"))
            continue
        try:
            named.append(Named(path, Requirement(text.strip())))
        except InvalidRequirement as error:
            problems.append(_bad_requirement(path, text.strip(), str(error).splitlines()[0]))
    return named


def _bad_requirement(path: str, text: str, reason: str) -> InputProblem:
    expected = "a PEP 508 requirement such as scikit-learn==1.5.2"
    if not text:
        return InputProblem(path, "it is empty", expected, "remove it")
    if text.startswith("-"):
        return InputProblem(path, f"{text!r} is an option of pip", expected, _OPTION_FIX)
    if text.endswith(_FILES) or "://" in text:
        return InputProblem(path, f"{text!r} names no package", expected, f"write `name @ {_url(text)}`")
    fix = f"say {text.replace('=', '==')}" if text.count("=") == 1 and "<=" not in text and ">=" not in text else None
    if fix is None and " " in text and not any(sign in text for sign in "<>=;@["):
        fix = "give each package as an item of its own"
    return InputProblem(path, f"{text!r} is no requirement ({reason})", expected, fix or "correct it")


def _url(text: str) -> str:
    return text if "://" in text else f"file://{text if text.startswith('/') else '/path/of/' + text}"


def _check_horovod(item: Named) -> list[InputProblem]:
    requirement = item.requirement
    if requirement.url or not requirement.specifier.contains(HOROVOD_VERSION, prereleases=True):
        return [
            InputProblem(
                item.path,
                f"{requirement} is not {HOROVOD_VERSION}",
                f"Horovod {HOROVOD_VERSION}, the one that is built and tested for these environments",
                f"say horovod=={HOROVOD_VERSION}, or leave it out: a Horovod job gets it by itself",
            )
        ]
    return []


def _framework_path(wanted: Software, frameworks: list[Named]) -> str:
    if frameworks:
        return frameworks[0].path
    return "frameworkVersion" if wanted.framework_version is not None else "pipPackages"


def _framework(wanted: Software, frameworks: list[Named], problems: list[InputProblem]) -> Requirement | None:
    """The one TensorFlow requirement; None where it cannot be told yet."""
    version = _framework_version(wanted, problems)
    names = {canonicalize_name(item.requirement.name) for item in frameworks}
    if len(names) > 1:
        problems.append(
            InputProblem(
                frameworks[1].path,
                f"{' and '.join(str(item.requirement) for item in frameworks)} both install the tensorflow module",
                "one TensorFlow",
                "keep one of them" + (" (tensorflow[and-cuda] for GPUs)" if wanted.use_gpu else ""),
            )
        )
        return frameworks[0].requirement
    if not frameworks:
        if paths.touches("pipPackages", wanted.unknown) or paths.touches("frameworkVersion", wanted.unknown):
            return None
        return _default(wanted, version)
    merged = Requirement(str(frameworks[0].requirement))
    for item in frameworks[1:]:
        merged.specifier &= item.requirement.specifier
        merged.extras |= item.requirement.extras
    if wanted.use_gpu and "cpu" in merged.name.lower():
        problems.append(
            InputProblem(
                frameworks[0].path,
                f"{merged.name} cannot use a GPU, and useGpu is true",
                "a TensorFlow with CUDA",
                f"say tensorflow[and-cuda]=={DEFAULT_TENSORFLOW}, or useGpu: false",
            )
        )
    if version is not None:
        if merged.url is None and _clashes(merged.specifier, version):
            problems.append(
                InputProblem(
                    "frameworkVersion",
                    f"{wanted.framework_version} is not in {merged} ({frameworks[0].path})",
                    "one version of TensorFlow",
                    "remove frameworkVersion, or the version in pipPackages",
                )
            )
        elif merged.url is None:
            merged.specifier = version
    elif merged.url is None and len(merged.specifier) > 0 and _impossible(merged.specifier):
        problems.append(
            InputProblem(
                frameworks[0].path,
                f"no TensorFlow release is {merged.specifier}",
                f"a release such as {DEFAULT_TENSORFLOW}",
                f"say {merged.name}=={DEFAULT_TENSORFLOW}",
            )
        )
    return merged


def _default(wanted: Software, version: SpecifierSet | None) -> Requirement:
    specifier = version or SpecifierSet(f"=={DEFAULT_TENSORFLOW}")
    if not wanted.use_gpu:
        return Requirement(f"tensorflow-cpu{specifier}")
    releases = allowed_releases(specifier)
    cuda = not releases or (max(releases).major, max(releases).minor) >= AND_CUDA_SINCE
    return Requirement(f"tensorflow{'[and-cuda]' if cuda else ''}{specifier}")


def _framework_version(wanted: Software, problems: list[InputProblem]) -> SpecifierSet | None:
    text = wanted.framework_version
    if text is None:
        return None
    try:
        version = Version(text)
    except InvalidVersion:
        problems.append(
            InputProblem(
                "frameworkVersion",
                f"{text!r} is no version",
                f"a version such as {DEFAULT_TENSORFLOW}",
                f'say "{DEFAULT_TENSORFLOW}", or give a range such as tensorflow-cpu>=2.15,<2.16 in pipPackages',
            )
        )
        return None
    if len(version.release) < 3 and not version.is_prerelease:
        return SpecifierSet(f"=={minor(version)}.*" if len(version.release) == 2 else f"=={version}.*")
    return SpecifierSet(f"=={version}")


def _clashes(specifier: SpecifierSet, version: SpecifierSet) -> bool:
    exact = pinned(version)
    if exact is not None:
        return not specifier.contains(exact, prereleases=True)
    releases = allowed_releases(version)
    return bool(releases) and not allowed_releases(specifier & version)


def _impossible(specifier: SpecifierSet) -> bool:
    """Whether no release can match. Only for specifiers that contradict themselves; new releases are not known here."""
    lower = [Version(item.version) for item in specifier if item.operator in {">=", ">"}]
    upper = [Version(item.version) for item in specifier if item.operator in {"<=", "<"}]
    exact = pinned(specifier)
    if exact is not None:
        return not specifier.contains(exact, prereleases=True)
    return bool(lower and upper and max(lower) > min(upper))


def _with_horovod(framework: Requirement) -> Requirement:
    """An open or ranged TensorFlow becomes the version that Horovod is known to work with."""
    if framework.url is None and pinned(framework.specifier) is None:
        best = best_with_horovod(framework.specifier)
        if best is not None:
            framework.specifier = SpecifierSet(f"=={best}")
    return framework


def _python(wanted: Software, framework: Requirement | None, problems: list[InputProblem]) -> tuple[str, str]:
    """The environment's Python, and what the user asked for: empty where that is left open, or wrong in itself."""
    text = wanted.python_version
    if text is None:
        return python_for([] if framework is None or framework.url else allowed_releases(framework.specifier)), ""
    parts = text.split(".")
    if not all(part.isascii() and part.isdigit() for part in parts) or not 2 <= len(parts) <= 3:
        problems.append(
            InputProblem("pythonVersion", f"{text!r} is no version of Python", 'such as "3.11"', 'say "3.11"')
        )
        return DEFAULT_PYTHON, ""
    plain = ".".join(str(int(part)) for part in parts)
    if (int(parts[0]), int(parts[1])) < (3, OLDEST_PYTHON):
        problems.append(
            InputProblem("pythonVersion", f"Python {text} is too old", "3.8 or later", f'say "{DEFAULT_PYTHON}"')
        )
        return plain, ""
    return plain, plain


def _normalise(requirements: list[Requirement]) -> tuple[str, ...]:
    """Canonical names, one line each, sorted. The same package named twice is asked for both times at once."""
    merged: dict[tuple[str, str, str], Requirement] = {}
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        key = (name, str(requirement.marker or ""), requirement.url or "")
        known = merged.get(key)
        if known is None:
            copy = Requirement(str(requirement))
            copy.name = name
            merged[key] = copy
        else:
            known.specifier &= requirement.specifier
            known.extras |= requirement.extras
    return tuple(sorted(str(requirement) for requirement in merged.values()))
