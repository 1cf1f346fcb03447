"""The hot-path client: requests, its pool, cancellation, TLS."""

import asyncio
import json
import random
import ssl
from contextlib import suppress
from typing import Any

import anyio
import pytest

from proxy.errors import UpstreamBroken, UpstreamError, UpstreamUnreachable
from proxy.upstream.client import HttpUpstream
from proxy.upstream.protocol import Call, Timeouts, Upstream
from tests import faults
from tests.scripted import Exchange, ScriptedUpstream, Step, gated, says, scripted_upstream
from tests.upstream.asking import HELLO, OK, ask, ask_stream, broken_send, client, read, text

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both loops: they differ in how a cancelled connect ends, in TLS and in pausing."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


# --- one request ---


async def test_the_request_arrives_as_it_was_given() -> None:
    async with scripted_upstream(says("hi")) as up, client(up.url) as http:
        answer = await http.send(ask(headers=((b"authorization", b"Bearer k"), (b"x-empty", b""))))
        body = b"".join([data async for data in answer])
        await answer.aclose()
    assert answer.status == 200
    assert (b"content-type", b"application/json") in answer.headers
    assert json.loads(body)["choices"][0]["message"]["content"] == "hi"
    sent = up.requests[0]
    assert (sent.method, sent.path, sent.json) == ("POST", "/v1/chat/completions", HELLO)
    assert sent.headers == [
        ("host", up.url.removeprefix("http://").removesuffix("/v1")),
        ("authorization", "Bearer k"),
        ("x-empty", ""),
        ("content-length", str(len(sent.body))),
        ("accept-encoding", "identity"),
    ]


async def test_a_get_has_no_content_length_and_keeps_the_encoding_it_asks_for() -> None:
    async with scripted_upstream(says("")) as up, client(up.url) as http:
        assert json.loads(await read(http, Call("GET", "/models", b"", ((b"Accept-Encoding", b"gzip"),))))["data"] == []
    assert [name for name, _ in up.requests[0].headers] == ["host", "accept-encoding"]


async def test_a_server_on_ipv6_is_reached() -> None:
    up = ScriptedUpstream(says("six"), [])
    try:
        server = await asyncio.start_server(up.serve, "::1", 0)
    except OSError:
        server = None  # a machine without IPv6 proves nothing
    if server is not None:
        async with client(f"http://[::1]:{server.sockets[0].getsockname()[1]}/v1") as http:
            assert b"six" in await read(http, ask())
        server.close()
        await up.close()


# --- the pool ---


async def test_connections_are_used_again_the_newest_first() -> None:
    async with scripted_upstream(says("hi")) as up, client(up.url) as http:
        first, second = await http.send(ask()), await http.send(ask())
        await first.aclose()  # whole, though nobody read it
        await second.aclose()
        for _ in range(20):
            await read(http, ask())
    assert up.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"connection: close\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        OK + b"content-length: 2\r\n\r\nhi" + OK + b"content-length: 5\r\n\r\nother",
        OK + b"content-length: 2\r\n\r\nhi!",
    ],
)
async def test_a_connection_that_must_not_be_used_again_is_not(answer: bytes) -> None:
    async with scripted_upstream(faults.raw([answer], close=False)) as up, client(up.url) as http:
        assert await read(http, ask()) == b"hi"
        assert await read(http, ask()) == b"hi"
    assert up.connections == 2


async def test_an_unfinished_answer_is_aborted_at_once() -> None:
    async with scripted_upstream(faults.endless()) as up, client(up.url) as http:
        answer = await http.send(ask_stream())
        await anext(answer)
        await answer.aclose()
        with anyio.fail_after(1):
            await up.requests[0].left.wait()
        await answer.aclose()  # twice is once
        with pytest.raises(UpstreamBroken):
            await anext(answer)


def hangs_up_after_one() -> Step:
    """Answers, says nothing of closing, and closes: the race of every keep-alive."""

    async def step(exchange: Exchange) -> None:
        await says("hi")(exchange)
        exchange.hang_up()

    return step


async def test_a_connection_closed_while_it_rested_is_not_noticed_by_the_caller() -> None:
    async with scripted_upstream(hangs_up_after_one()) as up, client(up.url) as http:
        for _ in range(50):
            assert b"hi" in await read(http, ask())
    assert len(up.requests) == 50


def resets_second(counted: list[int]) -> Step:
    """Resets the first reuse of a connection after it has read the request; a new one is answered."""

    async def step(exchange: Exchange) -> None:
        counted.append(exchange.up.connections)
        if len(counted) == 2:
            exchange.reset()
        else:
            await says("hi")(exchange)

    return step


async def test_a_reused_connection_that_dies_unanswered_is_replaced_once() -> None:
    counted: list[int] = []
    async with scripted_upstream(resets_second(counted)) as up, client(up.url, max_connections=1) as http:
        assert b"hi" in await read(http, ask())
        assert b"hi" in await read(http, ask())
        assert b"hi" in await read(http, ask())
    assert counted == [1, 1, 2, 2]


