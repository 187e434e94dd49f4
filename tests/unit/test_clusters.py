"""The cluster components: what they register, against Pulumi's mocks and the real typed SDKs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pulumi
import pytest
from pulumi.runtime._callbacks import _CallbackServicer

import pulumi_tfjobs as tfjobs
from pulumi_tfjobs.sdk.clusters import access
from pulumi_tfjobs.sdk.clusters.taking import InvalidComponent
from pulumi_tfjobs.spec import pins
from tests.helpers.mocked_cluster import KUBECONFIG, SUBSCRIPTION, Cloud, run, secret

NODE = "Standard_NC24ads_A100_v4"
TEAMS: dict[str, Any] = {
    "namespaces": [tfjobs.JobNamespace("vision"), tfjobs.JobNamespace("speech")],
    "flavors": [tfjobs.Flavor("a100", node_labels={"pool": "a100"}), tfjobs.Flavor("t4")],
    "queues": [
        tfjobs.Queue("vision", [tfjobs.Quota("a100", gpus=8)], namespaces=["vision"], cohort="research"),
        tfjobs.Queue(
            "speech",
            [tfjobs.Quota("t4", gpus=4, cpu="32"), tfjobs.Quota("a100", gpus=8, borrowing_limit=4)],
            namespaces=["speech"],
            cohort="research",
        ),
    ],
}
POOLS = [
    tfjobs.NodePool("a100", NODE, max_count=4),
    tfjobs.NodePool("cheap", "Standard_NC4as_T4_v3", max_count=8, spot=True, max_price=0.4),
    tfjobs.NodePool("ps", "Standard_D8s_v5", min_count=1, max_count=2),
]


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def addons(cloud: Cloud, *, preview: bool = False, opts: Callable[[], Any] = lambda: None, **args: Any) -> Any:
    """What ``target`` is, once resolved."""

    def program() -> Any:
        return pulumi.Output.from_input(tfjobs.GpuAddons("gpu", opts=opts(), **args).target.to_inputs())

    return run(cloud, program, preview=preview)


def aks(cloud: Cloud, **args: Any) -> Any:
    """The component's outputs, once resolved."""

    def program() -> Any:
        return pulumi.Output.from_input(dict(tfjobs.AksGpuCluster("train", **{"pools": POOLS, **args}).outputs()))

    return run(cloud, program)


# GpuAddons


def test_a_cluster_gets_all_that_a_job_needs_in_pinned_versions(cloud: Cloud) -> None:
    addons(cloud)
    plugin = cloud.inputs("gpu-device-plugin")
    assert (plugin["chart"], plugin["version"]) == (pins.NVIDIA_CHART, pins.NVIDIA_DEVICE_PLUGIN)
    assert plugin["repositoryOpts"] == {"repo": pins.NVIDIA_CHARTS}
    files = {name: inputs["file"] for name, inputs in cloud.of("ConfigFile").items()}
    assert files == {"gpu-jobset": pins.jobset_manifest(), "gpu-kueue": pins.kueue_manifest()}
    assert pins.JOBSET in files["gpu-jobset"]
    assert cloud.of("Directory") == {}, "Kubeflow's operators are for those who ask"
    space = cloud.inputs("gpu-tfjobs-namespace")["metadata"]
    assert space["labels"]["pod-security.kubernetes.io/enforce"] == "baseline"


def test_what_is_there_already_is_not_installed(cloud: Cloud) -> None:
    addons(
        cloud,
        device_plugin=False,
        jobset=tfjobs.Addon(manifest="./mirror/jobset.yaml"),
        kueue={"enabled": False},
        kubeflow=tfjobs.Kubeflow(mpi_operator=True),
        namespaces=[tfjobs.JobNamespace("there", create=False)],
    )
    assert cloud.of("Release") == {}
    assert cloud.of("Namespace") == {}
    files = {name: inputs["file"] for name, inputs in cloud.of("ConfigFile").items()}
    assert files == {"gpu-jobset": "./mirror/jobset.yaml", "gpu-mpi-operator": pins.mpi_operator_manifest()}


