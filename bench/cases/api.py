"""The Sessions API in front of 1,000 and of 1,000,000 sessions: a list must not pay for what is not on the page.

One connection. Every request of a round asks for other values, so that no page is read from the same few rows.
"""

import contextlib
import http.client
import json
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import servers
from bench.bodies import Job
from bench.fill import AGENTS, CHANNELS, PLANS, Filled, agent_uuid, fill, session_uuid
from bench.lab import Lab, alternating
from bench.process import Failed
from bench.report import Row, ratio, row
from bench.servers import Measured, Server

TARGET = 1.2
LIMIT = 10
VARIANTS = 400
"""Different requests of each sort."""


@dataclass(frozen=True)
class Side:
    """A running proxy and the store that it was given."""

    server: Server
    store: Filled


@dataclass(frozen=True)
class Sort:
    """One sort of request: the n-th path, or body, of it in a store of so many sessions."""

    name: str
    kind: str
    make: Callable[[int, int], str]


def listed(query: str = "") -> str:
    return f"/sessions?limit={LIMIT}&offset=0{query}"


def plan(n: int) -> str:
    return f"&metadata_filter.plan={PLANS[n % len(PLANS)]}"


def channel(n: int) -> str:
    return f"&metadata_filter.channel={CHANNELS[n % len(CHANNELS)]}"


def new(n: int) -> str:
    metadata = {"customer": f"c-{n:06}", "plan": PLANS[n % len(PLANS)], "channel": CHANNELS[n % len(CHANNELS)]}
    return json.dumps({"agent": agent_uuid(n % AGENTS + 1), "metadata": metadata})


SORTS = (
    Sort("list", "get", lambda n, _: listed()),
    Sort("list, metadata", "get", lambda n, _: listed(plan(n))),
    Sort("list, agent", "get", lambda n, _: listed(f"&agent_id={agent_uuid(n % AGENTS + 1)}")),
    Sort("list, 2 metadata", "get", lambda n, _: listed(plan(n) + channel(n))),
    Sort("list, by change", "get", lambda n, _: listed("&sort_by=updated_at")),
    Sort("one", "get", lambda n, size: f"/sessions/{session_uuid(n * 7919 % size + 1)}"),
    Sort("new", "create", lambda n, _: new(n)),
)
"""The last one, since it makes the stores larger."""


def api(lab: Lab) -> list[Row]:
    with servers.directory() as home, contextlib.ExitStack() as stack:
        sides = [stack.enter_context(side(lab, home, size)) for size in (1_000, lab.size(1_000_000, 100_000))]
        rows = [line for sort in SORTS for line in compared(lab, sides, sort)]
        large = sides[-1].store
        return [
            *rows,
            Row("api", f"filling in {large.sessions:,} sessions", large.seconds, "s"),
            Row("api", f"file of {large.sessions:,} sessions", large.bytes / 1e6, "MB"),
        ]


@contextlib.contextmanager
def side(lab: Lab, home: Path, size: int) -> Generator[Side, None, None]:
    """A proxy before a store of that many sessions, in a directory of its own."""
    own = home / str(size)
    own.mkdir()
    store = fill(own / "bench.db", size)
    with lab.proxy(own) as server:
        yield Side(server, store)


def compared(lab: Lab, sides: Sequence[Side], sort: Sort) -> list[Row]:
    """Both sides in turn, round by round; each round asks what the one before did not."""
    p50: dict[int, list[float]] = defaultdict(list)
    p99: dict[int, list[float]] = defaultdict(list)
    for each in sides:
        if sort.kind == "get":
            check(each, sort)
        run(lab, each, sort, lab.size(50, 10), 0)
        each.server.process.settle()
    each_round = lab.size(150 if sort.kind == "create" else VARIANTS, 50)
    for number in range(lab.rounds):
        for each in alternating(sides, number):
            done = run(lab, each, sort, each_round, number * each_round)
            p50[each.store.sessions].append(done.result.p50 / 1000)
            p99[each.store.sessions].append(done.result.p99 / 1000)
    small, large = (each.store.sessions for each in sides)
    return [
        ratio("api", f"{sort.name}: p50, {large:,} / {small:,} sessions", p50[large], p50[small], TARGET),
        *(row("api", f"{sort.name}: p50 at {size:,}", values, "ms") for size, values in p50.items()),
        *(row("api", f"{sort.name}: p99 at {size:,}", values, "ms") for size, values in p99.items()),
    ]


def run(lab: Lab, side: Side, sort: Sort, each: int, first: int) -> Measured:
    given = [sort.make(n, side.store.sessions) for n in range(VARIANTS)]
    return lab.run(side.server, Job(side.server.port, sort.kind, 1, each, first=first, paths=given))


def check(side: Side, sort: Sort) -> None:
    """A list that is empty, or not filtered, would be fast for no good reason."""
    connection = http.client.HTTPConnection("127.0.0.1", side.server.port, timeout=30)
    try:
        path = sort.make(1, side.store.sessions)
        connection.request("GET", path, headers={"Authorization": "Bearer sk-bench"})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise Failed(f"GET {path} was answered with {answer.status}: {text[:300].decode(errors='replace')}")
    one = json.loads(text)
    shown = one.get("items", [one])
    if len(shown) != (LIMIT if "limit=" in path else 1):
        raise Failed(f"GET {path} gave {len(shown)} sessions of {side.store.sessions:,}")
    if plan(1) in path and any(each["metadata"]["plan"] != PLANS[1] for each in shown):
        raise Failed(f"GET {path} gave sessions of other plans")
    if agent_uuid(2) in path and any(each["agents"] != [agent_uuid(2)] for each in shown):
        raise Failed(f"GET {path} gave sessions of other agents")
