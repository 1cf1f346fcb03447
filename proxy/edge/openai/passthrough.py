"""What goes to an upstream as it came: chat without a session, and the other /v1 paths of a fixed list."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec
from starlette.types import Scope as AsgiScope

from proxy.config import DEFAULT_MODEL
from proxy.edge import auth, body, models
from proxy.edge.answered import answered, respond
from proxy.edge.body import Fields
from proxy.edge.deliver import Connection, Head, RawHeaders, deliver
from proxy.edge.openai import storing
from proxy.edge.request import Request, frame, passed_on
from proxy.errors import MethodNotAllowed, NotFound, UpstreamBroken
from proxy.events import Chunk, Client, End
from proxy.services import Services
from proxy.types import Scope
from proxy.upstream import wire
from proxy.upstream.exchange import always, exchange, never, read
from proxy.upstream.fallback import first_good
from proxy.upstream.fold import Fold
from proxy.upstream.headers import has_media, upstream_headers
from proxy.upstream.protocol import Answer, Call
from proxy.upstream.route import Target, targets

PATHS = {
    "models": "GET",
    "embeddings": "POST",
    "completions": "POST",
    "moderations": "POST",
    "audio": "POST",
    "images": "POST",
    "rerank": "POST",
}
"""First parts of the paths that pass through, and how they may be asked: with the proxy's own key nobody reaches the
shared account's files or deletes its models."""

COMMENTS = 64 * 1024
"""Bytes of comments that may stand before a stream's first event while another upstream may take over."""
MODEL = "models/"
SAFE = re.compile(r"[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+)*")

NOT_PASSED = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"content-length", b"date", b"server", b"set-cookie", b"x-request-id",
        b"x-upstream", b"access-control-allow-origin",
    }
)  # fmt: skip
"""Headers of an upstream's answer that are its connection's or its own server's."""


async def relay(
    svc: Services, who: Scope, request: Request, raw: bytes, fields: Fields, connection: Connection
) -> None:
    """A chat request without a session, byte for byte."""
    places = _places(svc, who, fields)

    def call(target: Target) -> Call:
        headers = upstream_headers(who.credential, target.upstream, request.headers)
        path = "/chat/completions" + passed_on(request.query)
        return Call("POST", path, _addressed(raw, fields, target), headers)

    events = storing.copied(svc, who, request, raw, fields, _relayed(svc, who, places, call))
    await deliver(events, Client(), connection, lambda head: _named(head, request))


def forwarded(svc: Services, who: Scope, raw: bytes, fields: Fields) -> tuple[Target, bytes]:
    """Where a request without a session goes now, and its body there."""
    target = svc.breakers.choose(_places(svc, who, fields))[0]
    return target, _addressed(raw, fields, target)


def _places(svc: Services, who: Scope, fields: Fields) -> tuple[Target, ...]:
    return targets(svc.config, _model(fields), who.credential)


def _model(fields: Fields) -> str | None:
    given = body.parsed(fields, "model")
    return given if isinstance(given, str) else None


def _addressed(raw: bytes, fields: Fields, target: Target) -> bytes:
    """The body, with an alias replaced by the model's name at its upstream."""
    odd = fields.get("model", b"null")[:1] not in (b'"', b"n")  # no name, and the upstream's to refuse
    if odd or target.model == _model(fields):
        return raw
    return body.joined({**fields, "model": msgspec.json.encode(target.model)})


def _named(head: Head, request: Request) -> Head:
    return Head(head.status, [*head.headers, (b"x-request-id", request.id.encode("latin-1"))])


class _Events:
    """Whole events, joined as they came: an unfinished one waits, so that a break never cuts an event in two."""

    def __init__(self) -> None:
        self.held = b""

    def take(self, data: bytes) -> bytes:
        data = self.held + data
        end = _last_event(data)
        self.held = data[end:]
        if len(self.held) > 4 << 20:
            raise UpstreamBroken("the upstream sent an event of more than 4 MB")
        return data if end == len(data) else data[:end]


class _Opened(msgspec.Struct, frozen=True, gc=False):
    """An answer, to be closed: a stream as far as its first whole events, or all of it, as `first`."""

    answer: Answer
    head: Head
    first: bytes
    stream: AsyncIterator[bytes] | None = None
    events: _Events | None = None


async def _relayed(
    svc: Services, who: Scope, places: Sequence[Target], call: Callable[[Target], Call]
) -> AsyncGenerator[Head | Chunk | End]:
    """The answer of the first upstream that gives one: status and headers, then its bytes as they come."""

    async def attempt(target: Target, last: bool) -> _Opened:
        return await _opened(svc, who, target, call(target), last)

    own_key = who.credential is None
    opened = await first_good(svc.breakers, svc.breakers.choose(places), own_key, attempt)
    try:
        yield opened.head
        if opened.stream is None or opened.events is None:
            yield End(opened.first)
            return
        if opened.first:
            yield Chunk(opened.first)
        async for data in opened.stream:
            if out := opened.events.take(data):
                yield Chunk(out)
        yield End(opened.events.held)
    finally:
        await opened.answer.aclose()


