"""Property values on the engine's wire, both ways.

A ``Struct`` holds JSON, and whatever JSON cannot say is an object whose key :data:`SIGNATURE_KEY` names what it is:
secrets, outputs, resource references, assets, archives. Unknown values (preview) are well-known strings. The layout is
that of Pulumi's ``sdk/go/common/resource/plugin/rpc.go``.

:func:`decode` gives plain Python values with :class:`Secret`, :class:`OutputValue`, :class:`ResourceReference`,
:class:`Asset`, :class:`Archive` and :data:`UNKNOWN` among them; :func:`encode` is its inverse; :func:`split` sorts
decoded inputs into what validation needs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from google.protobuf import struct_pb2

SIGNATURE_KEY: Final = "4dabf18193072939515e22adb298388d"
SECRET_SIGNATURE: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - the same for everybody
RESOURCE_SIGNATURE: Final = "5cf8f73096256a8f31e491e813e4eb8e"
OUTPUT_SIGNATURE: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
ASSET_SIGNATURE: Final = "c44067f5952c0a294b673a41bacd8c17"
ARCHIVE_SIGNATURE: Final = "0def7320c3a5731c473e5ecbe6d01bc7"

UNKNOWN_TEXT: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
# The engine tells the kinds of unknown values apart (bool, number, array, asset, archive, object); a provider need not.
_UNKNOWN_TEXTS: Final = frozenset(
    {
        UNKNOWN_TEXT,
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    }
)

# Numbers are doubles on the wire. Up to here every integer has one of its own.
_EXACT = 2.0**53


class WireError(ValueError):
    """A value that the wire cannot hold, or a message that breaks its rules. ``path`` is the property's path."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(f"{path or 'value'}: {problem}")


class _Unknown:
    """The type of :data:`UNKNOWN`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> bool:
        raise TypeError("an unknown value is neither true nor false; test with `is UNKNOWN`")


UNKNOWN: Final = _Unknown()


class Secret(NamedTuple):
    """A value that the engine keeps encrypted in its state."""

    value: Any

    def __repr__(self) -> str:
        return "Secret(…)"


class OutputValue(NamedTuple):
    """The output of a resource: ``value`` (:data:`UNKNOWN` where it is not known yet), whether it is secret, and the
    URNs that it comes from."""

    value: Any
    secret: bool = False
    dependencies: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shown = "…" if self.secret else repr(self.value)
        return f"OutputValue({shown}, secret={self.secret}, dependencies={self.dependencies!r})"


class ResourceReference(NamedTuple):
    """A resource as a value. ``id`` is None for components, :data:`UNKNOWN` before a custom resource exists."""

    urn: str
    id: Any = None
    version: str = ""


class Asset(NamedTuple):
    """A file as a value: exactly one of ``text``, ``path`` and ``uri`` is set."""

    text: str | None = None
    path: str | None = None
    uri: str | None = None
    hash: str | None = None


class Archive(NamedTuple):
    """A folder as a value: exactly one of ``assets``, ``path`` and ``uri`` is set."""

    assets: Mapping[str, Any] | None = None
    path: str | None = None
    uri: str | None = None
    hash: str | None = None


# Decoding


def decode(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A message's properties. Integral numbers are ints, nulls are None. Raises WireError."""
    return {key: _decode(value, key) for key, value in struct.fields.items()}


def _decode(value: struct_pb2.Value, path: str) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return UNKNOWN if value.string_value in _UNKNOWN_TEXTS else value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode(item, f"{path}[{index}]") for index, item in enumerate(value.list_value.values)]
    if kind == "struct_value":
        fields = value.struct_value.fields
        if SIGNATURE_KEY in fields:
            return _decode_special(fields, path)
        return {key: _decode(item, below(path, key)) for key, item in fields.items()}
    return None


