"""Turns without HTTP: the real store and the real path of a turn, before a model that is an object of the test."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString, TypeVar

from proxy import config, events
from proxy import turn as turns
from proxy.calibration import Calibration
from proxy.context.tokens import Count
from proxy.edge import body
from proxy.errors import ProxyError, Unavailable
from proxy.services import Services, Turn, TurnQueue, epoch_ms
from proxy.store import sessions, sqlite
from proxy.store.database import Database, Row, Tx, Value
from proxy.summarize import Summaries
from proxy.telemetry.log import Log
from proxy.templates.renderer import Renderer
from proxy.types import Mode, Options, Scope
from proxy.upstream.protocol import Call, Headers
from proxy.upstream.route import Target, route

Message = dict[str, Any]
T = TypeVar("T")
DEFAULT = Scope(1)
JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream")


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def says(text: str) -> Message:
    return {"role": "assistant", "content": text}


@dataclass
class Reply:
    """`protocol.Answer` made of its parts; an exception among them is raised in its place."""

    parts: Sequence[bytes | Exception]
    headers: Headers = (JSON,)
    status: int = 200
    closed: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Model:
    """`protocol.Upstream` that says `says`: a message, or a failure. `requests`: what it was asked.

    A stream brings a text in two parts, the first of 7 characters, and everything else whole.
    """

    says: Message | ProxyError = field(default_factory=lambda: {"role": "assistant", "content": "hello"})
    requests: list[Message] = field(default_factory=list)
    before: Callable[[], Any] | None = None

    async def send(self, call: Call) -> Reply:
        asked = json.loads(call.body)
        self.requests.append(asked)
        if self.before is not None:
            await self.before()
        if isinstance(self.says, ProxyError):
            raise self.says
        return Reply(streamed(self.says), (EVENTS,)) if asked.get("stream") else Reply([whole(self.says)])

    async def aclose(self) -> None:
        return


def finish(message: Message) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"


def whole(message: Message) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish(message)}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "choices": [choice]}).encode()


def streamed(message: Message) -> list[bytes]:
    rest = {key: value for key, value in message.items() if key != "content"}
    if message.get("tool_calls"):
        rest["tool_calls"] = [{"index": n, **call} for n, call in enumerate(message["tool_calls"])]
    text = message["content"] or ""
    deltas = [rest, *({"content": part} for part in (text[:7], text[7:]) if part)]
    ends: list[Message] = [{"index": 0, "delta": {}, "finish_reason": finish(message)}]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas] + ends
    chunks = [json.dumps({"id": "c", "created": 1, "choices": [choice]}) for choice in choices]
    return [b"data: %b\n\n" % chunk.encode() for chunk in [*chunks, "[DONE]"]]


def words(text: str) -> int:
    """A token counter that needs no table."""
    return len(text.split())


@asynccontextmanager
async def services(
    folder: Path, model: Model, settings: str = "", wrap: Callable[[Database], Database] = lambda db: db
) -> AsyncGenerator[Services]:
    """Wired as app.py does it, but for the model and a cheap counter. `wrap` puts a stage before the store."""
    settled = config.load(settings, {})
    db = sqlite.opened(f"sqlite:///{folder / 'sessions.db'}", synchronous="normal")
    templates = Renderer()

    async def counter() -> Count:
        return words

    async def context_of(_target: Target, _headers: Headers) -> int | None:
        return None

    try:
        queue = TurnQueue(settled.sessions.wait_timeout_s)
        names = {upstream.name: model for upstream in settled.upstreams}
        store = wrap(db)
        quiet: Log = lambda *_, **__: None  # noqa: E731
        async with Summaries(settled, store, names, counter, context_of, quiet, epoch_ms) as summaries:
            yield Services(
                settled, store, names, counter, context_of, queue, quiet, templates, summaries, Calibration()
            )
    finally:
        await templates.aclose()
        await db.close()


class Stage:
    """Stands before the store: commits wait for `open`, or fail, when the test wants it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()
        self.broken = False

    async def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        return await self.db.all(sql, args)

    def transaction(self, work: Callable[[Tx], T]) -> Awaitable[T]:
        self.asked.set()
        return asyncio.ensure_future(self._later(work))

    async def _later(self, work: Callable[[Tx], T]) -> T:
        await self.open.wait()
        if self.broken:
            raise Unavailable("the disk is full", code="storage_unavailable")
        return await self.db.transaction(work)

    async def apart(self, work: Callable[[Tx], T]) -> T:
        return await self.db.apart(work)

    async def ready(self) -> None:
        await self.db.ready()

    async def close(self) -> None:
        await self.db.close()


