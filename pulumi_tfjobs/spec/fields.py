"""The types of a job's inputs. Each refuses a wrong value with found, expected and what to do."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from pulumi_tfjobs.spec.suggest import kind_of, nearest, show

_LARGEST_COUNT = 100_000
RETRY_WORDS = ("infrastructure", "any")
_EXACT = 2**53  # the wire's numbers are doubles: whole numbers are exact up to here
_VARIABLE = re.compile(r"[^=\0]+\Z")


def wrong(value: Any, expected: str, fix: str, *, found: str | None = None) -> PydanticCustomError:
    """The error that :func:`~.args.parse_args` turns into a problem. ``hidden`` is for secret values."""
    context = {
        "found": found or f"it is {show(value)}",
        "hidden": f"it is {kind_of(value)}",
        "expected": expected,
        "fix": fix,
        "hidden_fix": "write it as expected; the value is a secret and not shown",
    }
    return PydanticCustomError("tfjobs", "{found}", context)


def number_text(value: float) -> str:
    """``3.0`` -> ``3``, ``0.01`` -> ``0.01``: the shortest text that reads back as the same number."""
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)


def _clean(text: str) -> str:
    if "\0" in text:
        raise wrong(text, "a text without NUL characters", "remove the NUL character", found="it holds NUL")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise wrong(text, "valid Unicode", "write it in UTF-8", found="it is no valid Unicode") from None
    return text


def _finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(value, "a finite number", "give a number that JSON can hold")


def _whole(lowest: int, highest: int = _LARGEST_COUNT) -> BeforeValidator:
    words = f"a whole number of at least {lowest}"

    def check(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            fix = f"write {value} without quotes" if _is_digits(value) else "give a whole number"
            raise wrong(value, words, fix)
        _finite(value)
        if value != int(value):
            raise wrong(value, words, f"round it, for example to {max(lowest, round(value))}")
        if value < lowest:
            raise wrong(value, words, f"give {lowest} or more")
        if value > highest:
            raise wrong(value, f"a whole number of at most {highest}", "give a smaller number")
        return int(value)

    return BeforeValidator(check)


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10


def _duration(*, positive: bool) -> BeforeValidator:
    words = "seconds, a number above 0" if positive else "seconds, a number of 0 or more"

    def check(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            fix = f"write {value} without quotes" if _is_digits(value) else "give a number of seconds"
            raise wrong(value, words, fix)
        _finite(value)
        if value < 0 or (positive and value == 0):
            raise wrong(value, words, "give a longer time")
        try:
            return float(value)
        except OverflowError:
            raise wrong(value, words, "give a shorter time") from None

    return BeforeValidator(check)


def _flag(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    fix = "write it without quotes" if str(value).lower() in {"true", "false"} else "give true or false"
    raise wrong(value, "true or false", fix)


def _text(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        scalar = isinstance(value, int | float)
        raise wrong(value, "a text", f'write it in quotes: "{show(value)}"' if scalar else "give a text")
    return _clean(value)


def _version(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A version written as a number has lost digits: 3.10 arrives as 3.1.
        raise wrong(value, 'a version in quotes, such as "3.11"', "put the version in quotes")
    return _text(value)


def _condition(value: Any) -> Any:
    """A condition of ``retryOn`` in its normal form: a word, an exit code 1..255, or a signal's name."""
    words = '"infrastructure", "any", an exit code from 1 to 255, or a signal such as "SIGTERM"'
    if isinstance(value, int | float) and not isinstance(value, bool):
        _finite(value)
        value = number_text(value)
    if not isinstance(value, str):
        raise wrong(value, words, "give one of these")
    if value in RETRY_WORDS:
        return value
    if _is_digits(value) and 1 <= int(value) <= 255:
        return str(int(value))
    if value in signal.Signals.__members__:
        return value
    near = nearest(value, [*RETRY_WORDS, *signal.Signals.__members__])
    raise wrong(value, words, f'say "{near}"' if near else 'say "infrastructure", for example')


def _list(value: Any) -> Any:
    if isinstance(value, str):
        raise wrong(value, "a list of texts", f"write it as a list: [{show(value)}]")
    if not isinstance(value, list | tuple):
        raise wrong(value, "a list of texts", "write it as a list")
    return list(value)


