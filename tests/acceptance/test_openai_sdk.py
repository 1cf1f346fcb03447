"""The official openai package, unchanged, with a session and without: every way it asks, its retries and its errors."""

import json
import re
from pathlib import Path
from typing import Any

import anyio
import httpx2
import openai
import pydantic
import pytest
from openai import AsyncOpenAI, OpenAI

from tests import faults
from tests.acceptance.asking import MODEL, Proxied, assistant, received, result, served, system, user
from tests.acceptance.stage import Stage, Talk
from tests.scripted import Exchange, ScriptedUpstream, Step, calls, gated, says, scripted_upstream, status

pytestmark = pytest.mark.anyio

SESSIONS = pytest.mark.parametrize("to", ["s", None])
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


class City(pydantic.BaseModel):
    name: str
    people: int


def sdk(proxied: Proxied, to: str | None, **options: Any) -> AsyncOpenAI:
    named = {"X-Session-Id": to} if to is not None else {}
    given: dict[str, Any] = {"api_key": proxied.key or "any", "default_headers": named, "max_retries": 0}
    return AsyncOpenAI(base_url=proxied.url, **(given | options))


def history(to: str | None, *before: str) -> list[str]:
    """What stands before a request's own messages: with a session the history, else nothing."""
    return list(before) if to is not None else []


# --- asking ---


@SESSIONS
async def test_the_async_client_talks(echo: Talk, to: str | None) -> None:
    up, proxied = echo
    async with sdk(proxied, to) as client:
        for text in ("one", "two"):
            answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])
            assert answer.choices[0].message.content == f"echo: {text}"
            assert answer.usage is not None
    assert received(up.requests[-1]) == [*history(to, "user: one", "assistant: echo: one"), "user: two"]


@SESSIONS
async def test_the_sync_client_talks(echo: Talk, to: str | None) -> None:
    up, proxied = echo

    def ask() -> str:
        headers = {"X-Session-Id": to} if to is not None else {}
        with OpenAI(base_url=proxied.url, api_key=proxied.key, default_headers=headers, max_retries=0) as client:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "one"}])
            with client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "two"}], stream=True
            ) as stream:
                return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await anyio.to_thread.run_sync(ask) == "echo: two"
    assert received(up.requests[-1]) == [*history(to, "user: one", "assistant: echo: one"), "user: two"]


@SESSIONS
async def test_streams_are_iterated_chunk_by_chunk(echo: Talk, to: str | None) -> None:
    up, proxied = echo
    async with sdk(proxied, to) as client:
        for text in ("one", "two"):
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}], stream=True
            )
            said = [chunk.choices[0] async for chunk in stream]
            assert "".join(choice.delta.content or "" for choice in said) == f"echo: {text}"
            assert [choice.finish_reason for choice in said if choice.finish_reason] == ["stop"]
    assert received(up.requests[-1]) == [*history(to, "user: one", "assistant: echo: one"), "user: two"]


@SESSIONS
async def test_the_stream_helper_puts_the_answer_together(echo: Talk, to: str | None) -> None:
    _, proxied = echo
    async with (
        sdk(proxied, to) as client,
        client.chat.completions.stream(
            model=MODEL, messages=[{"role": "user", "content": "one"}], stream_options={"include_usage": True}
        ) as stream,
    ):
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == "echo: one"
    assert final.usage is not None
    assert final.usage.completion_tokens == 2


@SESSIONS
@pytest.mark.parametrize("stream", [True, False])
async def test_structured_output_is_parsed(stage: Stage, stream: bool, to: str | None) -> None:
    city = City(name="Bern", people=134_000)
    up, proxied = await stage(says(city.model_dump_json()))
    async with sdk(proxied, to) as client:
        asked: Any = {"model": MODEL, "messages": [user("capital?")], "response_format": City}
        if stream:
            async with client.chat.completions.stream(**asked) as events:
                final = await events.get_final_completion()
        else:
            final = await client.chat.completions.parse(**asked)
    assert final.choices[0].message.parsed == city
    assert up.requests[0].json["response_format"]["json_schema"]["name"] == "City"


