"""Tables: as wide as the terminal and in colours on one, plain aligned lines of any length elsewhere."""

from __future__ import annotations

import shutil
import sys

from typing_extensions import Self

from pulumi_tfjobs.cli.common import printable, say

# Beyond this a table is not for reading; plain lines are made in a hundredth of the time.
_MOST_FITTED = 1_000
_GAP = "  "


class Cell(str):
    """A cell with a style of its own (``red``)."""

    __slots__ = ("style",)
    style: str

    def __new__(cls, text: str, style: str = "") -> Self:
        made = super().__new__(cls, text)
        made.style = style
        return made


class Table:
    """Rows under columns. ``right``: columns of numbers; ``whole``: columns that are never cut or wrapped; ``fold``:
    columns whose long texts go on in the next line. The others are cut where the terminal is too narrow."""

    def __init__(
        self,
        *columns: str,
        right: tuple[str, ...] = (),
        whole: tuple[str, ...] = (),
        fold: tuple[str, ...] = (),
        header: bool = True,
    ) -> None:
        self._columns = columns
        self._right = right
        self._whole = whole
        self._fold = fold
        self._header = header
        self._rows: list[tuple[str, ...]] = []

    def add(self, *cells: str) -> None:
        """A row: one text a column."""
        self._rows.append(cells)

    def show(self) -> None:
        if sys.stdout.isatty() and len(self._rows) <= _MOST_FITTED:
            self._fitted()
        else:
            self._plain()

    def _plain(self) -> None:
        rows = [[printable(cell) for cell in row] for row in self._rows]
        if self._header:
            rows.insert(0, list(self._columns))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        right = [name in self._right for name in self._columns]
        indent = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
        lines = []
        for row in rows:
            cells = [
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, widths, right, strict=True)
            ]
            if "\n" in row[-1]:
                cells[-1] = row[-1].replace("\n", "\n" + " " * indent)
            lines.append(_GAP.join(cells).rstrip())
        say("\n".join(lines))

    def _fitted(self) -> None:
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            box=None, padding=(0, len(_GAP), 0, 0), pad_edge=False, header_style="bold", show_header=self._header
        )
        for number, name in enumerate(self._columns):
            least = max(len(name), *(len(row[number]) for row in self._rows)) if name in self._whole else None
            table.add_column(
                name,
                justify="right" if name in self._right else "left",
                no_wrap=name not in self._fold,
                overflow="fold" if name in self._fold else "ellipsis",
                min_width=least,
            )
        for row in self._rows:
            table.add_row(*(Text(printable(cell), style=getattr(cell, "style", "")) for cell in row))
        Console(highlight=False, markup=False).print(table)


def width() -> int | None:
    """How many columns a table may take: those of the terminal, None for any number."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
