"""Embedders: what is loaded once, what is asked of an upstream, and what an answer must hold."""

import asyncio
import itertools
import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import EmbedderConfig, UpstreamConfig
from proxy.errors import NotConfigured, UpstreamError, UpstreamRefused
from proxy.recall import embed
from proxy.recall.embed import About, Local, Off, Remote, Vector
from proxy.types import Scope
from tests.scripted import Recorded, ScriptedUpstream, Step, scripted_upstream, status
from tests.scripted_embeddings import embeds, listed, numbers
from tests.upstream.asking import client

pytestmark = pytest.mark.anyio

ME = Scope(1)
CLIENT = Scope(2, name="key:x", credential=b"sk-client")


def unit(text: str, dimensions: int = 4) -> Vector:
    return embed.normalised(numbers(text, dimensions))


# --- none ---


async def test_no_embedder_says_what_to_set() -> None:
    for asked in (Off().ready(ME), Off().embed(["a"], ME, {})):
        with pytest.raises(NotConfigured, match=r"recall\.embedder\.kind") as caught:
            await asked
        assert (caught.value.status, caught.value.headers) == (501, {"x-should-retry": "false"})
    assert Off().describe() == About("none")


# --- in this process ---


class Lengths:
    """A table whose vectors tell how long the texts are. `most`: threads that were in it at once."""

    name = "lengths"
    dimensions = 1

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.inside = self.most = 0

    def vectors(self, texts: Sequence[str]) -> list[Vector]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.asked.append(list(texts))
        self.inside -= 1
        return [[float(len(text))] for text in texts]


async def test_a_table_is_loaded_once_however_many_ask_first() -> None:
    tables: list[Lengths] = []

    def load() -> Lengths:
        tables.append(Lengths())
        return tables[-1]

    local = Local(load)
    assert local.describe() == About("local")
    told = await asyncio.gather(*(local.embed(["a" * n], ME, {}) for n in range(1, 9)))
    assert told == [[[float(n)]] for n in range(1, 9)]
    assert len(tables) == 1
    assert await local.ready(ME) == local.describe() == About("local", "lengths", 1)


async def test_long_texts_are_read_in_slices_and_by_one_request_at_a_time() -> None:
    table = Lengths()
    local = Local(lambda: table)
    texts = ["a" * 40_000, "b" * 20_000, "c" * 10_000, "d" * 100_000, "e"]
    wanted = [[float(len(text))] for text in texts]
    assert await asyncio.gather(*(local.embed(texts, ME, {}) for _ in range(4))) == [wanted] * 4
    assert table.most == 1
    assert sorted(map(len, table.asked)) == [1] * 12 + [2] * 4
    table.asked.clear()
    assert await local.embed(["x"] * 50, ME, {}) == [[1.0]] * 50
    assert await local.embed([], ME, {}) == []


async def test_a_table_that_is_not_there_is_looked_for_again() -> None:
    tries: list[int] = []

    def load() -> Lengths:
        tries.append(1)
        if len(tries) < 3:
            raise embed.not_installed("the package x is missing")
        return Lengths()

    local = Local(load)
    for _ in range(2):
        with pytest.raises(NotConfigured, match=r'package x is missing.*pip install "session-proxy\[embeddings\]"'):
            await local.ready(ME)
    assert await local.embed(["ab"], ME, {}) == [[2.0]]


@given(st.lists(st.text(max_size=30), max_size=30), st.integers(1, 60))
async def test_slices_are_the_texts_in_their_order_and_no_longer_than_said(texts: list[str], size: int) -> None:
    parts = list(embed.slices(texts, size))
    assert [text for part in parts for text in part] == texts
    assert all(part and (len(part) == 1 or sum(map(len, part)) <= size) for part in parts)
    assert all(sum(map(len, one)) + len(other[0]) > size for one, other in itertools.pairwise(parts)), (
        "no slice could have taken more"
    )


# --- behind an upstream ---


@asynccontextmanager
async def remote(*script: Step, **settings: Any) -> AsyncGenerator[tuple[ScriptedUpstream, Remote]]:
    given: dict[str, Any] = {"kind": "upstream", "model": "e"} | settings
    async with scripted_upstream(script) as up, client(up.url) as http:
        upstream = UpstreamConfig(base_url=up.url, api_key="sk-ours", retries=0)
        yield up, Remote(EmbedderConfig(**given), upstream, http, 1)


def bodies(up: ScriptedUpstream) -> list[Any]:
    return [request.json for request in up.requests]


async def test_an_upstream_is_asked_for_a_hundred_at_a_time_and_the_order_is_the_texts() -> None:
    texts = [f"text {n}" for n in range(230)]
    async with remote(embeds()) as (up, made):
        assert await made.embed(texts, ME, {}) == [unit(text) for text in texts]
        assert [(request.method, request.path) for request in up.requests] == [("POST", "/v1/embeddings")] * 3
        assert [body["input"] for body in bodies(up)] == [texts[:100], texts[100:200], texts[200:]]
        assert {key: value for key, value in bodies(up)[0].items() if key != "input"} == {
            "model": "e",
            "encoding_format": "float",
        }
        assert await made.embed([], ME, {}) == []


async def test_dimensions_are_asked_for_where_they_are_set() -> None:
    async with remote(embeds(), dimensions=2) as (up, made):
        assert made.describe() == About("upstream", "e", 2)
        assert await made.embed(["a"], ME, {}) == [unit("a", 2)]
        assert bodies(up)[0]["dimensions"] == 2
    async with remote(embeds(7)) as (_, made):
        assert made.describe() == About("upstream", "e")
        assert await made.ready(ME) == About("upstream", "e", 7)