@pytest.mark.parametrize("resend", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_tools_make_their_round_trip_in_a_session(stage: Stage, stream: bool, resend: bool) -> None:
    up, proxied = await stage(calls("clock", {"zone": "utc"}), says("noon"))
    async with sdk(proxied, "s") as client:
        said: list[Any] = [system("be brief"), user("time?")]
        asked = await finished(client, said, stream)
        assert asked.tool_calls is not None
        made = asked.tool_calls[0]
        assert json.loads(made.function.arguments) == {"zone": "utc"}
        answer = result("12:00", made.id)
        said = [*said, asked.to_dict(), answer] if resend else [answer]
        assert (await finished(client, said, stream)).content == "noon"
    sent = ["user: time?", 'assistant: clock({"zone": "utc"})', "tool call_1: 12:00"]
    assert received(up.requests[-1]) == ["system: be brief", *sent]
    assert up.requests[-1].json["tools"] == [CLOCK]
    assert proxied.stored("s") == [*sent, "assistant: noon"]


@pytest.mark.parametrize("stream", [True, False])
async def test_tools_make_their_round_trip_without_a_session(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(calls("clock", {}), says("noon"))
    async with sdk(proxied, None) as client:
        asked = await finished(client, [user("time?")], stream)
        said = [user("time?"), asked.to_dict(), result("12:00")]
        assert (await finished(client, said, stream)).content == "noon"
    assert received(up.requests[-1]) == ["user: time?", "assistant: clock({})", "tool call_1: 12:00"]


async def finished(client: AsyncOpenAI, messages: list[Any], stream: bool) -> Any:
    """The answer's message, put together by the SDK."""
    asked: Any = {"model": MODEL, "messages": messages, "tools": [CLOCK]}
    if not stream:
        return (await client.chat.completions.create(**asked)).choices[0].message
    async with client.chat.completions.stream(**asked) as events:
        return (await events.get_final_completion()).choices[0].message


async def test_a_stream_left_halfway_stops_the_model_and_the_session_goes_on(stage: Stage) -> None:
    up, proxied = await stage(gated("one two three"), says("four"))
    async with sdk(proxied, "s") as client:
        stream = await started(up, client)
        async for chunk in stream:
            if chunk.choices[0].delta.content == " two":
                break
            up.gate.release()
        await stream.close()
        with anyio.fail_after(5):
            await up.requests[0].left.wait()
        answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "go on"}])
        assert answer.choices[0].message.content == "four"
    assert received(up.requests[-1]) == ["user: count", "assistant: one two", "user: go on"]
    assert proxied.turns("s") == ["incomplete", "complete"]


async def started(up: ScriptedUpstream, client: AsyncOpenAI) -> Any:
    """A stream whose first chunk is on its way."""
    up.gate.release()
    return await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "count"}], stream=True
    )


# --- retries of the SDK's own ---


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault",
    [status(500, json={}), faults.reset_before_headers(), status(429, json={}, headers={"retry-after-ms": "1"})],
    ids=["500", "reset", "429"],
)
async def test_the_sdks_retry_of_a_failed_turn_stores_it_once(stage: Stage, fault: Step, stream: bool) -> None:
    up, proxied = await stage(fault, says("fine"))
    async with sdk(proxied, "s", max_retries=2) as client:
        assert (await finished(client, [user("hi")], stream)).content == "fine"
    assert len(up.requests) == 2
    assert proxied.stored("s") == ["user: hi", "assistant: fine"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_retry_after_the_clients_timeout_stores_the_turn_once(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(faults.silence(), says("fine"))
    async with sdk(proxied, "s", max_retries=1, timeout=0.5) as client:
        assert (await finished(client, [user("hi")], stream)).content == "fine"
    assert up.requests[0].left.is_set()
    assert proxied.stored("s") == ["user: hi", "assistant: fine"]


async def test_a_retry_gets_the_answer_of_the_turn_that_went_on_without_its_client(stage: Stage) -> None:
    finish = {"on_disconnect": "finish"}
    up, proxied = await stage(held("fine"), sessions=finish)
    sends = []

    async def on_send(request: httpx2.Request) -> None:
        sends.append(request.headers["x-stainless-retry-count"])
        if len(sends) == 2:
            up.gate.release()

    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [on_send]})
    async with sdk(proxied, "s", max_retries=1, timeout=0.5, http_client=http) as client:
        assert (await finished(client, [user("hi")], False)).content == "fine"
    assert (sends, len(up.requests)) == (["0", "1"], 1)
    assert proxied.stored("s") == ["user: hi", "assistant: fine"]


