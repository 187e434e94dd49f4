"""The policy pack, asked as the policy SDK asks it: pass, fail, configured, disabled, and values that are not known."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf import struct_pb2
from pulumi.runtime import proto
from pulumi.runtime.proto import analyzer_pb2_grpc
from pulumi_policy import (
    EnforcementLevel,
    PolicyCustomTimeouts,
    PolicyResource,
    PolicyResourceOptions,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UNKNOWN_NUMBER_VALUE, UNKNOWN_STRING_VALUE, UnknownValueError, unknown_checking_proxy

from pulumi_tfjobs import policies as pack
from pulumi_tfjobs.policies import packing
from pulumi_tfjobs.policies.catalogue import JOB_RULES, STACK_RULES
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets.base import Capabilities
from tests.helpers.fake_target import FakeTarget, World
from tests.helpers.jobs import URN, Job

TYPE = "tfjobs:index:TrainingJob"
JOB = {"sourceDirectory": "src", "entryScript": "train.py"}
OPTIONS = PolicyResourceOptions(
    protect=False,
    ignore_changes=[],
    delete_before_replace=None,
    aliases=[],
    custom_timeouts=PolicyCustomTimeouts(0, 0, 0),
    additional_secret_outputs=[],
)
POLICIES = {policy.name: policy for policy in packing.policies()}


class Said(NamedTuple):
    """What a policy reported, and (a warning, whatever its level) what it could not tell."""

    violations: list[str]
    untold: str = ""
    urns: tuple[str | None, ...] = ()


def ask(policy: Any, args: Any) -> Said:
    found: list[str] = []
    urns: list[str | None] = []

    def report(message: str, urn: str | None = None) -> None:
        found.append(message)
        urns.append(urn)

    try:
        policy.validate(args, report)
    except UnknownValueError as error:
        return Said(found, error.message, tuple(urns))
    return Said(found, "", tuple(urns))


def judge(name: str, inputs: Mapping[str, Any], *, kind: str = TYPE, **config: Any) -> Said:
    """What the policy says of a job with these inputs."""
    policy = POLICIES[name]
    assert isinstance(policy, ResourceValidationPolicy)
    props = unknown_checking_proxy({**JOB, **inputs})
    return ask(policy, ResourceValidationArgs(kind, props, URN, "mnist", OPTIONS, None, config))


def judge_stack(name: str, *resources: tuple[str, Mapping[str, Any]], **config: Any) -> Said:
    """What the policy says of a stack of these jobs (name, what the preview has of them)."""
    policy = POLICIES[name]
    assert isinstance(policy, StackValidationPolicy)
    found = [
        PolicyResource(
            str(props.get("__type", TYPE)),
            unknown_checking_proxy({**JOB, "status": UNKNOWN_STRING_VALUE, **props}),
            f"urn:{resource}",
            resource,
            OPTIONS,
            None,
            None,
            [],
            {},
        )
        for resource, props in resources
    ]
    return ask(policy, StackValidationArgs(found, config))


# The pack


def test_every_rule_is_there_with_its_settings() -> None:
    assert list(POLICIES) == [
        "gpu-hours-per-job",
        "gpu-hours-per-stack",
        "slot-hours-per-job",
        "slot-hours-per-stack",
        "price-per-job",
        "price-per-stack",
        "spot-needs-checkpoints",
        "distributed-needs-workers",
        "parameter-servers-sane",
        "no-latest-images",
        "no-secrets-in-params",
        "allowed-targets",
    ]
    for policy in POLICIES.values():
        assert policy.config_schema is not None
        assert policy.config_schema.properties["unknown"]["enum"] == ["allow", "warn", "deny"]
        assert policy.enforcement_level in {EnforcementLevel.ADVISORY, EnforcementLevel.MANDATORY}


@pytest.mark.parametrize("rule", [rule.name for rule in JOB_RULES])
def test_an_ordinary_job_and_other_resources_pass(rule: str) -> None:
    assert judge(rule, {"scriptParams": {"--epochs": 3.0}}) == Said([])
    # The component has the same inputs in some languages; the job inside it counts.
    guilty = {"distributedBackend": "mpi", "scriptParams": {"--password": "correct-horse"}}
    assert judge(rule, guilty, kind="tfjobs:index:TensorFlow", kinds=[]) == Said([])


# Shapes


@pytest.mark.parametrize(
    ("inputs", "path", "found"),
    [
        ({"distributedBackend": "mpi"}, "nodeCount", "Horovod with 1 × 1 ranks"),
        ({"distribution": {"kind": "horovod"}}, "distribution.nodes", "makes 1 that trains"),
        ({"distributedBackend": "ps"}, "workerCount", "1 worker makes 1"),
        ({"distribution": {"kind": "parameterServer", "chief": True}}, "distribution.workers", "1 worker"),
        ({"distributedBackend": "multi_worker", "nodeCount": 1.0}, "nodeCount", "1 worker"),
        ({"distribution": {"kind": "multiWorker", "workers": 1.0}}, "distribution.workers", "1 worker"),
        ({"distribution": {"kind": "horovod", "maxWorkers": 1.0}}, "distribution.nodes", "elastic job of at most 1"),
    ],
)
def test_a_distributed_job_with_one_worker(inputs: dict[str, Any], path: str, found: str) -> None:
    (violation,) = judge("distributed-needs-workers", inputs).violations
    assert violation.startswith(f"{path}: ")
    assert found in violation
    assert "Expected: at least 2" in violation
    assert judge("distributed-needs-workers", inputs, min=1) == Said([])


@pytest.mark.parametrize(
    "inputs",
    [
        {"distributedBackend": "mpi", "processCountPerNode": 2.0},
        {"distribution": {"kind": "multiWorker", "workers": 1.0, "chief": True}},
        {"distribution": {"kind": "horovod", "nodes": 1.0, "maxWorkers": 4.0}},
        {"distribution": {"kind": "single"}},
        {"distributedBackend": "mpi", "nodeCount": 2.0},
    ],
)
def test_a_distributed_job_with_workers(inputs: dict[str, Any]) -> None:
    assert judge("distributed-needs-workers", inputs) == Said([])


@pytest.mark.parametrize("rule", ["distributed-needs-workers", "parameter-servers-sane"])
@pytest.mark.parametrize(
    ("inputs", "path"),
    [
        ({"distributedBackend": "ps", "workerCount": UNKNOWN_NUMBER_VALUE}, "workerCount"),
        ({"distribution": {"kind": "multiWorker", "workers": UNKNOWN_NUMBER_VALUE}}, "distribution.workers"),
        ({"distribution": UNKNOWN_STRING_VALUE}, "distribution"),
    ],
)
def test_a_size_that_is_not_known(rule: str, inputs: dict[str, Any], path: str) -> None:
    said = judge(rule, inputs)
    assert said == Said([], f"{path} is not known before the update")
    assert judge(rule, inputs, unknown="allow") == Said([])
    (violation,) = judge(rule, inputs, unknown="deny").violations
    assert violation.startswith(f"{path} is not known before the update. Expected: ")


def test_more_parameter_servers_than_workers() -> None:
    flat = {"distributedBackend": "ps", "workerCount": 2.0, "parameterServerCount": 3.0}
    typed = {"distribution": {"kind": "parameterServer", "workers": 2.0, "parameterServers": 3.0}}
    (violation,) = judge("parameter-servers-sane", flat).violations
    assert violation.startswith("parameterServerCount: 3 parameter servers for 2 workers. Expected: at most 1 for each")
    assert "say 2" in violation
    (violation,) = judge("parameter-servers-sane", typed).violations
    assert violation.startswith("distribution.parameterServers: ")
    assert judge("parameter-servers-sane", flat, maxPerWorker=1.5) == Said([])
    assert len(judge("parameter-servers-sane", typed, maxPerWorker=0.5).violations) == 1
    assert judge("parameter-servers-sane", {**flat, "parameterServerCount": 2.0}) == Said([])


@pytest.mark.parametrize(
    ("inputs", "path"),
    [
        ({"distributedBackend": "ps", "parameterServerCount": 0.0}, "parameterServerCount"),
        ({"distribution": {"kind": "parameterServer", "parameterServers": 0.0}}, "distribution.parameterServers"),
    ],
)
def test_no_parameter_server(inputs: dict[str, Any], path: str) -> None:
    (violation,) = judge("parameter-servers-sane", inputs).violations
    assert violation.startswith(f"{path}: it is 0. Expected: at least 1")


# Spot


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ({"kind": "local", "spot": True}, "computeTarget.spot"),
        ({"kind": "aks", "nodePool": {"vmSize": "NC6", "spot": True}}, "computeTarget.nodePool.spot"),
        (
            {"kind": "aks", "nodePools": [{}, {"scaleSetPriority": "Spot"}]},
            "computeTarget.nodePools[1].scaleSetPriority",
        ),
        ({"kind": "azureml", "vmPriority": "low_priority"}, "computeTarget.vmPriority"),
        ({"kind": "gke", "preemptible": True}, "computeTarget.preemptible"),
        (
            {"kind": "kubernetes", "nodeSelector": {"cloud.google.com/gke-spot": "true"}},
            'computeTarget.nodeSelector["cloud.google.com/gke-spot"]',
        ),
        (
            {"kind": "kubernetes", "nodeSelector": {"eks.amazonaws.com/capacityType": "SPOT"}},
            'computeTarget.nodeSelector["eks.amazonaws.com/capacityType"]',
        ),
    ],
)
def test_a_job_on_spot_machines(target: dict[str, Any], path: str) -> None:
    (violation,) = judge("spot-needs-checkpoints", {"computeTarget": target}).violations
    assert violation.startswith(f"retries: it is 0, and {path} says that machines can be taken away")
    assert "TFJOBS_CHECKPOINT_DIR" in violation
    job = {"computeTarget": target, "retries": 1.0}
    assert judge("spot-needs-checkpoints", job) == Said([])
    assert len(judge("spot-needs-checkpoints", job, minRetries=3).violations) == 1
    (violation,) = judge("spot-needs-checkpoints", {**job, "retryOn": ["3"]}).violations
    assert violation.startswith("retryOn: ")
    assert judge("spot-needs-checkpoints", {**job, "retryOn": ["any"]}) == Said([])


def test_what_else_says_spot() -> None:
    plain = {"computeTarget": {"kind": "x", "spot": False, "priority": "Regular", "harvest": True}}
    assert judge("spot-needs-checkpoints", plain) == Said([])
    assert len(judge("spot-needs-checkpoints", plain, properties=["harvest"]).violations) == 1
    unknown = {"computeTarget": {"kind": "x", "spot": UNKNOWN_STRING_VALUE}}
    assert judge("spot-needs-checkpoints", unknown).untold == "computeTarget.spot is not known before the update"
    retries = {"computeTarget": {"kind": "x", "spot": True}, "retries": UNKNOWN_NUMBER_VALUE}
    assert judge("spot-needs-checkpoints", retries) == Said([], "retries is not known before the update")


# Images


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ("tensorflow/tensorflow", "no tag"),
        ("tensorflow/tensorflow:latest", "is :latest"),
        ("tensorflow/tensorflow:latest-gpu", "is :latest-gpu"),
        ("registry.example:5000/team/train", "no tag"),
        ("train:2.15.1", ""),
        ("registry.example:5000/train:2.15.1", ""),
        ("train@sha256:" + "a" * 64, ""),
        ("train:latest@sha256:" + "a" * 64, ""),
    ],
)
def test_images(image: str, found: str) -> None:
    job = {"computeTarget": {"kind": "kubernetes", "pool": {"image": image}}}
    violations = judge("no-latest-images", job).violations
    assert len(violations) == bool(found)
    assert all(text.startswith("computeTarget.pool.image: ") and found in text for text in violations)
    assert len(judge("no-latest-images", job, requireDigest=True).violations) == ("sha256" not in image)


def test_an_image_of_the_environment_and_one_that_is_not_known() -> None:
    job = {"environment": {"baseImage": "train"}, "computeTarget": {"kind": "x", "image": UNKNOWN_STRING_VALUE}}
    said = judge("no-latest-images", job)
    assert [text.split(":")[0] for text in said.violations] == ["environment.baseImage"]
    assert said.untold == "computeTarget.image is not known before the update"


# Secrets

# Made up, and put together here so that nothing takes this file for a leak.
RANDOM = "q7Zx1Vm9" + "Kd2Tw8Lp4Rs6Yb3N"
SECRETS = {
    "an AWS access key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nabc",
    "a JSON web token": "eyJhbGciOiJI." + "eyJzdWIiOiIx.c2ln",
    "an API key of OpenAI or Anthropic": "sk-" + "proj-" + "abcd1234" * 4,
    "a Hugging Face token": "hf_" + "aB3d" * 9,
    "a URL with a password": "https://user:" + "correct-horse@example.com/x",
    "a signed URL": "https://x.blob.example/data?sv=1&sig=" + "abcd1234" * 4,
    "a random key": RANDOM,
}


@pytest.mark.parametrize("what", SECRETS)
@pytest.mark.parametrize("form", ["params", "list", "key", "arguments", "joined"])
def test_values_that_are_secrets(what: str, form: str) -> None:
    value = SECRETS[what]
    inputs: dict[str, dict[str, Any]] = {
        "params": {"scriptParams": {"--data": value}},
        "list": {"scriptParams": {"--data": ["a", value]}},
        "key": {"scriptParams": {f"--data={value}": ""}},
        "arguments": {"arguments": ["--epochs", "3", value]},
        "joined": {"arguments": [f"--data={value}"]},
    }
    (violation,) = judge("no-secrets-in-params", inputs[form]).violations
    assert f"its value looks like {what}" in violation
    assert value not in violation
    assert value[-8:] not in violation
    assert violation.startswith("arguments[" if form in {"arguments", "joined"} else 'scriptParams["--data"]: ')


@pytest.mark.parametrize(
    "flag",
    ["--password", "--api-key", "--hf_token", "--apiKey", "--aws-secret-access-key", "--client_secret", "-token"],
)
def test_names_that_say_secret(flag: str) -> None:
    for inputs in (
        {"scriptParams": {flag: "hunter2-hunter2"}},
        {"arguments": [flag, "hunter2-hunter2"]},
        {"arguments": [f"{flag}=hunter2-hunter2"]},
    ):
        (violation,) = judge("no-secrets-in-params", inputs).violations
        assert "its name says that it is a secret" in violation
        assert "hunter2" not in violation
        assert judge("no-secrets-in-params", inputs, allow=[flag]) == Said([])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--max-tokens", 512.0),
        ("--token", "512"),
        ("--token-type", "wordpiece"),
        ("--token-embedding", "glove"),
        ("--pad-token", "PADDING"),
        ("--mask_token", "[MASK]"),
        ("--token", "</s>"),
        ("--password-file", "/run/secrets/password"),
        ("--tokenizer", "bert-base-uncased"),
        ("--sort-key", "timestamp"),
        ("--key", "label"),
        ("--api-key", ""),
        ("--token", "${{inputs.token}}"),
        ("--model", "EfficientNetV2B0-ImageNet21k-ft1k"),
        ("--preset", "ResNet50V2-CIFAR100-bs256-lr1e-3-SGD"),
        ("--commit", "0123456789abcdef0123456789abcdef01234567"),
        ("--data", "gs://bucket/data/ILSVRC2012/train-00001-of-01024"),
        ("--run", "mnist-1a2b3c4d5e6f"),
        ("--url", "https://example.com/data?version=12"),
    ],
)
def test_what_is_no_secret(flag: str, value: Any) -> None:
    assert judge("no-secrets-in-params", {"scriptParams": {flag: value}}) == Said([])
    assert judge("no-secrets-in-params", {"arguments": [flag, str(value)]}) == Said([])


def test_a_key_that_looks_like_one() -> None:
    (violation,) = judge("no-secrets-in-params", {"scriptParams": {"--wandb-key": "0123456789abcdef" * 2}}).violations
    assert "its name says that it is a secret" in violation


def test_the_rule_on_secrets_as_it_is_configured() -> None:
    job = {"scriptParams": {"--seed-text": RANDOM}}
    assert len(judge("no-secrets-in-params", job).violations) == 1
    assert judge("no-secrets-in-params", job, entropy=0) == Said([])
    assert judge("no-secrets-in-params", job, allow=['scriptParams["--seed-text"]']) == Said([])
    unknown = {
        "scriptParams": {"--rate": UNKNOWN_NUMBER_VALUE},
        "arguments": [UNKNOWN_STRING_VALUE, SECRETS["a GitHub token"]],
    }
    said = judge("no-secrets-in-params", unknown)
    assert [text.split(":")[0] for text in said.violations] == ["arguments[1]"]
    assert 'scriptParams["--rate"] is not known' in said.untold
    assert "arguments[0] is not known" in said.untold


# Targets


@pytest.mark.parametrize("rule", [rule.name for rule in JOB_RULES])
@pytest.mark.parametrize("key", ["distribution", "computeTarget", "scriptParams", "arguments", "retries", "nodeCount"])
def test_wrong_inputs_are_the_providers_to_report(rule: str, key: str) -> None:
    config = {"kinds": ["local"]} if rule == "allowed-targets" else {}
    assert judge(rule, {"computeTarget": {"spot": True}, "retries": 1.0, key: "wrong"}, **config) == Said([])


def test_where_jobs_may_run() -> None:
    local = {"computeTarget": {"kind": "local", "name": "here", "store": "team-a"}}
    assert judge("allowed-targets", local) == Said([])
    assert judge("allowed-targets", local, kinds=["local"], names=["he*"], stores=["team-*"]) == Said([])
    said = judge("allowed-targets", local, kinds=["kubernetes", "azureml"], stores=["prod"])
    assert [text.split(": ")[0] for text in said.violations] == ["computeTarget.kind", "computeTarget.store"]
    assert "it is 'local'. Expected: one of kubernetes, azureml" in said.violations[0]


def test_a_job_that_names_no_target_runs_here() -> None:
    assert judge("allowed-targets", {}, kinds=["local"], names=["here"], stores=["default"]) == Said([])
    (violation,) = judge("allowed-targets", {}, kinds=["kubernetes"]).violations
    assert "'local' (the default)" in violation
    (violation,) = judge("allowed-targets", {"computeTarget": {"kind": "kubernetes"}}, stores=["default"]).violations
    assert "it is ''" in violation


def test_a_target_that_is_not_known() -> None:
    job = {"computeTarget": {"kind": "local", "store": UNKNOWN_STRING_VALUE}}
    assert judge("allowed-targets", job, kinds=["local"]) == Said([])
    assert judge("allowed-targets", job, stores=["a"]).untold == "computeTarget.store is not known before the update"
    assert (
        len(judge("allowed-targets", {"computeTarget": UNKNOWN_STRING_VALUE}, kinds=["a"], unknown="deny").violations)
        == 1
    )


# Budgets

HOUR = 3600.0
FLAT2 = {"distributedBackend": "mpi", "nodeCount": 2.0}


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Each slot of a fake target costs 3 EUR an hour; of a red one nobody knows."""

    def capabilities(target: FakeTarget) -> Capabilities:
        color = target.options["color"]
        price = {"none": (3.0, "EUR"), "green": (3.0, "USD")}.get(color, (None, ""))
        return Capabilities(slots=8, gpus=0, hourly_price=price[0], currency=price[1])

    monkeypatch.setattr(FakeTarget, "capabilities", capabilities)


