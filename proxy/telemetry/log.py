"""Logs: one JSON line for each request on stderr. Ids, counts and durations; never texts, headers or keys."""

import sys
import time
from collections.abc import Callable

import msgspec

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Log = Callable[..., None]
"""log(level, event, **facts)"""


def logger(level: str) -> Log:
    """A function that writes lines of at least this level."""
    least = LEVELS[level]
    encode = msgspec.json.encode

    def log(level: str, event: str, **facts: object) -> None:
        if LEVELS[level] >= least:
            line = {"time": round(time.time(), 3), "level": level, "event": event, **facts}
            sys.stderr.buffer.write(encode(line) + b"\n")
            sys.stderr.buffer.flush()

    return log