def held(text: str) -> Step:
    """A whole answer that waits for `up.gate.release()`."""

    async def step(exchange: Exchange) -> None:
        await exchange.up.gate.acquire()
        await says(text)(exchange)

    return step


async def test_equal_questions_on_purpose_are_two_turns(echo: Talk) -> None:
    _, proxied = echo
    async with sdk(proxied, "s") as client:
        for _ in range(2):
            await finished(client, [user("again")], stream=True)
    assert proxied.stored("s") == ["user: again", "assistant: echo: again"] * 2


# --- errors ---


HI: Any = {"model": MODEL, "messages": [user("hi")]}


def refused(code: int) -> Step:
    error = {"message": f"no {code}", "type": "t", "param": "p", "code": "c"}
    return status(code, json={"error": error}, headers={"retry-after": "7"})


@SESSIONS
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_a_model_servers_error_is_the_sdks_exception(
    stage: Stage, code: int, kind: type[openai.APIStatusError], to: str | None
) -> None:
    _, proxied = await stage(refused(code))
    async with sdk(proxied, to) as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**HI, extra_headers={"X-Request-Id": "mine"})
        error = caught.value
        assert (error.code, error.param, error.type, error.request_id) == ("c", "p", "t", "mine")
        assert (error.response.status_code, error.response.headers["retry-after"]) == (code, "7")


async def test_a_wrong_key_is_an_authentication_error(tmp_path: Path) -> None:
    async with scripted_upstream(says("no")) as up, served(up, tmp_path, auth={"mode": "keys"}) as proxied:
        async with sdk(proxied, "s", api_key="sp-wrong") as client:
            with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided") as caught:
                await client.chat.completions.create(**HI)
        assert caught.value.code == "invalid_api_key"
        assert caught.value.request_id
        assert up.requests == []


async def test_an_unknown_model_is_a_not_found_error(stage: Stage) -> None:
    only = {"models": ["other-*"]}
    _, proxied = await stage(says("no"), upstream=only)
    async with sdk(proxied, "s") as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(**HI)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_busy_session_is_a_conflict_that_the_sdk_tries_again(stage: Stage) -> None:
    waits = {"wait_timeout_s": 0.1}
    up, proxied = await stage(gated("one"), sessions=waits)
    async with sdk(proxied, "s") as client, sdk(proxied, "s", max_retries=5) as patient:
        running = await started(up, client)
        with pytest.raises(openai.ConflictError) as caught:
            await client.chat.completions.create(**HI)
        assert caught.value.code == "session_busy"
        async with anyio.create_task_group() as group:
            group.start_soon(released, up, running)
            stream = await patient.chat.completions.create(**HI, stream=True)
            said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(said) == "one"
    assert proxied.stored("s") == ["user: count", "assistant: one", "user: hi", "assistant: one"]


async def released(up: ScriptedUpstream, running: Any) -> None:
    """Lets a running stream and one more come to their ends."""
    for _ in range(3):
        up.gate.release()
    assert [chunk async for chunk in running]


