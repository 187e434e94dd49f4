"""The rule against secrets on a script's command line. Nothing here ever shows a value."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.policies.reading import Job, Verdict
from pulumi_tfjobs.spec import paths

_KNOWN = (
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY")),
    ("an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[opusr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})")),
    ("a GitLab token", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}")),
    ("a Slack token", re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}")),
    ("an API key of OpenAI or Anthropic", re.compile(r"\bsk-(?:[a-z]+[0-9]*-)*[A-Za-z0-9_-]{20,}")),
    ("a Google API key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}")),
    ("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    ("an Azure storage key", re.compile(r"\bAccountKey=[A-Za-z0-9+/=]{20,}")),
    ("a signed URL", re.compile(r"[?&](?:sig|X-Amz-Signature|X-Goog-Signature)=[A-Za-z0-9%+/=]{16,}")),
    ("a URL with a password", re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@")),
)
_NAMES = frozenset(
    {
        "password",
        "passwd",
        "pwd",
        "pw",
        "passphrase",
        "secret",
        "token",
        "credential",
        "credentials",
        "apikey",
        "bearer",
    }
)
_KEYS = frozenset(
    {"access", "account", "api", "auth", "encryption", "private", "sas", "secret", "shared", "ssh", "storage"}
)
# What follows such a word says that the value is about a secret, not one: --token-file, --secret-name, --token-count.
_ABOUT = frozenset(
    {
        "count",
        "dim",
        "dir",
        "embedding",
        "env",
        "file",
        "folder",
        "id",
        "length",
        "limit",
        "name",
        "path",
        "size",
        "type",
    }
)
# Tokens of a text, not of an account: --pad-token, --eos_token; and what such a token looks like: <pad>, [MASK].
_TEXT = frozenset({"bos", "cls", "end", "eos", "mask", "pad", "sep", "special", "start", "stop", "trigger", "unk"})
_TEXT_TOKEN = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|[^A-Za-z0-9]+")
_HEX = re.compile(r"[0-9A-Fa-f]{32,}\Z")
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_RANDOM = re.compile(r"[A-Za-z0-9+/_=-]{20,}\Z")
# Share of neighbours of different kinds (letter case, digit): 0.43 in random text, 0.3 and less in names of models and
# runs, where a capital begins a word and a dash parts two.
_MIXED = 0.32
_LEAST = 4  # shorter values are no secrets worth the name


class _Given(NamedTuple):
    path: str
    flag: str
    value: Any


def no_secrets_in_params(job: Job, config: Mapping[str, Any]) -> Verdict:
    """Neither ``scriptParams`` nor ``arguments`` hold what looks like a secret, by its name or by itself.

    ``allow`` holds flags (``--token-kind``) and property paths that are fine; ``entropy`` is how random, in bits a
    character, a value must be to count, 0 turns that off.
    """
    allowed = frozenset(str(item) for item in config.get("allow", ()))
    entropy = float(config.get("entropy", 4.0))
    problems = []
    for given in (*_params(job.properties.get("scriptParams")), *_arguments(job.properties.get("arguments"))):
        if given.flag in allowed or given.path in allowed:
            continue
        what = _what(given.flag, given.value, entropy)
        if what:
            name = given.flag or given.path
            problems.append(
                InputProblem(
                    given.path,
                    what,
                    "no secret on the command line: the state, the run's record and the process list show it",
                    "give it in environmentVariables as a secret (`config.require_secret`) and read it in the script; "
                    f"if it is none, add {name!r} to `allow` of no-secrets-in-params",
                )
            )
    unknown = sorted(path for path in job.unknown if paths.touches(path, ("scriptParams", "arguments")))
    return Verdict(tuple(problems), tuple(f"{_safe(path)} is not known before the update" for path in unknown))


def _params(params: Any) -> Iterator[_Given]:
    for key, value in (params if isinstance(params, Mapping) else {}).items():
        flag, _, inside = str(key).partition("=")
        shown = _safe(flag)
        for item in value if isinstance(value, list | tuple) else (value,):
            yield _Given(paths.join("scriptParams", shown), shown, item)
        if inside or shown != flag:  # the value stands in the key: --token=abc
            yield _Given(paths.join("scriptParams", shown), shown, inside or flag)


def _arguments(arguments: Any) -> Iterator[_Given]:
    flag = ""
    for index, item in enumerate(arguments if isinstance(arguments, list | tuple) else ()):
        path = paths.join("arguments", index)
        text = item if isinstance(item, str) else ""
        if text.startswith("-"):
            flag, equals, inside = text.partition("=")
            flag = _safe(flag)
            yield _Given(path, flag if equals else "", inside if equals else text)
            flag = "" if equals else flag
        else:
            yield _Given(path, flag, item)
            flag = ""


def _safe(text: str) -> str:
    """A flag as it may be shown: one that is itself a secret is not."""
    return "…" if _looks_like(text, 4.0) else text


def _what(flag: str, value: Any, entropy: float) -> str:
    if not isinstance(value, str) or len(value.strip()) < _LEAST or "${{" in value:
        return ""
    known = _looks_like(value, entropy)
    if known:
        return f"its value looks like {known}"
    named = _names_a_secret(flag) and not _TEXT_TOKEN.fullmatch(value)
    # A key alone may be that of a column, but no column is called so.
    named = named or (_words(flag)[-1:] == ["key"] and _HEX.match(value) is not None)
    if named and not _is_number(value) and not value.startswith("-"):
        return "its name says that it is a secret"
    return ""


def _looks_like(value: str, entropy: float) -> str:
    for what, pattern in _KNOWN:
        if pattern.search(value):
            return what
    text = value.lstrip("-")
    return "a random key" if entropy > 0 and _RANDOM.match(text) and _is_random(text, entropy) else ""


def _is_random(text: str, entropy: float) -> bool:
    kinds = [_kind(character) for character in text]
    if not {"upper", "lower", "digit"} <= set(kinds):
        return False
    changes = sum(
        one != other and "mark" not in {one, other} and (one, other) != ("upper", "lower")
        for one, other in pairwise(kinds)
    )
    return changes >= _MIXED * (len(text) - 1) and _bits(text) >= entropy


def _kind(character: str) -> str:
    if character.isdigit():
        return "digit"
    return "upper" if character.isupper() else "lower" if character.islower() else "mark"


def _bits(text: Iterable[str]) -> float:
    """Shannon entropy, in bits a character."""
    counts = Counter(text)
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return value.lower() in {"true", "false", "none", "null", "auto"}
    return True


def _words(flag: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(flag)]


def _names_a_secret(flag: str) -> bool:
    words = _words(flag)
    if not words or words[-1] in _ABOUT:
        return False
    if words[-1] == "token" and _TEXT & set(words):
        return False
    if _NAMES & set(words):
        return True
    # A key alone may be that of a column or a feature.
    return any(one in _KEYS and other in {"key", "keys"} for one, other in pairwise(words))
