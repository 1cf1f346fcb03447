"""Turns without HTTP, in this process: the real store and the real path, before a model that is a function."""

import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy import config, events
from proxy import turn as turns
from proxy.calibration import Calibration
from proxy.context.tokens import Count
from proxy.edge import body
from proxy.services import Services, Turn, TurnQueue, epoch_ms
from proxy.store import sqlite
from proxy.summarize import Summaries
from proxy.templates.renderer import Renderer
from proxy.types import Options, Scope
from proxy.upstream.protocol import Call, Headers
from proxy.upstream.route import Target, route

SCOPE = Scope(1)
MODEL = "bench"
Message = dict[str, Any]


@dataclass
class Reply:
    """A whole answer as `protocol.Answer`."""

    data: bytes
    headers: Headers = ((b"content-type", b"application/json"),)
    status: int = 200

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data

    async def aclose(self) -> None:
        return


@dataclass
class Model:
    """`protocol.Upstream` that answers what `says` makes of the body it was sent: a text, or a whole message."""

    says: Callable[[bytes], str | Message]

    async def send(self, call: Call) -> Reply:
        said = self.says(call.body)
        message = {"role": "assistant", "content": said} if isinstance(said, str) else said
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return Reply(json.dumps({"id": "c", "object": "chat.completion", "created": 1, "choices": [choice]}).encode())

    async def aclose(self) -> None:
        return


@asynccontextmanager
async def services(folder: Path, model: Model, count: Count, settings: str = "") -> AsyncGenerator[Services]:
    """Wired as app.py does it, but for the model."""
    settled = config.load(settings, {})
    db = sqlite.opened(f"sqlite:///{folder / 'bench.db'}", synchronous="normal")
    templates = Renderer()
    models = {upstream.name: model for upstream in settled.upstreams}

    async def counter() -> Count:
        return count

    async def context_of(_target: Target, _headers: Headers) -> int | None:
        return None

    def log(*_: object, **__: object) -> None:
        return

    summaries = Summaries(settled, db, models, counter, context_of, log, epoch_ms)
    svc = Services(
        config=settled,
        db=db,
        upstreams=models,
        counter=counter,
        context_of=context_of,
        queue=TurnQueue(settled.sessions.wait_timeout_s),
        log=log,
        templates=templates,
        summaries=summaries,
        calibration=Calibration(),
    )
    try:
        async with summaries:
            yield svc
    finally:
        await templates.aclose()
        await db.close()


def turn(
    svc: Services, name: str, messages: Sequence[Message], options: Options, tools: Sequence[Message] = ()
) -> Turn:
    """A request of a session as the edge reads it."""
    raw = json.dumps({"model": MODEL, "messages": messages} | ({"tools": tools} if tools else {})).encode()
    fields = body.fields(raw)
    said = body.messages(fields, 2000, 64)
    lead = next((n for n, (_, value) in enumerate(said) if value["role"] != "system"), len(said))
    return Turn(
        scope=SCOPE,
        name=name,
        options=options,
        request_id="r",
        fields=fields,
        system=tuple(raw for raw, _ in said[:lead]) or None,
        messages=said[lead:],
        model=MODEL,
        stream=False,
        wants_usage=False,
        reserve=0,
        headers=(),
        target=route(svc.config, MODEL),
        key="",
        retried=False,
        request=hashlib.blake2b(raw, digest_size=16).digest(),
        now=epoch_ms(),
        started=time.perf_counter(),
    )


async def run(svc: Services, asked: Turn) -> events.Begin:
    """A turn to its end; what it began with."""
    first, *_ = [event async for event in turns.run(svc, asked, events.Client())]
    assert isinstance(first, events.Begin)
    return first
