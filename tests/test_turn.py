"""The one path of every turn: what is stored, when it is told, and what happens when somebody leaves or breaks."""

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy import turn as turns
from proxy.errors import Conflict, ContextTooLong, ProxyError, UpstreamBroken, UpstreamRefused
from proxy.events import Begin, Chunk, Client, End, Event
from proxy.services import Services
from proxy.store import keys, sessions
from proxy.types import Scope
from tests.inprocess import (
    EVENTS,
    Ask,
    Reply,
    begun,
    collect,
    counts,
    kinds,
    left,
    run,
    says,
    staged,
    stored,
    streamed,
    user,
    whole,
)

pytestmark = pytest.mark.anyio

LIMIT_S = 10.0


# --- events ---


async def test_json_for_a_stream_becomes_a_stream(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, _, _):
        answers = Answers(Reply([whole(says("hello"))]))
        events = await run(dataclasses.replace(svc, upstreams={"default": answers}), Ask([user("hi")], stream=True))
        assert kinds(events) == ["Begin", "End"]
        assert isinstance(events[-1], End)
        assert events[-1].data.count(b"data: ") == 3
        assert answers.reply.closed


class Answers:
    """A model that gives one answer, made by hand."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    async def send(self, call: Any) -> Reply:
        return self.reply

    async def aclose(self) -> None:
        return


# --- nothing is stored of what went wrong ---


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_that_refuses_leaves_nothing(tmp_path: Path, stream: bool) -> None:
    async with staged(tmp_path) as (svc, model, _):
        model.says = UpstreamRefused(429, "slow down", body=None, headers={})
        with pytest.raises(UpstreamRefused):
            await run(svc, Ask([{"role": "system", "content": "be brief"}, user("hi")], stream=stream))
        assert await counts(svc) == [0] * 6
        model.says = says("hello")
        assert (await begun(svc, Ask([user("hi")], stream=stream))).number == 1


BREAKS = [
    ([], "nothing"),
    (streamed(says("hello world"))[:1], "the role"),
    ([*streamed(says("hello world"))[:2], UpstreamBroken("cut")], "a cut"),
    (streamed(says("hello world"))[:2], "an end too early"),
    ([*streamed(says("hello world"))[:2], b"data: {broken\n\n"], "garbage"),
]


@pytest.mark.parametrize(("parts", "_what"), BREAKS, ids=[what for _, what in BREAKS])
@pytest.mark.parametrize("keeps", ["discard", "partial"])
async def test_a_stream_that_breaks_is_kept_only_where_one_wants_it(
    tmp_path: Path, parts: Sequence[bytes | Exception], _what: str, keeps: str
) -> None:
    settings = f"sessions: {{on_upstream_break: {keeps}}}"
    async with staged(tmp_path, settings) as (svc, _, _):
        answers = Answers(Reply(parts, (EVENTS,)))
        got: list[Event] = []
        with pytest.raises(UpstreamBroken):
            asked = Ask([user("hi")], stream=True).turn(svc)
            await collect(turns.run(dataclasses.replace(svc, upstreams={"default": answers}), asked, Client()), got)
        assert answers.reply.closed
        assert not any(isinstance(event, End) for event in got)
        text = any(b"hello" in event.data for event in got if isinstance(event, Chunk))
        kept = [(1, "incomplete")] if text and keeps == "partial" else []
        assert [(turn, status) for turn, _, status in await stored(svc)][1:] == kept


async def test_what_does_not_fit_is_refused_before_the_model_is_asked(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        with pytest.raises(ContextTooLong):
            await run(svc, Ask([user("far too many words for that")], budget=5))
        assert model.requests == []
        assert await counts(svc) == [0] * 6


async def test_a_turn_that_is_not_to_be_saved_is_not(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        await run(svc, Ask([user("one")]))
        before = await counts(svc)
        begin = await begun(svc, Ask([user("two")], save=False))
        assert begin.number is None
        assert len(model.requests[-1]["messages"]) == 3
        assert await counts(svc) == before
        assert (await begun(svc, Ask([user("three")]))).number == 2


async def test_a_session_deleted_meanwhile_takes_no_turn(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        await run(svc, Ask([user("one")]))
        found = await sessions.find(svc.db, Scope(1), "s")
        assert found is not None

        async def delete() -> None:
            await sessions.delete(svc.db, Scope(1), found[0].id)

        model.before = delete
        with pytest.raises(Conflict) as caught:
            await run(svc, Ask([user("two")]))
        assert caught.value.code == "session_deleted"
        model.before = None
        assert await counts(svc) == [0] * 6
        assert (await begun(svc, Ask([user("three")]))).number == 1


# --- clients that leave ---


async def test_a_client_that_leaves_in_mid_answer_leaves_what_it_got(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, _, _):
        await left(svc, Ask([user("hi")], stream=True))
        assert [(turn, status) for turn, _, status in await stored(svc)] == [(1, "complete"), (1, "incomplete")]
        assert '"hello w"' in (await stored(svc))[1][1]


async def test_a_client_that_leaves_before_the_first_word_leaves_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, _, _):
        client = Client()
        running = turns.run(svc, Ask([user("hi")], stream=True).turn(svc), client)
        assert isinstance(await anext(running), Begin)
        assert isinstance(await anext(running), Chunk)
        client.left = True
        await running.aclose()
        assert await counts(svc) == [0] * 6


async def test_what_was_got_is_thrown_away_where_one_wants_it(tmp_path: Path) -> None:
    async with staged(tmp_path, "sessions: {on_disconnect: discard}") as (svc, _, _):
        await left(svc, Ask([user("hi")], stream=True))
        assert await counts(svc) == [0] * 6


async def test_a_turn_cancelled_by_the_server_is_not_a_client_that_left(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, _, _):
        running = turns.run(svc, Ask([user("hi")], stream=True).turn(svc), Client())
        async for event in running:
            if isinstance(event, Chunk) and b"hello" in event.data:
                break
        await running.aclose()
        assert await counts(svc) == [0] * 6


# --- one after the other ---


async def test_turns_of_a_session_see_all_that_was_stored_before_them(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        await asyncio.gather(*(run(svc, Ask([user(f"q{n}")])) for n in range(10)))
        assert [len(request["messages"]) for request in model.requests] == [1 + 2 * n for n in range(10)]
        assert [turn for turn, _, _ in await stored(svc)] == [1 + n // 2 for n in range(20)]


async def test_a_session_is_one_by_its_name_and_by_its_uuid(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        uuid = (await begun(svc, Ask([user("q")]))).uuid
        await asyncio.gather(*(run(svc, Ask([user(f"q{n}")], name=("s", uuid)[n % 2])) for n in range(6)))
        assert [len(request["messages"]) for request in model.requests] == [1 + 2 * n for n in range(7)]


async def test_observed_turns_run_at_once_and_are_stored_one_by_one(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        together = asyncio.Barrier(4)
        model.before = together.wait
        with anyio.fail_after(LIMIT_S):
            begins = await asyncio.gather(*(begun(svc, Ask([user(f"q{n}")], mode="observe")) for n in range(4)))
        assert sorted(begin.number or 0 for begin in begins) == [1, 2, 3, 4]
        assert len({begin.uuid for begin in begins}) == 1
        found = await sessions.find(svc.db, Scope(1), "s")
        assert found is not None
        assert found[0].uuid == begins[0].uuid
        assert len(await stored(svc)) == 8


async def test_the_first_turns_of_a_new_upstream_key_are_one_session_too(tmp_path: Path) -> None:
    """auth.mode passthrough: its tenant is made with the first turn, while the second waits."""
    async with staged(tmp_path) as (svc, model, _):
        scope = await keys.passthrough_scope(svc.db, b"sk-new")
        asks = [Ask([user(f"q{n}")], scope=scope) for n in range(3)]
        late = [Ask([user("q3")], scope=await keys.passthrough_scope(svc.db, b"sk-new"))]
        await asyncio.gather(*(run(svc, ask) for ask in [*asks, *late]))
        assert [len(request["messages"]) for request in model.requests] == [1, 3, 5, 7]


# --- retries ---


async def twice(svc: Services, first: Ask, second: Ask) -> list[Any]:
    return [await run(svc, first), await run(svc, second)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", ["auto", "observe"])
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_key_is_answered_once_and_then_again_from_the_store(
    tmp_path: Path, stream: bool, mode: Any, at_once: bool
) -> None:
    async with staged(tmp_path) as (svc, model, _):
        ask = Ask([user("hi")], key="k", stream=stream, mode=mode)
        one, other = await asyncio.gather(run(svc, ask), run(svc, ask)) if at_once else await twice(svc, ask, ask)
        assert len(model.requests) == 1
        assert len(await stored(svc)) == 2
        assert isinstance(one[0], Begin)
        assert isinstance(other[0], Begin)
        assert (one[0].number, other[0].number, other[0].plan) == (1, 1, None)
        if not stream:
            assert one[-1] == other[-1]


async def test_a_key_of_another_request_is_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        await run(svc, Ask([user("hi")], key="k"))
        with pytest.raises(ProxyError) as caught:
            await run(svc, Ask([user("ho")], key="k"))
        assert (caught.value.status, caught.value.code) == (422, "idempotency_key_reused")
        assert caught.value.headers == {"x-should-retry": "false"}
        await run(svc, Ask([user("ho")], key="k", name="other"))
        assert len(model.requests) == 2


async def test_an_sdks_retry_of_the_latest_turn_gets_its_answer(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        ask = Ask([user("hi")])
        await twice(svc, ask, dataclasses.replace(ask, retried=True))
        assert len(model.requests) == 1
        await run(svc, ask)
        assert len(model.requests) == 2, "the same question on purpose is a turn of its own"
        await run(svc, Ask([user("other")]))
        await run(svc, dataclasses.replace(ask, retried=True))
        assert len(model.requests) == 4, "not the latest turn"
        assert len(await stored(svc)) == 8


async def test_the_retry_of_a_failed_turn_runs_anew(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, model, _):
        ask = Ask([user("hi")], key="k")
        again = Ask([user("ho")])
        await run(svc, again)
        model.says = UpstreamRefused(500, "oops", body=None, headers={})
        for one in (ask, again):
            with pytest.raises(UpstreamRefused):
                await run(svc, one)
        model.says = says("fine")
        await run(svc, dataclasses.replace(again, retried=True))
        await run(svc, ask)
        assert len(await stored(svc)) == 6
