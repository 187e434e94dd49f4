"""A resource's life as the engine asks for it, over real gRPC."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import grpc
import pytest

from pulumi_tfjobs.errors import EnvironmentBuildFailed, InputProblem, RunNotFound, TargetUnavailable
from pulumi_tfjobs.provider import training_job, wire
from pulumi_tfjobs.provider.comparing import OUTPUTS
from pulumi_tfjobs.provider.protos import plugin_pb2, provider_pb2
from pulumi_tfjobs.provider.wire import UNKNOWN, OutputValue, Secret
from tests.provider.conftest import INPUTS, URN, Plugin, init_failure
from tests.provider.fakes import DEADLINE, FakeChange

DIFF = provider_pb2.DiffResponse
KIND = provider_pb2.PropertyDiff


async def test_a_whole_life(plugin: Plugin) -> None:
    inputs = await plugin.checked({**INPUTS, "scriptParams": {"--epochs": 3}})
    assert wire.decode(inputs)["source"] == {"train.py": "00000000./src"[-12:]}
    created = await plugin.create(inputs)
    outputs = wire.decode(created.properties)
    assert created.id == f"local/default/{outputs['runId']}"
    assert (outputs["status"], outputs["metrics"], outputs["worldSize"]) == ("succeeded", {"accuracy": 0.97}, 1)
    assert outputs["scriptParams"] == {"--epochs": 3}

    unchanged = await plugin.call(
        "Diff",
        provider_pb2.DiffRequest(id=created.id, urn=URN, olds=created.properties, old_inputs=inputs, news=inputs),
    )
    assert unchanged.changes == DIFF.DIFF_NONE
    assert plugin.differ.asked[-1]["new_digest"] == plugin.differ.asked[-1]["old_digest"] == outputs["digest"]

    tagged = await plugin.checked({**INPUTS, "scriptParams": {"--epochs": 3}, "tags": {"team": "a"}})
    updated = await plugin.call(
        "Update",
        provider_pb2.UpdateRequest(id=created.id, urn=URN, olds=created.properties, news=tagged, old_inputs=inputs),
    )
    assert wire.decode(updated.properties)["tags"] == {"team": "a"}
    assert wire.decode(updated.properties)["attempt"] == 1

    read = await plugin.call(
        "Read", provider_pb2.ReadRequest(id=created.id, urn=URN, properties=updated.properties, inputs=tagged)
    )
    assert read.id == created.id
    assert read.inputs == tagged
    assert wire.decode(read.properties) == wire.decode(updated.properties)

    await plugin.call("Configure", provider_pb2.ConfigureRequest())  # another update
    await plugin.call(
        "Delete",
        provider_pb2.DeleteRequest(id=created.id, urn=URN, properties=updated.properties, old_inputs=tagged),
    )
    assert plugin.lifecycle.deleted == [created.id]
    assert "succeeded" in plugin.engine.rows()


async def test_every_problem_is_a_failure_with_its_path(plugin: Plugin) -> None:
    plugin.lifecycle.problems = [
        InputProblem("nodeCount", "it is -1", "at least 1", "give 1 or more"),
        InputProblem('scriptParams["--lr"]', "it is a map", "a scalar", "write a number"),
    ]
    response = await plugin.check({**INPUTS, "nodeCount": -1})
    assert [(failure.property, failure.reason) for failure in response.failures] == [
        ("nodeCount", "it is -1. Expected: at least 1. To fix: give 1 or more"),
        ('scriptParams["--lr"]', "it is a map. Expected: a scalar. To fix: write a number"),
    ]


async def test_a_computed_source_that_comes_back_is_computed_anew(plugin: Plugin) -> None:
    response = await plugin.check({**INPUTS, "source": {"train.py": "old"}})
    assert "source" not in plugin.lifecycle.checks[-1]["inputs"]
    assert wire.decode(response.inputs)["source"] == {"train.py": "00000000./src"[-12:]}


async def test_a_preview_creates_nothing_and_says_what_would_be(plugin: Plugin) -> None:
    inputs = await plugin.checked(INPUTS)
    response = await plugin.create(inputs, preview=True)
    outputs = wire.decode(response.properties)
    assert response.id == ""
    assert plugin.lifecycle.ensured == []
    assert plugin.lifecycle.runs == {}
    assert outputs["runId"].startswith("mnist-")
    assert len(outputs["digest"]) == 64
    assert all(outputs[name] is UNKNOWN for name in OUTPUTS if name not in ("runId", "digest"))
    (said,) = plugin.engine.logged
    assert (said.message, said.urn) == ("mnist  train  a new job", URN)


async def test_unknown_secret_and_depending_inputs_keep_what_they_are(plugin: Plugin) -> None:
    inputs = {
        **INPUTS,
        "scriptParams": {"--lr": UNKNOWN, "--epochs": OutputValue(3, dependencies=("urn:x",))},
        "environmentVariables": {"TOKEN": Secret("hush"), "PLAIN": "a"},
        "pipPackages": ["a", UNKNOWN],
        "tags": Secret({"team": UNKNOWN}),
    }
    checked = await plugin.checked(inputs)
    asked = plugin.lifecycle.checks[-1]
    assert asked["unknown"] == {'scriptParams["--lr"]', "pipPackages", "tags.team"}
    assert asked["secret"] == {"environmentVariables.TOKEN", "tags", "tags.team"}
    assert asked["inputs"] == {
        **INPUTS,
        "scriptParams": {"--epochs": 3},
        "environmentVariables": {"TOKEN": "hush", "PLAIN": "a"},
        "tags": {},
    }
    assert wire.decode(checked) == {**inputs, "source": {"train.py": "00000000./src"[-12:]}}
    outputs = wire.decode((await plugin.create(checked, preview=True)).properties)
    assert outputs["environmentVariables"]["TOKEN"] == Secret("hush")
    assert outputs["scriptParams"]["--lr"] is UNKNOWN
    assert outputs["runId"] is UNKNOWN


async def test_secrets_reach_the_run_and_no_record(plugin: Plugin) -> None:
    inputs = await plugin.checked(
        {**INPUTS, "arguments": ["a", Secret("hush")], "environmentVariables": {"TOKEN": Secret("hush"), "PLAIN": "a"}}
    )
    created = await plugin.create(inputs)
    ensured = plugin.lifecycle.ensured[0]
    assert ensured["secrets"] == {"TOKEN": "hush"}
    assert "hush" not in str(ensured["inputs"])
    assert ensured["inputs"]["environmentVariables"] == {"PLAIN": "a"}
    assert ensured["inputs"]["arguments"] == ["a", "[secret]"]
    outputs = wire.decode(created.properties)
    assert outputs["environmentVariables"]["TOKEN"] == Secret("hush")
    assert outputs["arguments"] == ["a", Secret("hush")]


async def test_the_diff_names_each_property_and_what_it_means(plugin: Plugin) -> None:
    inputs = await plugin.checked(INPUTS)
    created = await plugin.create(inputs)
    plugin.differ.changes = [
        FakeChange('scriptParams["--learning-rate"]', "update", "retrain"),
        FakeChange('source["train.py"]', "add", "retrain"),
        FakeChange("tags.team", "delete", "metadata"),
        FakeChange("computeTarget", "update", "nothing"),
    ]
    news = await plugin.checked({**INPUTS, "scriptParams": {"--learning-rate": 0.1}})
    request = provider_pb2.DiffRequest(id=created.id, urn=URN, olds=created.properties, old_inputs=inputs, news=news)
    response = await plugin.call("Diff", request)
    assert response.changes == DIFF.DIFF_SOME
    assert response.hasDetailedDiff
    assert not response.deleteBeforeReplace
    assert {path: (entry.kind, entry.inputDiff) for path, entry in response.detailedDiff.items()} == {
        'scriptParams["--learning-rate"]': (KIND.UPDATE_REPLACE, True),
        'source["train.py"]': (KIND.ADD_REPLACE, True),
        "tags.team": (KIND.DELETE, True),
    }
    assert list(response.replaces) == ["scriptParams", "source"]
    assert list(response.diffs) == ["scriptParams", "source", "tags"]
    asked = plugin.differ.asked[-1]
    assert asked["old_digest"] == wire.decode(created.properties)["digest"]
    assert asked["new_digest"] not in (None, asked["old_digest"])

    request.ignoreChanges.extend(["scriptParams", "source[*]"])
    ignored = await plugin.call("Diff", request)
    assert list(ignored.replaces) == []
    assert list(ignored.diffs) == ["tags"]
    assert list(ignored.stables) == ["runId", "digest"]


async def test_a_diff_without_a_check_before_it_looks_at_no_file(plugin: Plugin) -> None:
    inputs = await plugin.checked(INPUTS)
    created = await plugin.create(inputs)
    plugin.lifecycle.problems = [InputProblem("sourceDirectory", "it is gone", "a folder", "restore it")]
    other = "urn:pulumi:dev::project::tfjobs:index:TrainingJob::another"
    request = provider_pb2.DiffRequest(id="x", urn=other, olds=created.properties, old_inputs=inputs, news=inputs)
    assert (await plugin.call("Diff", request)).changes == DIFF.DIFF_NONE
    assert plugin.differ.asked[-1]["new_digest"] == plugin.differ.asked[-1]["old_digest"]


@pytest.mark.parametrize(
    ("status", "wait_for", "again"),
    [
        ("succeeded", "succeeded", False),
        ("failed", "succeeded", True),
        ("interrupted", "submitted", True),
        ("running", "succeeded", True),
        ("running", "running", False),
        ("starting", "running", True),
        ("running", "submitted", False),
    ],
)
async def test_an_unchanged_job_goes_on_where_it_is_not_as_asked(
    plugin: Plugin, status: str, wait_for: str, again: bool
) -> None:
    inputs = await plugin.checked({**INPUTS, "waitFor": wait_for})
    spec_outputs = {**wire.decode(inputs), "status": status, "digest": "d"}
    request = provider_pb2.DiffRequest(id="x", urn=URN, olds=wire.encode(spec_outputs), old_inputs=inputs, news=inputs)
    response = await plugin.call("Diff", request)
    assert response.changes == (DIFF.DIFF_SOME if again else DIFF.DIFF_NONE)
    assert list(response.replaces) == []


async def test_a_failed_run_is_kept_with_its_reasons_and_tails(plugin: Plugin) -> None:
    plugin.lifecycle.outcome = "failed"
    plugin.lifecycle.metrics = {"loss": math.nan}
    plugin.lifecycle.tails = [("worker-0", "worker-0 exited with code 3\nTraceback…"), ("worker-1", "worker-1 ended")]
    inputs = await plugin.checked({**INPUTS, "environmentVariables": {"TOKEN": Secret("hush")}})
    error = await plugin.fails("Create", provider_pb2.CreateRequest(urn=URN, properties=inputs))
    failed = init_failure(error)
    outputs = wire.decode(failed.properties)
    assert failed.id == f"local/default/{outputs['runId']}"
    assert failed.inputs == inputs
    assert list(failed.reasons) == [f"{outputs['runId']} failed: worker-0 exited with code 3"]
    assert outputs["status"] == "failed"
    assert outputs["metrics"] == {"loss": "NaN"}
    assert outputs["environmentVariables"]["TOKEN"] == Secret("hush")
    blocks = [entry for entry in plugin.engine.logged if entry.streamId]
    assert [entry.message for entry in blocks] == [
        "worker-0 exited with code 3\nTraceback…\n",
        "worker-1 ended\n",
    ]
    assert len({entry.streamId for entry in blocks}) == 2

    plugin.lifecycle.outcome = "succeeded"
    updated = await plugin.call(
        "Update",
        provider_pb2.UpdateRequest(id=failed.id, urn=URN, olds=failed.properties, news=inputs, old_inputs=inputs),
    )
    assert wire.decode(updated.properties)["attempt"] == 2


async def test_cancel_ends_every_wait_and_keeps_the_run(plugin: Plugin) -> None:
    plugin.lifecycle.finish.clear()
    inputs = await plugin.checked(INPUTS)
    waiting = asyncio.ensure_future(plugin.fails("Create", provider_pb2.CreateRequest(urn=URN, properties=inputs)))
    await asyncio.wait_for(plugin.lifecycle.waiting.wait(), DEADLINE)
    await plugin.call("Cancel", provider_pb2.google_dot_protobuf_dot_empty__pb2.Empty())
    failed = init_failure(await waiting)
    assert failed.id
    assert list(failed.reasons) == ["the update was cancelled; the run goes on"]
    assert wire.decode(failed.properties)["status"] == "running"

    # A create that was on its way when the engine cancelled does not wait either.
    late = await plugin.fails("Create", provider_pb2.CreateRequest(urn=URN, properties=inputs))
    assert list(init_failure(late).reasons) == ["the update was cancelled; the run goes on"]

    # The next engine that attaches to this plugin starts afresh.
    await plugin.call("Attach", plugin_pb2.PluginAttach(address=plugin.engine_address))
    plugin.lifecycle.finish.set()
    assert (await plugin.create(inputs)).id == failed.id


async def test_a_cancelled_create_that_hangs_is_ended(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_job, "CANCEL_SECONDS", 0.05)
    plugin.lifecycle.finish.clear()
    plugin.lifecycle.ignores_cancel = True
    inputs = await plugin.checked(INPUTS)
    waiting = asyncio.ensure_future(plugin.fails("Create", provider_pb2.CreateRequest(urn=URN, properties=inputs)))
    await asyncio.wait_for(plugin.lifecycle.waiting.wait(), DEADLINE)
    await plugin.call("Cancel", provider_pb2.google_dot_protobuf_dot_empty__pb2.Empty())
    error = await waiting
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "Run `pulumi up` again" in error.details()


async def test_the_timeout_is_passed_on(plugin: Plugin) -> None:
    inputs = await plugin.checked(INPUTS)
    await plugin.create(inputs, timeout=90)
    await plugin.create(inputs)
    assert [ensured["timeout"] for ensured in plugin.lifecycle.ensured] == [90, None]


async def test_what_is_gone_is_gone_only_when_it_is_definite(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = await plugin.call("Read", provider_pb2.ReadRequest(id="local/default/none-1", urn=URN))
    assert gone.id == ""
    assert not gone.HasField("properties")

    async def unreachable(resource_id: str, inputs: object) -> None:
        raise TargetUnavailable(f"the target of {resource_id} does not answer")

    monkeypatch.setattr(plugin.lifecycle, "read", unreachable)
    error = await plugin.fails("Read", provider_pb2.ReadRequest(id="local/default/none-1", urn=URN))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_import_brings_inputs_and_outputs(plugin: Plugin) -> None:
    created = await plugin.create(await plugin.checked({**INPUTS, "environmentVariables": {"TOKEN": Secret("hush")}}))
    read = await plugin.call("Read", provider_pb2.ReadRequest(id=created.id, urn=URN))
    assert read.id == created.id
    assert wire.decode(read.inputs)["entryScript"] == "train.py"
    assert "hush" not in str(read)
    assert wire.decode(read.properties)["status"] == "succeeded"


async def test_a_preview_of_an_update_knows_what_stays(plugin: Plugin) -> None:
    inputs = await plugin.checked(INPUTS)
    created = await plugin.create(inputs)
    news = await plugin.checked({**INPUTS, "tags": {"team": "a"}})
    request = provider_pb2.UpdateRequest(
        id=created.id, urn=URN, olds=created.properties, news=news, old_inputs=inputs, preview=True
    )
    outputs = wire.decode((await plugin.call("Update", request)).properties)
    assert outputs["metrics"] == {"accuracy": 0.97}
    assert outputs["tags"] == {"team": "a"}
    request.olds.fields["status"].string_value = "failed"
    again = wire.decode((await plugin.call("Update", request)).properties)
    assert again["metrics"] is UNKNOWN
    assert again["digest"] == outputs["digest"]
    assert len(plugin.lifecycle.ensured) == 1


async def test_an_ignored_change_launches_nothing(plugin: Plugin) -> None:
    inputs = await plugin.checked(INPUTS)
    created = await plugin.create(inputs)
    news = await plugin.checked({**INPUTS, "entryScript": "other.py", "tags": {"team": "a"}})
    updated = await plugin.call(
        "Update",
        provider_pb2.UpdateRequest(id=created.id, urn=URN, olds=created.properties, news=news, old_inputs=inputs),
    )
    outputs = wire.decode(updated.properties)
    assert outputs["digest"] == wire.decode(created.properties)["digest"]
    assert outputs["tags"] == {"team": "a"}
    assert len(plugin.lifecycle.ensured) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EnvironmentBuildFailed("no such package", "/tmp/build.log"), grpc.StatusCode.FAILED_PRECONDITION),
        (RunNotFound("removed meanwhile"), grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_errors_on_purpose_say_their_text(plugin: Plugin, error: Exception, code: grpc.StatusCode) -> None:
    inputs = await plugin.checked(INPUTS)
    plugin.lifecycle.error = error
    failure = await plugin.fails("Create", provider_pb2.CreateRequest(urn=URN, properties=inputs))
    assert (failure.code(), failure.details()) == (code, str(error))


async def test_an_unexpected_error_is_a_line_and_its_traceback_is_in_the_log(plugin: Plugin) -> None:
    inputs = await plugin.checked(INPUTS)
    plugin.lifecycle.error = KeyError("oops\nsecond line")
    failure = await plugin.fails("Create", provider_pb2.CreateRequest(urn=URN, properties=inputs))
    assert failure.code() == grpc.StatusCode.INTERNAL
    assert "Traceback" not in failure.details()
    assert "\n" not in failure.details()
    path = failure.details().split("The details are in ")[1].split(";")[0]
    text = Path(path).read_text(encoding="utf-8")
    assert "Traceback" in text
    assert URN in text


async def test_two_servers_share_nothing(plugin: Plugin, engine: object, tmp_path: object) -> None:
    from pulumi_tfjobs.provider.engine_log import EngineLog
    from pulumi_tfjobs.provider.servicer import make_server

    server, jobs = make_server(str(tmp_path), EngineLog())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        await plugin.call("Cancel", provider_pb2.google_dot_protobuf_dot_empty__pb2.Empty())
        with jobs._operation() as cancelled:
            assert not cancelled.is_set()
        assert port
    finally:
        await server.stop(None)
