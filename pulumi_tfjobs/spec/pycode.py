"""What of a Python file counts where only its code does: its tokens.

The tokens are found here and not by ``tokenize``, whose answer differs from one Python to the next (f-strings since
3.12, what is an error): the digest of a file must not. Comments, blank lines, the width of indentation and white space
between tokens are not part of it; docstrings are.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import NamedTuple

from pulumi_tfjobs.spec.linediff import counts_and_diff

# Counted up when the same file gets another digest than before.
CODE_VERSION = 2

_INDENT, _DEDENT, _NEWLINE = "\1>", "\1<", "\1n"
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\f]+ | \\\n)
    | (?P<comment>\#[^\n]*)
    | (?P<newline>\n)
    | (?P<quote>[rRbBuUfFtT]{0,2}(?:\"{3}|'{3}|\"|'))
    | (?P<number>
        (?:\d(?:_?\d)*\.(?:\d(?:_?\d)*)?|\.\d(?:_?\d)*)(?:[eE][-+]?\d(?:_?\d)*)?[jJ]?
        | \d(?:_?\d)*[eE][-+]?\d(?:_?\d)*[jJ]?
        | \d(?:_?\d)*[jJ]
        | 0[xX](?:_?[0-9a-fA-F])+ | 0[bB](?:_?[01])+ | 0[oO](?:_?[0-7])+
        | 0(?:_?0)*(?![xXoObB]) | [1-9](?:_?[0-9])*
      )
    | (?P<name>(?:[A-Za-z0-9_]|[^\x00-\x7f])+)
    | (?P<operator>\*\*=|//=|>>=|<<=|\.\.\.|!=|->|:=|\*\*|//|>>|<<|<>|<=|>=|==|\+=|-=|\*=|/=|%=|&=|\|=|\^=|@=
        | [-+*/%&|^~@<>=.,:;!])
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    """,
    re.VERBOSE,
)
_REST = {  # of a string, once its quotes are open
    "'": re.compile(r"[^\n'\\]*(?:\\.[^\n'\\]*)*'", re.DOTALL),
    '"': re.compile(r'[^\n"\\]*(?:\\.[^\n"\\]*)*"', re.DOTALL),
    "'''": re.compile(r"[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''", re.DOTALL),
    '"""': re.compile(r'[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""', re.DOTALL),
}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
# Python allows no more f-strings in one another. Of strings that only older Pythons could read a program has none or a
# few: what has many is no program, and would take long.
_MOST_NESTED = 150
_MOST_OLD_STRINGS = 20
_COOKIE_LINES = re.compile(rb"[^\r\n]*(?:\r\n?|\n)?[^\r\n]*")


class NotCode(ValueError):
    """The file is not made of Python's tokens."""


class Comparison(NamedTuple):
    """How a file differs from before: lines ``added`` and ``removed`` (None: not text, or too much of it to say).

    ``note``: ``comments only``, ``whitespace only``, ``binary`` or empty. ``diff``: a unified diff, perhaps cut.
    """

    added: int | None
    removed: int | None
    note: str
    diff: str