def _decode_special(fields: Mapping[str, struct_pb2.Value], path: str) -> Any:
    signature = fields[SIGNATURE_KEY].string_value
    found = {key: _decode(item, below(path, key)) for key, item in fields.items() if key != SIGNATURE_KEY}
    if signature == SECRET_SIGNATURE:
        if "value" not in found:
            raise WireError(path, "a secret without a value")
        inner = found["value"]
        return inner if isinstance(inner, Secret) else Secret(inner)
    if signature == OUTPUT_SIGNATURE:
        dependencies = found.get("dependencies") or []
        return OutputValue(found.get("value", UNKNOWN), bool(found.get("secret")), tuple(dependencies))
    if signature == RESOURCE_SIGNATURE:
        urn = found.get("urn")
        if not isinstance(urn, str):
            raise WireError(path, "a resource reference without a URN")
        reference = found.get("id")
        if isinstance(reference, OutputValue):
            reference = reference.value
        # An empty id is how the engine writes one that is not known yet.
        return ResourceReference(urn, UNKNOWN if reference == "" else reference, found.get("packageVersion") or "")
    if signature == ASSET_SIGNATURE:
        return Asset(found.get("text"), found.get("path"), found.get("uri"), found.get("hash"))
    if signature == ARCHIVE_SIGNATURE:
        return Archive(found.get("assets"), found.get("path"), found.get("uri"), found.get("hash"))
    raise WireError(path, f"a special value of the unknown kind {signature!r}; update pulumi_tfjobs")


# Encoding


def encode(properties: Mapping[str, Any], *, nonfinite_as_text: bool = False) -> struct_pb2.Struct:
    """The message of these properties.

    NaN and infinities cannot be in it (a state file is JSON): they raise WireError, or with ``nonfinite_as_text``
    become ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. Raises WireError for values of other types, too.
    """
    struct = struct_pb2.Struct()
    for key, value in properties.items():
        _encode(struct.fields[key], value, key, nonfinite_as_text)
    return struct


def _encode(out: struct_pb2.Value, value: Any, path: str, text: bool) -> None:
    if value is None:
        out.null_value = struct_pb2.NULL_VALUE
    elif value is UNKNOWN:
        out.string_value = UNKNOWN_TEXT
    elif isinstance(value, bool):
        out.bool_value = value
    elif isinstance(value, str):
        try:
            out.string_value = value
        except (ValueError, UnicodeError):
            raise WireError(path, "text that is not valid Unicode") from None
    elif isinstance(value, (int, float)):
        _encode_number(out, value, path, text)
    elif isinstance(value, (Secret, OutputValue, ResourceReference, Asset, Archive)):
        signature, fields = _special(value)
        out.struct_value.fields[SIGNATURE_KEY].string_value = signature
        for key, item in fields.items():
            _encode(out.struct_value.fields[key], item, below(path, key), text)
    elif isinstance(value, Mapping):
        out.struct_value.SetInParent()
        for key, item in value.items():
            if not isinstance(key, str):
                raise WireError(path, f"the key {key!r} is no text")
            _encode(out.struct_value.fields[key], item, below(path, key), text)
    elif isinstance(value, (list, tuple)):
        out.list_value.SetInParent()
        for index, item in enumerate(value):
            _encode(out.list_value.values.add(), item, f"{path}[{index}]", text)
    else:
        raise WireError(path, f"a value of type {type(value).__name__} cannot be sent")


def _encode_number(out: struct_pb2.Value, value: float, path: str, text: bool) -> None:
    try:
        number = float(value)
    except OverflowError:
        raise WireError(path, "a number beyond the range of a double") from None
    if math.isfinite(number):
        out.number_value = number
    elif text:
        out.string_value = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    else:
        raise WireError(path, f"the number {number} cannot be kept in a state file")


def _special(value: Secret | OutputValue | ResourceReference | Asset | Archive) -> tuple[str, dict[str, Any]]:
    if isinstance(value, Secret):
        return SECRET_SIGNATURE, {"value": value.value}
    if isinstance(value, OutputValue):
        known = {} if value.value is UNKNOWN else {"value": value.value}
        secret = {"secret": True} if value.secret else {}
        return OUTPUT_SIGNATURE, {**known, **secret, **_given(dependencies=list(value.dependencies))}
    if isinstance(value, ResourceReference):
        reference = {} if value.id is None else {"id": value.id}
        return RESOURCE_SIGNATURE, {"urn": value.urn, **reference, **_given(packageVersion=value.version)}
    if isinstance(value, Asset):
        return ASSET_SIGNATURE, {key: item for key, item in value._asdict().items() if item is not None}
    return ARCHIVE_SIGNATURE, {key: item for key, item in value._asdict().items() if item is not None}


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}


