"""Rules on how a job is distributed and where it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.policies.reading import Job, Verdict
from pulumi_tfjobs.spec import paths
from pulumi_tfjobs.spec.fields import number_text
from pulumi_tfjobs.spec.model import Distribution, Horovod, MultiWorker, ParameterServer, Single
from pulumi_tfjobs.spec.suggest import show
from pulumi_tfjobs.spec.topology import FLAT

_SPOT_FLAGS = frozenset({"spot", "preemptible", "lowpriority", "gkespot", "gkepreemptible"})
_SPOT_CHOICES = frozenset({"priority", "vmpriority", "scalesetpriority", "capacitytype", "provisioningmodel"})
_SPOT_WORDS = frozenset({"spot", "preemptible", "lowpriority"})


def _untold(path: str) -> Verdict:
    return Verdict(untold=(f"{path} is not known before the update",))


def distributed_needs_workers(job: Job, config: Mapping[str, Any]) -> Verdict:
    """A job that says how it is distributed has at least ``min`` processes that train."""
    hidden = job.hides("distribution", *FLAT)
    if hidden:
        return _untold(hidden)
    distribution = job.distribution()
    if distribution is None or isinstance(distribution, Single):
        return Verdict()
    least = int(config.get("min", 2))
    count, what = _training(distribution)
    if count >= least:
        return Verdict()
    return Verdict(
        (
            InputProblem(
                _workers_path(job, distribution),
                f"{what} makes {count} that train{'s' if count == 1 else ''}",
                f"at least {least} in a distributed job",
                "raise it, or remove the distribution: one process needs none",
            ),
        )
    )


def _training(distribution: Distribution) -> tuple[int, str]:
    """How many processes train, at most where that changes; and what says so."""
    if isinstance(distribution, Horovod):
        if distribution.max_workers is not None:
            return distribution.max_workers, f"an elastic job of at most {distribution.max_workers}"
        per = distribution.processes_per_node
        return distribution.nodes * per, f"Horovod with {distribution.nodes} × {per} ranks"
    assert not isinstance(distribution, Single)
    workers = f"{distribution.workers} worker{'' if distribution.workers == 1 else 's'}"
    if isinstance(distribution, MultiWorker):
        return distribution.workers + distribution.chief, f"{workers}{' and a chief' if distribution.chief else ''}"
    return distribution.workers, workers  # with parameter servers a chief only coordinates


def _workers_path(job: Job, distribution: Distribution) -> str:
    if job.properties.get("distribution") is not None:
        return "distribution.nodes" if isinstance(distribution, Horovod) else "distribution.workers"
    by_node = isinstance(distribution, Horovod) or job.properties.get("workerCount") is None
    return "nodeCount" if by_node and not isinstance(distribution, ParameterServer) else "workerCount"


def parameter_servers_sane(job: Job, config: Mapping[str, Any]) -> Verdict:
    """At least one, and not more than ``maxPerWorker`` for each worker."""
    hidden = job.hides("distribution", *FLAT)
    if hidden:
        return _untold(hidden)
    typed = job.properties.get("distribution") is not None
    path = "distribution.parameterServers" if typed else "parameterServerCount"
    distribution = job.properties.get("distribution")
    given = distribution if isinstance(distribution, Mapping) else {} if typed else job.properties
    count = given.get("parameterServers" if typed else "parameterServerCount")
    uses = given.get("kind") == "parameterServer" if typed else given.get("distributedBackend") == "ps"
    if uses and count == 0:
        # The provider refuses it too; that it is said here as well keeps a pack's report whole.
        problem = InputProblem(path, "it is 0", "at least 1, which keeps the variables", "give 1 or more")
        return Verdict((problem,))
    resolved = job.distribution()
    if not isinstance(resolved, ParameterServer):
        return Verdict()
    ratio = float(config.get("maxPerWorker", 1))
    servers, workers = resolved.parameter_servers, resolved.workers
    if servers <= ratio * workers:
        return Verdict()
    return Verdict(
        (
            InputProblem(
                path,
                f"{servers} parameter servers for {workers} worker{'' if workers == 1 else 's'}",
                f"at most {number_text(ratio)} for each worker (`maxPerWorker` of parameter-servers-sane)",
                f"say {max(1, int(ratio * workers))}, or have more workers",
            ),
        )
    )


def spot_needs_checkpoints(job: Job, config: Mapping[str, Any]) -> Verdict:
    """Where machines can be taken away, a job is started again from its checkpoints by itself.

    Inputs show that it is (``retries``, ``retryOn``). Whether the script saves checkpoints, they cannot.
    """
    hidden = job.hides("computeTarget")
    path = _spot_path(job.properties.get("computeTarget"), ("computeTarget",), frozenset(config.get("properties", ())))
    if not path:
        return _untold(hidden) if hidden else Verdict()
    hidden = job.hides("retries", "retryOn")
    if hidden:
        return _untold(hidden)
    problems = []
    least = int(config.get("minRetries", 1))
    args = job.args()
    if args is None:
        return Verdict()
    retries, causes = args.retries, args.retry_on
    how = "and save to TFJOBS_CHECKPOINT_DIR in the script, where it finds them again"
    if retries < least:
        problems.append(
            InputProblem(
                "retries",
                f"it is {number_text(retries)}, and {path} says that machines can be taken away",
                f"at least {least}, so that the job goes on from its checkpoints",
                f"say retries: {least}, {how}",
            )
        )
    if not {"infrastructure", "any"} & set(causes):
        problems.append(
            InputProblem(
                "retryOn",
                f"it names neither infrastructure nor any, and {path} says that machines can be taken away",
                'a list with "infrastructure" (or "any")',
                f'add "infrastructure", {how}',
            )
        )
    return Verdict(tuple(problems))


def _spot_path(value: Any, at: tuple[str | int, ...], more: frozenset[str]) -> str:
    """The first property of a target that says that its machines can be taken away."""
    for key, item, here in _walk(value, at):
        # Kubernetes' labels: cloud.google.com/gke-spot: "true", eks.amazonaws.com/capacityType: SPOT.
        word = key.rpartition("/")[2].lower().replace("_", "").replace("-", "")
        if item in (True, "true") and (word in _SPOT_FLAGS or key in more):
            return paths.join(*here)
        chosen = item.lower().replace("_", "").replace("-", "") if isinstance(item, str) else ""
        if word in _SPOT_CHOICES and chosen in _SPOT_WORDS:
            return paths.join(*here)
    return ""


def _walk(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[str, Any, tuple[str | int, ...]]]:
    """Every entry of every map in it: key, value, path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key), item, (*at, str(key))
            yield from _walk(item, (*at, str(key)))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from _walk(item, (*at, index))