def code_digest(data: bytes) -> str:
    """SHA-256 (hex) of a Python file's tokens, the same by every Python; of its content where it is not Python."""
    try:
        tokens, _ = tokens_of(data)
    except NotCode:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha256("\0".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()


def compare(before: bytes | None, after: bytes | None, path: str) -> Comparison:
    """What became of a file; None: there was or is none."""
    old, new = _text(before), _text(after)
    if old is None or new is None:
        return Comparison(None, None, "binary", "")
    added, removed, diff = counts_and_diff(old, new, path, is_new=before is None, is_gone=after is None)
    note = ""
    if before is not None and after is not None and before != after:
        note = _note(before, after, old, new, path)
    return Comparison(added, removed, note, diff)


def _text(data: bytes | None) -> str | None:
    if data is None:
        return ""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _note(before: bytes, after: bytes, old: str, new: str, path: str) -> str:
    if path.endswith(".py"):
        try:
            (tokens, comments), (tokens_now, comments_now) = tokens_of(before), tokens_of(after)
        except NotCode:
            pass
        else:
            if tokens != tokens_now:
                return ""
            return "comments only" if comments != comments_now else "whitespace only"
    # Indentation may mean something in a text that we do not know; ends of lines and blank lines do not.
    return "whitespace only" if _bare(old) == _bare(new) else ""


def _bare(text: str) -> list[str]:
    return [line for line in map(str.rstrip, text.split("\n")) if line]


def tokens_of(data: bytes) -> tuple[list[str], list[str]]:
    """The tokens, and apart from them the comments. Raises NotCode."""
    text = _decoded(data)
    tokens: list[str] = []
    comments: list[str] = []
    indents = [(0, 0)]
    brackets: list[str] = []
    old_strings = 0
    at, end = 0, len(text)
    starts_line, empty = True, True
    while at < end:
        if starts_line:
            column, at = _column(text, at)
            starts_line = False
            if text[at : at + 1] == "\\":
                raise NotCode("a line that begins with a continuation")  # how far it is indented, Pythons do not agree
            if text[at : at + 1] not in {"", "\n", "#"}:
                _indent(column, indents, tokens)
        match = _TOKEN.match(text, at)
        if match is None:
            if at == end:
                break
            raise NotCode(f"character {text[at]!r}")
        kind, found = match.lastgroup, match[0]
        at = match.end()
        if kind == "space":
            if found == "\\\n" and at == end:
                raise NotCode("a continuation at the end")
            continue
        if kind == "comment":
            comments.append(found.rstrip())
            continue
        if kind == "newline":
            if not brackets:
                if not empty:
                    tokens.append(_NEWLINE)
                starts_line = empty = True
            continue
        empty = False
        if kind == "quote":
            start = match.start()
            try:
                at = _end_of_string(text, at, found)
            except NotCode:  # perhaps it can be read as Pythons before 3.12 do
                old_strings += 1
                if old_strings > _MOST_OLD_STRINGS:
                    raise
                at = _end_of_plain(text, at, _quotes(found))
            found = text[start:at]
        elif kind == "open":
            brackets.append(_BRACKETS[found])
        elif kind == "close" and (not brackets or brackets.pop() != found):
            raise NotCode("brackets")
        tokens.append(found)
    if brackets:
        raise NotCode("brackets")
    if not empty:
        tokens.append(_NEWLINE)
    tokens += [_DEDENT] * (len(indents) - 1)
    return tokens, comments


def _decoded(data: bytes) -> str:
    cookie = _COOKIE_LINES.match(data)
    if data.isascii() and (cookie is None or b"coding" not in cookie[0]):
        text = data.decode("ascii")
    else:
        from tokenize import detect_encoding  # the rules of PEP 263

        try:
            lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data
            encoding, _ = detect_encoding(io.BytesIO(lines).readline)
            if any(code.decode(encoding) != code.decode("ascii") for code in (b"+AGE-", b"~~", b"\\x41", b"\33(B")):
                raise NotCode(f"{encoding} gives ASCII another meaning")  # utf-7, hz, unicode_escape, iso2022
            text = data.decode(encoding)
        except (SyntaxError, UnicodeError, LookupError) as error:
            raise NotCode(str(error)) from None
    if "\0" in text:
        raise NotCode("NUL")
    return text.replace("\r\n", "\n").replace("\r", "\n")


_LEADING = re.compile(r"[ \t\f]*")


def _column(text: str, at: int) -> tuple[tuple[int, int], int]:
    """How far a line is indented, as Python counts it with tabs of 8 and of 1, and where it goes on."""
    match = _LEADING.match(text, at)
    assert match is not None
    column = narrow = 0
    for character in match[0]:
        if character == "\f":
            column = narrow = 0
            continue
        column = column + 1 if character == " " else (column // 8 + 1) * 8
        narrow += 1
    return (column, narrow), match.end()


def _indent(column: tuple[int, int], indents: list[tuple[int, int]], tokens: list[str]) -> None:
    wide, narrow = column
    if wide > indents[-1][0]:
        if narrow <= indents[-1][1]:
            raise NotCode("tabs and spaces")
        indents.append(column)
        tokens.append(_INDENT)
        return
    while wide < indents[-1][0]:
        indents.pop()
        tokens.append(_DEDENT)
    if column != indents[-1]:
        raise NotCode("indentation, or tabs and spaces")


def _quotes(opening: str) -> str:
    return opening.lstrip("rRbBuUfFtT")


def _end_of_string(text: str, at: int, opening: str, depth: int = 0) -> int:
    """Where the string ends whose prefix and quotes end at ``at``."""
    quotes = _quotes(opening)
    prefix = opening[: -len(quotes)].lower()
    if "f" in prefix or "t" in prefix:
        if depth > _MOST_NESTED:
            raise NotCode("strings too deep in one another")
        return _end_of_formatted(text, at, quotes, raw="r" in prefix, depth=depth)
    return _end_of_plain(text, at, quotes)


def _end_of_plain(text: str, at: int, quotes: str) -> int:
    match = _REST[quotes].match(text, at)
    if match is None:
        raise NotCode("a string without end")
    return match.end()


def _end_of_formatted(text: str, at: int, quotes: str, *, raw: bool, depth: int, in_format: bool = False) -> int:
    """The same for an f-string, whose fields may hold its own quotes. ``in_format``: it is a field's format, which ends
    with the field's brace."""
    while at < len(text):
        character = text[at]
        if text.startswith(quotes, at) and not in_format:
            return at + len(quotes)
        if character == "\n" and len(quotes) == 1:
            break
        if character == "\\":
            named = text.startswith("\\N{", at) and not raw
            # A brace is one, whatever is before it.
            at = text.find("}", at) + 1 if named else at + (1 if text[at + 1 : at + 2] in {"{", "}"} else 2)
            if not at:
                break
        elif character == "{" and text.startswith("{{", at) and not in_format:
            at += 2
        elif character == "{":
            at = _end_of_field(text, at + 1, quotes, raw=raw, depth=depth + 1)
        elif character == "}" and in_format:
            return at
        elif text.startswith(quotes, at):
            break
        else:
            at += 1
    raise NotCode("a string without end")


def _end_of_field(text: str, at: int, quotes: str, *, raw: bool, depth: int) -> int:
    if depth > _MOST_NESTED:
        raise NotCode("fields too deep in one another")
    brackets: list[str] = []
    while at < len(text):
        character = text[at]
        if character == ":" and not brackets:
            at = _end_of_formatted(text, at + 1, quotes, raw=raw, depth=depth, in_format=True)
            continue
        if character == "}" and not brackets:
            return at + 1
        if character == "!" and not brackets and not text.startswith("!=", at):
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            break
        at = match.end()
        if match.lastgroup == "quote":
            at = _end_of_string(text, at, match[0], depth)
        elif match.lastgroup == "open":
            brackets.append(_BRACKETS[match[0]])
        elif match.lastgroup == "close" and (not brackets or brackets.pop() != match[0]):
            break
    raise NotCode("a field without end")
