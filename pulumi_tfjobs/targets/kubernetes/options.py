"""What a user may say about a Kubernetes target, checked all at once. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec.suggest import nearest

STORE = "kubernetes"
GPU_RESOURCE = "nvidia.com/gpu"
SOURCES = ("claim", "nfs", "csi", "configMap", "secret", "emptyDir", "hostPath")
_STORAGE_SOURCES = ("claim", "nfs", "csi", "hostPath")
_SCHEMES = ("file", "s3", "abfs", "abfss", "az", "gs", "gcs", "memory")
_LONGEST_CURRENCY = 8

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_QUANTITY = re.compile(r"(\d+(\.\d+)?|\.\d+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE]\d+)?")
_RESOURCE = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL = re.compile(r"(([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?)[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_RESERVED = "tfjobs.pulumi.com/"


class Wrong(ValueError):
    """What is wrong with a value: what it is, what would be right, what to do."""

    def __init__(self, found: str, expected: str, fix: str) -> None:
        super().__init__(found, expected, fix)


def _text(pattern: re.Pattern[str], what: str, expected: str, example: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value is None or (isinstance(value, str) and pattern.fullmatch(value)):
            return value
        raise Wrong(f"{value!r} is no {what}", expected, f'write for example "{example}"')

    return BeforeValidator(check)


def _quantity(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return format(value, "g")
    if value is None or (isinstance(value, str) and _QUANTITY.fullmatch(value)):
        return value
    raise Wrong(f"{value!r} is no quantity", "a number with a unit of Kubernetes", 'write for example "4" or "16Gi"')


def _whole(least: int) -> BeforeValidator:
    def check(value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or (number and value == value // 1 and value >= least):
            return value if value is None else int(value)
        raise Wrong(f"{value!r} is no such number", f"a whole number, {least} or more", "correct it, or leave it out")

    return BeforeValidator(check)


def _price(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (number and 0 <= value < math.inf):
        return None if value is None else float(value)
    expected = "what one slot costs an hour: a number, 0 or more"
    raise Wrong(f"{value!r} is no price", expected, "write for example 2.5")


def _line(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value.strip() and value.isprintable()):
        return value
    raise Wrong(f"{value!r} is no text", "a line of text", "correct it, or leave it out")


def _currency(value: Any) -> Any:
    fits = isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST_CURRENCY and " " not in value
    if value is None or fits:
        return value
    expected = f"its code or sign, at most {_LONGEST_CURRENCY} characters"
    raise Wrong(f"{value!r} is no currency", expected, 'write for example "USD"')


def _path(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("/") and "\0" not in value and ".." not in value.split("/"):
        return value
    raise Wrong(f"{value!r} is no such path", "an absolute path without ..", 'write for example "/data"')


def _part(value: Any) -> Any:
    if value is None:
        return value
    if isinstance(value, str) and value and not value.startswith("/") and ".." not in value.split("/"):
        return value.rstrip("/")
    raise Wrong(f"{value!r} is no such path", "a relative path without ..", 'write for example "team-a/runs"')


def _url(value: Any) -> Any:
    if value is None:
        return value
    scheme, mark, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    who, at, _ = rest.split("/")[0].partition("@")  # abfs://container@account… names no secret
    if mark and rest and scheme in _SCHEMES and "?" not in rest and not (at and (":" in who or scheme[:2] != "ab")):
        return value.rstrip("/")
    expected = "the address of a folder, without credentials: s3://, abfs://, gs:// or file:///"
    raise Wrong(f"{value!r} is no such address", expected, 'write for example "s3://bucket/runs"')


def _kubeconfig(value: Any) -> Any:
    if value is None or isinstance(value, Mapping) or (isinstance(value, str) and value.strip()):
        return value
    expected = "the path of a kubeconfig, or its content"
    raise Wrong("it is neither a path nor a kubeconfig", expected, 'write for example "~/.kube/config"')


def _labels(value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Wrong(f"{value!r} is no map", "names and values", 'write for example {"team": "a"}')
    for name, text in value.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name) or name.startswith(_RESERVED):
            raise Wrong(f"{name!r} is no name of a label of yours", "a name such as team or example.com/team", "rename")
        if not isinstance(text, str) or not _LABEL_VALUE.fullmatch(text):
            expected = "at most 63 letters, digits, dots, dashes and underscores"
            raise Wrong(f"{name} is {text!r}", expected, "correct the value")
    return dict(value)


def _annotations(value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise Wrong(f"{value!r} is no map of texts", "names and texts", 'write for example {"note": "text"}')
    return dict(value)


Label = Annotated[str | None, _text(_DNS_LABEL, "name", "small letters, digits and dashes, at most 63", "team-a")]
Name = Annotated[str | None, _text(_DNS_NAME, "name", "small letters, digits, dashes and dots", "training")]
Quantity = Annotated[str | None, BeforeValidator(_quantity)]
Line = Annotated[str | None, BeforeValidator(_line)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]
Path = Annotated[str, BeforeValidator(_path)]
Part = Annotated[str | None, BeforeValidator(_part)]
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
    url: Annotated[str | None, BeforeValidator(_url)] = None


class _Options(_Model):
    name: Line = None
    kubeconfig: Annotated[Any, BeforeValidator(_kubeconfig)] = None
    context: Line = None
    in_cluster: bool = False
    namespace: Label = None
    service_account: Name = None
    image: Annotated[str | None, _text(re.compile(r"[^\s]+"), "image", "its name", "example.org/train:1")] = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: list[Name] | None = None
    python: Line = None
    node_selector: Labels = {}
    tolerations: list[Map] | None = None
    affinity: Map | None = None
    priority_class: Name = None
    runtime_class: Name = None
    gpu_resource: Annotated[str | None, _text(_RESOURCE, "resource", "a resource of nodes", GPU_RESOURCE)] = None
    cpu: Quantity = None
    memory: Quantity = None
    shared_memory: Quantity = None
    volumes: list[_Volume] | None = None
    allow_host_path: bool = False
    pod_labels: Labels = {}
    pod_annotations: Annotated[dict[str, str], BeforeValidator(_annotations)] = {}
    pod_template_patch: Map | None = None
    engine: Literal["jobset", "kubeflow"] = "jobset"
    queue: Name = None
    workload_priority: Name = None
    exclusive_topology: Annotated[
        str | None, _text(_LABEL, "label", "a label of nodes", "topology.kubernetes.io/zone")
    ] = None
    ttl_seconds_after_finished: Annotated[int | None, _whole(0)] = None
    max_preemptions: Annotated[int | None, _whole(0)] = None
    storage: _Storage | None = None
    collect: Literal["outputs", "metrics", "all"] = "outputs"
    source_path: Path | None = None
    slots: Annotated[int | None, _whole(1)] = None
    store: Label = None
    hourly_price: Annotated[float | None, BeforeValidator(_price)] = None
    currency: Annotated[str | None, BeforeValidator(_currency)] = None


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
    """Whether it is a kubeconfig itself and not the path of one."""
    return isinstance(kubeconfig, Mapping) or (isinstance(kubeconfig, str) and "\n" in kubeconfig.strip())


def check_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[InputProblem]]:
    """Options as the user wrote them → normalised ones for :meth:`Options.from_json` (a kubeconfig's content among
    them), and every problem."""
    given = {key: value for key, value in options.items() if key != "kind"}
    try:
        model = _Options.model_validate(given)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors(include_url=False)]
        rest = _without(given, [item["loc"] for item in error.errors(include_url=False)])
        try:
            model = _Options.model_validate(rest)
        except ValidationError:
            return {}, problems
    else:
        problems = []
    problems += _together(model)
    if problems:
        return {}, problems
    return _normal(model), []


def _without(given: Mapping[str, Any], wrong: list[tuple[int | str, ...]]) -> dict[str, Any]:
    tops = {str(place[0]) for place in wrong if place}
    return {key: value for key, value in given.items() if key not in tops}


def _normal(model: _Options) -> dict[str, Any]:
    found = {key: value for key, value in model.model_dump(by_alias=True).items() if value is not None}
    found["volumes"] = [volume.model_dump(exclude_none=True) for volume in model.volumes or ()]
    if model.storage is not None:
        found["storage"] = model.storage.model_dump(exclude_none=True)
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
    if not model.image and not _has_image(model.pod_template_patch):
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
    if model.workload_priority and not model.queue:
        expected = "a queue of Kueue, in which it counts"
        found.append(InputProblem("workloadPriority", "it is given without a queue", expected, "say queue as well"))
    if model.exclusive_topology and model.engine != "jobset":
        expected = "engine jobset, which alone has it"
        found.append(InputProblem("exclusiveTopology", f"engine is {model.engine}", expected, "remove one of the two"))
    return found


def _has_image(patch: Mapping[str, Any] | None) -> bool:
    containers = ((patch or {}).get("spec") or {}).get("containers") or ()
    return any(isinstance(item, Mapping) and item.get("image") for item in containers)


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