def ran(job: Job, hours: float, *, status: str = phases.SUCCEEDED, **changes: Any) -> str:
    """A run of the job took so long. Its digest."""
    spec = job.check(**changes)
    job.store.reserve(spec.run_id, spec.digest, spec.name, {}, URN)
    job.store.add_attempt(spec.run_id, 0)
    job.store.set_status(spec.run_id, status, 1000.0 + hours * HOUR, started=1000.0)
    os.makedirs(job.store.folder(spec.run_id).root, exist_ok=True)
    return spec.digest


@pytest.fixture
def job(tmp_path: Any, world: World) -> Job:
    return Job(tmp_path / "program")


def new(**props: Any) -> tuple[str, dict[str, Any]]:
    """A job that the preview says will train: a digest that no run has."""
    return "mnist", {"computeTarget": {"kind": "fake"}, "digest": "f" * 64, **props}


def test_without_a_limit_budgets_say_nothing(world: World) -> None:
    for rule in STACK_RULES:
        assert judge_stack(rule.name, new()) == Said([])


def test_hours_are_estimated_from_earlier_runs(job: Job) -> None:
    for index, hours in enumerate((1.0, 3.0, 2.0)):
        ran(job, hours, arguments=[str(index)])
    said = judge_stack("slot-hours-per-job", new(**FLAT2), max=3.5)
    assert said.urns == ("urn:mnist",)
    assert "mnist takes about 4.00 slot-hours (2 slots for 2 h, the median of 3 runs)" in said.violations[0]
    assert "Expected: at most 3.50 slot-hours a job (`max` of slot-hours-per-job)" in said.violations[0]
    assert judge_stack("slot-hours-per-job", new(**FLAT2), max=4) == Said([])
    # Jobs with GPUs count for the one, those without for the other.
    assert judge_stack("gpu-hours-per-job", new(**FLAT2), max=3.5) == Said([])
    assert len(judge_stack("gpu-hours-per-job", new(useGpu=True, **FLAT2), max=3.5).violations) == 1
    assert judge_stack("slot-hours-per-job", new(useGpu=True, **FLAT2), max=3.5) == Said([])


