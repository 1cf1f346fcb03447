"""One operation of the Sessions API: method and path, what it takes and gives. Its handler is parse, call, render.

The table of them is in routes.py; /openapi.json is made of it.
"""

import re
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from proxy.edge import auth, body, failures
from proxy.edge.deliver import Connection, Head, deliver, log_request
from proxy.edge.request import Request, frame
from proxy.errors import BadRequest, Forbidden, Invalid, MethodNotAllowed, ProxyError, Unauthorized
from proxy.events import Begin, Chunk, Client, End, Event
from proxy.services import Services
from proxy.types import Scope

CONNECTION = "session_proxy.connection"
"""The key of an ASGI scope under which the request's connection stands."""
SLASH = "\x1f"
"""Stands for an escaped slash inside a path's segment, so that any session name has a path."""

FILTER = "metadata_filter"
SMALL = 1 << 20
"""Bytes of a body that holds settings or a document: read and checked in the event loop, they are bounded lower than
those that hold messages."""
NUMBER = re.compile("[+-]?[0-9]{1,40}")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the Sessions API, parsed. `path`: the path's parameters; `query` and `given`: the query and the body
    as the operation's types; `raw`: the body as it came."""

    svc: Services
    who: Scope
    frame: Request
    path: Mapping[str, str]
    query: Any
    given: Any
    raw: bytes


@dataclass(frozen=True, slots=True)
class Lines:
    """An answer that is sent piece by piece: JSON Lines, or another media type."""

    pieces: AsyncIterator[bytes]
    media: str = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Answering:
    """An answer that a turn gives, event by event. `facts`: what the log tells of it."""

    events: AsyncGenerator[Event]
    client: Client
    head: Callable[[Begin], Head]
    facts: Mapping[str, object]


