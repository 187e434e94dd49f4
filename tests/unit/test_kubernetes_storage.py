"""A run's files come from the storage of a Kubernetes target to its folder here, whatever is in that storage."""

from __future__ import annotations

import asyncio
import os
import socket
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes import storage_url
from pulumi_tfjobs.targets.kubernetes.collecting import collect
from pulumi_tfjobs.targets.kubernetes.options import Options, StoragePlace
from pulumi_tfjobs.targets.kubernetes.placing import Index, Shelf, Trouble, Unsafe, check_link, make_workshop
from pulumi_tfjobs.targets.kubernetes.storage import (
    Entry,
    Storage,
    has_checkpoints,
    open_storage,
    place_source,
    remove_run,
)

RUN = "mnist-0123456789ab"
ENDED = RunState(run_id=RUN, attempt=1, phase="succeeded")
LIVES = RunState(run_id=RUN, attempt=1, phase="running")
NOBODY: Any = None  # the connection, which a storage with a URL does not need


def target(url: str | None, level: str = "outputs") -> Options:
    place = None if url is None else StoragePlace(claim="data", url=url)
    return Options(image="tf:1", storage=place, collect=level)  # type: ignore[arg-type]


@pytest.fixture
def here(tmp_path: Path) -> RunFolder:
    folder = RunFolder(str(tmp_path / "store" / "runs" / RUN))
    for path in (folder.outputs, folder.checkpoints, folder.logs, folder.attempt(1).root):
        os.makedirs(path)
    return folder


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The run's folder on a storage that is mounted here."""
    folder = tmp_path / "storage" / "runs" / RUN
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/storage"


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def tree(folder: str) -> dict[str, str]:
    """Every file and link below the folder."""
    found = {}
    for top, folders, files in os.walk(folder):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(top, name)))]:
            path = os.path.join(top, name)
            text = f"-> {os.readlink(path)}" if os.path.islink(path) else Path(path).read_text()
            found[os.path.relpath(path, folder)] = text
    return found


async def test_what_collect_asks_for_is_brought(here: RunFolder, there: Path, url: str) -> None:
    write(there / "outputs/model/weights.bin", "w")
    script = write(there / "outputs/serve.sh", "#!")
    script.chmod(0o755)
    (there / "outputs/latest").symlink_to("model")
    write(there / "logs/train/events.out.tfevents.1", "e")
    write(there / "logs/console.txt", "c")
    write(there / "checkpoints/ckpt-1", "1")
    write(there / "metrics.jsonl", '{"loss": 1}\n')

    assert await collect(target(url, "metrics"), NOBODY, here, 1, ENDED) == ()
    assert tree(here.logs) == {"train/events.out.tfevents.1": "e"}
    assert Path(here.metrics).read_text() == '{"loss": 1}\n'
    assert tree(here.outputs) == {}

    assert await collect(target(url), NOBODY, here, 1, ENDED) == ()
    assert tree(here.outputs) == {"model/weights.bin": "w", "serve.sh": "#!", "latest": "-> model"}
    assert tree(here.logs) == {"train/events.out.tfevents.1": "e", "console.txt": "c"}
    assert os.access(os.path.join(here.outputs, "serve.sh"), os.X_OK)
    assert os.stat(os.path.join(here.outputs, "model/weights.bin")).st_mode & 0o777 == 0o600
    assert tree(here.checkpoints) == {}

    assert await collect(target(url, "all"), NOBODY, here, 1, ENDED) == ()
    assert tree(here.checkpoints) == {"ckpt-1": "1"}
    assert not os.path.exists(os.path.join(here.root, ".collecting"))


