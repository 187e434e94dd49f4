"""Errors on their way to the engine: a clean status, a line to read, never a traceback.

Status codes matter: for INTERNAL, UNKNOWN and DATA_LOSS the engine assumes that it no longer knows the resource's
state, for every other code that nothing happened.
"""

from __future__ import annotations

import logging
from typing import Any

import grpc

from pulumi_tfjobs.errors import InvalidInputs, RunNotFound, TfJobsError
from pulumi_tfjobs.provider.protos import errors_pb2, provider_pb2, status_pb2
from pulumi_tfjobs.store.plugin_log import log_path, unexpected, write_log

__all__ = ["FileHandler", "InitFailed", "Unsupported", "abort", "log_path", "unexpected"]

DETAILS = "grpc-status-details-bin"


class InitFailed(TfJobsError):
    """The resource exists and is not what was asked for. The engine keeps its id, outputs and reasons, and the next
    ``pulumi up`` goes on with it."""

    def __init__(self, resource_id: str, properties: Any, reasons: list[str], inputs: Any) -> None:
        self.detail = provider_pb2.ErrorResourceInitFailed(
            id=resource_id, properties=properties, reasons=reasons, inputs=inputs
        )
        super().__init__("\n".join(reasons))


class Unsupported(TfJobsError):
    """The engine asked for something that this provider does not have."""


async def abort(context: Any, error: Exception, rpc: str, subject: str) -> None:
    """End the RPC with the status that fits ``error``. Does not return."""
    if isinstance(error, InitFailed):
        await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, str(error), error.detail)
    elif isinstance(error, InvalidInputs):
        detail = errors_pb2.InputPropertiesError()
        for problem in error.problems:
            detail.errors.add(property_path=problem.path, reason=problem.reason)
        await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error), detail)
    elif isinstance(error, Unsupported):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))
    elif isinstance(error, RunNotFound):
        await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
    elif isinstance(error, TfJobsError):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    else:
        await context.abort(grpc.StatusCode.INTERNAL, unexpected(error, f"{rpc} {subject}".rstrip()))


async def _abort(context: Any, code: grpc.StatusCode, message: str, detail: Any) -> None:
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(detail)
    await context.abort(code, message, ((DETAILS, status.SerializeToString()),))


class FileHandler(logging.Handler):
    """Warnings of the libraries go into the plugin's log; the engine would print what is written to stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        write_log(self.format(record))