def _argument(value: Any) -> Any:
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, int | float):
        _finite(value)
        return number_text(value)
    if value is None:
        raise wrong(value, "a text or a number", "remove the empty item")
    return _text(value)


def _map(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise wrong(value, "a map of names to values", "write it as a map")
    return {key: item for key, item in value.items() if not str(key).startswith("__")}


def _key(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise wrong(value, "a name that is not empty", "give it a name", found="a name is empty")
    return _clean(value)


def _variable(value: Any) -> Any:
    if not isinstance(value, str) or not _VARIABLE.match(value):
        raise wrong(
            value,
            "a name without = that is not empty",
            "give the variable a name such as MY_VARIABLE",
            found="this is no name of an environment variable",
        )
    return _clean(value)


def _variable_value(value: Any) -> Any:
    # Values are never shown: any of them may be a secret.
    if isinstance(value, str):
        if "\0" in value:
            raise wrong(None, "a text without NUL characters", "remove it", found="it holds a NUL character")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise wrong(None, "valid Unicode", "write it in UTF-8", found="no valid Unicode") from None
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        _finite(value)
        return number_text(value)
    fix = 'write "true", "True" or "1" in quotes' if isinstance(value, bool) else "give a text"
    raise wrong(value, "a text", fix, found=f"it is {kind_of(value)}")


def _scalar(value: Any) -> str:
    """A script parameter's value as argv text; booleans as Azure ML gave them."""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, int | float):
        _finite(value)
        return number_text(value)
    if isinstance(value, str):
        return _clean(value)
    raise wrong(value, "a text, a number, a boolean, or a list of these", "give one of these")


def _param(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        raise wrong(
            value,
            "a text, a number, a boolean, or a list of these",
            "give each of the map's entries as a script param of its own, or the map as one JSON text",
        )
    for item in value if isinstance(value, list | tuple) else ():
        _scalar(item)
    if not isinstance(value, list | tuple):
        _scalar(value)
    return value


def param_values(value: str | float | bool | list[str | int | float | bool] | None) -> tuple[str, ...]:
    """A script parameter's values as argv texts: none for null and the empty text, several for a list."""
    if value is None or value == "":
        return ()
    if isinstance(value, list):
        return tuple(_scalar(item) for item in value)
    return (_scalar(value),)


def _options(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise wrong(value, "a map such as {kind: local, slots: 4}", "give the target's options as a map")
    kind = value.get("kind", "local")
    if not isinstance(kind, str) or not kind:
        raise wrong(kind, "the target's kind, such as local", "say `kind: local`", found="its kind is no text")
    return {str(key): item for key, item in value.items() if item is not None} | {"kind": kind}


def choice(*names: str) -> BeforeValidator:
    """One of a few words."""

    def check(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value in names):
            return value
        near = nearest(value, names, cutoff=0.4) if isinstance(value, str) else None
        raise wrong(value, "one of " + ", ".join(f'"{name}"' for name in names), f'say "{near or names[0]}"')

    return BeforeValidator(check)


Count = Annotated[int, _whole(1)]
Whole = Annotated[int, _whole(0)]
Priority = Annotated[int, _whole(-1000, 1000)]
LogBytes = Annotated[int, _whole(64 * 1024, 2**50)]
RetryOn = Annotated[list[Annotated[str, BeforeValidator(_condition)]], BeforeValidator(_list)]
Seconds = Annotated[float, _duration(positive=False)]
PositiveSeconds = Annotated[float, _duration(positive=True)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]
Version = Annotated[str, BeforeValidator(_version)]
Argument = Annotated[str, BeforeValidator(_argument)]
TextList = Annotated[list[Argument], BeforeValidator(_list)]
Key = Annotated[str, BeforeValidator(_key)]
TextMap = Annotated[dict[Key, Text], BeforeValidator(_map)]
Variables = Annotated[
    dict[Annotated[str, BeforeValidator(_variable)], Annotated[str, BeforeValidator(_variable_value)]],
    BeforeValidator(_map),
]
Param = Annotated[str | int | float | bool | list[str | int | float | bool] | None, BeforeValidator(_param)]
Params = Annotated[dict[Key, Param], BeforeValidator(_map)]
Options = Annotated[dict[str, Any], BeforeValidator(_options)]
