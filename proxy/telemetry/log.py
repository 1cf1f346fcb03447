"""Logs: one JSON line for each request on stderr. Ids, counts and durations; never texts, headers or keys."""

import asyncio
import contextlib
import sys
import time
import traceback
from typing import Protocol

import msgspec

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "notice": 50}
"""`notice` shows at every level that can be set: what somebody has asked for and waits for."""
FLUSH_S = 0.2
"""Lines are written together: a write for each would cost a request more than making its line."""

_encode = msgspec.json.encode


class Log(Protocol):
    """log(level, event, **facts)"""

    def __call__(self, level: str, event: str, **facts: object) -> None: ...


def defect(log: Log, exc: Exception) -> None:
    """One line for an exception that nobody expected: its type and where it came from, not what it says."""
    frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(exc.__traceback__)]
    log("error", "defect", type=type(exc).__name__, frames=frames)


class Logger:
    """Writes lines of at least a level. Call it in the event loop; `flush` at the end."""

    def __init__(self, level: str) -> None:
        self._least = LEVELS[level]
        self._lines: list[bytes] = []

    def least(self, level: str) -> None:
        """From now on only lines of that level or above."""
        self._least = LEVELS[level]

    def __call__(self, level: str, event: str, **facts: object) -> None:
        if LEVELS[level] < self._least:
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        self._lines.append(_encode({"time": round(time.time(), 3), "level": level, "event": event, **facts}))

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            with contextlib.suppress(OSError, ValueError):  # nobody reads the log, or its disk is full: serving goes on
                sys.stderr.buffer.write(b"\n".join(lines) + b"\n")
                sys.stderr.buffer.flush()