def no_latest_images(job: Job, config: Mapping[str, Any]) -> Verdict:
    """Every image is named with a tag that is not ``latest``; with ``requireDigest``, with its digest."""
    problems, untold = [], []
    for top in ("computeTarget", "environment", "image"):
        untold += [path for path in job.unknown if paths.within(path, top) and _is_image(path.rsplit(".", 1)[-1])]
        if top not in job.properties:
            continue
        for key, item, here in _walk({top: job.properties[top]}, ()):
            if _is_image(key) and isinstance(item, str) and item:
                problem = _image_problem(paths.join(*here), item, digest=bool(config.get("requireDigest")))
                problems += [problem] if problem else []
    return Verdict(tuple(problems), tuple(f"{path} is not known before the update" for path in sorted(untold)))


def _is_image(key: str) -> bool:
    return key.lower().endswith("image")


def _image_problem(path: str, image: str, *, digest: bool) -> InputProblem | None:
    name, _, pinned = image.partition("@")
    if pinned.startswith("sha256:"):
        return None
    _, _, tag = name.rsplit("/", 1)[-1].partition(":")  # a colon before the last slash is a registry's port
    moves = tag.lower() == "latest" or tag.lower().startswith("latest-")  # latest-gpu
    if tag and not moves and not digest:
        return None
    found = f"is :{tag}, which changes" if moves else "has no digest" if tag else "has no tag, which means :latest"
    expected = "an image with its digest" if digest else "an image with a tag or a digest"
    fix = "write it as NAME@sha256:…" if digest else "name a version, for example NAME:2.15.1"
    return InputProblem(path, f"{show(image)} {found}", expected, fix)


_PLACES = {"kinds": ("kind", "local"), "names": ("name", "here"), "stores": ("store", "default")}


def allowed_targets(job: Job, config: Mapping[str, Any]) -> Verdict:
    """The target's kind, name and store are among ``kinds``, ``names`` and ``stores``, where these are given."""
    asked = {setting: place for setting, place in _PLACES.items() if config.get(setting) is not None}
    if not asked:
        return Verdict()
    problems, untold = [], []
    given = job.properties.get("computeTarget")
    options = given if isinstance(given, Mapping) else {}
    for setting, (key, default) in asked.items():
        path = f"computeTarget.{key}"
        if job.hides(path):
            untold.append(f"{path} is not known before the update")
            continue
        # Other targets than this machine have no name or store unless they are given one.
        fallback = default if key == "kind" or options.get("kind", "local") == "local" else ""
        value = options.get(key)
        text = fallback if value is None else str(value)
        allowed = [str(pattern) for pattern in config[setting]]
        if not any(fnmatchcase(text, pattern) for pattern in allowed):
            expected = "one of " + ", ".join(allowed) if allowed else "none: no target is allowed"
            problems.append(
                InputProblem(
                    path,
                    f"it is {show(text)}" + ("" if value is not None else " (the default)"),
                    f"{expected} (`{setting}` of allowed-targets)",
                    "choose one of these, or have the list extended",
                )
            )
    return Verdict(tuple(problems), tuple(untold))