# Paths and sorting


_SIMPLE_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


def below(path: str, key: str) -> str:
    """The Pulumi property path of a key below a path: ``tags.team``, ``scriptParams["--learning-rate"]``."""
    if _SIMPLE_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{json.dumps(key, ensure_ascii=False)}]"


class Inputs(NamedTuple):
    """Decoded inputs, sorted.

    ``plain``: ordinary values only, without unknown ones and without nulls at the top. A list with an unknown element
    is left out whole, as positions mean something. ``unknown`` and ``secret``: property paths of what is not known and
    of what is secret, leaves as well as the containers that hold them when a whole container is secret.
    """

    plain: dict[str, Any]
    unknown: frozenset[str]
    secret: frozenset[str]


def split(inputs: Mapping[str, Any]) -> Inputs:
    """Sort decoded inputs for validation, see :class:`Inputs`."""
    unknown: set[str] = set()
    secret: set[str] = set()
    plain = {}
    for key, value in inputs.items():
        known = _split(value, below("", key), False, unknown, secret)
        if known is not UNKNOWN and known is not None:
            plain[key] = known
    return Inputs(plain, frozenset(unknown), frozenset(secret))


def _split(value: Any, path: str, is_secret: bool, unknown: set[str], secret: set[str]) -> Any:
    while isinstance(value, (Secret, OutputValue)):
        is_secret = is_secret or isinstance(value, Secret) or value.secret
        value = value.value
    if is_secret:
        secret.add(path)
    if value is UNKNOWN:
        unknown.add(path)
        return UNKNOWN
    if isinstance(value, ResourceReference):
        # Where text is wanted and a resource was given, its id is meant.
        return _split(value.urn if value.id is None else value.id, path, is_secret, unknown, secret)
    if isinstance(value, (Asset, Archive)):
        return value.path if value.path is not None else value._asdict()
    if isinstance(value, Mapping):
        known = {}
        for key, item in value.items():
            found = _split(item, below(path, key), is_secret, unknown, secret)
            if found is not UNKNOWN:
                known[key] = found
        return known
    if isinstance(value, list):
        inner: set[str] = set()
        items = [_split(item, f"{path}[{index}]", is_secret, inner, secret) for index, item in enumerate(value)]
        if inner:
            unknown.add(path)
            return UNKNOWN
        return items
    return value


def without(plain: Mapping[str, Any], paths: frozenset[str], *, replacement: str) -> dict[str, Any]:
    """Plain inputs without the values at ``paths``; in lists, where positions count, ``replacement`` stands there."""

    def strip(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            inner = {key: (item, below(path, key)) for key, item in value.items()}
            return {key: strip(item, at) for key, (item, at) in inner.items() if at not in paths}
        if isinstance(value, list):
            places = [(item, f"{path}[{index}]") for index, item in enumerate(value)]
            return [replacement if at in paths else strip(item, at) for item, at in places]
        return value

    stripped: dict[str, Any] = strip(dict(plain), "")
    return stripped


def matcher(patterns: list[str]) -> Callable[[str], bool]:
    """Whether a path is at or below one of these (``ignoreChanges``; ``*`` and ``[*]`` stand for any one element)."""
    wanted = [_elements(pattern) for pattern in patterns]

    def matches(path: str) -> bool:
        elements = _elements(path)
        return any(
            len(pattern) <= len(elements)
            and all(want in ("*", element) for want, element in zip(pattern, elements, strict=False))
            for pattern in wanted
        )

    return matches


_ELEMENT = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+|\*)\]|\.?([^.\[\]]+)')


def _elements(path: str) -> list[str]:
    found = []
    for quoted, index, name in _ELEMENT.findall(path):
        found.append(re.sub(r"\\(.)", r"\1", quoted) if quoted else index or name)
    return found
