"""One proxy for all tests that want the same settings: starting and draining one takes a quarter of a second.

Fixtures, for the conftest.py of a package. Each test is a tenant of its own (auth.mode passthrough: whoever sends
another key), so that all may use session "s".
"""

import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.acceptance.asking import Proxied, connections, served, until
from tests.scripted import ScriptedUpstream, Step, echoes, says, scripted_upstream

Talk = tuple[ScriptedUpstream, Proxied]
Stage = Callable[..., Awaitable[Talk]]

PATIENT = {"first_byte_timeout_s": 60, "idle_timeout_s": 60, "total_timeout_s": 60}
"""Of an upstream, longer than a test waits: it is not the model server's silence that ends a request."""


@pytest.fixture(scope="package")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="package")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    """One proxy for each set of settings."""
    opened: dict[str, Talk] = {}
    async with AsyncExitStack() as stack:

        async def one(**settings: Any) -> Talk:
            name = json.dumps(settings, sort_keys=True)
            if name not in opened:
                folder = tmp_path_factory.mktemp("shared")
                up = await stack.enter_async_context(scripted_upstream(says("")))
                proxy = served(up, folder, auth={"mode": "passthrough"}, **settings)
                opened[name] = up, await stack.enter_async_context(proxy)
            return opened[name]

        yield one


@pytest.fixture
async def stage(shared: Stage) -> AsyncGenerator[Stage]:
    """`up, proxied = await stage(step, step, sessions={...})`: a shared proxy with these settings, before a model
    server that plays these steps."""
    key = str(uuid.uuid4())
    used: list[Talk] = []

    async def play(*script: Step, **settings: Any) -> Talk:
        up, proxied = await shared(**settings)
        used.append((up, proxied))
        up.play(script)
        return up, Proxied(proxied.running, http, key)

    async with connections(Authorization=f"Bearer {key}") as http:
        yield play
        for up, proxied in used:
            await up.wait_idle()
            await until(lambda open=proxied.running.edge.open: not open)


@pytest.fixture
async def echo(stage: Stage) -> Talk:
    """A shared proxy, before a model server that echoes."""
    return await stage(echoes())
