"""Logs that grow long: head and tail are kept, never more than the cap; and how they are read."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_tfjobs import observe
from pulumi_tfjobs.targets import logfiles
from pulumi_tfjobs.targets.local.logs import Log, make_pipe
from pulumi_tfjobs.targets.local.masking import Secrets
from pulumi_tfjobs.targets.logfiles import Follower, left_out, pieces, read_all, tail_bytes

CAP = 64 * 1024
HEAD = CAP // 2
PIECE = CAP // 16

CHUNKS = st.lists(
    st.tuples(st.sampled_from(["lines", "long lines", "binary", "line"]), st.integers(1, 3 * CAP), st.integers(0, 99)),
    max_size=12,
)


def chunk(kind: str, size: int, seed: int) -> bytes:
    source = random.Random(seed)
    if kind == "binary":
        return source.randbytes(size)
    if kind == "line":
        return b"x" * (size % 200) + b"\n"
    width = 12 if kind == "lines" else 3000
    return b"".join(b"%0*d\n" % (width, number) for number in range(seed, seed + size // width + 1))


def lines(first: int, last: int) -> bytes:
    return b"".join(b"line %07d\n" % number for number in range(first, last))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    (tmp_path / "replicas").mkdir()
    return Log(str(tmp_path / "replicas" / "worker-0.log"), CAP)


@settings(deadline=None)
@given(chunks=CHUNKS)
def test_head_and_tail_are_kept_and_the_cap_is_never_exceeded(chunks: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Log(os.path.join(folder, "worker-0.log"), CAP)
        printed = b""
        for each in chunks:
            printed += chunk(*each)
            log.write(chunk(*each))
            sizes = [os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)]
            assert sum(-(-size // 4096) * 4096 for size in sizes) <= CAP, "in whole blocks, as they are on disk"
        log.close()
        assert log.error is None
        kept = [Path(piece.path).read_bytes() for piece in pieces(log.path)]
        for piece, content in zip(pieces(log.path), kept, strict=True):
            assert printed[piece.start : piece.end] == content, "each is where its name says"
        head, tail = kept[0], b"".join(kept[1:])
        assert printed.endswith(tail or head)
        if len(printed) > CAP:
            assert len(head) >= HEAD - PIECE
            assert len(tail) >= HEAD - 2 * PIECE
        if len(printed) <= CAP - 2 * PIECE:
            assert head + tail == printed, "a log that fits is whole"
            assert read_all(log.path) == printed
        missing = len(printed) - len(head) - len(tail)
        assert len(read_all(log.path)) <= len(head + tail + left_out(missing)) + 1
        assert logfiles.size(log.path) == len(head) + len(tail)


def test_what_is_left_out_is_told_between_whole_lines(log: Log) -> None:
    printed = lines(0, 100_000)
    for at in range(0, len(printed), 777):
        log.write(printed[at : at + 777])
    log.close()
    shown = read_all(log.path).split(b"\n")
    (seam,) = [number for number, line in enumerate(shown) if b"left out" in line]
    missing = len(printed) - sum(len(line) + 1 for line in shown[:seam]) - sum(len(line) + 1 for line in shown[seam:-2])
    assert shown[:seam] == lines(0, seam).split(b"\n")[:-1]
    kept = len(shown) - seam - 2
    assert shown[seam + 1 :] == lines(100_000 - kept, 100_000).split(b"\n")
    assert shown[seam] == f"[... {(100_000 - seam - kept) * 13 / 2**20:.1f} MiB left out ...]".encode(), missing


def test_a_line_of_megabytes_is_cut_and_the_seam_has_a_line_of_its_own(log: Log) -> None:
    log.write(b"begin" + b"x" * 5_000_000 + b"end\nnext\n")
    log.close()
    head, mark, tail = read_all(log.path).split(b"\n", 2)
    assert head.startswith(b"beginx")
    assert mark == b"[... 4.7 MiB left out ...]"
    assert tail.endswith(b"xend\nnext\n")


def test_bytes_that_are_no_text_stay_as_they_are(log: Log) -> None:
    printed = bytes(range(256)) * 100
    log.write(printed)
    log.close()
    assert read_all(log.path) == printed
    assert log.last_line()
    assert observe.tail(log.path)


@pytest.mark.parametrize(("count", "text"), [
    (1, b"1 byte"),
    (1023, b"1023 bytes"),
    (1024, b"1.0 KiB"),
    (9_878_424_780, b"9.2 GiB"),
    (2**55, b"32768.0 TiB"),
])  # fmt: skip
def test_amounts(count: int, text: bytes) -> None:
    assert left_out(count) == b"[... %b left out ...]\n" % text


def test_a_restart_takes_all_pieces_along(log: Log, tmp_path: Path) -> None:
    log.write(lines(0, 20_000))
    before = read_all(log.path)
    moved = tmp_path / "restarts" / "1"
    log.restart(str(moved))
    assert read_all(log.path) == b""
    assert read_all(str(moved / "worker-0.log")) == before
    assert b"left out" in before
    log.write(b"again\n")
    log.write(lines(0, 20_000))
    assert read_all(log.path).startswith(b"again\nline 0000000\n")
    assert log.last_line() == "line 0019999"
    log.close()


def test_a_piece_that_cannot_be_opened_holds_nobody_up(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write(lines(0, 1_000))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    log.write(lines(1_000, 10_000))
    log.write(b"last\n")
    assert log.error is not None
    monkeypatch.undo()
    log.close()
    shown = read_all(log.path)
    assert shown.startswith(lines(0, 2_000))
    assert shown.endswith(b"line 0009999\nlast\n"), "its end was written once there was room again"
    assert b"output lost" in shown or b"left out" in shown
    assert logfiles.size(log.path) <= CAP


def test_the_space_of_pieces_that_somebody_deleted_is_nobodys_problem(log: Log) -> None:
    log.write(lines(0, 5_000))
    for piece in pieces(log.path)[1:]:
        os.unlink(piece.path)
    log.write(lines(5_000, 20_000))
    assert log.error is None
    assert read_all(log.path).endswith(b"line 0019999\n")
    log.close()


def test_secrets_are_in_no_file_and_in_no_tail(tmp_path: Path) -> None:
    secret = "s3cr3t-token"
    log = Log(str(tmp_path / "worker-0.log"), CAP, Secrets({"TOKEN": secret}).masker())
    reader, writer = make_pipe()
    log.connect(reader)
    for part in ("a ", secret[:5], secret[5:] + " b\n", "c " + secret[:7]):
        os.write(writer, part.encode())
        log.drain()
    assert log.tail(100) == "a *** b\nc "
    assert log.due is None, "half of it is not shown, however long it takes"
    os.write(writer, b"x s")
    log.drain()
    assert log.due is not None
    log.show_held()
    assert log.due is None
    assert log.last_line() == "c s3cr3t-x s"
    os.write(writer, secret[1:].encode())
    os.close(writer)
    log.drain()
    log.close()
    assert read_all(log.path) == b"a *** b\nc s3cr3t-x s***"


# Readers


def test_the_tail_begins_with_a_line_where_one_begins(log: Log) -> None:
    log.write(lines(0, 100_000))
    log.write(b"\xff\n")
    assert tail_bytes(log.path, 28) == lines(99_998, 100_000) + b"\xff\n"
    assert tail_bytes(log.path, 29) == lines(99_998, 100_000) + b"\xff\n"
    assert tail_bytes(log.path, 10) == b"\xff\n"
    assert tail_bytes(log.path, 10 * PIECE).split(b"\n", 1)[0].endswith(b"left out ...]"), "more than is kept"
    assert tail_bytes(log.path, 10**9) == read_all(log.path)
    assert observe.tail(log.path, lines=2) == "line 0099999\n\ufffd"
    log.close()


def test_who_reads_along_misses_nothing(log: Log) -> None:
    follower = Follower(log.path)
    assert follower.read() == b""
    printed, seen = lines(0, 30_000), b""
    for at in range(0, len(printed), 1_000):
        log.write(printed[at : at + 1_000])
        seen += b"".join(iter(follower.read, b""))
    assert seen == printed
    assert follower.position == len(printed)
    follower.close()
    log.close()


def test_who_reads_too_slowly_is_told_what_is_missing(log: Log) -> None:
    follower = Follower(log.path)
    log.write(b"first\n")
    assert follower.read() == b"first\n"
    log.write(lines(0, 100_000))
    seen = b"".join(iter(lambda: follower.read(5_000), b""))
    assert seen == read_all(log.path).removeprefix(b"first\n")
    assert seen.count(b"left out") == 1
    before = follower.position
    log.write(lines(100_000, 200_000))
    seen = b"".join(iter(follower.read, b""))
    kept = seen.split(b"...]\n", 1)[1]
    assert seen == left_out(100_000 * 13 - len(kept)) + kept
    assert follower.position == before + 100_000 * 13
    assert seen.endswith(b"line 0199999\n")
    follower.close()
    log.close()


def test_a_restart_is_followed_after_the_last_words_before_it(log: Log, tmp_path: Path) -> None:
    restarts = tmp_path / "restarts"
    follower = Follower(log.path)
    log.write(lines(0, 20_000))
    while follower.read():
        pass
    log.write(b"the error")
    log.restart(str(restarts / "1"))
    log.write(b"again\n")
    seen = b"".join(iter(follower.read, b""))
    assert seen == b"the error\n" + logfiles.BEGUN_ANEW + b"again\n"
    log.write(lines(0, 20_000))
    log.restart(str(restarts / "2"))
    log.write(b"once more\n")
    seen = b"".join(iter(follower.read, b""))
    before = read_all(str(restarts / "2" / "worker-0.log")).removeprefix(b"again\n")
    assert seen == before + logfiles.BEGUN_ANEW + b"once more\n", "however little of it was read"
    assert follower.restarts == 2
    shutil.rmtree(restarts)
    log.restart(str(tmp_path / "elsewhere"))
    assert follower.read() == logfiles.BEGUN_ANEW
    assert follower.read() == b""
    follower.close()
    log.close()


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    path = str(tmp_path / "replicas" / "worker-0.log")
    follower = Follower(path, last=100)
    assert follower.read() == b""
    assert (read_all(path), tail_bytes(path, 10), pieces(path), logfiles.size(path)) == (b"", b"", [], 0)
    os.makedirs(os.path.dirname(path))
    log = Log(path, CAP)
    log.write(b"one\n" * 1_000)
    assert follower.read() == b"one\n" * 1_000
    follower.close()
    log.close()


def test_following_from_the_last_lines_on(log: Log) -> None:
    log.write(lines(0, 100_000))
    follower = Follower(log.path, last=30)
    assert follower.read() == lines(99_998, 100_000)
    log.write(b"more\n")
    assert follower.read() == b"more\n"
    follower.close()
    log.close()


def test_reading_ends_though_the_log_goes_on(log: Log) -> None:
    log.write(b"x\n" * 100)
    chunks = logfiles.iter_bytes(log.path)
    for number, data in enumerate(chunks):
        log.write(data)
        assert number < 10
    log.close()


def test_a_reader_is_not_confused_by_other_files(log: Log) -> None:
    log.write(b"x\n")
    log.close()
    for name in (".tail.", ".tail.x", ".tail.\u00b2", ".tail.1.tmp", ".1", "s"):
        Path(log.path + name).write_text("other\n")
    os.mkfifo(log.path + ".tail.2")
    assert read_all(log.path) == b"x\n"
    assert tail_bytes(log.path, 100) == b"x\n"
