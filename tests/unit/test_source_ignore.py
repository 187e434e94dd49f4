"""What belongs to a source directory: gitignore's rules, ours, and which file's rules count."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from pulumi_tfjobs.store.source import scan


def lay(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)


def listed(root: Path) -> list[str]:
    return [file.path for file in scan(str(root)).files]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


def test_everything_is_listed_in_order_where_nothing_is_ignored(root: Path) -> None:
    lay(root, "train.py", "b/z.txt", "b/a/x", "a.txt", ".hidden")
    assert listed(root) == [".hidden", "a.txt", "b/a/x", "b/z.txt", "train.py"]


@pytest.mark.parametrize(
    ("present", "counts"),
    [
        ((".tfjobsignore", ".amlignore", ".gitignore"), ".tfjobsignore"),
        ((".amlignore", ".gitignore"), ".amlignore"),
        ((".gitignore",), ".gitignore"),
        ((".tfjobsignore", ".gitignore"), ".tfjobsignore"),
    ],
)
def test_the_most_specific_ignore_file_counts_alone(root: Path, present: tuple[str, ...], counts: str) -> None:
    lay(root, "train.py", "tfjobsignore.txt", "amlignore.txt", "gitignore.txt")
    for name in present:
        (root / name).write_text(f"{name[1:]}.txt\n")
    expected = {"train.py", "tfjobsignore.txt", "amlignore.txt", "gitignore.txt"} - {f"{counts[1:]}.txt"}
    assert set(listed(root)) == expected


def test_an_ignore_file_is_no_part_of_the_source(root: Path) -> None:
    lay(root, "train.py", "sub/x", ".amlignore", "sub/.gitignore", ".tfjobsignore")
    (root / ".tfjobsignore").write_text("# nothing\n")
    before = scan(str(root))
    assert [file.path for file in before.files] == ["sub/x", "train.py"]
    (root / ".tfjobsignore").write_text("# a comment\nnot-there/\n")
    (root / "sub" / ".gitignore").write_text("x\n")
    assert scan(str(root)).digest == before.digest


def test_what_every_job_leaves_out_and_how_to_take_it_back(root: Path) -> None:
    lay(root, "train.py", ".git/HEAD", "a/.git/HEAD", "__pycache__/t.pyc", "a/t.pyc", "outputs/model", "logs/events")
    lay(root, "a/outputs/kept", "a/logs/kept", ".venv/bin/python", ".pulumi/state", ".ipynb_checkpoints/x", ".DS_Store")
    assert listed(root) == ["a/logs/kept", "a/outputs/kept", "train.py"]
    (root / ".tfjobsignore").write_text("!logs/\n!outputs/\n!*.pyc\n")
    assert listed(root) == ["a/logs/kept", "a/outputs/kept", "a/t.pyc", "logs/events", "outputs/model", "train.py"]


def test_nested_gitignores_count_and_the_nearest_decides(root: Path) -> None:
    lay(root, "a.csv", "data/b.csv", "data/raw/c.csv", "data/raw/d.txt")
    (root / ".gitignore").write_text("*.csv\n")
    (root / "data" / ".gitignore").write_text("!*.csv\n")
    (root / "data" / "raw" / ".gitignore").write_text("/c.csv\n")
    assert listed(root) == ["data/b.csv", "data/raw/d.txt"]
    # With an ignore file of ours, git's are not asked.
    (root / ".tfjobsignore").write_text("*.txt\n")
    assert listed(root) == ["a.csv", "data/b.csv", "data/raw/c.csv"]


def test_an_ignored_folder_is_not_entered_even_for_what_is_taken_back(root: Path) -> None:
    lay(root, "big/keep.txt", "half/keep.txt", "half/drop.txt")
    (root / ".gitignore").write_text("big/\n!big/keep.txt\nhalf/*\n!half/keep.txt\n")
    assert listed(root) == ["half/keep.txt"]


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(root: Path) -> None:
    lay(root, "train.py", "a.csv", "b.txt")
    (root / ".gitignore").write_bytes(b"\xef\xbb\xbf*.csv\r\n*.txt\r\n")
    assert listed(root) == ["train.py"]


def test_a_pattern_that_means_nothing_is_passed_over(root: Path) -> None:
    lay(root, "train.py", "a.csv")
    (root / ".gitignore").write_text("!\n/\n///\n[\n[a\nx\\\n\n   \n[[:nothing:]]\n[z-a]\n*.csv\n")
    assert listed(root) == ["train.py"]


TREE = (
    "top.txt", "important.log", "other.log", "#hash", "!bang", "spaces ", "aa.txt", "x1.txt", "y", "sub/keep.log",
    "sub/x.txt", "deep/x.txt", "deep/y/f", "deep/er/x.txt", "deep/er/z.txt", "deep/er/still/x.txt", "foo/a", "foo/a-b",
    "foo/bar/b", "foo/bar/c.txt", "foo/bar/foo/a", "Z9", "ümlaut.txt",
)  # fmt: skip


def said_by_git(root: Path) -> list[str]:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "LC_ALL": "C.UTF-8"}
    if not (root / ".git").exists():
        subprocess.run(["git", "init", "-q", str(root)], check=True, env=environment)
    said = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--others", "--exclude-standard"],
        check=True,
        env=environment,
        capture_output=True,
    ).stdout.decode()
    return sorted(path for path in said.split("\0") if path and not path.endswith(".gitignore"))


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="compares with git itself")


@needs_git
@pytest.mark.parametrize(
    "rules",
    [
        {"": "*.log\n!important.log\n"},
        {"": "/top.txt\ndeep/**/x.txt\n**/y\n"},
        {"": "sub\n"},
        {"": "sub/\n!sub/\n"},
        {"": "*\n!*/\n!*.txt\n"},
        {"": "*.txt\n!deep/\n"},
        {"": "deep/*\n!deep/er\n"},
        {"": "a?.txt\n[xy]*.txt\n\\#hash\n\\!bang\nspaces\\ \n"},
        {"": "*.txt\n", "deep/": "!x.txt\n", "deep/er/": "x.txt\n!/z.txt\n"},
        {"deep/": "/er\n", "sub/": "*\n!.gitignore\n!keep.log\n"},
        {"": "deep/er\n", "deep/": "!er\n"},
        {"": "foo/**\n!foo/bar/\n"},
        {"": "foo/**/a\n**/bar/**\n"},
        {"": "[!a-w]*\n![[:upper:]]?\n"},
        {"": "foo**a\nt*p.t?t\n/**/keep.log\n"},
        {"": "[]x]1.txt\nfoo[/]a\nfoo/a[-]b\n[^\\#]*h\n"},
        {"": "foo**/c.txt\nfoo**//\ndeep/e**/x.txt\n"},
        {"": "*\n!foo/\n!foo/ba**\n"},
        {"": "!\n//\n[a\nx\\\n[[:nothing:]]*\n[z-a]*\nother.log\n"},
    ],
    ids=range(19),
)
def test_the_rules_are_gits_own(root: Path, rules: dict[str, str]) -> None:
    lay(root, *TREE)
    for folder, text in rules.items():
        (root / folder / ".gitignore").write_text(text)
    (root / ".gitignore").touch()
    assert listed(root) == said_by_git(root)


@needs_git
def test_the_rules_are_gits_own_for_patterns_that_nobody_thought_of(root: Path) -> None:
    lay(root, *TREE)
    dice = random.Random(20240611)
    parts = ("*", "**", "?", "/", "/", "foo", "deep", "er", "a", "x", ".txt", "bar", "[a-f]", "[!x]", "-", "\\a", "[")
    for _ in range(60):
        lines = [
            dice.choice(("", "", "!")) + "".join(dice.choices(parts, k=dice.randint(1, 5))) + dice.choice(("", "", "/"))
            for _ in range(dice.randint(1, 5))
        ]
        (root / ".gitignore").write_text("\n".join(lines))
        assert listed(root) == said_by_git(root), lines
