"""The schema's types of compute targets: what ``computeTarget`` may be, by kind.

Descriptions are those of the Python SDK's classes, so that there is one text for an option.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any, Literal

PACKAGE = "tfjobs"
_ANY = {"$ref": "pulumi.json#/Any"}
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SECRET = frozenset({"kubeconfig"})


def target_types() -> dict[str, Any]:
    """Token → type of every compute target and of what is in them."""
    types = import_module("pulumi_tfjobs.sdk.types")

    classes = (types.LocalTarget, types.KubernetesTarget, types.Volume, types.Storage)
    return {_token(cls.__name__): described(cls) for cls in classes}


def target_property() -> dict[str, Any]:
    """The property ``computeTarget``."""
    types = import_module("pulumi_tfjobs.sdk.types")

    mapping = {cls.kind: _reference(cls.__name__) for cls in (types.LocalTarget, types.KubernetesTarget)}
    members = [{"$ref": where} for where in mapping.values()]
    return {"oneOf": members, "discriminator": {"propertyName": "kind", "mapping": mapping}}


def argument_texts(cls: type, section: str = "Args") -> dict[str, str]:
    """Argument → its description in that section of the class's docstring."""
    doc = inspect.getdoc(cls) or ""
    found: dict[str, str] = {}
    name = ""
    for line in doc.partition(f"{section}:\n")[2].splitlines():
        begun = re.match(r" {4}(\w+): (.*)", line)
        if begun:
            name = begun.group(1)
            found[name] = begun.group(2)
        elif name and line.startswith("        "):
            found[name] += " " + line.strip()
    return {name: text.replace("``", "`") for name, text in found.items()}


def camel(name: str) -> str:
    """``node_selector`` → ``nodeSelector``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def described(cls: Any) -> dict[str, Any]:
    """The schema's type of a dataclass of the SDK."""
    # pulumi.Input names its Output by text, in its own module.
    hints = typing.get_type_hints(cls, localns={"Output": list, "T": typing.Any})
    texts = argument_texts(cls)
    properties = {
        camel(item.name): {
            **schema_of(hints[item.name]),
            "description": texts[item.name],
            **({"secret": True} if item.name in _SECRET else {}),
        }
        for item in fields(cls)
    }
    required = [camel(item.name) for item in fields(cls) if item.default is MISSING]
    if cls.kind:
        kind = {"type": "string", "const": cls.kind, "description": "Which compute target."}
        properties = {"kind": kind, **properties}
        required = [*(["kind"] if cls.kind != "local" else []), *(name for name in required if name != "name")]
    summary = (inspect.getdoc(cls) or "").partition("\n\nArgs:")[0].replace("``", "`").replace("\n", " ")
    return {
        "type": "object",
        "description": summary,
        "properties": properties,
        **({"required": required} if required else {}),
    }


def schema_of(hint: Any) -> dict[str, Any]:
    """The schema of an annotation of the SDK: ``pulumi.Input[str] | None`` is a text."""
    found: list[dict[str, Any]] = []
    for member in _members(hint):
        schema = _one(member)
        if schema not in found:
            found.append(schema)
    kinds = {str(schema.get("type")) for schema in found}
    if {"integer", "number"} <= kinds:
        found = [schema for schema in found if schema.get("type") != "integer"]
    if any("$ref" in schema for schema in found):
        found = [schema for schema in found if "$ref" in schema][:1]
    if len(found) == 1:
        return found[0]
    arrays = [schema for schema in found if schema.get("type") == "array"]
    if arrays:
        return arrays[0]
    if all(schema.get("type") in _PLAIN.values() for schema in found):
        return {"oneOf": found}
    return dict(_ANY)


def _members(hint: Any) -> list[Any]:
    """The plain kinds that an annotation stands for: futures, outputs (read as lists here) and None are left out."""
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in {typing.Union, type(str | int)}:
        return [member for arg in args for member in _members(arg)]
    if hint is type(None) or origin is list or getattr(origin, "__name__", "") == "Awaitable":
        return []
    return [hint]


def _one(hint: Any) -> dict[str, Any]:
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is Literal:
        return {"type": "string"}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        values = schema_of(args[1]) if args and args[1] is not Any else dict(_ANY)
        return {"type": "object", "additionalProperties": values}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"type": "array", "items": schema_of(args[0])}
    if isinstance(hint, type) and hasattr(hint, "to_inputs"):
        return {"$ref": _reference(hint.__name__)}
    return dict(_ANY)


def _token(name: str) -> str:
    return f"{PACKAGE}:index:{name}"


def _reference(name: str) -> str:
    return f"#/types/{_token(name)}"
