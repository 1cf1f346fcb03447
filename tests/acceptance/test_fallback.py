"""Several upstreams before one proxy: who serves, what goes up there, and what the client is told."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.asking import Proxied, connections
from tests.scripted import Exchange, ScriptedUpstream, Step, delta, says, scripted_upstream, status
from tests.serving import proxy

pytestmark = pytest.mark.anyio

SETTINGS = {"first_byte_timeout_s": 1, "idle_timeout_s": 1, "total_timeout_s": 10, "connect_timeout_s": 1, "retries": 0,
            "context_tokens": 100_000}  # fmt: skip


@dataclass
class Two:
    """Two model servers and the proxy before them."""

    first: ScriptedUpstream
    second: ScriptedUpstream
    proxied: Proxied


@asynccontextmanager
async def two(folder: Path, first: Step, second: Step, **sections: Any) -> AsyncGenerator[Two]:
    async with AsyncExitStack() as stack:
        ups = [await stack.enter_async_context(scripted_upstream(step)) for step in (first, second)]
        given = [
            {"name": name, "base_url": up.url, "api_key": f"key-{name}", **SETTINGS, **sections.pop(name, {})}
            for name, up in zip(("one", "two"), ups, strict=True)
        ]
        running = await stack.enter_async_context(proxy("", folder, upstreams=given, **sections))
        http = await stack.enter_async_context(connections())
        yield Two(ups[0], ups[1], Proxied(running, http))


async def hangs_up(exchange: Exchange) -> None:
    exchange.reset()


async def silent(exchange: Exchange) -> None:
    await exchange.peer_leaves()


async def dies_after_its_head(exchange: Exchange) -> None:
    """200 and the headers of an answer, then nothing."""
    if exchange.request.stream:
        await exchange.start_stream()
        await exchange.chunk(b": thinking\n\n")
    else:
        await exchange.head(200, {"content-type": "application/json", "content-length": "500"})
        await exchange.write(b'{"id": "chatcmpl-1", ')
    exchange.reset()


async def begins_with_an_error(exchange: Exchange) -> None:
    await exchange.start_stream()
    await exchange.event({"error": {"message": "overloaded", "code": 503}})
    await exchange.end()


async def breaks_in_mid_stream(exchange: Exchange) -> None:
    await exchange.start_stream()
    await exchange.event(delta(exchange.request, {"content": "half "}))
    exchange.reset()


FAILURES: dict[str, Step] = {
    "hangs up": hangs_up,
    "silent": silent,
    "dies after its head": dies_after_its_head,
    "429": status(429, json={"error": {"message": "slow down"}}, headers={"retry-after": "30"}),
    "500": status(500, json={"error": {"message": "oops"}}),
    "503 as HTML": status(503, html="<html>"),
    "key refused": status(401, json={"error": {"message": "bad key"}}),
    "redirect": status(302, headers={"location": "http://127.0.0.1:9/"}),
    "not a completion": status(200, json={"hello": "there"}),
}
HIDDEN = {"not a completion"}
"""Answers that a request without a session gets as they are."""


@pytest.mark.parametrize("session", ["s", None])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
async def test_the_second_upstream_serves_what_the_first_fails(
    tmp_path: Path, failure: str, stream: bool, session: str | None
) -> None:
    if session is None and failure in HIDDEN:
        pytest.skip("a request without a session gets an upstream's answer as it is")
    async with two(tmp_path, FAILURES[failure], says("from two")) as stage:
        reply = await stage.proxied.ask("hello", to=session, stream=stream)
        assert (reply.status, reply.text) == (200, "from two")
        assert reply.headers["x-upstream"] == "two"
        assert (len(stage.first.requests), len(stage.second.requests)) == (1, 1)
        assert stage.first.requests[0].header("authorization") == "Bearer key-one"
        assert stage.second.requests[0].header("authorization") == "Bearer key-two"
        if session is not None:
            assert stage.proxied.stored("s") == ["user: hello", "assistant: from two"]


@pytest.mark.parametrize("session", ["s", None])
async def test_a_stream_that_begins_with_an_error_goes_on_elsewhere(tmp_path: Path, session: str | None) -> None:
    async with two(tmp_path, begins_with_an_error, says("from two")) as stage:
        reply = await stage.proxied.ask("hello", to=session, stream=True)
        assert (reply.status, reply.text, reply.done) == (200, "from two", True)


@pytest.mark.parametrize("session", ["s", None])
async def test_what_the_client_has_seen_is_never_said_again_by_another(tmp_path: Path, session: str | None) -> None:
    async with two(tmp_path, breaks_in_mid_stream, says("from two")) as stage:
        reply = await stage.proxied.ask("hello", to=session, stream=True)
        assert reply.headers["x-upstream"] == "one"
        assert b"half " in reply.body
        assert "error" in reply.chunks[-1]
        assert not reply.done
        assert stage.second.requests == []


@pytest.mark.parametrize("session", ["s", None])
@pytest.mark.parametrize("code", [400, 404, 422])
async def test_what_is_the_clients_fault_comes_from_the_first(tmp_path: Path, code: int, session: str | None) -> None:
    refusal = status(code, json={"error": {"message": "no", "type": "t", "param": "p", "code": "c"}})
    async with two(tmp_path, refusal, says("from two")) as stage:
        reply = await stage.proxied.ask("hello", to=session)
        assert (reply.status, reply.headers["x-upstream"], reply.error["code"]) == (code, "one", "c")
        assert stage.second.requests == []


@pytest.mark.parametrize("session", ["s", None])
async def test_the_client_gets_an_upstreams_own_words_when_nobody_serves_it(
    tmp_path: Path, session: str | None
) -> None:
    limited = status(429, json={"error": {"message": "slow down", "code": "rate"}}, headers={"retry-after": "30"})
    async with two(tmp_path, limited, hangs_up) as stage:
        reply = await stage.proxied.ask("hello", to=session)
        assert (reply.status, reply.headers["retry-after"], reply.error["code"]) == (429, "30", "rate")
        assert reply.headers["x-upstream"] == "one"


@pytest.mark.parametrize("session", ["s", None])
async def test_a_retry_after_is_respected_while_another_serves(tmp_path: Path, session: str | None) -> None:
    limited = status(429, json={"error": {"message": "slow down"}}, headers={"retry-after": "30"})
    async with two(tmp_path, limited, says("from two")) as stage:
        for _ in range(3):
            assert (await stage.proxied.ask("hello", to=session)).text == "from two"
        assert len(stage.first.requests) == 1


@pytest.mark.parametrize("session", ["s", None])
async def test_an_upstream_that_fails_again_and_again_is_left_out_and_comes_back(
    tmp_path: Path, session: str | None
) -> None:
    """It is asked once more after its pause, which is of no length here."""
    async with two(tmp_path, hangs_up, says("from two"), one={"breaker_failures": 2, "breaker_pause_s": 60}) as stage:
        for _ in range(4):
            assert (await stage.proxied.ask("hello", to=session)).text == "from two"
        assert len(stage.first.requests) == 2
    (tmp_path / "again").mkdir()
    again = {"breaker_failures": 2, "breaker_pause_s": 0}
    async with two(tmp_path / "again", hangs_up, says("from two"), one=again) as stage:
        for _ in range(3):
            await stage.proxied.ask("hello", to=session)
        stage.first.play(says("from one"))
        assert (await stage.proxied.ask("hello", to=session)).text == "from one"


@pytest.mark.parametrize("session", ["s", None])
async def test_one_that_is_left_out_still_serves_what_all_others_fail(tmp_path: Path, session: str | None) -> None:
    async with two(tmp_path, hangs_up, says("from two"), one={"breaker_failures": 1, "breaker_pause_s": 600}) as stage:
        await stage.proxied.ask("hello", to=session)
        stage.first.play(says("from one"))
        assert (await stage.proxied.ask("hello", to=session)).text == "from two"
        stage.second.play(hangs_up)
        assert (await stage.proxied.ask("hello", to=session)).text == "from one"


async def test_only_the_last_upstream_is_asked_again(tmp_path: Path) -> None:
    failing = status(500, json={"error": {"message": "oops"}})
    async with two(tmp_path, failing, failing, one={"retries": 2}, two={"retries": 1}) as stage:
        assert (await stage.proxied.ask("hello", to="s")).status == 500
        assert (len(stage.first.requests), len(stage.second.requests)) == (1, 2)


async def test_an_alias_gets_its_own_name_at_each_upstream(tmp_path: Path) -> None:
    models = {
        "chat": {"upstream": "one", "model": "near-1", "fallbacks": ["far"]},
        "far": {"upstream": "two", "model": "f"},
    }
    async with two(tmp_path, hangs_up, says("from two"), models=models) as stage:
        for session in ("s", None):
            assert (await stage.proxied.ask("hello", to=session, model="chat")).status == 200
        assert [request.json["model"] for request in stage.first.requests] == ["near-1", "near-1"]
        assert [request.json["model"] for request in stage.second.requests] == ["f", "f"]


async def test_the_history_is_cut_to_the_context_of_who_takes_over(tmp_path: Path) -> None:
    models = {"m": {"upstream": "one", "model": "m", "fallbacks": ["n"]},
              "n": {"upstream": "two", "model": "n", "context_tokens": 150}}  # fmt: skip
    async with two(tmp_path, says("yes " * 30), says("from two"), models=models) as stage:
        for n in range(6):
            await stage.proxied.ask(f"question {n} " + "so " * 30, to="s", model="m", max_tokens=10)
        whole = len(stage.first.requests[-1].json["messages"])
        stage.first.play(hangs_up)
        reply = await stage.proxied.ask("the last", to="s", model="m", max_tokens=10)
        assert reply.text == "from two"
        sent = stage.second.requests[-1].json["messages"]
        assert whole == 11
        assert 1 <= len(sent) < whole
        assert sent[-1]["content"] == "the last"
        assert "budget=140" in reply.headers["x-context-tokens"]


async def test_a_prompt_goes_to_who_can_take_it_while_the_first_is_left_out(tmp_path: Path) -> None:
    models = {"m": {"upstream": "two", "model": "small", "context_tokens": 60, "fallbacks": ["large"]},
              "large": {"upstream": "one", "model": "large"}}  # fmt: skip
    async with two(tmp_path, says("from one"), says("from two"), models=models) as stage:
        for session in ("s", "t"):
            reply = await stage.proxied.ask("so " * 300, to=session, model="m", max_tokens=10)
            assert (reply.status, reply.text) == (200, "from one")
        reply = await stage.proxied.ask("so " * 300, to="s", model="m", headers={"X-Session-Token-Budget": "50"})
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        assert stage.second.requests == []


async def test_the_other_paths_fall_back_too_and_know_aliases(tmp_path: Path) -> None:
    vectors = status(200, json={"object": "list", "data": []})
    models = {"embed": {"model": "e5"}}
    async with two(tmp_path, hangs_up, vectors, models=models) as stage:
        body = json.dumps({"model": "embed", "input": "x"}).encode()
        reply = await stage.proxied.post(body, to=None, path="/embeddings")
        assert (reply.status, reply.headers["x-upstream"]) == (200, "two")
        assert stage.second.requests[0].json == {"model": "e5", "input": "x"}


async def test_the_models_are_those_of_all_upstreams_that_lead_somewhere(tmp_path: Path) -> None:
    async with two(
        tmp_path,
        says(""),
        says(""),
        one={"models": ["a-*"]},
        two={"models": ["b-*", "a-2"]},
        models={"best": {"model": "a-1"}},
    ) as stage:
        stage.first.lists = status(200, json={"data": [{"id": "a-1", "object": "model", "x": 1}, {"id": "b-9"}]})
        stage.second.lists = status(200, json={"data": [{"id": "b-1"}, {"id": "a-2"}]})
        listed = (await stage.proxied.call("GET", "/models")).json["data"]
        assert [model["id"] for model in listed] == ["a-1", "b-1", "a-2", "best"]
        assert listed[0]["x"] == 1
        one = (await stage.proxied.call("GET", "/models/best")).json
        assert (one["id"], one["object"]) == ("best", "model")
        stage.first.lists = status(200, json={"data": 5})
        assert (await stage.proxied.call("GET", "/models")).status == 200
        stage.first.lists = hangs_up
        listed = (await stage.proxied.call("GET", "/models")).json["data"]
        assert [model["id"] for model in listed] == ["b-1", "a-2", "best"]


@pytest.mark.parametrize("session", ["s", None])
async def test_a_model_that_nobody_serves_is_404_with_what_there_is(tmp_path: Path, session: str | None) -> None:
    async with two(
        tmp_path, says(""), says(""), one={"models": ["a-*"]}, two={"models": ["b"]}, models={"best": {"model": "b"}}
    ) as stage:
        reply = await stage.proxied.ask("hello", to=session, model="gpt-5")
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
        for known in ("a-*", "b", "best"):
            assert known in reply.error["message"]


async def test_what_one_upstream_refuses_is_sent_to_the_other(tmp_path: Path) -> None:
    """The history that is kept joined between turns is one upstream's."""
    said = {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}
    message = {"role": "user", "content": [said]}
    async with two(tmp_path, says("one"), says("two"), one={"strip_fields": ["cache_control"]}) as stage:
        for _ in range(3):
            await stage.proxied.ask(message, to="s", headers={"X-Session-Mode": "append"})
        stage.first.play(hangs_up)
        await stage.proxied.ask(message, to="s", headers={"X-Session-Mode": "append"})
        stage.first.play(says("one"))
        await stage.proxied.ask(message, to="s", headers={"X-Session-Mode": "append"})
        marks = [
            request.body.count(b"cache_control") for request in (stage.second.requests[-1], stage.first.requests[-1])
        ]
        assert marks == [4, 0]


async def test_metrics_count_who_went_on(tmp_path: Path) -> None:
    async with two(tmp_path, hangs_up, says("from two")) as stage:
        await stage.proxied.ask("hello", to="s")
        text = stage.proxied.running.edge.svc.metrics.render().decode()
        assert "session_proxy_fallbacks_total 1.0" in text


async def test_a_clients_own_key_reaches_no_other_vendor(tmp_path: Path) -> None:
    async with two(tmp_path, hangs_up, says("from two")) as stage:
        base = stage.proxied.url.removesuffix("/v1")
        async with stage.proxied.http.post(base + "/agents", json={"name": "a"}) as made:
            agent = (await made.json())["id"]
        async with stage.proxied.http.post(base + "/sessions", json={"agent": agent}) as made:
            session = (await made.json())["id"]
        url = f"{base}/sessions/{session}/chat"
        asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        async with stage.proxied.http.post(url, json=asked, headers={"X-Custom-Api-Key": "mine"}) as reply:
            assert reply.status == 502
        assert stage.first.requests[0].header("authorization") == "Bearer mine"
        assert stage.second.requests == []
