"""From the start of the process to the first answer of a session turn, and what memory an idle proxy holds."""

import json
import time

from bench import servers
from bench.lab import Lab
from bench.report import Row, row

START_S = 1.5
RSS_MB = 80
TURN = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "Is anybody there?"}]})


def start(lab: Lab) -> list[Row]:
    return [
        row("start", "cold start to first answer", [first(lab) for _ in range(lab.size(5, 2))], "s", START_S),
        *idle(lab),
    ]


def first(lab: Lab) -> float:
    """Seconds, with a store that does not exist yet."""

    def turn(port: int) -> bool:
        return servers.answers(port, "POST", "/v1/chat/completions", TURN, "first") == 200

    with servers.directory() as home:
        begin = time.perf_counter()
        with servers.proxy(home, lab.mock.port, turn):
            return time.perf_counter() - begin


def idle(lab: Lab) -> list[Row]:
    with lab.proxy() as proxy:
        proxy.process.settle()
        return [
            Row("start", "RSS idle", proxy.process.rss_mb(), "MB", target=RSS_MB),
            Row("start", "PSS idle", proxy.process.pss_mb(), "MB"),
        ]
