"""Parts of AksGpuCluster: what there is on Azure beside the cluster itself."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from pulumi_tfjobs.sdk.clusters.aks_args import ContainerRegistry, Logs, Network
from pulumi_tfjobs.sdk.clusters.args import JobNamespace
from pulumi_tfjobs.sdk.clusters.names import plain_name
from pulumi_tfjobs.sdk.clusters.objects import EXTRA
from pulumi_tfjobs.sdk.clusters.taking import Taking

# Azure's built-in roles.
ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
NETWORK_CONTRIBUTOR = "4d97b98b-1d4f-4787-a291-c67834d212e7"
STORAGE_BLOB_DATA_CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"

_CLUSTER = re.compile(r"[A-Za-z0-9]([-\w]{0,61}[A-Za-z0-9])?", re.ASCII)
_GROUP = re.compile(r"[-\w.()]{0,89}[-\w()]")
# Of the 80 that AKS' own resource group may have, without MC_, two more underscores, and 18 of the longest region.
_TOGETHER = 80 - len("MC_") - 1 - 1 - 18

# What of the control plane is logged: who changed what, and why pools grow or do not.
_DIAGNOSTICS = ("kube-audit-admin", "cluster-autoscaler", "kube-controller-manager", "guard")


def azure() -> Any:
    """The module ``pulumi_azure_native``. Raises RunError, with how to install it, where it is missing."""
    try:
        import pulumi_azure_native
    except ImportError as error:
        raise pulumi.RunError(f"AksGpuCluster needs pulumi-azure-native, which is not installed: {EXTRA}") from error
    return pulumi_azure_native


def check_names(taking: Taking, group: Any, cluster: Any) -> None:
    """Note names that Azure refuses, as far as they are known before deploying."""
    if isinstance(cluster, str) and not _CLUSTER.fullmatch(cluster):
        expected = "letters, digits, '-' and '_', at most 63, a letter or digit at both ends"
        taking.problem("cluster_name", f'"{cluster}"', expected, "rename it")
    if isinstance(group, str) and not _GROUP.fullmatch(group):
        expected = "letters, digits and any of -_.(), at most 90, no '.' last"
        taking.problem("resource_group_name", f'"{group}"', expected, "write its name as Azure shows it")
    if isinstance(group, str) and isinstance(cluster, str) and len(group) + len(cluster) > _TOGETHER:
        taking.problem(
            "cluster_name",
            f"{len(group) + len(cluster)} characters together with resource_group_name",
            f"at most {_TOGETHER}: AKS makes one name of at most 80 of both and the region's",
            "shorten one of the two",
        )


class Surroundings:
    """Makes Azure resources in one resource group, as children of the component.

    ``name`` begins the names of all of them: one that Azure takes. ``group`` is the name of a resource
    group that is there (None: one is made), ``location`` the region.
    """

    def __init__(
        self, parent: pulumi.Resource, name: str, group: Any, location: Any, tags: Mapping[str, Any] | None
    ) -> None:
        azure()
        self._parent, self._name, self.tags = parent, name, tags
        if group is None:
            from pulumi_azure_native.resources import ResourceGroup

            group = ResourceGroup(name, location=location, tags=tags, opts=self.child()).name
        self.group = group
        self.place: dict[str, Any] = {"resource_group_name": group}
        if location is not None:
            self.place["location"] = location

    def child(self, **more: Any) -> pulumi.ResourceOptions:
        """Options of a child."""
        return pulumi.ResourceOptions(parent=self._parent, **more)

    def subnet(self, given: Network) -> Any:
        """Id of the nodes' subnet."""
        if given.subnet_id is not None:
            return given.subnet_id
        from pulumi_azure_native.network import Subnet, VirtualNetwork

        network = VirtualNetwork(
            f"{self._name}-network",
            address_space={"address_prefixes": [given.address_space]},
            tags=self.tags,
            # The subnet is a resource of its own: the network must not take it for a stranger's and remove it.
            opts=self.child(ignore_changes=["subnets"]),
            **self.place,
        )
        return Subnet(
            f"{self._name}-nodes",
            resource_group_name=self.group,
            virtual_network_name=network.name,
            address_prefix=given.subnet,
            opts=self.child(),
        ).id

    def workspace(self, given: Logs) -> Any:
        """The Log Analytics workspace, if there is to be one."""
        if not given.enabled:
            return None
        from pulumi_azure_native.operationalinsights import Workspace

        return Workspace(
            f"{self._name}-logs",
            sku={"name": "PerGB2018"},
            retention_in_days=given.retention_days,
            workspace_capping={"daily_quota_gb": given.daily_gb},
            tags=self.tags,
            opts=self.child(),
            **self.place,
        )

    def identity(self, logical: str) -> Any:
        """A managed identity."""
        from pulumi_azure_native.managedidentity import UserAssignedIdentity

        return UserAssignedIdentity(f"{self._name}-{logical}", tags=self.tags, opts=self.child(), **self.place)

    def role(self, logical: str, role: str, principal: Any, scope: Any) -> Any:
        """Assign a role to an identity, on one resource."""
        from pulumi_azure_native.authorization import RoleAssignment, get_client_config_output

        subscription = get_client_config_output(opts=pulumi.InvokeOutputOptions(parent=self._parent)).subscription_id
        name = f"{self._name}-{logical}"
        return RoleAssignment(
            name,
            # Azure knows an assignment by a UUID: the same one for the same resource of the same stack.
            role_assignment_name=str(
                uuid.uuid5(uuid.NAMESPACE_URL, f"tfjobs/{pulumi.get_project()}/{pulumi.get_stack()}/{name}")
            ),
            principal_id=principal,
            principal_type="ServicePrincipal",
            role_definition_id=pulumi.Output.concat(
                "/subscriptions/", subscription, "/providers/Microsoft.Authorization/roleDefinitions/", role
            ),
            scope=scope,
            # Two of the same name cannot be, and nothing of one can be changed.
            opts=self.child(delete_before_replace=True),
        )

    def federate(self, namespaces: Sequence[JobNamespace], issuer: Any) -> Any:
        """The identity of jobs' pods, by federation with their service accounts: no password anywhere."""
        from pulumi_azure_native.managedidentity import FederatedIdentityCredential

        identity = self.identity("jobs")
        before: list[pulumi.Resource] = []
        for item in sorted(namespaces, key=lambda item: item.name):
            credential = FederatedIdentityCredential(
                f"{self._name}-jobs-{item.name}",
                federated_identity_credential_resource_name=f"jobs-{item.name}",
                resource_name_=identity.name,
                resource_group_name=self.group,
                issuer=issuer,
                subject=f"system:serviceaccount:{item.name}:{item.service_account}",
                audiences=["api://AzureADTokenExchange"],
                # Azure refuses to write two of one identity at once.
                opts=self.child(depends_on=before),
            )
            before = [credential]
        return identity

    def diagnostics(self, cluster: Any, workspace: Any) -> None:
        """Send the control plane's logs to the workspace."""
        from pulumi_azure_native.monitor import DiagnosticSetting

        DiagnosticSetting(
            f"{self._name}-diagnostics",
            name="tfjobs",
            resource_uri=cluster.id,
            workspace_id=workspace.id,
            log_analytics_destination_type="Dedicated",
            logs=[{"category": category, "enabled": True} for category in _DIAGNOSTICS],
            opts=self.child(),
        )

    def registry(self, given: ContainerRegistry) -> tuple[Any, Any]:
        """Id of the registry, and its server (empty for one that was there)."""
        if given.registry_id is not None:
            return given.registry_id, pulumi.Output.from_input("")
        from pulumi_azure_native.containerregistry import Registry

        found = Registry(
            plain_name(self._name, "registry"),
            sku={"name": given.sku},
            admin_user_enabled=False,
            tags=self.tags,
            opts=self.child(),
            **self.place,
        )
        return found.id, found.login_server
