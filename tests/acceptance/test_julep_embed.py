"""The julep SDK, unchanged: texts as vectors, by the local embedder and by an upstream's."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import julep
import pytest

from tests.acceptance.asking import served
from tests.acceptance.julep_client import Play, Sdk, connected
from tests.scripted import echoes, scripted_upstream, status
from tests.scripted_embeddings import embeds, listed, numbers

pytestmark = pytest.mark.anyio

LOCAL = pytest.mark.skipif(importlib.util.find_spec("wordllama") is None, reason="no wheel for this machine")
UPSTREAM: Any = {"recall": {"embedder": {"kind": "upstream", "model": "e"}}}


def unit(text: str) -> list[float]:
    vector = numbers(text)
    return [part / math.hypot(*vector) for part in vector]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@LOCAL
async def test_texts_have_vectors_that_tell_what_belongs_together(sdk: Sdk) -> None:
    texts = ["Do you deliver to France?", "We ship orders to all of Europe.", "Green tea is steeped for minutes."]
    question, shipping, tea = (await sdk("docs.embed", text=texts)).vectors
    assert cosine(question, shipping) > cosine(question, tea) + 0.1
    assert math.isclose(math.hypot(*question), 1.0, rel_tol=1e-5)
    assert (await sdk("docs.embed", text=texts[0])).vectors == [question]


@LOCAL
async def test_a_hundred_long_texts_have_a_vector_each(sdk: Sdk) -> None:
    texts = [f"{n} and some more words {n} " * 200 for n in range(100)]
    vectors = (await sdk("docs.embed", text=texts)).vectors
    assert len(vectors) == 100
    assert {len(vector) for vector in vectors} == {256}
    assert (await sdk("docs.embed", text=texts[57])).vectors == vectors[57:58]


@LOCAL
async def test_a_key_that_no_upstream_takes_makes_nothing_compute(tmp_path: Path) -> None:
    refuses = status(401, json={"error": {"message": "no"}})
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, auth={"mode": "passthrough"}) as proxied:
        up.lists = refuses
        async with connected(up, proxied) as sdk:
            with pytest.raises(julep.PermissionDeniedError, match="the upstream does not take it"):
                await sdk("docs.embed", text="hello")


async def test_an_instruction_stands_before_each_text_and_has_no_vector_of_its_own(play: Play) -> None:
    sdk = await play(embeds(), **UPSTREAM)
    for instruction, before in (("query:", "query: "), ("query: ", "query: "), ("", "")):
        told = await sdk("docs.embed", text=["a", "b"], embed_instruction=instruction)
        assert told.vectors == [unit(before + "a"), unit(before + "b")]
    assert sdk.up.requests[0].json["input"] == ["query: a", "query: b"]


async def test_the_configured_upstream_is_asked_with_the_client_s_key(play: Play) -> None:
    sdk = await play(embeds(), **UPSTREAM)
    await sdk("docs.embed", text="a")
    (request,) = sdk.up.requests
    assert (request.method, request.path) == ("POST", "/v1/embeddings")
    assert request.json == {"model": "e", "input": ["a"], "encoding_format": "float"}
    assert request.header("authorization") == f"Bearer {sdk.proxied.key}"


async def test_a_named_upstream_embeds_and_others_do_not(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as chat, scripted_upstream(embeds()) as vectors:
        settings: Any = {
            "upstreams": [{"name": "chat", "base_url": chat.url}, {"name": "vectors", "base_url": vectors.url}],
            "recall": {"embedder": {"kind": "upstream", "model": "e", "upstream": "vectors", "dimensions": 3}},
        }
        async with served(vectors, tmp_path, **settings) as proxied, connected(vectors, proxied) as sdk:
            assert [len(vector) for vector in (await sdk("docs.embed", text=["a", "b"])).vectors] == [3, 3]
        assert (len(chat.requests), len(vectors.requests)) == (0, 1)


@pytest.mark.parametrize(
    ("code", "body", "expected"),
    [
        (429, {"error": {"message": "slow down", "type": "t", "code": "c"}}, 429),
        (400, {"error": {"message": "too many tokens"}}, 400),
        (200, {"data": []}, 502),
        (200, listed(["AACAPw=="]), 502),
        (500, None, 500),
    ],
)
async def test_what_an_upstream_refuses_or_mangles_is_an_error(play: Play, code: int, body: Any, expected: int) -> None:
    sdk = await play(status(code, json=body), **UPSTREAM)
    with pytest.raises(julep.APIStatusError) as caught:
        await sdk("docs.embed", text="a")
    assert caught.value.status_code == expected
    told: Any = caught.value.body
    assert set(told["error"]) == {"message", "code", "type", "details"}


async def test_without_an_embedder_the_answer_says_what_to_set(play: Play) -> None:
    sdk = await play(echoes(), recall={"embedder": {"kind": "none"}})
    with pytest.raises(julep.InternalServerError, match=r"set recall\.embedder\.kind") as caught:
        await sdk("docs.embed", text="hello")
    assert (caught.value.status_code, caught.value.response.headers["x-should-retry"]) == (501, "false")


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("  ", 400, r"text\[0\] is blank"),
        (["a", "\n"], 400, r"text\[1\] is blank"),
        (["a", "b" * 100_001], 413, r"text\[1\] is longer than 100,000"),
        (["a" * 50_000] * 41, 413, "larger than 1 MB"),
        ("", 422, "text"),
        ([], 422, "text"),
        (["a"] * 101, 422, "text"),
        (["a", 5], 422, "text"),
        (None, 422, "text"),
    ],
    ids=lambda one: str(one)[:20],
)
async def test_texts_that_cannot_be_embedded_are_named(play: Play, text: Any, expected: int, said: str) -> None:
    sdk = await play(embeds(), **UPSTREAM)
    with pytest.raises(julep.APIStatusError, match=said) as caught:
        await sdk("docs.embed", text=text)
    assert caught.value.status_code == expected
    assert sdk.up.requests == []


async def test_an_instruction_counts_for_each_text(play: Play) -> None:
    sdk = await play(embeds(), **UPSTREAM)
    with pytest.raises(julep.APIStatusError, match="longer than 1,000,000 characters together") as caught:
        await sdk("docs.embed", text=["a" * 5_000] * 100, embed_instruction="b" * 10_000)
    assert caught.value.status_code == 413
