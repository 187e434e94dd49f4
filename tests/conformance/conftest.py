from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.local_place import LocalPlace


@pytest.fixture
async def local_place(tmp_path: Path) -> AsyncIterator[LocalPlace]:
    place = LocalPlace(str(tmp_path))
    yield place
    await place.close()
    left = [process for folder, attempt in place.launched for process in place.alive(folder, attempt)]
    assert left == [], "processes outlived their run"