def test_values_of_the_device_plugin_are_merged_over_ours(cloud: Cloud) -> None:
    plugin = tfjobs.DevicePlugin(
        node_labels={"gpu": "yes"},
        tolerations=[{"key": "mine", "operator": "Exists"}],
        values={"gfd": {"enabled": True}},
    )
    addons(cloud, device_plugin=plugin)
    values = cloud.inputs("gpu-device-plugin")["values"]
    terms = values["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["yes"]}]}]
    assert {"key": "mine", "operator": "Exists"} in values["tolerations"]
    assert {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"} in values["tolerations"]
    assert values["gfd"] == {"enabled": True}


def test_queues_have_quotas_by_team_and_cohort(cloud: Cloud) -> None:
    addons(cloud, **TEAMS)
    spec = cloud.inputs("gpu-speech-queue")["spec"]
    assert spec["cohort"] == "research"
    assert spec["preemption"]["reclaimWithinCohort"] == "Any"
    (group,) = spec["resourceGroups"]
    assert group["coveredResources"] == ["cpu", "memory", "nvidia.com/gpu"]
    t4, a100 = group["flavors"]
    assert [flavor["name"] for flavor in (t4, a100)] == ["t4", "a100"], "flavors are tried in the order that was given"
    assert t4["resources"][0] == {"name": "cpu", "nominalQuota": "32"}
    assert a100["resources"][2] == {"name": "nvidia.com/gpu", "nominalQuota": "8", "borrowingLimit": "4"}
    (only,) = spec["namespaceSelector"]["matchExpressions"]
    assert only == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["speech"]}
    locals_ = {
        (item["metadata"]["namespace"], item["spec"]["clusterQueue"]) for item in cloud.of("LocalQueue").values()
    }
    assert locals_ == {("vision", "vision"), ("speech", "speech")}


def test_slices_of_gpus_have_quotas_of_their_own(cloud: Cloud) -> None:
    quotas = [tfjobs.Quota("t4", gpus=2), tfjobs.Quota("a100", gpus=7, gpu_resource="nvidia.com/mig-1g.10gb")]
    addons(cloud, flavors=TEAMS["flavors"], queues=[tfjobs.Queue("all", quotas)])
    (group,) = cloud.inputs("gpu-all-queue")["spec"]["resourceGroups"]
    # Kueue: every flavor of a group lists all that the group covers.
    assert [[r["name"] for r in f["resources"]] for f in group["flavors"]] == [group["coveredResources"]] * 2
    found = {f["name"]: {r["name"]: r["nominalQuota"] for r in f["resources"]} for f in group["flavors"]}
    assert found["t4"]["nvidia.com/mig-1g.10gb"] == "0"
    assert found["a100"]["nvidia.com/mig-1g.10gb"] == "7"


def test_permissions_are_what_a_run_needs_and_no_more(cloud: Cloud) -> None:
    submitters = [
        tfjobs.Subject("ada"),
        tfjobs.Subject("ml", type="Group"),
        tfjobs.Subject("ci", type="ServiceAccount"),
    ]
    addons(cloud, namespaces=[tfjobs.JobNamespace("vision", submitters=submitters), tfjobs.JobNamespace("speech")])
    granted = {
        (group, resource, verb)
        for name in ("gpu-vision-submitter", "gpu-submitter")
        for rule in cloud.inputs(name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    needed = {(item.api_group, item.resource, verb) for item in access.permissions() for verb in item.verbs}
    assert granted == needed
    assert not any("*" in part for item in granted for part in item)
    for rule in cloud.inputs("gpu-submitter")["rules"]:
        assert set(rule["verbs"]) <= {"get", "list", "watch"}, "nothing outside the namespaces is changed"
    bound = cloud.inputs("gpu-vision-submitters")["subjects"]
    assert [(item["kind"], item["name"]) for item in bound] == [
        ("ServiceAccount", "tfjobs-submitter"),
        ("User", "ada"),
        ("Group", "ml"),
        ("ServiceAccount", "ci"),
    ]
    assert [item["name"] for item in cloud.inputs("gpu-speech-submitters")["subjects"]] == ["tfjobs-submitter"]
    account = cloud.inputs("gpu-vision-account")
    assert account["automountServiceAccountToken"] is False, "a training script has no business with the API"
    names = {
        item["name"] for name in ("gpu-vision-submitters", "gpu-submitters") for item in cloud.inputs(name)["subjects"]
    }
    assert account["metadata"]["name"] not in names


def test_the_target_goes_straight_into_a_job(cloud: Cloud) -> None:
    found = addons(
        cloud,
        kubeconfig=KUBECONFIG,
        context="prod",
        storage=tfjobs.SharedStorage(storage_class="nfs"),
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        node_selector={"zone": "1"},
        target=tfjobs.KubernetesTarget(image="example.org/train:1", hourly_price=2.5, namespace=None),
        **TEAMS,
    )
    assert found == {
        "kind": "kubernetes",
        "name": "gpu",
        "kubeconfig": KUBECONFIG,
        "context": "prod",
        "namespace": "vision",
        "queue": "vision",
        "serviceAccount": "tfjobs",
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "nodeSelector": {"zone": "1"},
        "storage": {"claim": "tfjobs-runs"},
        "image": "example.org/train:1",
        "hourlyPrice": 2.5,
    }
    claim = cloud.inputs("gpu-vision-storage")["spec"]
    assert (claim["accessModes"], claim["storageClassName"]) == (["ReadWriteMany"], "nfs")


def test_a_job_on_the_target_waits_for_what_it_needs_and_keeps_the_secret(cloud: Cloud) -> None:
    def program() -> Any:
        made = tfjobs.GpuAddons("gpu", kubeconfig=KUBECONFIG, **TEAMS)
        job = tfjobs.TensorFlow("job", source_directory="s", entry_script="t", compute_target=made.target_for("speech"))
        return job.job.urn

    run(cloud, program)
    order = list(cloud.registered)
    at = order.index("tfjobs:index:TrainingJob::job")
    for name in ("kueue.x-k8s.io/v1beta1:LocalQueue::gpu-speech-speech-queue", "v1:Role::gpu-speech-submitter"):
        (needed,) = [key for key in order if key.endswith(name)]
        assert order.index(needed) < at
    target = cloud.named("job").inputs["computeTarget"]
    assert secret(target), "the kubeconfig is no clear text in state"
    (provider,) = [item for item in cloud.registered.values() if item.typ == "pulumi:providers:kubernetes"]
    assert secret(provider.inputs["kubeconfig"])


@pytest.mark.parametrize(
    ("args", "needed"),
    [
        ({}, {"gpu-jobset", "gpu-kueue"}),
        ({"kubeflow": tfjobs.Kubeflow(training_operator=True)}, {"gpu-jobset", "gpu-kueue", "gpu-training-operator"}),
        ({"kubeflow": {"mpiOperator": True}, "jobset": False}, {"gpu-kueue", "gpu-mpi-operator"}),
        ({"namespaces": [tfjobs.JobNamespace("there", create=False)], "kueue": False}, {"gpu-jobset"}),
    ],
)
def test_a_job_waits_for_all_controllers_and_goes_before_them(
    cloud: Cloud, args: dict[str, Any], needed: set[str]
) -> None:
    """Without a queue too: Kueue's webhook is asked about every JobSet as soon as it is registered."""

    def program() -> Any:
        made = tfjobs.GpuAddons("gpu", **args)
        tfjobs.TensorFlow("job", source_directory="s", entry_script="t", compute_target=made.target)

    run(cloud, program)
    installed = set(cloud.of("ConfigFile")) | set(cloud.of("Directory"))
    assert installed == needed
    assert needed <= cloud.needs("job")


def test_what_is_installed_is_waited_for(cloud: Cloud) -> None:
    """pulumi-kubernetes waits for Deployments and for Services to have endpoints, unless it is told not to."""
    addons(cloud, kubeflow={"trainingOperator": True})
    for inputs in (*cloud.of("ConfigFile").values(), *cloud.of("Directory").values()):
        assert not inputs.get("skipAwait")


def test_before_the_first_deployment_a_preview_does_not_ask_an_unprepared_cluster(
    cloud: Cloud, monkeypatch: Any
) -> None:
    made = cloud.new_resource

    def not_there_yet(args: Any) -> tuple[str, dict[str, Any]]:
        return "", made(args)[1]

    monkeypatch.setattr(cloud, "new_resource", not_there_yet)
    seen: list[Any] = []

    def program() -> Any:
        target = tfjobs.GpuAddons("gpu").target
        pulumi.Output.from_input(target.namespace).apply(seen.append)
        return target.service_account

    assert run(cloud, program, preview=True) == "tfjobs"
    assert seen == []


def test_names_do_not_depend_on_an_order(cloud: Cloud) -> None:
    addons(cloud, **TEAMS)
    other = Cloud()
    addons(other, **{key: list(reversed(value)) for key, value in TEAMS.items()})
    assert set(other.registered) == set(cloud.registered)
    for key, found in cloud.registered.items():
        assert other.registered[key].inputs == found.inputs, key


def test_two_in_one_program_do_not_clash(cloud: Cloud) -> None:
    # The mock refuses a type and name that it has.
    with pytest.raises(AssertionError, match="registered twice"):
        run(Cloud(), lambda: [tfjobs.GpuAddons("one"), tfjobs.GpuAddons("one")])

    def distinct() -> Any:
        tfjobs.GpuAddons("one", **TEAMS)
        tfjobs.GpuAddons("two", **TEAMS)
        tfjobs.AksGpuCluster("three", pools=POOLS)
        tfjobs.AksGpuCluster("four", pools=POOLS)

    run(cloud, distinct)
    roles = {item["metadata"]["name"] for item in cloud.of("ClusterRole").values()}
    assert len(roles) == 4, "what belongs to no namespace has the component's name"


def test_transformations_reach_every_child(cloud: Cloud) -> None:
    seen: set[str] = set()

    def labelled(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        seen.add(args.type_)
        if args.type_ == "kubernetes:core/v1:Namespace":
            changed = {**args.props, "metadata": {**args.props["metadata"], "annotations": {"team": "ml"}}}
            return pulumi.ResourceTransformationResult(changed, args.opts)
        return None

    def options() -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(transformations=[labelled])

    def program() -> Any:
        tfjobs.AksGpuCluster("train", pools=POOLS, opts=options())

    run(cloud, program)
    assert seen == {item.typ for item in cloud.registered.values()}
    assert cloud.inputs("train-tfjobs-namespace")["metadata"]["annotations"] == {"team": "ml"}


def test_the_engine_is_told_of_transforms(cloud: Cloud) -> None:
    """``transforms`` are run by the engine, for a component and all whose parent it is."""
    addons(cloud, opts=lambda: pulumi.ResourceOptions(transforms=[lambda args: None]))
    component = cloud.registered["tfjobs:index:GpuAddons::gpu"]
    assert len(component.transforms) == 1
    assert _CallbackServicer._servicers == [], "a server is left, which fails when Python exits"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"kubeflow": tfjobs.Kubeflow(training_operator=True, mpi_operator=True)}, ["MPIJob can have one owner"]),
        ({"kueues": True}, ["kueues: there is no such argument", "did you mean kueue?"]),
        (
            {"namespaces": [{"name": "A b"}, {"nam": "x"}]},
            ["namespaces[0].name", "namespaces[1].nam: ", "namespaces[1].name"],
        ),
        ({"namespaces": []}, ["at least one JobNamespace"]),
        (
            {"queues": [tfjobs.Queue("q", [tfjobs.Quota("nothing", borrowing_limit=1)], namespaces=["x"])]},
            ['no flavor "nothing"', "no cohort", 'no namespace "x"'],
        ),
        ({"flavors": [tfjobs.Flavor("a"), tfjobs.Flavor("a")]}, ['flavors[1].name: "a" is taken']),
        ({"jobset": "v1"}, ['jobset: "v1"']),
    ],
)
def test_everything_that_is_wrong_is_said_at_once(cloud: Cloud, args: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InvalidComponent) as caught:
        addons(cloud, **args)
    assert isinstance(caught.value, pulumi.RunError), "Pulumi shows it without a traceback"
    for words in said:
        assert words in str(caught.value)
    assert cloud.registered == {}, "nothing is registered before it is known to be right"


