"""Failures again, where the configuration has a say: retries, limits, whose key it was. Redirects never."""

from pathlib import Path

import anyio
import pytest

from tests import faults
from tests.acceptance.asking import received, served
from tests.acceptance.stage import Stage
from tests.scripted import gated, says, scripted_upstream, status

pytestmark = pytest.mark.anyio

NO_KEY = {"message": "Incorrect API key provided", "type": "invalid_request_error", "param": None, "code": "bad_key"}
BUSY = {"message": "Slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit"}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_redirect_is_neither_followed_nor_passed_on(tmp_path: Path, stream: bool, named: bool) -> None:
    async with (
        scripted_upstream(says("trap")) as trap,
        scripted_upstream([faults.redirect(trap.url), says("ok")]) as up,
        served(up, tmp_path) as proxied,
    ):
        reply = await proxied.ask("hi", to="s" if named else None, stream=stream)
        assert (reply.status, reply.error["type"]) == (502, "upstream_error")
        assert "location" not in reply.headers
        assert trap.connections == 0
        assert proxied.stored("s") == []
        assert (await proxied.ask("hi", to="s" if named else None, stream=stream)).text == "ok"


@pytest.mark.parametrize("to", ["s", None])
@pytest.mark.parametrize("stream", [True, False])
async def test_nobody_listening_is_a_502(tmp_path: Path, stream: bool, to: str | None) -> None:
    async with served(faults.nobody_listens(), tmp_path) as proxied:
        reply = await proxied.ask("hi", to=to, stream=stream)
        assert (reply.status, reply.error["code"]) == (502, "upstream_unreachable")
        assert proxied.stored("s") == []


@pytest.mark.parametrize("to", ["s", None])
@pytest.mark.parametrize("code", [401, 403])
async def test_a_clients_own_key_that_the_upstream_refuses_stays_refused(
    tmp_path: Path, code: int, to: str | None
) -> None:
    script = [status(code, json={"error": NO_KEY}), says("ok")]
    async with scripted_upstream(script) as up, served(up, tmp_path, auth={"mode": "passthrough"}) as proxied:
        key = {"Authorization": "Bearer own"}
        reply = await proxied.ask("hi", to=to, headers=key)
        assert (reply.status, reply.error) == (code, NO_KEY)
        assert (await proxied.ask("hi", to=to, headers=key)).text == "ok"


# --- retries ---


@pytest.mark.parametrize("to", ["s", None])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_fails_before_the_first_byte_is_tried_again(stage: Stage, stream: bool, to: str | None) -> None:
    script = [status(500, json={"error": BUSY}), faults.reset_before_headers(), says("fine")]
    up, proxied = await stage(*script, upstream={"retries": 2})
    reply = await proxied.ask("hi", to=to, stream=stream)
    assert (reply.status, reply.text) == (200, "fine")
    assert len(up.requests) == 3
    assert len({request.body for request in up.requests}) == 1
    assert proxied.stored("s") == (["user: hi", "assistant: fine"] if to else [])


async def test_tries_come_to_an_end(stage: Stage) -> None:
    script = [status(503, json={"error": BUSY}), status(503, json={"error": BUSY}), says("too late")]
    up, proxied = await stage(*script, upstream={"retries": 1})
    reply = await proxied.ask("hi", to="s")
    assert (reply.status, reply.error, len(up.requests)) == (503, BUSY, 2)
    assert proxied.stored("s") == []


@pytest.mark.parametrize("code", [400, 404, 408, 409, 422, 429])
async def test_what_the_client_has_to_mend_or_await_is_not_tried_again(stage: Stage, code: int) -> None:
    refused = status(code, json={"error": BUSY}, headers={"retry-after": "0", "x-should-retry": "true"})
    up, proxied = await stage(refused, says("no"), upstream={"retries": 2})
    reply = await proxied.ask("hi", to="s")
    assert (reply.status, reply.error) == (code, BUSY)
    assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("0", "true")
    assert len(up.requests) == 1


async def test_a_long_retry_after_is_left_to_the_client(stage: Stage) -> None:
    refused = status(503, json={"error": BUSY}, headers={"retry-after": "60"})
    up, proxied = await stage(refused, says("no"), upstream={"retries": 2})
    reply = await proxied.ask("hi", to="s")
    assert (reply.status, reply.headers["retry-after"], len(up.requests)) == (503, "60", 1)


async def test_a_stream_that_broke_is_not_tried_again(stage: Stage) -> None:
    script = [faults.cut_mid_stream(3), says("no")]
    up, proxied = await stage(*script, upstream={"retries": 2})
    reply = await proxied.ask("hi", to="s", stream=True)
    assert (reply.text, reply.done, len(up.requests)) == ("one two", False, 1)