async def test_an_error_in_mid_stream_is_an_exception(stage: Stage) -> None:
    _, proxied = await stage(faults.cut_mid_stream(3), says("fine"))
    async with sdk(proxied, "s") as client:
        stream = await client.chat.completions.create(**HI, stream=True)
        said = []
        with pytest.raises(openai.APIError, match="before its answer was complete"):
            async for chunk in stream:
                said.append(chunk.choices[0].delta.content)
        assert said == ["", "one", " two"]
        assert (await finished(client, [user("hi")], False)).content == "fine"
    assert proxied.stored("s") == ["user: hi", "assistant: fine"]


# --- beside the answer ---


async def test_the_raw_response_tells_about_the_turn(echo: Talk) -> None:
    _, proxied = echo
    async with sdk(proxied, "s") as client:
        raw = await client.chat.completions.with_raw_response.create(**HI, extra_headers={"X-Request-Id": "mine"})
    assert json.loads(raw.text)["choices"][0]["message"]["content"] == "echo: hi"
    told = {name: raw.headers[name] for name in ("x-session-id", "x-session-turn", "x-session-branch", "x-request-id")}
    assert told == {"x-session-id": "s", "x-session-turn": "1", "x-session-branch": "1", "x-request-id": "mine"}
    counts = r"total=8;estimate=\d+;system=0;history=0;recall=0;tools=0;new=8;budget=\w+"
    assert re.fullmatch(counts, raw.headers["x-context-tokens"])
    assert raw.headers["x-context-dropped"] == "0"
    assert raw.headers["x-context-recalled"] == "0"
    assert raw.headers["x-context-strategy"]
    assert float(raw.headers["x-proxy-overhead-ms"]) >= 0
    assert len(raw.headers["x-session-uuid"]) == 36


@pytest.mark.parametrize("stream", [True, False])
@SESSIONS
async def test_the_upstreams_request_id_is_told_beside_ours(stage: Stage, stream: bool, to: str | None) -> None:
    answer = {"id": "x", "choices": [{"index": 0, "message": assistant("hi"), "finish_reason": "stop"}]}
    step = status(200, json=answer, headers={"x-request-id": "theirs", "x-ratelimit-limit-requests": "9"})
    _, proxied = await stage(step)
    reply = await proxied.ask("hi", to=to, stream=stream, headers={"X-Request-Id": "mine"})
    assert (reply.headers["x-request-id"], reply.headers["x-upstream-request-id"]) == ("mine", "theirs")
    assert reply.headers["x-ratelimit-limit-requests"] == "9"


async def test_models_are_listed(tmp_path: Path) -> None:
    models = [{"id": "big", "object": "model", "created": 1, "owned_by": "x"}]
    aliases = {"default": {"model": "big"}, "nick": {"model": "big"}}
    async with (
        scripted_upstream(says("no"), models=models) as up,
        served(up, tmp_path, models=aliases) as proxied,
        sdk(proxied, None) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["big", "nick"]


async def test_embeddings_pass_through(stage: Stage) -> None:
    vectors = {"object": "list", "model": "e", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]}
    up, proxied = await stage(status(200, json=vectors))
    async with sdk(proxied, "s") as client:
        made = await client.embeddings.create(model="e", input="text", encoding_format="float")
    assert made.data[0].embedding == [0.5, -1.0]
    assert (up.requests[0].method, up.requests[0].path) == ("POST", "/v1/embeddings")
    assert up.requests[0].json == {"input": "text", "model": "e", "encoding_format": "float"}


async def test_an_alias_goes_upstream_under_its_real_name(echo: Talk, tmp_path: Path) -> None:
    up, _ = echo
    async with served(up, tmp_path / "aliased", models={"nick": {"model": "big"}}) as proxied:
        for to in ("s", None):
            async with sdk(proxied, to) as client:
                await client.chat.completions.create(model="nick", messages=[{"role": "user", "content": "hi"}])
            assert up.requests[-1].json["model"] == "big"