def test_maps_of_yaml_are_the_same_as_typed_values(cloud: Cloud) -> None:
    typed = addons(cloud, storage=tfjobs.SharedStorage(storage_class="nfs"), **TEAMS)
    other = Cloud()
    written = {
        "namespaces": [{"name": "vision"}, {"name": "speech"}],
        "flavors": [{"name": "a100", "nodeLabels": {"pool": "a100"}}, {"name": "t4"}],
        "queues": [
            {
                "name": "vision",
                "quotas": [{"flavor": "a100", "gpus": 8}],
                "namespaces": ["vision"],
                "cohort": "research",
            },
            {
                "name": "speech",
                "quotas": [
                    {"flavor": "t4", "gpus": 4, "cpu": "32"},
                    {"flavor": "a100", "gpus": 8, "borrowingLimit": 4},
                ],
                "namespaces": ["speech"],
                "cohort": "research",
            },
        ],
        "storage": {"storageClass": "nfs"},
    }
    assert addons(other, **written) == typed
    assert {key: item.inputs for key, item in other.registered.items()} == {
        key: item.inputs for key, item in cloud.registered.items()
    }


# AksGpuCluster


def test_gpu_pools_grow_from_0_and_keep_others_out(cloud: Cloud) -> None:
    aks(cloud)
    pool = cloud.inputs("train-a100")
    assert pool["enableAutoScaling"] is True
    assert (pool["minCount"], pool["maxCount"], pool["count"]) == (0, 4, 0)
    assert (pool["agentPoolName"], pool["mode"], pool["vmSize"]) == ("a100", "User", NODE)
    assert pool["nodeTaints"] == ["sku=gpu:NoSchedule"]
    assert pool["nodeLabels"]["tfjobs.pulumi.com/gpu"] == "true"
    assert "scaleSetPriority" not in pool
    system = cloud.of("ManagedCluster")["train"]["agentPoolProfiles"]
    assert [(item["mode"], item["minCount"], item["maxCount"]) for item in system] == [("System", 1, 3)]
    plain = cloud.inputs("train-ps")
    assert plain["nodeTaints"] == []
    assert (plain["minCount"], plain["maxCount"]) == (1, 2)


