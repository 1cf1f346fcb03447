"""What goes to an upstream as it came: chat without a session, and the other /v1 paths of a fixed list."""

import re
from collections.abc import AsyncGenerator

import msgspec
from starlette.types import Scope as AsgiScope

from proxy.edge import auth, body, failures, models
from proxy.edge.body import Fields
from proxy.edge.deliver import Connection, Head, RawHeaders, deliver, log_request
from proxy.edge.request import Request, frame
from proxy.errors import MethodNotAllowed, NotFound, ProxyError, UpstreamBroken
from proxy.events import Chunk, Client, End
from proxy.services import Services
from proxy.types import Scope
from proxy.upstream.exchange import exchange, read
from proxy.upstream.headers import upstream_headers
from proxy.upstream.protocol import Answer, Call
from proxy.upstream.route import Target, route

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

SAFE = re.compile(r"[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+)*")

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"content-length", b"content-encoding", b"date", b"server", b"set-cookie",
        b"x-request-id", b"access-control-allow-origin",
    }
)  # fmt: skip


async def relay(
    svc: Services, who: Scope, request: Request, raw: bytes, fields: Fields, connection: Connection
) -> None:
    """A chat request without a session, byte for byte."""
    target, content = forwarded(svc, raw, fields)
    headers = upstream_headers(who.credential, target.upstream, request.headers)
    call = Call("POST", "/chat/completions", content, headers)
    await deliver(_relayed(svc, who, target, call), Client(), connection, lambda head: _named(head, request))


def forwarded(svc: Services, raw: bytes, fields: Fields) -> tuple[Target, bytes]:
    """Where a request without a session goes, and its body there."""
    given = body.parsed(fields, "model")
    model = given if isinstance(given, str) else None
    target = route(svc.config, model)
    return target, raw if target.model == model else _renamed(fields, target)


def _renamed(fields: Fields, target: Target) -> bytes:
    """The body with an alias replaced by the model's name at its upstream."""
    fields = {**fields, "model": msgspec.json.encode(target.model)}
    return body.joined(fields)


def _named(head: Head, request: Request) -> Head:
    return Head(head.status, [*head.headers, (b"x-request-id", request.id.encode("latin-1"))])


async def _relayed(svc: Services, who: Scope, target: Target, call: Call) -> AsyncGenerator[Head | Chunk | End]:
    """The upstream's answer: status and headers, then its bytes as they come."""
    answer = await exchange(svc.upstreams[target.upstream.name], target.upstream, call, own_key=who.credential is None)
    try:
        head = Head(answer.status, _visible(answer))
        if _is_stream(answer):
            async for event in _stream(answer, head):
                yield event
        else:
            content = await read(answer, svc.config.limits.answer_mb << 20)
            yield head
            yield End(content)
    finally:
        await answer.aclose()


async def _stream(answer: Answer, head: Head) -> AsyncGenerator[Head | Chunk | End]:
    """Whole events, joined as they came: an unfinished one waits, so that a break never cuts an event in two."""
    held = b""
    begun = False
    async for data in answer:
        data = held + data
        end = _last_event(data)
        held = data[end:]
        if len(held) > 4 << 20:
            raise UpstreamBroken("the upstream sent an event of more than 4 MB")
        if end:
            if not begun:
                begun = True
                yield head
            yield Chunk(data if end == len(data) else data[:end])
    if not begun:
        yield head
    yield End(held)


def _last_event(data: bytes) -> int:
    """Where the last whole event ends."""
    if data.endswith(b"\n\n"):
        return len(data)
    ends = (data.rfind(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r") if mark in data)
    return max(ends, default=0)


def _is_stream(answer: Answer) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in answer.headers)


def _visible(answer: Answer) -> RawHeaders:
    """The upstream's headers but for those of its connection; its request id under a name of its own."""
    out = [(name, value) for name, value in answer.headers if name not in HOP_BY_HOP]
    out += [(b"x-upstream-request-id", value) for name, value in answer.headers if name == b"x-request-id"]
    return out


async def other(svc: Services, scope: AsgiScope, connection: Connection) -> None:
    """The other /v1 paths."""
    request = frame(scope)
    headers = request.headers
    try:
        who = await auth.scope_of(svc, headers)
        path = _allowed(svc, request)
        raw = await body.read(connection, headers)
        if path == "models" and request.method == "GET":
            await _respond_models(svc, who, request, connection)
            return
        target = route(svc.config, _model_of(path, headers, raw))
        media = headers.get(b"content-type", b"")
        query = "?" + request.query.decode("latin-1") if request.query else ""
        call = Call(
            request.method, f"/{path}{query}", raw, upstream_headers(who.credential, target.upstream, headers, media)
        )
        await deliver(_relayed(svc, who, target, call), Client(), connection, lambda head: _named(head, request))
    except ProxyError as failure:
        connection.status, connection.outcome = failure.status, failure.code or failure.type
        await failures.respond(connection.send, failure, {"x-request-id": request.id})
    except body.ClientLeft:
        connection.outcome = "client_left"
    finally:
        log_request(svc, request, connection, {})


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


def _model_of(path: str, headers: dict[bytes, bytes], raw: bytes) -> str | None:
    if path.startswith("models/"):
        return path.removeprefix("models/")
    if not headers.get(b"content-type", b"").startswith(b"application/json"):
        return None
    model = body.parsed(body.fields(raw), "model")
    return model if isinstance(model, str) else None


async def _respond_models(svc: Services, who: Scope, request: Request, connection: Connection) -> None:
    content = msgspec.json.encode({"object": "list", "data": await models.every(svc, who, request)})
    fields = {b"content-type": b"application/json", b"x-request-id": request.id.encode("latin-1")}
    await connection.start(200, [*fields.items(), (b"content-length", str(len(content)).encode())])
    await connection.write(content, more=False)
