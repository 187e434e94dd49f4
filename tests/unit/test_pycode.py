"""Python files by their tokens, and what is said of a file that changed."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import tokenize
from pathlib import Path

import pytest

from pulumi_tfjobs.spec.pycode import NotCode, code_digest, compare, tokens_of

SCRIPT = b'''\
#!/usr/bin/env python
"""Train."""
import os

def step(x, *, rate: float = 1e-3) -> float:
    if x > 0 and (x
                  < 10):
        return x * rate  # shrink
    return f"{x!r:>{10}} {os.environ['A']} {{}}" "\\\\n"

lambda: (yield)
x = [1, 2,
     3] ; y = 0x1F + 1_000.5e-3j ** -2
@step
class A: pass
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"# shrink", b"# grow"),
        (b"  # shrink", b""),
        (b"import os\n\n", b"# here\nimport os\n\n\n   \n    # there\n"),
        (b"x * rate", b"x*rate"),
        (b"[1, 2,\n     3]", b"[1,2,3]"),
        (b"x > 0 and", b"x > 0 \\\n  and"),
        (b"\n", b"\r\n"),
        (b"    ", b"\t"),
        (b"    ", b"  "),
        (b"#!/usr/bin/env python\n", b"\xef\xbb\xbf"),
        (b"class A: pass\n", b"class A: pass"),
    ],
)
def test_comments_blank_lines_and_white_space_are_no_code(old: bytes, new: bytes) -> None:
    assert old in SCRIPT
    assert code_digest(SCRIPT.replace(old, new)) == code_digest(SCRIPT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"1e-3", b"1e-4"),
        (b'"""Train."""', b'"""Train it."""'),
        (b"{{}}", b"{{ }}"),
        (b"!r:>", b"!s:>"),
        (b"    return f", b"        return f"),
        (b"x * rate", b"x ** rate"),
        (b"and", b"or"),
        (b"] ; y", b"]\ny"),
    ],
)
def test_everything_else_is(old: bytes, new: bytes) -> None:
    assert old in SCRIPT
    assert code_digest(SCRIPT.replace(old, new)) != code_digest(SCRIPT)


def test_the_digest_is_the_same_for_every_python() -> None:
    # It is part of what names a run: where this fails, CODE_VERSION and all runs that were named so change.
    assert code_digest(SCRIPT) == "51f1ee235db7c826e74609bd1aabbeefb075e58ab788978cfc9fae9f6c4b1886"
    nested = b"x = f\"{d[\"a\"]:{w}}\" f'''{\n x # }\n}'''\n"  # Pythons before 3.12 see other tokens here
    assert tokens_of(nested)[0] == ["x", "=", 'f"{d["a"]:{w}}"', "f'''{\n x # }\n}'''", "\1n"]


@pytest.mark.parametrize("text", ["print('x\n", "x = (1\n", "x = 1)\n", "if x:\n    y\n  z\n", "a ? b\n", "x\0\n"])
def test_what_is_not_python_counts_by_its_content(text: str) -> None:
    data = text.encode()
    with pytest.raises(NotCode):
        tokens_of(data)
    assert code_digest(data) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"if x:\n    y\n\\\nz\n", b"if x:\n    y\n\\\n    z\n"),  # z is in the block, or behind it
        (b"if x:\n\ty\n\tz\n", b"if x:\n        y\n\tz\n"),  # TabError
        (b"# coding: utf-8\nx = '+AGE-'\n", b"# coding: utf-7\nx = '+AGE-'\n"),
        (b"# coding: utf-8\nx = '\\\\n'\n", b"# coding: unicode_escape\nx = '\\\\n'\n"),
        (b"# any\nx = 1\n", b"# coding: none\nx = 1\n"),
        (b"# any\nx = 1\n", b"# coding: undefined\nx = 1\n"),
        ("#\r# any\r# coding: latin-1\rx = 'ä'\r".encode(), "#\r# coding: latin-1\r#\rx = 'ä'\r".encode()),
        (b"\xef\xbb\xbfx = 1\n", b"\xef\xbb\xbf\xef\xbb\xbfx = 1\n"),
        (b"x = 1\n", b"x = 1\\\n"),
        (b"x = 0 or 1\n", b"x = 0or 1\n"),
        (b"from __future__ import barry_as_FLUFL\n1 <> 2\n", b"from __future__ import barry_as_FLUFL\n1 < > 2\n"),
        (b'f"\\{d[\'a\']}{d["a b"]}"\n', b'f"\\{d[\'a\']}{d["a  b"]}"\n'),  # since 3.12
        (b'rf"\\{d["a b"]}"\n', b'rf"\\{d["a  b"]}"\n'),
    ],
)
def test_what_python_reads_otherwise_never_counts_as_the_same(old: bytes, new: bytes) -> None:
    assert code_digest(old) != code_digest(new)
    assert compare(old, new, "x.py").note != "comments only"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [b'f"{' * 40, b'f"{' * 5_000, b'f"{" ' * 100_000, b"f'{(" * 2_000, b"f'{x:" * 2_000])
def test_what_only_looks_like_strings_in_strings_takes_no_time(text: bytes) -> None:
    assert code_digest(text) == hashlib.sha256(text).hexdigest()


def test_another_encoding_is_read_as_the_file_says() -> None:
    latin = "# coding: latin-1\nx = 'ä'\n".encode("latin-1")
    assert code_digest(latin) == code_digest("# coding: utf-8\nx   = 'ä'\n".encode())
    assert code_digest(b"# coding: nothing\nx\xff") == hashlib.sha256(b"# coding: nothing\nx\xff").hexdigest()


def tokens_by_tokenize(data: bytes) -> list[str]:
    found, depth, start = [], 0, (0, 0)
    lines = data.decode().split("\n")
    dropped = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
    names = {tokenize.NEWLINE: "\1n", tokenize.INDENT: "\1>", tokenize.DEDENT: "\1<"}
    for token in tokenize.tokenize(io.BytesIO(data).readline):
        kind = tokenize.tok_name[token.type]
        if kind in {"FSTRING_START", "TSTRING_START"}:
            start = start if depth else token.start
            depth += 1
        elif kind in {"FSTRING_END", "TSTRING_END"}:
            depth -= 1
            if not depth:
                first, last = start[0] - 1, token.end[0] - 1
                text = "\n".join(lines[first : last + 1])
                found.append(text[start[1] : len(text) - len(lines[last]) + token.end[1]])
        elif not depth and token.type not in dropped:
            found.append(names.get(token.type, token.string))
    return found


def test_the_tokens_are_those_of_tokenize() -> None:
    folder = Path(tokenize.__file__).parent
    paths = [path for name in ("asyncio", "json", "unittest", "email") for path in (folder / name).glob("*.py")]
    paths += [folder / name for name in ("argparse.py", "typing.py", "dataclasses.py", "tokenize.py", "datetime.py")]
    assert len(paths) > 60
    for path in paths:
        assert tokens_of(path.read_bytes())[0] == tokens_by_tokenize(path.read_bytes()), path


# What became of a file


def test_what_kind_of_change_it_was_is_said() -> None:
    def note(old: bytes, new: bytes, path: str = "train.py") -> str:
        return compare(old, new, path).note

    assert note(b"x = 1\n", b"x = 1  # one\n") == "comments only"
    assert note(b"x = 1\n", b"x  =  1\n\n") == "whitespace only"
    assert note(b"x = 1\n", b"x = 2  # one\n") == ""
    assert note(b"x = 1\n", b"x = 1  # one\n", "config.yaml") == ""
    assert note(b"a:\n  b\n", b"a:  \n\n  b\r\n", "config.yaml") == "whitespace only"
    assert note(b"a:\n  b\n", b"a:\n b\n", "config.yaml") == ""
    assert note(b"print('\n", b"print('  \n") == "whitespace only"  # not Python: as any other text
    assert compare(b"a\0", b"b", "x") == (None, None, "binary", "")
    assert compare(b"a", b"\xff", "x") == (None, None, "binary", "")
    assert compare(None, b"a\nb", "x") == (
        2,
        0,
        "",
        "--- /dev/null\n+++ b/x\n@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n",
    )
    assert compare(b"a\n", None, "x")[:3] == (0, 1, "")
    assert compare(b"a\n", b"a\n", "x") == (0, 0, "", "")


def test_lines_are_counted_as_git_does_and_the_diff_applies(tmp_path: Path) -> None:
    dice = random.Random(7)
    for _ in range(60):
        kinds = dice.choice((3, 8, 30, 200))
        old = [f"line {dice.randint(0, kinds)}\n" for _ in range(dice.randint(0, dice.choice((10, 80))))]
        new = list(old)
        for _ in range(dice.randint(1, 12)):
            at = dice.randint(0, len(new))
            new[at : at + dice.randint(0, 1)] = dice.choice(([], [f"line {dice.randint(0, kinds)}\n"], ["new\n"]))
        before, after = "".join(old), "".join(new)[: dice.choice((None, -1))]
        (tmp_path / "old").write_text(before)
        (tmp_path / "new").write_text(after)
        said = subprocess.run(
            ["git", "diff", "--no-index", "--numstat", "old", "new"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        found = compare(before.encode(), after.encode(), "old")
        assert [str(found.added), str(found.removed)] == (said[:2] or ["0", "0"])
        if found.diff:
            subprocess.run(["git", "apply"], input=found.diff, cwd=tmp_path, check=True, text=True)
        assert (tmp_path / "old").read_text() == after


def test_a_long_diff_is_cut_and_says_by_how_much() -> None:
    found = compare(b"", b"".join(b"%d\n" % number for number in range(1000)), "x")
    lines = found.diff.splitlines()
    assert (found.added, len(lines), lines[-1]) == (1000, 201, "… 803 more lines")
    found = compare(b"", b"".join(b"%d" % number * 3000 + b"\n" for number in range(10)), "x")
    assert len(found.diff) <= 20_000 + 30
    assert found.diff.splitlines()[-1].startswith("… ")


@pytest.mark.timeout(20)
def test_files_of_50_000_lines_do_not_take_long() -> None:
    lines = [f"line {number}" for number in range(50_000)]
    shuffled = random.Random(1).sample(lines, len(lines))
    before = "\n".join(lines).encode()
    assert compare(before, "\n".join(shuffled).encode(), "x") == (None, None, "", "")
    assert compare(before, "\n".join(lines[::2]).encode(), "x")[:2] == (1, 25_001)
    assert compare(before, b"a\nb\n" * 25_000, "x")[:2] == (50_000, 50_000)
