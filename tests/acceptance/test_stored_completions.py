"""Stored completions with the official openai package, unchanged: with a session and without, streamed and whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests import stored_schema as schema
from tests.acceptance.asking import MODEL, Proxied, served, user
from tests.acceptance.stage import Stage
from tests.scripted import (
    Exchange,
    Recorded,
    Step,
    calls,
    delta,
    dump,
    echoes,
    envelope,
    says,
    scripted_upstream,
    status,
)

pytestmark = pytest.mark.anyio

SESSIONS = pytest.mark.parametrize("to", ["s", None])
STREAMS = pytest.mark.parametrize("stream", [True, False])
HI: Any = [{"role": "user", "content": "hi"}]
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


def sdk(proxied: Proxied, to: str | None = None, **options: Any) -> AsyncOpenAI:
    headers = {"X-Session-Id": to} if to is not None else {}
    given: dict[str, Any] = {"api_key": proxied.key or "any", "default_headers": headers, "max_retries": 0}
    return AsyncOpenAI(base_url=proxied.url, **(given | options))


async def ask(client: AsyncOpenAI, text: str = "hi", **fields: Any) -> None:
    """A request to its end; a stream is read chunk by chunk."""
    messages: Any = [{"role": "user", "content": text}]
    given: dict[str, Any] = {"model": MODEL, "messages": messages, "store": True, **fields}
    answer: Any = await client.chat.completions.create(**given)
    if given.get("stream"):
        async for _ in answer:
            pass


async def stored(proxied: Proxied) -> list[Any]:
    """All of them as they are served, checked against OpenAI's description, oldest first."""
    reply = await proxied.call("GET", "/chat/completions?limit=100")
    assert reply.status == 200, reply.body
    schema.check(schema.COMPLETIONS, reply.json)
    return reply.json["data"]


def numbered(step: Callable[[int], Step]) -> Step:
    """Another step for each request."""
    count = iter(range(1_000))

    async def play(exchange: Exchange) -> None:
        await step(next(count))(exchange)

    return play


# --- the package's calls ---


