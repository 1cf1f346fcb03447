"""The composition root: Config -> Services -> ASGI application. Nothing else wires."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from weakref import WeakSet

from starlette.applications import Starlette

from proxy.calibration import Calibration
from proxy.config import Config, UpstreamConfig
from proxy.context.tokens import Count
from proxy.edge.application import Edge
from proxy.edge.routes import PLAIN
from proxy.recall.embed import Embedder, Local, Off, Remote, Table, not_installed
from proxy.services import Services, TurnQueue, epoch_ms
from proxy.store import sqlite
from proxy.summarize import Summaries
from proxy.telemetry.log import Logger
from proxy.telemetry.metrics import Metrics
from proxy.templates.renderer import Renderer
from proxy.upstream.breaker import Breakers
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


def embedder_of(config: Config, upstreams: Mapping[str, Upstream]) -> Embedder:
    """What makes vectors of texts, as `recall.embedder` says. Nothing is loaded before its first use."""
    settings = config.recall.embedder
    if settings.kind == "none":
        return Off()
    if settings.kind == "local":
        return Local(_load_table)
    upstream = next((one for one in config.upstreams if one.name == settings.upstream), config.upstreams[0])
    return Remote(settings, upstream, upstreams[upstream.name], config.limits.answer_mb)


def _load_table() -> Table:
    try:
        from proxy.recall import static
    except ImportError as exc:
        raise not_installed(f"the package {exc.name} is missing") from exc
    return static.load()


def client_of(upstream: UpstreamConfig) -> HttpUpstream:
    """The HTTP client for an upstream. Raises BadConfig for a base URL that cannot be used."""
    timeouts = Timeouts(
        connect=upstream.connect_timeout_s,
        first_byte=upstream.first_byte_timeout_s,
        idle=upstream.idle_timeout_s,
        total=upstream.total_timeout_s,
    )
    return HttpUpstream(upstream.base_url, timeouts=timeouts, max_connections=upstream.max_connections)


class Clients:
    """The clients of the configured upstreams, and those of earlier configurations while requests use them."""

    def __init__(self, config: Config, log: Logger) -> None:
        self._log = log
        self.by_name = {upstream.name: client_of(upstream) for upstream in config.upstreams}
        self.catalog = Catalog(self.by_name)
        self._retired: WeakSet[HttpUpstream] = WeakSet()

    def rewired(self, svc: Services, config: Config) -> Services:
        """The services by another configuration, of which upstreams, models, limits and log level are used. Whatever
        has not changed is kept: the connections, the sizes of models, what the breakers know. Raises BadConfig, and
        then nothing has changed."""
        same = [upstream.name for upstream in config.upstreams if upstream in svc.config.upstreams]
        clients = {one.name: self.by_name[one.name] if one.name in same else client_of(one) for one in config.upstreams}
        for name, client in self.by_name.items():
            if name not in same:
                client.retire()
                self._retired.add(client)
        self.by_name, self.catalog = clients, Catalog(clients, self.catalog, same)
        self._log.least(config.telemetry.log_level)
        svc.breakers.forget_all_but(config.upstreams)
        svc.summaries.rewire(config, clients, self.catalog.context_of)
        return dataclasses.replace(
            svc,
            config=config,
            upstreams=clients,
            context_of=self.catalog.context_of,
            embedder=embedder_of(config, clients) if config.recall.embedder.kind == "upstream" else svc.embedder,
        )

    async def aclose(self) -> None:
        """Closes all of them."""
        for client in (*self.by_name.values(), *self._retired):
            await client.aclose()


@asynccontextmanager
async def opened(config: Config, counter: Callable[[], Awaitable[Count]] | None = None) -> AsyncGenerator[Edge]:
    """The application with everything it needs open, and closed again at the end. Raises BadConfig.

    `counter`: one that is loaded already, for several applications in one process.
    """
    db = sqlite.opened(config.storage.url, synchronous=config.storage.synchronous)
    log = Logger(config.telemetry.log_level)
    clients = Clients(config, log)
    upstreams, context_of = clients.by_name, clients.catalog.context_of
    templates = Renderer()
    count = counter or Counter()
    calibration = Calibration()
    metrics = Metrics(config.telemetry.metrics)
    breakers = Breakers(log, metrics)
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
        breakers=breakers,
        embedder=embedder_of(config, upstreams),
    )
    plain = Starlette(routes=PLAIN)
    plain.state.services = svc
    try:
        await calibration.load(db)
        async with summaries:
            edge = Edge(svc, plain, clients.rewired)
            del svc, upstreams, context_of  # a reload brings others
            yield edge
    finally:
        await clients.aclose()
        await templates.aclose()
        await db.close()
        log.flush()
