"""The product as its users start it: `python -m proxy ...` in a process of its own."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import apsw
import yaml

import proxy
from tests.scripted import WAIT_S


async def started(*words: str) -> Process:
    """A session-proxy command, running; it sees no settings of the machine it runs on."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PROXY_", "OPENAI_"))}
    env["PYTHONPATH"] = str(Path(proxy.__file__).parents[1])
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", *words, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE
    )


async def command(*words: str) -> tuple[int, str, str]:
    """Its exit code, and what it printed on stdout and stderr."""
    process = await started(*words)
    with anyio.fail_after(2 * WAIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@dataclass
class Served:
    """A server in its own process; `url` ends in /v1."""

    process: Process
    url: str
    config: Path
    database: Path

    async def exit_code(self) -> int:
        """Waits for the end of the process."""
        with anyio.fail_after(2 * WAIT_S):
            return await self.process.wait()

    def stored(self) -> list[str]:
        """The status of every stored turn."""
        connection = apsw.Connection(str(self.database))
        try:
            return [row[0] for row in connection.execute("SELECT status FROM turns ORDER BY session, turn")]
        finally:
            connection.close()


def configured(upstream: str, folder: Path, **server: Any) -> Path:
    """A configuration file for one model server."""
    settings = {
        "server": {"port": 0, **server},
        "upstreams": [{"base_url": upstream, "context_tokens": 100_000, "retries": 0}],
        "storage": {"url": f"sqlite:///{folder / 'sessions.db'}"},
        "telemetry": {"log_level": "warning"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@asynccontextmanager
async def serving(config: Path) -> AsyncGenerator[Served]:
    """`session-proxy serve`, killed at the end if it still runs."""
    process = await started("serve", "--config", str(config))
    assert process.stdout is not None
    try:
        with anyio.fail_after(2 * WAIT_S):
            greeting = (await process.stdout.readline()).decode()
        assert greeting.startswith("session-proxy on http://"), greeting
        url = greeting.split()[2]
        yield Served(process, url, config, config.with_name("sessions.db"))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
