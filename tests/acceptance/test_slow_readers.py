"""Clients that ask and do not read: none of them holds a session, a place or a connection of the model for good."""

import json

import pytest

from tests.acceptance.asking import until
from tests.acceptance.sockets import dialled
from tests.acceptance.stage import Stage
from tests.scripted import Exchange, delta, says

pytestmark = pytest.mark.anyio

LARGE = "x" * (8 << 20)
"""More than the buffers of both sides hold."""
SETTINGS = {"send_timeout_s": 1}


async def one_large_event(exchange: Exchange) -> None:
    await exchange.start_stream()
    await exchange.event(delta(exchange.request, {"content": LARGE}, "stop"))
    await exchange.event("[DONE]")
    await exchange.end()


def body(stream: bool) -> bytes:
    return json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.mark.parametrize("to", ["s", None])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_whose_last_bytes_nobody_reads_holds_nothing(
    stage: Stage, stream: bool, to: str | None
) -> None:
    up, proxied = await stage(one_large_event if stream else says(LARGE), says("ok"), server=SETTINGS)
    async with dialled(proxied, buffer=4096) as line:
        await line.post(body(stream), {"X-Session-Id": to} if to else {})
        await up.wait_requests(1)
        await until(lambda: not proxied.running.edge.open)
        assert (await proxied.ask("hello", to=to)).text == "ok"
        await up.wait_idle()


async def test_a_request_behind_an_unread_answer_holds_nothing(stage: Stage) -> None:
    up, proxied = await stage(says(LARGE), says("two"), says("ok"), server=SETTINGS)
    async with dialled(proxied, buffer=4096) as line:
        await line.post(body(False), {"X-Session-Id": "a"})
        await line.post(body(False), {"X-Session-Id": "b"})
        await up.wait_requests(1)
        await until(lambda: not proxied.running.edge.open)
        for session in ("a", "b"):
            assert (await proxied.ask("hello", to=session)).status == 200


async def test_an_error_that_nobody_reads_holds_nothing(stage: Stage) -> None:
    up, proxied = await stage(says(LARGE), says("ok"), server=SETTINGS)
    async with dialled(proxied, buffer=4096) as line:
        await line.post(body(False), {})
        await line.post(b"[]", {})
        await up.wait_requests(1)
        await until(lambda: not proxied.running.edge.open)
        assert (await proxied.ask("hello", to=None)).text == "ok"
