"""Summaries without a server: the real store and runner, before a model server that is an object of the test."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from proxy import config
from proxy.context.tokens import Count
from proxy.errors import ProxyError, UpstreamRefused
from proxy.store import sqlite
from proxy.store.database import Database
from proxy.summarize import Summaries, Wanted
from proxy.upstream.protocol import Call, Headers
from proxy.upstream.route import Target, route
from tests.inprocess import Reply, whole, words
from tests.store.saying import ME, find, say


def refused(status: int, text: str = "no") -> ProxyError:
    return UpstreamRefused(status, text, body=None, headers={})


def numbered(call: Call, number: int) -> dict[str, Any]:
    return {"role": "assistant", "content": f"Summary {number}."}


@dataclass
class Scribe:
    """A model server that writes summaries; a call waits while `open` is not set."""

    answers: Callable[[Call, int], dict[str, Any] | ProxyError] = numbered
    calls: list[Call] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    most: int = 0
    given_up: int = 0

    async def send(self, call: Call) -> Reply:
        self.calls.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.running -= 1
        said = self.answers(call, len(self.calls))
        if isinstance(said, ProxyError):
            raise said
        return Reply([whole(said)])

    async def aclose(self) -> None:
        return

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(call.body) for call in self.calls]

    @property
    def asked(self) -> list[str]:
        """What each call gave to be summarised."""
        return [body["messages"][1]["content"] for body in self.bodies]


@dataclass
class Stage:
    """What a test plays with. `seconds`: the clock."""

    db: Database
    scribe: Scribe
    made: Summaries
    seconds: list[float]
    logged: list[tuple[str, str, Mapping[str, object]]]

    async def talk(self, turns: int, name: str = "s", size: int = 1) -> None:
        """Turns, each of two messages of so many words."""
        for _ in range(turns):
            found = await find(self.db, name) if await self.db.all("SELECT 1 FROM sessions WHERE name = ?", (name,)) \
                else None  # fmt: skip
            n = 1 + (found[1].head // 2 if found else 0)
            await say(self.db, name, f"q{n}" + " word" * (size - 1), f"a{n}" + " word" * (size - 1))

    async def wanted(self, upto: int, budget: int | None = None, name: str = "s", **changes: Any) -> Wanted:
        session, branch = await find(self.db, name)
        given: dict[str, Any] = {
            "scope": ME, "target": route(self.made.config, "m"), "client": {}, "session": session.id,
            "line": [(1, 1, branch.head)], "upto": upto, "budget": budget, "request_id": "r", **changes,
        }  # fmt: skip
        return Wanted(**given)

    async def make(self, upto: int, budget: int | None = None, **changes: Any) -> None:
        """Starts it and waits for its end."""
        self.made.start(await self.wanted(upto, budget, **changes))
        with anyio.fail_after(10):
            await self.made.settled()

    async def stored(self) -> list[tuple[int, int, str]]:
        rows = await self.db.all("SELECT branch, upto, text FROM summaries ORDER BY session, branch, upto")
        return [(branch, upto, text) for branch, upto, text in rows]

    async def called(self, count: int) -> None:
        """Waits until the model has been asked so often."""
        with anyio.fail_after(10):
            while len(self.scribe.calls) < count:
                await anyio.lowlevel.checkpoint()

    async def session(self) -> int:
        return (await find(self.db, "s"))[0].id


@asynccontextmanager
async def staged(folder: Path, settings: str = "", counter: Count = words) -> AsyncGenerator[Stage]:
    settled = config.load(settings, {"OPENAI_API_KEY": "sk-own"})
    db = sqlite.opened(f"sqlite:///{folder / 'sessions.db'}", synchronous="normal")
    scribe, seconds, logged = Scribe(), [0.0], []

    async def count() -> Count:
        return counter

    async def context_of(target: Target, _headers: Headers) -> int | None:
        return 400 if target.model == "small" else None

    def log(level: str, event: str, **facts: object) -> None:
        logged.append((level, event, facts))

    scribe.open.set()
    upstreams = {upstream.name: scribe for upstream in settled.upstreams}
    made = Summaries(settled, db, upstreams, count, context_of, log, lambda: 5, lambda: seconds[0])
    try:
        async with made:
            yield Stage(db, scribe, made, seconds, logged)
    finally:
        await db.close()