def test_spot_pools_are_tainted_priced_and_evicted(cloud: Cloud) -> None:
    target = aks(cloud)["target"]
    pool = cloud.inputs("train-cheap")
    assert (pool["scaleSetPriority"], pool["scaleSetEvictionPolicy"], pool["spotMaxPrice"]) == ("Spot", "Delete", 0.4)
    assert "kubernetes.azure.com/scalesetpriority=spot:NoSchedule" in pool["nodeTaints"]
    assert pool["nodeLabels"]["kubernetes.azure.com/scalesetpriority"] == "spot"
    tolerated = {item["key"] for item in target["tolerations"]}
    assert tolerated == {"sku", "kubernetes.azure.com/scalesetpriority"}
    plugin = cloud.inputs("train-device-plugin")["values"]["tolerations"]
    assert tolerated <= {item["key"] for item in plugin}


def test_the_default_queue_is_all_that_pools_can_grow_to(cloud: Cloud) -> None:
    assert aks(cloud)["target"]["queue"] == "default"
    (group,) = cloud.inputs("train-default-queue")["spec"]["resourceGroups"]
    gpus = {item["name"]: item["resources"][2]["nominalQuota"] for item in group["flavors"]}
    assert gpus == {"a100": "4", "cheap": "8", "ps": "0"}
    assert list(gpus) == ["ps", "a100", "cheap"], "what needs no GPU takes none; spot is tried last"
    flavor = cloud.inputs("train-cheap-flavor")["spec"]
    assert flavor["nodeLabels"] == {"tfjobs.pulumi.com/pool": "cheap"}
    assert cloud.inputs("train-cheap")["nodeLabels"]["tfjobs.pulumi.com/pool"] == "cheap"


