"""The load generator: one process, keep-alive connections in a closed loop, a job per line in, a result per line out.

An answer that is not 200 or 201, is cut short or comes too late is an error; errors are counted and the first few
shown.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast

import httptools
import uvloop

from bench.bodies import Ask, Job, ask

GRACE_S = 15.0
SAMPLES = 5


@dataclass
class Result:
    """What one job saw. Times are microseconds."""

    requests: int = 0
    errors: int = 0
    samples: list[str] = field(default_factory=list)
    left: int = 0
    events: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    first_p50: float = 0.0

    def failed(self, why: str) -> None:
        self.errors += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(why)


class Client(asyncio.Protocol):
    """One connection: sends a request, takes the answer in, and tells its waiter when it is whole."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[bool] | None = None
        self.ask = Ask(b"")
        self.reset()

    def reset(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.events = 0
        self.first = 0.0
        self.tail = b""
        self.keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.finish(False)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, body: bytes) -> None:
        ends = body.count(b"\n\n")
        if self.tail.endswith(b"\n") and body.startswith(b"\n") and not body.startswith(b"\n\n"):
            ends += 1
        self.tail = body if len(body) >= 512 else (self.tail + body)[-512:]
        self.events += ends
        if self.first == 0.0 and ends:
            self.first = time.perf_counter()
            if self.ask.leaves:
                self.close()

    def on_message_complete(self) -> None:
        self.keep = self.parser.should_keep_alive()  # only here: after the callback the parser always says no
        self.finish(True)

    def finish(self, whole: bool) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(whole)

    def send(self, request: Ask) -> asyncio.Future[bool]:
        assert self.transport is not None
        self.reset()
        self.ask = request
        self.done = self.loop.create_future()
        self.transport.write(request.data)
        return self.done

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def verdict(self, whole: bool) -> str | None:
        """Why the answer counts as an error, or None."""
        if not whole:
            return None if self.ask.leaves and self.first else "connection lost before the answer was whole"
        status = self.parser.get_status_code()
        if status not in (200, 201):
            return f"{status}: {self.tail[:300].decode(errors='replace')}"
        if not self.ask.events:
            return None if self.tail.rstrip().endswith(b"}") else "answer is not a JSON object"
        if not self.tail.endswith(b"data: [DONE]\n\n"):
            return "stream without [DONE]"
        return None if self.events >= self.ask.events else f"{self.events} of {self.ask.events} events"


class Run:
    """One job in progress."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.result = Result()
        self.times: list[float] = []
        self.firsts: list[float] = []
        self.start = time.perf_counter()
        self.end = self.start + job.limit_s

    async def connection(self, number: int) -> None:
        await asyncio.sleep(self.job.stagger_ms * number / self.job.connections / 1000)
        client = await self.connect()
        try:
            for turn in range(self.job.each):
                if time.perf_counter() > self.end:
                    self.result.failed(f"not sent: the job's limit of {self.job.limit_s:g} s was reached")
                    return
                if client.transport is None or client.transport.is_closing():
                    client = await self.connect()
                await self.one(client, ask(self.job, number, turn))
        except OSError as exc:
            self.result.failed(f"cannot connect: {exc}")
        finally:
            client.close()

    async def connect(self) -> Client:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Client, "127.0.0.1", self.job.port))[1]

    async def one(self, client: Client, request: Ask) -> None:
        result = self.result
        result.requests += 1
        sent = time.perf_counter()
        waiting = client.send(request)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self.end - sent + GRACE_S):
                whole = await waiting
        except TimeoutError:
            result.failed("no whole answer in time")
            client.close()
            return
        took = time.perf_counter() - sent
        why = client.verdict(whole)
        if why is not None:
            result.failed(why)
            return
        if request.events:
            result.events += client.events
            self.firsts.append(client.first - sent)
        if not whole:
            result.left += 1
            return
        self.times.append(took)
        if not client.keep:
            client.close()

    async def all(self) -> Result:
        async with asyncio.TaskGroup() as group:
            for number in range(self.job.connections):
                group.create_task(self.connection(number))
        self.result.seconds = time.perf_counter() - self.start
        self.result.p50, self.result.p99 = quantile(self.times, 0.5), quantile(self.times, 0.99)
        self.result.first_p50 = quantile(self.firsts, 0.5)
        return self.result


def quantile(seconds: list[float], share: float) -> float:
    """In microseconds; 0 of nothing."""
    if not seconds:
        return 0.0
    return sorted(seconds)[min(int(len(seconds) * share), len(seconds) - 1)] * 1e6


def main() -> None:
    for line in sys.stdin:
        result = uvloop.run(Run(Job.read(line)).all())
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
