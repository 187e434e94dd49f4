"""The custom resource: one training job."""

from __future__ import annotations

from collections.abc import Mapping
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
    return {
        camel(key): value.to_inputs() if isinstance(value, (ComputeTarget, Distribution)) else value
        for key, value in args.items()
        if value is not None
    }
