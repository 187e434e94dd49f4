"""What a user may say about a Kubernetes target, checked all at once. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec.suggest import nearest
from pulumi_tfjobs.targets.kubernetes.members import CONTAINER
from pulumi_tfjobs.targets.kubernetes.option_types import (
    Annotations,
    Count,
    Currency,
    Image,
    Kubeconfig,
    Label,
    LabelName,
    Labels,
    Line,
    Name,
    Part,
    Path,
    Positive,
    Price,
    Quantity,
    Resource,
    Url,
    Wrong,
)

STORE = "kubernetes"
GPU_RESOURCE = "nvidia.com/gpu"
SOURCES = ("claim", "nfs", "csi", "configMap", "secret", "emptyDir", "hostPath")
_STORAGE_SOURCES = ("claim", "nfs", "csi", "hostPath")


Map = dict[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=False)


class _Volume(_Model):
    mount_path: Path
    claim: Name = None
    nfs: Map | None = None
    csi: Map | None = None
    config_map: Name = None
    secret: Name = None
    empty_dir: Map | None = None
    host_path: Path | None = None
    sub_path: Part = None
    read_only: bool = False


class _Storage(_Model):
    claim: Name = None
    nfs: Map | None = None
    csi: Map | None = None
    host_path: Path | None = None
    path: Part = None
    url: Url = None


class _Options(_Model):
    name: Line = None
    kubeconfig: Kubeconfig = None
    context: Line = None
    in_cluster: bool = False
    namespace: Label = None
    service_account: Name = None
    image: Image = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: list[Name] | None = None
    python: Line = None
    node_selector: Labels = {}
    tolerations: list[Map] | None = None
    affinity: Map | None = None
    priority_class: Name = None
    runtime_class: Name = None
    gpu_resource: Resource = None
    cpu: Quantity = None
    memory: Quantity = None
    shared_memory: Quantity = None
    volumes: list[_Volume] | None = None
    allow_host_path: bool = False
    pod_labels: Labels = {}
    pod_annotations: Annotations = {}
    pod_template_patch: Map | None = None
    engine: Literal["jobset", "kubeflow"] = "jobset"
    queue: Name = None
    workload_priority: Name = None
    exclusive_topology: LabelName = None
    ttl_seconds_after_finished: Count = None
    max_preemptions: Count = None
    storage: _Storage | None = None
    collect: Literal["outputs", "metrics", "all"] = "outputs"
    source_path: Path | None = None
    slots: Positive = None
    store: Label = None
    hourly_price: Price = None
    currency: Currency = None


@dataclass(frozen=True)
class StoragePlace:
    """Where pods keep what they write: one of claim, nfs, csi and host_path. ``path``: the folder in it.
    ``url``: the same folder as this machine reaches it, empty for through a pod."""

    claim: str = ""
    nfs: Mapping[str, Any] | None = None
    csi: Mapping[str, Any] | None = None
    host_path: str = ""
    path: str = ""
    url: str = ""

    @property
    def source(self) -> dict[str, Any]:
        """As a pod's volume says it."""
        if self.claim:
            return {"persistentVolumeClaim": {"claimName": self.claim}}
        if self.host_path:
            return {"hostPath": {"path": self.host_path}}
        return {"nfs": dict(self.nfs)} if self.nfs is not None else {"csi": dict(self.csi or {})}


@dataclass(frozen=True)
class Volume:
    """A volume of every pod; one of :data:`SOURCES`."""

    mount_path: str
    claim: str = ""
    nfs: Mapping[str, Any] | None = None
    csi: Mapping[str, Any] | None = None
    config_map: str = ""
    secret: str = ""
    empty_dir: Mapping[str, Any] | None = None
    host_path: str = ""
    sub_path: str = ""
    read_only: bool = False

    @property
    def source(self) -> dict[str, Any]:
        """As a pod's volume says it."""
        if self.config_map:
            return {"configMap": {"name": self.config_map}}
        if self.secret:
            return {"secret": {"secretName": self.secret}}
        if self.empty_dir is not None:
            return {"emptyDir": dict(self.empty_dir)}
        return StoragePlace(self.claim, self.nfs, self.csi, self.host_path).source


