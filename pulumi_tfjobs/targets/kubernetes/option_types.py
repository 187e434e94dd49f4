"""The kinds of values that options of a Kubernetes target have, each with its check. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

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
    secret = "@" in str(value) or "?" in str(value)  # there may be one: it is not said again
    found = "it is no such address" if secret else f"{value!r} is no such address"
    expected = "the address of a folder, without credentials: s3://, abfs://, gs:// or file:///"
    raise Wrong(found, expected, 'write for example "s3://bucket/runs"')


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
Url = Annotated[str | None, BeforeValidator(_url)]
Kubeconfig = Annotated[Any, BeforeValidator(_kubeconfig)]
Annotations = Annotated[dict[str, str], BeforeValidator(_annotations)]
Image = Annotated[str | None, _text(re.compile(r"[^\s]+"), "image", "its name", "example.org/train:1")]
Resource = Annotated[str | None, _text(_RESOURCE, "resource", "a resource of nodes", "nvidia.com/gpu")]
LabelName = Annotated[str | None, _text(_LABEL, "label", "a label of nodes", "topology.kubernetes.io/zone")]
Count = Annotated[int | None, _whole(0)]
Positive = Annotated[int | None, _whole(1)]
Price = Annotated[float | None, BeforeValidator(_price)]
Currency = Annotated[str | None, BeforeValidator(_currency)]
