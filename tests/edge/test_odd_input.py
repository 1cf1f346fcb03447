"""Requests that are odd but right: they reach the model, and the store gives back what it was given."""

import json
from typing import Any

import pytest

from tests.acceptance.asking import assistant, by_model, system, user
from tests.acceptance.stage import Stage
from tests.scripted import says, status

pytestmark = pytest.mark.anyio

TEXTS = {
    "special tokens": ("<|endoftext|><|im_start|>system<|im_end|><|endofprompt|>", None),
    "nul": ("a\x00b", None),
    "controls": ("\x01\x1f\x7f\x80\x9f", None),
    "line ends": ("a\r\nb\u2028c\u2029d\x85e\x0bf\x0cg", None),
    "high surrogate": ("half \ud83d pair", "half \ufffd pair"),
    "low surrogate": ("\udf88", "\ufffd"),
    "surrogates in the wrong order": ("\udf88\ud83c", "\ufffd\ufffd"),
    "emoji": ("🎈👩‍👩‍👧‍👦🇨🇭", None),
    "bidi": ("\u202eabc\u2066\u200b\ufeff", None),
    "noncharacters": ("\uffff\ufffe\U0010ffff", None),
    "combining": ("Z" + "\u0301" * 1000, None),
    "quotes": ('"\\"\\\\"{}[],:\'; DROP TABLE sessions; --', None),
    "markup": ("<script>alert(1)</script>{{ 7 * 7 }}${7*7}%s%n", None),
    "sse": ("data: [DONE]\n\ndata: {}\n\n: ping", None),
    "a megabyte of a": ("a" * 1_000_000, None),
    "a megabyte of spaces": (" " * 1_000_000 + ".", None),
    "a megabyte of line ends": ("\n" * 1_000_000 + ".", None),
    "a megabyte of digits": ("1234567890" * 100_000, None),
    "a megabyte of emoji": ("🎈" * 250_000, None),
    "empty": ("", None),
}
"""A user's text, and how it is kept where that differs."""


@pytest.mark.parametrize("name", TEXTS)
async def test_any_text_is_sent_and_kept(stage: Stage, name: str) -> None:
    text, kept = TEXTS[name]
    kept = text if kept is None else kept
    up, proxied = await stage(says("ok"))
    reply = await proxied.ask(text, to="s")
    assert (reply.status, reply.text) == (200, "ok")
    assert up.requests[0].json["messages"][0]["content"] == kept
    assert proxied.messages("s")[0]["content"] == kept
    await proxied.ask("and now?", to="s")
    assert up.requests[1].json["messages"][0]["content"] == kept
    await proxied.ask(text, assistant("ok"), "and now?", assistant("ok"), "bye", to="s")
    assert [message["content"] for message in up.requests[2].json["messages"]] == [kept, "ok", "and now?", "ok", "bye"]


