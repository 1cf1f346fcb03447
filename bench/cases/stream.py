"""20 streams at once of 200 chunks: one by one, 10 ms apart, and as a burst; through the proxy each has a session."""

from collections import defaultdict
from dataclasses import replace

from bench.bodies import Job
from bench.lab import Lab, alternating
from bench.report import Row, ratio, row
from bench.servers import Server

TARGET = 1.5
CHUNKS = 200


def stream(lab: Lab) -> list[Row]:
    with lab.yardsticks() as (python, nginx), lab.proxy() as proxy:
        compared = [each for each in (python, proxy, nginx) if each is not None]
        for server in compared:
            lab.warm(server)
        # Connections start spread over one gap, else the chunks of all streams would come in the same instant.
        single = Job(0, "stream", 20, 1, model=f"bench-s{CHUNKS}-g10", chunks=CHUNKS, stagger_ms=10)
        burst = Job(0, "stream", 20, lab.size(10, 4), model=f"bench-s{CHUNKS}-g0", chunks=CHUNKS)
        return [
            *variant(lab, compared, "stream", single, TARGET),
            *variant(lab, compared, "burst", burst, None),
        ]


def variant(lab: Lab, compared: list[Server], name: str, job: Job, target: float | None) -> list[Row]:
    cpu: dict[str, list[float]] = defaultdict(list)
    first: dict[str, list[float]] = defaultdict(list)
    for number in range(lab.rounds):
        for server in alternating(compared, number):
            done = lab.run(server, replace(job, port=server.port, session=f"{name}-{number}"))
            cpu[server.name].append(done.us_per_event)
            first[server.name].append(done.result.first_p50 / 1000)
    rows = [ratio(name, "CPU per chunk, proxy / yardstick", cpu["proxy"], cpu["yardstick"], target)]
    if "nginx" in cpu:
        rows.append(ratio(name, "CPU per chunk, proxy / nginx", cpu["proxy"], cpu["nginx"]))
    rows += [row(name, f"CPU per chunk, {server}", values, "us") for server, values in cpu.items()]
    return rows + [row(name, f"first chunk p50, {server}", values, "ms") for server, values in first.items()]
