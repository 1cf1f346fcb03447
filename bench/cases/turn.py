"""A session turn: one new message of 60 tokens, 100 stored ones, a budget of 4,000 tokens, every turn synced to disk.

The yardstick gets the same client body and keeps nothing. Sessions are fresh in every round, so that the history stays
near its length.
"""

from bench import servers
from bench.bodies import Job
from bench.lab import Lab
from bench.process import Failed
from bench.report import Row, ratio, row
from bench.servers import Server

TARGET = 1.5
RSS_MB = 150
WARM_TURNS = 4
WARM_NUMBER = 900_000
LEAST_SENT = 4_000


def turn(lab: Lab) -> list[Row]:
    ours: list[float] = []
    theirs: list[float] = []
    peaks: list[float] = []
    p50: list[float] = []
    with lab.yardsticks() as (python, _), lab.proxy() as proxy:
        lab.warm(python)
        lab.warm(proxy)
        sent = 0.0
        for number in range(lab.rounds):
            each = lab.size(50, 15)
            yard = lab.run(python, Job(python.port, "turn", each=each, session="yard"))
            theirs.append(yard.us_per_request)
            name = f"turn-{number}"
            prepare(lab, proxy, name, 32)
            before = servers.seen(lab.mock)
            done = lab.run(proxy, Job(proxy.port, "turn", each=each, session=name, first=1000))
            after = servers.seen(lab.mock)
            sent = (after["body_bytes"] - before["body_bytes"]) / (after["requests"] - before["requests"])
            ours.append(done.us_per_request)
            p50.append(done.result.p50 / 1000)
            peaks.append(done.peak_mb)
            if sent < LEAST_SENT:
                raise Failed(f"the proxy sent up {sent:.0f} bytes a turn: the stored history is not in it")
        added = alone(lab, proxy, python)
    return [
        ratio("turn", "CPU, proxy / yardstick", ours, theirs, TARGET),
        row("turn", "CPU per turn, proxy", ours, "us"),
        row("turn", "CPU per request, yardstick", theirs, "us"),
        row("turn", "p50 at 32 connections, proxy", p50, "ms"),
        Row("turn", "body that the proxy sends up", sent / 1024, "KB"),
        Row("turn", "RSS under load", max(peaks), "MB", tuple(peaks), RSS_MB),
        *added,
    ]


def prepare(lab: Lab, proxy: Server, session: str, sessions: int, requests: int = 1, messages: int = 99) -> None:
    """Sessions with stored messages whose first turns, which cut the history, are already done."""
    lab.fill(proxy, session, requests, sessions, messages)
    warm(lab, proxy, session, sessions, WARM_NUMBER)


def warm(lab: Lab, proxy: Server, session: str, sessions: int, first: int) -> None:
    """A few unmeasured turns, numbered from `first`."""
    lab.run(proxy, Job(proxy.port, "turn", sessions, WARM_TURNS, session, first=first))
    proxy.process.settle()


def alone(lab: Lab, proxy: Server, python: Server) -> list[Row]:
    """One connection: what a turn adds to the time of the model server alone."""
    times: dict[str, list[float]] = {"proxy": [], "yardstick": []}
    each = lab.size(200, 50)
    for number in range(lab.rounds):
        name = f"alone-{number}"
        prepare(lab, proxy, name, 1)
        direct = lab.run(lab.mock, Job(lab.mock.port, "turn", 1, each, name)).result.p50
        for server in (python, proxy):
            done = lab.run(server, Job(server.port, "turn", 1, each, name, first=1000))
            times[server.name].append((done.result.p50 - direct) / 1000)
    return [row("turn", f"added p50 at 1 connection, {name}", values, "ms") for name, values in times.items()]
