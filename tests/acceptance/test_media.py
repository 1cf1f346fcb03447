"""Images, audio, files and vendor fields: forwarded as they came, stored once, replayed as upstreams demand."""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.acceptance.asking import MODEL, Proxied, Reply, call, result, served
from tests.acceptance.stage import Stage
from tests.scripted import Exchange, ScriptedUpstream, Step, delta, dump, envelope, says, scripted_upstream

pytestmark = pytest.mark.anyio

IMAGE = base64.b64encode(Random(1).randbytes(300_000)).decode()
SOUND = base64.b64encode(Random(2).randbytes(40_000)).decode()
PAPER = base64.b64encode(Random(3).randbytes(60_000)).decode()
PARTS: list[dict[str, Any]] = [
    {"type": "text", "text": "what is this?", "cache_control": {"type": "ephemeral"}},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}", "detail": "original"}},
    {"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PAPER}"}},
]
ASKED = {"role": "user", "content": PARTS}


def answers(**fields: Any) -> Step:
    """A message with vendor fields, in one piece to a request that streams."""

    async def step(exchange: Exchange) -> None:
        message = {"role": "assistant", "content": "hello", **fields}
        finish = "tool_calls" if fields.get("tool_calls") else "stop"
        if exchange.request.stream:
            await exchange.start_stream()
            await exchange.event(delta(exchange.request, message))
            await exchange.event(delta(exchange.request, {}, finish))
            await exchange.event("[DONE]")
            await exchange.end()
            return
        choice = {"index": 0, "message": message, "finish_reason": finish}
        body = envelope(exchange.request, "chat.completion", [choice])
        await exchange.whole(200, dump(body), {"content-type": "application/json"})

    return step


def raw_messages(body: bytes) -> bytes:
    """The list of messages of a request, as it was spelt."""
    return body[body.index(b'"messages":') :]


async def get(proxied: Proxied, method: str, path: str) -> Reply:
    base = proxied.url.removesuffix("/v1")
    async with proxied.http.request(method, base + path) as response:
        return Reply(response.status, response.headers, await response.read())


@asynccontextmanager
async def before(step: Step, folder: Path) -> AsyncGenerator[tuple[ScriptedUpstream, Proxied]]:
    async with scripted_upstream(step) as up, served(up, folder) as proxied:
        yield up, proxied


# --- what is large ---


async def test_media_go_up_again_byte_for_byte(stage: Stage) -> None:
    up, proxied = await stage(says("a cat"), sessions={"wait_timeout_s": 5})
    spelt = json.dumps(ASKED, separators=(" ,", " : ")).replace("/", "\\/").encode()
    first = await proxied.post(b'{"model":"m","messages":[' + spelt + b"]}", to="s")
    second = await proxied.ask("and now?", to="s")
    assert (first.status, second.status) == (200, 200)
    assert [spelt in raw_messages(request.body) for request in up.requests] == [True, True]
    assert [m["role"] for m in up.requests[1].json["messages"]] == ["user", "assistant", "user"]


async def test_media_are_stored_once_and_shown_whole_and_go_with_the_last_session(tmp_path: Path) -> None:
    async with before(says("a cat"), tmp_path) as (up, proxied):
        for name in ("s", "s", "t"):
            assert (await proxied.ask(ASKED, to=name)).status == 200
        rows = proxied.running.rows
        assert sorted(data for (data,) in rows("SELECT data FROM blobs")) == sorted(
            data.encode() for data in (IMAGE, SOUND, PAPER)
        )
        assert rows("SELECT count(*) FROM blob_uses") == [(6,)]
        assert rows("SELECT max(length(raw)) FROM entries")[0][0] < 2_000
        assert up.requests[1].json["messages"] == [ASKED, {"role": "assistant", "content": "a cat"}, ASKED]
        shown = (await get(proxied, "GET", "/sessions/s/messages")).json["items"]
        assert [one["content"] for one in shown if one["role"] == "user"] == [PARTS, PARTS]
        lines = (await get(proxied, "GET", "/sessions/t/export")).body.splitlines()
        said = [line["message"] for line in map(json.loads, lines) if line["type"] == "entry"]
        assert said == [ASKED, {"role": "assistant", "content": "a cat"}]
        assert (await get(proxied, "DELETE", "/sessions/s")).status == 202
        assert rows("SELECT count(*) FROM blobs") == [(3,)]
        assert (await get(proxied, "DELETE", "/sessions/t/history")).status == 202
        assert rows("SELECT (SELECT count(*) FROM blobs), (SELECT count(*) FROM blob_uses)") == [(0, 0)]


async def test_a_full_resend_of_media_is_recognised(stage: Stage) -> None:
    up, proxied = await stage(says("a cat"))
    for _ in range(2):
        await proxied.ask(ASKED, to="s")
    again = [ASKED, {"role": "assistant", "content": "a cat"}, ASKED, {"role": "assistant", "content": "a cat"}]
    reply = await proxied.ask(*again, "so?", to="s")
    assert reply.headers["x-session-branch"] == "1"
    assert up.requests[-1].json["messages"] == [*again, {"role": "user", "content": "so?"}]


