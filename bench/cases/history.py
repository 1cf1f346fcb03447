"""The same turn in sessions of 100 to 100,000 stored messages: a turn must not pay for the past.

All sizes hold more than the budget of 4,000 tokens takes, so that every turn sends a window of the same size.
"""

import contextlib
import sqlite3
from collections import defaultdict
from pathlib import Path
from statistics import median

from bench import servers
from bench.bodies import Job
from bench.cases.turn import prepare, warm
from bench.lab import Lab
from bench.report import Row, ratio, row
from bench.servers import Measured, Server

TARGET = 1.2
LONG = 10_000
# Below LONG each part has a session of its own, so that its turns do not make it long.
PARTS = 4


def history(lab: Lab) -> list[Row]:
    sizes = [100, 1_000, 10_000] if lab.quick else [100, 1_000, 10_000, 100_000]
    cpu: dict[int, list[float]] = defaultdict(list)
    p50: dict[int, list[float]] = defaultdict(list)
    with lab.proxy() as proxy:
        lab.warm(proxy)
        for size in sizes:
            if size >= LONG:
                build(lab, proxy, f"long-{size}", size)
        for number in range(lab.rounds):
            for size, runs in one_round(lab, proxy, sizes, number).items():
                cpu[size].append(median(run.us_per_request for run in runs))
                p50[size].append(median(run.result.p50 for run in runs) / 1000)
    last = sizes[-1]
    rows = [
        ratio("history", f"CPU, {last:,} / 100 messages", cpu[last], cpu[100], TARGET),
        ratio("history", f"p50, {last:,} / 100 messages", p50[last], p50[100]),
    ]
    for size in sizes:
        rows.append(row("history", f"CPU per turn at {size:,}", cpu[size], "us"))
        rows.append(row("history", f"p50 at {size:,}", p50[size], "ms"))
    return rows + [Row("history", f"bytes stored per turn at {size:,}", stored(lab, size), "B") for size in (100, LONG)]


def one_round(lab: Lab, proxy: Server, sizes: list[int], number: int) -> dict[int, list[Measured]]:
    """Each size PARTS times in turn, every time after the same few unmeasured turns."""
    runs: dict[int, list[Measured]] = defaultdict(list)
    for part in range(PARTS):
        for size in sizes:
            name = f"long-{size}"
            if size < LONG:
                name = f"short-{size}-{number}-{part}"
                build(lab, proxy, name, size)
            first = 200_000 + (number * PARTS + part) * 1000
            warm(lab, proxy, name, 1, first + 500)
            runs[size].append(lab.run(proxy, Job(proxy.port, "turn", 1, lab.size(48, 24), name, first=first)))
    return runs


def build(lab: Lab, proxy: Server, session: str, size: int) -> None:
    """One session of `size` messages: up to 1,000 a request."""
    messages = min(size, 1000)
    prepare(lab, proxy, session, 1, size // messages, messages - 1)


def stored(lab: Lab, size: int) -> float:
    """Bytes that the database grows by per turn in a session of `size` messages, seen while the proxy is stopped."""
    turns = lab.size(400, 100)
    with servers.directory() as home:
        with lab.proxy(home) as proxy:
            build(lab, proxy, "stored", size)
        before = used(home)
        with lab.proxy(home) as proxy:
            lab.run(proxy, Job(proxy.port, "turn", 1, turns, "stored", first=200_000))
            proxy.process.settle()
        return (used(home) - before) / turns


def used(home: Path) -> int:
    """Bytes of the pages in use, those in the log included."""
    with contextlib.closing(sqlite3.connect(home / "bench.db")) as db:
        (pages,), (free,) = db.execute("PRAGMA page_count").fetchone(), db.execute("PRAGMA freelist_count").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    return (pages - free) * size
