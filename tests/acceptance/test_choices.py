"""Answers with several choices and of every kind, through the OpenAI SDK: what the client gets, what becomes history,
and what can be read in the turn."""

import base64
import json
import uuid
from random import Random
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.acceptance.asking import MODEL, Proxied, received, user
from tests.acceptance.stage import Stage
from tests.acceptance.test_branches import api
from tests.scripted import Exchange, Step, dump, says
from tests.upstream.answers import split

pytestmark = pytest.mark.anyio

SESSIONS = pytest.mark.parametrize("to", ["s", None])
STREAMS = pytest.mark.parametrize("stream", [True, False])
TEXTS = ("one and one", "two and two", "three and three")
Json = dict[str, Any]


def said(*messages: Json, finish: str = "stop", **beside: Any) -> Json:
    """An answer; `beside` stands in each of its choices."""
    choices = [
        {"index": n, "message": {"role": "assistant"} | one, "logprobs": None, "finish_reason": finish, **beside}
        for n, one in enumerate(messages)
    ]
    counts = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": MODEL,
            "choices": choices, "usage": counts, "service_tier": "flex"}  # fmt: skip


THREE = said(*[{"content": text, "refusal": None} for text in TEXTS])


def plays(answer: Json, *, done: bool = True) -> Step:
    """The answer, whole or in chunks: choices in turn after a first chunk of them all. `done`: with [DONE]."""

    async def step(exchange: Exchange) -> None:
        if not exchange.request.stream:
            await exchange.whole(200, dump(answer), {"content-type": "application/json"})
            return
        await exchange.start_stream()
        begins = [{"index": choice["index"], "delta": {"content": ""}, "finish_reason": None}
                  for choice in answer["choices"]]  # fmt: skip
        head = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
        head["object"] = "chat.completion.chunk"
        await exchange.event(head | {"choices": begins})
        for chunk in split(answer, Random(7)):
            if json.loads(chunk)["choices"] or exchange.request.json.get("stream_options"):
                await exchange.chunk(b"data: %b\n\n" % chunk)
        if done:
            await exchange.event("[DONE]")
        await exchange.end()

    return step


def sdk(proxied: Proxied, to: str | None = "s", **options: Any) -> AsyncOpenAI:
    named = {"X-Session-Id": to} if to is not None else {}
    given: Json = {"api_key": proxied.key, "default_headers": named, "max_retries": 0}
    return AsyncOpenAI(base_url=proxied.url, **(given | options))


async def asked(client: AsyncOpenAI, stream: bool, *messages: Any, **fields: Any) -> Any:
    """The answer as the SDK puts it together."""
    given: Json = {"model": MODEL, "messages": list(messages) or [user("count")], **fields}
    if not stream:
        return await client.chat.completions.create(**given)
    async with client.chat.completions.stream(**given) as events:
        assert "chunk" in [event.type async for event in events]
        if "n" in fields:
            return await events.get_final_completion()
        return events.current_completion_snapshot  # its last step breaks at custom calls and at a length


async def begun(client: AsyncOpenAI, **fields: Any) -> Any:
    """A stream of three choices."""
    given: Json = {"model": MODEL, "messages": [user("count")], "n": 3, "stream": True, **fields}
    return await client.chat.completions.create(**given)


def contents(answer: Any) -> list[tuple[int, str | None, str]]:
    return [(one.index, one.message.content, one.finish_reason) for one in answer.choices]


