"""Edits of a job's files."""

from __future__ import annotations

import os

from tests.truth.model import File, Line
from tests.truth.world import Edits, World, without

EDITS = Edits()


def _edit_file(world: World, key: str, path: str, lines: tuple[Line, ...]) -> None:
    files = world.jobs[key].files
    world.set(key, files={**files, path: files[path]._replace(lines=lines)})


def _inserted(world: World, key: str, path: str, kind: str) -> int:
    lines = list(world.jobs[key].files[path].lines)
    count = world.random.randint(1, 3)
    for _ in range(count):
        number = world.number()
        text = {"code": f"X{number} = {number}", "comment": f"# note {number}", "blank": ""}[kind]
        lines.insert(0, Line(text, kind))
    _edit_file(world, key, path, tuple(lines))
    return count


def _python_file(world: World, key: str) -> str:
    return world.random.choice(sorted(path for path in world.jobs[key].files if path.endswith(".py")))


@EDITS.add(9)
def file_changed(world: World, key: str) -> str | None:
    path = _python_file(world, key)
    kept = tuple(line for line in world.jobs[key].files[path].lines if not line.ours or world.random.random() < 0.6)
    _edit_file(world, key, path, kept)
    return f"{path}: {_inserted(world, key, path, 'code')} lines"


@EDITS.add(5)
def file_comments(world: World, key: str) -> str | None:
    path = _python_file(world, key)
    return f"{path}: {_inserted(world, key, path, 'comment')} lines"


@EDITS.add(4)
def file_blank_lines(world: World, key: str) -> str | None:
    path = _python_file(world, key)
    return f"{path}: {_inserted(world, key, path, 'blank')} lines"


@EDITS.add(5)
def file_added(world: World, key: str) -> str | None:
    path = world.random.choice(["lib/layers.py", "notes.txt", "lib/data.py"])
    files = world.jobs[key].files
    if path in files:
        return None
    number = world.random.randint(1, 3)
    world.set(key, files={**files, path: File((Line(f"Y{number} = {number}"),))})
    return path


@EDITS.add(12)
def file_removed(world: World, key: str) -> str | None:
    files = world.jobs[key].files
    paths = sorted(files.keys() - {"train.py"})
    if not paths:
        return None
    path = world.random.choice(paths)
    world.set(key, files=without(files, path))
    return path


@EDITS.add(3)
def file_mode(world: World, key: str) -> str | None:
    files = world.jobs[key].files
    path = world.random.choice(sorted(files))
    world.set(key, files={**files, path: files[path]._replace(executable=not files[path].executable)})
    return f"{path}: executable {not files[path].executable}"


@EDITS.add(4)
def file_touched(world: World, key: str) -> str | None:
    root = world.project.folder / world.jobs[key].folder
    if not root.is_dir():
        return None
    for path in root.rglob("*"):
        os.utime(path, (world.number(), 1))
    return "all"


@EDITS.add(3)
def source_moved(world: World, key: str) -> str | None:
    world.set(key, folder=f"code/{key}-{world.number()}")
    return world.jobs[key].folder


@EDITS.add(4)
def source_digest(world: World, key: str) -> str | None:
    world.set(key, digest_by="code" if world.jobs[key].digest_by == "content" else "content")
    return world.jobs[key].digest_by