# --- limits ---


@pytest.mark.parametrize("to", ["s", None])
async def test_an_endless_answer_ends_with_the_total_time(stage: Stage, to: str | None) -> None:
    limits = {"total_timeout_s": 1}
    up, proxied = await stage(faults.endless(), says("ok"), upstream=limits, limits={"answer_mb": 10_000})
    reply = await proxied.ask("go", to=to, stream=True)
    assert reply.text.startswith("word0 word1 ")
    assert (reply.error["code"], reply.done) == ("upstream_timeout", False)
    await up.wait_idle()
    assert up.requests[0].left.is_set()
    assert proxied.stored("s") == []
    assert (await proxied.ask("go", to=to)).text == "ok"


async def test_an_answer_over_the_limit_is_not_read_on(stage: Stage) -> None:
    long = says("x" * (2 << 20))
    up, proxied = await stage(faults.endless(), long, says("ok"), limits={"answer_mb": 1})
    stream = await proxied.ask("go", to="s", stream=True)
    assert (stream.status, stream.done, stream.error["code"]) == (200, False, "answer_too_large")
    assert len(stream.body) <= 2 << 20
    whole = await proxied.ask("go", to="s")
    assert (whole.status, whole.error["code"]) == (502, "answer_too_large")
    await up.wait_idle()
    assert proxied.stored("s") == []
    assert (await proxied.ask("go", to="s")).text == "ok"


async def test_a_pool_that_is_used_up_is_said_so_and_works_again(stage: Stage) -> None:
    limits = {"max_connections": 1, "connect_timeout_s": 0.2}
    up, proxied = await stage(gated("held"), says("ok"), upstream=limits)
    replies = []

    async def hold() -> None:
        replies.append(await proxied.ask("hold", to="held", stream=True))

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await up.wait_requests(1)
        reply = await proxied.ask("hi", to="s")
        assert (reply.status, reply.error["code"]) == (502, "upstream_busy")
        up.gate.release()
        up.gate.release()
    assert replies[0].text == "held"
    assert (await proxied.ask("hi", to="s")).text == "ok"


async def test_more_requests_than_the_limit_are_told_to_come_again(stage: Stage) -> None:
    limits = {"concurrent_requests": 1}
    up, proxied = await stage(gated("held"), limits=limits)

    async def hold() -> None:
        assert (await proxied.ask("hold", to="held", stream=True)).text == "held"

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await up.wait_requests(1)
        reply = await proxied.ask("hi", to="s")
        assert (reply.status, reply.error["type"]) in ((429, "rate_limit_error"), (503, "server_error"))
        assert reply.headers["retry-after"]
        up.gate.release()
        up.gate.release()


# --- what a broken turn leaves behind ---


async def test_a_session_with_history_is_as_before_after_a_failure(stage: Stage) -> None:
    script = [says("one"), faults.cut_mid_stream(3), status(500, json={"error": BUSY}), says("two")]
    up, proxied = await stage(*script)
    await proxied.ask("a", to="s")
    before = proxied.running.rows("SELECT * FROM branches")
    await proxied.ask("b", to="s", stream=True)
    await proxied.ask("b", to="s")
    assert proxied.running.rows("SELECT * FROM branches") == before
    await proxied.ask("b", to="s")
    assert received(up.requests[-1]) == ["user: a", "assistant: one", "user: b"]
    assert proxied.stored("s") == ["user: a", "assistant: one", "user: b", "assistant: two"]


@pytest.mark.parametrize("stream", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_store_that_cannot_commit_is_an_error_and_the_rest_goes_on(stage: Stage, stream: bool) -> None:
    """Another process that holds the write lock stands for a disk that is full."""
    up, proxied = await stage(says("ok"))
    await proxied.ask("the tenant is known", to=None)
    replies = []

    async def commit() -> None:
        replies.append(await proxied.ask("hi", to="s", stream=stream))

    with proxied.locked():
        async with anyio.create_task_group() as group:
            group.start_soon(commit)
            await up.wait_requests(2)
            await up.wait_idle()
            other = await proxied.ask("hi", to=None, headers={"Connection": "close"})
            assert (other.text, replies) == ("ok", [])
    if stream:
        assert (replies[0].text, replies[0].done) == ("ok", False)
    else:
        assert (replies[0].status, replies[0].headers["retry-after"]) == (503, "1")
    assert replies[0].error["code"] == "storage_unavailable"
    assert proxied.stored("s") == []
    await proxied.ask("hi", to="s", stream=stream)
    assert proxied.stored("s") == ["user: hi", "assistant: ok"]
