"""Many requests of all sorts, with clients that leave: memory and descriptors must not grow with their number.

Of 20 requests one leaves its stream after the first chunk, two are streams, three have no session.
"""

from bench.bodies import Job
from bench.lab import Lab
from bench.report import Row

STEP = 1_000
CONNECTIONS = 25
SESSIONS = 400
CHUNKS = 20


def soak(lab: Lab) -> list[Row]:
    steps = max((lab.size(lab.soak_requests, min(lab.soak_requests, 6 * STEP))) // STEP, 3)
    rss: list[float] = []
    seconds = left = 0.0
    with lab.proxy() as proxy:
        lab.warm(proxy)
        opened = proxy.process.descriptors()
        for step in range(steps):
            job = Job(
                proxy.port,
                "mix",
                CONNECTIONS,
                STEP // CONNECTIONS,
                "soak",
                f"bench-s{CHUNKS}-g1",
                first=step * STEP,
                sessions=SESSIONS,
                chunks=CHUNKS,
            )
            done = lab.run(proxy, job)
            seconds += done.result.seconds
            left += done.result.left
            rss.append(proxy.process.rss_mb())
        proxy.process.settle()
        closed = proxy.process.descriptors()
    total = steps * STEP
    marks = [Row("soak", f"RSS at {share} %", rss[max(steps * share // 100 - 1, 0)], "MB") for share in (10, 50, 100)]
    return [
        *marks,
        Row("soak", "RSS slope, last two thirds", slope(rss[steps // 3 :]) * 1024, "KB per 1,000 requests"),
        Row("soak", "open descriptors at start", opened),
        Row("soak", "open descriptors at end", closed),
        Row("soak", "requests", total),
        Row("soak", "clients that left", left),
        Row("soak", "requests per second", total / seconds),
    ]


def slope(values: list[float]) -> float:
    """Least squares, per step."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    above = sum((n - middle) * (value - mean) for n, value in enumerate(values))
    return above / (sum((n - middle) ** 2 for n in range(len(values))) or 1)
