"""The main rows of the fidelity table as an application sees them: through the official openai package, unchanged."""

from typing import Any

import anyio
import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests import faults
from tests.acceptance.asking import MODEL, Proxied, received, user
from tests.acceptance.expecting import ANSWER, START, answer, gives, streams
from tests.acceptance.fidelity_faults import FULL, HTML, ODD, SAID
from tests.acceptance.stage import Stage
from tests.scripted import WAIT_S, Step, says

pytestmark = pytest.mark.anyio

PATIENT = {"first_byte_timeout_s": 60, "idle_timeout_s": 60, "total_timeout_s": 60}
HI: Any = {"model": MODEL, "messages": [user("hi")]}
ERROR = {"message": "Grüß", "type": "t_x", "param": "messages[0]", "code": "c_x", "extra": {"a": [1.0]}}

IN_MODES = [
    pytest.mark.parametrize("to", ["s", None], ids=["session", "stateless"]),
    pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"]),
]


def modes(test: Any) -> Any:
    """Streamed or not, in a session or not."""
    for mark in IN_MODES:
        test = mark(test)
    return test


def sdk(proxied: Proxied, to: str | None, **options: Any) -> AsyncOpenAI:
    named = {"X-Session-Id": to} if to is not None else {}
    given: dict[str, Any] = {"api_key": proxied.key, "default_headers": named, "max_retries": 0}
    return AsyncOpenAI(base_url=proxied.url, **(given | options))


async def asked(client: AsyncOpenAI, stream: bool, **more: Any) -> list[Any]:
    """The chunks of an answer; one that is not streamed is the only one."""
    made: Any = await client.chat.completions.create(**HI, stream=stream, **more)
    return [chunk async for chunk in made] if stream else [made]


@modes
async def test_unknown_fields_of_an_answer_are_there(stage: Stage, stream: bool, to: str | None) -> None:
    step = answer('"provider": "P"', '"stop_reason": null, "y": 1', '"reasoning_content": "r", "z": [1.0]')
    _, proxied = await stage(step)
    async with sdk(proxied, to) as client:
        chunks = await asked(client, stream)
    choices = [chunk.choices[0] for chunk in chunks]
    messages = [choice.delta if stream else choice.message for choice in choices]
    assert chunks[0].id == "chatcmpl-Z9"
    assert chunks[0].model_extra == {"provider": "P"}
    assert choices[0].model_extra == {"stop_reason": None, "y": 1}
    assert [said.model_extra for said in messages if said.model_extra] == [{"reasoning_content": "r", "z": [1.0]}]
    assert "".join(said.content or "" for said in messages) == "Grüß 🎈"


@modes
async def test_what_the_package_calls_extra_reaches_the_model(stage: Stage, stream: bool, to: str | None) -> None:
    up, proxied = await stage(ANSWER)
    async with sdk(proxied, to, organization="org-1", project="proj_1") as client:
        await asked(
            client,
            stream,
            extra_body={"top_k": 5, "chat_template_kwargs": {"thinking": False}},
            extra_headers={"traceparent": "00-1", "Idempotency-Key": "once"},
            extra_query={"api-version": "2026-01-01"},
        )
    sent = up.requests[0]
    assert (sent.json["top_k"], sent.json["chat_template_kwargs"]) == (5, {"thinking": False})
    names = ("openai-organization", "openai-project", "traceparent", "idempotency-key")
    assert [sent.header(name) for name in names] == ["org-1", "proj_1", "00-1", "once"]
    assert sent.path == "/v1/chat/completions?api-version=2026-01-01"
    assert not [name for name, _ in sent.headers if name.startswith(("x-stainless-", "x-session-"))]


@modes
async def test_limits_are_told_beside_the_answer(stage: Stage, stream: bool, to: str | None) -> None:
    _, proxied = await stage(answer(x_ratelimit_remaining_requests="59", openai_processing_ms="17", x_request_id="up"))
    async with sdk(proxied, to) as client:
        raw = await client.chat.completions.with_raw_response.create(**HI, stream=stream)
    names = ("x-ratelimit-remaining-requests", "openai-processing-ms", "x-upstream-request-id", "x-upstream")
    assert [raw.headers.get(name) for name in names] == ["59", "17", "up", "scripted"]


@modes
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
async def test_an_error_keeps_its_class_and_all_it_says(
    stage: Stage, code: int, kind: type[openai.APIStatusError], stream: bool, to: str | None
) -> None:
    up, proxied = await stage(gives(code, FULL, retry_after="7"))
    async with sdk(proxied, to) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await asked(client, stream)
    error = caught.value
    assert (type(error), error.status_code, error.body) == (kind, code, ERROR)
    assert (error.code, error.param, error.type) == ("c_x", "messages[0]", "t_x")
    assert (error.response.headers["retry-after"], len(up.requests)) == ("7", 1)


