"""Lines added and removed between two texts, as `git diff` counts them, and a unified diff for people."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

_CONTEXT = 3
_SHOWN_LINES = 200
_SHOWN_BYTES = 20_000
# The search takes time with the square of the number of changes. Beyond this only counts are said, and rougher ones.
_MOST_CHANGES = 1_500
_MOST_ROUGH = 2_000

Match = tuple[int, int, int]  # lines from i of the old and from j of the new text are equal, so many


def counts_and_diff(
    old: str, new: str, path: str, *, is_new: bool = False, is_gone: bool = False
) -> tuple[int | None, int | None, str]:
    """``(added, removed, unified diff)``. The counts are None, and the diff empty, where too much changed to tell which
    lines stayed."""
    before, after = _lines(old), _lines(new)
    matches = _matches(before, after)
    if matches is None:
        return None, None, ""
    same = sum(size for _, _, size in matches)
    added, removed = len(after) - same, len(before) - same
    if not added and not removed:
        return 0, 0, ""
    return added, removed, _unified(before, after, matches, path, is_new=is_new, is_gone=is_gone)


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def _matches(before: list[str], after: list[str]) -> list[Match] | None:
    """Runs of lines that stayed, in order."""
    head = 0
    most = min(len(before), len(after))
    while head < most and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < most - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    # A line that only one side has was surely changed, and makes the search longer for nothing.
    both = set(before[head : len(before) - tail]).intersection(after[head : len(after) - tail])
    left = [index for index in range(head, len(before) - tail) if before[index] in both]
    right = [index for index in range(head, len(after) - tail) if after[index] in both]
    pairs = _common([before[index] for index in left], [after[index] for index in right])
    if pairs is None:
        return None
    found = [(0, 0, head)] if head else []
    for i, j in pairs:
        _extend(found, left[i], right[j], 1)
    if tail:
        _extend(found, len(before) - tail, len(after) - tail, tail)
    return found


def _extend(found: list[Match], i: int, j: int, size: int) -> None:
    if found:
        last_i, last_j, last = found[-1]
        if (last_i + last, last_j + last) == (i, j):
            found[-1] = (last_i, last_j, last + size)
            return
    found.append((i, j, size))


def _common(left: list[str], right: list[str]) -> list[tuple[int, int]] | None:
    """A longest common subsequence as pairs of indices (E. Myers, An O(ND) difference algorithm)."""
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    for changes in range(len(left) + len(right) + 1):
        if changes > _MOST_CHANGES:
            return _rough(left, right)
        trace.append(dict(furthest) if changes <= 1 else {k: furthest[k] for k in range(1 - changes, changes, 2)})
        for k in range(-changes, changes + 1, 2):
            down = k == -changes or (k != changes and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            y = x - k
            while x < len(left) and y < len(right) and left[x] == right[y]:
                x, y = x + 1, y + 1
            furthest[k] = x
            if x >= len(left) and y >= len(right):
                return _walk_back(trace, len(left), len(right))
    return []


def _walk_back(trace: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    pairs = []
    for changes in range(len(trace) - 1, -1, -1):
        furthest = trace[changes]
        k = x - y
        down = changes == 0 or k == -changes or (k != changes and furthest[k - 1] < furthest[k + 1])
        before_k = k + 1 if down else k - 1
        before_x = furthest.get(before_k, 0) if changes else 0
        before_y = before_x - before_k if changes else 0
        while x > before_x and y > before_y:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x, y = before_x, before_y
    return pairs[::-1]


def _rough(left: list[str], right: list[str]) -> list[tuple[int, int]] | None:
    if max(len(left), len(right)) > _MOST_ROUGH:
        return None
    matcher = SequenceMatcher(None, left, right)
    return [(i + n, j + n) for i, j, size in matcher.get_matching_blocks() for n in range(size)]


def _unified(
    before: list[str], after: list[str], matches: list[Match], path: str, *, is_new: bool, is_gone: bool
) -> str:
    matcher = _Found(_opcodes(matches, len(before), len(after)))
    lines = [
        "--- /dev/null\n" if is_new else f"--- a/{path}\n",
        "+++ /dev/null\n" if is_gone else f"+++ b/{path}\n",
    ]
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        first, last = group[0], group[-1]
        lines.append(f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n")
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                lines += [_line(" ", line) for line in before[i1:i2]]
                continue
            lines += [_line("-", line) for line in before[i1:i2]]
            lines += [_line("+", line) for line in after[j1:j2]]
    return _cut(lines)


class _Found(SequenceMatcher[str]):
    """Groups what was found elsewhere."""

    def __init__(self, opcodes: list[Any]) -> None:
        super().__init__(None, "", "")
        self._opcodes = opcodes

    def get_opcodes(self) -> list[Any]:
        return self._opcodes


def _opcodes(matches: list[Match], old: int, new: int) -> list[tuple[str, int, int, int, int]]:
    found = []
    i = j = 0
    for at_i, at_j, size in [*matches, (old, new, 0)]:
        if i < at_i or j < at_j:
            tag = "replace" if i < at_i and j < at_j else "delete" if i < at_i else "insert"
            found.append((tag, i, at_i, j, at_j))
        if size:
            found.append(("equal", at_i, at_i + size, at_j, at_j + size))
        i, j = at_i + size, at_j + size
    return found


def _range(start: int, stop: int) -> str:
    length = stop - start
    if length == 1:
        return f"{start + 1}"
    return f"{start + 1 if length else start},{length}"


def _line(sign: str, line: str) -> str:
    return sign + line if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"


def _cut(lines: list[str]) -> str:
    size = 0
    for index, line in enumerate(lines):
        size += len(line.encode("utf-8", "surrogatepass"))
        if index >= _SHOWN_LINES or size > _SHOWN_BYTES:
            return "".join(lines[:index]) + f"… {len(lines) - index:,} more lines\n"
    return "".join(lines)
