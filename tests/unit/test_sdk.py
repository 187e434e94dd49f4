"""What a program writes becomes what the provider takes, and what the provider answers becomes outputs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks, rpc
from pulumi.runtime.stack import wait_for_rpcs

import pulumi_tfjobs as tfjobs
from pulumi_tfjobs.sdk.outputs import OUTPUTS, camel
from pulumi_tfjobs.sdk.resources import job_inputs
from pulumi_tfjobs.sdk.types import JobArgs
from pulumi_tfjobs.spec.args import KEYS, parse_args

DEADLINE = 20.0
ANSWER: dict[str, Any] = {
    "runId": "mnist-1a2b3c4d5e6f",
    "digest": "1a2b3c4d5e6f",
    "status": "succeeded",
    "reason": "",
    "attempt": 2,
    "exitCode": 0,
    "startedAt": "2024-01-01T00:00:00Z",
    "finishedAt": "2024-01-01T00:01:00Z",
    "durationSeconds": 60.5,
    "metrics": {"accuracy": 0.97, "loss": "nan"},
    "outputsDir": "/runs/outputs",
    "checkpointsDir": "/runs/checkpoints",
    "logs": {"worker-0": "/runs/worker-0.log"},
    "tfConfig": {"worker-0": "{}"},
    "hostfile": "localhost slots=2",
    "worldSize": 2,
    "restarts": 1,
    "worldSizes": [{"time": "2024-01-01T00:00:00Z", "size": 2}],
}


class Engine(pulumi.runtime.Mocks):
    """Keeps what is registered, and answers as the provider would."""

    def __init__(self) -> None:
        self.registered: dict[str, mocks.MockResourceArgs] = {}

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.registered[args.typ] = args
        return f"local/default/{args.name}", {**args.inputs, **ANSWER} if args.custom else {}

    def call(self, args: mocks.MockCallArgs) -> dict[str, Any]:
        raise AssertionError(f"nothing is asked of the provider, and {args.token} was")

    @property
    def job(self) -> mocks.MockResourceArgs:
        return self.registered["tfjobs:index:TrainingJob"]

    @property
    def inputs(self) -> dict[str, Any]:
        return {key: plain(value) for key, value in self.job.inputs.items()}


def plain(value: Any) -> Any:
    """The value without the wire's marks of secrets."""
    if isinstance(value, dict) and rpc._special_sig_key in value:
        return plain(value["value"])
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def engine() -> Engine:
    return Engine()


def run(engine: Engine, program: Callable[[], Any], *, preview: bool = False) -> Any:
    """Run a program as Pulumi does, and wait until everything is registered; what its output resolves to."""

    loops: list[asyncio.AbstractEventLoop] = []

    def own_loop() -> None:
        # Pulumi's mocks make one for each thread that has none, and never close it.
        loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(loops[-1])

    async def whole() -> Any:
        asyncio.get_running_loop().set_default_executor(threads)
        pulumi.runtime.settings.reset_options()
        pulumi.runtime.set_mocks(engine, preview=preview)
        output = pulumi.Output.from_input(program())
        await wait_for_rpcs()
        return await output.future()

    with ThreadPoolExecutor(4, initializer=own_loop) as threads:
        try:
            return asyncio.run(asyncio.wait_for(whole(), DEADLINE))
        finally:
            for loop in loops:
                loop.close()


# What goes to the provider

EVERY_ARGUMENT: dict[str, tuple[Any, Any]] = {
    "source_directory": ("./src", "./src"),
    "entry_script": ("train.py", "train.py"),
    "script_params": (
        {"--flag": None, "--empty": "", "--epochs": 3, "--rates": [0.1, 0.2], "--shuffle": True},
        {"--flag": "", "--empty": "", "--epochs": 3, "--rates": [0.1, 0.2], "--shuffle": True},
    ),
    "arguments": (["a", 2], ["a", 2]),
    "compute_target": (
        tfjobs.LocalTarget("here", slots=4, gpus="auto", store="team"),
        {"kind": "local", "name": "here", "slots": 4, "gpus": "auto", "store": "team"},
    ),
    "distribution": (
        tfjobs.Horovod(nodes=2, processes_per_node=3, controller="mpi"),
        {"kind": "horovod", "nodes": 2, "processesPerNode": 3, "controller": "mpi"},
    ),
    "node_count": (2, 2),
    "process_count_per_node": (3, 3),
    "worker_count": (4, 4),
    "parameter_server_count": (5, 5),
    "distributed_backend": ("mpi", "mpi"),
    "use_gpu": (False, False),
    "pip_packages": (["numpy<2"], ["numpy<2"]),
    "conda_packages": (["scipy"], ["scipy"]),
    "framework_version": ("2.15.1", "2.15.1"),
    "python_version": ("3.11", "3.11"),
    "user_managed": (True, True),
    "interpreter_path": ("/usr/bin/python3", "/usr/bin/python3"),
    "environment_variables": ({"snake_case": "kept"}, {"snake_case": "kept"}),
    "inputs": ({"train_data": "./data"}, {"train_data": "./data"}),
    "max_run_duration_seconds": (1.5, 1.5),
    "stop_grace_seconds": (0, 0),
    "retries": (2, 2),
    "retry_on": (["any", "3"], ["any", "3"]),
    "retry_backoff_seconds": (1.5, 1.5),
    "parameter_server_restarts": (1, 1),
    "priority": (-1, -1),
    "max_log_bytes": (65536, 65536),
    "wait_for": ("running", "running"),
    "on_cancel": ("stop", "stop"),
    "delete_artifacts": (True, True),
    "success_policy": ("all_workers", "all_workers"),
    "rerun": ("again", "again"),
    "resume_from": ("mnist-0123456789ab", "mnist-0123456789ab"),
    "reuse": (False, False),
    "source_digest": ("code", "code"),
    "tags": ({"team": "a"}, {"team": "a"}),
    "name": ("mnist", "mnist"),
}


