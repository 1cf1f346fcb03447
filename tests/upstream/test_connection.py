"""One connection: every framing, every limit, every fault."""

import asyncio
import socket

import anyio
import pytest

from proxy.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.connection import HEADER_LIMIT, HIGH_WATER
from tests import faults
from tests.scripted import Exchange, Step, gated, says, scripted_upstream, status
from tests.upstream.asking import OK, ask, ask_stream, broken, broken_send, client, read, text

pytestmark = pytest.mark.anyio


# --- bodies ---


async def test_a_stream_is_relayed_as_it_comes() -> None:
    async with scripted_upstream(gated("a b")) as up, client(up.url) as http:
        answer = await http.send(ask_stream())
        for piece in ("", "a"):
            up.gate.release()
            assert text(await anext(answer)) == piece
        up.gate.release()
        rest = b"".join([data async for data in answer])
        assert text(rest) == " b"
        assert rest.endswith(b"data: [DONE]\n\n")
        await answer.aclose()


async def test_what_has_piled_up_comes_as_one_piece() -> None:
    pieces = [OK + b"content-length: 4\r\n\r\na", b"b", b"cd"]
    async with scripted_upstream(faults.raw(pieces)) as up, client(up.url) as http:
        answer = await http.send(ask())
        await up.wait_idle()
        assert b"".join([data async for data in answer]) == b"abcd"
        await answer.aclose()


@pytest.mark.parametrize(
    ("bytes_sent", "body"),
    [
        (b"content-length: 2\r\n\r\nhi", b"hi"),
        (b"content-length: 0\r\n\r\n", b""),
        (b"transfer-encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\ntrailer: 1\r\n\r\n", b"hi"),
        (b"\r\nhi until the end", b"hi until the end"),
        (b"connection: close\r\n\r\nhi", b"hi"),
    ],
)
async def test_every_framing_of_a_body_is_understood(bytes_sent: bytes, body: bytes) -> None:
    async with scripted_upstream(faults.raw([OK + bytes_sent])) as up, client(up.url) as http:
        assert await read(http, ask()) == body
        every_byte = [bytes([byte]) for byte in OK + bytes_sent]
    async with scripted_upstream(faults.raw(every_byte)) as up, client(up.url) as http:
        assert await read(http, ask()) == body


async def test_a_body_byte_by_byte_is_whole() -> None:
    async with scripted_upstream(faults.one_byte_writes("one two")) as up, client(up.url) as http:
        assert text(await read(http, ask_stream())) == "one two"


async def test_interim_answers_are_skipped() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    final = OK + b"content-length: 2\r\n\r\nhi"
    async with scripted_upstream([faults.raw([interim, final], close=False), says("")]) as up, client(up.url) as http:
        answer = await http.send(ask())
        assert (answer.status, answer.headers) == (200, ((b"content-length", b"2"),))
        assert [data async for data in answer] == [b"hi"]
        await answer.aclose()
        await read(http, ask())
    assert up.connections == 1


@pytest.mark.parametrize("code", [204, 304, 400, 429, 500])
async def test_any_status_is_an_answer(code: int) -> None:
    async with scripted_upstream(status(code, headers={"retry-after": "3"})) as up, client(up.url) as http:
        answer = await http.send(ask())
        assert (answer.status, dict(answer.headers)[b"retry-after"]) == (code, b"3")
        await answer.aclose()


async def test_a_redirect_is_not_followed() -> None:
    async with scripted_upstream(says("")) as other, scripted_upstream(faults.redirect(other.url)) as up:
        async with client(up.url) as http:
            answer = await http.send(ask())
            assert answer.status == 307
            await answer.aclose()
        assert other.requests == []


# --- limits ---


async def test_no_connection_in_time() -> None:
    with socket.socket() as full:  # a listener whose queue is full answers no SYN
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.create_connection(address), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(address)
            async with client(f"http://127.0.0.1:{address[1]}", connect=0.05) as http:
                with pytest.raises(UpstreamTimeout, match="connect_timeout_s"):
                    await http.send(ask())


async def test_no_answer_in_time() -> None:
    async with scripted_upstream(faults.silence()) as up, client(up.url, first_byte=0.05) as http:
        with pytest.raises(UpstreamTimeout, match="first_byte_timeout_s"):
            await http.send(ask())
        await up.requests[0].left.wait()


async def test_headers_are_not_yet_a_first_byte() -> None:
    async with scripted_upstream(faults.stalls(after=0)) as up, client(up.url, first_byte=0.05) as http:
        got, error = await broken(http, ask_stream(), UpstreamTimeout)
        assert "first_byte_timeout_s" in error.message
        assert got == b""


@pytest.mark.parametrize("first_byte", [0.01, 60.0])
async def test_silence_within_a_body(first_byte: float) -> None:
    async with scripted_upstream(faults.stalls(after=2)) as up, client(up.url, idle=0.05, first_byte=5) as http:
        got, error = await broken(http, ask_stream(), UpstreamTimeout)
        assert "idle_timeout_s" in error.message
        assert text(got) == "one"


