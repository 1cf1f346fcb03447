"""Asking again: under a key, as the SDKs do it, and on purpose. A turn is stored once, and answered whenever asked."""

from typing import Any

import anyio
import pytest

from proxy.store import sessions
from proxy.types import Scope
from tests import faults
from tests.acceptance.asking import Proxied, Reply, received, result, until
from tests.acceptance.stage import Stage, Talk
from tests.scripted import Exchange, Step, calls, gated, says, status

pytestmark = pytest.mark.anyio

KEY = {"Idempotency-Key": "k1"}
RETRY = {"X-Stainless-Retry-Count": "1"}
STREAMS = pytest.mark.parametrize("stream", [True, False])


def held(text: str) -> Step:
    """A whole answer that waits for `up.gate.release()`."""

    async def step(exchange: Exchange) -> None:
        await exchange.up.gate.acquire()
        await says(text)(exchange)

    return step


# --- Idempotency-Key ---


async def test_a_finished_turn_is_answered_again_byte_for_byte(stage: Stage) -> None:
    up, proxied = await stage(says("fine"), says("other"))
    first = await proxied.ask("hi", to="s", headers=KEY)
    again = await proxied.ask("hi", to="s", headers=KEY)
    assert (again.status, again.body) == (200, first.body)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    for name in ("x-session-id", "x-session-uuid", "x-session-turn", "x-session-branch", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert len(up.requests) == 1
    assert proxied.stored("s") == ["user: hi", "assistant: fine"]


async def test_it_is_answered_again_after_later_turns_too(stage: Stage) -> None:
    up, proxied = await stage(says("fine"), says("other"))
    first = await proxied.ask("hi", to="s", headers=KEY)
    await proxied.ask("more", to="s")
    again = await proxied.ask("hi", to="s", headers=KEY)
    assert (again.body, again.headers["x-session-turn"]) == (first.body, "1")
    assert len(up.requests) == 2


@pytest.mark.parametrize("usage", [True, False])
async def test_a_finished_stream_is_answered_again_as_a_stream(stage: Stage, usage: bool) -> None:
    up, proxied = await stage(says("one two three"), says("other"))
    asked = {"stream": True, "stream_options": {"include_usage": usage}}
    first = await proxied.ask("count", to="s", headers=KEY, **asked)
    again = await proxied.ask("count", to="s", headers=KEY, **asked)
    assert (again.text, again.done, again.headers["idempotent-replayed"]) == (first.text, True, "true")
    assert again.headers["content-type"] == first.headers["content-type"]
    finishes = [choice["finish_reason"] for chunk in again.chunks for choice in chunk["choices"]]
    assert finishes == [None, "stop"]
    assert [chunk["usage"] for chunk in again.chunks if chunk.get("usage")] == [
        chunk["usage"] for chunk in first.chunks if chunk.get("usage")
    ]
    assert {chunk["id"] for chunk in again.chunks} == {chunk["id"] for chunk in first.chunks}
    assert len(up.requests) == 1


@STREAMS
async def test_tool_calls_are_answered_again(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(calls("clock", {"zone": "utc"}), says("other"))
    for _ in range(2):
        reply = await proxied.ask("time?", to="s", headers=KEY, stream=stream)
    if stream:
        made = [call for chunk in reply.chunks for c in chunk["choices"] for call in c["delta"].get("tool_calls", ())]
        assert "".join(call["function"]["arguments"] for call in made) == '{"zone": "utc"}'
        assert {call["index"] for call in made} == {0}
        assert reply.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    else:
        assert reply.json["choices"][0]["message"]["tool_calls"][0]["id"] == "call_1"
    assert len(up.requests) == 1
    await proxied.ask(result("12:00"), to="s")
    assert received(up.requests[-1])[-1] == "tool call_1: 12:00"


@STREAMS
async def test_the_same_key_at_once_is_one_turn(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(held("one"), says("other"))
    replies = await several(proxied, 3, up, "count", headers=KEY, stream=stream)
    assert [reply.text for reply in replies] == ["one"] * 3
    assert sorted(reply.headers.get("idempotent-replayed", "") for reply in replies) == ["", "true", "true"]
    assert len(up.requests) == 1
    assert proxied.stored("s") == ["user: count", "assistant: one"]


async def several(proxied: Proxied, count: int, up: Any, text: str, **fields: Any) -> list[Reply]:
    """The replies to a request of session "s" sent `count` times at once, while the model holds its answer back."""
    replies: list[Reply] = []

    async def ask() -> None:
        replies.append(await proxied.ask(text, to="s", **fields))

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(ask)
        await until(lambda: len(proxied.running.edge.open) == count)
        for _ in range(2 * count):
            up.gate.release()
    return replies


async def test_a_key_used_for_another_request_is_refused(stage: Stage) -> None:
    up, proxied = await stage(says("fine"))
    await proxied.ask("hi", to="s", headers=KEY)
    for other in ({"text": "ho"}, {"text": "hi", "temperature": 0.5}, {"text": "hi", "stream": True}):
        reply = await proxied.ask(str(other.pop("text")), to="s", headers=KEY, **other)
        assert (reply.status, reply.error["code"]) == (422, "idempotency_key_reused")
        assert reply.headers["x-should-retry"] == "false"
        assert reply.error["param"] == "Idempotency-Key"
    assert len(up.requests) == 1
    assert proxied.turns("s") == ["complete"]


async def test_another_session_may_use_the_same_key(stage: Stage) -> None:
    up, proxied = await stage(says("a"), says("b"))
    replies = [await proxied.ask("hi", to=to, headers=KEY) for to in ("s", "t")]
    assert [reply.text for reply in replies] == ["a", "b"]
    assert len(up.requests) == 2


@STREAMS
async def test_a_turn_that_failed_runs_anew_under_its_key(stage: Stage, stream: bool) -> None:
    broken = faults.cut_mid_stream(3) if stream else status(500, json={})
    up, proxied = await stage(broken, says("fine"))
    await proxied.ask("hi", to="s", headers=KEY, stream=stream)
    again = await proxied.ask("hi", to="s", headers=KEY, stream=stream)
    assert (again.text, again.headers.get("idempotent-replayed"), len(up.requests)) == ("fine", None, 2)
    assert proxied.stored("s") == ["user: hi", "assistant: fine"]


async def test_a_turn_that_was_cut_short_runs_anew_under_its_key(stage: Stage) -> None:
    script, settings = [faults.cut_mid_stream(3), says("fine")], {"on_upstream_break": "partial"}
    up, proxied = await stage(*script, sessions=settings)
    await proxied.ask("hi", to="s", headers=KEY, stream=True)
    assert proxied.turns("s") == ["incomplete"]
    again = await proxied.ask("hi", to="s", headers=KEY, stream=True)
    assert (again.text, len(up.requests)) == ("fine", 2)
    assert proxied.stored("s") == ["user: hi", "assistant: fine"]


async def test_a_turn_that_is_not_saved_is_not_answered_again(stage: Stage) -> None:
    up, proxied = await stage(says("a"), says("b"))
    headers = KEY | {"X-Session-Save": "false"}
    assert [(await proxied.ask("hi", to="s", headers=headers)).text for _ in range(2)] == ["a", "b"]
    assert len(up.requests) == 2


async def test_the_same_key_at_once_in_an_observed_session_is_stored_once(stage: Stage) -> None:
    up, proxied = await stage(held("one"), held("two"))
    replies = await several(proxied, 2, up, "count", headers=KEY | {"X-Session-Mode": "observe"})
    assert {reply.status for reply in replies} == {200}
    assert proxied.turns("s") == ["complete"]


# --- retries without a key ---


@STREAMS
async def test_an_sdks_retry_of_the_latest_turn_gets_its_answer(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(says("fine"), says("other"))
    first = await proxied.ask("hi", to="s", stream=stream)
    again = await proxied.ask("hi", to="s", stream=stream, headers=RETRY)
    assert (again.text, again.headers["idempotent-replayed"], again.headers["x-session-turn"]) == ("fine", "true", "1")
    if not stream:
        assert again.body == first.body
    assert len(up.requests) == 1
    assert proxied.turns("s") == ["complete"]


@STREAMS
async def test_an_sdks_retry_joins_the_turn_that_runs(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(held("one"), says("other"))
    replies: list[Reply] = []

    async def ask(count: str) -> None:
        replies.append(await proxied.ask("hi", to="s", stream=stream, headers={"X-Stainless-Retry-Count": count}))

    async with anyio.create_task_group() as group:
        for n in range(3):
            group.start_soon(ask, str(n))
            await until(lambda n=n: len(proxied.running.edge.open) == n + 1)
        for _ in range(2):
            up.gate.release()
    assert [reply.text for reply in replies] == ["one"] * 3
    assert len(up.requests) == 1
    assert proxied.turns("s") == ["complete"]


async def test_an_equal_question_asked_on_purpose_is_a_turn_of_its_own(stage: Stage) -> None:
    up, proxied = await stage(says("a"), says("b"))
    for count in ("0", ""):
        await proxied.ask("again", to="s", headers={"X-Stainless-Retry-Count": count})
    assert received(up.requests[-1]) == ["user: again", "assistant: a", "user: again"]
    assert proxied.turns("s") == ["complete"] * 2


async def test_the_retry_of_an_equal_question_is_not_the_retry_of_the_earlier_one(stage: Stage) -> None:
    up, proxied = await stage(says("a"), status(500, json={}), says("b"))
    assert (await proxied.ask("again", to="s")).text == "a"
    assert (await proxied.ask("again", to="s")).status == 500
    assert (await proxied.ask("again", to="s", headers=RETRY)).text == "b"
    assert proxied.stored("s") == ["user: again", "assistant: a", "user: again", "assistant: b"]
    assert len(up.requests) == 3


@pytest.mark.parametrize(
    ("between", "headers", "fields"),
    [
        ("more", RETRY, {}),
        (None, RETRY, {"temperature": 0.5}),
        (None, RETRY | {"X-Session-Context-Overflow": "truncate"}, {}),
        (None, RETRY | {"Idempotency-Key": "new"}, {}),
    ],
    ids=["another turn came", "another body", "other options", "a key"],
)
async def test_what_is_no_retry_of_the_latest_turn_runs(
    stage: Stage, between: str | None, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    up, proxied = await stage(says("fine"))
    await proxied.ask("hi", to="s")
    if between:
        await proxied.ask(between, to="s")
    reply = await proxied.ask("hi", to="s", headers=headers, **fields)
    assert "idempotent-replayed" not in reply.headers
    assert len(up.requests) == len(proxied.turns("s")) == (3 if between else 2)


# --- one after the other ---


async def test_turns_of_a_session_run_in_the_order_they_came(echo: Talk) -> None:
    up, proxied = echo
    names = [f"q{n}" for n in range(20)]
    up.play(held_echo)
    async with anyio.create_task_group() as group:
        for n, name in enumerate(names):
            group.start_soon(ask_one, proxied, name, n % 2 == 0)
            await until(lambda n=n: len(proxied.running.edge.open) == n + 1)
        for _ in names:
            up.gate.release()
    stored = [line for name in names for line in (f"user: {name}", f"assistant: echo: {name}")]
    assert proxied.stored("s") == stored
    assert [received(request) for request in up.requests] == [stored[: 2 * n + 1] for n in range(20)]
    assert proxied.sessions() == ["s"]


async def held_echo(exchange: Exchange) -> None:
    asked = exchange.request.json["messages"][-1]["content"]
    await held(f"echo: {asked}")(exchange)


async def ask_one(proxied: Proxied, text: str, stream: bool) -> None:
    assert (await proxied.ask(text, to="s", stream=stream)).text == f"echo: {text}"


async def test_a_name_and_the_uuid_of_a_session_wait_in_one_line(stage: Stage) -> None:
    up, proxied = await stage(says("zero"), held("one"), held("two"))
    uuid = (await proxied.ask("q0", to="s")).headers["x-session-uuid"]

    async def ask(text: str, to: str) -> None:
        await proxied.ask(text, to=to)

    async with anyio.create_task_group() as group:
        group.start_soon(ask, "q1", "s")
        await up.wait_requests(2)
        group.start_soon(ask, "q2", uuid)
        await until(lambda: len(proxied.running.edge.open) == 2)
        assert len(up.requests) == 2
        up.gate.release()
        up.gate.release()
    assert received(up.requests[-1])[-3:] == ["user: q1", "assistant: one", "user: q2"]


async def test_who_waits_too_long_is_told_to_come_again_and_other_sessions_do_not_wait(stage: Stage) -> None:
    script, settings = [held("one"), says("two")], {"wait_timeout_s": 0.2}
    up, proxied = await stage(*script, sessions=settings)

    async def ask() -> None:
        await proxied.ask("hi", to="s")

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await up.wait_requests(1)
        busy = await proxied.ask("hurry", to="s")
        assert (busy.status, busy.error["code"], busy.headers["retry-after"]) == (409, "session_busy", "1")
        assert (await proxied.ask("hi", to="other")).text == "two"
        up.gate.release()
    assert (await proxied.ask("hurry", to="s")).text == "two"
    assert proxied.stored("s") == ["user: hi", "assistant: one", "user: hurry", "assistant: two"]


# --- a session that is gone ---


@STREAMS
async def test_a_session_deleted_while_its_turn_runs_stays_deleted(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(says("one"), gated("two") if stream else held("two"), says("three"))
    await proxied.ask("hi", to="s")
    replies: list[Reply] = []

    async def ask() -> None:
        replies.append(await proxied.ask("more", to="s", stream=stream))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await up.wait_requests(2)
        tenant, number = proxied.running.rows("SELECT tenant, id FROM sessions WHERE name = 's' ORDER BY id DESC")[0]
        assert await sessions.delete(proxied.running.edge.svc.db, Scope(tenant), number)
        up.gate.release()
        up.gate.release()
    assert replies[0].error["code"] == "session_deleted"
    if stream:
        assert (replies[0].text, replies[0].done) == ("two", False)
    else:
        assert (replies[0].status, replies[0].headers["x-should-retry"]) == (409, "false")
    assert proxied.sessions() == []
    fresh = await proxied.ask("again", to="s")
    assert (fresh.headers["x-session-turn"], received(up.requests[-1])) == ("1", ["user: again"])
