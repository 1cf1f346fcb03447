"""The julep SDK, unchanged: its exceptions, its retries, and the keys it brings."""

from pathlib import Path
from typing import Any

import anyio
import httpx
import julep
import pytest

from proxy.store import keys
from tests import faults
from tests.acceptance.asking import result, served, user
from tests.acceptance.julep_client import Play, Sdk, connected
from tests.acceptance.stage import Stage
from tests.scripted import Exchange, Step, calls, echoes, gated, says, scripted_upstream, status

pytestmark = pytest.mark.anyio

NOWHERE = "00000000-0000-4000-8000-000000000000"
HI: Any = {"messages": [user("hi")]}


def body_of(caught: pytest.ExceptionInfo[julep.APIStatusError]) -> Any:
    """The error's body, which always has the four keys of Julep's envelope."""
    body: Any = caught.value.body
    assert set(body["error"]) == {"message", "code", "type", "details"}
    return body


# --- errors ---


@pytest.mark.parametrize(
    ("method", "args", "given", "kind", "code"),
    [
        ("sessions.get", (NOWHERE,), {}, julep.NotFoundError, "session_not_found"),
        ("sessions.chat", (NOWHERE,), HI, julep.NotFoundError, "session_not_found"),
        ("sessions.chat", (NOWHERE,), {**HI, "stream": True}, julep.NotFoundError, "session_not_found"),
        ("sessions.history", (NOWHERE,), {}, julep.NotFoundError, "session_not_found"),
        ("sessions.update", (NOWHERE,), {"metadata": {}}, julep.NotFoundError, "session_not_found"),
        ("agents.get", (NOWHERE,), {}, julep.NotFoundError, "agent_not_found"),
        ("users.get", (NOWHERE,), {}, julep.NotFoundError, "user_not_found"),
        ("docs.get", (NOWHERE,), {}, julep.NotFoundError, "doc_not_found"),
        ("agents.create", (), {"name": "A", "model": "x" * 200}, julep.UnprocessableEntityError, "validation_error"),
        ("agents.create", (), {"name": ""}, julep.UnprocessableEntityError, "validation_error"),
        ("agents.create_or_update", ("a",), {"name": "A"}, julep.UnprocessableEntityError, "validation_error"),
        ("sessions.create", (), {"agent": "nobody"}, julep.UnprocessableEntityError, "validation_error"),
        ("sessions.create", (), {"agent": NOWHERE}, julep.BadRequestError, "invalid_participant"),
        ("sessions.create", (), {"context_overflow": "drop"}, julep.UnprocessableEntityError, "validation_error"),
        ("sessions.list", (), {"limit": 0}, julep.BadRequestError, "http_400"),
        ("sessions.list", (), {"offset": -1}, julep.BadRequestError, "http_400"),
    ],
)
async def test_a_wrong_request_is_the_sdk_s_exception(
    sdk: Sdk, method: str, args: tuple[str], given: dict[str, Any], kind: type[julep.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        await sdk(method, *args, **given)
    assert body_of(caught)["error"]["code"] == code
    assert caught.value.response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("given", "loc"),
    [
        ({"messages": []}, ["body", "messages"]),
        ({"messages": [{"role": "nobody", "content": "hi"}]}, ["body", "messages", 0, "role"]),
        ({"messages": [{"content": "hi"}]}, ["body", "messages", 0]),
        ({**HI, "temperature": 6}, ["body", "temperature"]),
        ({**HI, "max_tokens": 0}, ["body", "max_tokens"]),
        ({**HI, "stop": ["1", "2", "3", "4", "5"]}, ["body", "stop"]),
        ({**HI, "save": "true"}, ["body", "save"]),
        ({**HI, "agent": "nobody"}, ["body", "agent"]),
    ],
)
async def test_a_field_that_is_wrong_is_named_as_fastapi_does(sdk: Sdk, given: dict[str, Any], loc: list[Any]) -> None:
    session = await sdk.session()
    with pytest.raises(julep.UnprocessableEntityError) as caught:
        await sdk("sessions.chat", session, **{"messages": [], "extra_body": given})
    body = body_of(caught)
    (detail,) = body["detail"]
    assert body["error"]["details"] == body["detail"]
    assert (set(detail), detail["loc"]) == ({"loc", "msg", "type"}, loc)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, julep.BadRequestError),
        (404, julep.NotFoundError),
        (422, julep.UnprocessableEntityError),
        (429, julep.RateLimitError),
        (500, julep.InternalServerError),
    ],
)
async def test_a_model_server_s_error_is_the_sdk_s_exception(
    play: Play, code: int, kind: type[julep.APIStatusError], stream: bool
) -> None:
    error = {"message": f"no {code}", "type": "t", "param": "p", "code": "c"}
    sdk = await play(status(code, json={"error": error}, headers={"retry-after": "7"}))
    session = await sdk.session()
    with pytest.raises(kind, match=f"no {code}") as caught:
        await sdk("sessions.chat", session, stream=stream, **HI)
    assert {key: body_of(caught)["error"][key] for key in ("code", "type")} == {"code": "c", "type": "t"}
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (code, "7")
    assert await sdk.told(session) == []


