"""A real proxy on a free port, in the test's own event loop, before a scripted upstream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import yaml

from proxy import app, config
from proxy.cli.serve import Server
from proxy.edge.application import Edge

COUNTER = app.Counter()
"""One tokenizer for all proxies of a test run: it takes a second to load."""


@dataclass
class Running:
    """A served proxy: `url` ends in /v1, `path` is its database file."""

    url: str
    server: Server
    edge: Edge
    path: Path

    def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        """What the store holds, read on a connection of its own."""
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return list(connection.execute(sql, args))
        finally:
            connection.close()


def settings(upstream: str, path: Path, /, **sections: Any) -> config.Config:
    """A configuration for one scripted upstream; `sections` override, merged one level deep."""
    given: dict[str, Any] = {
        "server": {"port": 0},
        "upstreams": [{"name": "scripted", "base_url": upstream, "first_byte_timeout_s": 3, "idle_timeout_s": 3,
                       "total_timeout_s": 10, "connect_timeout_s": 2, "retries": 0}],
        "storage": {"url": f"sqlite:///{path}", "synchronous": "normal"},
        "telemetry": {"log_level": "error"},
    }  # fmt: skip
    for name, section in sections.items():
        if name == "upstream":
            given["upstreams"][0].update(section)
        elif isinstance(section, dict) and isinstance(given.get(name), dict):
            given[name] = {**given[name], **section}
        else:
            given[name] = section
    return config.load(yaml.safe_dump(given), {})


@asynccontextmanager
async def proxy(upstream: str, folder: Path, /, **sections: Any) -> AsyncGenerator[Running]:
    """Serves until the block ends, then drains."""
    path = folder / "sessions.db"
    settled = settings(upstream, path, **sections)
    async with app.opened(settled, counter=COUNTER) as edge:
        server = Server(edge, settled)
        serving = asyncio.ensure_future(server.serve())
        await asyncio.wait_for(server.ready.wait(), 10)
        try:
            yield Running(f"http://127.0.0.1:{server.port()}/v1", server, edge, path)
        finally:
            server.drain()
            await serving
