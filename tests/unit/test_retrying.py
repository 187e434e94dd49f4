from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tfjobs.spec.retrying import is_retried, pause


@pytest.mark.parametrize(("conditions", "code", "number", "expected"), [
    (("infrastructure",), 1, None, False),
    (("infrastructure",), 127, None, False),
    (("infrastructure",), 128, None, True),
    (("infrastructure",), 137, None, True),
    (("infrastructure",), 255, None, True),
    (("infrastructure",), None, 9, True),
    (("infrastructure",), None, None, False),
    (("any",), 1, None, True),
    (("any",), None, None, True),
    (("3",), 3, None, True),
    (("3", "4"), 4, None, True),
    (("137",), None, 9, True),
    (("SIGKILL",), None, 9, True),
    (("SIGKILL",), 137, None, True),
    (("SIGKILL",), None, 15, False),
    ((), None, 9, False),
    (("infrastructure",), None, 64, True),
])  # fmt: skip
def test_which_failures_count(conditions: tuple[str, ...], code: int, number: int, expected: bool) -> None:
    assert is_retried(conditions, code, number) is expected


@given(st.floats(0, 1e6), st.integers(1, 2000))
def test_pauses_grow_up_to_a_limit(first: float, retry: int) -> None:
    assert pause(first, 1) == first
    assert pause(first, retry) <= pause(first, retry + 1) <= max(300.0, first)