def test_identities_take_the_place_of_passwords(cloud: Cloud) -> None:
    outputs = aks(cloud)
    cluster = cloud.of("ManagedCluster")["train"]
    assert cluster["oidcIssuerProfile"] == {"enabled": True}
    assert cluster["securityProfile"]["workloadIdentity"] == {"enabled": True}
    assert cluster["identity"] == {"type": "UserAssigned", "userAssignedIdentities": ["/azure/train-control-plane"]}
    credential = cloud.inputs("train-jobs-tfjobs")
    assert credential["subject"] == "system:serviceaccount:tfjobs:tfjobs"
    assert credential["issuer"] == "https://issuer/"
    annotations = cloud.inputs("train-tfjobs-account")["metadata"]["annotations"]
    assert annotations == {"azure.workload.identity/client-id": "train-jobs-client"}
    assert outputs["target"]["podLabels"] == {"azure.workload.identity/use": "true"}
    roles = cloud.of("RoleAssignment")
    pull, network = roles["train-pull"], roles["train-network"]
    registry = next(iter(cloud.of("Registry")))
    assert pull["principalId"] == "kubelet-object"
    assert pull["scope"] == f"/azure/{registry}", "on the registry, not on the group"
    assert pull["roleDefinitionId"].startswith(f"/subscriptions/{SUBSCRIPTION}/providers/")
    assert network["scope"] == "/azure/train-nodes"
    assert network["principalId"] == "train-control-plane-principal"
    assert len({item["roleAssignmentName"] for item in roles.values()}) == len(roles)
    assert cloud.inputs(registry)["adminUserEnabled"] is False