async def test_an_answer_without_end() -> None:
    async with scripted_upstream(faults.endless()) as up, client(up.url, total=0.1) as http:
        got, error = await broken(http, ask_stream(), UpstreamTimeout)
        assert "total_timeout_s" in error.message
        assert text(got).startswith("word0 word1 ")


async def test_a_limit_counts_from_the_last_sign_of_life() -> None:
    async with scripted_upstream(gated("a b c d")) as up, client(up.url, idle=0.2, first_byte=0.2) as http:
        answer = await http.send(ask_stream())
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(5):
            loop.call_later(0.1, up.gate.release)
            await anext(answer)
        assert loop.time() - started > 0.4
        await answer.aclose()


async def test_time_in_which_nobody_reads_is_not_the_upstreams() -> None:
    size = 4 * HIGH_WATER
    async with scripted_upstream(faults.huge_event(size)) as up, client(up.url, idle=0.05) as http:
        answer = await http.send(ask_stream())
        await pause(0.15)
        assert len(text(b"".join([data async for data in answer]))) == len("one") + size
        await answer.aclose()


async def pause(seconds: float) -> None:
    """Lets a limit pass: the one thing here that only time can show."""
    with anyio.move_on_after(seconds):
        await anyio.sleep_forever()


async def test_a_slow_reader_stops_the_server() -> None:
    written = 0
    stopped = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        nonlocal written
        await exchange.start_stream()
        while True:
            with anyio.move_on_after(0.2) as scope:
                await exchange.chunk(b"x" * 65536)
                written += 65536
            if scope.cancelled_caught:
                stopped.set()
                await exchange.peer_leaves()

    async with scripted_upstream(step) as up, client(up.url) as http:
        answer = await http.send(ask_stream())
        with anyio.fail_after(10):
            await stopped.wait()
        taken = len(await anext(answer))
        assert taken < HIGH_WATER + 300_000 < written
        await answer.aclose()


# --- faults ---


async def test_a_refused_connection_names_the_key_and_no_address() -> None:
    async with client(faults.nobody_listens()) as http:
        with pytest.raises(UpstreamUnreachable, match="base_url") as caught:
            await http.send(ask())
    assert "127.0.0.1" not in caught.value.message
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "step",
    [
        faults.reset_before_headers(),
        faults.hang_up_before_headers(),
        faults.raw([b"SSH-2.0-OpenSSH_9.2\r\n"], close=False),
        faults.raw([b"\x15\x03\x01\x00\x02\x02\x50"], close=False),
        faults.raw([b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"], close=False),
        faults.raw([OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi"], close=False),
        faults.raw([OK + b"content-length: 2\r\n"]),
        faults.raw([b"HTTP/1.1 101 Up\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxx"], close=False),
        faults.raw([OK + b"x: y\r\n" * (HEADER_LIMIT // 6 + 1) + b"content-length: 2\r\n\r\nhi"], close=False),
        faults.raw([OK, b"x: " + b"y" * 2 * HEADER_LIMIT], close=False),
        faults.raw([b"HTTP/1.1 100 Continue\r\n\r\n" * 4000], close=False),
    ],
)
async def test_no_answer_that_can_be_read_is_unreachable(step: Step) -> None:
    async with scripted_upstream(step) as up, client(up.url) as http:
        with pytest.raises(UpstreamUnreachable), anyio.fail_after(5):
            await http.send(ask())
        await up.wait_idle()
    assert len(up.requests) == 1


async def test_headers_may_be_64_kb() -> None:
    head = OK + b"x: y\r\n" * (HEADER_LIMIT // 6 - 20) + b"content-length: 2\r\n\r\n"
    async with scripted_upstream(faults.raw([head, b"hi"])) as up, client(up.url) as http:
        assert await read(http, ask()) == b"hi"


@pytest.mark.parametrize("step", [faults.reset_mid_stream(after=3), faults.cut_mid_stream(after=3)])
async def test_a_stream_that_breaks_gives_its_text_first(step: Step) -> None:
    async with scripted_upstream(step) as up, client(up.url) as http:
        got, error = await broken(http, ask_stream(), UpstreamBroken)
        assert text(got) == "one two"
        assert up.url not in error.message


@pytest.mark.parametrize(
    "sent",
    [
        b"content-length: 10\r\n\r\nshort",
        b"transfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\nx: " + b"y" * 200_000,
    ],
)
async def test_a_body_that_does_not_end_as_announced_is_broken(sent: bytes) -> None:
    async with scripted_upstream(faults.raw([OK + sent])) as up, client(up.url) as http:
        got, _ = await broken(http, ask(), UpstreamBroken)
        assert got == b"short"


async def test_a_fault_costs_no_slot() -> None:
    script = [faults.reset_mid_stream(), faults.reset_before_headers(), faults.silence(), says("hi")]
    async with scripted_upstream(script) as up, client(up.url, max_connections=1, first_byte=0.05) as http:
        await broken(http, ask_stream(), UpstreamBroken)
        await broken_send(http)
        await broken_send(http)
        assert b"hi" in await read(http, ask())
