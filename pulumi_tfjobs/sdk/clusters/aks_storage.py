"""The storage account of an AKS cluster's runs: a share or container, a volume and a claim for each namespace."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pulumi

from pulumi_tfjobs.sdk.clusters.aks_args import RunStorage
from pulumi_tfjobs.sdk.clusters.args import SharedStorage
from pulumi_tfjobs.sdk.clusters.names import plain_name, share
from pulumi_tfjobs.sdk.clusters.objects import KubernetesObject, metadata
from pulumi_tfjobs.sdk.clusters.taking import Taking

_SIZE = re.compile(r"(\d+)Gi")
Options = Callable[..., pulumi.ResourceOptions]


def check(taking: Taking, given: RunStorage) -> None:
    """Everything that is wrong with it."""
    if not _SIZE.fullmatch(str(given.size)):
        taking.problem("run_storage.size", repr(given.size), 'whole GiB, such as "1024Gi"', "write it that way")
    if str(given.type) not in {"files", "blob"}:
        taking.problem("run_storage.type", repr(given.type), '"files" or "blob"', "choose one")


class Account:
    """The account, and what is in it for each namespace. ``name`` is part of names in Azure and in the cluster."""

    def __init__(
        self, name: str, given: RunStorage, place: Mapping[str, Any], options: Options, tags: Mapping[str, Any] | None
    ) -> None:
        from pulumi_azure_native.storage import StorageAccount

        self._name, self._given, self._options = name, given, options
        self._group = place["resource_group_name"]
        blob = given.type == "blob"
        self.account: Any = StorageAccount(
            plain_name(name, "runs"),
            kind="StorageV2",
            sku={"name": given.sku},
            minimum_tls_version="TLS1_2",
            enable_https_traffic_only=True,
            allow_blob_public_access=False,
            allow_shared_key_access=not blob,
            tags=tags,
            opts=options(protect=given.protect or None),
            **place,
        )

    def volume(
        self, namespace: str, identity: Any, make: Callable[[str, Mapping[str, Any]], KubernetesObject]
    ) -> SharedStorage:
        """The share and volume of a namespace; ``make`` makes an object in the cluster."""
        given, blob = self._given, self._given.type == "blob"
        kept = self._blob(namespace) if blob else self._files(namespace)
        name = f"tfjobs-{self._name}-{namespace}"
        attributes: dict[str, Any] = {"resourceGroup": self._group, "storageAccount": self.account.name}
        csi: dict[str, Any] = {"driver": f"{'blob' if blob else 'file'}.csi.azure.com", "volumeAttributes": attributes}
        if blob:
            attributes.update(
                protocol="fuse2",
                containerName=kept.name,
                AzureStorageAuthType="MSI",
                AzureStorageIdentityClientID=identity,
            )
            options = ["-o allow_other", "--file-cache-timeout-in-seconds=0"]
        else:
            attributes["shareName"] = kept.name
            secret = make(f"{namespace}-storage-key", self._key(namespace))
            csi["nodeStageSecretRef"] = {
                "name": secret.metadata["name"],
                "namespace": "kube-system",
            }
            options = ["dir_mode=0777", "file_mode=0777", "uid=0", "gid=0", "mfsymlinks", "actimeo=1", "nosharesock"]
        # The handle is how a node knows the volume: the same one twice would be mounted once.
        csi["volumeHandle"] = pulumi.Output.concat(self.account.name, "/", kept.name)
        volume = make(
            f"{namespace}-volume",
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": metadata(name),
                "spec": {
                    "capacity": {"storage": given.size},
                    "accessModes": ["ReadWriteMany"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "",
                    "mountOptions": options,
                    "csi": csi,
                },
            },
        )
        return SharedStorage(
            size=given.size,
            storage_class="",
            volume_name=volume.metadata["name"],
            protect=given.protect,
        )

    def _files(self, namespace: str) -> Any:
        from pulumi_azure_native.storage import FileShare

        found = _SIZE.fullmatch(self._given.size)
        assert found is not None
        return FileShare(
            f"{self._name}-{namespace}-runs",
            account_name=self.account.name,
            resource_group_name=self._group,
            share_name=share(namespace),
            share_quota=int(found.group(1)),
            opts=self._options(protect=self._given.protect or None),
        )

    def _blob(self, namespace: str) -> Any:
        from pulumi_azure_native.storage import BlobContainer

        return BlobContainer(
            f"{self._name}-{namespace}-runs",
            account_name=self.account.name,
            resource_group_name=self._group,
            container_name=share(namespace),
            public_access="None",
            opts=self._options(protect=self._given.protect or None),
        )

    def _key(self, namespace: str) -> dict[str, Any]:
        """The Secret with the account's key: where nodes read it, out of the jobs' reach."""
        from pulumi_azure_native.storage import list_storage_account_keys_output

        found = list_storage_account_keys_output(
            account_name=self.account.name,
            resource_group_name=self._group,
            opts=pulumi.InvokeOutputOptions(parent=self.account),
        )
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(f"tfjobs-{self._name}-{namespace}-storage", "kube-system"),
            "type": "Opaque",
            "stringData": {
                "azurestorageaccountname": self.account.name,
                "azurestorageaccountkey": pulumi.Output.secret(found.apply(lambda keys: keys.keys[0].value)),
            },
        }