@asynccontextmanager
async def staged(folder: Path, settings: str = "") -> AsyncGenerator[tuple[Services, Model, Stage]]:
    model = Model({"role": "assistant", "content": "hello world"})
    stages: list[Stage] = []

    def wrap(db: Database) -> Database:
        stages.append(Stage(db))
        return stages[0]

    async with services(folder, model, settings, wrap) as svc:
        yield svc, model, stages[0]


@dataclass(frozen=True)
class Ask:
    """A request of a session."""

    messages: Sequence[Message]
    name: str = "s"
    mode: Mode = "auto"
    stream: bool = False
    save: bool = True
    key: str = ""
    retried: bool = False
    budget: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    scope: Scope = DEFAULT

    def turn(self, svc: Services) -> Turn:
        asked = {"model": "m", "messages": self.messages, "stream": self.stream, **self.fields}
        raw = json.dumps(asked).encode()
        fields = body.fields(raw)
        said = body.messages(fields, 2000, 64)
        lead = next((n for n, (_, value) in enumerate(said) if value["role"] not in ("system", "developer")), len(said))
        return Turn(
            scope=self.scope,
            name=self.name,
            options=Options(self.mode, self.save, self.budget),
            request_id="r",
            fields=fields,
            system=tuple(raw for raw, _ in said[:lead]) if lead else None,
            messages=said[lead:],
            model="m",
            stream=self.stream,
            wants_usage=False,
            reserve=0,
            headers=(),
            target=route(svc.config, "m"),
            key=self.key,
            retried=self.retried,
            request=hashlib.blake2b(raw, digest_size=16).digest(),
            now=epoch_ms(),
            started=time.perf_counter(),
        )


async def run(svc: Services, ask: Ask) -> list[events.Event]:
    """All events of a turn, to its end."""
    return [event async for event in turns.run(svc, ask.turn(svc), events.Client())]


async def begun(svc: Services, ask: Ask) -> events.Begin:
    """The first event of a turn that ran to its end."""
    first = (await run(svc, ask))[0]
    assert isinstance(first, events.Begin)
    return first


async def left(svc: Services, ask: Ask) -> None:
    """A turn whose client leaves once it has got the first words."""
    client = events.Client()
    running = turns.run(svc, ask.turn(svc), client)
    async for event in running:
        if isinstance(event, events.Chunk) and b'"content"' in event.data:
            break
    client.left = True
    await running.aclose()


async def stored(svc: Services, name: str = "s") -> list[tuple[int, str, str]]:
    """(turn, raw, status) of each entry of a session, all branches."""
    found = await sessions.find(svc.db, Scope(1), name)
    if found is None:
        return []
    sql = "SELECT turn, raw, status FROM entries WHERE tenant = 1 AND session = ? ORDER BY branch, seq"
    return [(turn, raw.decode(), status) for turn, raw, status in await svc.db.all(sql, (found[0].id,))]


async def counts(svc: Services) -> list[int]:
    tables = ("sessions", "branches", "entries", "turns", "instructions", "replays")
    return [(await svc.db.all(f"SELECT count(*) FROM {table}"))[0][0] for table in tables]  # noqa: S608 - from above


def kinds(events: Sequence[events.Event]) -> list[str]:
    return [type(event).__name__ for event in events]


async def collect(running: AsyncGenerator[events.Event], into: list[events.Event]) -> None:
    async for event in running:
        into.append(event)