async def test_a_request_that_was_partly_answered_is_never_sent_again() -> None:
    script = [says("hi"), faults.raw([b"HTTP/1.1 2"])]
    async with scripted_upstream(script) as up, client(up.url) as http:
        await read(http, ask())
        with pytest.raises(UpstreamUnreachable):
            await http.send(ask())
    assert len(up.requests) == 2


async def test_a_request_on_a_new_connection_is_never_sent_again() -> None:
    async with scripted_upstream(faults.reset_before_headers()) as up, client(up.url) as http:
        with pytest.raises(UpstreamUnreachable):
            await http.send(ask())
    assert len(up.requests) == 1


async def test_who_finds_all_connections_in_use_waits_for_one() -> None:
    async with (
        scripted_upstream(gated("")) as up,
        client(up.url, max_connections=2) as http,
        anyio.create_task_group() as group,
    ):
        for _ in range(6):
            group.start_soon(read, http, ask_stream())
        await up.wait_requests(2)
        assert (up.in_flight, up.connections) == (2, 2)
        for _ in range(6):
            up.gate.release()
    assert (len(up.requests), up.connections) == (6, 2)


async def test_who_waits_too_long_for_a_connection_is_told_so() -> None:
    async with (
        scripted_upstream(faults.silence()) as up,
        client(up.url, max_connections=1, connect=0.05) as http,
        anyio.create_task_group() as group,
    ):
        group.start_soon(broken_send, http)
        await up.wait_requests(1)
        with pytest.raises(UpstreamUnreachable, match="max_connections") as caught:
            await http.send(ask())
        assert caught.value.code == "upstream_busy"
        group.cancel_scope.cancel()


async def test_closing_the_client_ends_everything() -> None:
    async with scripted_upstream([says("hi"), faults.stalls(), faults.silence()]) as up, client(up.url, 3) as http:
        first, rests = await http.send(ask()), await http.send(ask_stream())
        await first.aclose()
        await anext(rests)
        async with anyio.create_task_group() as group:
            group.start_soon(broken_send, http)
            group.start_soon(broken_send, http)
            group.start_soon(broken_send, http)
            await up.wait_requests(4)
            await http.aclose()
        with pytest.raises(UpstreamError):
            [data async for data in rests]
        await rests.aclose()
        with pytest.raises(UpstreamUnreachable):
            await http.send(ask())
        await up.wait_idle()


# --- cancellation ---


async def cancelled_at_random(http: Upstream, dice: random.Random, count: int) -> None:
    for _ in range(count):
        with anyio.move_on_after(dice.choice([0, 0.0005, 0.002, 0.01, 0.04]) * dice.random()):
            with suppress(UpstreamError):
                await read(http, ask_stream() if dice.random() < 0.5 else ask())


async def test_cancelled_requests_cost_no_slot_and_no_connection() -> None:
    dice = random.Random(7)
    faulty = [says("one two"), gated("a"), faults.stalls(), faults.silence(), faults.reset_mid_stream()]
    calm = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        await (says("well") if calm.is_set() else dice.choice(faulty))(exchange)

    async with scripted_upstream(step) as up, client(up.url, max_connections=10) as http:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(cancelled_at_random, http, dice, 250)
        calm.set()
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(healthy, http)
        assert len(up.requests) > 100
        assert up.open <= 10


async def healthy(http: Upstream) -> None:
    assert b"well" in await read(http, ask())


# --- TLS ---


def anonymous_tls(side: int) -> ssl.SSLContext:
    """TLS without certificates, so that none must be made, kept or renewed for the tests."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


async def test_tls_carries_requests_and_streams() -> None:
    tls = anonymous_tls(ssl.PROTOCOL_TLS_SERVER)
    async with scripted_upstream([says("hi"), says("a b"), faults.endless()], tls=tls) as up:
        assert up.url.startswith("https://")
        http = HttpUpstream(up.url, timeouts=Timeouts(), ssl_context=anonymous_tls(ssl.PROTOCOL_TLS_CLIENT))
        assert b"hi" in await read(http, ask())
        assert text(await read(http, ask_stream())) == "a b"
        answer = await http.send(ask_stream())
        await anext(answer)
        await answer.aclose()
        with anyio.fail_after(1):
            await up.requests[2].left.wait()
        await http.aclose()
    assert up.connections == 1


async def test_a_server_that_cannot_prove_its_name_is_not_spoken_to() -> None:
    tls = anonymous_tls(ssl.PROTOCOL_TLS_SERVER)
    async with scripted_upstream(says("hi"), tls=tls) as up, client(up.url) as http:
        with pytest.raises(UpstreamUnreachable, match="base_url"):
            await http.send(ask())
    assert up.requests == []


async def test_https_to_a_server_without_tls_is_named() -> None:
    async def speak_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_plainly, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with client(f"https://127.0.0.1:{port}") as http:
            with pytest.raises(UpstreamUnreachable, match="https"):
                await http.send(ask())
