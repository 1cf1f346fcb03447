"""The composition root: Config -> Services -> ASGI application. Nothing else wires."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from proxy.calibration import Calibration
from proxy.config import Config, UpstreamConfig
from proxy.context.tokens import Count
from proxy.edge.application import Edge
from proxy.edge.routes import PLAIN
from proxy.services import Services, TurnQueue, epoch_ms
from proxy.store import sqlite
from proxy.summarize import Summaries
from proxy.telemetry.log import Logger
from proxy.telemetry.metrics import Metrics
from proxy.templates.renderer import Renderer
from proxy.upstream.catalog import Catalog
from proxy.upstream.client import HttpUpstream
from proxy.upstream.protocol import Timeouts, Upstream


class Counter:
    """The token counter, loaded in a thread at its first use and shared from then on."""

    def __init__(self) -> None:
        self._count: Count | None = None
        self._loading = asyncio.Lock()

    async def __call__(self) -> Count:
        if self._count is None:
            async with self._loading:
                if self._count is None:
                    self._count = await asyncio.to_thread(_load_counter)
        return self._count


def _load_counter() -> Count:
    from proxy import tokenizer

    return tokenizer.load()


def client_of(upstream: UpstreamConfig) -> Upstream:
    timeouts = Timeouts(
        connect=upstream.connect_timeout_s,
        first_byte=upstream.first_byte_timeout_s,
        idle=upstream.idle_timeout_s,
        total=upstream.total_timeout_s,
    )
    return HttpUpstream(upstream.base_url, timeouts=timeouts, max_connections=upstream.max_connections)


@asynccontextmanager
async def opened(config: Config, counter: Callable[[], Awaitable[Count]] | None = None) -> AsyncGenerator[Edge]:
    """The application with everything it needs open, and closed again at the end. Raises BadConfig.

    `counter`: one that is loaded already, for several applications in one process.
    """
    db = sqlite.opened(config.storage.url, synchronous=config.storage.synchronous)
    upstreams = {upstream.name: client_of(upstream) for upstream in config.upstreams}
    log = Logger(config.telemetry.log_level)
    templates = Renderer()
    count = counter or Counter()
    context_of = Catalog(upstreams).context_of
    calibration = Calibration()
    metrics = Metrics(config.telemetry.metrics)
    summaries = Summaries(config, db, upstreams, count, context_of, log, epoch_ms, metrics=metrics)
    svc = Services(
        config=config,
        db=db,
        upstreams=upstreams,
        counter=count,
        context_of=context_of,
        queue=TurnQueue(config.sessions.wait_timeout_s),
        log=log,
        templates=templates,
        summaries=summaries,
        calibration=calibration,
        metrics=metrics,
    )
    plain = Starlette(routes=PLAIN)
    plain.state.services = svc
    try:
        await calibration.load(db)
        async with summaries:
            yield Edge(svc, plain)
    finally:
        for upstream in upstreams.values():
            await upstream.aclose()
        await templates.aclose()
        await db.close()
        log.flush()
