"""Jobs as a user would write them, and ways to run their life's steps in a test."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pulumi_tfjobs import lifecycle
from pulumi_tfjobs.lifecycle import ProgressLine, RunResult
from pulumi_tfjobs.lifecycle.common import open_store
from pulumi_tfjobs.plan import JobPlan
from pulumi_tfjobs.spec.model import JobSpec
from pulumi_tfjobs.store.runs import RunStore
from tests.helpers.fake_target import DEADLINE

URN = "urn:pulumi:dev::project::tfjobs:index:TrainingJob::mnist"


class Job:
    """A job on a fake target: a source directory and inputs that a test may change.

    ``progress`` holds every line that :meth:`ensure` told.
    """

    def __init__(self, directory: Path, **inputs: Any) -> None:
        self.directory = directory
        self.source = directory / "src"
        self.source.mkdir(parents=True, exist_ok=True)
        (self.source / "train.py").write_text("print('training')\n")
        self.inputs: dict[str, Any] = {
            "sourceDirectory": "src",
            "entryScript": "train.py",
            "computeTarget": {"kind": "fake"},
            "userManaged": True,
            **inputs,
        }
        self.progress: list[ProgressLine] = []

    def check(self, name: str = "mnist", *, secret: frozenset[str] = frozenset(), **changes: Any) -> JobSpec:
        return lifecycle.check({**self.inputs, **changes}, name=name, directory=str(self.directory), secret=secret)

    async def ensure(
        self,
        spec: JobSpec | None = None,
        *,
        urn: str = URN,
        timeout: float | None = None,
        cancelled: asyncio.Event | None = None,
        secrets: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> RunResult:
        spec = spec or self.check(**changes)
        ensuring = lifecycle.ensure(
            spec,
            inputs={**self.inputs, **changes},
            urn=urn,
            secrets=secrets or {},
            timeout=timeout,
            cancelled=cancelled or asyncio.Event(),
            progress=self.progress.append,
        )
        return await asyncio.wait_for(ensuring, DEADLINE)

    def start(self, *args: Any, **keywords: Any) -> asyncio.Task[RunResult]:
        """:meth:`ensure` in the background."""
        return asyncio.create_task(self.ensure(*args, **keywords))

    @property
    def store(self) -> RunStore:
        return open_store("default")

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.progress]


async def described(spec: JobSpec) -> JobPlan:
    """What a preview says of a new resource with this spec."""
    own = await lifecycle.own(spec, URN, None)
    return await lifecycle.describe(await lifecycle.settle(own, changes=(), current=None), urn=URN, name="mnist")


def tree(path: Path) -> dict[str, bytes | None]:
    """Everything under a folder: relative path → content (None for folders)."""
    return {
        str(item.relative_to(path)): item.read_bytes() if item.is_file() else None for item in sorted(path.rglob("*"))
    }


def put(path: str | Path, text: str) -> None:
    """Write the file, its folder too."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def text_of(path: str | Path) -> str:
    return Path(path).read_text()


def is_locked(path: str) -> bool:
    """Whether anybody holds the file's lock."""
    with open(path, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def there(path: str | Path) -> bool:
    """Whether anything of that name exists."""
    return os.path.lexists(path)