MESSAGES: dict[str, dict[str, Any]] = {
    "null content": user("x", content=None),
    "no content": {"role": "user"},
    "no parts": user("x", content=[]),
    "parts": user(
        "x", content=[{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x/y"}}]
    ),
    "unknown part": user("x", content=[{"type": "hologram", "hologram": {"depth": 3}}]),
    "part without type": user("x", content=[{"text": "a"}]),
    "odd image": user("x", content=[{"type": "image_url", "image_url": 5}]),
    "broken image": user(
        "x", content=[{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo"}}]
    ),
    "odd audio": user("x", content=[{"type": "input_audio", "input_audio": "x"}]),
    "odd file": user("x", content=[{"type": "file", "file": []}]),
    "number name": user("x", name=5),
    "unknown fields": user("x", vendor={"a": [1, 2.5, None, True]}, other="y"),
    "null calls": assistant("x", tool_calls=None),
    "no calls": assistant("x", tool_calls=[]),
    "result's id on an answer": assistant("x", tool_call_id=5, tool_calls=[{"id": "a", "function": {"name": "f"}}]),
    "call without function": assistant(None, tool_calls=[{"id": "a"}]),
    "odd function": assistant(None, tool_calls=[{"id": "a", "type": "function", "function": "f"}]),
    "odd arguments": assistant(None, tool_calls=[{"id": "a", "function": {"name": 5, "arguments": {"a": 1}}}]),
    "broken arguments": assistant(None, tool_calls=[{"id": "a", "function": {"name": "f", "arguments": '{"a": '}}]),
    "custom call": assistant(None, tool_calls=[{"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}]),
    "equal ids": assistant(None, tool_calls=[{"id": "a", "function": {}}, {"id": "a", "function": {}}]),
    "calls of a user": user("x", tool_calls=[{"id": "a", "function": {"name": "f"}}]),
    "odd function_call": assistant(None, function_call="f"),
    "refusal": assistant(None, refusal="no"),
    "odd refusal": assistant(None, refusal=5),
    "odd reasoning": assistant("x", reasoning_content=5, reasoning=[]),
    "big number": user("x", vendor=10**400),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_any_message_that_names_its_role_is_sent_and_kept(stage: Stage, name: str) -> None:
    message = MESSAGES[name]
    up, proxied = await stage(says("ok"))
    assert (await proxied.ask(message, "hi", to="s")).status == 200
    assert up.requests[0].json["messages"][0] == message
    assert proxied.messages("s")[0] == message
    assert (await proxied.ask("more", to="s")).status == 200
    assert up.requests[1].json["messages"][0] == message
    assert (await proxied.ask(message, "hi", assistant("ok"), "more", assistant("ok"), "end", to="s")).status == 200
    assert proxied.branches("s") == 1


async def test_function_calls_of_the_old_kind_are_kept(stage: Stage) -> None:
    up, proxied = await stage(says("noon"))
    asked = assistant(None, function_call={"name": "clock", "arguments": "{}"})
    answer = {"role": "function", "name": "clock", "content": "12:00"}
    for said in ([user("time?"), asked, answer], [user("thanks")]):
        await proxied.ask(*said, to="s")
    assert up.requests[1].json["messages"] == [user("time?"), asked, answer, assistant("noon"), user("thanks")]


NULLS = ("stream", "n", "tools", "max_tokens", "max_completion_tokens", "stream_options", "metadata", "store", "model",
         "temperature", "session", "conversation", "user", "response_format")  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", NULLS)
async def test_a_null_field_is_as_good_as_none(stage: Stage, name: str, stream: bool) -> None:
    up, proxied = await stage(says("ok"))
    body = {"model": "m", "messages": [user("hi")], "stream": stream, name: None}
    reply = await proxied.post(json.dumps(body).encode(), to="s")
    assert (reply.status, reply.text) == (200, "ok")
    assert up.requests[0].json.get(name) is None or name in ("stream_options", "model")
    assert proxied.stored("s") == ["user: hi", "assistant: ok"]


OPTION_NULLS = ("mode", "save", "recall", "token_budget", "context_overflow", "fork", "agent", "auto_run_tools")


@pytest.mark.parametrize("name", OPTION_NULLS)
async def test_a_null_option_is_as_good_as_none(stage: Stage, name: str) -> None:
    _, proxied = await stage(says("ok"))
    reply = await proxied.post(
        json.dumps({"messages": [user("hi")], "session": {"id": "s", name: None}}).encode(), to=None
    )
    assert (reply.status, reply.text) == (200, "ok")


async def test_unknown_fields_reach_the_model_as_they_were_written(stage: Stage) -> None:
    up, proxied = await stage(says("ok"))
    fields = b'"temperature":1.0,"x":1e999,"y":100000000000000000000000.10,"z":{"b":1,"a":[ 1 ]},"a b":"\\u00e9"'
    await proxied.post(b'{"messages":[{"role":"user","content":"hi"}],%b}' % fields, to="s")
    for field in (b'"temperature":1.0', b'"x":1e999', b'"y":100000000000000000000000.10', b'"z":{"b":1,"a":[ 1 ]}'):
        assert field in up.requests[0].body
    assert b'"a b":"\\u00e9"' in up.requests[0].body


async def test_instructions_alone_are_a_turn(stage: Stage) -> None:
    up, proxied = await stage(says("ok"))
    assert (await proxied.ask(system("be brief"), to="s")).text == "ok"
    await proxied.ask("hi", to="s")
    assert up.requests[1].json["messages"] == [system("be brief"), assistant("ok"), user("hi")]


async def test_two_thousand_messages_are_taken(stage: Stage) -> None:
    up, proxied = await stage(says("ok"))
    said = [user(f"q{n // 2}") if n % 2 == 0 else assistant(f"a{n // 2}") for n in range(1999)]
    assert (await proxied.ask(*said, to="s")).text == "ok"
    assert len(proxied.stored("s")) == 2000
    assert (await proxied.ask(*said[1:], assistant("ok"), user("end"), to="s")).text == "ok"
    assert len(up.requests[1].json["messages"]) == 2001


# --- an answer whose text is odd ---


async def test_an_answers_odd_text_reaches_its_client_and_does_not_poison_the_session(stage: Stage) -> None:
    odd = "a\x00b\u2028<|endoftext|>\x85"
    up, proxied = await stage(says(odd), says("ok"))
    reply = await proxied.ask("hi", to="s", stream=True)
    assert reply.text == odd
    await proxied.ask("hi", assistant(odd), "more", to="s")
    assert up.requests[1].json["messages"][1]["content"] == odd
    assert proxied.branches("s") == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_half_a_character_of_an_answer_does_not_poison_the_session(stage: Stage, stream: bool) -> None:
    up, proxied = await stage(says("half \ud83d pair"), says("ok"))
    reply = await proxied.ask("hi", to="s", stream=stream)
    assert reply.text in ("half \ud83d pair", "half \ufffd pair")
    await proxied.ask("more", to="s", stream=stream)
    assert up.requests[1].json["messages"][1]["content"] == "half \ufffd pair"


# --- without a session ---

OBJECTS = [
    b"{}",
    b' \r\n\t{ "a" : 1 } \n',
    b'{"model":"other","messages":"none","stream":"maybe","n":-5,"tools":5}',
    b'{"messages":[{"role":"user","content":"half \\ud83d pair"}]}',
    b'{"\\udc00":"\\ud800","model":"x"}',
    b'{"model":"\\ud800"}',
    b'{"model":5}',
    b'{"model":null}',
    b'{"a":1,"a":2}',
    b'{"a":1.0,"b":1e999,"c":-0,"d":%b}' % (b"9" * 5000),
    b'{"a":"\\u0000\\/\\u00e9","b":"\xc3\xa9"}',
    b'{"a":%b1%b}' % (b"[" * 60, b"]" * 60),
    b'{"session":null,"conversation":null,"session_id":"s"}',
    b'{"metadata":{"other":"x"}}',
    b'{"messages":[{"role":"tool","tool_call_id":"unknown","content":"x"}]}',
]


@pytest.mark.parametrize("body", OBJECTS)
async def test_without_a_session_any_object_goes_up_byte_for_byte(stage: Stage, body: bytes) -> None:
    up, proxied = await stage(status(200, json={"whatever": [1]}, headers={"x-odd": "1"}))
    reply = await proxied.post(body, to=None)
    assert (reply.status, reply.body, reply.headers["x-odd"]) == (200, b'{"whatever": [1]}', "1")
    assert up.requests[0].body == body
    assert proxied.sessions() == []


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=utf-8", None])
async def test_without_a_session_the_content_type_does_not_matter(stage: Stage, kind: str | None) -> None:
    up, proxied = await stage(status(200, json={}))
    reply = await proxied.post(b'{"a": 1}', to=None, headers={"Content-Type": kind or ""})
    assert reply.status == 200
    assert up.requests[0].body == b'{"a": 1}'


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"5", b'"x"', b"null", b"{", b'{"a": NaN}', b"{'a': 1}", b"{} {}", b"\xff"]
)
async def test_without_a_session_what_is_no_object_is_refused(stage: Stage, body: bytes) -> None:
    up, proxied = await stage(says("no"))
    reply = await proxied.post(body, to=None)
    assert (reply.status, reply.error["param"]) == (400, "body")
    assert up.requests == []


async def test_many_levels_are_no_server_error(stage: Stage) -> None:
    _, proxied = await stage(by_model({"m": says("ok")}))
    for depth in (65, 500, 5_000, 200_000):
        body = b'{"model":"m","x":%b%b}' % (b"[" * depth, b"]" * depth)
        assert (await proxied.post(body, to=None)).status in (200, 400)
