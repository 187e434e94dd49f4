"""Stub until the real queue is here."""

from __future__ import annotations

from typing import NamedTuple


class Ticket(NamedTuple):
    run_id: str
    attempt: int
    attempt_root: str
    lock: str
    slots: int
    capacity: int
    priority: int
    pid: int
    start_ticks: int


class Turn(NamedTuple):
    granted: bool
    position: int | None
    waiting: int
    free: int
    reason: str
    holders: list[tuple[int, int]]


class Queue:
    def __init__(self, folder: str) -> None: ...
    def enter(self, ticket: Ticket) -> None: ...
    def look(self) -> Turn:
        return Turn(True, None, 0, 0, "", [])
    def leave(self) -> None: ...


def open_handles(holders: list[tuple[int, int]]) -> list[int] | None:
    return []
