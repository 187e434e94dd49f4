"""Components: the estimator of Azure ML v1, as a Pulumi component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from typing_extensions import Unpack

from pulumi_tfjobs.sdk.outputs import OUTPUTS, JobOutputs, camel
from pulumi_tfjobs.sdk.resources import TrainingJob
from pulumi_tfjobs.sdk.types import JobArgs

TENSORFLOW = "tfjobs:index:TensorFlow"


class TensorFlow(JobOutputs, pulumi.ComponentResource):
    """Trains a TensorFlow model: the Azure ML v1 ``TensorFlow`` estimator as a Pulumi component.

    ``job`` is the :class:`~pulumi_tfjobs.sdk.resources.TrainingJob` inside; its outputs are the component's.
    """

    job: TrainingJob

    def __init__(
        self, resource_name: str, /, opts: pulumi.ResourceOptions | None = None, **args: Unpack[JobArgs]
    ) -> None:
        """``args`` are those of :class:`~pulumi_tfjobs.sdk.types.JobArgs`; ``opts`` Pulumi's resource options."""
        super().__init__(TENSORFLOW, resource_name, {}, opts)
        self.job = TrainingJob(resource_name, opts=_child_options(self, opts), **args)
        self.register_outputs(self.outputs())

    def _job_output(self, name: str) -> Any:
        return getattr(self.job, name)

    def outputs(self) -> Mapping[str, pulumi.Output[Any]]:
        """Every output by its camelCase name."""
        return {camel(name): getattr(self, name) for name in OUTPUTS}


# Options that Pulumi does not hand down from a component, and that mean the job.
_HANDED_DOWN = (
    "additional_secret_outputs",
    "custom_timeouts",
    "delete_before_replace",
    "depends_on",
    "ignore_changes",
    "replace_on_changes",
    "retain_on_delete",
    "version",
)


def _child_options(parent: pulumi.Resource, opts: pulumi.ResourceOptions | None) -> pulumi.ResourceOptions:
    given = {name: getattr(opts, name, None) for name in _HANDED_DOWN}
    return pulumi.ResourceOptions(parent=parent, **{name: value for name, value in given.items() if value is not None})
