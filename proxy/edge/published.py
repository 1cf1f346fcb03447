"""What is the same for everybody and needs no key: made when it is first asked for, then kept."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from proxy.edge import failures
from proxy.edge.deliver import Connection, log_request
from proxy.edge.operation import CONNECTION
from proxy.edge.request import frame
from proxy.errors import MethodNotAllowed, ProxyError
from proxy.services import Services


@dataclass(frozen=True, slots=True)
class Publication:
    """Bytes with the headers that say what they are."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(slots=True)
class Published:
    """An ASGI application that answers GET and HEAD with one publication. `make` is pure; it runs in a thread."""

    svc: Services
    make: Callable[[], Publication]
    made: Publication | None = field(default=None, init=False)

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        connection: Connection = scope[CONNECTION]
        request = frame(scope)
        try:
            if request.method not in ("GET", "HEAD"):
                raise MethodNotAllowed(
                    f"{request.method} is not possible here; use GET", headers={"Allow": "GET, HEAD"}
                )
            self.made = self.made or await asyncio.to_thread(self.make)
            given = {"content-length": str(len(self.made.content)), "x-request-id": request.id, **self.made.headers}
            await connection.start(200, [(name.encode(), value.encode("latin-1")) for name, value in given.items()])
            await connection.write(self.made.content, more=False)
        except ProxyError as failure:
            connection.status, connection.outcome = failure.status, failure.code or failure.type
            await failures.respond(connection.tell, failure, {"x-request-id": request.id}, failures.JULEP)
        finally:
            log_request(self.svc, request, connection, {})
