"""Secrets in what replicas print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tfjobs.targets.local.masking import Masker, Secrets

TOKEN = "s3cr3t-token-0123"


def masker(*values: str) -> Masker:
    made = Secrets({f"S{number}": value for number, value in enumerate(values)}).masker()
    assert made is not None
    return made


def masked(text: str, *values: str) -> str:
    one = masker(*values)
    return (one.feed(text.encode()) + one.finish()).decode()


def covered(text: bytes, values: list[bytes]) -> bytes:
    """What is to come out: occurrences that overlap become one mask."""
    spans = sorted(
        (at, at + len(value)) for value in values for at in range(len(text)) if text[at : at + len(value)] == value
    )
    result, position, reach = b"", 0, 0
    for start, stop in spans:
        if start >= reach:
            result += text[position:start] + b"***"
        position = reach = max(reach, stop)
    return result + text[position:]


@pytest.mark.parametrize(("text", "shown"), [
    (f"token={TOKEN}\n", "token=***\n"),
    (f"{TOKEN}{TOKEN}", "******"),
    (f"{TOKEN[:-1]}!{TOKEN[1:]}\n", f"{TOKEN[:-1]}!{TOKEN[1:]}\n"),
    ("nothing\n", "nothing\n"),
    (f"\x00\ufffd{TOKEN}\x00", "\x00\ufffd***\x00"),
])  # fmt: skip
def test_every_occurrence_is_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text, TOKEN) == shown


def test_wherever_it_is_split() -> None:
    text = f"a {TOKEN} b {TOKEN[:5]} s {TOKEN}\n".encode()
    for first in range(len(text)):
        for second in range(first, len(text)):
            one = masker(TOKEN)
            parts = [text[:first], text[first:second], text[second:]]
            assert b"".join([*map(one.feed, parts), one.finish()]) == b"a *** b s3cr3 s ***\n", parts


@given(
    values=st.lists(st.text("ab", min_size=4, max_size=9), min_size=1, max_size=4),
    parts=st.lists(st.text("ab.", max_size=8), max_size=12),
)
def test_secrets_that_overlap_and_contain_each_other(values: list[str], parts: list[str]) -> None:
    one = masker(*values)
    text = "".join(parts) + "\n"
    got = b"".join([*(one.feed(part.encode()) for part in parts), one.feed(b"\n"), one.finish()])
    assert got == covered(text.encode(), [value.encode() for value in values])


@given(
    values=st.lists(st.text("ab", min_size=4, max_size=16), min_size=1, max_size=4),
    parts=st.lists(st.text("ab.", max_size=8) | st.none(), max_size=12),
)
def test_what_is_shown_after_a_while_never_adds_up_to_a_secret(values: list[str], parts: list[str | None]) -> None:
    one = masker(*values)
    told = [one.show() if part is None else one.feed(part.encode()) for part in parts]
    got = b"".join([*told, one.finish()])
    assert not [value for value in values if value.encode() in got]


def test_a_prompt_is_shown_after_a_while_and_a_great_part_of_a_secret_is_not() -> None:
    one = masker(TOKEN)
    assert one.feed(b"go on? s") == b"go on? "
    assert one.waits
    assert one.show() == b"s"
    assert not one.waits
    assert one.feed(b" or no\n") == b" or no\n", "and told once"
    assert one.feed(b"s") + one.show() + one.feed(TOKEN[1:].encode()) == b"s***", "it counted as a beginning"
    assert one.feed(TOKEN[:8].encode()) == b""
    assert not one.waits
    assert one.finish() == b"***"


def test_a_secret_of_several_lines_is_masked_line_by_line_too() -> None:
    key = "-----BEGIN KEY-----\r\nMIIEvQIBADANBgkq\r\nabc\r\n-----END KEY-----\r\n"
    assert masked(f"key: {key}.", key) == "key: ***\r\n."
    assert masked("'MIIEvQIBADANBgkq\\nabc\\n'", key) == "'***\\nabc\\n'"
    assert masked("token\n", "token\n") == "***\n", "an end of line in the variable is not printed with it"


def test_what_cannot_be_told_from_other_text_is_left_and_reported() -> None:
    secrets = Secrets({"PIN": "12", "FLAG": "True", "EMPTY": "", "TOKEN": TOKEN})
    first, second = secrets.warnings()
    assert "PIN" in first
    assert "FLAG" in second
    assert "12" not in first
    one = secrets.masker()
    assert one is not None
    assert one.feed(f"12 is True {TOKEN}\n".encode()) == b"12 is True ***\n"
    assert Secrets({"PIN": "12"}).masker() is None
