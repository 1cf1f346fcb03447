"""The context engine from the outside: what a preview shows, what headers and ledgers tell, what is refused."""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.acceptance.asking import Proxied, Reply, asks_for, call, result, served, system, user
from tests.acceptance.stage import Stage
from tests.scripted import Recorded, ScriptedUpstream, Step, calls_many, dump, says, scripted_upstream, status
from tests.test_sending import llama, nameless, openai, vllm

pytestmark = pytest.mark.anyio

DOCS = [("Shipping", "Parcels leave the harbor every Monday and take a week to the islands."),
        ("Returns", "A kettle may be sent back within thirty days, the lantern may not.")]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
MODELS = {"mine": {"model": "theirs"}}
TABLES = ("sessions", "branches", "entries", "turns", "instructions", "replays", "summaries", "calibrations")


async def preview(proxied: Proxied, body: bytes, to: str | None, **headers: str) -> Reply:
    return await proxied.post(body, to=to, headers=headers, path="/chat/completions?preview=true")


def shown(reply: Reply) -> bytes:
    """The bytes of the body in a preview."""
    assert reply.status == 200, reply.body
    assert set(reply.json) == {"body", "ledger"}
    assert reply.body.startswith(b'{"body":')
    return reply.body[len(b'{"body":') : reply.body.rindex(b',"ledger":')]


def sizes(reply: Reply) -> dict[str, str]:
    return dict(part.split("=") for part in reply.headers["x-context-tokens"].split(";"))


def asked(up: ScriptedUpstream) -> list[Recorded]:
    """The turns that came, without the questions for the models."""
    return [request for request in up.requests if request.method == "POST"]