# --- what vendors add ---


THOUGHT = {"reasoning_content": "Let me see.", "reasoning_details": [
    {"type": "reasoning.text", "text": "Let me see.", "signature": "c2ln", "format": "anthropic-claude-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "gAAA" * 2_000, "id": "rs_1", "index": 1},
]}  # fmt: skip
SIGNED = {**call("look", {"at": "it"}), "extra_content": {"google": {"thought_signature": "CpcB"}}}


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_comes_back_verbatim_to_the_model_that_wrote_it(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(answers(**THOUGHT))
    await proxied.ask("hi", to="s", stream=stream)
    await proxied.ask("and?", to="s", stream=stream)
    replayed = up.requests[1].json["messages"][1]
    wanted = {"role": "assistant", "content": "hello", **THOUGHT}
    assert json.dumps(replayed, sort_keys=True) == json.dumps(wanted, sort_keys=True)


@pytest.mark.parametrize("echoed", [False, True])
async def test_a_thought_signature_comes_back_with_its_call(stage: Stage, echoed: bool) -> None:
    """Also where the client's echo of the call has lost it."""
    up, proxied = await stage(answers(content=None, tool_calls=[SIGNED]), says("done"))
    await proxied.ask("look", to="s")
    echo = [{"role": "assistant", "content": None, "tool_calls": [call("look", {"at": "it"})]}] if echoed else []
    await proxied.ask(*echo, result("a cat"), to="s")
    assert up.requests[1].json["messages"][1]["tool_calls"] == [SIGNED]


async def test_another_model_gets_the_readable_part_alone(stage: Stage) -> None:
    up, proxied = await stage(answers(**THOUGHT))
    await proxied.ask("hi", to="s")
    await proxied.ask("and?", to="s", model="another")
    await proxied.ask("so?", to="s", model=MODEL)
    first = [request.json["messages"][1] for request in up.requests[1:]]
    bare = {"role": "assistant", "content": "hello", "reasoning_content": THOUGHT["reasoning_content"]}
    assert first == [bare, {"role": "assistant", "content": "hello", **THOUGHT}]
    assert up.requests[2].json["messages"][3] == bare, "what the other model wrote"


@pytest.mark.parametrize("name", ["annotations", "citations", "logprobs"])
async def test_what_only_answers_hold_is_not_sent_back(stage: Stage, name: str) -> None:
    up, proxied = await stage(answers(**{name: [{"type": "url_citation"}]}))
    reply = await proxied.ask("hi", to="s")
    assert reply.json["choices"][0]["message"][name] == [{"type": "url_citation"}], "the client gets it"
    assert proxied.messages("s")[1][name] == [{"type": "url_citation"}], "the store keeps it"
    await proxied.ask("and?", to="s")
    assert up.requests[1].json["messages"][1] == {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize(("expires_at", "content", "kept"), [
    (4_000_000_000, None, {"audio": {"id": "audio_1"}}),
    (1_000_000_000, "good morning", {}),
])  # fmt: skip
async def test_spoken_answers_are_replayed_by_id_or_by_their_words(
    stage: Stage, expires_at: int, content: str | None, kept: dict[str, Any]
) -> None:
    audio = {"id": "audio_1", "data": SOUND, "expires_at": expires_at, "transcript": "good morning"}
    up, proxied = await stage(answers(content=None, audio=audio), says("fine"))
    await proxied.ask("say hi", to="s")
    await proxied.ask("and?", to="s")
    assert up.requests[1].json["messages"][1] == {"role": "assistant", "content": content, **kept}


async def test_an_echo_of_a_spoken_answer_names_it_by_its_id(stage: Stage) -> None:
    audio = {"id": "audio_1", "data": SOUND, "expires_at": 4_000_000_000, "transcript": "good morning"}
    up, proxied = await stage(answers(content=None, audio=audio), says("fine"))
    hello = {"role": "user", "content": "say hi"}
    await proxied.ask(hello, to="s")
    echo = {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}
    reply = await proxied.ask(hello, echo, "and?", to="s")
    assert up.requests[1].json["messages"] == [hello, echo, {"role": "user", "content": "and?"}]
    assert (reply.headers["x-session-branch"], len(proxied.turns("s"))) == ("1", 2)


async def test_fields_that_an_upstream_refuses_are_left_out(tmp_path: Path) -> None:
    strip = {"upstream": {"strip_fields": ["cache_control"]}}
    async with scripted_upstream(says("a cat")) as up, served(up, tmp_path, **strip) as proxied:
        await proxied.ask(ASKED, to="s")
        await proxied.ask("and?", to="s")
        bare = [{key: value for key, value in part.items() if key != "cache_control"} for part in PARTS]
        assert [request.json["messages"][0]["content"] for request in up.requests] == [bare, bare]
