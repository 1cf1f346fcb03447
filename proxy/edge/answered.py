"""The frame around an endpoint of /v1: what its failures look like, and the request's line. An answer that is JSON."""

from collections.abc import AsyncGenerator, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from proxy.edge import failures
from proxy.edge.body import ClientLeft
from proxy.edge.deliver import Connection, Head, deliver, log_request
from proxy.edge.request import Request
from proxy.errors import ProxyError
from proxy.events import Chunk, Client, End
from proxy.services import Services

NOTHING: Mapping[str, Any] = MappingProxyType({})


async def answered(
    svc: Services,
    request: Request,
    connection: Connection,
    work: Coroutine[Any, Any, None],
    headers: Mapping[str, str] = NOTHING,
    facts: Mapping[str, object] = NOTHING,
) -> None:
    """Has `work` answer the request. `headers` are a failure's too, `facts` are for the line; it may fill both.

    `work` is a coroutine: a context manager around it would take 2 microseconds of each turn, or 5 as a generator.
    """
    try:
        await work
    except ProxyError as failure:
        connection.status, connection.outcome = failure.status, failure.code or failure.type
        await failures.respond(connection.tell, failure, {"x-request-id": request.id, **headers})
    except ClientLeft:
        connection.outcome = "client_left"
    finally:
        log_request(svc, request, connection, facts)


async def respond(
    connection: Connection, request: Request, content: bytes, headers: Mapping[str, str] = NOTHING
) -> None:
    """Sends JSON as the whole answer."""
    given = {**headers, "x-request-id": request.id, "content-type": "application/json"}
    head = Head(200, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()])
    await deliver(_events(head, content), Client(), connection, lambda first: first)


async def _events(head: Head, content: bytes) -> AsyncGenerator[Head | Chunk | End]:
    yield head
    yield End(content)