def rows(proxied: Proxied) -> list[int]:
    return [proxied.running.rows(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES]  # noqa: S608 - from above


def ledger(proxied: Proxied) -> dict[str, Any]:
    """That of the newest turn."""
    return json.loads(proxied.running.rows("SELECT ledger FROM turns ORDER BY session DESC, turn DESC LIMIT 1")[0][0])


@asynccontextmanager
async def alone(folder: Path, **sections: Any) -> AsyncGenerator[tuple[ScriptedUpstream, Proxied]]:
    async with scripted_upstream(says("ok")) as up, served(up, folder, models=MODELS, **sections) as proxied:
        yield up, proxied


async def documents(proxied: Proxied, session: str) -> None:
    """Gives the session documents."""
    base = proxied.url.removesuffix("/v1")
    for title, content in DOCS:
        async with proxied.http.post(f"{base}/sessions/{session}/docs", json={"title": title, "content": content}) as r:
            assert r.status == 201, await r.text()


class Client:
    """Draws one request after the other; `all`: what was said."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        self.all: list[dict[str, Any]] = []
        self.resends = False

    def text(self, most: int = 30) -> str:
        about = self.draw.choice(("harbor", "kettle", "lantern", "island", "Monday parcel"))
        return f"Number {len(self.all)}: what about the {about}? " + "Tell me more. " * self.draw.randrange(1, most)

    def next(self) -> tuple[bytes, dict[str, str], Step]:
        draw = self.draw
        made = self.all[-1].get("tool_calls") if self.all else None
        new = [result(self.text(40), one["id"]) for one in made or ()] or [user(self.text())]
        reply: dict[str, Any] = {"role": "assistant", "content": self.text(), "refusal": None}
        step = says(reply["content"])
        if draw.random() < 0.25:
            ids = [f"call_{len(self.all)}_{n}" for n in range(draw.choice((1, 2)))]
            reply = asks_for(*[call("look", {}, id) for id in ids])
            step = calls_many([("look", {}, id) for id in ids])
        lead = [system(f"be {draw.choice(('brief', 'kind'))}")] if draw.random() < 0.3 else []
        sent = [*lead, *(self.all if self.resends else []), *new]
        body: dict[str, Any] = {"model": draw.choice(("scripted", "scripted", "mine")), "messages": sent, "x_y": [1.50]}
        if draw.random() < 0.3:
            body["stream"] = True
            if draw.random() < 0.5:
                body["stream_options"] = draw.choice((None, {"include_usage": True}, {"x": 1}))
        if draw.random() < 0.2:
            body["prompt_cache_key"] = "own"
        if draw.random() < 0.4:
            body["tools"] = [TOOL]
        if draw.random() < 0.2:
            body |= {"store": True, "metadata": {"a": "b"}}
        headers = {"X-Session-Token-Budget": draw.choice(("700", "700", "1500"))}
        headers["X-Session-Context-Overflow"] = draw.choice(("adaptive", "adaptive", "summarize", "truncate"))
        if draw.random() < 0.1:
            headers |= {"X-Session-Recall-Tools": "false"}
        if draw.random() < 0.1 and "store" not in body:  # one says keep, the other says do not
            headers |= {"X-Session-Save": "false"}
        else:
            self.all += [*new, reply]
        return json.dumps(body).encode(), headers, step


@pytest.mark.parametrize("placement", ["last_user", "message", "system"])
@pytest.mark.parametrize("resends", [False, True])
async def test_a_preview_is_what_goes_up_byte_for_byte_and_stores_nothing(
    tmp_path: Path, placement: str, resends: bool
) -> None:
    client = Client(7)
    seen = set()
    sections = {"recall": {"placement": placement, "min_score": 0.01}, "upstream": {"prompt_cache_key": True}}
    async with alone(tmp_path, context={"summary_max_calls": 0}, **sections) as (up, proxied):
        await proxied.ask("hi", to="s")
        client.all += [user("hi"), {"role": "assistant", "content": "ok", "refusal": None}]
        await documents(proxied, "s")
        for _ in range(30):
            client.resends = resends and client.draw.random() < 0.9
            body, headers, step = client.next()
            up.play(step)
            before = rows(proxied)
            told = await preview(proxied, body, "s", **headers)
            assert rows(proxied) == before
            assert up.requests == []
            reply = await proxied.post(body, to="s", headers=headers)
            assert reply.status == 200, reply.body
            assert shown(told) == up.requests[0].body
            of = told.json["ledger"]
            kept = sum(one["tokens"] for one in of["segments"] if one["kept"])
            given = sizes(reply)
            assert kept == of["total"] == int(given["total"])
            assert of["estimate"] == int(given["estimate"]) <= int(given["budget"]) == of["budget"]
            assert (of["strategy"], of["turn"]) == (reply.headers["x-context-strategy"], None)
            if headers.get("X-Session-Save") is None:
                assert ledger(proxied) == of | {"turn": int(reply.headers["x-session-turn"])}
            seen |= {one["source"] for one in of["segments"] if one["kept"]}
            seen |= {"dropped"} if int(reply.headers["x-context-dropped"]) else set()
    assert seen >= {"system", "tools", "history", "recall_doc", "recall_history", "new", "dropped"}


async def test_a_preview_without_a_session_has_no_ledger(stage: Stage) -> None:
    up, proxied = await stage(says("ok"), models=MODELS)
    for model in ("scripted", "mine"):
        body = b'{ "model" : "%b", "messages":[{"role":"user","content":"hi"}], "stream":true}' % model.encode()
        told = await preview(proxied, body, None)
        assert told.json["ledger"] is None
        up.play(says("ok"))
        await proxied.post(body, to=None)
        assert shown(told) == up.requests[0].body


@pytest.mark.parametrize("to", ["s", None])
async def test_a_preview_must_be_asked_for_rightly(stage: Stage, to: str | None) -> None:
    up, proxied = await stage(says("ok"))
    for given in ("maybe", "", "1", "True"):
        reply = await proxied.post(b'{"messages":[]}', to=to, path=f"/chat/completions?preview={given}")
        assert (reply.status, reply.error["param"]) == (400, "preview")
    reply = await proxied.post(dump({"messages": [user("hi")]}), to=to, path="/chat/completions?preview=false&other=1")
    assert (reply.status, reply.text) == (200, "ok")
    assert len(up.requests) == 1


BROKEN = (
    b"",
    b"{",
    b"[]",
    b'{"messages":7}',
    b'{"messages":[]}',
    b'{"messages":[{"role":"x"}]}',
    b'{"model":1,"messages":[]}',
    b'{"messages":[{"role":"tool","tool_call_id":"none","content":"x"}]}',
    b'{"messages":[{"role":"user","content":"hi"}],"session":{"id":"s","x":1}}',
    b'{"messages":[{"role":"user","content":"hi"}],"stream":"yes"}',
    b'{"messages":[{"role":"user","content":"\xff"}]}',
)


@pytest.mark.parametrize("body", BROKEN)
async def test_a_broken_request_is_refused_in_a_preview_as_without(stage: Stage, body: bytes) -> None:
    up, proxied = await stage(says("ok"))
    without, told = await proxied.post(body, to="s"), await preview(proxied, body, "s")
    assert 400 <= told.status < 500
    assert (told.status, told.error) == (without.status, without.error)
    assert up.requests == []
    assert proxied.sessions() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("context_overflow", "sometimes"), ("context_overflow", 3), ("token_budget", 0), ("token_budget", -5),
     ("token_budget", 10**12), ("token_budget", "many"), ("token_budget", 1.5), ("token_budget", True)],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/chat/completions", "/chat/completions?preview=true"])
async def test_an_option_that_is_wrong_is_named_and_nothing_is_stored(
    stage: Stage, option: str, value: Any, path: str
) -> None:
    up, proxied = await stage(says("ok"))
    header = {f"X-Session-{option.replace('_', '-')}": str(value)}
    in_header = await proxied.post(dump({"messages": [user("hi")]}), to="s", headers=header, path=path)
    body = dump({"messages": [user("hi")], "session": {"id": "s", option: value}})
    in_body = await proxied.post(body, to=None, path=path)
    for reply in (in_header, in_body):
        assert (reply.status, reply.error["param"]) == (400, f"session.{option}")
    assert up.requests == []
    assert proxied.sessions() == []


async def test_a_budget_that_holds_nothing_is_refused(stage: Stage) -> None:
    up, proxied = await stage(says("ok"))
    reply = await proxied.ask("hi there", to="s", headers={"X-Session-Token-Budget": "1"})
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert up.requests == []
    assert proxied.sessions() == []


# --- refusals of the model server ---


def limited(limit: int, refusal: Any, step: Step) -> Step:
    """Refuses what has more than so many words."""

    async def play(exchange: Any) -> None:
        counted = len(re.findall(rb"\w+", exchange.request.body))
        code, error = refusal(limit, counted)
        await (step if counted <= limit else status(code, json={"error": error}))(exchange)

    return play


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("refusal", [openai, llama, vllm, nameless])
async def test_a_prompt_that_is_too_long_for_the_model_is_shortened(tmp_path: Path, refusal: Any, stream: bool) -> None:
    sections: dict[str, Any] = {"upstream": {"context_tokens": None}}
    text = "word after word " * 30
    async with alone(tmp_path, **sections) as (up, proxied):
        for n in range(10):
            assert (await proxied.ask(f"{n} {text}", to="s")).status == 200
        up.play(limited(600, refusal, says("ok")))
        reply = await proxied.ask(f"now {text}", to="s", stream=stream)
        assert (reply.status, reply.text) == (200, "ok")
        assert 2 <= len(asked(up)) <= 3
        assert int(sizes(reply)["total"]) == ledger(proxied)["total"]
        assert len(asked(up)[-1].json["messages"]) == 1 + sum(
            one["count"] for one in ledger(proxied)["segments"] if one["source"] == "history" and one["kept"]
        )
        assert proxied.stored("s")[-1] == "assistant: ok"
        up.requests.clear()
        assert (await proxied.ask("and now", to="s", stream=stream)).status == 200
        assert len(asked(up)) == 1
    async with alone(tmp_path, **sections) as (up, proxied):
        up.play(limited(600, refusal, says("ok")))
        assert (await proxied.ask("after a restart", to="s", stream=stream)).status == 200
        assert len(asked(up)) == 1


@pytest.mark.parametrize("option", [{"X-Session-Context-Overflow": "null"}, {"X-Session-Mode": "observe"}])
async def test_the_refusal_is_passed_on_where_nothing_may_leave(stage: Stage, option: dict[str, str]) -> None:
    up, proxied = await stage(limited(100, openai, says("ok")), upstream={"context_tokens": None})
    reply = await proxied.ask("word " * 200, to="s", headers=option)
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 100" in reply.error["message"]
    assert len(asked(up)) == 1
    assert proxied.sessions() == []


# --- parts that fail ---


def without_summaries() -> Step:
    async def play(exchange: Any) -> None:
        wanted = exchange.request.json["messages"][-1]["content"].endswith("Write the summary now.")
        await (status(400, json={"error": {"message": "no"}}) if wanted else says("ok"))(exchange)

    return play


@pytest.mark.parametrize("closed", [False, True])
async def test_a_failed_summary_is_told_in_a_header_or_ends_the_turn(tmp_path: Path, closed: bool) -> None:
    options = {"X-Session-Context-Overflow": "summarize", "X-Session-Token-Budget": "400"}
    async with alone(tmp_path, sessions={"fail_closed": closed}) as (up, proxied):
        up.play(without_summaries())
        replies = []
        for n in range(8):
            replies.append(await proxied.ask(f"{n} " + "word " * 60, to="s", headers=options))
            await proxied.running.edge.svc.summaries.settled()
        failed = [reply for reply in replies if reply.status != 200]
        told = [reply.headers["x-session-error"] for reply in replies if "x-session-error" in reply.headers]
        if closed:
            assert {(reply.status, reply.error["code"]) for reply in failed} == {(503, "summary_failed")}
            assert all("retry-after" in reply.headers for reply in failed)
            assert (await proxied.ask("hi", to="s")).status == 200
        else:
            assert failed == []
            assert told
            assert all(one.startswith("summary: ") for one in told)


# --- switching ---


async def test_a_strategy_is_switched_per_request_and_back(stage: Stage) -> None:
    up, proxied = await stage(says("ok"))
    small = {"X-Session-Context-Overflow": "adaptive", "X-Session-Token-Budget": "300"}
    said = []
    for n in range(12):
        text = f"{n} " + "word " * 50
        reply = await proxied.ask(text, to="s", headers=small)
        said += [user(text), "ok"]
    assert int(reply.headers["x-context-dropped"]) > 0
    huge = {"X-Session-Context-Overflow": "null", "X-Session-Token-Budget": "1000000"}
    reply = await proxied.ask("all of it", to="s", headers=huge)
    sent = up.requests[-1].json["messages"]
    assert [one if one["role"] == "user" else one["content"] for one in sent] == [*said, user("all of it")]
    assert (reply.headers["x-context-dropped"], reply.headers["x-context-strategy"]) == ("0", "null")
    reply = await proxied.ask("small again", to="s", headers=small)
    assert int(reply.headers["x-context-dropped"]) > 0
    tight = {"X-Session-Context-Overflow": "null", "X-Session-Token-Budget": "300"}
    before = proxied.turns("s")
    reply = await proxied.ask("all of it", to="s", headers=tight)
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert proxied.turns("s") == before


async def test_opaque_reasoning_goes_to_the_model_that_wrote_it_only(stage: Stage) -> None:
    thought = {"type": "reasoning.encrypted", "data": "b3BhcXVl", "format": "x", "index": 0}
    message = {"role": "assistant", "content": "noon", "reasoning_details": [thought]}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "a",
              "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}  # fmt: skip
    up, proxied = await stage(status(200, json=answer), says("ok"))
    await proxied.ask("what time is it", to="s", model="a")
    seen = {}
    for n, model in enumerate(("a", "b", "b", "a", "a")):
        body = dump({"model": model, "messages": [user(f"and {n}")]})
        told = await preview(proxied, body, "s")
        await proxied.post(body, to="s")
        assert shown(told) == up.requests[-1].body
        seen[n] = b"b3BhcXVl" in up.requests[-1].body
        assert up.requests[-1].json["messages"][1]["content"] == "noon"
    assert list(seen.values()) == [True, False, False, True, True]