async def test_a_model_server_that_is_not_there_is_a_server_error(tmp_path: Path) -> None:
    async with (
        scripted_upstream(says("not asked")) as up,
        served(faults.nobody_listens(), tmp_path) as proxied,
        connected(up, proxied) as sdk,
    ):
        session = await sdk.session()
        with pytest.raises(julep.InternalServerError) as caught:
            await sdk.say(session, "hi")
    assert (caught.value.status_code, body_of(caught)["error"]["code"]) == (502, "upstream_unreachable")


async def test_a_message_over_the_budget_is_a_bad_request(sdk: Sdk) -> None:
    session = await sdk.session(token_budget=20)
    with pytest.raises(julep.BadRequestError) as caught:
        await sdk.say(session, "long " * 50)
    assert body_of(caught)["error"]["code"] == "context_length_exceeded"


async def test_a_result_of_a_call_that_nobody_made_is_a_bad_request(sdk: Sdk) -> None:
    with pytest.raises(julep.BadRequestError, match="tool_call_id"):
        await sdk.say(await sdk.session(), result("12:00", "call_9"))


# --- retries ---


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault",
    [status(500, json={}), faults.reset_before_headers(), status(429, json={}, headers={"retry-after-ms": "1"})],
    ids=["500", "reset", "429"],
)
async def test_the_sdk_s_retry_of_a_failed_turn_stores_it_once(stage: Stage, fault: Step, stream: bool) -> None:
    up, proxied = await stage(fault, says("fine"))
    async with connected(up, proxied, max_retries=2) as sdk:
        session = await sdk.session()
        await sdk.every("sessions.chat", session, stream=True, **HI) if stream else await sdk.say(session, "hi")
        assert len([request for request in up.requests if request.method == "POST"]) == 2
        assert await sdk.told(session) == ["user: hi", "assistant: fine"]


@pytest.mark.parametrize("on_disconnect", ["partial", "finish"])
async def test_a_retry_after_the_client_s_timeout_stores_the_turn_once(stage: Stage, on_disconnect: str) -> None:
    """With `finish` the retry gets the answer of the turn that went on without its client, with the same ids."""
    up, proxied = await stage(held("fine"), says("fine"), sessions={"on_disconnect": on_disconnect})
    counts: list[str] = []

    async def on_send(request: httpx.Request) -> None:
        if request.url.path.endswith("/chat"):
            counts.append(request.headers["x-stainless-retry-count"])
            if len(counts) == 2:
                up.gate.release()

    http = julep.DefaultAsyncHttpxClient(event_hooks={"request": [on_send]})
    async with connected(up, proxied, max_retries=1, http_client=http) as sdk:
        session = await sdk.session()
        answer = await sdk.say(session, "hi", timeout=0.5)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("fine", "stop")
        assert counts == ["0", "1"]
        asked = [request for request in up.requests if request.method == "POST"]
        assert len(asked) == (1 if on_disconnect == "finish" else 2)
        assert await sdk.told(session) == ["user: hi", "assistant: fine"]


def held(text: str) -> Step:
    """A whole answer that waits for `up.gate.release()`."""

    async def step(exchange: Exchange) -> None:
        await exchange.up.gate.acquire()
        await says(text)(exchange)

    return step


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[echoes()], [calls("clock", {"zone": "utc"})]], ids=["text", "tools"])
async def test_a_retry_of_a_stored_turn_gets_the_stored_answer(play: Play, script: list[Step], stream: bool) -> None:
    sdk = await play(*script)
    session = await sdk.session()
    first, second = [
        gist(await (sdk.hear if stream else sdk.say)(session, "hi", extra_headers={"x-stainless-retry-count": count}))
        for count in ("0", "1")
    ]
    assert first == second  # the gist of it: documents and the name of the agent are not stored with an answer
    assert len(await sdk.told(session)) == 2
    assert len([request for request in sdk.up.requests if request.method == "POST"]) == 1


def gist(answer: Any) -> tuple[set[str], str, str, set[str]]:
    """The ids of an answer or of its chunks, its text, the arguments of its calls, and why it ended."""
    parts = answer if isinstance(answer, list) else [answer]
    choices = [part.choices[0] for part in parts]
    said = [getattr(choice, "delta", None) or choice.message for choice in choices]
    made = [call.function.arguments for one in said for call in one.tool_calls or ()]
    reasons = {choice.finish_reason for choice in choices if choice.finish_reason}
    return {part.id for part in parts}, "".join(one.content or "" for one in said), "".join(made), reasons


