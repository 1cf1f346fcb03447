"""Who is told that a client hung up, on a connection that carries one request after another."""

import asyncio

import anyio
import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from proxy.edge.http import GuardedProtocol
from tests.scripted import WAIT_S

pytestmark = pytest.mark.anyio


class Told:
    """A request that may be told."""

    def __init__(self) -> None:
        self.told = anyio.Event()

    def left(self) -> None:
        self.told.set()


async def test_a_request_that_ends_late_leaves_the_next_one_watched() -> None:
    first, second = Told(), Told()
    config = Config(lambda *_: None)
    config.load()
    made: asyncio.Queue[GuardedProtocol] = asyncio.Queue()

    def make() -> GuardedProtocol:
        protocol = GuardedProtocol(config, ServerState(), {})
        made.put_nowait(protocol)
        return protocol

    async with await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with anyio.fail_after(WAIT_S):
            protocol = await made.get()
            protocol.watch(first.left)
            protocol.watch(second.left)
            protocol.unwatch(first.left)
            writer.close()
            await second.told.wait()
    assert not first.told.is_set()
