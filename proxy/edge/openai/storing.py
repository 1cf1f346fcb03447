"""`store: true` of a chat request: what it asks for, and the copy of an answer that passes through."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from proxy import completion
from proxy.completion import Given, Storing
from proxy.compose import priced
from proxy.edge.body import Fields, parsed
from proxy.edge.deliver import Head
from proxy.edge.request import Request
from proxy.edge.retries import fingerprint
from proxy.errors import BadRequest, UpstreamError
from proxy.events import Chunk, End
from proxy.services import Services, epoch_ms
from proxy.settled import settled
from proxy.store import completions
from proxy.store.turns import KEY_HOURS
from proxy.types import Scope
from proxy.upstream import wire
from proxy.upstream.fold import Fold
from proxy.upstream.headers import has_media

PAIRS, KEY_LENGTH, VALUE_LENGTH = 16, 64, 512
"""OpenAI's limits of metadata."""


def asked(fields: Fields, save: bool = True) -> Storing | None:
    """What a request of a session says of storing; None for nothing. Raises BadRequest naming the field. `save`: the
    turn is kept."""
    given = fields.get("store", b"null")
    if given not in (b"true", b"false", b"null"):
        raise BadRequest("store must be true or false", param="store")
    if given != b"true":
        return None
    if not save:
        raise BadRequest(
            "store: true asks to keep the answer, and session.save: false to keep nothing; send one of them",
            param="store",
        )
    return Storing(metadata_of(parsed(fields, "metadata")))


def metadata_of(value: Any) -> dict[str, str]:
    """Metadata within OpenAI's limits, {} for null. Raises BadRequest."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong("metadata must be an object of strings")
    if len(value) > PAIRS:
        raise _wrong(f"metadata has {len(value):,} pairs, the limit is {PAIRS}")
    for key, one in value.items():
        if len(key) > KEY_LENGTH:
            raise _wrong(f"a key of metadata has {len(key):,} characters, the limit is {KEY_LENGTH}")
        if not isinstance(one, str):
            raise _wrong(f"metadata[{key!r}] must be a string")
        if len(one) > VALUE_LENGTH:
            raise _wrong(f"metadata[{key!r}] has {len(one):,} characters, the limit is {VALUE_LENGTH}")
    return value


def _wrong(message: str) -> BadRequest:
    return BadRequest(message, param="metadata")


Passing = Head | Chunk | End


class Copy:
    """The copy of an answer to a request without a session. It takes each piece before that goes out, and stores the
    answer before its last one: a `[DONE]` that arrived is a completion that can be fetched.

    What is no whole chat completion is not stored, and nothing of what passes is changed. Raises Unavailable when the
    storage cannot do its work.
    """

    def __init__(self, svc: Services, who: Scope, request: Request, raw: bytes, fields: Fields) -> None:
        """Raises BadRequest for metadata over the limits."""
        self._svc = svc
        self._who = who
        self._request = request
        self._fields = fields
        self._storing = Storing(metadata_of(parsed(fields, "metadata")))
        key = request.headers.get(b"idempotency-key", b"")
        self._mark = hashlib.blake2b(key + b"\0" + fingerprint(raw, request.headers), digest_size=16).digest()
        self._within_ms = KEY_HOURS * 3_600_000 if key else None  # without a key, an equal request may be another's
        self._splitter = wire.Splitter()
        self._fold = Fold()
        self._left = svc.config.limits.answer_mb << 20
        self._over = False

    async def watch(self, events: AsyncGenerator[Passing]) -> AsyncGenerator[Passing]:
        """The events unchanged, each after what it brings was taken."""
        streamed = False
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Head):
                    streamed = has_media(event.headers, b"text/event-stream")
                elif isinstance(event, Chunk):
                    await self.take(event.data)
                elif streamed:
                    await self.end(event.data)
                else:
                    await self.whole(event.data)
                yield event

    async def whole(self, content: bytes) -> None:
        """An answer that is one JSON object, before it goes out."""
        if not self._over:
            await self._store(content)

    async def take(self, data: bytes) -> None:
        """A piece of a stream, before it goes out."""
        if self._over or not self._read(data):
            return
        await self._store(None)

    async def end(self, rest: bytes) -> None:
        """The last piece of a stream that ended by itself, before it goes out."""
        await self.take(rest)
        if self._splitter.rest:
            await self.take(b"\n\n")
        if not self._over and self._fold.finished:
            await self._store(None)

    def _read(self, data: bytes) -> bool:
        """Folds the events that `data` completes. True: the answer is whole."""
        self._left -= len(data)
        if self._left < 0:
            self._give_up("answer_too_large")
            return False
        try:
            for event in self._splitter.feed(data):
                payload = wire.payload(event)
                if payload == b"[DONE]":
                    return True
                if payload is not None and payload.strip() and not payload.startswith(b":"):
                    self._fold.add(payload)
        except UpstreamError as failure:
            self._give_up(failure.code or failure.type)
        return False

    async def _store(self, content: bytes | None) -> None:
        self._over = True
        about = Given(self._fields, self._storing, self._request.id, epoch_ms())
        try:
            if content is not None:
                self._fold.whole(content)
            answer = content if content is not None else msgspec.json.encode(self._fold.completion())
        except UpstreamError as failure:
            self._give_up(failure.code or failure.type)
            return
        size = len(answer) + len(self._fields.get("messages", b""))
        new = await priced(size, completion.made, about, answer)
        if new is None:
            self._give_up("upstream_broken")
            return
        since = None if self._within_ms is None else about.now - self._within_ms
        new = msgspec.structs.replace(new, request=self._mark)
        await settled(completions.keep(self._svc.db, self._who, new, since))

    def _give_up(self, why: str) -> None:
        self._over = True
        self._svc.log("warning", "completion_not_stored", id=self._request.id, why=why)


def copied(
    svc: Services, who: Scope, request: Request, raw: bytes, fields: Fields, events: AsyncGenerator[Passing]
) -> AsyncGenerator[Passing]:
    """The events of an answer to a request without a session, which is stored where `store: true` asks for it; whatever
    else `store` may say is the upstream's to judge. Raises BadRequest for metadata over the limits."""
    if fields.get("store") != b"true":
        return events
    return Copy(svc, who, request, raw, fields).watch(events)
