"""What is stored of an answer: as it came, and as OpenAI's description asks for."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import completion
from proxy.completion import Given, Storing
from proxy.upstream import replay, wire
from proxy.upstream.fold import Fold
from tests.stored_schema import COMPLETION, SAID, check

NOW = 1_700_000_000_123
CALL = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
CUSTOM = {"id": "call_2", "type": "custom", "custom": {"name": "sh", "input": "ls"}}


def request(storing: dict[str, str] | None = None, /, **fields: Any) -> Given:
    raw = {key: json.dumps(value).encode() for key, value in {"model": "asked", "messages": [], **fields}.items()}
    return Given(raw, Storing(storing or {}), "req_1", NOW)


def answer(*messages: Any, **fields: Any) -> dict[str, Any]:
    choices = [{"index": n, "message": one, "finish_reason": "stop"} for n, one in enumerate(messages)]
    return {"id": "c", "object": "chat.completion", "created": 5, "model": "m", "choices": choices, **fields}


def stored(asked: Given, told: Any) -> tuple[completion.New, Any]:
    """The row, and its body with the id."""
    raw = told if isinstance(told, bytes) else json.dumps(told).encode()
    new = completion.made(asked, raw)
    assert new is not None
    return new, {"id": new.name, **json.loads(new.body)}


def test_it_keeps_the_answer_and_tells_what_was_asked() -> None:
    new, body = stored(
        request({"k": "v"}, temperature=0.5, tools=[{"type": "function"}], seed=7, user="ada", service_tier="flex"),
        answer({"role": "assistant", "content": "hi", "vendor": [1.50]}, usage={"total_tokens": 3}, citations=["x"]),
    )
    assert (new.name, new.created, new.models, new.metadata) == ("c", 5, ["m", "asked"], {"k": "v"})
    message = {"role": "assistant", "content": "hi", "refusal": None, "vendor": [1.5]}
    assert body == {
        "id": "c", "object": "chat.completion", "created": 5, "model": "m", "usage": {"total_tokens": 3},
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "citations": ["x"], "request_id": "req_1", "input_user": "ada", "temperature": 0.5, "top_p": None, "seed": 7,
        "presence_penalty": None, "frequency_penalty": None, "tools": [{"type": "function"}], "tool_choice": None,
        "response_format": None, "service_tier": "flex",
    }  # fmt: skip


def test_values_keep_their_bytes() -> None:
    raw = b'{"id":"c","choices":[{"message":{"content":"a\\u00e9","x":1.50e2}}],"big":123456789012345678901234567890}'
    new, _ = stored(request(), raw)
    assert b'"a\\u00e9"' in new.body
    assert b"1.50e2" in new.body
    assert b"123456789012345678901234567890" in new.body


def test_the_answer_says_it_better_than_the_request() -> None:
    _, body = stored(
        request(temperature=2.5, service_tier="auto", seed=None),
        answer({"content": "x"}, temperature=1.0, service_tier="default", seed=7, metadata={"theirs": "1"}),
    )
    assert (body["temperature"], body["service_tier"], body["seed"]) == (1.0, "default", 7)
    assert "metadata" not in body


@pytest.mark.parametrize("id", [None, "", 5, "x" * 300, ["c"]], ids=["none", "empty", "a number", "too long", "a list"])
def test_an_answer_without_an_id_gets_one(id: Any) -> None:
    new, _ = stored(request(), answer({"content": "x"}, id=id))
    again, _ = stored(request(), answer({"content": "y"}, id=id))
    assert new.name.startswith("chatcmpl-")
    assert len({new.name, again.name}) == 2


@pytest.mark.parametrize(
    ("created", "told"),
    [(5, 5), (5.9, 5), (0, NOW // 1000), (None, NOW // 1000), (-1, NOW // 1000), (2**70, NOW // 1000),
     ("5", NOW // 1000), (True, NOW // 1000)],
)  # fmt: skip
def test_it_was_made_when_the_answer_says_so(created: Any, told: int) -> None:
    new, body = stored(request(), answer({"content": "x"}, created=created))
    assert new.created == body["created"] == told


def test_an_answer_without_a_model_is_of_the_one_that_was_asked() -> None:
    bare = answer({"content": "x"})
    del bare["model"]
    assert stored(request(), bare)[0].models == ["asked"]
    aliased = msgspec.structs.replace(request(), model="real")
    assert stored(aliased, bare)[0].models == ["real", "asked"]
    assert stored(request(model=None), bare)[1]["model"] == ""


@pytest.mark.parametrize(
    "broken",
    [b"", b"null", b"[]", b"{}", b'{"choices":null}', b'{"choices":[1]}', b'{"choices":[{"message":1}]}', b"{",
     b'{"id":"c","choices":[],"created":1e999}', b'{"choices":' + b"[" * 5_000 + b"]" * 5_000 + b"}"],
)  # fmt: skip
def test_what_is_no_chat_completion_is_not_stored(broken: bytes) -> None:
    assert completion.made(request(), broken) is None


def test_half_a_character_and_broken_bytes_stay_readable() -> None:
    new, body = stored(request(), b'{"id":"c","choices":[{"message":{"content":"a\\ud83d"}}]}')
    assert body["choices"][0]["message"]["content"] == "a\ufffd"
    new, _ = stored(request(), b'{"id":"c","choices":[{"message":{"content":"a\xff"}}]}')
    assert json.loads(new.body)["choices"][0]["message"]["content"] == "a\ufffd"


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b'[{"role":"user"}]', b'[{"role":"user"}]'), (b' [ {"a" :1} ] ', b' [ {"a" :1} ] '), (b"null", b"[]"),
     (b'"x"', b"[]"), (b'[1,{"a":1},null]', b'[{"a":1}]'), (b'[{"a":"\xff"}]', '[{"a":"\ufffd"}]'.encode()),
     (b'[{"a":"\\ud800"}]', '[{"a": "\ufffd"}]'.encode()), (b"", b"[]")],
)  # fmt: skip
def test_messages_are_kept_as_they_were_sent(given: bytes, kept: bytes) -> None:
    asked = Given({"messages": given}, Storing({}), "r", NOW)
    new = completion.made(asked, json.dumps(answer({"content": "x"})).encode())
    assert new is not None
    assert new.messages == kept


def test_a_request_without_messages_has_none() -> None:
    asked = Given({}, Storing({}), "r", NOW)
    new = completion.made(asked, json.dumps(answer({"content": "x"})).encode())
    assert new is not None
    assert completion.items(new.messages) == []


PARTS = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:,"}}]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"role": "user", "content": "hi", "name": "bob"}, {"content": "hi", "name": "bob", "content_parts": None}),
        ({"role": "user", "content": PARTS}, {"content": None, "content_parts": PARTS}),
        ({"role": "assistant", "tool_calls": [CALL, CUSTOM]}, {"content": None, "tool_calls": [CALL, CUSTOM]}),
        ({"role": "tool", "content": "3", "tool_call_id": "call_1"}, {"content": "3", "tool_call_id": "call_1"}),
        ({"role": "assistant", "content": "x", "tool_calls": None, "refusal": "no", "id": "own"}, {"refusal": "no"}),
        ({"role": "developer", "content": "", "x": {"y": 1}}, {"content": "", "x": {"y": 1}}),
    ],
)
def test_a_message_is_listed_with_an_id(message: dict[str, Any], told: dict[str, Any]) -> None:
    raw = completion.items(json.dumps([message]).encode())[0]
    shown = json.loads(bytes(completion.shown("c", 3, raw)))
    check(SAID, shown)
    assert told.items() <= shown.items()
    assert shown["id"] == "c-3" == completion.message_id("c", 3)
    assert shown["role"] == message["role"]


# --- whatever an upstream says ---

LOGPROB = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
MESSAGES = st.fixed_dictionaries(
    {"role": st.just("assistant")},
    optional={
        "content": st.none() | st.text(max_size=5),
        "refusal": st.none() | st.just("no"),
        "tool_calls": st.none() | st.lists(st.sampled_from([CALL, CUSTOM]), max_size=2),
        "annotations": st.none() | st.just([]),
        "function_call": st.none() | st.just({"name": "f", "arguments": "{}"}),
        "audio": st.none(),
        "reasoning_content": st.none() | st.text(max_size=5),
    },
)
CHOICES = st.fixed_dictionaries(
    {"message": MESSAGES},
    optional={
        "index": st.integers(0, 3),
        "finish_reason": st.none() | st.sampled_from(["stop", "length", "tool_calls"]),
        "logprobs": st.none() | st.just({"content": [LOGPROB], "refusal": None}),
    },
)
ANSWERS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, min_size=1, max_size=3)},
    optional={
        "id": st.none() | st.text(max_size=5),
        "object": st.just("chat.completion"),
        "created": st.none() | st.integers(0, 2**40),
        "model": st.none() | st.text(max_size=5),
        "usage": st.none() | st.just({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
        "system_fingerprint": st.none() | st.just("fp"),
        "service_tier": st.none() | st.just("default"),
        "vendor": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    },
)


@given(ANSWERS)
def test_every_answer_fits_openais_description(told: dict[str, Any]) -> None:
    _, body = stored(request(), told)
    check(COMPLETION, body)
    for before, after in zip(told["choices"], body["choices"], strict=True):
        for key, value in before["message"].items():
            assert after["message"].get(key) == value
    assert body.get("vendor") == told.get("vendor")


@given(ANSWERS.filter(lambda told: told.get("id")))
def test_a_streamed_answer_fits_it_too(told: dict[str, Any]) -> None:
    told = {**told, "choices": [{**one, "index": n} for n, one in enumerate(told["choices"])]}
    stream = replay.as_stream(json.dumps(told).encode(), wants_usage=True)
    fold = Fold()
    for payload in wire.payloads(stream):
        fold.add(payload)
    new, body = stored(request(), msgspec.json.encode(fold.completion()))
    check(COMPLETION, body)
    assert new.name == told["id"]
    assert len(body["choices"]) == len(told["choices"])
