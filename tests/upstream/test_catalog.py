"""What the upstreams say of their models."""

import asyncio
import json
from typing import Any

import pytest

from proxy.config import UpstreamConfig
from proxy.errors import UpstreamUnreachable
from proxy.upstream.catalog import Catalog, sizes_in
from proxy.upstream.protocol import Call, Headers
from proxy.upstream.route import Target
from tests.upstream.test_exchange import Given

pytestmark = pytest.mark.anyio

LISTED = {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b", "context_length": 8192}, {"id": "c"}]}


class Lists:
    """A server with a list of models, which tells it after `gate` and to who has the right key."""

    def __init__(self, listed: Any, key: bytes | None = None) -> None:
        self.listed = listed
        self.key = key
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.calls: list[Call] = []
        self.given: list[Given] = []

    async def send(self, call: Call) -> Given:
        self.calls.append(call)
        self.asked.set()
        await self.gate.wait()
        if isinstance(self.listed, Exception):
            raise self.listed
        body = self.listed if isinstance(self.listed, bytes) else json.dumps(self.listed).encode()
        wrong = self.key is not None and (b"authorization", self.key) not in call.headers
        self.given.append(Given(401 if wrong else 200, body))
        return self.given[-1]

    async def aclose(self) -> None:
        return


def target(model: str | None, upstream: str = "one") -> Target:
    return Target(UpstreamConfig(name=upstream), model, None)


async def test_sizes_are_asked_for_once_and_remembered() -> None:
    server = Lists(LISTED)
    catalog = Catalog({"one": server})
    assert [await catalog.context_of(target(model), ()) for model in ("a", "b", "c", "d")] == [4096, 8192, None, None]
    assert len(server.calls) == 1
    assert (server.calls[0].method, server.calls[0].path, server.given[0].closed) == ("GET", "/models", 1)


async def test_many_who_ask_at_once_ask_once() -> None:
    server = Lists(LISTED)
    server.gate.clear()
    catalog = Catalog({"one": server})
    asking = [asyncio.ensure_future(catalog.context_of(target("a"), ())) for _ in range(20)]
    await server.asked.wait()
    server.gate.set()
    assert await asyncio.gather(*asking) == [4096] * 20
    assert len(server.calls) == 1


async def test_who_gives_up_asking_leaves_it_to_the_others() -> None:
    server = Lists(LISTED)
    server.gate.clear()
    catalog = Catalog({"one": server})
    first, other = (asyncio.ensure_future(catalog.context_of(target("a"), ())) for _ in range(2))
    await server.asked.wait()
    first.cancel()
    server.gate.set()
    assert await other == 4096


async def test_each_upstream_has_its_own_sizes() -> None:
    servers = {"one": Lists(LISTED), "two": Lists({"data": [{"id": "a", "max_model_len": 7}]})}
    catalog = Catalog(servers)
    assert await catalog.context_of(target("a", "one"), ()) == 4096
    assert await catalog.context_of(target("a", "two"), ()) == 7


async def test_without_a_model_the_only_size_there_is_counts() -> None:
    assert await Catalog({"one": Lists({"data": [{"id": "x", "max_model_len": 7}]})}).context_of(target(None), ()) == 7
    assert await Catalog({"one": Lists(LISTED)}).context_of(target(None), ()) is None


async def test_only_the_key_and_the_agent_of_a_request_go_along() -> None:
    server = Lists(LISTED)
    headers: Headers = ((b"authorization", b"Bearer k"), (b"user-agent", b"me"), (b"idempotency-key", b"x"))
    await Catalog({"one": server}).context_of(target("a"), headers)
    assert server.calls[0].headers == headers[:2]


FAILURES: list[Any] = [
    UpstreamUnreachable("refused"), b"<html>", b"\xff", b"", b"[" * 100_000, None, [], {"data": 7}, {"data": {}},
    {"data": [7, None, {"id": 7}, {"max_model_len": 5}]}, {"object": "list"},
]  # fmt: skip


@pytest.mark.parametrize("listed", FAILURES, ids=[repr(one)[:40] for one in FAILURES])
async def test_a_list_that_does_not_come_means_no_limit_and_no_error(listed: Any) -> None:
    server = Lists(listed)
    catalog = Catalog({"one": server})
    assert [await catalog.context_of(target("a"), ()) for _ in range(3)] == [None] * 3
    assert len(server.calls) == 1, "it is not asked for again at once"


async def test_the_wrong_key_of_one_client_takes_nothing_from_another() -> None:
    """auth.mode passthrough: each client brings its own."""
    catalog = Catalog({"one": Lists(LISTED, key=b"Bearer good")})
    assert await catalog.context_of(target("a"), ((b"authorization", b"Bearer bad"),)) is None
    assert await catalog.context_of(target("a"), ((b"authorization", b"Bearer good"),)) == 4096


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"max_model_len": 4096}, 4096),
        ({"context_length": 4096}, 4096),
        ({"meta": {"n_ctx": 4096}}, 4096),
        ({"max_model_len": None, "context_length": 5}, 5),
        ({"max_model_len": 0, "meta": {"n_ctx": 5}}, 5),
        ({"max_model_len": "4096"}, None),
        ({"max_model_len": -1}, None),
        ({"max_model_len": True}, None),
        ({"max_model_len": 4096.5}, None),
        ({"meta": [1]}, None),
        ({}, None),
    ],
)
def test_sizes_are_read_in_the_words_of_each_server(model: dict[str, Any], size: int | None) -> None:
    assert sizes_in({"data": [{"id": "a", **model}]}).get("a") == size
