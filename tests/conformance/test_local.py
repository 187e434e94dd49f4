"""The local target does what every target must."""

from __future__ import annotations

import pytest

from tests.conformance import suite
from tests.conformance.local_place import LocalPlace


@pytest.fixture
def place(local_place: LocalPlace) -> LocalPlace:
    return local_place


class TestLifecycle(suite.Lifecycle): ...


class TestLooking(suite.Looking): ...


class TestSurroundings(suite.Surroundings): ...


class TestGroups(suite.Groups): ...


class TestNothingLeft(suite.NothingLeft): ...