async def test_an_idempotency_key_answers_twice_and_stores_once(sdk: Sdk) -> None:
    session = await sdk.session()
    headers = {"Idempotency-Key": "k"}
    answers = [await sdk.say(session, "hi", extra_headers=headers) for _ in range(2)]
    assert answers[0].id == answers[1].id
    assert await sdk.told(session) == ["user: hi", "assistant: echo: hi"]
    with pytest.raises(julep.UnprocessableEntityError):
        await sdk.say(session, "other", extra_headers=headers)


async def test_a_busy_session_is_a_conflict(stage: Stage) -> None:
    up, proxied = await stage(gated("one"), sessions={"wait_timeout_s": 0.1})
    async with connected(up, proxied) as sdk:
        session = await sdk.session()
        up.gate.release()
        running = await sdk("sessions.chat", session, stream=True, **HI)
        with pytest.raises(julep.ConflictError) as caught:
            await sdk.say(session, "me too")
        assert body_of(caught)["error"]["code"] == "session_busy"
        assert caught.value.response.headers["retry-after"]
        up.gate.release()
        assert [chunk async for chunk in running]
        assert await sdk.told(session) == ["user: hi", "assistant: one"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_session_deleted_while_it_answers_stores_nothing(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(gated("one") if stream else held("one"))
    async with connected(up, proxied) as sdk:
        session = await sdk.session()
        kinds = (julep.ConflictError, httpx.RemoteProtocolError, httpx.ReadError)

        async def ask() -> None:
            with pytest.raises(kinds):
                await (sdk.hear(session, "hi") if stream else sdk.say(session, "hi"))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await up.wait_requests(2)  # the models, and the turn
            await sdk("sessions.delete", session)
            for _ in range(2):
                up.gate.release()
        with pytest.raises(julep.NotFoundError):
            await sdk("sessions.get", session)
        assert proxied.sessions() == []


# --- keys ---


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_key_of_the_proxy_s_opens_its_own_tenant_and_a_wrong_one_none(tmp_path: Path, kind: str) -> None:
    settings: Any = {"auth": {"mode": "keys"}, "upstream": {"api_key": "sk-ours"}}
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, **settings) as proxied:
        for tenant in ("ann", "bob"):
            await keys.create(proxied.running.edge.svc.db, tenant, "user", f"sp-{tenant}".encode(), 0)
        async with (
            connected(up, proxied, kind, api_key="sp-ann") as ann,
            connected(up, proxied, kind, api_key="sp-bob") as bob,
            connected(up, proxied, kind, api_key="sp-wrong") as wrong,
        ):
            session = await ann.session()
            await ann.say(session, "hi")
            assert up.requests[-1].header("authorization") == "Bearer sk-ours"
            with pytest.raises(julep.NotFoundError):
                await bob("sessions.get", session)
            for method, args, given in (
                ("agents.list", (), {}),
                ("sessions.get", (session,), {}),
                ("sessions.chat", (session,), HI),
                ("agents.create", (), {"name": "Eve"}),
            ):
                with pytest.raises(julep.PermissionDeniedError, match="Could not validate API KEY") as caught:
                    await wrong(method, *args, **given)
                assert body_of(caught)["error"]["code"] == "invalid_api_key"
        assert len(up.requests) == 1


async def test_a_key_of_the_request_s_own_goes_upstream_in_place_of_ours(tmp_path: Path) -> None:
    async with (
        scripted_upstream(echoes()) as up,
        served(up, tmp_path, upstream={"api_key": "sk-ours"}) as proxied,
        connected(up, proxied) as sdk,
    ):
        session = await sdk.session()
        for stream in (False, True):
            for own, sent in (({}, "Bearer sk-ours"), ({"x_custom_api_key": "sk-mine"}, "Bearer sk-mine")):
                await (sdk.hear(session, "hi", **own) if stream else sdk.say(session, "hi", **own))
                assert up.requests[-1].header("authorization") == sent
                assert up.requests[-1].header("x-custom-api-key") is None
        assert len(await sdk.told(session)) == 8


async def test_a_second_key_is_refused_where_the_client_s_own_goes_upstream(sdk: Sdk) -> None:
    session = await sdk.session()
    await sdk.say(session, "hi")
    assert sdk.up.requests[-1].header("authorization") == f"Bearer {sdk.proxied.key}"
    with pytest.raises(julep.BadRequestError, match="X-Custom-Api-Key"):
        await sdk.say(session, "hi", x_custom_api_key="sk-mine")
    assert len(await sdk.told(session)) == 2


@pytest.mark.parametrize("code", [401, 403])
async def test_a_key_that_the_upstream_refuses_leaves_nothing_behind(tmp_path: Path, code: int) -> None:
    refusal = status(code, json={"error": {"message": "no such key", "type": "t", "param": None, "code": "c"}})
    async with scripted_upstream(refusal) as up, served(up, tmp_path, auth={"mode": "passthrough"}) as proxied:
        up.lists = refusal
        async with connected(up, proxied) as sdk:
            with pytest.raises(julep.PermissionDeniedError, match="Could not validate API KEY"):
                await sdk.agent()
        assert proxied.running.rows("SELECT count(*) FROM members") == [(0,)]
