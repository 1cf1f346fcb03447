"""session-proxy serve: the server, until SIGTERM or Ctrl-C; then running turns finish within the drain time. SIGHUP has
it read its configuration again."""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Generator

import uvicorn
import uvloop

from proxy import app
from proxy.cli import settings
from proxy.cli.reloading import POLL_S, Hangups, Reloading, Source
from proxy.config import Config
from proxy.edge.application import Edge
from proxy.edge.http import GuardedProtocol
from proxy.errors import Unavailable

GC_YOUNG = 10_000
"""Allocations between two collections: a turn makes a few hundred, nearly all freed by their counts."""


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)
    parser.add_argument("--host", help="address to listen on (default: server.host)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (default: server.port)")
    parser.add_argument("--workers", type=int, help="processes; more than 1 needs a shared store")


def run(args: argparse.Namespace) -> int:
    given = {key: getattr(args, key) for key in ("host", "port", "workers") if getattr(args, key) is not None}
    source, hangups = Source(args.config, given), Hangups()
    with hangups.heard():
        uvloop.run(serve(source.read(), source, hangups))
    return 0


async def serve(config: Config, source: Source, hangups: Hangups) -> None:
    """Serves until it is told to stop. Raises BadConfig, and Unavailable for an address that cannot be had."""
    async with app.opened(config) as edge:
        gc.collect()
        gc.freeze()  # what is loaded by now stays: collections need not walk it
        gc.set_threshold(GC_YOUNG, 20, 50)
        server, reloading = Server(edge, config), Reloading(edge, source)
        with hangups.answered(reloading.ask, server.drain):
            async with reloading.running(POLL_S if config.server.watch_config else None):
                await server.serve()


class Server(uvicorn.Server):
    """uvicorn, with a drain: on SIGTERM new requests get 503 while running turns finish, then everything closes."""

    def __init__(self, edge: Edge, config: Config) -> None:
        super().__init__(
            uvicorn.Config(
                edge,
                host=config.server.host,
                port=config.server.port,
                loop="none",
                http=GuardedProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                backlog=2048,
                timeout_keep_alive=75,  # SDKs drop theirs after 5 s; equal times make requests meet the close
                timeout_graceful_shutdown=5,
            )
        )
        self.edge = edge
        self.settings = config
        self.ready = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals start the drain. uvicorn's own handling would raise them again at the end: exit code -15, not 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.drain)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        await self.edge.drain(self.settings.server.drain_timeout_s)
        self.should_exit = True

    async def startup(self, sockets: list | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as exc:  # uvicorn's way of saying so, with a code of its own
            server = self.settings.server
            raise Unavailable(
                f"{server.host}:{server.port} cannot be listened on, it is taken or not allowed; choose another --port"
            ) from exc
        self.ready.set()
        print(self.greeting(), flush=True)

    def port(self) -> int:
        """The port it listens on."""
        return self.servers[0].sockets[0].getsockname()[1]

    def greeting(self) -> str:
        config = self.settings
        host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
        upstreams = ", ".join(upstream.base_url for upstream in config.upstreams)
        return (
            f"session-proxy on http://{host}:{self.port()}/v1 -> {upstreams} | storage {config.storage.url} "
            f"({config.storage.synchronous}) | auth {config.auth.mode} | pid {os.getpid()}"
        )
