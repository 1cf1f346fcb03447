"""How a client says which session it means, and what it may ask of one turn."""

import json
from typing import Any

import pytest

from tests.acceptance.asking import assistant, received
from tests.acceptance.stage import Stage, Talk
from tests.scripted import Exchange, delta, dump, echoes, envelope, gated, says

pytestmark = pytest.mark.anyio

ONE = ["user: one", "assistant: echo: one"]
TWO = ["user: two", "assistant: echo: two"]

# --- names ---


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"X-Session-Id": "s"}, {}),
        ({}, {"session": "s"}),
        ({}, {"session": {"id": "s"}}),
        ({}, {"conversation": "s"}),
        ({}, {"conversation": {"id": "s"}}),
        ({}, {"metadata": {"session_id": "s"}}),
        ({"X-Conversation-Id": "s"}, {}),
        ({"Session-Id": "s", "X-Session-Mode": "auto"}, {}),
    ],
)
async def test_a_session_can_be_named_in_many_ways(echo: Talk, headers: dict[str, str], fields: dict[str, Any]) -> None:
    up, proxied = echo
    await proxied.ask("one", to="s")
    reply = await proxied.ask("two", to=None, headers=headers, **fields)
    assert received(up.requests[-1]) == [*ONE, "user: two"]
    assert proxied.stored("s") == [*ONE, *TWO]
    assert reply.headers["x-session-id"] == "s"
    assert {"session", "conversation", "session_id"}.isdisjoint(up.requests[-1].json)
    assert up.requests[-1].header("x-session-id") is None


async def test_the_first_of_several_names_counts(echo: Talk) -> None:
    _, proxied = echo
    bodies = {"session": "b", "conversation": "c", "metadata": {"session_id": "e"}}
    alias = {"X-Conversation-Id": "d"}
    await proxied.ask("one", to="a", headers=alias, **bodies)
    for given in "bcde":
        await proxied.ask("one", to=None, headers=alias, **bodies)
        assert proxied.stored(given) == ONE
        bodies.pop("session" if given == "b" else "conversation" if given == "c" else "", None)
        alias = {} if given == "d" else alias
    assert proxied.sessions() == list("abcde")


async def test_the_uuid_of_a_session_names_it_too(echo: Talk) -> None:
    up, proxied = echo
    first = await proxied.ask("one", to="s")
    uuid = first.headers["x-session-uuid"]
    second = await proxied.ask("two", to=uuid)
    assert received(up.requests[-1]) == [*ONE, "user: two"]
    assert (second.headers["x-session-id"], second.headers["x-session-uuid"]) == (uuid, uuid)
    assert proxied.stored("s") == [*ONE, *TWO]


async def test_a_uuid_that_is_no_sessions_becomes_the_name_of_a_new_one(echo: Talk) -> None:
    _, proxied = echo
    name = "6f1d3c1e-58a5-4a0b-9a52-3a5f2a3f1c11"
    reply = await proxied.ask("one", to=name)
    assert reply.headers["x-session-uuid"] != name
    assert proxied.stored(name) == ONE


@pytest.mark.parametrize("name", ["a" * 256, "a/b?c=d&e", "../../etc/passwd", "' OR 1=1 --", " s p a c e ", "%00", "0"])
async def test_a_name_is_any_printable_ascii(echo: Talk, name: str) -> None:
    _, proxied = echo
    reply = await proxied.ask("one", to=None, session=name)
    assert proxied.stored(name) == ONE
    assert reply.headers["x-session-id"].strip() == name.strip()


