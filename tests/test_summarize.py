"""Rolling summaries off the request path: one call at a time, block by block, capped, and never in a turn's way."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from proxy import summarize
from proxy.errors import ProxyError, UpstreamTimeout, UpstreamUnreachable
from proxy.store import history, summaries, turns
from proxy.types import Scope
from proxy.upstream.protocol import Call
from tests.inprocess import words
from tests.store.saying import ME, find, message, record, say
from tests.summarizing import Stage, numbered, refused, staged

pytestmark = pytest.mark.anyio

NOWHERE = UpstreamUnreachable("the upstream refused the connection")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncGenerator[Stage]:
    async with staged(tmp_path) as one:
        yield one


async def test_what_is_wanted_is_summarised_and_stored(stage: Stage) -> None:
    await stage.talk(3)
    await stage.make(4)
    assert await stage.stored() == [(1, 4, "Summary 1.")]
    (body,) = stage.scribe.bodies
    assert (body["model"], body["max_tokens"]) == ("m", 512)
    assert "stream" not in body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "User: q1\nAssistant: a1\nUser: q2\nAssistant: a2\n<" in stage.scribe.asked[0]
    found = await summaries.newest(stage.db, ME, await stage.session(), [(1, 1, 6)])
    assert found is not None
    assert (found.model, found.created_at, found.tokens) == ("m", 5, 4 + words("Summary of the conversation so far "
            "(messages before this point are left out): Summary 1."))  # fmt: skip
    assert stage.made.failure(await stage.session()) is None


async def test_the_next_one_is_made_of_the_last_and_what_came_since(stage: Stage) -> None:
    await stage.talk(4)
    await stage.make(4)
    await stage.make(8)
    assert await stage.stored() == [(1, 4, "Summary 1."), (1, 8, "Summary 2.")]
    assert "<summary>\nSummary 1.\n</summary>" in stage.scribe.asked[1]
    assert "User: q3\nAssistant: a3\nUser: q4\nAssistant: a4\n<" in stage.scribe.asked[1]
    assert "q1" not in stage.scribe.asked[1]
    await stage.make(6)
    assert len(stage.scribe.calls) == 2  # covered already


async def test_a_backlog_is_worked_off_in_blocks_each_of_which_is_stored(stage: Stage) -> None:
    await turns.append(stage.db, ME, record("s", None, [
        message(f"m{n} " + "word " * 20, "user" if n % 2 else "assistant") for n in range(1, 1001)
    ]))  # fmt: skip
    await stage.make(1000, budget=1000)
    every = await stage.stored()
    assert [upto for _, upto, _ in every][-1] == 1000
    assert len(every) == len(stage.scribe.calls) > 40
    for n in range(1, 1001):
        assert sum(f": m{n} " in asked for asked in stage.scribe.asked) == 1
    for body in stage.scribe.bodies:
        assert sum(words(message["content"]) for message in body["messages"]) + body["max_tokens"] <= 1000


async def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.talk(60, size=20)
        stage.scribe.open.clear()
        stage.made.start(await stage.wanted(120, budget=1000))
        await stage.called(1)
        stage.scribe.open.set()
        await stage.called(3)
        stage.scribe.open.clear()
        before = len(await stage.stored())
    assert before >= 2
    async with staged(tmp_path) as stage:
        await stage.make(120, budget=1000)
        assert (await stage.stored())[-1][1] == 120
        first = (await stage.stored())[before - 1][1] // 2 + 1
        assert f"User: q{first} " in stage.scribe.asked[0]


async def test_two_turns_at_once_make_one_call(stage: Stage) -> None:
    await stage.talk(3)
    stage.scribe.open.clear()
    wanted = await stage.wanted(4)
    stage.made.start(wanted)
    stage.made.start(wanted)
    await stage.called(1)
    stage.made.start(wanted)
    stage.scribe.open.set()
    await stage.made.settled()
    assert len(stage.scribe.calls) == 1
    assert await stage.stored() == [(1, 4, "Summary 1.")]


async def test_what_is_wanted_meanwhile_is_made_next(stage: Stage) -> None:
    await stage.talk(3)
    stage.scribe.open.clear()
    stage.made.start(await stage.wanted(2))
    await stage.called(1)
    stage.made.start(await stage.wanted(6))
    stage.scribe.open.set()
    await stage.made.settled()
    assert [upto for _, upto, _ in await stage.stored()] == [2, 6]


async def test_few_are_made_at_once_and_none_is_forgotten(stage: Stage) -> None:
    stage.scribe.open.clear()
    for n in range(12):
        await stage.talk(1, name=f"s{n}")
        stage.made.start(await stage.wanted(2, name=f"s{n}"))
    await stage.called(summarize.AT_ONCE)
    stage.scribe.open.set()
    await stage.made.settled()
    assert len(await stage.stored()) == 12
    assert stage.scribe.most == summarize.AT_ONCE


async def test_a_fork_begins_with_what_its_line_has(stage: Stage) -> None:
    await stage.talk(3)
    await stage.make(4)
    await turns.append(stage.db, ME, record("s", await find(stage.db, "s"), [message("x"), message("y", "assistant")],
                                            fork_at=4))  # fmt: skip
    await stage.make(6, line=[(2, 5, 6), (1, 1, 4)])
    assert await stage.stored() == [(1, 4, "Summary 1."), (2, 6, "Summary 2.")]
    assert "<summary>\nSummary 1.\n</summary>\n\n<conversation>\nUser: x\nAssistant: y\n<" in stage.scribe.asked[1]


async def test_a_failed_call_is_told_and_not_repeated_at_once(stage: Stage) -> None:
    await stage.talk(1)
    session = await stage.session()
    stage.scribe.answers = lambda *_: refused(429)
    pauses = []
    for tries in range(1, 9):
        await stage.make(2)
        assert len(stage.scribe.calls) == tries
        assert stage.made.failure(session) == "upstream_429"
        paused = summarize.pause(tries)
        stage.seconds[0] += paused - 0.5
        await stage.make(2)
        assert len(stage.scribe.calls) == tries
        stage.seconds[0] += 0.5
        pauses.append(paused)
    assert pauses == [30, 60, 120, 240, 480, 600, 600, 600]
    stage.scribe.answers = numbered
    await stage.make(2)
    assert len(await stage.stored()) == 1
    assert stage.made.failure(session) is None
    assert ("warning", "summary_failed") in [(level, event) for level, event, _ in stage.logged]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (NOWHERE, "upstream_unreachable"),
        (UpstreamTimeout("too slow"), "upstream_timeout"),
        (refused(400), "upstream_400"),
        ({"role": "assistant", "content": ""}, "summary_empty"),
        ({"role": "assistant", "content": "<think>for ever"}, "summary_empty"),
        ({"role": "assistant", "content": None, "refusal": "I will not."}, "summary_refused"),
        ({"role": "assistant", "content": 7}, "upstream_broken"),
    ],
)
async def test_every_failure_has_its_code(tmp_path: Path, answer: Any, code: str) -> None:
    async with staged(tmp_path, "upstreams: [{name: u, retries: 0}]") as stage:
        await stage.talk(1)
        stage.scribe.answers = lambda *_: answer
        await stage.make(2)
        assert stage.made.failure(await stage.session()) == code
        assert await stage.stored() == []


async def test_after_a_failure_less_is_asked_at_once(stage: Stage) -> None:
    await stage.talk(20, size=20)
    stage.scribe.answers = lambda *_: UpstreamTimeout("too slow")
    await stage.make(40, budget=1200)
    stage.seconds[0] += 1000
    stage.scribe.answers = numbered
    await stage.make(40, budget=1200)
    assert words(stage.scribe.asked[1]) < 0.6 * words(stage.scribe.asked[0])
    assert (await stage.stored())[-1][1] == 40


async def test_a_defect_is_logged_and_stops_nothing_else(tmp_path: Path) -> None:
    def counts(text: str) -> int:
        if "poison" in text:
            raise ZeroDivisionError
        return words(text)

    async with staged(tmp_path, counter=counts) as stage:
        await say(stage.db, "s", "poison", "a")
        await stage.talk(1, name="other")
        await stage.make(2)
        assert stage.made.failure(await stage.session()) == "internal"
        ((_, _, facts),) = [line for line in stage.logged if line[1] == "defect"]
        assert facts["type"] == "ZeroDivisionError"
        await stage.make(2, name="other")
        assert len(await stage.stored()) == 1


async def test_a_session_has_so_many_calls_and_no_more(tmp_path: Path) -> None:
    async with staged(tmp_path, "context: {summary_max_calls: 2}\nupstreams: [{name: u, retries: 0}]") as stage:
        await stage.talk(4)
        stage.scribe.answers = lambda *_: refused(503)
        await stage.make(2)  # nothing came of it: it does not count
        stage.scribe.answers = numbered
        for upto in (2, 4, 6, 8):
            stage.seconds[0] += 1000
            await stage.make(upto)
        assert [upto for _, upto, _ in await stage.stored()] == [2, 4]
        assert len(stage.scribe.calls) == 3
        assert stage.made.failure(await stage.session()) is None
        assert "summary_calls_used_up" in [event for _, event, _ in stage.logged]


async def test_no_call_is_made_where_none_is_allowed(tmp_path: Path) -> None:
    async with staged(tmp_path, "context: {summary_max_calls: 0}") as stage:
        await stage.talk(1)
        await stage.make(2)
        assert stage.scribe.calls == []


async def test_a_summary_is_cut_to_its_cap(tmp_path: Path) -> None:
    async with staged(tmp_path, "context: {summary_max_tokens: 10}") as stage:
        await stage.talk(1)
        stage.scribe.answers = lambda *_: {"role": "assistant", "content": "<think>x</think> One two. " * 20}
        await stage.make(2)
        ((_, _, text),) = await stage.stored()
        assert words(text) <= 10
        assert text.startswith("One two. ")
        assert stage.scribe.bodies[0]["max_tokens"] == 10


async def test_another_model_may_write_them(tmp_path: Path) -> None:
    settings = (
        "upstreams: [{name: a, base_url: 'http://a/v1', models: [m]},"
        " {name: b, base_url: 'http://b/v1', api_key: sk-b, models: ['*']}]\ncontext: {summary_model: small}"
    )
    async with staged(tmp_path, settings) as stage:
        await stage.talk(20, size=20)
        await stage.make(40, budget=100_000)
        assert {body["model"] for body in stage.scribe.bodies} == {"small"}
        assert {body["max_tokens"] for body in stage.scribe.bodies} == {100}  # its context is 400 tokens
        assert len(stage.scribe.calls) > 4
        assert (b"authorization", b"Bearer sk-b") in stage.scribe.calls[0].headers


async def test_a_model_that_nobody_serves_is_a_failure(tmp_path: Path) -> None:
    async with staged(tmp_path, "upstreams: [{name: a, models: [m]}]\ncontext: {summary_model: other}") as stage:
        await stage.talk(1)
        await stage.make(2)
        assert stage.made.failure(await stage.session()) == "model_not_found"


async def test_a_model_that_knows_only_the_newer_limit_gets_that(stage: Stage) -> None:
    def picky(call: Call, number: int) -> dict[str, Any] | ProxyError:
        if b'"max_tokens"' in call.body:
            return refused(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return numbered(call, number)

    stage.scribe.answers = picky
    await stage.talk(1)
    await stage.make(2)
    assert await stage.stored() == [(1, 2, "Summary 2.")]
    assert stage.scribe.bodies[1]["max_completion_tokens"] == 512


async def test_the_turns_own_headers_are_not_the_summarys(stage: Stage) -> None:
    await stage.talk(1)
    client = {b"idempotency-key": b"k", b"traceparent": b"t", b"accept": b"text/event-stream",
              b"openai-organization": b"o", b"cookie": b"c"}  # fmt: skip
    await stage.make(2, client=client)
    headers = dict(stage.scribe.calls[0].headers)
    assert headers == {b"openai-organization": b"o", b"content-type": b"application/json",
                       b"accept": b"application/json", b"authorization": b"Bearer sk-own"}  # fmt: skip


# --- a client's own key ---

OWN = Scope(1, credential=b"sk-client")


async def test_with_a_clients_key_it_is_made_only_while_its_request_runs(stage: Stage) -> None:
    await stage.talk(1)
    wanted = await stage.wanted(2, scope=OWN)
    stage.made.start(wanted)
    await stage.made.settled()
    assert stage.scribe.calls == []
    stage.scribe.open.clear()
    async with stage.made.during(wanted):
        await stage.called(1)
    await stage.made.settled()
    assert stage.scribe.given_up == 1
    assert await stage.stored() == []
    stage.scribe.open.set()
    async with stage.made.during(wanted):
        await stage.made.settled()
    assert await stage.stored() == [(1, 2, "Summary 2.")]
    assert (b"authorization", b"Bearer sk-client") in stage.scribe.calls[1].headers
    assert stage.made.failure(await stage.session()) is None


async def test_with_the_proxys_key_nothing_is_made_during_a_turn(stage: Stage) -> None:
    await stage.talk(1)
    async with stage.made.during(await stage.wanted(2)):
        await stage.made.settled()
    async with stage.made.during(None):
        pass
    assert stage.scribe.calls == []


# --- ends ---


async def test_closing_gives_up_what_is_being_made(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.talk(1)
        stage.scribe.open.clear()
        wanted = await stage.wanted(2)
        stage.made.start(wanted)
        await stage.called(1)
    assert stage.scribe.given_up == 1
    stage.made.start(wanted)
    await stage.made.settled()
    assert len(stage.scribe.calls) == 1


@pytest.mark.parametrize("again", [False, True])
async def test_of_a_conversation_that_is_cleared_meanwhile_nothing_stays(stage: Stage, again: bool) -> None:
    await stage.talk(2)
    stage.scribe.open.clear()
    stage.made.start(await stage.wanted(4))
    await stage.called(1)
    await history.clear(stage.db, ME, await stage.session(), 9)
    if again:
        await stage.talk(2)
    stage.scribe.open.set()
    await stage.made.settled()
    assert await stage.stored() == []


async def test_what_is_not_on_the_line_is_not_summarised(stage: Stage) -> None:
    await stage.talk(1)
    await stage.make(9)
    await stage.make(0)
    await stage.make(2, line=[])
    assert stage.scribe.calls == []
