"""The custom resource: one training job."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isawaitable
from typing import Any

import pulumi
from typing_extensions import Unpack

from pulumi_tfjobs import __version__
from pulumi_tfjobs.sdk.outputs import OUTPUTS, JobOutputs, camel
from pulumi_tfjobs.sdk.types import ComputeTarget, Distribution, JobArgs


class TrainingJob(JobOutputs, pulumi.CustomResource):
    """A TensorFlow training job: creating it launches the run that its content names, and waits for it.

    What decides the result (source, entry script, parameters, environment, distribution, inputs, ``rerun``) is the
    run's identity: a change there trains anew (replace). The rest (``tags``, ``wait_for``, time limits …) is updated
    in place. A job whose content was trained before is not trained again.
    """

    def __init__(
        self, resource_name: str, /, opts: pulumi.ResourceOptions | None = None, **args: Unpack[JobArgs]
    ) -> None:
        """``args`` are those of :class:`~pulumi_tfjobs.sdk.types.JobArgs`; ``opts`` Pulumi's resource options.

        Wrong arguments are reported by the provider, all of them at once.
        """
        super().__init__(
            "tfjobs:index:TrainingJob",
            resource_name,
            {**job_inputs(args), **{camel(name): None for name in OUTPUTS}},
            pulumi.ResourceOptions.merge(pulumi.ResourceOptions(version=__version__), opts),
        )

    def _job_output(self, name: str) -> Any:
        return pulumi.get(self, camel(name))


def job_inputs(args: Mapping[str, Any]) -> dict[str, Any]:
    """Python arguments → the provider's inputs: camelCase, unset ones left out."""
    found = {
        camel(key): value.to_inputs() if isinstance(value, (ComputeTarget, Distribution)) else value
        for key, value in args.items()
        if value is not None
    }
    if "scriptParams" in found:
        found["scriptParams"] = _flags(found["scriptParams"])
    return found


def _flags(params: Any) -> Any:
    """Script params without None: Pulumi's SDK leaves None out of a map, and the flag would be lost."""
    if isinstance(params, Mapping):
        return {flag: _flag(value) for flag, value in params.items()}
    return pulumi.Output.from_input(params).apply(_flags) if _is_later(params) else params


def _flag(value: Any) -> Any:
    if _is_later(value):
        return pulumi.Output.from_input(value).apply(_flag)
    return "" if value is None else value


def _is_later(value: Any) -> bool:
    return isinstance(value, pulumi.Output) or isawaitable(value)
