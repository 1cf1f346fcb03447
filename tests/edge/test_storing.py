"""The copy of an answer that passes through: stored once, before its end, whatever the pieces it comes in."""

import random
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.edge.deliver import Head
from proxy.edge.openai import storing
from proxy.edge.openai.storing import Passing
from proxy.edge.request import Request
from proxy.errors import BadRequest, UpstreamBroken
from proxy.events import Chunk, End
from proxy.resources import Page
from proxy.services import Services
from proxy.store import completions
from tests.inprocess import DEFAULT, EVENTS, JSON, Model, services, streamed, whole

pytestmark = pytest.mark.anyio

SAID = {"role": "assistant", "content": "hello world"}
STREAM = b"".join(streamed(SAID))
FIELDS = {"store": b"true", "model": b'"m"', "messages": b'[{"role":"user","content":"hi"}]'}


def request(**headers: str) -> Request:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Request("POST", "/v1/chat/completions", b"", named, "req_1", 0.0)


async def stored(svc: Services) -> list[Any]:
    found, _ = await completions.page(svc.db, DEFAULT, [], Page(direction="asc"))
    return [msgspec.json.decode(one.shown()) for one in found]


class Watched:
    """What passes, and how many completions are stored by the time that each piece goes out."""

    def __init__(self, svc: Services) -> None:
        self.svc = svc
        self.out: list[bytes] = []
        self.stored: list[int] = []

    async def run(self, events: AsyncGenerator[Passing]) -> "Watched":
        async for event in events:
            if not isinstance(event, Head):
                self.out.append(event.data)
                self.stored.append(len(await stored(self.svc)))
        return self


async def passing(
    pieces: Sequence[bytes], last: bytes | Exception = b"", kind: Any = EVENTS
) -> AsyncGenerator[Passing]:
    yield Head(200, [kind])
    for piece in pieces:
        yield Chunk(piece)
    if isinstance(last, Exception):
        raise last
    yield End(last)


async def watched(
    svc: Services, events: AsyncGenerator[Passing], asked: Request | None = None, **fields: bytes
) -> Watched:
    kept = storing.copied(svc, DEFAULT, asked or request(), b"{}", {**FIELDS, **fields}, events)
    return await Watched(svc).run(kept)


def torn(data: bytes, dice: random.Random) -> list[bytes]:
    cuts = sorted(dice.sample(range(1, len(data)), dice.randrange(0, 12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("seed", range(20))
async def test_every_piece_goes_out_as_it_came_and_the_end_after_the_commit(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    data = dice.choice([STREAM, STREAM.replace(b"\n", b"\r\n"), b": ping\n\n" + STREAM, STREAM.rstrip(b"\n")])
    pieces = torn(data, dice)
    last = pieces.pop() if dice.random() < 0.5 else b""
    async with services(tmp_path, Model()) as svc:
        told = await watched(svc, passing(pieces, last))
        assert told.out == [*pieces, last]
        assert told.stored[-1] == 1
        for n, number in enumerate(told.stored):
            before = b"".join(told.out[: n + 1])
            assert number == 0 or b"[DONE]" in before
            assert number == 1 or not before.endswith((b"[DONE]\n\n", b"[DONE]\r\n\r\n"))
        (one,) = await stored(svc)
        assert one["choices"][0]["message"]["content"] == "hello world"


async def test_a_whole_answer_goes_out_after_the_commit(tmp_path: Path) -> None:
    async with services(tmp_path, Model()) as svc:
        told = await watched(svc, passing([], whole(SAID), JSON), metadata=b'{"k":"v"}')
        assert (told.out, told.stored) == ([whole(SAID)], [1])
        (one,) = await stored(svc)
        assert (one["metadata"], one["request_id"], one["model"]) == ({"k": "v"}, "req_1", "m")


async def test_who_does_not_ask_for_it_pays_nothing(tmp_path: Path) -> None:
    async with services(tmp_path, Model()) as svc:
        for store in (b"false", b"null", b'"true"', b"1"):
            events = passing([STREAM])
            kept = storing.copied(svc, DEFAULT, request(), b"{}", {"store": store, "metadata": b"5"}, events)
            assert kept is events
            await events.aclose()


ERROR = b'data: {"error":{"message":"no","code":500}}\n\n'
CUT = b"".join(streamed(SAID)[:2])


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [([ERROR], EVENTS), ([CUT, ERROR, STREAM], EVENTS), ([CUT], EVENTS), ([b"data: nonsense\n\n", STREAM], EVENTS),
     ([b": ping\n\n"], EVENTS), ([], EVENTS), ([b"data: [DO"], EVENTS)],
    ids=["error", "error in the middle", "cut", "nonsense", "comment", "nothing", "half a done"],
)  # fmt: skip
async def test_what_is_no_whole_answer_passes_and_is_not_stored(tmp_path: Path, pieces: list[bytes], kind: Any) -> None:
    async with services(tmp_path, Model()) as svc:
        told = await watched(svc, passing(pieces, b"", kind))
        assert told.out == [*pieces, b""]
        assert await stored(svc) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b'{"error":{"message":"no"}}', b'{"choices":[]}', b"\xff"])
async def test_what_is_no_completion_passes_and_is_not_stored(tmp_path: Path, content: bytes) -> None:
    async with services(tmp_path, Model()) as svc:
        told = await watched(svc, passing([], content, JSON))
        assert told.out == [content]
        assert await stored(svc) == []


async def test_a_break_stores_nothing(tmp_path: Path) -> None:
    async with services(tmp_path, Model()) as svc:
        ending = b"".join(streamed(SAID)[:-1])  # all but [DONE]
        with pytest.raises(UpstreamBroken):
            await watched(svc, passing([ending], UpstreamBroken("gone")))
        assert await stored(svc) == []


async def test_an_answer_over_the_limit_passes_and_is_not_stored(tmp_path: Path) -> None:
    async with services(tmp_path, Model(), "limits: {answer_mb: 1}") as svc:
        long = streamed({"role": "assistant", "content": "x" * (1 << 20)})
        told = await watched(svc, passing(long))
        assert b"".join(told.out) == b"".join(long)
        assert await stored(svc) == []


async def test_a_retry_is_known_by_its_key_and_by_nothing_else(tmp_path: Path) -> None:
    """Another body under the same key is another request; what an SDK retries may equal what another of it asked."""
    async with services(tmp_path, Model()) as svc:

        async def ask(raw: bytes, asked: Request) -> None:
            events = passing([], whole(SAID), JSON)
            await Watched(svc).run(storing.copied(svc, DEFAULT, asked, raw, FIELDS, events))

        key, sdk = request(idempotency_key="k" * 400), request(x_stainless_retry_count="1")
        counts = []
        for raw, asked in ((b"{}", key), (b"{}", key), (b"[]", key), (b"{}", sdk), (b"{}", sdk), (b"{}", request())):
            await ask(raw, asked)
            counts.append(len(await stored(svc)))
        assert counts == [1, 1, 2, 3, 4, 5]


async def test_metadata_is_checked_before_anything_is_asked(tmp_path: Path) -> None:
    async with services(tmp_path, Model()) as svc:
        events = passing([STREAM])
        with pytest.raises(BadRequest, match="metadata"):
            storing.copied(svc, DEFAULT, request(), b"{}", {**FIELDS, "metadata": b'{"k":5}'}, events)
        await events.aclose()
