from __future__ import annotations

import importlib.metadata
import json

import pulumi_tfjobs
from pulumi_tfjobs.provider import schema
from pulumi_tfjobs.provider.comparing import OUTPUTS
from pulumi_tfjobs.provider.protos import provider_pb2
from pulumi_tfjobs.provider.servicer import version
from pulumi_tfjobs.sdk.clusters.addons import GpuAddons
from pulumi_tfjobs.sdk.clusters.aks import AksGpuCluster
from pulumi_tfjobs.sdk.clusters.aks_args import AksGpuClusterArgs
from pulumi_tfjobs.sdk.clusters.args import GpuAddonsArgs
from pulumi_tfjobs.sdk.outputs import camel
from pulumi_tfjobs.spec.args import KEYS, REQUIRED
from tests.provider.conftest import Plugin

CLUSTERS = {"tfjobs:index:GpuAddons", "tfjobs:index:AksGpuCluster"}


def test_the_schema_that_is_served_is_the_one_generated() -> None:
    with open(schema.SCHEMA_FILE, encoding="utf-8") as stream:
        kept = stream.read()
    assert kept == schema.schema_text(), "write it again: python -m pulumi_tfjobs.provider.schema"


async def test_the_engine_gets_it(plugin: Plugin) -> None:
    response = await plugin.call("GetSchema", provider_pb2.GetSchemaRequest(version=0))
    assert json.loads(response.schema)["name"] == "tfjobs"
    assert (await plugin.fails("GetSchema", provider_pb2.GetSchemaRequest(version=9))).details()


def test_it_holds_every_input_and_output() -> None:
    resources = schema.package_schema()["resources"]
    for name, resource in resources.items():
        described = [*resource["inputProperties"].values(), *resource["properties"].values()]
        assert all(item.get("description") for item in described)
        if name in CLUSTERS:
            continue
        assert set(resource["inputProperties"]) == set(KEYS)
        assert set(resource["requiredInputs"]) == REQUIRED
        assert set(OUTPUTS) <= set(resource["properties"])
    assert resources["tfjobs:index:TensorFlow"]["isComponent"]
    assert set(KEYS) >= schema.IDENTITY


def test_cluster_components_take_and_give_what_their_classes_do() -> None:
    resources = schema.package_schema()["resources"]
    addons, aks = (resources[f"tfjobs:index:{cls.__name__}"] for cls in (GpuAddons, AksGpuCluster))
    for resource, cls, args, without in (
        (addons, GpuAddons, GpuAddonsArgs, set()),
        # They are of a cluster that is there.
        (aks, AksGpuCluster, AksGpuClusterArgs, {"kubeconfig", "context"}),
    ):
        assert resource["isComponent"]
        assert set(resource["inputProperties"]) == {camel(name) for name in args.__annotations__} - without
        assert set(resource["properties"]) == {camel(name) for name in cls.__annotations__} - {"addons"}
    assert aks["requiredInputs"] == ["pools"]
    assert aks["properties"]["kubeconfig"]["secret"]
    assert addons["inputProperties"]["kubeconfig"]["secret"]
    assert addons["properties"]["target"]["$ref"] == "#/types/tfjobs:index:KubernetesTarget"
    pool = schema.package_schema()["types"]["tfjobs:index:NodePool"]
    assert pool["required"] == ["name", "vmSize"]
    assert pool["properties"]["minCount"]["type"] == "integer"
    assert pool["properties"]["spot"]["type"] == "boolean"


def test_every_reference_leads_somewhere() -> None:
    data = schema.package_schema()
    types = {f"#/types/{token}" for token in data["types"]}
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            found.update(item for key, item in value.items() if key == "$ref")
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(data)
    assert {reference for reference in found if reference.startswith("#")} == types


def test_versions_agree() -> None:
    found = {version(), pulumi_tfjobs.__version__, importlib.metadata.version("pulumi-tfjobs")}
    assert found == {schema.package_schema()["version"]}