async def test_neither_user_nor_client_request_id_name_a_session(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask("one", to=None, headers={"X-Client-Request-Id": "s"}, user="s", metadata={"other": "s"})
    assert up.requests[-1].json["user"] == "s"
    assert proxied.sessions() == []


async def test_an_unknown_session_is_404_where_sessions_are_not_made_on_use(stage: Stage) -> None:
    up, proxied = await stage(echoes(), sessions={"auto_create": False})
    reply = await proxied.ask("one", to="s")
    assert (reply.status, reply.error["code"]) == (404, "session_not_found")
    assert up.requests == []


async def test_the_header_can_have_another_name(stage: Stage) -> None:
    up, proxied = await stage(echoes(), sessions={"header": "X-Chat"})
    await proxied.ask("one", to=None, headers={"X-Chat": "s"})
    await proxied.ask("other", to="t")
    assert proxied.stored("s") == ONE
    assert proxied.stored("t") == []
    assert up.requests[0].header("x-chat") is None


@pytest.mark.parametrize("alias", ["X-Claude-Code-Session-Id", "X-OpenCode-Session"])
async def test_coding_agents_are_observed(echo: Talk, alias: str) -> None:
    up, proxied = echo
    await proxied.ask("one", to=None, headers={alias: "s"})
    await proxied.ask("two", to=None, headers={alias: "s"})
    assert received(up.requests[-1]) == ["user: two"]
    assert proxied.stored("s") == [*ONE, *TWO]


async def test_chat_interfaces_send_the_whole_conversation(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask("one", to=None, headers={"X-OpenWebUI-Chat-Id": "s"})
    await proxied.ask("two", to=None, headers={"X-OpenWebUI-Chat-Id": "s"})
    assert received(up.requests[-1]) == ["user: two"]
    assert proxied.stored("s") == TWO
    assert proxied.stored("s", branch=1) == ONE


# --- options ---


@pytest.mark.parametrize(
    ("headers", "fields"), [({"X-Session-Save": "false"}, {}), ({}, {"session": {"id": "s", "save": False}})]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_is_not_saved_reads_the_history_and_leaves_nothing(
    echo: Talk, headers: dict[str, str], fields: dict[str, Any], stream: bool
) -> None:
    up, proxied = echo
    await proxied.ask("one", to="s")
    reply = await proxied.ask("two", to="s", headers=headers, stream=stream, **fields)
    assert (reply.text, "x-session-turn" in reply.headers) == ("echo: two", False)
    assert received(up.requests[-1]) == [*ONE, "user: two"]
    assert proxied.stored("s") == ONE
    assert proxied.turns("s") == ["complete"]


async def test_a_turn_that_is_not_saved_makes_no_session(echo: Talk) -> None:
    _, proxied = echo
    await proxied.ask("one", to="s", headers={"X-Session-Save": "false"})
    assert proxied.sessions() == []


async def test_the_body_wins_over_the_headers(echo: Talk) -> None:
    _, proxied = echo
    body = {"model": "m", "messages": [{"role": "user", "content": "one"}], "session": {"id": "other", "save": True}}
    await proxied.post(json.dumps(body).encode(), to="s", headers={"X-Session-Save": "false"})
    assert proxied.stored("s") == ONE
    assert proxied.stored("other") == []


async def test_a_budget_keeps_the_newest_turns_and_says_what_it_left_out(echo: Talk) -> None:
    up, proxied = echo
    for text in ("one", "two", "three"):
        await proxied.ask(f"{text} " * 12, to="s")
    budget = {"X-Session-Token-Budget": "40", "X-Session-Context-Overflow": "truncate"}
    reply = await proxied.ask("four", to="s", headers=budget)
    sent = received(up.requests[-1])
    assert sent[-1] == "user: four"
    assert sent[0].startswith("user: ")
    assert len(sent) < 7
    assert reply.headers["x-context-dropped"] == str(7 - len(sent))
    told = dict(part.split("=") for part in reply.headers["x-context-tokens"].split(";"))
    assert int(told["estimate"]) <= int(told["budget"]) == 40
    assert sum(int(told[part]) for part in ("system", "history", "recall", "tools", "new")) == int(told["total"])
    assert reply.headers["x-context-strategy"] == "truncate"
    await proxied.ask("five", to="s")
    assert received(up.requests[-1])[0].startswith("user: one")


# --- several answers at once ---


async def two_choices(exchange: Exchange) -> None:
    request = exchange.request
    if not request.stream:
        choices = [
            {"index": n, "message": assistant(text), "finish_reason": "stop"}
            for n, text in enumerate(("heads", "tails"))
        ]
        body = dump(envelope(request, "chat.completion", choices))
        await exchange.whole(200, body, {"content-type": "application/json"})
        return
    await exchange.start_stream()
    for text in ("heads", "tails"):
        for index in (1, 0):
            said = text if index == 0 else text[::-1]
            event = delta(request, {"role": "assistant", "content": said})
            event["choices"][0]["index"] = index
            await exchange.event(event)
    for index in (1, 0):
        event = delta(request, {}, "stop")
        event["choices"][0]["index"] = index
        await exchange.event(event)
    await exchange.event("[DONE]")
    await exchange.end()


async def test_all_choices_reach_the_client_and_the_first_becomes_history(stage: Stage) -> None:
    up, proxied = await stage(two_choices, says("ok"))
    reply = await proxied.ask("toss", to="s", n=2)
    assert [choice["message"]["content"] for choice in reply.json["choices"]] == ["heads", "tails"]
    await proxied.ask("thanks", to="s")
    assert received(up.requests[-1]) == ["user: toss", "assistant: heads", "user: thanks"]


async def test_choices_that_come_interleaved_are_told_apart(stage: Stage) -> None:
    _, proxied = await stage(two_choices, says("ok"))
    reply = await proxied.ask("toss", to="s", n=2, stream=True)
    assert {choice["index"] for chunk in reply.chunks for choice in chunk["choices"]} == {0, 1}
    assert reply.done
    assert proxied.stored("s") == ["user: toss", "assistant: headstails"]


async def test_usage_is_asked_for_and_shown_to_those_who_asked(echo: Talk) -> None:
    up, proxied = echo
    silent = await proxied.ask("one", to="s", stream=True)
    asked = await proxied.ask("two", to="s", stream=True, stream_options={"include_usage": True, "x": 1})
    assert [request.json["stream_options"] for request in up.requests] == [
        {"include_usage": True},
        {"include_usage": True, "x": 1},
    ]
    assert all(chunk["choices"] for chunk in silent.chunks)
    assert asked.chunks[-1]["usage"]["completion_tokens"] == 2
    assert proxied.stored("s") == [*ONE, *TWO]
    usage = proxied.running.rows("SELECT usage FROM turns ORDER BY session DESC, turn LIMIT 2")
    assert [json.loads(row[0])["completion_tokens"] for row in usage] == [2, 2]


async def test_a_stream_reaches_the_client_as_it_is_made(stage: Stage) -> None:
    up, proxied = await stage(gated("one two"))
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "count"}]}
    request = proxied.http.post(proxied.url + "/chat/completions", json=body, headers={"X-Session-Id": "s"})
    up.gate.release()
    async with request as response:
        assert response.headers["x-session-turn"] == "1"
        assert (await response.content.readuntil(b"\n\n")).startswith(b"data: {")
        for text in ("one", " two"):
            assert proxied.stored("s") == []
            up.gate.release()
            event = json.loads((await response.content.readuntil(b"\n\n"))[6:])
            assert event["choices"][0]["delta"]["content"] == text
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    assert proxied.stored("s") == ["user: count", "assistant: one two"]
