"""The components, built in the plugin for programs in languages without this SDK (YAML).

That needs the Pulumi SDK, which takes a second to load: nothing here is imported before the first Construct.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pulumi_tfjobs.errors import TfJobsError
from pulumi_tfjobs.provider.protos import import_pulumi, provider_pb2

TYPE = "tfjobs:index:TensorFlow"

# Type → the module and class that build it.
TYPES: dict[str, tuple[str, str]] = {
    TYPE: ("pulumi_tfjobs.sdk.components", "TensorFlow"),
    "tfjobs:index:GpuAddons": ("pulumi_tfjobs.sdk.clusters.addons", "GpuAddons"),
    "tfjobs:index:AksGpuCluster": ("pulumi_tfjobs.sdk.clusters.aks", "AksGpuCluster"),
}

ComponentClass = Callable[..., Any]


def snake_case(name: str) -> str:
    """``scriptParams`` → ``script_params``."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def integral(value: Any) -> Any:
    """The value with whole numbers as ints, all the way down: the SDK reads every number as a float."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2.0**53:
        return int(value)
    if isinstance(value, Mapping):
        return {key: integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [integral(item) for item in value]
    if hasattr(value, "apply") and hasattr(value, "is_known"):
        return value.apply(integral)
    return value


class Components:
    """Constructs components with the Pulumi SDK's own server code.

    ``component``: what is built, called with ``(name, opts=…, **arguments)``; default: the Python SDK's class of the
    type.
    """

    def __init__(self, component: ComponentClass | None = None) -> None:
        self._component = component
        self._servicer: Any = None
        # Whether the program names a version of this plugin. Where it does not, the jobs inside must not either: the
        # engine would start a second plugin for them, and neither would know all jobs of the stack.
        self.versioned = True
        self._loading = asyncio.Lock()

    async def construct(
        self, request: provider_pb2.ConstructRequest, context: Any, engine_address: str
    ) -> provider_pb2.ConstructResponse:
        """Build the component and its children in the engine. Raises TfJobsError."""
        async with self._loading:
            if self._servicer is None:
                self._servicer = await asyncio.to_thread(self._load)
        self._servicer.engine_address = engine_address
        from pulumi.errors import InputPropertiesError, InputPropertyError, RunError

        try:
            response: provider_pb2.ConstructResponse = await self._servicer._construct(request, context)  # noqa: SLF001
        except InputPropertiesError as error:
            reasons = [f"{e['property_path']}: {e['reason']}" for e in error.errors or []]
            raise TfJobsError("\n".join([error.message, *reasons])) from error
        except InputPropertyError as error:
            raise TfJobsError(f"{error.property_path}: {error.reason}") from error
        except RunError as error:
            raise TfJobsError(str(error)) from error
        return response

    def _load(self) -> Any:
        import_pulumi()
        from pulumi import ResourceOptions
        from pulumi.provider import ConstructResult, Provider
        from pulumi.provider.server import ProviderServicer

        components = self

        class Built(Provider):
            def construct(
                self, name: str, resource_type: str, inputs: Any, options: ResourceOptions | None = None
            ) -> ConstructResult:
                module, kind = TYPES[resource_type]
                component: ComponentClass = components._component or getattr(import_module(module), kind)
                if not components.versioned:
                    options = ResourceOptions.merge(options, ResourceOptions(version=""))
                built = component(name, opts=options, **{snake_case(k): integral(v) for k, v in inputs.items()})
                found = built.outputs()
                return ConstructResult(
                    urn=built.urn, state={key: value for key, value in found.items() if value is not None}
                )

        return ProviderServicer(Built("0.1.0"), [], engine_address="")
