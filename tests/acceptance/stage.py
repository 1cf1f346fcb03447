"""One proxy for all tests that need no settings of their own: starting and draining one takes a quarter of a second.

Fixtures, for the conftest.py of a package. Each test is a tenant of its own (auth.mode passthrough: whoever sends
another key), so that all may use session "s".
"""

import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from tests.acceptance.asking import Proxied, connections, served, until
from tests.scripted import ScriptedUpstream, Step, echoes, says, scripted_upstream

Talk = tuple[ScriptedUpstream, Proxied]
Stage = Callable[..., Talk]


@pytest.fixture(scope="package")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="package")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Talk]:
    folder = tmp_path_factory.mktemp("shared")
    async with scripted_upstream(says("")) as up, served(up, folder, auth={"mode": "passthrough"}) as proxied:
        yield up, proxied


@pytest.fixture
async def stage(shared: Talk) -> AsyncGenerator[Stage]:
    """`up, proxied = stage(step, step)`: the shared proxy, before a model server that plays these steps."""
    up, proxied = shared
    key = str(uuid.uuid4())

    def play(*script: Step) -> Talk:
        up.play(script)
        return up, Proxied(proxied.running, http, key)

    async with connections(Authorization=f"Bearer {key}") as http:
        yield play
        await up.wait_idle()
        await until(lambda: not proxied.running.edge.open)


@pytest.fixture
def echo(stage: Stage) -> Talk:
    """The shared proxy, before a model server that echoes."""
    return stage(echoes())