async def test_only_what_is_new_is_fetched(
    here: RunFolder, there: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    fetch = storage_url.FolderStorage.fetch

    async def counting(self: Any, folder: str, wanted: Any, shelf: Shelf) -> None:
        fetched.extend(entry.path for entry in wanted if shelf.name == "outputs")
        await fetch(self, folder, wanted, shelf)

    monkeypatch.setattr(storage_url.FolderStorage, "fetch", counting)
    write(there / "outputs/a", "old")
    write(there / "outputs/b", "same")
    write(there / "outputs/c", "lost")

    assert await collect(target(url), NOBODY, here, 1, LIVES) == ()
    assert sorted(fetched) == ["a", "b", "c"]
    fetched.clear()
    before = os.stat(there / "outputs/a")
    write(there / "outputs/a", "new")  # of the same size
    os.utime(there / "outputs/a", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    os.unlink(os.path.join(here.outputs, "c"))
    assert await collect(target(url), NOBODY, here, 1, ENDED) == ()
    assert sorted(fetched) == ["a", "c"]
    assert tree(here.outputs) == {"a": "new", "b": "same", "c": "lost"}
    fetched.clear()
    write(there / "outputs/d")
    assert await collect(target(url), NOBODY, here, 1, ENDED) == ()  # it has ended, and all was here
    assert fetched == []


async def test_a_damaged_index_costs_time_only(here: RunFolder, there: Path, url: str) -> None:
    write(there / "outputs/a", "1")
    Path(here.root, ".collected.db").write_bytes(b"no database" * 1000)
    assert await collect(target(url), NOBODY, here, 1, ENDED) == ()
    assert tree(here.outputs) == {"a": "1"}


async def test_hostile_trees_stay_within_the_folder(
    here: RunFolder, there: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = write(tmp_path / "secret", "mine")
    write(there / "outputs/good", "good")
    os.mkfifo(there / "outputs/pipe")
    with socket.socket(socket.AF_UNIX) as listener, monkeypatch.context() as at:
        at.chdir(there / "outputs")  # the path of a socket is at most 107 characters long
        listener.bind("sock")
    (there / "outputs/absolute").symlink_to(secret)
    (there / "outputs/up").symlink_to("../../../../secret")
    (there / "outputs/sideways").symlink_to("good/../../../../../secret")
    (there / "outputs/\x1b[31mred").symlink_to("/etc/passwd")

    notes = await collect(target(url), NOBODY, here, 1, ENDED)
    assert tree(here.outputs) == {"good": "good"}
    told = "\n".join(notes)
    for name in ("pipe", "sock", "absolute", "up"):
        assert f"outputs/{name}" in told or "more" in told
    assert "link that leads out" in told
    assert "no regular file" in told
    assert "\x1b" not in told
    assert await collect(target(url), NOBODY, here, 1, ENDED) == ()  # told once: it will not get better


@pytest.mark.parametrize(
    "path", ["../out", "/etc/out", "a/../../out", "", ".", "a//b", "a/./b", "nul\0byte", "..", "a/.."]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    shelf, trouble = make_shelf(tmp_path)
    temporary = shelf.temporary()
    shelf.place(Entry(path, 1, "s", "f"), temporary)
    assert [*shelf.missing([Entry(path, 1, "s", "f"), Entry(path, 1, "s", "l", "good")])] == []
    assert len(trouble.notes()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["index.db"]


def test_files_are_not_written_through_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shelf, trouble = make_shelf(tmp_path)
    os.makedirs(shelf.root)
    os.symlink(outside, os.path.join(shelf.root, "folder"))
    os.symlink(outside / "victim", os.path.join(shelf.root, "file"))
    shelf.place(Entry("folder/evil", 1, "s", "f"), shelf.temporary())
    shelf.place(Entry("file", 1, "s", "f"), shelf.temporary())  # takes the link's place
    assert os.listdir(outside) == []
    assert not os.path.islink(os.path.join(shelf.root, "file"))
    assert "something else of that name" in "".join(trouble.notes())


@pytest.mark.parametrize(
    ("place", "to"),
    [("a", "b"), ("d/e/a", "../b"), ("d/e/a", "../../x/y"), ("a", "d/x"), ("a", ".")],
)
def test_links_within_are_kept(place: str, to: str) -> None:
    check_link(place.split("/"), to)


@pytest.mark.parametrize(
    ("place", "to"),
    [
        ("a", "/x"),
        ("a", ".."),
        ("d/a", "../../x"),
        ("d/a", "x/../../.."),
        ("d/e/a", "l/../../y"),  # where l is a link to a folder higher up, this leads out
        ("a", "./../x"),
        ("a", ""),
        ("a", "x\0"),
    ],
)
def test_links_that_may_lead_out_are_not(place: str, to: str) -> None:
    with pytest.raises(Unsafe):
        check_link(place.split("/"), to)


async def test_a_huge_tree_keeps_memory_flat(tmp_path: Path) -> None:
    class Endless(Storage):
        name = "endless"

        async def has(self, path: str) -> bool:
            raise NotImplementedError

        async def put(self, path: str, local: str) -> None:
            raise NotImplementedError

        async def remove(self, path: str) -> None:
            raise NotImplementedError

        async def entries(self, folder: str) -> Any:
            for page in range(60):
                yield [Entry(f"{page:04}/{number:04}-{'n' * 60}", 1, "1-1", "f") for number in range(500)]

        async def fetch(self, folder: str, wanted: Any, shelf: Shelf) -> None:
            self.wanted = getattr(self, "wanted", 0) + len(wanted)

    shelf, _ = make_shelf(tmp_path)
    storage = Endless()
    tracemalloc.start()
    try:
        await storage.get_tree("x", shelf)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert storage.wanted == 30_000
    assert peak < 4e6


class Cut(BaseException):
    """As a signal would."""


async def test_a_copy_that_was_cut_off_leaves_no_half_file_and_goes_on(
    here: RunFolder, there: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        write(there / f"outputs/{number}", str(number) * 1000)
    blocks = storage_url.files_program.blocks
    read = 0

    def cut(handle: int, size: int) -> Any:
        nonlocal read
        for block in blocks(handle, size):
            read += 1
            if read == 3:
                yield block[:500]
                raise Cut
            yield block

    monkeypatch.setattr(storage_url.files_program, "blocks", cut)
    with pytest.raises(Cut):
        await collect(target(url), NOBODY, here, 1, ENDED)
    brought = tree(here.outputs)
    assert len(brought) == 2
    assert all(len(text) == 1000 for text in brought.values())
    assert await collect(target(url), NOBODY, here, 1, ENDED) == ()
    assert tree(here.outputs) == {str(number): str(number) * 1000 for number in range(5)}
    assert read == 3 + 3  # what was there was not read again


async def test_two_at_once_do_not_hinder_each_other(here: RunFolder, there: Path, url: str) -> None:
    for number in range(200):
        write(there / f"outputs/{number}", str(number))
    told = await asyncio.gather(*(collect(target(url), NOBODY, here, 1, ENDED) for _ in range(3)))
    assert told == [(), (), ()]
    assert len(tree(here.outputs)) == 200


async def test_trouble_is_a_note_with_what_to_do(here: RunFolder, tmp_path: Path) -> None:
    for kind in ("s3", "abfs", "gs"):
        (note,) = await collect(target(f"{kind}://bucket/runs"), NOBODY, here, 1, ENDED)
        assert f'pip install "pulumi-tfjobs[{kind}]"' in note
    write(tmp_path / "storage/runs" / RUN / "outputs/a/b")
    write(Path(here.outputs, "a"), "mine")
    (note,) = await collect(target(f"file://{tmp_path}/storage"), NOBODY, here, 1, ENDED)
    assert "outputs/a/b" in note
    assert "move it away" in note
    os.unlink(os.path.join(here.outputs, "a"))
    assert await collect(target(f"file://{tmp_path}/storage"), NOBODY, here, 1, ENDED) == ()
    assert tree(here.outputs) == {"a/b": "x"}


async def test_without_a_storage_it_is_said_once(here: RunFolder) -> None:
    assert await collect(target(None), NOBODY, here, 1, LIVES) == ()
    (note,) = await collect(target(None), NOBODY, here, 1, ENDED)
    assert "computeTarget.storage" in note
    assert await collect(target(None), NOBODY, here, 1, ENDED) == ()


async def test_the_stores_own_folder_is_left_alone(here: RunFolder) -> None:
    write(Path(here.outputs, "a"), "a")
    write(Path(here.metrics), "m")
    store = os.path.dirname(os.path.dirname(here.root))
    assert await collect(target(f"file://{store}", "all"), NOBODY, here, 1, ENDED) == ()
    assert tree(here.outputs) == {"a": "a"}
    assert Path(here.metrics).read_text() == "m"


async def test_metrics_that_came_by_the_log_are_not_shortened(here: RunFolder, there: Path, url: str) -> None:
    write(Path(here.metrics), "longer than that\n")
    write(there / "metrics.jsonl", "short\n")
    assert await collect(target(url), NOBODY, here, 1, ENDED) == ()
    assert Path(here.metrics).read_text() == "longer than that\n"


@pytest.fixture
def bucket() -> Any:
    name = f"memory://{uuid.uuid4().hex}/jobs"
    yield name
    if fsspec.filesystem("memory").exists(name):
        fsspec.filesystem("memory").rm(name, recursive=True)


async def test_an_object_store(here: RunFolder, bucket: str) -> None:
    system = fsspec.filesystem("memory")
    for path, text in {"outputs/a/b": "1", "outputs/c": "2", "logs/e.tfevents": "3", "metrics.jsonl": "4"}.items():
        system.pipe(f"{bucket}/runs/{RUN}/{path}", text.encode())
    assert await collect(target(bucket), NOBODY, here, 1, LIVES) == ()
    assert tree(here.outputs) == {"a/b": "1", "c": "2"}
    system.pipe(f"{bucket}/runs/{RUN}/outputs/c", b"5")
    assert await collect(target(bucket), NOBODY, here, 1, ENDED) == ()
    assert tree(here.outputs) == {"a/b": "1", "c": "5"}
    assert tree(here.logs) == {"e.tfevents": "3"}
    assert Path(here.metrics).read_text() == "4"


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_sources_are_placed_once_and_runs_removed(
    kind: str, url: str, bucket: str, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(target(url if kind == "file" else bucket), None)
    assert storage is not None
    async with storage:
        await asyncio.gather(
            *(place_source(storage, "d1", b"archive" * 100_000) for _ in range(3 if kind == "file" else 1))
        )
        assert await storage.has("sources/d1.tar.gz")
        assert not await storage.has("sources/d2.tar.gz")
        with monkeypatch.context() as patch:
            patch.setattr(type(storage), "put", None)
            await place_source(storage, "d1", b"other")
        assert not await has_checkpoints(storage, RUN)
        await storage.put(f"runs/{RUN}/checkpoints/c-1", __file__)
        assert await has_checkpoints(storage, RUN)
        await remove_run(storage, RUN)
        await remove_run(storage, RUN)
        assert not await has_checkpoints(storage, RUN)
        assert await storage.has("sources/d1.tar.gz")
        with pytest.raises(ValueError, match="no id of a run"):
            await remove_run(storage, "..")
    if kind == "file":
        assert os.listdir(there.parent.parent / "sources") == ["d1.tar.gz"]


async def test_a_source_that_cannot_be_placed_is_a_failed_launch(tmp_path: Path) -> None:
    storage = open_storage(target(f"file://{tmp_path}/not-mounted"), None)
    assert storage is not None
    with pytest.raises(LaunchFailed, match="mounted"):
        await place_source(storage, "d1", b"archive")
    assert not (tmp_path / "not-mounted").exists()
    broken = open_storage(target("gs://bucket/x"), None)
    assert broken is not None
    with pytest.raises(TargetUnavailable, match=r"pulumi-tfjobs\[gs\]"):
        await has_checkpoints(broken, RUN)


def make_shelf(tmp_path: Path) -> tuple[Shelf, Trouble]:
    workshop = str(tmp_path / "workshop")
    make_workshop(workshop)
    trouble = Trouble()
    return Shelf(str(tmp_path / "shelf"), workshop, "outputs", Index(str(tmp_path / "index.db")), trouble), trouble
