"""Compressed bodies nobody asked for."""

import zlib

import pytest

from proxy.errors import UpstreamBroken
from tests import faults
from tests.scripted import Step, scripted_upstream
from tests.upstream.asking import OK, ask, ask_stream, broken, client, read, text

pytestmark = pytest.mark.anyio


async def test_a_gzip_stream_is_decoded_as_it_comes() -> None:
    async with scripted_upstream(faults.gzip_stream("one two")) as up, client(up.url) as http:
        answer = await http.send(ask_stream())
        assert not {b"content-encoding", b"content-length"} & dict(answer.headers).keys()
        assert text(b"".join([data async for data in answer])) == "one two"
        await answer.aclose()


def packed(data: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(data) + packer.flush()


def encoded(name: str, body: bytes) -> Step:
    return faults.raw([OK + f"content-encoding: {name}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body])


@pytest.mark.parametrize(
    ("name", "body", "plain"),
    [
        ("gzip", packed(b"hello", 31), b"hello"),
        ("GZIP", packed(b"hel", 31) + packed(b"lo", 31), b"hello"),
        ("deflate", packed(b"hello", 15), b"hello"),
        ("deflate", packed(b"hello", -15), b"hello"),
        ("gzip", b"", b""),
        ("br", b"as it is", b"as it is"),
    ],
)
async def test_encodings_are_undone_or_left_alone(name: str, body: bytes, plain: bytes) -> None:
    async with scripted_upstream(encoded(name, body)) as up, client(up.url) as http:
        assert await read(http, ask()) == plain


async def test_a_gzip_bomb_comes_in_small_pieces() -> None:
    size = 64 * 1024 * 1024
    async with scripted_upstream(encoded("gzip", packed(bytes(size), 31))) as up, client(up.url) as http:
        answer = await http.send(ask())
        sizes = [len(data) async for data in answer]
        await answer.aclose()
    assert sum(sizes) == size
    assert max(sizes) <= 64 * 1024


@pytest.mark.parametrize("body", [packed(b"hello", 31)[:-5], b"not gzip at all"])
async def test_a_damaged_compressed_body_is_broken(body: bytes) -> None:
    async with scripted_upstream(encoded("gzip", body)) as up, client(up.url) as http:
        await broken(http, ask(), UpstreamBroken)