def test_the_time_limit_is_the_bound_where_no_run_tells(job: Job) -> None:
    limited = new(maxRunDurationSeconds=2 * HOUR, **FLAT2)
    (violation,) = judge_stack("slot-hours-per-job", limited, max=3).violations
    assert violation.startswith("maxRunDurationSeconds: mnist takes up to 4.00 slot-hours")
    ran(job, 1.0)
    assert judge_stack("slot-hours-per-job", limited, max=3) == Said([])
    ran(job, 9.0, arguments=["x"])
    assert "up to 4.00" in judge_stack("slot-hours-per-job", limited, max=3).violations[0]  # less than the median


def test_how_long_it_takes_is_not_known(world: World) -> None:
    for rule in ("slot-hours-per-job", "slot-hours-per-stack", "price-per-job"):
        said = judge_stack(rule, new(), max=1)
        assert said.violations == []
        assert "no run of it has finished yet, and it has no maxRunDurationSeconds" in said.untold
        assert judge_stack(rule, new(), max=1, unknown="allow") == Said([])
        assert len(judge_stack(rule, new(), max=1, unknown="deny").violations) == 1


@pytest.mark.parametrize(
    "props",
    [
        {"computeTarget": UNKNOWN_STRING_VALUE},
        {"distributedBackend": "mpi", "nodeCount": UNKNOWN_NUMBER_VALUE},
        {"useGpu": UNKNOWN_STRING_VALUE},
    ],
)
def test_what_it_needs_is_not_known(job: Job, props: dict[str, Any]) -> None:
    ran(job, 1.0)
    for rule in ("slot-hours-per-stack", "gpu-hours-per-job"):
        said = judge_stack(rule, new(**{"useGpu": rule.startswith("gpu"), **props}), max=100)
        assert said.violations == []
        assert "is not known before the update" in said.untold


