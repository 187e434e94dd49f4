"""The codec against golden messages: what Pulumi's own Go code writes for each kind of value."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tfjobs.provider import wire
from pulumi_tfjobs.provider.wire import (
    UNKNOWN,
    Archive,
    Asset,
    OutputValue,
    ResourceReference,
    Secret,
    WireError,
)

SIG = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"
OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
REFERENCE = "5cf8f73096256a8f31e491e813e4eb8e"
ASSET = "c44067f5952c0a294b673a41bacd8c17"
ARCHIVE = "0def7320c3a5731c473e5ecbe6d01bc7"
UNKNOWN_TEXT = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
URN = "urn:pulumi:dev::p::t:index:R::r"

GOLDEN: list[tuple[str, Any, Any]] = [
    ("text", "a", "a"),
    ("whole number", 3.0, 3),
    ("number", 0.01, 0.01),
    ("bool", True, True),
    ("null", None, None),
    ("list", [1.0, "a", [False]], [1, "a", [False]]),
    ("map", {"a": {"b": 1.0}}, {"a": {"b": 1}}),
    ("empty map", {}, {}),
    ("empty list", [], []),
    ("unknown", UNKNOWN_TEXT, UNKNOWN),
    ("secret", {SIG: SECRET, "value": "s"}, Secret("s")),
    ("secret map", {SIG: SECRET, "value": {"a": [1.0]}}, Secret({"a": [1]})),
    ("unknown secret", {SIG: SECRET, "value": UNKNOWN_TEXT}, Secret(UNKNOWN)),
    ("unknown output", {SIG: OUTPUT}, OutputValue(UNKNOWN)),
    (
        "output",
        {SIG: OUTPUT, "value": {"a": 1.0}, "secret": True, "dependencies": [URN]},
        OutputValue({"a": 1}, secret=True, dependencies=(URN,)),
    ),
    ("output of null", {SIG: OUTPUT, "value": None}, OutputValue(None)),
    ("component", {SIG: REFERENCE, "urn": URN}, ResourceReference(URN)),
    (
        "resource",
        {SIG: REFERENCE, "urn": URN, "id": "i", "packageVersion": "1.2.3"},
        ResourceReference(URN, "i", "1.2.3"),
    ),
    ("new resource", {SIG: REFERENCE, "urn": URN, "id": UNKNOWN_TEXT}, ResourceReference(URN, UNKNOWN)),
    ("text asset", {SIG: ASSET, "text": "t", "hash": "h"}, Asset(text="t", hash="h")),
    ("file asset", {SIG: ASSET, "path": "./f"}, Asset(path="./f")),
    ("remote archive", {SIG: ARCHIVE, "uri": "https://x.invalid"}, Archive(uri="https://x.invalid")),
    (
        "archive",
        {SIG: ARCHIVE, "assets": {"a": {SIG: ASSET, "text": "t"}}, "hash": "h"},
        Archive(assets={"a": Asset(text="t")}, hash="h"),
    ),
]


def struct(value: Any) -> struct_pb2.Struct:
    return json_format.ParseDict(value, struct_pb2.Struct())


@pytest.mark.parametrize(("message", "value"), [case[1:] for case in GOLDEN], ids=[case[0] for case in GOLDEN])
def test_golden_messages_both_ways(message: Any, value: Any) -> None:
    golden = struct({"p": message})
    decoded = wire.decode(golden)["p"]
    assert decoded == value
    assert type(decoded) is type(value)
    assert wire.encode({"p": value}) == golden


def test_every_unknown_of_the_engine_is_unknown() -> None:
    others = [
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    ]
    assert all(value is UNKNOWN for value in wire.decode(struct({"p": others}))["p"])


def test_the_id_of_a_resource_may_come_as_an_output() -> None:
    known = {SIG: REFERENCE, "urn": URN, "id": {SIG: OUTPUT, "value": "i"}}
    empty = {SIG: REFERENCE, "urn": URN, "id": ""}
    assert wire.decode(struct({"a": known, "b": empty})) == {
        "a": ResourceReference(URN, "i"),
        "b": ResourceReference(URN, UNKNOWN),
    }


@pytest.mark.parametrize(
    "message",
    [{SIG: SECRET}, {SIG: REFERENCE, "id": "x"}, {SIG: "another signature"}],
    ids=["secret without value", "reference without URN", "unknown signature"],
)
def test_broken_messages_name_the_property(message: Any) -> None:
    with pytest.raises(WireError, match=r'outer\["--x"\]'):
        wire.decode(struct({"outer": {"--x": message}}))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_hold(number: float) -> None:
    with pytest.raises(WireError, match=r"metrics\.loss"):
        wire.encode({"metrics": {"loss": number}})
    text = wire.decode(wire.encode({"metrics": {"loss": number}}, nonfinite_as_text=True))["metrics"]["loss"]
    assert text == {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(number)]


@pytest.mark.parametrize("value", [object(), {1: "a"}, b"bytes", 10**400, "\ud800"])
def test_what_the_wire_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(WireError, match=r"^p"):
        wire.encode({"p": value})


def test_numbers_beyond_exact_integers_stay_floats() -> None:
    values = wire.decode(struct({"a": 2.0**53, "b": 1e300}))
    assert values == {"a": 2**53, "b": 1e300}
    assert isinstance(values["b"], float)


def test_secrets_do_not_show_in_texts() -> None:
    assert "hush" not in repr([Secret("hush"), OutputValue("hush", secret=True)])


def test_an_unknown_is_never_taken_for_false() -> None:
    with pytest.raises(TypeError):
        bool(UNKNOWN)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.just(UNKNOWN),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])).filter(lambda key: key != SIG), inner, max_size=3
        )
        | inner.filter(lambda value: not isinstance(value, Secret)).map(Secret)
        | st.builds(OutputValue, inner, st.booleans(), st.just((URN,)))
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=4))
def test_whatever_is_sent_arrives(properties: dict[str, Any]) -> None:
    sent = wire.encode(properties)
    assert wire.decode(struct_pb2.Struct.FromString(sent.SerializeToString())) == properties


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=4))
def test_sorting_leaves_only_json_behind(properties: dict[str, Any]) -> None:
    inputs = wire.split(properties)
    json.dumps(inputs.plain)
    hidden = wire.without(inputs.plain, inputs.secret, replacement="[secret]")
    json.dumps(hidden)


def test_sorting_names_paths_as_pulumi_writes_them() -> None:
    inputs = wire.split(
        {
            "scriptParams": {"--lr": UNKNOWN, "epochs": 3, 'a"b': Secret(1)},
            "arguments": ["a", OutputValue(UNKNOWN)],
            "pipPackages": [Secret("p"), "q"],
            "tags": OutputValue({"team": "a"}, secret=True),
            "sourceDirectory": Asset(path="./src"),
            "name": ResourceReference(URN, "i"),
            "useGpu": None,
        }
    )
    assert inputs.plain == {
        "scriptParams": {"epochs": 3, 'a"b': 1},
        "pipPackages": ["p", "q"],
        "tags": {"team": "a"},
        "sourceDirectory": "./src",
        "name": "i",
    }
    assert inputs.unknown == {'scriptParams["--lr"]', "arguments"}
    assert inputs.secret == {'scriptParams["a\\"b"]', "pipPackages[0]", "tags", "tags.team"}
    assert wire.without(inputs.plain, inputs.secret, replacement="*") == {
        "scriptParams": {"epochs": 3},
        "pipPackages": ["*", "q"],
        "sourceDirectory": "./src",
        "name": "i",
    }


@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [
        ("tags", "tags", True),
        ("tags", 'tags["a b"].c', True),
        ("tags", "tagsOther", False),
        ("source[*]", 'source["train.py"]', True),
        ("source.*", 'source["train.py"]', True),
        ('source["train.py"]', "source", False),
        ('scriptParams["--lr"]', 'scriptParams["--lr"]', True),
        ('scriptParams["--lr"]', 'scriptParams["--lr2"]', False),
        ("pipPackages[1]", "pipPackages[1]", True),
        ("pipPackages[1]", "pipPackages[2]", False),
    ],
)
def test_ignored_paths(pattern: str, path: str, matched: bool) -> None:
    assert wire.matcher([pattern])(path) is matched
