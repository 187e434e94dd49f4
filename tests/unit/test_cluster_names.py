"""Names that the cluster components make of a Pulumi resource's, which may be any text: valid wherever they go."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pulumi_tfjobs as tfjobs
from pulumi_tfjobs.sdk.clusters.names import AZURE_LENGTH, label, plain_name, share
from pulumi_tfjobs.sdk.clusters.taking import NAME, InvalidComponent
from tests.helpers.mocked_cluster import Cloud, run

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# As Azure's documentation has them (resource-name-rules), of names that Pulumi adds 8 characters to.
ADDED = "0123abcd"
AZURE = {
    "ResourceGroup": r"[-\w.()]{1,90}(?<!\.)",
    "VirtualNetwork": r"[A-Za-z0-9][-\w.]{0,62}\w",
    "Subnet": r"[A-Za-z0-9][-\w.]{0,78}\w",
    "Workspace": r"[A-Za-z0-9][-A-Za-z0-9]{2,61}[A-Za-z0-9]",
    "UserAssignedIdentity": r"[A-Za-z0-9][-\w]{2,127}",
    "ManagedCluster": r"[A-Za-z0-9]([-\w]{0,61}[A-Za-z0-9])?",
    "Registry": r"[A-Za-z0-9]{5,50}",
    "StorageAccount": r"[a-z0-9]{3,24}",
}
SHARE = re.compile(r"(?!.*--)[a-z0-9][-a-z0-9]{1,61}[a-z0-9]")
DNS_PREFIX = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,52}[A-Za-z0-9])?")
NAMES = ("Gpu_Train", "train", "a/b c", "_", "9", "ÄÖ", "x" * 100, "a--b", "-", "Train.Prod", "gpu-train")

pulumi_names = st.text(min_size=1, max_size=120).filter(lambda name: "::" not in name)
namespaces = st.from_regex(NAME, fullmatch=True)


@given(pulumi_names)
def test_a_label_is_valid_whatever_it_is_made_of(name: str) -> None:
    found = label(name, AZURE_LENGTH)
    assert DNS_LABEL.fullmatch(found)
    assert found[0].isalpha()
    assert "--" not in found
    assert len(found) <= AZURE_LENGTH
    assert label(found, AZURE_LENGTH) == found
    assert re.fullmatch(AZURE["StorageAccount"], plain_name(name, "runs") + ADDED)


@given(namespaces)
def test_a_share_is_valid_for_every_namespace(namespace: str) -> None:
    assert SHARE.fullmatch(share(namespace))


@given(st.lists(pulumi_names, min_size=2, max_size=2, unique=True))
def test_two_names_stay_two(names: list[str]) -> None:
    assert label(names[0], AZURE_LENGTH) != label(names[1], AZURE_LENGTH)


def test_names_that_are_valid_stay_as_they_are() -> None:
    assert label("gpu-train", AZURE_LENGTH) == "gpu-train"
    assert share("vision") == "runs-vision"
    assert label("Gpu_Train", AZURE_LENGTH).startswith("gpu-train-")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["files", "blob"])
def test_every_name_that_a_cluster_makes_is_valid(name: str, kind: Any) -> None:
    cloud = Cloud()
    long = "n" * 63

    def program() -> Any:
        pools = [tfjobs.NodePool("a100", "Standard_NC24ads_A100_v4", max_count=4)]
        spaces = [tfjobs.JobNamespace("a--b"), tfjobs.JobNamespace(long)]
        made = tfjobs.AksGpuCluster(name, pools=pools, namespaces=spaces, run_storage=tfjobs.RunStorage(type=kind))
        return made.target.name

    assert run(cloud, program) == name, "what rows and records show is what the program says"
    checked = set()
    for item in cloud.registered.values():
        short = item.typ.rpartition(":")[2]
        if item.typ.startswith("azure-native:") and short in AZURE:
            checked.add(short)
            assert re.fullmatch(AZURE[short], item.name + ADDED, re.ASCII), (short, item.name)
    assert checked == set(AZURE)
    (cluster,) = cloud.of("ManagedCluster").values()
    assert DNS_PREFIX.fullmatch(cluster["dnsPrefix"])
    (group,), (named,) = cloud.of("ResourceGroup"), cloud.of("ManagedCluster")
    assert len(f"MC_{group}{ADDED}_{named}{ADDED}_australiasoutheast") <= 80, "AKS' own resource group"
    shares = cloud.of("FileShare") if kind == "files" else cloud.of("BlobContainer")
    kept = {item.get("shareName") or item.get("containerName") for item in shares.values()}
    assert len(kept) == 2
    assert all(SHARE.fullmatch(found) for found in kept)
    for found in cloud.objects():
        namespace = found["metadata"].get("namespace", "default")
        for words in (found["metadata"]["name"], namespace):
            assert SUBDOMAIN.fullmatch(words), (found["kind"], words)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"cluster_name": "-train"}, "cluster_name"),
        ({"resource_group_name": "a/b"}, "resource_group_name"),
        ({"resource_group_name": "g" * 40, "cluster_name": "c" * 20}, "at most 57"),
    ],
)
def test_given_names_that_azure_refuses_are_refused_at_once(args: dict[str, Any], said: str) -> None:
    cloud = Cloud()
    pools = [tfjobs.NodePool("a100", "Standard_NC24ads_A100_v4", max_count=4)]
    with pytest.raises(InvalidComponent, match=said):
        run(cloud, lambda: tfjobs.AksGpuCluster("train", pools=pools, **args))
    assert cloud.registered == {}