def test_a_learning_rate_that_is_not_known_may_train(job: Job) -> None:
    ran(job, 2.0)
    unknown = new(digest=UNKNOWN_STRING_VALUE, scriptParams={"--rate": UNKNOWN_NUMBER_VALUE})
    assert len(judge_stack("slot-hours-per-job", unknown, max=1).violations) == 1


def test_reused_unchanged_and_living_runs_cost_nothing(job: Job, world: World) -> None:
    digest = ran(job, 2.0)
    assert judge_stack("slot-hours-per-stack", new(digest=digest), max=1) == Said([])
    # Unchanged: the state's status is known, also where the store has forgotten the run.
    assert judge_stack("slot-hours-per-stack", new(status="succeeded"), max=1) == Said([])
    running = ran(job, 2.0, status=phases.RUNNING, arguments=["x"])
    assert judge_stack("slot-hours-per-stack", new(digest=running), max=1) == Said([])
    failed = ran(job, 2.0, status=phases.FAILED, arguments=["y"])
    assert len(judge_stack("slot-hours-per-stack", new(digest=failed), max=1).violations) == 1


def test_a_stack_is_all_that_it_starts_and_nothing_twice(job: Job) -> None:
    ran(job, 2.0)
    again = ("same", {**new()[1], "name": "mnist"})
    other = ("other", {**new(digest="e" * 64)[1], "name": "mnist"})
    component = ("mnist", {**new()[1], "__type": "tfjobs:index:TensorFlow"})
    assert judge_stack("slot-hours-per-stack", new(), again, component, max=2) == Said([])
    said = judge_stack("slot-hours-per-stack", new(), again, component, other, max=3)
    assert said.urns == (None,)
    assert "this update takes about 4.00 slot-hours: mnist 2.00 slot-hours, other 2.00 slot-hours" in said.violations[0]
    # What is not known does not hide what is.
    said = judge_stack("slot-hours-per-stack", new(), other, ("new", new(digest="d" * 64)[1]), max=3)
    assert len(said.violations) == 1
    assert said.untold.startswith("what new takes is not known")


