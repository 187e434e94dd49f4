"""What a job is: validated, normalised, immutable. Pure data; no pulumi, no grpc, no disk.

``JobArgs`` (in :mod:`.args`) is what a user wrote; :class:`JobSpec` is what it means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

Controller = Literal["gloo", "mpi"]
WaitFor = Literal["submitted", "running", "succeeded"]
OnCancel = Literal["detach", "stop"]

DIGEST_VERSION = 1
RUN_ID_DIGITS = 12


def canonical_digest(value: Any) -> str:
    """SHA-256 (hex) of the value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Single:
    """One process."""

    kind: Literal["single"] = "single"


@dataclass(frozen=True)
class Horovod:
    """``nodes`` × ``processes_per_node`` ranks, all of them replicas of type ``worker``.

    With ``min_workers`` and ``max_workers`` (both are set then) the job is elastic.
    """

    nodes: int = 1
    processes_per_node: int = 1
    controller: Controller = "gloo"
    min_workers: int | None = None
    max_workers: int | None = None
    kind: Literal["horovod"] = "horovod"

    @property
    def elastic(self) -> bool:
        """Whether workers may be lost and come back while the run goes on."""
        return self.min_workers is not None or self.max_workers is not None


@dataclass(frozen=True)
class ParameterServer:
    """TF_CONFIG with chief (optional), workers, parameter servers and an evaluator (optional)."""

    workers: int = 1
    parameter_servers: int = 1
    chief: bool = False
    evaluator: bool = False
    kind: Literal["parameterServer"] = "parameterServer"


@dataclass(frozen=True)
class MultiWorker:
    """TF_CONFIG for MultiWorkerMirroredStrategy: ``workers`` workers; with ``chief`` one more leads them."""

    workers: int = 2
    chief: bool = False
    evaluator: bool = False
    kind: Literal["multiWorker"] = "multiWorker"


Distribution = Single | Horovod | ParameterServer | MultiWorker


class SourceFile(NamedTuple):
    """One file of a source directory.

    ``path`` is relative with forward slashes, ``mode`` is ``x`` (executable), ``l`` (link; ``digest`` is of its target
    text) or empty; ``digest`` is SHA-256 hex of the content; ``size`` bytes. ``code``: digest of a Python file's tokens
    where those are what counts (``sourceDigest: code``), else empty.
    """

    path: str
    digest: str
    size: int
    mode: str = ""
    code: str = ""

    @property
    def counts(self) -> str:
        """The digest of what counts for the result."""
        return self.code or self.digest


@dataclass(frozen=True)
class SourceManifest:
    """The files that make up a job's source, by path. ``root`` (where they are now) is not part of the identity."""

    root: str
    files: tuple[SourceFile, ...]

    @classmethod
    def recalled(
        cls, root: str, files: Callable[[], tuple[SourceFile, ...]], has: Callable[[str], bool], **known: Any
    ) -> SourceManifest:
        """One of whose files much is known before there is an object for each, which takes long for very many: they
        are made when they are asked for. ``known``: properties by name."""
        manifest = object.__new__(cls)
        vars(manifest).update(known, root=root, _make_files=files, _has=has)
        return manifest

    if not TYPE_CHECKING:  # any name would be an attribute

        def __getattr__(self, name: str) -> Any:
            make = vars(self).get("_make_files") if name == "files" else None
            if make is None:
                raise AttributeError(name)
            return vars(self).setdefault("files", make())

    def has(self, path: str) -> bool:
        """Whether a file has that path."""
        known = vars(self).get("_has")
        return bool(known(path)) if known else any(file.path == path for file in self.files)

    @cached_property
    def digest(self) -> str:
        return canonical_digest([[f.path, f.mode, f.digest] for f in self.files])

    @cached_property
    def identity(self) -> str:
        """The digest of what counts for the result: the content's, or with ``sourceDigest: code`` that of the code."""
        return canonical_digest([[f.path, f.mode, f.counts] for f in self.files])

    @cached_property
    def size(self) -> int:
        return sum(f.size for f in self.files)

    @cached_property
    def folders(self) -> dict[str, str]:
        """Folders at the top (``data/``) → digest of what counts of the files in them."""
        found: dict[str, list[list[str]]] = {}
        for f in self.files:
            folder, inside, _ = f.path.partition("/")
            if inside:
                found.setdefault(f"{folder}/", []).append([f.path, f.mode, f.counts])
        return {name: canonical_digest(entries) for name, entries in found.items()}


