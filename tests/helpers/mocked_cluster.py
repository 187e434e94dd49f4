"""Runs programs with cluster components against Pulumi's mocks, and keeps what they register."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pulumi
from pulumi.runtime import mocks, rpc
from pulumi.runtime._callbacks import _CallbackServicer
from pulumi.runtime.stack import wait_for_rpcs

DEADLINE = 60.0
KUBECONFIG = "apiVersion: v1\nkind: Config\nusers: [{name: a, user: {token: hush}}]\n"
SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"


class Cloud(pulumi.runtime.Mocks):
    """Answers as Azure and Kubernetes would."""

    def __init__(self) -> None:
        self.registered: dict[str, mocks.MockResourceArgs] = {}
        self.dependencies: dict[str, set[str]] = {}

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        key = f"{args.typ}::{args.name}"
        assert key not in self.registered, f"{key} is registered twice"
        self.registered[key] = args
        answer = dict(args.inputs)
        kind = args.typ.rpartition(":")[2]
        if args.typ.startswith("azure-native:"):
            given = [answer[key] for key in ("shareName", "containerName") if key in answer]
            answer.setdefault("name", given[0] if given else f"{args.name}-real")
        if kind == "ManagedCluster":
            # Given as a list of ids, answered as a map.
            answer |= {
                "identity": {"type": "UserAssigned", "userAssignedIdentities": {}},
                "oidcIssuerProfile": {"enabled": True, "issuerURL": "https://issuer/"},
                "identityProfile": {"kubeletidentity": {"clientId": "kubelet-client", "objectId": "kubelet-object"}},
                "nodeResourceGroup": "MC_group",
            }
        elif kind == "UserAssignedIdentity":
            answer |= {"principalId": f"{args.name}-principal", "clientId": f"{args.name}-client"}
        elif kind == "Registry":
            answer["loginServer"] = "registry.example"
        return (f"/azure/{args.name}" if args.typ.startswith("azure-native:") else f"{args.name}-id"), answer

    def call(self, args: mocks.MockCallArgs) -> dict[str, Any]:
        name = args.token.rpartition(":")[2]
        if name == "listManagedClusterUserCredentials":
            return {"kubeconfigs": [{"name": "user", "value": base64.b64encode(KUBECONFIG.encode()).decode()}]}
        if name == "getClientConfig":
            return {"clientId": "c", "objectId": "o", "subscriptionId": SUBSCRIPTION, "tenantId": "t"}
        assert name == "listStorageAccountKeys", name
        return {"keys": [{"keyName": "key1", "value": "account-key", "permissions": "Full", "creationTime": ""}]}

    # What is asked of the record

    def needs(self, name: str) -> set[str]:
        """Names of the resources that must be there before that one: the engine makes it after them, and deletes it
        before them."""
        return self.dependencies[name]

    def named(self, name: str) -> mocks.MockResourceArgs:
        """The one resource of a name that is no component."""
        (found,) = [item for item in self.registered.values() if item.name == name and item.custom]
        return found

    def inputs(self, name: str) -> dict[str, Any]:
        return dict(plain(self.named(name).inputs))

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """Name → inputs of every resource of a kind (the last part of its type)."""
        found = [item for item in self.registered.values() if item.typ.rpartition(":")[2] == kind]
        return {item.name: plain(item.inputs) for item in found}

    def objects(self) -> list[dict[str, Any]]:
        """The objects of Kubernetes, as they would be applied, in the order of registration."""
        found = [plain(item.inputs) for item in self.registered.values() if item.typ.startswith("kubernetes:")]
        return [item for item in found if "metadata" in item]


class _Monitor(mocks.MockMonitor):
    """Also keeps what depends on what, which the mocks are not told."""

    def RegisterResource(self, request: Any) -> Any:
        assert isinstance(self.mocks, Cloud)
        self.mocks.dependencies.setdefault(request.name, set()).update(
            urn.rpartition("::")[2] for urn in request.dependencies
        )
        return super().RegisterResource(request)


def plain(value: Any) -> Any:
    """The value without the wire's marks of secrets."""
    if isinstance(value, dict) and rpc._special_sig_key in value:
        return plain(value["value"])
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [plain(item) for item in value] if isinstance(value, list) else value


def secret(value: Any) -> bool:
    """Whether the wire marks it, or a part of it, as a secret."""
    if isinstance(value, Mapping):
        return value.get(rpc._special_sig_key) == rpc._special_secret_sig or any(map(secret, value.values()))
    return isinstance(value, list) and any(map(secret, value))


def run(cloud: Cloud, program: Callable[[], Any], *, preview: bool = False) -> Any:
    """Run a program as Pulumi does, and wait until everything is registered; what its output resolves to."""
    loops: list[asyncio.AbstractEventLoop] = []

    def own_loop() -> None:
        # Pulumi's mocks make one for each thread that has none, and never close it.
        loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(loops[-1])

    async def whole() -> Any:
        asyncio.get_running_loop().set_default_executor(threads)
        pulumi.runtime.settings.reset_options()
        pulumi.runtime.set_mocks(cloud, preview=preview, monitor=_Monitor(cloud))
        try:
            output = pulumi.Output.from_input(program())
            await wait_for_rpcs()
            return await output.future()
        finally:
            # A server for transforms that outlives its event loop fails when Python exits.
            await _CallbackServicer.shutdown()

    with ThreadPoolExecutor(4, initializer=own_loop) as threads:
        try:
            return asyncio.run(asyncio.wait_for(whole(), DEADLINE))
        finally:
            for loop in loops:
                loop.close()