@pytest.mark.usefixtures("priced")
def test_prices(job: Job) -> None:
    ran(job, 2.0)
    (violation,) = judge_stack("price-per-job", new(), max=5).violations
    assert "mnist takes about 6.00 EUR (1 slot for 2 h, the run before)" in violation
    assert "at most 5.00 EUR a job" in violation
    assert judge_stack("price-per-job", new(), max=6, currency="EUR") == Said([])
    assert "its price is in EUR, not in USD" in judge_stack("price-per-job", new(), max=6, currency="USD").untold
    red = {"computeTarget": {"kind": "fake", "color": "red"}}
    assert "no hourlyPrice" in judge_stack("price-per-job", new(**red), max=6).untold
    assert judge_stack("price-per-job", new(**red, status="succeeded"), max=6) == Said([])


@pytest.mark.usefixtures("priced")
def test_prices_of_a_stack(job: Job) -> None:
    ran(job, 2.0)
    other = ("other", {**new(digest="e" * 64)[1], "name": "mnist"})
    (violation,) = judge_stack("price-per-stack", new(), other, max=10).violations
    assert "this update takes about 12.00 EUR" in violation
    dollars = (other[0], {**other[1], "computeTarget": {"kind": "fake", "color": "green"}})
    said = judge_stack("price-per-stack", new(), dollars, max=10)
    assert said == Said([], "prices in EUR and USD cannot be added. Set `currency` of price-per-stack")