@dataclass(frozen=True)
class Options:
    """The options of a Kubernetes target, normalised. ``credentials`` holds a kubeconfig's content, and is never part
    of :meth:`to_json`."""

    name: str = STORE
    kubeconfig: str = ""
    context: str = ""
    in_cluster: bool = False
    namespace: str = ""
    service_account: str = ""
    image: str = ""
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    python: str = "python3"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    priority_class: str = ""
    runtime_class: str = ""
    gpu_resource: str = GPU_RESOURCE
    cpu: str = ""
    memory: str = ""
    shared_memory: str = ""
    volumes: tuple[Volume, ...] = ()
    allow_host_path: bool = False
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    pod_annotations: Mapping[str, str] = field(default_factory=dict)
    pod_template_patch: Mapping[str, Any] = field(default_factory=dict)
    engine: Literal["jobset", "kubeflow"] = "jobset"
    queue: str = ""
    workload_priority: str = ""
    exclusive_topology: str = ""
    ttl_seconds_after_finished: int | None = None
    max_preemptions: int = 3
    storage: StoragePlace | None = None
    collect: Literal["outputs", "metrics", "all"] = "outputs"
    source_path: str = ""
    slots: int | None = None
    store: str = STORE
    hourly_price: float | None = None
    currency: str = "USD"
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` takes, in camelCase; no secrets."""
        found: dict[str, Any] = {
            to_camel(item.name): getattr(self, item.name)
            for item in fields(self)
            if item.name not in {"credentials", "volumes", "storage"}
        }
        found["volumes"] = [asdict(volume) for volume in self.volumes]
        found["storage"] = None if self.storage is None else asdict(self.storage)
        found["imagePullSecrets"] = list(self.image_pull_secrets)
        found["tolerations"] = [dict(item) for item in self.tolerations]
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Options:
        """The inverse of :meth:`to_json`; a ``kubeconfig`` that is content becomes ``credentials``. Unknown names (of a
        newer version) are left out."""
        names = {to_camel(item.name): item.name for item in fields(cls)}
        given = {names[key]: value for key, value in data.items() if key in names and value is not None}
        credentials = {}
        if is_content(given.get("kubeconfig")):
            credentials["kubeconfig"] = given.pop("kubeconfig")
        given["volumes"] = tuple(Volume(**item) for item in given.get("volumes", ()))
        if given.get("storage"):
            given["storage"] = StoragePlace(**given["storage"])
        for name in ("image_pull_secrets", "tolerations"):
            given[name] = tuple(given.get(name, ()))
        return cls(**given, credentials=credentials)


def is_content(kubeconfig: Any) -> bool:
    """Whether it is a kubeconfig itself (YAML, or JSON in one line) and not the path of one."""
    if isinstance(kubeconfig, str):
        return "\n" in kubeconfig.strip() or kubeconfig.lstrip().startswith("{")
    return isinstance(kubeconfig, Mapping)


def check_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[InputProblem]]:
    """Options as the user wrote them → normalised ones for :meth:`Options.from_json` (a kubeconfig's content among
    them), and every problem."""
    given = {key: value for key, value in options.items() if key != "kind"}
    try:
        model = _Options.model_validate(given)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems = [_problem(item) for item in errors]
        wrong = {str(item["loc"][0]) for item in errors if item["loc"]}
        rest = {key: value for key, value in given.items() if key not in wrong}
        try:
            model = _Options.model_validate(rest)
        except ValidationError:
            return {}, problems
    else:
        problems, wrong = [], set()
    problems += [item for item in _together(model) if item.path.partition("[")[0].partition(".")[0] not in wrong]
    if problems:
        return {}, problems
    return _normal(model), []


def _normal(model: _Options) -> dict[str, Any]:
    found = {key: value for key, value in model.model_dump(by_alias=True).items() if value is not None}
    found["volumes"] = [volume.model_dump(exclude_none=True) for volume in model.volumes or ()]
    if model.storage is not None:
        found["storage"] = model.storage.model_dump(exclude_none=True)
    # The image is a part of what decides a result, also where it is said by the patch, which has the last word.
    found["image"] = _patched_image(model.pod_template_patch) or model.image
    options = Options.from_json(found)
    return {**options.to_json(), **options.credentials}


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower()


def _sources(volume: BaseModel, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(volume, _snake(name)) is not None]


def _together(model: _Options) -> list[InputProblem]:
    """What each option for itself cannot tell."""
    found = []
    if model.in_cluster and (model.kubeconfig or model.context):
        expected = "one way to the cluster"
        found.append(InputProblem("inCluster", "it is given with a kubeconfig or context", expected, "remove one"))
    if not model.image and not _patched_image(model.pod_template_patch):
        found.append(
            InputProblem(
                "image",
                "it is missing",
                "the image that replicas run in, with Python and TensorFlow",
                'say image: "example.org/train:1"',
            )
        )
    for number, volume in enumerate(model.volumes or ()):
        path = f"volumes[{number}]"
        found += _one_source(path, volume, SOURCES)
        found += _host_path(path, volume, model)
        if volume.mount_path == "/tfjobs" or volume.mount_path.startswith("/tfjobs/"):
            expected = "a path outside /tfjobs, which the job itself uses"
            found.append(InputProblem(f"{path}.mountPath", f"it is {volume.mount_path}", expected, "choose another"))
    if model.storage is not None:
        found += _one_source("storage", model.storage, _STORAGE_SOURCES)
        found += _host_path("storage", model.storage, model)
    for number, item in enumerate(_containers(model.pod_template_patch)):
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            found.append(
                InputProblem(
                    f"podTemplatePatch.spec.containers[{number}].name",
                    "it is missing, and containers are told apart by it",
                    f"{CONTAINER}, the container that trains, or the name of another",
                    f'say name: "{CONTAINER}"',
                )
            )
    if model.workload_priority and not model.queue:
        expected = "a queue of Kueue, in which it counts"
        found.append(InputProblem("workloadPriority", "it is given without a queue", expected, "say queue as well"))
    if model.exclusive_topology and model.engine != "jobset":
        expected = "engine jobset, which alone has it"
        found.append(InputProblem("exclusiveTopology", f"engine is {model.engine}", expected, "remove one of the two"))
    return found


def _containers(patch: Mapping[str, Any] | None) -> list[Any]:
    spec = (patch or {}).get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    return containers if isinstance(containers, list) else []


def _patched_image(patch: Mapping[str, Any] | None) -> str:
    """The image that the user's patch gives to what trains."""
    named = [item for item in _containers(patch) if isinstance(item, Mapping) and item.get("name") == CONTAINER]
    return str(next((item["image"] for item in named if item.get("image")), ""))


def _one_source(path: str, volume: BaseModel, names: tuple[str, ...]) -> list[InputProblem]:
    given = _sources(volume, names)
    if len(given) == 1:
        return []
    found = f"it has {' and '.join(given)}" if given else "nothing says what it is"
    fix = "keep one" if given else f"say {names[0]}: its name"
    return [InputProblem(path, found, f"one of {', '.join(names)}", fix)]


def _host_path(path: str, volume: Any, model: _Options) -> list[InputProblem]:
    if volume.host_path is None or model.allow_host_path:
        return []
    return [
        InputProblem(
            f"{path}.hostPath",
            "it is a folder of the node, to which pods then have access",
            "a claim, nfs or csi; or allowHostPath: true",
            "use a PersistentVolumeClaim, or say allowHostPath: true where nodes and images are trusted",
        )
    ]


_WORDS = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a map",
    "list_type": "a list",
    "string_type": "a text",
    "model_type": "a map",
    "model_attributes_type": "a map",
}


def _problem(error: Any) -> InputProblem:
    place = error["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    kind = error["type"]
    if kind == "extra_forbidden":
        model: type[BaseModel] = _Options
        if len(place) > 1:
            model = _Storage if place[0] == "storage" else _Volume
        names = sorted(to_camel(name) for name in model.model_fields)
        near = nearest(str(place[-1]), names)
        fix = f"write {near}" if near else "remove it"
        return InputProblem(path, "there is no such option", f"one of {', '.join(names)}", fix)
    if kind == "missing":
        return InputProblem(path, "it is missing", "a value", "give it")
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, Wrong):
        return InputProblem(path, *cause.args)
    if kind == "literal_error":
        expected = str((error.get("ctx") or {}).get("expected"))
        return InputProblem(path, f"it is {error['input']!r}", expected, "choose one of these")
    return InputProblem(path, f"it is {error['input']!r}", _WORDS.get(kind, error["msg"]), "correct it")