@modes
@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        (gives(429, FULL, retry_after_ms="1"), 2),
        (gives(429, FULL, retry_after="300"), 1),
        (gives(500, FULL, x_should_retry="false"), 1),
        (gives(400, FULL, x_should_retry="true", retry_after_ms="1"), 2),
    ],
    ids=["429 soon", "429 late", "500 never", "400 again"],
)
async def test_the_package_heeds_what_the_model_server_says_of_retries(
    stage: Stage, fault: Step, calls: int, stream: bool, to: str | None
) -> None:
    up, proxied = await stage(fault, ANSWER)
    async with sdk(proxied, to, max_retries=1) as client:
        if calls == 2:
            assert (await asked(client, stream))[0].id == "chatcmpl-Z9"
        else:
            with pytest.raises(openai.APIStatusError):
                await asked(client, stream)
    assert len(up.requests) == calls


@modes
async def test_a_page_of_html_is_an_error_with_the_four_keys(stage: Stage, stream: bool, to: str | None) -> None:
    _, proxied = await stage(gives(503, HTML, "text/html"))
    async with sdk(proxied, to) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await asked(client, stream)
    assert caught.value.body == {
        "message": "the upstream answered 503",
        "type": "upstream_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize("to", ["s", None])
@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": True}])
async def test_usage_comes_exactly_to_who_asked(stage: Stage, options: Any, to: str | None) -> None:
    _, proxied = await stage(ANSWER)
    async with sdk(proxied, to) as client:
        chunks = await asked(client, True, **({} if options is None else {"stream_options": options}))
    counted = [chunk.usage.total_tokens for chunk in chunks if chunk.usage is not None]
    assert counted == ([5] if options and options["include_usage"] else [])
    assert all(chunk.choices for chunk in chunks[:-1])


@pytest.mark.parametrize("to", ["s", None])
@pytest.mark.parametrize(
    ("step", "body"),
    [
        (streams(START + SAID), {"message": "overloaded", "type": "t_x", "param": None, "code": "c_x", "extra": 1.0}),
        (streams(START, cut=True), None),
        (faults.reset_mid_stream(2), None),
    ],
    ids=["said", "lost", "reset"],
)
async def test_a_stream_that_breaks_is_an_exception_after_its_text(
    stage: Stage, step: Step, body: Any, to: str | None
) -> None:
    _, proxied = await stage(step)
    async with sdk(proxied, to) as client:
        said = []
        with pytest.raises(openai.APIError) as caught:
            async for chunk in await client.chat.completions.create(**HI, stream=True):
                said.append(chunk.choices[0].delta.content)
    assert len(said) == 2
    error: Any = caught.value.body
    assert error == body or error["code"] == "upstream_broken"


async def test_json_for_a_stream_is_a_stream_in_a_session(stage: Stage) -> None:
    up, proxied = await stage(gives(200, ODD), says("ok"))
    async with sdk(proxied, "s") as client:
        chunks = await asked(client, True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Grüß 🎈"
        assert [extra for chunk in chunks if (extra := chunk.choices[0].model_extra)] == [{"y": 2}]
        assert chunks[0].model_extra == {"x": 1}
        await asked(client, True)
    assert received(up.requests[1])[:2] == ["user: hi", "assistant: Grüß 🎈"]


@pytest.mark.parametrize("to", ["s", None])
async def test_a_stream_that_is_closed_stops_the_model(stage: Stage, to: str | None) -> None:
    up, proxied = await stage(faults.stalls(), upstream=PATIENT)
    async with sdk(proxied, to) as client:
        stream = await client.chat.completions.create(**HI, stream=True)
        assert (await anext(aiter(stream))).choices[0].delta.role == "assistant"
        await stream.close()
        with anyio.fail_after(WAIT_S):
            await up.requests[0].left.wait()


@modes
async def test_a_client_that_times_out_stops_the_model(stage: Stage, stream: bool, to: str | None) -> None:
    up, proxied = await stage(faults.silence(), upstream=PATIENT)
    async with sdk(proxied, to, timeout=httpx2.Timeout(0.3)) as client:
        with pytest.raises(openai.APITimeoutError):
            await asked(client, stream)
    with anyio.fail_after(WAIT_S):
        await up.requests[0].left.wait()
