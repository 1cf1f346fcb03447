"""A request without a session: 2 KB in, 1 KB out, 32 connections. Every proxy has to do this much."""

from collections import defaultdict

from bench.bodies import Job
from bench.lab import Lab, alternating
from bench.report import Row, ratio, row

TARGET = 1.1


def stateless(lab: Lab) -> list[Row]:
    cpu: dict[str, list[float]] = defaultdict(list)
    p50: dict[str, list[float]] = defaultdict(list)
    with lab.yardsticks() as (python, nginx), lab.proxy() as proxy:
        compared = [each for each in (python, proxy, nginx) if each is not None]
        for server in compared:
            lab.warm(server)
        for number in range(lab.rounds):
            for server in alternating(compared, number):
                done = lab.run(server, Job(server.port, "stateless", each=lab.size(100, 30)))
                cpu[server.name].append(done.us_per_request)
                p50[server.name].append(done.result.p50 / 1000)
    rows = [ratio("stateless", "CPU, proxy / yardstick", cpu["proxy"], cpu["yardstick"], TARGET)]
    if nginx is not None:
        rows.append(ratio("stateless", "CPU, proxy / nginx", cpu["proxy"], cpu["nginx"]))
    rows += [row("stateless", f"CPU per request, {name}", values, "us") for name, values in cpu.items()]
    return rows + [row("stateless", f"p50 at 32 connections, {name}", values, "ms") for name, values in p50.items()]