def test_assignments_of_roles_keep_their_names(cloud: Cloud) -> None:
    aks(cloud)
    again = Cloud()
    aks(again, pools=list(reversed(POOLS)))
    assert again.of("RoleAssignment") == cloud.of("RoleAssignment")
    assert set(again.registered) == set(cloud.registered)


@pytest.mark.parametrize("kind", ["files", "blob"])
def test_runs_are_kept_in_a_share_of_their_namespace(cloud: Cloud, kind: str) -> None:
    spaces = [tfjobs.JobNamespace("vision"), tfjobs.JobNamespace("speech")]
    outputs = aks(cloud, run_storage=tfjobs.RunStorage(type=kind, size="2048Gi"), namespaces=spaces)  # type: ignore[arg-type]
    assert outputs["target"]["storage"] == {"claim": "tfjobs-runs"}
    volume = cloud.inputs("train-speech-volume")["spec"]
    claim = cloud.inputs("train-speech-storage")["spec"]
    assert claim["volumeName"] == cloud.inputs("train-speech-volume")["metadata"]["name"]
    assert (claim["storageClassName"], claim["accessModes"]) == ("", ["ReadWriteMany"])
    assert volume["persistentVolumeReclaimPolicy"] == "Retain"
    other = cloud.inputs("train-vision-volume")["spec"]["csi"]
    assert volume["csi"]["volumeHandle"] != other["volumeHandle"]
    (account,) = cloud.of("StorageAccount").values()
    if kind == "files":
        assert volume["csi"]["driver"] == "file.csi.azure.com"
        assert volume["csi"]["volumeAttributes"]["shareName"] == "runs-speech"
        assert {item["shareQuota"] for item in cloud.of("FileShare").values()} == {2048}
        key = cloud.named("train-speech-storage-key")
        assert cloud.inputs(key.name)["metadata"]["namespace"] == "kube-system", "out of the jobs' reach"
        assert secret(key.inputs["stringData"])
    else:
        assert volume["csi"]["volumeAttributes"]["AzureStorageIdentityClientID"] == "kubelet-client"
        assert account["allowSharedKeyAccess"] is False
        assert cloud.of("Secret") == {}
        assert {"train-kubelet-blobs", "train-jobs-blobs"} <= set(cloud.of("RoleAssignment"))
        assert cloud.of("ManagedCluster")["train"]["storageProfile"]["blobCSIDriver"] == {"enabled": True}
    assert account["allowBlobPublicAccess"] is False


def test_the_kubeconfig_is_a_secret_wherever_it_goes(cloud: Cloud) -> None:
    def program() -> Any:
        made = tfjobs.AksGpuCluster("train", pools=POOLS)
        job = tfjobs.TensorFlow("job", source_directory="s", entry_script="t", compute_target=made.target)
        return pulumi.Output.all(job.job.urn, made.kubeconfig.is_secret(), made.kubeconfig)

    _, marked, kubeconfig = run(cloud, program)
    assert (marked, kubeconfig) == (True, KUBECONFIG)
    assert secret(cloud.named("job").inputs["computeTarget"])
    (provider,) = [item for item in cloud.registered.values() if item.typ == "pulumi:providers:kubernetes"]
    assert secret(provider.inputs["kubeconfig"])


def test_a_target_for_one_pool(cloud: Cloud) -> None:
    def program() -> Any:
        made = tfjobs.AksGpuCluster("train", pools=POOLS)
        return pulumi.Output.from_input(made.target_for(pool="a100", image="i").to_inputs())

    found = run(cloud, program)
    assert found["nodeSelector"] == {"tfjobs.pulumi.com/pool": "a100"}
    assert [item["key"] for item in found["tolerations"]] == ["sku"], "no spot VM for it"
    assert found["image"] == "i"


def test_logs_of_the_control_plane_and_where_it_may_be_reached_from(cloud: Cloud) -> None:
    outputs = aks(
        cloud,
        network=tfjobs.Network(authorized_ips=["203.0.113.0/24"]),
        logs=tfjobs.Logs(containers=True, daily_gb=1.0),
        admin_groups=["group-id"],
    )
    setting = cloud.inputs("train-diagnostics")
    assert setting["workspaceId"] == outputs["logWorkspaceId"] == "/azure/train-logs"
    assert setting["resourceUri"] == "/azure/train"
    assert {"kube-audit-admin", "cluster-autoscaler"} <= {item["category"] for item in setting["logs"]}
    assert cloud.inputs("train-logs")["workspaceCapping"] == {"dailyQuotaGb": 1}
    cluster = cloud.of("ManagedCluster")["train"]
    assert cluster["addonProfiles"]["omsagent"]["config"]["logAnalyticsWorkspaceResourceID"] == "/azure/train-logs"
    assert cluster["apiServerAccessProfile"]["authorizedIPRanges"] == ["203.0.113.0/24"]
    assert cluster["disableLocalAccounts"] is True
    assert cluster["kubernetesVersion"] == pins.KUBERNETES


