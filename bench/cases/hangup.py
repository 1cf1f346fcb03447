"""A client hangs up: how long until the model server's connection is closed. Both ends are here, under one clock."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import cast

import uvloop

from bench import servers
from bench.lab import Lab
from bench.load import quantile
from bench.process import Failed
from bench.report import Row
from bench.servers import Server

TARGET_MS = 100
AT_ONCE = 4
MOMENTS_S = 0.2
"""A client leaves at a random moment of this time after its request has reached the model server."""
LIMIT_S = 10.0

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"h","choices":[{"index":0,"delta":{"role":"assistant","content":"tide"}}]}\n\n'
MODELS = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 27\r\n\r\n{"object":"list","data":[]}'
BEGUN = HEAD + b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


@dataclass(frozen=True)
class Way:
    """How a client asks. `begun`: it leaves after the first event, else before anything came."""

    name: str
    stream: bool
    begun: bool = False
    session: bool = False


WAYS = [
    Way(f"{what}, {'session' if session else 'no session'}", stream, begun, session)
    for what, stream, begun in (
        ("stream in mid-answer", True, True),
        ("stream before its first byte", True, False),
        ("no stream", False, False),
    )
    for session in (True, False)
]


class Model(asyncio.Protocol):
    """A model server that never ends its answer; tells when a request came and when its connection was closed."""

    def __init__(self, trials: dict[str, "Trial"]) -> None:
        self.trials = trials
        self.trial: Trial | None = None
        self.came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        self.came += data
        head, _, body = self.came.partition(b"\r\n\r\n")
        if head.startswith(b"GET "):
            self.came = b""
            self.transport.write(MODELS)
        elif body.endswith(b"}"):
            self.trial = self.trials[json.loads(body)["model"]]
            if self.trial.way.begun:
                self.transport.write(BEGUN)
            self.trial.reached.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.trial is not None:
            self.trial.closed = time.perf_counter()
            self.trial.over.set()


class Trial:
    """One client, from its request to the end of the model server's connection."""

    def __init__(self, way: Way, name: str) -> None:
        self.way = way
        self.name = name
        self.reached = asyncio.Event()
        self.over = asyncio.Event()
        self.closed = 0.0

    async def run(self, port: int, wait_s: float) -> float:
        """Seconds from the client's close to the model server's."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked = {"model": self.name, "stream": self.way.stream, "messages": [{"role": "user", "content": "Tide?"}]}
        body = json.dumps(asked).encode()
        named = f"X-Session-Id: {self.name}\r\n" if self.way.session else ""
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{named}"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(LIMIT_S):
            await self.reached.wait()
            if self.way.begun:
                await reader.readuntil(b"\n\n")
            await asyncio.sleep(wait_s)
            left = time.perf_counter()
            writer.transport.abort()
            await self.over.wait()
        return self.closed - left


def hangup(lab: Lab) -> list[Row]:
    """Through the proxy, and through nginx where it is installed."""
    return uvloop.run(_all(lab.size(200, 20)))


async def _all(trials: int) -> list[Row]:
    known: dict[str, Trial] = {}
    rows: list[Row] = []
    async with listening(known) as port:
        with contextlib.ExitStack() as stack:
            for server in await asyncio.to_thread(_started, stack, port):
                for way in WAYS:
                    if server.name == "proxy" or not way.session:
                        rows += await _measured(way, server, known, trials)
    return rows


@contextlib.asynccontextmanager
async def listening(trials: dict[str, Trial]) -> AsyncGenerator[int, None]:
    """The model server's port. A request's model names its trial."""
    model = await asyncio.get_running_loop().create_server(lambda: Model(trials), "127.0.0.1", 0)
    yield model.sockets[0].getsockname()[1]
    model.close()


def _started(stack: contextlib.ExitStack, port: int) -> list[Server]:
    """In a thread: nginx is ready once the model server has answered through it."""
    home = stack.enter_context(servers.directory())
    both = stack.enter_context(servers.proxy(home, port)), stack.enter_context(servers.nginx(home, port))
    return [server for server in both if server is not None]


async def _measured(way: Way, server: Server, known: dict[str, Trial], trials: int) -> list[Row]:
    chance, slots = random.Random(7), asyncio.Semaphore(AT_ONCE)

    async def one(trial: Trial, wait_s: float) -> float:
        async with slots:
            return await trial.run(server.port, wait_s)

    made = [Trial(way, f"{server.name} {way.name} {n}") for n in range(trials)]
    known.update({trial.name: trial for trial in made})
    try:
        took = await asyncio.gather(*(one(trial, chance.uniform(0, MOMENTS_S)) for trial in made))
    except TimeoutError:
        raise Failed(f"{server.name}: {way.name}: a connection was not closed within {LIMIT_S:g} s") from None
    name = f"{way.name}, {server.name}"
    p50, p99 = (quantile(list(took), share) / 1000 for share in (0.5, 0.99))
    target = TARGET_MS if server.name == "proxy" else None
    return [
        Row("hangup", f"{name}: p50", p50, "ms"),
        Row("hangup", f"{name}: p99", p99, "ms"),
        Row("hangup", f"{name}: longest of {trials}", max(took) * 1000, "ms", target=target),
    ]
