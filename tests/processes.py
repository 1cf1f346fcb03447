"""session-proxy as a process of its own: started by its command line, killed or stopped by a signal."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import yaml

ROOT = Path(__file__).parent.parent
WAIT_S = 20.0


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """The test's own, without anything that configures the product."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROXY_", "OPENAI_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


async def started(args: Sequence[str], folder: Path = ROOT, **env: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", *args,
        stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, env=environment(PYTHONPATH=path, **env),
    )  # fmt: skip


async def command(args: Sequence[str], folder: Path = ROOT, given: str = "", **env: str) -> Done:
    """Runs a command to its end."""
    process = await started(args, folder, **env)
    with anyio.fail_after(WAIT_S):
        out, err = await process.communicate(given.encode())
    return Done(process.returncode or 0, out.decode(), err.decode())


@dataclass
class Serving:
    """A server that has said where it listens."""

    process: asyncio.subprocess.Process
    greeting: str
    url: str

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.ended()

    async def ended(self) -> Done:
        with anyio.fail_after(WAIT_S):
            out, err = await self.process.communicate()
        return Done(self.process.returncode or 0, out.decode(), err.decode())


async def serve(config: Path, *args: str, folder: Path = ROOT) -> Serving:
    """Starts a server and waits until it greets."""
    process = await started(["serve", "--config", str(config), *args], folder)
    assert process.stdout is not None
    with anyio.fail_after(WAIT_S):
        line = (await process.stdout.readline()).decode()
    found = re.match(r"session-proxy on (http://\S+)", line)
    if found is None:
        _, err = await process.communicate()
        raise AssertionError(f"the server did not start: {line}{err.decode()}")
    return Serving(process, line.strip(), found[1])


@asynccontextmanager
async def served(config: Path, *args: str, folder: Path = ROOT) -> AsyncGenerator[Serving]:
    """A server for the block, killed at its end if it still runs."""
    serving = await serve(config, *args, folder=folder)
    try:
        yield serving
    finally:
        if serving.process.returncode is None:
            await serving.kill()


def written(folder: Path, upstream: str = "http://127.0.0.1:9/v1", **sections: Any) -> Path:
    """A configuration file for a free port and a database in `folder`."""
    given: dict[str, Any] = {
        "server": {"port": 0},
        "upstreams": [{"name": "scripted", "base_url": upstream, "retries": 0}],
        "storage": {"url": f"sqlite:///{folder / 'sessions.db'}"},
        "telemetry": {"log_level": "error"},
    }
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section} if isinstance(section, dict) else section
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(given))
    return path
