"""Makes the pictures of the README from real runs: what a terminal shows, as SVG.

    python docs/pictures.py NAME [--until TEXT] [--width N] [--height N] -- COMMAND [ARG ...]

runs the command in a terminal of its own and writes docs/images/NAME.svg: the screen as it was when the command ended,
or when TEXT was first seen on it (the command then runs on to its end).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

IMAGES = Path(__file__).parent / "images"
COLOURS = {"brown": "yellow", "brightbrown": "bright_yellow"}


def _style(cell: pyte.screens.Char) -> Style:
    def colour(name: str) -> str | None:
        if name == "default":
            return None
        if re.fullmatch(r"[0-9a-f]{6}", name):
            return f"#{name}"
        name = COLOURS.get(name, name)
        return name.replace("bright", "bright_") if name.startswith("bright") and "_" not in name else name

    return Style(
        color=colour(cell.fg),
        bgcolor=colour(cell.bg),
        bold=cell.bold,
        italic=cell.italics,
        underline=cell.underscore,
        reverse=cell.reverse,
    )


def _picture(screen: pyte.Screen, title: str) -> str:
    lines = []
    for row in range(screen.lines):
        line = Text()
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            line.append(cell.data, _style(cell))
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    while lines and not lines[0].plain:
        lines.pop(0)
    console = Console(record=True, width=screen.columns, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text("\n").join(lines), soft_wrap=True)
    svg = console.export_svg(title=title, unique_id="terminal")
    # A picture fetches nothing: the reader's own monospace font does.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")


def _show(screen: pyte.Screen) -> str:
    return "\n".join(line.rstrip() for line in screen.display)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--until", help="take the picture when this regular expression is first seen on the screen")
    parser.add_argument("--title")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=60)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()

    screen = pyte.Screen(options.width, options.height)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(options.width), LINES=str(options.height))
        os.execvp(options.command[0], options.command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", options.height, options.width, 0, 0))
    taken = None
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says so when the last process of the terminal has gone
            break
        if not data:
            break
        stream.feed(data)
        if taken is None and options.until and re.search(options.until, _show(screen)):
            taken = _picture(screen, options.title or " ".join(options.command))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if options.until and taken is None:
        sys.stderr.write(f"never seen on the screen: {options.until}\n{_show(screen)}\n")
        return 1
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{options.name}.svg").write_text(taken or _picture(screen, options.title or " ".join(options.command)))
    sys.stdout.write(_show(screen) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