def test_a_target_that_does_not_answer(job: Job, world: World) -> None:
    digest = ran(job, 2.0, status=phases.RUNNING)
    world.unavailable = True
    said = judge_stack("slot-hours-per-job", new(digest=digest), max=1)
    assert said.violations == []
    assert "could not be read (the fake target does not answer)" in said.untold


# As the engine runs it


def test_the_pack_is_served_and_heeds_the_engines_settings() -> None:
    folder = os.path.dirname(pack.__file__)
    with open(os.path.join(folder, "PulumiPolicy.yaml"), encoding="utf-8") as stream:
        assert "\nruntime: tfjobs\n" in stream.read()
    program = "from pulumi_tfjobs.policies.analyzer import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "127.0.0.1:1", "."], cwd=folder, stdout=subprocess.PIPE
    ) as served:
        try:
            assert served.stdout is not None
            port = int(served.stdout.readline())
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                analyzer = analyzer_pb2_grpc.AnalyzerStub(channel)
                _levels_as_configured(analyzer)
        finally:
            served.terminate()


def test_without_the_policy_sdk_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['pulumi_policy'] = None; from pulumi_tfjobs.policies import analyzer; analyzer.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "The policy pack needs the package pulumi-policy. To fix: pip install 'pulumi-tfjobs[policy]'\n"
    )


def _levels_as_configured(analyzer: Any) -> None:
    properties = struct_pb2.Struct()
    properties.update({**JOB, "distributedBackend": "mpi", "scriptParams": {"--token": "correct-horse"}})

    def levels() -> dict[str, int]:
        request = proto.AnalyzeRequest(type=TYPE, urn=URN, name="mnist", properties=properties)
        return {item.policyName: item.enforcementLevel for item in analyzer.Analyze(request).diagnostics}

    assert levels() == {"distributed-needs-workers": proto.ADVISORY, "no-secrets-in-params": proto.MANDATORY}
    strict = proto.PolicyConfig(enforcementLevel=proto.MANDATORY)
    disabled = proto.PolicyConfig(enforcementLevel=proto.DISABLED)
    configured = {"distributed-needs-workers": strict, "no-secrets-in-params": disabled}
    analyzer.Configure(proto.ConfigureAnalyzerRequest(policyConfig=configured))
    assert levels() == {"distributed-needs-workers": proto.MANDATORY}