def header_of(request: Recorded, *names: str) -> list[str | None]:
    return [request.header(name) for name in names]


async def test_the_client_s_own_key_goes_up_where_it_has_one() -> None:
    headers = {b"user-agent": b"julep", b"idempotency-key": b"once", b"cookie": b"c", b"accept": b"text/html"}
    async with remote(embeds()) as (up, made):
        for scope in (ME, CLIENT):
            await made.embed(["a"], scope, headers)
        ours, theirs = up.requests
        assert header_of(ours, "authorization", "user-agent") == ["Bearer sk-ours", "julep"]
        assert header_of(theirs, "authorization", "user-agent") == ["Bearer sk-client", "julep"]
        assert header_of(ours, "idempotency-key", "cookie", "accept") == [None, None, "application/json"]


async def test_an_upstream_s_refusal_is_passed_on() -> None:
    body = {"error": {"message": "slow down", "type": "rate", "code": "rate_limit_exceeded"}}
    async with remote(status(429, json=body, headers={"retry-after": "7"})) as (_, made):
        with pytest.raises(UpstreamRefused, match="slow down") as caught:
            await made.embed(["a"], ME, {})
        assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "7")
    async with remote(status(401, json={"error": {"message": "bad key"}})) as (_, made):
        with pytest.raises(UpstreamError) as ours:
            await made.embed(["a"], ME, {})
        assert (ours.value.status, ours.value.code) == (502, "upstream_auth_error")
        with pytest.raises(UpstreamRefused) as theirs:
            await made.embed(["a"], CLIENT, {})
        assert theirs.value.status == 401


async def test_batches_of_several_lengths_cannot_be_compared() -> None:
    async with remote(embeds(4), embeds(3)) as (_, made):
        with pytest.raises(UpstreamError, match="several lengths"):
            await made.embed(["a"] * 101, ME, {})


async def test_a_long_answer_is_refused_and_a_large_one_read() -> None:
    async with remote(embeds(32)) as (_, made):
        assert len(await made.embed([str(n) for n in range(100)], ME, {})) == 100
    async with remote(status(200, json=listed([[1.0] * 200_000]))) as (_, made):
        assert len((await made.embed(["a"], ME, {}))[0]) == 200_000
    async with remote(status(200, json=listed([[1.0] * 300_000]))) as (_, made):
        with pytest.raises(UpstreamError) as caught:
            await made.embed(["a"], ME, {})
        assert caught.value.code == "answer_too_large"


# --- what an answer holds ---


def data(*items: dict[str, Any]) -> bytes:
    return json.dumps({"data": items}).encode()


UNUSABLE = [
    (b"", "no lists of numbers"),
    (b"<html>", "no lists of numbers"),
    (b"[]", "no lists of numbers"),
    (b"\xff", "no lists of numbers"),
    (b"[" * 100_000, "no lists of numbers"),
    (b'{"error": {}}', "no lists of numbers"),
    (data({"embedding": "AACAPwAAAEA=", "index": 0}, {"embedding": [1.0], "index": 1}), "no lists of numbers"),
    (data({"embedding": [1.0, None], "index": 0}, {"embedding": [1.0, 1.0], "index": 1}), "no lists of numbers"),
    (data({"embedding": [1.0], "index": 0}), "1 vectors for 2 texts"),
    (data(*({"embedding": [1.0], "index": n} for n in range(3))), "3 vectors for 2 texts"),
    (data({"embedding": [1.0], "index": 0}, {"embedding": [1.0], "index": 0}), "does not number"),
    (data({"embedding": [1.0], "index": 1}, {"embedding": [1.0], "index": 2}), "does not number"),
    (data({"embedding": [1.0], "index": 0}, {"embedding": [1.0, 2.0], "index": 1}), "several lengths"),
    (data({"embedding": [0.0], "index": 0}, {"embedding": [1.0], "index": 1}), "without a length"),
    (data({"embedding": [], "index": 0}, {"embedding": [], "index": 1}), "without a length"),
    (b'{"data": [{"embedding": [1e308, 1e308, 1e308, 1e308]}, {"embedding": [1, 1, 1, 1]}]}', "without a length"),
]


@pytest.mark.parametrize(("raw", "said"), UNUSABLE, ids=[f"{said} {raw[:30]!r}" for raw, said in UNUSABLE])
async def test_an_answer_without_a_vector_for_each_text_is_an_error(raw: bytes, said: str) -> None:
    with pytest.raises(UpstreamError, match=said) as caught:
        embed.vectors_of(raw, 2)
    assert (caught.value.status, caught.value.code) == (502, "bad_embeddings")


async def test_whole_numbers_and_answers_that_number_nothing_are_vectors_too() -> None:
    assert embed.vectors_of(data({"embedding": [3, 4]}, {"embedding": [0, 2.0], "more": 1}), 2) == [[0.6, 0.8], [0, 1]]


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=8).filter(lambda one: math.hypot(*one) > 1e-100))
async def test_a_vector_keeps_its_direction_and_gets_the_length_1(vector: list[float]) -> None:
    made = embed.normalised(vector)
    assert math.isclose(math.hypot(*made), 1.0, rel_tol=1e-9)
    length = math.hypot(*vector)
    assert all(
        math.isclose(part * length, was, rel_tol=1e-9, abs_tol=1e-12 * length)
        for part, was in zip(made, vector, strict=True)
    )
