"""The outputs of a job, the same on the resource and on the component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

OUTPUTS = (
    "run_id",
    "digest",
    "status",
    "reason",
    "attempt",
    "exit_code",
    "started_at",
    "finished_at",
    "duration_seconds",
    "metrics",
    "outputs_dir",
    "checkpoints_dir",
    "logs",
    "tf_config",
    "hostfile",
    "world_size",
    "restarts",
    "world_sizes",
)


def camel(name: str) -> str:
    """``script_params`` → ``scriptParams``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


class JobOutputs:
    """What a job ends with. All are outputs: unknown in a preview of a job that will train.

    The getters' types make whole numbers of the wire's numbers.
    """

    def _job_output(self, name: str) -> pulumi.Output[Any]:
        raise NotImplementedError(name)

    @property
    @pulumi.getter(name="runId")
    def run_id(self) -> pulumi.Output[str]:
        """``<job name>-<first 12 digits of the digest>``."""
        return self._job_output("run_id")

    @property
    @pulumi.getter(name="digest")
    def digest(self) -> pulumi.Output[str]:
        """SHA-256 over everything that can change the result."""
        return self._job_output("digest")

    @property
    @pulumi.getter(name="status")
    def status(self) -> pulumi.Output[str]:
        """``succeeded``, ``failed``, ``running``, ``cancelled``, ``timed_out``, ``interrupted`` …"""
        return self._job_output("status")

    @property
    @pulumi.getter(name="reason")
    def reason(self) -> pulumi.Output[str]:
        """Why the status is what it is, in a line."""
        return self._job_output("reason")

    @property
    @pulumi.getter(name="attempt")
    def attempt(self) -> pulumi.Output[int]:
        """Number of the last attempt, from 1."""
        return self._job_output("attempt")

    @property
    @pulumi.getter(name="exitCode")
    def exit_code(self) -> pulumi.Output[int | None]:
        """Exit code of the replica that decided."""
        return self._job_output("exit_code")

    @property
    @pulumi.getter(name="startedAt")
    def started_at(self) -> pulumi.Output[str | None]:
        """When the last attempt's replicas were started (ISO 8601, UTC)."""
        return self._job_output("started_at")

    @property
    @pulumi.getter(name="finishedAt")
    def finished_at(self) -> pulumi.Output[str | None]:
        """When the last attempt ended (ISO 8601, UTC)."""
        return self._job_output("finished_at")

    @property
    @pulumi.getter(name="durationSeconds")
    def duration_seconds(self) -> pulumi.Output[float | None]:
        """Seconds from start to end of the last attempt."""
        return self._job_output("duration_seconds")

    @property
    @pulumi.getter(name="metrics")
    def metrics(self) -> pulumi.Output[Mapping[str, Any]]:
        """Last value of every scalar, by tag; NaN and infinities as text."""
        return self._job_output("metrics")

    @property
    @pulumi.getter(name="outputsDir")
    def outputs_dir(self) -> pulumi.Output[str]:
        """Folder of what the script kept."""
        return self._job_output("outputs_dir")

    @property
    @pulumi.getter(name="checkpointsDir")
    def checkpoints_dir(self) -> pulumi.Output[str]:
        """Folder that a further attempt resumes from."""
        return self._job_output("checkpoints_dir")

    @property
    @pulumi.getter(name="logs")
    def logs(self) -> pulumi.Output[Mapping[str, str]]:
        """Replica → path of its log."""
        return self._job_output("logs")

    @property
    @pulumi.getter(name="tfConfig")
    def tf_config(self) -> pulumi.Output[Mapping[str, str]]:
        """Replica → its TF_CONFIG (JSON text)."""
        return self._job_output("tf_config")

    @property
    @pulumi.getter(name="hostfile")
    def hostfile(self) -> pulumi.Output[str]:
        """Horovod's hostfile, empty for other distributions."""
        return self._job_output("hostfile")

    @property
    @pulumi.getter(name="worldSize")
    def world_size(self) -> pulumi.Output[int]:
        """Number of replicas that compute."""
        return self._job_output("world_size")

    @property
    @pulumi.getter(name="restarts")
    def restarts(self) -> pulumi.Output[int]:
        """How often replicas were started again within the last attempt."""
        return self._job_output("restarts")

    @property
    @pulumi.getter(name="worldSizes")
    def world_sizes(self) -> pulumi.Output[Sequence[Mapping[str, Any]]]:
        """Of an elastic job, ``{"time", "size"}`` at each change of the number of workers; empty for others."""
        return self._job_output("world_sizes")