def test_every_argument_arrives_under_its_name_on_the_wire(engine: Engine) -> None:
    given = {name: value for name, (value, _) in EVERY_ARGUMENT.items()}
    run(engine, lambda: tfjobs.TensorFlow("job", **given).run_id)
    assert engine.inputs == {camel(name): expected for name, (_, expected) in EVERY_ARGUMENT.items()}


def test_the_sdk_knows_exactly_the_arguments_of_the_provider() -> None:
    assert {camel(name) for name in JobArgs.__annotations__} == set(KEYS)
    assert set(EVERY_ARGUMENT) == set(JobArgs.__annotations__)


@pytest.mark.parametrize(
    ("distribution", "wire"),
    [
        (tfjobs.Single(), {"kind": "single"}),
        (tfjobs.Horovod(), {"kind": "horovod", "nodes": 1, "processesPerNode": 1}),
        (tfjobs.MultiWorker(3, chief=True), {"kind": "multiWorker", "workers": 3, "chief": True}),
        (
            tfjobs.ParameterServer(workers=2, parameter_servers=3, chief=False, evaluator=True),
            {"kind": "parameterServer", "workers": 2, "parameterServers": 3, "chief": False, "evaluator": True},
        ),
    ],
)
def test_typed_distributions_are_what_the_provider_takes(distribution: Any, wire: dict[str, Any]) -> None:
    inputs = job_inputs({"source_directory": "s", "entry_script": "t.py", "distribution": distribution})
    assert inputs["distribution"] == wire
    args, problems = parse_args(inputs)
    assert problems == []
    assert args is not None
    assert args.distribution is not None
    assert args.distribution.kind == wire["kind"]


def job(**arguments: Any) -> Callable[[], Any]:
    """A program with one job; ``arguments`` may be functions, for outputs exist only while a program runs."""

    def program() -> Any:
        given = {name: value() if callable(value) else value for name, value in arguments.items()}
        return tfjobs.TensorFlow("job", **{"source_directory": "s", "entry_script": "t", **given}).run_id

    return program


def later(value: Any) -> pulumi.Output[Any]:
    return pulumi.Output.from_input(value)


def test_plain_maps_are_taken_as_well_as_typed_values(engine: Engine) -> None:
    run(engine, job(compute_target={"kind": "local"}, distribution={"kind": "single"}))
    assert engine.inputs["computeTarget"] == {"kind": "local"}
    assert engine.inputs["distribution"] == {"kind": "single"}


def test_what_is_not_given_is_not_sent(engine: Engine) -> None:
    run(engine, job(distributed_backend=None))
    assert engine.inputs == {"sourceDirectory": "s", "entryScript": "t"}


def test_outputs_of_other_resources_are_inputs(engine: Engine) -> None:
    program = job(
        source_directory=lambda: later("s"),
        worker_count=lambda: later(2),
        script_params=lambda: later({"--flag": None, "--lr": 0.5}),
        compute_target=lambda: tfjobs.LocalTarget(slots=later(3)),
        arguments=lambda: [later("x")],
    )
    run(engine, program)
    assert engine.inputs["scriptParams"] == {"--flag": "", "--lr": 0.5}
    assert engine.inputs["computeTarget"]["slots"] == 3
    assert engine.inputs["workerCount"] == 2
    assert engine.inputs["arguments"] == ["x"]


def test_a_flag_whose_value_turns_out_to_be_none_is_not_lost(engine: Engine) -> None:
    run(engine, job(script_params=lambda: {"--a": later(None), "--b": later(1)}))
    assert engine.inputs["scriptParams"] == {"--a": "", "--b": 1}


def test_a_secret_variable_is_marked_on_the_wire(engine: Engine) -> None:
    run(engine, job(environment_variables=lambda: {"KEY": pulumi.Output.secret("hush"), "OTHER": "x"}))
    assert engine.inputs["environmentVariables"] == {"KEY": "hush", "OTHER": "x"}
    marked = engine.job.inputs["environmentVariables"]
    marks = [item[rpc._special_sig_key] for item in (marked, *marked.values()) if rpc._special_sig_key in item]
    assert marks == [rpc._special_secret_sig]


# Component and resource