def bare(value: Any) -> Any:
    """Without what is null."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if item is not None}
    return [bare(item) for item in value] if isinstance(value, list) else value


# --- several choices ---


@SESSIONS
@STREAMS
async def test_all_choices_go_to_the_client(stage: Stage, stream: bool, to: str | None) -> None:
    up, proxied = await stage(plays(THREE), says("on"))
    async with sdk(proxied, to) as client:
        answer = await asked(client, stream, n=3, stream_options={"include_usage": True} if stream else openai.omit)
        assert contents(answer) == [(n, text, "stop") for n, text in enumerate(TEXTS)]
        assert (answer.usage.total_tokens, answer.service_tier) == (14, "flex")
        assert up.requests[0].json["n"] == 3
        await asked(client, stream, user("go on"))
    before = ["user: count", "assistant: one and one"] if to else []
    assert received(up.requests[1]) == [*before, "user: go on"]


@STREAMS
async def test_choice_0_becomes_history_and_all_are_readable_in_the_turn(stage: Stage, stream: bool) -> None:
    _, proxied = await stage(plays(THREE), says("on"))
    async with sdk(proxied) as client:
        await asked(client, stream, n=3)
        await asked(client, stream, user("go on"))
    assert proxied.stored("s") == ["user: count", "assistant: one and one", "user: go on", "assistant: on"]
    turn, last = [await api(proxied, "GET", f"./turns/{n}") for n in (1, 2)]
    assert [one["message"] for one in turn["choices"]] == [
        {"role": "assistant", "content": TEXTS[0]}, *[one["message"] for one in THREE["choices"][1:]],
    ]  # fmt: skip
    assert [(one["index"], one["logprobs"], one["finish_reason"]) for one in turn["choices"]] == [
        (0, None, "stop"), (1, None, "stop"), (2, None, "stop"),
    ]  # fmt: skip
    told = {"index": 0, "message": {"role": "assistant", "content": "on"}, "logprobs": None, "finish_reason": "stop"}
    assert last["choices"] == [told]
    for whole, listed in zip((last, turn), (await api(proxied, "GET", "./turns"))["items"], strict=True):
        assert {key: whole[key] for key in listed} == listed


@STREAMS
async def test_a_retry_by_its_key_gets_all_choices_again(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(plays(THREE), says("never"))
    key = {"Idempotency-Key": str(uuid.uuid4())}
    async with sdk(proxied, default_headers={"X-Session-Id": "s"} | key) as client:
        first = await asked(client, stream, n=3)
        again = await asked(client, stream, n=3)
        other = await proxied.ask("count", to="s", n=3, headers=key)
    assert bare(first.to_dict()) == bare(again.to_dict())
    assert other.status == 422, "another body under the same key"
    assert len(up.requests) == 1
    assert proxied.turns("s") == ["complete"]


async def test_a_client_that_leaves_midway_keeps_what_choice_0_said(stage: Stage) -> None:
    async def step(exchange: Exchange) -> None:
        await exchange.start_stream()
        for word in (" and", " more", " still"):
            for n, text in enumerate(("one", "two", "three")):
                part = {"index": n, "delta": {"content": text + word}, "finish_reason": None}
                await exchange.event({"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [part]})
        await exchange.peer_leaves()

    up, proxied = await stage(step)
    async with sdk(proxied) as client:
        stream = await begun(client)
        async for chunk in stream:
            if (chunk.choices[0].index, chunk.choices[0].delta.content) == (2, "three still"):
                break
        await stream.close()
    await up.wait_idle()
    assert proxied.stored("s") == ["user: count", "assistant: one andone moreone still [incomplete]"]
    (choice,) = (await api(proxied, "GET", "./turns/1"))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one andone moreone still", None)


async def test_a_stream_whose_last_choice_is_cut_off_is_broken(stage: Stage) -> None:
    cut = said(*[{"content": text} for text in TEXTS])
    del cut["usage"]
    cut["choices"][2]["finish_reason"] = None
    _, proxied = await stage(plays(cut, done=False), plays(THREE, done=False))
    async with sdk(proxied) as client:
        with pytest.raises(openai.APIError, match="ended before the answer was finished"):
            await asked(client, True, n=3)
        assert proxied.stored("s") == []
        assert contents(await asked(client, True, n=3)) == contents(await asked(client, False, n=3))


@STREAMS
async def test_more_choices_than_allowed_are_refused_in_a_session_alone(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(plays(THREE), limits={"choices": 2})
    async with sdk(proxied) as client:
        for n in (3, 0):
            with pytest.raises(openai.BadRequestError, match="n must be a whole number from 1 to 2") as caught:
                await begun(client, n=n, stream=stream)
            assert caught.value.param == "n"
    assert up.requests == []
    async with sdk(proxied, None) as client:
        assert len((await asked(client, stream, n=3)).choices) == 3


async def test_choices_go_with_the_history(stage: Stage) -> None:
    _, proxied = await stage(plays(THREE))
    count = "SELECT count(*) FROM choices c JOIN tenants t ON t.id = c.tenant WHERE t.name = ?"
    await proxied.ask("count", to="s", n=3)
    assert proxied.running.rows(count, proxied._tenant) == [(1,)]
    await api(proxied, "DELETE", "./history", status=202)
    assert proxied.running.rows(count, proxied._tenant) == [(0,)]
    await proxied.ask("count", to="s", n=3)
    await api(proxied, "DELETE", "/sessions/s", status=202)
    assert proxied.running.rows(count, proxied._tenant) == [(0,)]


async def test_turns_that_there_are_not_have_no_choices(stage: Stage) -> None:
    _, proxied = await stage(plays(THREE))
    await proxied.ask("count", to="s", n=3)
    await api(proxied, "POST", "./messages", {"role": "user", "content": "noted"}, 201)
    await api(proxied, "POST", "./messages", {"role": "assistant", "content": "answered"}, 201)
    assert (await api(proxied, "GET", "./turns/2"))["choices"] == []
    assert [one["message"]["content"] for one in (await api(proxied, "GET", "./turns/3"))["choices"]] == ["answered"]
    for number in ("4", "0", "x", "9" * 30):
        assert (await api(proxied, "GET", f"./turns/{number}", status=404))["error"]["code"] == "turn_not_found"
    await api(proxied, "GET", "/sessions/nobody/turns/1", status=404)


# --- answers of every kind: streamed, stored, shown, sent again ---


PROBS = {"content": [{"token": "hm", "logprob": -0.5, "bytes": [104, 109], "top_logprobs": []}], "refusal": None}
SOUND = base64.b64encode(b"sound of a voice").decode()
KINDS: dict[str, tuple[Json, list[Json], Json]] = {
    "refusal": (
        said({"content": None, "refusal": "I won't"}),
        [user("please")],
        {"content": None, "refusal": "I won't"},
    ),
    "function_call": (
        said({"content": None, "function_call": {"name": "clock", "arguments": '{"zone":"utc"}'}},
             finish="function_call"),
        [{"role": "function", "name": "clock", "content": "12:00"}],
        {"content": None, "function_call": {"name": "clock", "arguments": '{"zone":"utc"}'}},
    ),
    "custom call": (
        said({"content": None,
              "tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}]},
             finish="tool_calls"),
        [{"role": "tool", "tool_call_id": "c1", "content": "total 0"}],
        {"content": None,
         "tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}]},
    ),
    "audio": (
        said({"content": None,
              "audio": {"id": "audio_1", "data": SOUND, "transcript": "hello there", "expires_at": 32_503_680_000}}),
        [user("louder")],
        {"content": None, "audio": {"id": "audio_1"}},
    ),
    "audio that is gone": (
        said({"content": None,
              "audio": {"id": "audio_1", "data": SOUND, "transcript": "hello there", "expires_at": 1_700_000_000}}),
        [user("louder")],
        {"content": "hello there"},
    ),
    "logprobs": (said({"content": "hm"}, logprobs=PROBS), [user("more")], {"content": "hm"}),
    "length": (said({"content": "hm"}, finish="length"), [user("more")], {"content": "hm"}),
    "annotations": (
        said({"content": "see", "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a"}}]}),
        [user("more")],
        {"content": "see"},
    ),
}  # fmt: skip


@STREAMS
@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_of_another_kind_survives(stage: Stage, kind: str, stream: bool) -> None:
    answer, following, again = KINDS[kind]
    up, proxied = await stage(plays(answer), says("on"))
    async with sdk(proxied) as client:
        given = await asked(client, stream, user("go"))
        if not stream:
            assert bare(given.to_dict()) == bare(answer)
        await asked(client, stream, *following)
    assert up.requests[1].json["messages"] == [user("go"), {"role": "assistant", **again}, *following]
    (told,) = (await api(proxied, "GET", "./turns/1"))["choices"]
    (kept,) = answer["choices"]
    assert bare(told) == bare(kept)
    assert set(told) == {"index", "message", "logprobs", "finish_reason"}


@STREAMS
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_sends_everything_again_continues_after_it(stage: Stage, kind: str, stream: bool) -> None:
    answer, following, again = KINDS[kind]
    up, proxied = await stage(plays(answer), says("on"), says("and on"))
    async with sdk(proxied) as client:
        line: list[Any] = [user("go")]
        for new in (following, [user("last")], []):
            echo = await asked(client, stream, *line)
            line += [echo.choices[0].message.to_dict(), *new]
    assert proxied.branches("s") == 1
    sent = [user("go"), {"role": "assistant", **again}, *following, {"role": "assistant", "content": "on"}]
    assert up.requests[2].json["messages"] == [*sent, user("last")]


@STREAMS
async def test_the_same_call_of_the_old_kind_may_come_twice(stage: Stage, stream: bool) -> None:
    """A client that sends only what is new: the second result equals the first one, which stands elsewhere."""
    answer, (result,), again = KINDS["function_call"]
    up, proxied = await stage(plays(answer), says("noon"), plays(answer), says("still noon"))
    async with sdk(proxied) as client:
        for question in ("time?", "and now?"):
            await asked(client, stream, user(question))
            await asked(client, False, result)
    called = {"role": "assistant", **again}
    assert up.requests[-1].json["messages"] == [
        user("time?"), called, result, {"role": "assistant", "content": "noon"}, user("and now?"), called, result,
    ]  # fmt: skip
    assert proxied.branches("s") == 1


async def test_without_recalled_tools_a_call_of_the_old_kind_goes_with_its_result(stage: Stage) -> None:
    answer, (result,), again = KINDS["function_call"]
    up, proxied = await stage(plays(answer), says("noon"))
    quiet = {"id": "s", "recall_tools": False}
    for message in (user("time?"), result, user("thanks")):
        await proxied.ask(message, to=None, session=quiet)
    sent = [request.json["messages"] for request in up.requests]
    assert sent[1] == [user("time?"), {"role": "assistant", **again}, result]
    assert sent[2] == [user("time?"), {"role": "assistant", "content": "noon"}, user("thanks")]