@SESSIONS
@STREAMS
async def test_the_async_client_lists_reads_changes_and_deletes(stage: Stage, stream: bool, to: str | None) -> None:
    _, proxied = await stage(numbered(lambda n: says(f"answer {n}", id=f"c{n}", created=1_000 + n // 3)))
    async with sdk(proxied, to) as client:
        api = client.chat.completions
        for n in range(7):
            await ask(client, f"q{n}", stream=stream, metadata={"odd": str(n % 2)}, temperature=0.5)
        assert [one.id async for one in api.list(limit=2)] == [f"c{n}" for n in range(7)]
        assert [one.id async for one in api.list(limit=3, order="desc")] == [f"c{n}" for n in reversed(range(7))]
        assert [one.id async for one in api.list(metadata={"odd": "1"}, model=MODEL, limit=1)] == ["c1", "c3", "c5"]
        assert [one.id async for one in api.list(model="another")] == []
        read = await api.retrieve("c3")
        assert (read.choices[0].message.content, read.metadata, read.model) == ("answer 3", {"odd": "1"}, MODEL)
        assert (read.model_extra or {})["temperature"] == 0.5
        changed = await api.update("c3", metadata={"kept": "yes"})
        assert (changed.id, changed.metadata) == ("c3", {"kept": "yes"})
        assert [one.id async for one in api.list(metadata={"kept": "yes"})] == ["c3"]
        said = [one async for one in api.messages.list("c3", limit=1)]
        assert [(one.id, one.role, one.content) for one in said] == [("c3-0", "user", "q3")]
        gone = await api.delete("c3")
        assert (gone.id, gone.deleted, gone.object) == ("c3", True, "chat.completion.deleted")
        with pytest.raises(openai.NotFoundError) as failure:
            await api.retrieve("c3")
        assert failure.value.code == "completion_not_found"
    assert len(await stored(proxied)) == 6


@SESSIONS
async def test_the_sync_client_does_too(stage: Stage, to: str | None) -> None:
    _, proxied = await stage(numbered(lambda n: says(f"answer {n}", id=f"c{n}")))

    def use() -> None:
        headers = {"X-Session-Id": to} if to is not None else {}
        with OpenAI(base_url=proxied.url, api_key=proxied.key, default_headers=headers, max_retries=0) as client:
            api = client.chat.completions
            for n in range(5):
                with api.create(model=MODEL, messages=HI, store=True, metadata={"n": str(n)}, stream=True) as stream:
                    assert "".join(one.choices[0].delta.content or "" for one in stream if one.choices) == f"answer {n}"
            assert [one.id for one in api.list(limit=2)] == ["c0", "c1", "c2", "c3", "c4"]
            assert api.update("c1", metadata={"m": "x"}).metadata == {"m": "x"}
            assert api.retrieve("c1").choices[0].message.content == "answer 1"
            assert [one.content for one in api.messages.list("c1")] == ["hi"]
            assert api.delete("c1").deleted

    await anyio.to_thread.run_sync(use)
    assert [one["id"] for one in await stored(proxied)] == ["c0", "c2", "c3", "c4"]


async def test_all_of_them_are_deleted_while_they_are_listed(stage: Stage) -> None:
    _, proxied = await stage(numbered(lambda n: says("x", id=f"c{n}")))
    async with sdk(proxied, "s") as client:
        for _ in range(7):
            await ask(client)
        async for one in client.chat.completions.list(limit=2):
            await client.chat.completions.delete(one.id)
    assert await stored(proxied) == []
    assert len(proxied.turns("s")) == 7, "the session keeps its turns"


# --- what is stored ---


@SESSIONS
@STREAMS
async def test_tool_calls_are_whole(stage: Stage, stream: bool, to: str | None) -> None:
    _, proxied = await stage(calls("clock", {"city": "Bern, in the old town"}))
    async with sdk(proxied, to) as client:
        await ask(client, stream=stream, tools=[CLOCK], tool_choice="auto")
    (one,) = await stored(proxied)
    (call,) = one["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Bern, in the old town"}
    assert (one["choices"][0]["finish_reason"], one["tools"], one["tool_choice"]) == ("tool_calls", [CLOCK], "auto")


def _three(request: Recorded, kind: str) -> list[Any]:
    return [{"index": n, kind: {"role": "assistant", "content": f"choice {n}"}} for n in range(3)]


async def three(exchange: Exchange) -> None:
    """Three choices, in a stream one after the other in each chunk."""
    request = exchange.request
    if not request.stream:
        whole = [{**one, "logprobs": None, "finish_reason": "stop"} for one in _three(request, "message")]
        body = dump(envelope(request, "chat.completion", whole))
        await exchange.whole(200, body, {"content-type": "application/json"})
        return
    await exchange.start_stream()
    await exchange.event(envelope(request, "chat.completion.chunk", _three(request, "delta")))
    for n in range(3):
        end = [{"index": n, "delta": {}, "finish_reason": "stop"}]
        await exchange.event(envelope(request, "chat.completion.chunk", end))
    await exchange.event("[DONE]")
    await exchange.end()


@SESSIONS
@STREAMS
async def test_all_choices_are_stored(stage: Stage, stream: bool, to: str | None) -> None:
    _, proxied = await stage(three)
    async with sdk(proxied, to) as client:
        await ask(client, stream=stream, n=3)
    (one,) = await stored(proxied)
    said = [(choice["index"], choice["message"]["content"]) for choice in one["choices"]]
    assert said == [(n, f"choice {n}") for n in range(3)]


@SESSIONS
@STREAMS
async def test_fields_of_the_vendor_stay(stage: Stage, stream: bool, to: str | None) -> None:
    _, proxied = await stage(says("x", system_fingerprint="fp_1", service_tier="default", citations=["u"]))
    async with sdk(proxied, to) as client:
        await ask(client, stream=stream)
    (one,) = await stored(proxied)
    assert [one[key] for key in ("system_fingerprint", "service_tier", "citations")] == ["fp_1", "default", ["u"]]


@STREAMS
async def test_an_observed_turn_is_stored_too(stage: Stage, stream: bool) -> None:
    _, proxied = await stage(says("x", id="c"))
    async with sdk(proxied, "s", default_headers={"X-Session-Id": "s", "X-Session-Mode": "observe"}) as client:
        await ask(client, stream=stream)
    assert [one["id"] for one in await stored(proxied)] == ["c"]


async def test_the_name_that_was_asked_for_finds_it_too(tmp_path: Path) -> None:
    async with (
        scripted_upstream(says("x", model="real-2026-11-22")) as up,
        served(up, tmp_path, models={"fast": {"model": "real"}}) as proxied,
        sdk(proxied, "s") as client,
    ):
        await ask(client, model="fast")
        api = client.chat.completions
        assert [one.model async for one in api.list(model="fast")] == ["real-2026-11-22"]
        assert [one.model async for one in api.list(model="real-2026-11-22")] == ["real-2026-11-22"]


@SESSIONS
async def test_what_is_not_asked_for_is_not_stored(stage: Stage, to: str | None) -> None:
    _, proxied = await stage(says("x"))
    async with sdk(proxied, to) as client:
        for store in (False, None):
            await ask(client, store=store)
        await client.chat.completions.create(model=MODEL, messages=HI)
    assert await stored(proxied) == []


@SESSIONS
async def test_a_preview_stores_nothing(stage: Stage, to: str | None) -> None:
    _, proxied = await stage(says("x"))
    headers = {"X-Session-Id": to} if to else {}
    body = dump({"model": MODEL, "messages": HI, "store": True})
    reply = await proxied.post(body, to=None, headers=headers, path="/chat/completions?preview=true")
    assert reply.status == 200
    assert await stored(proxied) == []


# --- once, and only whole ---


def breaks_off(finish: bool = False) -> Step:
    """A stream that is cut in mid-answer, or after a choice's end and before [DONE]."""

    async def step(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.event(delta(exchange.request, {"role": "assistant", "content": "half"}))
        if finish:
            await exchange.event(delta(exchange.request, {}, "stop"))
            await exchange.end()
        else:
            exchange.hang_up()

    return step


@SESSIONS
async def test_an_answer_that_breaks_off_is_not_stored(stage: Stage, to: str | None) -> None:
    _, proxied = await stage(breaks_off(), says("x"))
    reply = await proxied.ask("hi", to=to, store=True, stream=True)
    assert reply.error["code"] == "upstream_broken"
    assert await stored(proxied) == []


@SESSIONS
async def test_a_stream_that_ends_without_done_is_stored(stage: Stage, to: str | None) -> None:
    _, proxied = await stage(breaks_off(finish=True))
    await proxied.ask("hi", to=to, store=True, stream=True)
    assert [one["choices"][0]["message"]["content"] for one in await stored(proxied)] == ["half"]


@SESSIONS
async def test_a_refusal_of_the_model_server_is_not_stored(stage: Stage, to: str | None) -> None:
    _, proxied = await stage(status(400, json={"error": {"message": "no"}}))
    assert (await proxied.ask("hi", to=to, store=True)).status == 400
    assert await stored(proxied) == []


RETRIES = {"key": {"Idempotency-Key": "k"}, "sdk": {"X-Stainless-Retry-Count": "1"}}


@SESSIONS
@STREAMS
@pytest.mark.parametrize("kind", RETRIES)
async def test_a_retry_is_stored_once(stage: Stage, kind: str, stream: bool, to: str | None) -> None:
    """With a session the answer is replayed; without one the newest answer under the key stays, and without a key each
    does: an equal request may be another's, whose answer arrived."""
    up, proxied = await stage(numbered(lambda n: says(f"answer {n}", id=f"c{n}")))
    first = {} if kind == "sdk" else RETRIES[kind]
    await proxied.ask("hi", to=to, store=True, stream=stream, headers=first)
    again = await proxied.ask("hi", to=to, store=True, stream=stream, headers=RETRIES[kind])
    found = await stored(proxied)
    assert len(found) == (2 if kind == "sdk" and to is None else 1)
    assert found[-1]["choices"][0]["message"]["content"] == again.text
    assert len(up.requests) == (1 if to else 2)


async def test_the_same_question_twice_is_stored_twice(stage: Stage) -> None:
    _, proxied = await stage(numbered(lambda n: says(f"answer {n}", id=f"c{n}")))
    for to in ("s", "s", None, None):
        await proxied.ask("hi", to=to, store=True)
    assert len(await stored(proxied)) == 4


@STREAMS
async def test_without_a_session_every_byte_stays_as_it_was(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(says("hello world", id="same", x_vendor=[1.5]))
    bodies, replies = [], []
    for store in (b"true", b"null"):
        body = b'{"model": "m", "store": %b,  "stream": %b, "messages": [{"role": "user", "content": "hi"}]}'
        bodies.append(body % (store, str(stream).lower().encode()))
        replies.append(await proxied.post(bodies[-1], to=None))
    assert [request.body for request in up.requests] == bodies
    assert replies[0].body == replies[1].body
    headers = [{key: value for key, value in one.headers.items() if key.lower() not in ("date", "x-request-id")}
               for one in replies]  # fmt: skip
    assert headers[0] == headers[1]
    assert [one["id"] for one in await stored(proxied)] == ["same"]


@pytest.mark.parametrize("store", ["true", 1, {}, []])
async def test_without_a_session_an_odd_store_is_the_upstreams_to_judge(stage: Stage, store: Any) -> None:
    up, proxied = await stage(says("x"))
    assert (await proxied.ask("hi", to=None, store=store, metadata={"k": 5})).status == 200
    assert up.requests[0].json["store"] == store
    assert await stored(proxied) == []


async def test_without_a_session_metadata_over_the_limits_is_refused_before_the_model(stage: Stage) -> None:
    up, proxied = await stage(says("x"))
    reply = await proxied.ask("hi", to=None, store=True, metadata={"k" * 65: "x"})
    assert (reply.status, reply.error["param"]) == (400, "metadata")
    assert up.requests == []


async def test_without_a_session_the_first_completion_makes_the_tenant(stage: Stage) -> None:
    _, proxied = await stage(says("x", id="c"))
    await proxied.ask("hi", to=None, store=True)
    assert [one["id"] for one in await stored(proxied)] == ["c"]
    assert proxied.sessions() == []


@STREAMS
async def test_what_is_no_chat_completion_passes_and_is_not_stored(stage: Stage, stream: bool) -> None:
    odd = {"object": "something", "answer": 42}
    _, proxied = await stage(status(200, json=odd))
    reply = await proxied.ask("hi", to=None, store=True, stream=stream)
    assert (reply.status, reply.json) == (200, odd)
    assert await stored(proxied) == []


# --- beside the sessions ---


async def test_the_upstream_is_asked_to_store_only_where_it_can(tmp_path: Path) -> None:
    for supports in (False, True):
        (tmp_path / str(supports)).mkdir()
        async with (
            scripted_upstream(echoes()) as up,
            served(up, tmp_path / str(supports), upstream={"supports_store": supports}) as proxied,
            sdk(proxied, "s") as client,
        ):
            await ask(client, metadata={"k": "v"})
            sent = up.requests[0].json
            assert ("store" in sent, "metadata" in sent) == (supports, supports)
            assert [one["metadata"] for one in await stored(proxied)] == [{"k": "v"}]


async def test_they_go_with_their_session(stage: Stage) -> None:
    _, proxied = await stage(numbered(lambda n: says("x", id=f"c{n}")))
    for to in ("s", "t", None):
        await proxied.ask("hi", to=to, store=True)
    base = proxied.url.removesuffix("/v1")
    async with proxied.http.delete(f"{base}/sessions/s/history") as answer:
        assert answer.status == 202
    assert [one["id"] for one in await stored(proxied)] == ["c1", "c2"]
    async with proxied.http.delete(f"{base}/sessions/t") as answer:
        assert answer.status == 202
    assert [one["id"] for one in await stored(proxied)] == ["c2"]


async def test_the_messages_are_those_of_the_request_and_not_the_history(stage: Stage) -> None:
    _, proxied = await stage(numbered(lambda n: says("x", id=f"c{n}")))
    await proxied.ask("one", to="s", store=True)
    await proxied.ask({"role": "system", "content": "be brief"}, user("two"), to="s", store=True)
    said = (await proxied.call("GET", "/chat/completions/c1/messages")).json["data"]
    assert [one["content"] for one in said] == ["be brief", "two"]


async def test_one_that_cannot_be_stored_is_no_whole_answer(stage: Stage) -> None:
    """A client that sees the end of an answer finds it stored."""
    _, proxied = await stage(says("x", id="c"))
    with proxied.locked():
        for stream in (True, False):
            reply = await proxied.ask("hi", to=None, store=True, stream=stream)
            assert reply.error["code"] == "storage_unavailable"
            assert b"[DONE]" not in reply.body
        assert (await proxied.ask("hi", to=None)).status == 200
    assert await stored(proxied) == []
