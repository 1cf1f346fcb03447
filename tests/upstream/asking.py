"""Asking a scripted upstream through the real client: what the tests of this package share."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.errors import UpstreamError
from proxy.upstream import wire
from proxy.upstream.client import HttpUpstream
from proxy.upstream.protocol import Call, Headers, Timeouts, Upstream

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello there"}]}
OK = b"HTTP/1.1 200 OK\r\n"


def ask(body: dict[str, Any] | None = None, headers: Headers = ()) -> Call:
    return Call("POST", "/chat/completions", json.dumps(body or HELLO).encode(), headers)


def ask_stream() -> Call:
    return ask({**HELLO, "stream": True})


@asynccontextmanager
async def client(url: str, max_connections: int = 10, **limits: float) -> AsyncGenerator[HttpUpstream]:
    http = HttpUpstream(url, timeouts=Timeouts(**limits), max_connections=max_connections)
    try:
        yield http
    finally:
        await http.aclose()


async def read(http: Upstream, call: Call) -> bytes:
    answer = await http.send(call)
    try:
        return b"".join([data async for data in answer])
    finally:
        await answer.aclose()


async def broken(http: Upstream, call: Call, error: type[UpstreamError]) -> tuple[bytes, UpstreamError]:
    """What came before the error, and the error, which must come while iterating."""
    answer = await http.send(call)
    got = b""
    with pytest.raises(error) as caught:
        async for data in answer:
            got += data
    await answer.aclose()
    return got, caught.value


def text(stream: bytes) -> str:
    """What the deltas of an event stream say."""
    payloads = [wire.payload(event) for event in wire.Splitter().feed(stream)]
    chunks = [json.loads(payload) for payload in payloads if payload not in (None, b"[DONE]")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


async def broken_send(http: Upstream) -> None:
    with pytest.raises(UpstreamError):
        await http.send(ask())
