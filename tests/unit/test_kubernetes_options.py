"""A Kubernetes target's options: what is taken, what is refused with what to do, and what is never written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pulumi_tfjobs.targets.kubernetes.options import Options, check_options
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget

IMAGE = {"image": "example.org/train:1"}
KUBECONFIG = "apiVersion: v1\nkind: Config\nusers: [{name: me, user: {token: s3cret-token}}]\n"
PLENTY = {
    **IMAGE,
    "kubeconfig": "/home/me/.kube/config",
    "namespace": "training",
    "imagePullSecrets": ["registry"],
    "nodeSelector": {"example.com/pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "cpu": 4,
    "memory": "16Gi",
    "volumes": [
        {"mountPath": "/data", "claim": "images", "readOnly": True, "subPath": "2024"},
        {"mountPath": "/scratch", "emptyDir": {"sizeLimit": "10Gi"}},
        {"mountPath": "/bucket", "csi": {"driver": "blob.csi.azure.com", "volumeAttributes": {"containerName": "a"}}},
    ],
    "storage": {"nfs": {"server": "nfs.example.org", "path": "/runs"}, "path": "team-a", "url": "s3://bucket/runs/"},
    "ttlSecondsAfterFinished": 0,
    "slots": 8.0,
}


def problems_of(options: dict[str, Any]) -> dict[str, str]:
    """Path → what was found and what to do."""
    _, problems = check_options({**IMAGE, **options})
    found = {item.path: f"{item.found}; {item.expected}; {item.fix}" for item in problems}
    assert len(found) == len(problems), problems
    return found


def test_options_survive_being_written_and_read() -> None:
    found, problems = check_options({"kind": "kubernetes", **PLENTY})
    assert problems == []
    options = Options.from_json(json.loads(json.dumps(found)))
    assert Options.from_json(options.to_json()) == options
    assert (options.cpu, options.memory, options.slots, options.ttl_seconds_after_finished) == ("4", "16Gi", 8, 0)
    assert options.volumes[0].source == {"persistentVolumeClaim": {"claimName": "images"}}
    assert options.storage is not None
    assert (options.storage.source["nfs"]["path"], options.storage.url) == ("/runs", "s3://bucket/runs")


def test_defaults() -> None:
    options = Options.from_json(check_options(IMAGE)[0])
    assert (options.engine, options.store, options.python, options.gpu_resource, options.max_preemptions) == (
        "jobset",
        "kubernetes",
        "python3",
        "nvidia.com/gpu",
        3,
    )
    assert options.ttl_seconds_after_finished is None


@pytest.mark.parametrize(
    "kubeconfig",
    [
        KUBECONFIG,
        {"users": [{"user": {"token": "s3cret-token"}}]},
        '{"users": [{"user": {"token": "s3cret-token"}}]}',  # as json.dumps makes it: no line end in it
    ],
)
def test_a_kubeconfigs_content_is_written_nowhere(kubeconfig: Any) -> None:
    found, problems = check_options({**IMAGE, "kubeconfig": kubeconfig})
    assert problems == []
    options = Options.from_json(found)
    assert options.credentials["kubeconfig"] == kubeconfig
    assert "s3cret" not in json.dumps(options.to_json())
    assert "s3cret" not in repr(options)
    again = Options.from_json({**options.to_json(), **options.credentials})
    assert again.credentials == options.credentials


def test_wrong_credentials_are_not_repeated() -> None:
    _, problems = check_options(
        {
            **IMAGE,
            "kubeconfig": ["s3cret-token"],
            "storage": {"claim": "runs", "url": "s3://key:s3cret-key@bucket/runs"},
        }
    )
    assert {item.path for item in problems} == {"kubeconfig", "storage.url"}
    assert "s3cret" not in str(problems)


def test_all_problems_are_told_at_once_and_each_once() -> None:
    found = problems_of(
        {
            "image": 3,
            "memori": "16Gi",
            "memory": "16 GB",
            "slots": 0,
            "engine": "slurm",
            "nodeSelector": {"tfjobs.pulumi.com/run": "mine"},
            "volumes": [{"mountPath": "data", "claim": "images"}],
            "storage": {"claim": "runs", "url": "https://account.example.org/runs?sig=1"},
            "workloadPriority": "high",
        }
    )
    assert set(found) == {
        "image",
        "memori",
        "memory",
        "slots",
        "engine",
        "nodeSelector",
        "volumes[0].mountPath",
        "storage.url",
        "workloadPriority",
    }
    assert "write memory" in found["memori"]
    assert "16Gi" in found["memory"]
    assert "jobset" in found["engine"]


@pytest.mark.parametrize(
    ("options", "path", "words"),
    [
        ({"image": None}, "image", "it is missing"),
        ({"volumes": [{"mountPath": "/d", "hostPath": "/"}]}, "volumes[0].hostPath", "allowHostPath: true"),
        ({"storage": {"hostPath": "/runs"}}, "storage.hostPath", "allowHostPath: true"),
        ({"volumes": [{"mountPath": "/d"}]}, "volumes[0]", "nothing says what it is"),
        ({"volumes": [{"mountPath": "/d", "claim": "a", "secret": "b"}]}, "volumes[0]", "claim and secret"),
        (
            {"volumes": [{"mountPath": "/tfjobs/run", "claim": "a"}]},
            "volumes[0].mountPath",
            "which the job itself uses",
        ),
        ({"volumes": [{"claim": "a"}]}, "volumes[0].mountPath", "it is missing"),
        ({"storage": {"claim": "a", "path": "../up"}}, "storage.path", "without .."),
        ({"inCluster": True, "context": "kind"}, "inCluster", "one way to the cluster"),
        ({"engine": "kubeflow", "exclusiveTopology": "zone"}, "exclusiveTopology", "engine jobset"),
        (
            {"podTemplatePatch": {"spec": {"containers": [{"image": "a"}]}}},
            "podTemplatePatch.spec.containers[0].name",
            'say name: "training"',
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], path: str, words: str) -> None:
    found = problems_of(options)
    assert list(found) == [path]
    assert words in found[path]


def test_a_host_path_where_it_is_allowed() -> None:
    assert problems_of({"allowHostPath": True, "volumes": [{"mountPath": "/d", "hostPath": "/data"}]}) == {}


def test_the_image_of_a_patch_is_the_targets() -> None:
    patch = {"spec": {"containers": [{"name": "sidecar", "image": "b"}, {"name": "training", "image": "patched:2"}]}}
    found, problems = check_options({"podTemplatePatch": patch})
    assert problems == []
    assert Options.from_json(found).image == "patched:2"


CLUSTERS = """
apiVersion: v1
kind: Config
current-context: a
clusters:
- {name: one, cluster: {server: "https://one.example:6443"}}
- {name: two, cluster: {server: "https://two.example:6443"}}
contexts:
- {name: a, context: {cluster: one, user: me}}
- {name: b, context: {cluster: two, user: me}}
users: [{name: me, user: {token: s3cret-token}}]
"""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kubeconfig": CLUSTERS}, ["https://one.example:6443", "a"]),
        ({"kubeconfig": CLUSTERS, "context": "b"}, ["https://two.example:6443", "b"]),
        ({"kubeconfig": KUBECONFIG, "context": "b"}, ["given", "b"]),
        ({"kubeconfig": "- no\n- map\n"}, ["given"]),
        ({"kubeconfig": "/home/me/config", "context": "b"}, ["/home/me/config", "b"]),
        ({"inCluster": True}, ["its own"]),
        ({}, ["default"]),
    ],
)
def test_a_target_says_which_cluster_it_leads_to(options: dict[str, Any], named: list[str]) -> None:
    given = {**IMAGE, **options, "namespace": "team"}
    place = KubernetesTarget.from_options(given).place
    assert place.split() == ["kubernetes", *" ".join(named).split(), "team"]
