"""What a user may say about the local target, checked all at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pulumi_tfjobs.errors import InputProblem

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_OPTIONS = ("currency", "gpus", "hourlyPrice", "name", "slots", "store")
_LONGEST_CURRENCY = 8


def check_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[InputProblem]]:
    """The options normalised, and every problem. Pure."""
    problems = [_unknown_option(key) for key in sorted(set(options) - {*_OPTIONS, "kind"})]
    return {
        "name": _label(options.get("name"), problems),
        "slots": _slots(options.get("slots"), problems),
        "gpus": _gpus(options.get("gpus"), problems),
        "store": _store(options.get("store"), problems),
        "hourlyPrice": _price(options.get("hourlyPrice"), problems),
        "currency": _currency(options.get("currency"), problems),
    }, problems


def _unknown_option(key: str) -> InputProblem:
    import difflib

    near = difflib.get_close_matches(key, _OPTIONS, 1)
    fix = f"write {near[0]}" if near else f"remove it; the options are {', '.join(_OPTIONS)}"
    return InputProblem(key, "a local target has no such option", f"one of {', '.join(_OPTIONS)}", fix)


def _label(value: Any, problems: list[InputProblem]) -> str:
    if value is None:
        return "here"
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    problems.append(InputProblem("name", f"{value!r} is not a name", "a line of text", 'write for example "here"'))
    return "here"


def _store(value: Any, problems: list[InputProblem]) -> str:
    if value is None:
        return "default"
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    problems.append(
        InputProblem(
            "store",
            f"{value!r} is not a name of a store",
            "lower-case letters, digits and dashes, at most 63",
            'write for example "default"',
        )
    )
    return "default"


def _count(value: Any) -> int | None:
    """Numbers arrive as int or float; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def _slots(value: Any, problems: list[InputProblem]) -> int | None:
    if value is None:
        return None
    count = _count(value)
    if count is not None and count >= 1:
        return count
    problems.append(
        InputProblem(
            "slots",
            f"{value!r} is not a number of slots",
            "a whole number, 1 or more",
            "leave it out for one slot a GPU or CPU",
        )
    )
    return None


def _gpus(value: Any, problems: list[InputProblem]) -> int | str:
    if value is None or value == "auto":
        return "auto"
    count = _count(value)
    if count is not None and count >= 0:
        return count
    problems.append(
        InputProblem(
            "gpus",
            f"{value!r} is not a number of GPUs",
            'a whole number, 0 or more, or "auto"',
            'write "auto", or 0 for none',
        )
    )
    return "auto"


def _price(value: Any, problems: list[InputProblem]) -> float | None:
    """Of one slot for an hour."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 <= value < math.inf:
        return float(value)
    found = f"{value!r} is not a price"
    if isinstance(value, Mapping):
        found = "it is a price for each type of node, and this machine has no such types"
    problems.append(
        InputProblem("hourlyPrice", found, "what one slot costs an hour: a number, 0 or more", "write for example 0.5")
    )
    return None


def _currency(value: Any, problems: list[InputProblem]) -> str:
    if value is None:
        return "USD"
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST_CURRENCY and " " not in value:
        return value
    problems.append(
        InputProblem(
            "currency",
            f"{value!r} is not a currency",
            f"its code or sign, at most {_LONGEST_CURRENCY} characters",
            'write for example "USD"',
        )
    )
    return "USD"