async def _opened(svc: Services, who: Scope, target: Target, call: Call, last: bool) -> _Opened:
    """One upstream's answer. `last`: no other takes over."""
    upstream = target.upstream
    final = never if last else always
    answer = await exchange(svc.upstreams[upstream.name], upstream, call, who.credential is None, final)
    try:
        head = Head(answer.status, [*_visible(answer), (b"x-upstream", upstream.name.encode())])
        if not has_media(answer.headers, b"text/event-stream"):
            return _Opened(answer, head, await read(answer, svc.config.limits.answer_mb << 20))
        stream, events = aiter(answer), _Events()
        first = await _first(stream, events, last)
        if not last:
            _check(first)
        return _Opened(answer, head, first, stream, events)
    except BaseException:
        await answer.aclose()
        raise


async def _first(stream: AsyncIterator[bytes], events: _Events, last: bool) -> bytes:
    """The first whole events. Comments alone wait for an event while another upstream may take over."""
    held: list[bytes] = []
    size = 0
    async for data in stream:
        out = events.take(data)
        if out:
            held.append(out)
            size += len(out)
        if out and (last or _said(out)):
            return b"".join(held)
        if size > COMMENTS:
            raise UpstreamBroken("the upstream's stream holds nothing but comments")
    if not last:
        raise UpstreamBroken("the upstream's stream ended before it began")
    return b"".join(held)


def _said(events: bytes) -> bytes | None:
    """What the first event that is no comment carries."""
    payloads = (wire.payload(event) for event in wire.Splitter().feed(events))
    return next((payload for payload in payloads if payload is not None and not payload.startswith(b":")), None)


def _check(first: bytes) -> None:
    """Raises what a stream that begins with an error tells of."""
    said = _said(first)
    if said is not None and b'"error"' in said:
        Fold().add(said)


def _last_event(data: bytes) -> int:
    """Where the last whole event ends."""
    if data.endswith(b"\n\n"):
        return len(data)
    ends = (data.rfind(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r") if mark in data)
    return max(ends, default=0)


def _visible(answer: Answer) -> RawHeaders:
    """The upstream's headers but for those of its connection; its request id under a name of its own."""
    out = [(name, value) for name, value in answer.headers if name not in NOT_PASSED]
    out += [(b"x-upstream-request-id", value) for name, value in answer.headers if name == b"x-request-id"]
    return out


async def other(svc: Services, scope: AsgiScope, connection: Connection) -> None:
    """The other /v1 paths."""
    request = frame(scope)
    await answered(svc, request, connection, _other(svc, request, connection))


async def _other(svc: Services, request: Request, connection: Connection) -> None:
    headers = request.headers
    who = await auth.scope_of(svc, headers)
    path = _allowed(svc, request)
    raw = await body.read(connection, headers)
    if request.method == "GET" and (path == "models" or _alias_in(svc, path)):
        await respond(connection, request, await _models(svc, who, request))
        return
    media = headers.get(b"content-type", b"")
    fields = _fields(path, media, raw)
    places = targets(svc.config, _model_of(path, fields), who.credential)
    query = "?" + request.query.decode("latin-1") if request.query else ""

    def call(target: Target) -> Call:
        content = raw if fields is None else _addressed(raw, fields, target)
        own = upstream_headers(who.credential, target.upstream, headers, media)
        return Call(request.method, f"/{path}{query}", content, own)

    await deliver(_relayed(svc, who, places, call), Client(), connection, lambda head: _named(head, request))


def _allowed(svc: Services, request: Request) -> str:
    """The path below /v1, if it may pass. HEAD never does: its answer has a length and no body."""
    rest = request.path.removeprefix("/v1/")
    first = rest.partition("/")[0]
    wide = svc.config.auth.mode == "passthrough" or first in svc.config.passthrough.paths
    if SAFE.fullmatch(rest) and ".." not in rest and (wide or first in PATHS):
        if request.method == "HEAD" or not (wide or request.method == PATHS[first]):
            allowed = PATHS.get(first, "GET")
            raise MethodNotAllowed(f"use {allowed} for /v1/{first}", headers={"Allow": allowed})
        return rest
    raise NotFound("there is no such path here; see GET /v1/models and POST /v1/chat/completions", code="unknown_url")


def _fields(path: str, media: bytes, raw: bytes) -> Fields | None:
    """What a body of JSON holds; None for one of another type."""
    return body.fields(raw) if media.startswith(b"application/json") and not path.startswith(MODEL) else None


def _model_of(path: str, fields: Fields | None) -> str | None:
    if path.startswith(MODEL):
        return path.removeprefix(MODEL)
    return None if fields is None else _model(fields)


def _alias_in(svc: Services, path: str) -> str | None:
    """The alias that a path asks for: no upstream knows it."""
    name = path.removeprefix(MODEL)
    return name if path.startswith(MODEL) and name in svc.config.models and name != DEFAULT_MODEL else None


async def _models(svc: Services, who: Scope, request: Request) -> bytes:
    """The list of all models, or the alias that the path names."""
    alias = _alias_in(svc, request.path.removeprefix("/v1/"))
    shown = (
        {"object": "list", "data": await models.every(svc, who, request)} if alias is None else models.of_alias(alias)
    )
    return msgspec.json.encode(shown)