def test_the_component_holds_one_job_of_the_same_name(engine: Engine) -> None:
    job = run(engine, lambda: tfjobs.TensorFlow("mnist", source_directory="s", entry_script="t").job.urn)
    assert set(engine.registered) == {"tfjobs:index:TensorFlow", "tfjobs:index:TrainingJob"}
    assert engine.job.name == "mnist"
    assert job.endswith("tfjobs:index:TensorFlow$tfjobs:index:TrainingJob::mnist")


def test_options_that_mean_the_job_reach_it() -> None:
    opts = pulumi.ResourceOptions(
        custom_timeouts=pulumi.CustomTimeouts(create="2h"), ignore_changes=["tags"], retain_on_delete=True,
        additional_secret_outputs=["metrics"],
    )  # fmt: skip
    from pulumi_tfjobs.sdk.components import _child_options

    class Parent(pulumi.ComponentResource):
        def __init__(self) -> None:
            """Registers nothing."""

    child = _child_options(Parent(), opts)
    assert child.custom_timeouts is not None
    assert child.custom_timeouts.create == "2h"
    assert (child.ignore_changes, child.retain_on_delete, child.additional_secret_outputs) == (
        ["tags"],
        True,
        ["metrics"],
    )
    assert isinstance(child.parent, Parent)
    assert _child_options(Parent(), None).retain_on_delete is None


@pytest.mark.parametrize("kind", [tfjobs.TensorFlow, tfjobs.TrainingJob])
def test_every_output_arrives_with_its_type(engine: Engine, kind: Any) -> None:
    def program() -> pulumi.Output[Any]:
        job = kind("mnist", source_directory="s", entry_script="t")
        return pulumi.Output.all(**{camel(name): getattr(job, name) for name in OUTPUTS})

    found = run(engine, program)
    assert found == ANSWER
    assert {name for name in OUTPUTS if isinstance(found[camel(name)], int)} == {
        "attempt",
        "exit_code",
        "world_size",
        "restarts",
    }


def test_a_metric_can_be_used_by_its_tag(engine: Engine) -> None:
    def program() -> Any:
        return tfjobs.TensorFlow("mnist", source_directory="s", entry_script="t").metrics["accuracy"]

    accuracy = run(engine, program)
    assert accuracy == 0.97


def test_in_a_preview_unknown_inputs_and_outputs_stay_unknown(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown_until_up(args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        engine.registered[args.typ] = args
        return "", dict(args.inputs)

    monkeypatch.setattr(engine, "new_resource", unknown_until_up)
    seen: list[Any] = []

    def program() -> pulumi.Output[Any]:
        unknown = pulumi.Output.from_input(pulumi.output.UNKNOWN)
        job = tfjobs.TensorFlow(
            "mnist", source_directory="s", entry_script="t", script_params={"--lr": unknown, "--epochs": 3}, rerun="x"
        )
        job.metrics["accuracy"].apply(seen.append)
        return job.job.urn

    run(engine, program, preview=True)
    assert seen == []
    assert engine.inputs["scriptParams"]["--epochs"] == 3
    assert isinstance(engine.inputs["scriptParams"]["--lr"], pulumi.output.Unknown)
    assert engine.inputs["rerun"] == "x"


# The package


def test_the_package_and_its_plain_modules_load_without_pulumi() -> None:
    program = (
        "import sys, pulumi_tfjobs\n"
        "import pulumi_tfjobs.spec.state, pulumi_tfjobs.targets.folder, pulumi_tfjobs.errors\n"
        "print(sorted({'pulumi', 'grpc', 'pydantic', 'tensorboard'} & set(sys.modules)))\n"
        "pulumi_tfjobs.Horovod\n"
        "print('pulumi' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["[]", "True"]


def test_every_public_name_can_be_had_and_no_other() -> None:
    for name in tfjobs.__all__:
        assert getattr(tfjobs, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Tensorflow'"):
        _ = tfjobs.Tensorflow  # type: ignore[attr-defined]


def test_a_kubernetes_target_goes_to_the_provider_with_all_that_is_in_it() -> None:
    target = tfjobs.KubernetesTarget(
        "prod",
        context="gpu-cluster",
        image="example.org/train:1",
        node_selector={"pool_name": "a100"},
        tolerations=[{"key": "sku", "operator": "Exists"}],
        volumes=[tfjobs.Volume("/data", claim="corpus", read_only=True), {"mountPath": "/tmp/x", "emptyDir": {}}],
        storage=tfjobs.Storage(claim="runs", url="s3://bucket/runs"),
        ttl_seconds_after_finished=0,
    )
    assert target.to_inputs() == {
        "kind": "kubernetes",
        "name": "prod",
        "context": "gpu-cluster",
        "image": "example.org/train:1",
        "nodeSelector": {"pool_name": "a100"},
        "tolerations": [{"key": "sku", "operator": "Exists"}],
        "volumes": [
            {"mountPath": "/data", "claim": "corpus", "readOnly": True},
            {"mountPath": "/tmp/x", "emptyDir": {}},
        ],
        "storage": {"claim": "runs", "url": "s3://bucket/runs"},
        "ttlSecondsAfterFinished": 0,
    }
