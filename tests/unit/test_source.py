"""Source directories: what changes their digest, what is refused, and that copies are whole and private."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from pulumi_tfjobs.errors import InvalidInputs, StoreError
from pulumi_tfjobs.store import limits, scanning, workers
from pulumi_tfjobs.store.source import check_out, digest_of, hash_file, scan, snapshot, warnings_of
from tests.helpers.store_workers import as_nobody, at_once, take_snapshot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    (path / "pkg").mkdir(parents=True)
    (path / "train.py").write_text("print(1)\n")
    (path / "pkg" / "model.py").write_text("x = 1\n")
    return path


def digest(root: Path) -> str:
    return scan(str(root)).digest


def problems(root: Path) -> list[str]:
    with pytest.raises(InvalidInputs) as caught:
        scan(str(root))
    return [str(problem) for problem in caught.value.problems]


# What a digest is of


def test_a_manifest_names_files_with_digest_size_and_mode(root: Path) -> None:
    (root / "run.sh").write_text("true")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("pkg/model.py")
    found = {file.path: file for file in scan(str(root)).files}
    assert list(found) == ["link", "pkg/model.py", "run.sh", "train.py"]
    assert found["train.py"].digest == hashlib.sha256(b"print(1)\n").hexdigest()
    assert (found["train.py"].size, found["train.py"].mode) == (9, "")
    assert (found["run.sh"].mode, found["link"].mode) == ("x", "l")
    assert scan(str(root)).size == 9 + 6 + 4 + len("pkg/model.py")


def test_time_place_and_permissions_for_others_do_not_matter(root: Path, tmp_path: Path) -> None:
    before = digest(root)
    os.utime(root / "train.py", (1, 1))
    (root / "train.py").chmod(0o600)
    (root / "pkg").chmod(0o700)
    (root / "empty-folder").mkdir()
    assert digest(root) == before
    if os.geteuid() == 0:
        os.chown(root / "train.py", 65534, 65534)
        assert digest(root) == before
    moved = tmp_path / "elsewhere"
    shutil.move(root, moved)
    assert digest(moved) == before


def test_content_name_exec_bit_and_link_target_matter(root: Path) -> None:
    seen = {digest(root)}
    for change in (
        lambda: (root / "train.py").write_text("print(2)\n"),
        lambda: (root / "train.py").chmod(0o755),
        lambda: (root / "pkg" / "model.py").rename(root / "pkg" / "net.py"),
        lambda: (root / "link").symlink_to("train.py"),
        lambda: ((root / "link").unlink(), (root / "link").symlink_to("pkg/net.py")),
        lambda: ((root / "link").unlink(), shutil.copy(root / "pkg" / "net.py", root / "link")),
    ):
        change()
        seen.add(digest(root))
    assert len(seen) == 7


def test_a_change_of_the_same_size_right_after_a_look_is_seen(root: Path) -> None:
    # Within a clock tick of the file system the file looks the same from outside: it must be read again.
    path = root / "train.py"
    info = path.stat()
    before = hash_file(str(path))
    path.write_text("print(2)\n")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert hash_file(str(path), info) != before


# What is refused


def test_a_missing_directory_and_a_file_in_its_place_say_so(root: Path) -> None:
    (problem,) = problems(root / "nothing")
    assert problem.startswith(f"sourceDirectory: {root}/nothing does not exist. Expected: a directory")
    (problem,) = problems(root / "train.py")
    assert "is a file" in problem


def test_all_problems_are_said_at_once(root: Path, tmp_path: Path) -> None:
    (root / "absolute").symlink_to("/etc/hostname")
    (root / "outside").symlink_to("../other")
    (root / "back-again").symlink_to("../src/train.py")
    (root / "pkg" / "ok").symlink_to("../train.py")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(root)  # a socket's path must be short
        server.bind("socket")
    Path(os.fsdecode(os.fsencode(root) + b"/bad-\xff-name")).write_text("")
    os.symlink(b"/\xfe", os.fsencode(root) + b"/bad-link")
    found = "\n".join(problems(root))
    for text in (
        "absolute is a link that leaves the directory (to /etc/hostname)",
        "outside is a link that leaves the directory (to ../other)",
        "back-again is a link that leaves the directory",
        "pipe is a device, socket or pipe",
        "socket is a device, socket or pipe",
        "the name bad-\\udcff-name is not UTF-8",
        "bad-link is a link that leaves the directory (to /\\udcfe)",
    ):
        assert text in found
    assert len(found.splitlines()) == 7
    found.encode("utf-8")  # a message can be sent whatever the name was
    (root / ".tfjobsignore").write_text("absolute\noutside\nback-again\npipe\nsocket\nbad-*\n")
    assert [file.path for file in scan(str(root)).files] == ["pkg/model.py", "pkg/ok", "train.py"]


def test_what_may_not_be_read_is_said_with_its_path(root: Path) -> None:
    for path in (root, *root.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    (root / "secret.txt").write_text("")
    (root / "secret.txt").chmod(0)
    (root / "closed").mkdir(mode=0)
    (root / "listed-only").mkdir()
    (root / "listed-only" / "x").write_text("")
    (root / "listed-only").chmod(0o744)

    def look() -> str:
        try:
            scan(str(root))
        except InvalidInputs as error:
            return str(error)
        return "nothing was said"

    found = as_nobody(look)
    assert "secret.txt cannot be read (Permission denied)" in found
    assert "closed/ cannot be listed (Permission denied)" in found
    assert "listed-only/x cannot be read (Permission denied)" in found
    assert found.count("sourceDirectory: ") == 3
    (root / ".gitignore").write_text("secret.txt\n")
    (root / ".gitignore").chmod(0)
    assert ".gitignore cannot be read (Permission denied)" in as_nobody(look)
    (root / "closed").chmod(0o700)


def test_a_dangling_link_is_content_as_any_other(root: Path) -> None:
    (root / "later").symlink_to("pkg/made-by-the-job")
    assert {file.path: file.mode for file in scan(str(root)).files}["later"] == "l"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make devices")
def test_a_device_is_refused(root: Path) -> None:
    try:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("not in this container")
    (problem,) = problems(root)
    assert "null is a device, socket or pipe" in problem


def test_of_many_problems_of_a_kind_the_first_are_shown(root: Path) -> None:
    for number in range(25):
        (root / f"away{number:02}").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    found = problems(root)
    assert len(found) == 22
    assert "away19 is a link that leaves" in found[19]
    assert "and 5 more links that leave the directory. Expected: links that stay inside" in found[20]
    assert "pipe is a device" in found[21]


def test_a_large_source_is_warned_of_and_a_larger_one_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert warnings_of(scan(str(root))) == ()
    for number in range(4):
        (root / f"part{number}").write_bytes(b"x" * 1024 * (number + 1))
    monkeypatch.setattr(limits, "WARN_BYTES", 10_000)
    (warning,) = warnings_of(scan(str(root)))
    assert "sourceDirectory has 10.0 KiB" in warning
    assert "the largest: part3 (4.0 KiB), part2 (3.0 KiB), part1 (2.0 KiB)." in warning
    monkeypatch.setattr(limits, "MAX_BYTES", 10_000)
    monkeypatch.setattr(workers, "digests", None)  # nothing is read to find that out
    (problem,) = problems(root)
    assert f"{root} has 10.0 KiB; the largest: part3 (4.0 KiB)" in problem
    assert "at most 9.8 KiB" in problem


def test_too_many_files_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_FILES", 1)
    (problem,) = problems(root)
    assert "has more than 1 files" in problem
    assert ".tfjobsignore" in problem


def test_folders_without_end_are_refused(root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(1_200):  # their path is too long to be named at once
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (problem,) = problems(root)
    assert "is more than 200 folders deep" in problem
    assert ".tfjobsignore" in problem
    subprocess.run(["rm", "-rf", root / "d"], check=True)  # too deep for pytest


def test_a_folder_of_millions_is_refused_before_each_file_was_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (root / f"sample{number}").touch()
    looks = []
    is_regular = stat.S_ISREG
    monkeypatch.setattr(scanning.stat, "S_ISREG", lambda mode: looks.append(mode) or is_regular(mode))
    monkeypatch.setattr(limits, "MAX_FILES", 10)
    (problem,) = problems(root)
    assert "has more than 10 files" in problem
    assert 10 < len(looks) < 20


# Inputs: data that is read where it is


def test_the_digest_of_data_is_of_its_content_whatever_ignore_files_say(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "logs").mkdir(parents=True)
    (data / ".gitignore").write_text("*\n")
    (data / "x.csv").write_text("1")
    (data / "logs" / "y").write_text("1")
    seen = {digest_of(str(data), property_path="inputs")}
    (data / "x.csv").write_text("2")
    seen.add(digest_of(str(data), property_path="inputs"))
    (data / "logs" / "y").write_text("2")
    seen.add(digest_of(str(data), property_path="inputs"))
    assert len(seen) == 3
    shutil.copytree(data, tmp_path / "copy")
    assert digest_of(str(tmp_path / "copy"), property_path="inputs") in seen


def test_links_in_data_are_followed_and_loops_end(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "far").write_text("1")
    (data / "x").symlink_to(tmp_path / "far")
    (data / "self").symlink_to(data)
    before = digest_of(str(data), property_path="inputs")
    (tmp_path / "far").write_text("2")
    assert digest_of(str(data), property_path="inputs") != before
    assert digest_of(str(data / "x"), property_path="i") == hashlib.sha256(b"2").hexdigest()


@pytest.mark.parametrize("path", ["missing", "folder-with-pipe", "folder-with-dangling", "pipe", "nul\0byte"])
def test_data_that_cannot_be_read_is_said_and_never_waited_for(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder-with-pipe").mkdir()
    os.mkfifo(tmp_path / "folder-with-pipe" / "pipe")
    (tmp_path / "folder-with-dangling").mkdir()
    (tmp_path / "folder-with-dangling" / "link").symlink_to("nowhere")
    with pytest.raises(InvalidInputs) as caught:
        digest_of(str(tmp_path / path), property_path='inputs["data"]')
    (problem,) = caught.value.problems
    assert problem.path == 'inputs["data"]'
    assert "cannot be read" in problem.found


# Copies


def test_a_snapshot_is_the_source_and_belongs_to_the_user_alone(root: Path, tmp_path: Path) -> None:
    (root / "run.sh").write_text("true")
    (root / "run.sh").chmod(0o755)
    (root / "pkg" / "link").symlink_to("../train.py")
    (root / "ignored.log").write_text("")
    (root / ".tfjobsignore").write_text("*.log\n")
    manifest = scan(str(root))
    copy = Path(snapshot(manifest, str(tmp_path / "store" / "sources")))
    assert copy.name == manifest.digest
    assert scan(str(copy)).digest == manifest.digest
    assert sorted(path.name for path in copy.iterdir()) == ["pkg", "run.sh", "train.py"]
    assert (copy / "pkg" / "link").resolve() == (copy / "train.py")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (copy, copy / "run.sh", copy / "train.py")}
    assert modes == {manifest.digest: 0o700, "run.sh": 0o700, "train.py": 0o600}


def test_a_snapshot_is_taken_once(root: Path, tmp_path: Path) -> None:
    manifest = scan(str(root))
    copy = snapshot(manifest, str(tmp_path / "sources"))
    shutil.rmtree(root)  # what is kept already needs the source no more
    assert snapshot(manifest, str(tmp_path / "sources")) == copy
    assert os.listdir(tmp_path / "sources") == [manifest.digest]


def test_many_processes_take_one_snapshot(root: Path, tmp_path: Path) -> None:
    for index in range(50):
        (root / f"file{index}").write_text("x" * 1000)
    sources = str(tmp_path / "sources")
    (answer,) = set(at_once(take_snapshot, [(sources, str(root))] * 4))
    assert os.listdir(sources) == [os.path.basename(answer)]
    assert scan(answer).digest == os.path.basename(answer)


@pytest.mark.parametrize("change", ["edit", "remove", "retarget"])
def test_a_source_that_changes_after_it_was_hashed_is_not_run(root: Path, tmp_path: Path, change: str) -> None:
    (root / "link").symlink_to("train.py")
    manifest = scan(str(root))
    if change == "edit":
        (root / "train.py").write_text("print(9)\n")
    elif change == "remove":
        (root / "train.py").unlink()
    else:
        (root / "link").unlink()
        (root / "link").symlink_to("pkg/model.py")
    with pytest.raises(InvalidInputs) as caught:
        snapshot(manifest, str(tmp_path / "sources"))
    (problem,) = caught.value.problems
    assert problem.path == "sourceDirectory"
    assert "while it was being copied" in problem.found
    assert os.listdir(tmp_path / "sources") == []


def test_a_store_that_cannot_be_written_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "sources").write_text("a file")
    with pytest.raises(StoreError, match="the source cannot be copied"):
        snapshot(scan(str(root)), str(tmp_path / "sources"))


def test_a_working_copy_is_writable_private_and_replaces_a_half_made_one(root: Path, tmp_path: Path) -> None:
    manifest = scan(str(root))
    kept = snapshot(manifest, str(tmp_path / "sources"))
    work = tmp_path / "attempt" / "src"
    (work / "left-over").mkdir(parents=True)
    (work / "train.py").write_text("half")
    check_out(manifest, kept, str(work))
    assert scan(str(work)).digest == manifest.digest
    assert not (work / "left-over").exists()
    (work / "train.py").write_text("the script's own")
    assert scan(kept).digest == manifest.digest


@pytest.mark.parametrize("damage", ["edit", "remove"])
def test_a_damaged_snapshot_never_runs_and_is_made_again(root: Path, tmp_path: Path, damage: str) -> None:
    manifest = scan(str(root))
    sources = str(tmp_path / "sources")
    kept = snapshot(manifest, sources)
    if damage == "edit":
        Path(kept, "train.py").write_text("print(0)\n")
    else:
        Path(kept, "train.py").unlink()
    with pytest.raises(StoreError, match=r"damaged .*run `pulumi up` again"):
        check_out(manifest, kept, str(tmp_path / "work"))
    check_out(manifest, snapshot(manifest, sources), str(tmp_path / "work"))
    assert scan(str(tmp_path / "work")).digest == manifest.digest
