"""Lines out of chunks of bytes. Standard library only."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pulumi_tfjobs.errors import TargetUnavailable


async def split_lines(chunks: AsyncIterator[bytes], longest: int) -> AsyncIterator[bytes]:
    """Each line without its end; empty ones are left out, and so is what comes after the last end of a line. Raises
    TargetUnavailable for a line of more than ``longest`` bytes."""
    held: list[bytes] = []  # the beginning of a line that has not ended, so that a long one is not searched again
    size = 0
    async for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if held:
                held.append(line)
                line = b"".join(held)  # noqa: PLW2901
                held.clear()
                size = 0
            if line:
                yield line
        if rest:
            held.append(rest)
            size += len(rest)
            if size > longest:
                raise TargetUnavailable(f"a line of more than {longest >> 20} MiB was sent")
