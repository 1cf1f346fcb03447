"""The ASGI application: dispatch, what is refused before anything is read, the last handler, the drain."""

import asyncio
import contextlib
import re
import time
import urllib.parse
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from proxy.config import Config
from proxy.edge import failures
from proxy.edge.deliver import SWEEP_S, Connection, stopping
from proxy.edge.http import ABORT, UNWATCH, WATCH
from proxy.edge.openai import passthrough
from proxy.edge.operation import CONNECTION, SLASH
from proxy.edge.request import request_id
from proxy.edge.routes import ALWAYS, BELOW, HOT, Endpoint, routed
from proxy.errors import MethodNotAllowed, ProxyError, TooManyRequests
from proxy.services import Services
from proxy.telemetry.log import defect

SETTLE_S = 5.0
"""How long a cancelled turn may take to close its upstream and tell its client."""

EXPOSED = (
    "X-Request-Id",
    "X-Upstream",
    "X-Upstream-Request-Id",
    "X-Session-Id",
    "X-Session-Uuid",
    "X-Session-Turn",
    "X-Session-Branch",
    "X-Context-Tokens",
    "X-Context-Dropped",
    "X-Context-Recalled",
    "X-Context-Strategy",
    "X-Proxy-Overhead-Ms",
    "X-Session-Error",
)
"""Response headers that a page of a listed origin may read."""


class Edge:
    """The ASGI application: hot paths first, then /v1, then the rest. `rewired`: the services by another
    configuration."""

    def __init__(self, svc: Services, plain: Starlette, rewired: Callable[[Services, Config], Services]) -> None:
        self.svc = svc
        self.plain = plain
        self._rewired = rewired
        self.sessions_api = routed(svc)
        self.open: set[Connection] = set()
        self.draining = False
        self._idle = asyncio.Event()
        self._sweeping = False
        origins = svc.config.server.cors_origins
        self._cors = CORSMiddleware(self._handle, origins, ("*",), ("*",), expose_headers=EXPOSED) if origins else None

    def reload(self, config: Config) -> None:
        """Another configuration, for the requests that come from now on: those that run keep theirs. Raises BadConfig,
        and then nothing has changed."""
        self.svc = self._rewired(self.svc, config)
        self.plain.state.services = self.svc
        self.sessions_api = routed(self.svc)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._cors or self._handle)(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].removeprefix("/api") in ALWAYS:
            scope = {**scope, "path": scope["path"].removeprefix("/api")}
        if scope["type"] != "http" or (scope["path"] in ALWAYS and scope["method"] in ("GET", "HEAD")):
            await self.plain(scope, receive, send)
            return
        endpoint, style = self._endpoint(scope)
        refused = self._refusal(scope)
        if refused is not None:
            await failures.respond(send, refused, {"x-request-id": request_id(dict(scope["headers"]))}, style)
            return
        task = asyncio.current_task()
        assert task is not None
        offered = scope.get(ABORT), scope.get(WATCH), scope.get(UNWATCH)
        connection = Connection(receive, send, self.svc.config, task, *offered, style, last=time.monotonic())
        self.open.add(connection)
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        try:
            await endpoint(self.svc, scope, connection)
        except asyncio.CancelledError:
            if not self.draining or connection.begun:
                raise
            task.uncancel()
            await failures.respond(send, stopping(), {"x-request-id": request_id(dict(scope["headers"]))}, style)
        except Exception as exc:  # noqa: BLE001 - the last handler: a defect of ours, told without its texts
            defect(self.svc.log, exc)
            if connection.begun:
                connection.cut()
            else:
                await failures.respond(send, unexpected(), {"x-request-id": request_id(dict(scope["headers"]))}, style)
        finally:
            self.open.discard(connection)
            if self.draining and not self.open:
                self._idle.set()

    def _endpoint(self, scope: Scope) -> tuple[Endpoint, failures.Style]:
        """What serves the path, and how its failures look."""
        if scope["path"].startswith("/v1/"):
            return HOT.get((scope["method"], scope["path"])) or _below(scope["path"]), failures.OPENAI
        return self._sessions, failures.JULEP

    async def _sessions(self, _svc: Services, scope: Scope, connection: Connection) -> None:
        """The Sessions API. An escaped slash is part of a name, not of the path."""
        raw = scope.get("raw_path") or scope["path"].encode()
        path = urllib.parse.unquote(re.sub(rb"%2[fF]", SLASH.encode(), raw).decode("latin-1"))
        path = path.removeprefix("/api") if path.startswith("/api/") else path
        inner = {**scope, "path": path, "root_path": "", CONNECTION: connection}
        await self.sessions_api(inner, connection.receive, connection.send)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in tuple(self.open):
            connection.sweep(now)
        self._sweeping = bool(self.open)
        if self.open:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def drain(self, seconds: float) -> None:
        """Refuses new requests and waits for the running ones; after `seconds` they end with an error event."""
        self.draining = True
        if not self.open:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        running = [connection.task for connection in self.open]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=SETTLE_S)

    def _refusal(self, scope: Scope) -> ProxyError | None:
        """What is refused before anything is read."""
        if scope["path"] in ALWAYS:
            return MethodNotAllowed(f"use GET for {scope['path']}", headers={"Allow": "GET, HEAD"})
        if self.draining:
            return stopping()
        if len(self.open) >= self.svc.config.limits.concurrent_requests:
            return TooManyRequests(
                "too many requests are running; try again, or raise limits.concurrent_requests",
                headers={"Retry-After": "1"},
            )
        return None


def _below(path: str) -> Endpoint:
    """What serves a path of /v1 that is not hot."""
    return next((one for prefix, one in BELOW.items() if f"{path}/".startswith(f"{prefix}/")), passthrough.other)


def unexpected() -> ProxyError:
    return ProxyError("something unexpected went wrong in the proxy; nothing is promised to be stored", code="internal")