@dataclass(frozen=True)
class EnvironmentSpec:
    """The software that replicas run in.

    ``requirements`` are PEP 508 lines, normalised and sorted, framework included. ``python`` is ``3.11``-like.
    ``horovod`` and ``mpi`` add the cached Horovod wheel and Open MPI. With ``interpreter`` set (a user-managed
    environment) nothing is built and the rest is empty. ``image`` is the container image that all of it is in, where
    the compute target runs one.
    """

    requirements: tuple[str, ...] = ()
    python: str = "3.11"
    horovod: str = ""
    mpi: bool = False
    interpreter: str = ""
    image: str = ""

    @property
    def digest(self) -> str:
        parts = [list(self.requirements), self.python, self.horovod, self.mpi, self.interpreter]
        return canonical_digest([*parts, self.image] if self.image else parts)


@dataclass(frozen=True)
class TargetRef:
    """Which compute target: its kind (``local``) and its own options, already validated by the target.

    ``unknown``: options whose values are not known yet, in whose place there are defaults; ``kind`` where nothing is.
    ``credentials``: options that are secrets; no record, plan or log has them.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class InputData:
    """A named input: a file or folder that the script reads, and the digest of its content."""

    name: str
    path: str
    digest: str


@dataclass(frozen=True)
class JobSpec:
    """A job after validation: what decides its result (the identity) and how it is handled (the rest).

    ``script_params`` are ``(flag, values)`` pairs in argv order; values are already text.
    ``secret_variables`` names the environment variables whose values are secrets. ``unknown`` holds the property
    paths of values that are not known yet (preview) and decide what is done; with any of them a spec has no digest and
    cannot be launched.
    ``nodes`` is over how many (simulated) nodes the replicas are spread; Horovod has its own number.
    ``resume_from``: id of the run whose checkpoints it starts from. ``generation``: with ``reuse`` off, how many runs
    of the same content others had before. ``warnings``: what is likely wrong, for people.
    """

    name: str
    source: SourceManifest
    entry_script: str
    environment: EnvironmentSpec
    target: TargetRef
    distribution: Distribution = Single()
    script_params: tuple[tuple[str, tuple[str, ...]], ...] = ()
    arguments: tuple[str, ...] = ()
    environment_variables: dict[str, str] = field(default_factory=dict)
    secret_variables: frozenset[str] = frozenset()
    inputs: tuple[InputData, ...] = ()
    use_gpu: bool = False
    success_policy: Literal["default", "all_workers"] = "default"
    rerun: str = ""
    resume_from: str = ""
    generation: int = 0
    # Metadata: never part of the identity.
    reuse: bool = True
    max_run_duration_seconds: float | None = None
    stop_grace_seconds: float = 10.0
    retries: int = 0
    retry_on: tuple[str, ...] = ("infrastructure",)
    retry_backoff_seconds: float = 10.0
    parameter_server_restarts: int = 0
    priority: int = 0
    max_log_bytes: int = 256 * 1024 * 1024
    wait_for: WaitFor = "succeeded"
    on_cancel: OnCancel = "detach"
    delete_artifacts: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    nodes: int = 1
    unknown: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Everything that can change the result, as canonical JSON data."""
        return {
            "v": DIGEST_VERSION,
            "source": self.source.identity,
            "entryScript": self.entry_script,
            "scriptParams": [[flag, list(values)] for flag, values in self.script_params],
            "arguments": list(self.arguments),
            "environment": self.environment.digest,
            # Of a secret only that it is there: a rotated token trains nothing again, and the digest, which everybody
            # may see, tells nothing about it.
            "environmentVariables": {
                name: None if name in self.secret_variables else value
                for name, value in self.environment_variables.items()
            },
            # What is not set is left out, so that options which come later do not change older digests.
            "distribution": {name: value for name, value in vars(self.distribution).items() if value is not None},
            "inputs": [[i.name, i.digest] for i in self.inputs],
            "useGpu": self.use_gpu,
            "successPolicy": self.success_policy,
            "rerun": self.rerun,
            # A run's name may change, the digits at its end do not.
            **({"resumeFrom": self.resume_from.rpartition("-")[2]} if self.resume_from else {}),
            **({"generation": self.generation} if self.generation else {}),
        }

    @property
    def digest(self) -> str:
        """SHA-256 hex over :meth:`identity`. Raises ValueError while inputs are unknown."""
        if self.unknown:
            raise ValueError(f"digest of {self.name} is not known while {sorted(self.unknown)} are unknown")
        return canonical_digest(self.identity())

    @property
    def run_id(self) -> str:
        return f"{self.name}-{self.digest[:RUN_ID_DIGITS]}"
