"""Reading the arguments of components: typed values, or the camelCase maps of Pulumi YAML; every problem at once."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

import pulumi

from pulumi_tfjobs.errors import InputProblem, InvalidInputs
from pulumi_tfjobs.sdk.types import _Value

T = TypeVar("T", bound=_Value)
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class InvalidComponent(InvalidInputs, pulumi.RunError):
    """Arguments of a component are wrong. As a RunError, Pulumi shows it without a traceback."""


def snake(name: str) -> str:
    """``nodeLabels`` → ``node_labels``."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


class Taking:
    """Collects what is wrong while arguments are read; :meth:`done` raises it all."""

    def __init__(self) -> None:
        self.problems: list[InputProblem] = []

    def problem(self, path: str, found: str, expected: str, fix: str) -> None:
        """Note one thing that is wrong."""
        self.problems.append(InputProblem(path, found, expected, fix))

    def done(self) -> None:
        """Raise InvalidComponent if anything was wrong."""
        if self.problems:
            raise InvalidComponent(self.problems)

    def arguments(self, known: type, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those that are set, of a TypedDict; unknown names are problems."""
        names = list(known.__annotations__)
        for name in given:
            if name not in names:
                self._unknown("", name, names)
        return {name: value for name, value in given.items() if name in names and value is not None}

    def one(self, cls: type[T], value: Any, path: str) -> T | None:
        """One value of a class: an instance, a map of its fields, or True/False for what can be switched."""
        if isinstance(value, cls):
            # What is in it may still be maps.
            return self.one(cls, {item.name: getattr(value, item.name) for item in fields(cls)}, path)  # type: ignore[arg-type]
        names: dict[str, Field[Any]] = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
        if isinstance(value, bool) and "enabled" in names:
            value = {"enabled": value}
        if not isinstance(value, Mapping):
            self.problem(path, _kind(value), f"{cls.__name__}(…), or a map of its fields", _how(value))
            return None
        hints = typing.get_type_hints(cls, localns={"Output": list, "T": Any})
        found: dict[str, Any] = {}
        for key, item in value.items():
            name = snake(str(key))
            if name == "kind" and "kind" not in names:
                continue
            if name not in names:
                self._unknown(path, str(key), list(names))
            elif item is not None:
                found[name] = self._inner(hints[name], item, f"{path}.{key}")
        missing = [
            n for n, f in names.items() if n not in found and f.default is MISSING and f.default_factory is MISSING
        ]
        for name in missing:
            self.problem(f"{path}.{name}", "not given", f"the {name} of the {cls.__name__}", "give it")
        return None if missing else cls(**found)

    def many(self, cls: type[T], value: Any, path: str) -> tuple[T, ...]:
        """A list of values of a class; names in it must be different."""
        if isinstance(value, pulumi.Output | str | Mapping) or not isinstance(value, Sequence):
            self.problem(path, _kind(value), f"a list of {cls.__name__}(…)", _how(value))
            return ()
        read = (self.one(cls, item, f"{path}[{index}]") for index, item in enumerate(value))
        found = tuple(item for item in read if item is not None)
        names = [getattr(item, "name", None) for item in found]
        for index, name in enumerate(names):
            if isinstance(name, str) and name in names[:index]:
                self.problem(f"{path}[{index}].name", f'"{name}" is taken', "different names", "rename one of the two")
        return found

    def name(self, value: Any, path: str, pattern: re.Pattern[str] = NAME, expected: str = "") -> None:
        """A name that decides which resource is meant: plain text, as Kubernetes takes it."""
        words = expected or "lower-case letters, digits and '-', at most 63, a letter or digit at both ends"
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.problem(path, _kind(value), words, _how(value) if not isinstance(value, str) else "rename it")

    def _inner(self, hint: Any, value: Any, path: str) -> Any:
        for member, many in _classes(hint):
            if many:
                return self.many(member, value, path)
            return self.one(member, value, path)
        return value

    def _unknown(self, path: str, name: str, names: list[str]) -> None:
        near = difflib.get_close_matches(snake(name), names, n=1)
        where = f"{path}.{name}" if path else name
        fix = f"did you mean {near[0]}?" if near else "leave it out"
        self.problem(where, "there is no such argument", "one of " + ", ".join(names), fix)


def _classes(hint: Any, *, many: bool = False) -> list[tuple[Any, bool]]:
    if isinstance(hint, type) and issubclass(hint, _Value):
        return [(hint, many)]
    origin = typing.get_origin(hint)
    inside = many or (inspect.isclass(origin) and issubclass(origin, Sequence))
    return [found for arg in typing.get_args(hint) for found in _classes(arg, many=inside)]


def _kind(value: Any) -> str:
    if isinstance(value, pulumi.Output):
        return "a value that is known only after deploying"
    return f'"{value}"' if isinstance(value, str) else f"a {type(value).__name__}"


def _how(value: Any) -> str:
    if isinstance(value, pulumi.Output):
        return "write it as it is: it decides which resources there are"
    return "write it that way"
