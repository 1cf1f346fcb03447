"""Steps for `scripted.py` in which a model server fails, or answers in a way that is allowed but rare."""

import asyncio
import socket
import zlib
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from tests.scripted import Exchange, Step, delta, sse, status, text_deltas

TEXT = "one two three four five six seven eight nine ten"


def nobody_listens() -> str:
    """A base URL whose connections are refused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


async def _begin(exchange: Exchange, chunks: int) -> None:
    """The head of a stream and its first chunks. The answer to a request that does not stream is cut the same way."""
    await exchange.start_stream()
    for chunk in text_deltas(exchange.request, TEXT)[:chunks]:
        await exchange.event(chunk)


def raw(pieces: Sequence[bytes], *, close: bool = True) -> Step:
    """Exactly these bytes, each piece in a write of its own; then a clean end of the connection if `close`."""

    async def step(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.write(piece)
            await asyncio.sleep(0)
        if close:
            exchange.hang_up()

    return step


def reset_before_headers() -> Step:
    async def step(exchange: Exchange) -> None:
        exchange.reset()

    return step


def hang_up_before_headers() -> Step:
    async def step(exchange: Exchange) -> None:
        exchange.hang_up()

    return step


def reset_mid_stream(after: int = 3) -> Step:
    """A reset after so many chunks, the first of which brings only the role."""

    async def step(exchange: Exchange) -> None:
        await _begin(exchange, after)
        exchange.reset()

    return step


def cut_mid_stream(after: int = 3) -> Step:
    """The connection ends cleanly, the chunked body does not."""

    async def step(exchange: Exchange) -> None:
        await _begin(exchange, after)
        exchange.hang_up()

    return step


def silence() -> Step:
    """Never answers."""

    async def step(exchange: Exchange) -> None:
        await exchange.peer_leaves()

    return step


def stalls(after: int = 3) -> Step:
    """Nothing more after so many chunks."""

    async def step(exchange: Exchange) -> None:
        await _begin(exchange, after)
        await exchange.peer_leaves()

    return step


def clean_end_without_finish() -> Step:
    """A well-formed HTTP body that ends without finish_reason and [DONE]."""

    async def step(exchange: Exchange) -> None:
        await _begin(exchange, 99)
        await exchange.end()

    return step


def finish_without_done() -> Step:
    async def step(exchange: Exchange) -> None:
        await _begin(exchange, 99)
        await exchange.event(delta(exchange.request, {}, "stop"))
        await exchange.end()

    return step


def endless() -> Step:
    """Words as fast as the peer takes them, until it leaves."""

    async def step(exchange: Exchange) -> None:
        await exchange.start_stream()
        for n in count():
            await exchange.event(delta(exchange.request, {"content": f"word{n} "}))

    return step


def huge_event(size: int) -> Step:
    """One event with so many characters of text, then a regular end."""
    return _after_two({"content": "x" * size}, finish=True)


def broken_json_event() -> Step:
    return _after_two('{"choices": [{"delta": {"content": "cut', finish=True)


def error_event(message: str = "The model is overloaded", **fields: Any) -> Step:
    """An error in place of the rest of the stream, as OpenAI sends it."""
    error = {"message": message, "type": "server_error", "param": None, "code": None, **fields}
    return _after_two({"error": error}, finish=False)


def lone_surrogate() -> Step:
    """Half of a surrogate pair, which JSON can say and UTF-8 cannot."""
    return _after_two({"content": "half \ud83d pair"}, finish=True)


def _after_two(odd: str | Mapping[str, Any], *, finish: bool) -> Step:
    """Two regular chunks, then an odd event: a delta, an {"error": ...}, or the text of a payload."""

    async def step(exchange: Exchange) -> None:
        await _begin(exchange, 2)
        as_is = isinstance(odd, str) or "error" in odd
        await exchange.event(odd if as_is else delta(exchange.request, odd))
        if finish:
            await exchange.event(delta(exchange.request, {}, "stop"))
            await exchange.event("[DONE]")
        await exchange.end()

    return step


def _stream(exchange: Exchange, text: str) -> bytes:
    """A whole event stream."""
    events = [*text_deltas(exchange.request, text), delta(exchange.request, {}, "stop"), "[DONE]"]
    return b"".join(map(sse, events))


def one_byte_writes(text: str) -> Step:
    """A stream whose body comes byte by byte, each in a chunk of its own."""

    async def step(exchange: Exchange) -> None:
        await exchange.start_stream()
        for byte in _stream(exchange, text):
            await exchange.chunk(bytes([byte]))
            await asyncio.sleep(0)
        await exchange.end()

    return step


def crlf(text: str) -> Step:
    return _line_ends(text, b"\r\n")


def cr_only(text: str) -> Step:
    return _line_ends(text, b"\r")


def _line_ends(text: str, end: bytes) -> Step:
    async def step(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(_stream(exchange, text).replace(b"\n", end))
        await exchange.end()

    return step


def gzip_stream(text: str) -> Step:
    """A stream compressed though nobody asked for it, flushed after each event."""

    async def step(exchange: Exchange) -> None:
        packer = zlib.compressobj(wbits=31)
        await exchange.start_stream(content_encoding="gzip")
        for event in _stream(exchange, text).splitlines(keepends=True):
            await exchange.chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
        await exchange.chunk(packer.flush())
        await exchange.end()

    return step


def redirect(to: str) -> Step:
    return status(307, headers={"location": to})
