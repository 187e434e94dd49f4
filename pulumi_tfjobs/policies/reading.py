"""A resource as a policy gets it: plain values, and apart from them what is not known yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pulumi_policy.proxy import UnknownValueError

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.spec import paths
from pulumi_tfjobs.spec.args import KEYS, JobArgs, parse_args
from pulumi_tfjobs.spec.model import Distribution
from pulumi_tfjobs.spec.topology import FLAT, resolve
from pulumi_tfjobs.spec.validate import job_name

TYPE = "tfjobs:index:TrainingJob"
"""The one type that counts: the component TensorFlow holds one of these."""


class Verdict(NamedTuple):
    """What a rule says of a job: what is wrong, and what it could not tell because a value is not known."""

    problems: tuple[InputProblem, ...] = ()
    untold: tuple[str, ...] = ()


class Job(NamedTuple):
    """A training job. ``properties`` holds what is known; ``unknown`` the paths of the rest."""

    urn: str
    resource: str
    properties: dict[str, Any]
    unknown: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The job's name, as the store has it."""
        given = self.properties.get("name")
        return given if isinstance(given, str) and given else job_name(self.resource)

    def hides(self, *keys: str) -> str:
        """The first of these properties that is not known (nor all that is in it); empty where they are."""
        return next((path for path in sorted(self.unknown) for key in keys if paths.touches(path, (key,))), "")

    def args(self) -> JobArgs | None:
        """The inputs, read; None where they are wrong. What exactly is wrong, the provider says."""
        given = {key: value for key, value in self.properties.items() if key in KEYS}
        args, problems = parse_args(given, self.unknown)
        return None if problems else args

    def distribution(self) -> Distribution | None:
        """None where it is wrong, or not known."""
        args = self.args()
        if args is None or self.hides("distribution", *FLAT):
            return None
        problems: list[InputProblem] = []
        found = resolve(args, self.unknown, problems)
        return None if problems else found


def job_of(urn: str, resource: str, props: Mapping[str, Any]) -> Job:
    """The job that these properties describe, as a policy gets them."""
    unknown: set[str] = set()
    plain = _plain(props, (), unknown)
    return Job(urn, resource, plain, frozenset(unknown))


def _plain(value: Any, at: tuple[str | int, ...], unknown: set[str]) -> Any:
    if isinstance(value, Mapping):
        keyed = ((key, _item(value, key, at, unknown)) for key in value)
        return {str(key): found[0] for key, found in keyed if found}
    if isinstance(value, Sequence) and not isinstance(value, str):
        # An item that is not known keeps its place: the paths of the others name them by it.
        items = (_item(value, index, at, unknown) for index in range(len(value)))
        return [found[0] if found else "" for found in items]
    return value


def _item(holder: Any, key: Any, at: tuple[str | int, ...], unknown: set[str]) -> tuple[Any, ...]:
    here = (*at, key)
    try:
        value = holder[key]
    except UnknownValueError:
        unknown.add(paths.join(*here))
        return ()
    return (_plain(value, here, unknown),)