def test_everything_beside_the_cluster_can_be_left_out_or_brought(cloud: Cloud) -> None:
    outputs = aks(
        cloud,
        resource_group_name="there",
        network={"subnetId": "/mine/subnet"},
        registry=tfjobs.ContainerRegistry(registry_id="/mine/registry"),
        run_storage=False,
        logs=False,
        kubernetes_version="1.34",
        addons=False,
    )
    kinds = {item.typ.rpartition(":")[2] for item in cloud.registered.values()}
    assert not kinds & {"ResourceGroup", "VirtualNetwork", "Registry", "StorageAccount", "Workspace", "GpuAddons"}
    assert cloud.of("ManagedCluster")["train"]["resourceGroupName"] == "there"
    assert cloud.inputs("train-pull")["scope"] == "/mine/registry"
    assert cloud.inputs("train-a100")["vnetSubnetID"] == "/mine/subnet"
    assert cloud.of("ManagedCluster")["train"]["kubernetesVersion"] == "1.34"
    assert outputs["target"]["kubeconfig"] == KUBECONFIG


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"pools": []}, ["at least one NodePool"]),
        ({"pools": None}, ["pools: not given"]),
        ({"pools": [tfjobs.NodePool("A-100", NODE)]}, ["at most 12, a letter first"]),
        ({"pools": [tfjobs.NodePool("x", "Standard_NZ9_v9")]}, ["how many GPUs Standard_NZ9_v9 has"]),
        ({"pools": [tfjobs.NodePool("x", NODE, min_count=3, max_count=2)]}, ["pools[0].max_count: 2", "at least 3"]),
        ({"pools": [tfjobs.NodePool("x", NODE, taints=["x"])], "kubeconfig": "y"}, ["taints[0]", "kubeconfig: given"]),
        (
            {"system_pool": {"minCount": 0}, "run_storage": {"size": "1T"}},
            ["system_pool.min_count", "run_storage.size"],
        ),
        ({"kubeflow": {"trainingOperator": True, "mpiOperator": True}}, ["one owner"]),
    ],
)
def test_what_azure_would_refuse_after_minutes_is_refused_at_once(
    cloud: Cloud, args: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(InvalidComponent) as caught:
        aks(cloud, **args)
    for words in said:
        assert words in str(caught.value)
    assert cloud.registered == {}


def test_pools_that_are_known_only_after_deploying_are_refused_in_words(cloud: Cloud) -> None:
    def program() -> Any:
        tfjobs.AksGpuCluster("train", pools=pulumi.Output.from_input(POOLS))  # type: ignore[arg-type]

    with pytest.raises(InvalidComponent, match="known only after deploying"):
        run(cloud, program)


# Imports


def test_the_big_sdks_are_loaded_by_those_alone_who_make_a_cluster() -> None:
    program = (
        "import sys, pulumi_tfjobs as t\n"
        "t.GpuAddons, t.AksGpuCluster, t.NodePool('a', 'Standard_NC4as_T4_v3'), t.KubernetesTarget()\n"
        "print(sorted({'pulumi_kubernetes', 'pulumi_azure_native', 'kubernetes'} & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["[]"]


@pytest.mark.parametrize("missing", ["pulumi_kubernetes", "pulumi_azure_native"])
def test_a_missing_extra_is_named(cloud: Cloud, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(pulumi.RunError, match=r'pip install "pulumi-tfjobs\[clusters\]"'):
        aks(cloud) if missing == "pulumi_azure_native" else addons(cloud)


def test_targets_of_components_can_be_changed_like_any(cloud: Cloud) -> None:
    def program() -> Any:
        target = tfjobs.GpuAddons("gpu").target
        return pulumi.Output.from_input(replace(target, image="i", engine="kubeflow").to_inputs())

    assert run(cloud, program)["engine"] == "kubeflow"