Handler = Callable[[Ask], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Operation:
    """`call` gives what is rendered as `answer`, with `status`. `body` and `query` are the types of what it takes;
    `small`: the body holds no messages."""

    method: str
    path: str
    call: Handler
    answer: Any
    status: int = 200
    body: Any = None
    query: Any = None
    small: bool = True


class PathEndpoint:
    """All operations of one path, as an ASGI application."""

    def __init__(self, svc: Services, operations: Sequence[Operation]) -> None:
        self.svc = svc
        self.operations = {operation.method: operation for operation in operations}

    async def __call__(self, scope: AsgiScope, _receive: Receive, _send: Send) -> None:
        connection: Connection = scope[CONNECTION]
        request = frame(scope)
        facts: Mapping[str, object] = {}
        try:
            operation = self._operation(request.method)
            ask = await self._read(operation, request, scope["path_params"], connection)
            answer = await operation.call(ask)
            if isinstance(answer, Answering):
                facts = answer.facts
                await deliver(answer.events, answer.client, connection, answer.head)
            elif isinstance(answer, Lines):
                head = _head_of(operation, request, answer.media)
                await deliver(_events(answer, connection), Client(), connection, head)
            else:
                await _answer(answer, operation, request, connection)
        except ProxyError as failure:
            await refuse(connection, failure, request)
        except body.ClientLeft:
            connection.outcome = "client_left"
        finally:
            log_request(self.svc, request, connection, facts)

    def _operation(self, method: str) -> Operation:
        operation = self.operations.get("GET" if method == "HEAD" else method)
        if operation is None:
            allowed = ", ".join(sorted({*self.operations, *({"HEAD"} if "GET" in self.operations else ())}))
            raise MethodNotAllowed(f"{method} is not possible here; use {allowed}", headers={"Allow": allowed})
        return operation

    async def _read(
        self, operation: Operation, request: Request, path: Mapping[str, str], connection: Connection
    ) -> Ask:
        who = await auth.scope_of(self.svc, request.headers)
        raw = await body.read(connection, request.headers, SMALL if operation.small else None)
        given = None
        if operation.body is not None:
            if raw:
                body.check_media(request.headers)
            body.check_depth(raw, self.svc.config.limits.nesting)
            given = decoded(raw or b"{}", operation.body)
        query = None if operation.query is None else asked(request.query, operation.query)
        names = {key: value.replace(SLASH, "/") for key, value in path.items()}
        return Ask(self.svc, who, request, names, query, given, raw)


async def refuse(connection: Connection, failure: ProxyError, request: Request) -> None:
    """The failure as the whole response, in the style of the Sessions API: a wrong key is 403 there."""
    if isinstance(failure, Unauthorized):
        failure = Forbidden(f"Could not validate API KEY. {failure.message}", code="invalid_api_key")
    connection.status, connection.outcome = failure.status, failure.code or failure.type
    if connection.begun:
        connection.cut()
        return
    await failures.respond(connection.tell, failure, {"x-request-id": request.id}, failures.JULEP)


async def _answer(answer: Any, operation: Operation, request: Request, connection: Connection) -> None:
    name = (b"x-request-id", request.id.encode("latin-1"))
    content = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    length = (b"content-length", str(len(content)).encode())
    await connection.start(operation.status, [(b"content-type", b"application/json"), length, name])
    await connection.write(content, more=False)


def _head_of(operation: Operation, request: Request, media: str) -> Callable[[object], Head]:
    name = (b"x-request-id", request.id.encode("latin-1"))
    return lambda _: Head(operation.status, [(b"content-type", media.encode()), name])


async def _events(answer: Lines, connection: Connection) -> AsyncGenerator[object]:
    """The pieces as events, so that a client that leaves or does not read is noticed. An answer that breaks off ends
    with its connection: no line of it could say so."""
    yield answer
    try:
        async for piece in answer.pieces:
            yield Chunk(piece)
    except ProxyError:
        connection.over = connection.begun
        if connection.begun:
            connection.cut()
        raise
    yield End(b"")


def decoded(raw: bytes, shape: Any) -> Any:
    """The body as its type. Raises Invalid, which names the field."""
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.ValidationError as exc:
        if "got `float`" not in str(exc):
            raise invalid(str(exc), "body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = body.cleaned(raw)
    try:
        return msgspec.convert(_whole(msgspec.json.decode(raw)), shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise invalid(str(exc), "body") from None


def _whole(value: Any) -> Any:
    """5.0 is a whole number in JSON; some clients write theirs so."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def asked(query: bytes, shape: Any) -> Any:
    """The query string as its type; `metadata_filter.<path>=<value>` is gathered under `metadata_filter`."""
    pairs = urllib.parse.parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    plain: dict[str, Any] = {}
    dotted: dict[str, list[str]] = {}
    for key, value in pairs:
        if key.startswith(FILTER + "."):
            dotted.setdefault(key[len(FILTER) + 1 :], []).append(value)
        else:
            plain[key] = value
    _check_range(plain, getattr(shape, "MOST", 100))
    if "T" in plain.get("before", ""):  # a plus sign that nobody escaped is a blank by now
        plain["before"] = plain["before"].replace(" ", "+")
    if FILTER in plain or dotted:
        plain[FILTER] = {**_object(plain.get(FILTER, "{}")), **dotted}
    try:
        return msgspec.convert(plain, shape, strict=False)
    except msgspec.ValidationError as exc:
        raise invalid(str(exc), "query") from None


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise BadRequest(
            "metadata_filter must be a JSON object; or give metadata_filter.<key>=<value>", param=FILTER
        ) from None


def _check_range(plain: Mapping[str, str], most: int) -> None:
    """Julep answers 400 to these two, in these words."""
    limit, offset = plain.get("limit", "1"), plain.get("offset", "0")
    if NUMBER.fullmatch(limit) and not 1 <= int(limit) <= most:
        raise BadRequest(f"Limit must be between 1 and {most}", param="limit")
    if NUMBER.fullmatch(offset) and not 0 <= int(offset) < 2**63:
        raise BadRequest("Offset must be >= 0 and below 2**63", param="offset")


def invalid(problem: str, where: str) -> Invalid:
    """msgspec's message as FastAPI's list: where, what, which kind."""
    what, _, place = problem.partition(" - at `")
    path = place.rstrip("`").replace("[...]", "").removeprefix("$").replace("[", ".").replace("]", "").strip(".")
    loc: list[object] = [where, *[int(part) if part.isdigit() else part for part in path.split(".") if part]]
    kind = "missing" if "missing required" in what else "value_error"
    said = what.replace("`", "'").rstrip(".")
    return Invalid(f"Validation error: {path or where}: {said}", [{"loc": loc, "msg": said, "type": kind}])
