"""The whole answer as a fold over its chunks; test_fold_choices.py has what answers are made of."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.errors import UpstreamBroken, UpstreamRefused
from proxy.upstream.fold import Fold

Message = dict[str, Any]


def chunk(delta: Any, index: int = 0, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return json.dumps({"id": "c1", "created": 5, "model": "m", "choices": [choice], **fields}).encode()


def folded(chunks: Sequence[bytes]) -> Fold:
    fold = Fold()
    for payload in chunks:
        fold.add(payload)
    return fold


def whole(message: Message, **fields: Any) -> Fold:
    fold = Fold()
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    fold.whole(json.dumps({"id": "c1", "choices": choices, **fields}).encode())
    return fold


def test_choices_are_folded_apart_and_the_first_becomes_history() -> None:
    chunks = [chunk({"role": "assistant", "content": f"{n}"}, index=n) for n in (1, 0, 1, 0)]
    fold = folded([*chunks, chunk({}, index=1, finish="length")])
    assert not fold.finished
    fold.add(chunk({}, finish="stop"))
    assert fold.finished
    assert fold.message()["content"] == "00"
    told = [(one["index"], one["message"]["content"], one["finish_reason"]) for one in fold.completion()["choices"]]
    assert told == [(0, "00", "stop"), (1, "11", "length")]


def test_names_and_ids_that_every_chunk_repeats_are_taken_once() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": "{"}}
    more = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": "}"}}
    fold = folded([chunk({"role": "assistant", "tool_calls": [call]}), chunk({"tool_calls": [more]})])
    made = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert fold.message() == {"role": "assistant", "content": None, "tool_calls": [made]}


def test_calls_without_an_index_are_calls_of_their_own() -> None:
    one = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    fold = folded([chunk({"tool_calls": [one]}), chunk({"tool_calls": [one | {"id": "b"}]})])
    assert [call["id"] for call in fold.message()["tool_calls"]] == ["a", "b"]
    assert {call["type"] for call in fold.message()["tool_calls"]} == {"function"}


# --- surrogates ---


def test_halves_of_a_character_in_two_chunks_become_one() -> None:
    halves = [b'{"choices":[{"delta":{"content":"a \\ud83d"}}]}', b'{"choices":[{"delta":{"content":"\\ude42 b"}}]}']
    assert folded(halves).message()["content"] == "a 🙂 b"
    assert folded(halves).text_only() == {"role": "assistant", "content": "a 🙂 b"}


def test_a_half_that_stays_alone_is_replaced() -> None:
    fold = folded([b'{"choices":[{"delta":{"content":"a \\ud83d b","k\\ud83d":"v\\ude42"}}]}'])
    assert fold.message() == {"role": "assistant", "content": "a \ufffd b", "k\ufffd": "v\ufffd"}
    json.dumps(fold.message(), ensure_ascii=False).encode()


# --- what else is known ---


def test_usage_is_kept_and_a_chunk_of_nothing_else_is_told_apart() -> None:
    fold = Fold()
    usage = {"prompt_tokens": 3}
    assert not fold.add(chunk({"content": "a"}, usage=usage))
    assert not fold.add(chunk({"content": "b"}, usage=None))
    assert fold.add(json.dumps({"choices": [], "usage": usage | {"completion_tokens": 1}}).encode())
    assert fold.usage == {"prompt_tokens": 3, "completion_tokens": 1}


def test_an_answer_has_text_once_a_letter_came() -> None:
    fold = Fold()
    for delta in (
        {"role": "assistant", "content": ""},
        {"content": ""},
        {"content": None},
        {"reasoning_content": "hm"},
    ):
        fold.add(chunk(delta))
        assert not fold.has_text
    fold.add(chunk({"content": "a"}))
    assert fold.has_text


def test_what_was_cut_short_holds_no_piece_of_a_call() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "look", "arguments": '{"q'}}
    fold = folded([chunk({"role": "assistant", "content": "let me "}), chunk({"tool_calls": [call]})])
    assert fold.text_only() == {"role": "assistant", "content": "let me "}


def test_the_id_and_model_are_those_of_the_first_chunk() -> None:
    fold = folded([chunk({"content": "a"}), chunk({"content": "b"}, id="c2", model="other")])
    assert [fold.completion()[key] for key in ("id", "model", "created", "object")] == ["c1", "m", 5, "chat.completion"]


# --- answers that are none ---


def deep(levels: int) -> bytes:
    nested = b"[" * levels + b"]" * levels
    return b'{"choices":[{"index":0,"delta":{"content":"a","x":%b}}]}' % nested


BROKEN = [
    b"", b"null", b"7", b"[]", b'"text"', b"{", b"\xff\xfe", b'{"choices":7}', b'{"choices":[7]}', b'{"choices":{}}',
    b'{"choices":[{"delta":7}]}', b'{"choices":[{"index":"a"}]}', b'{"choices":[{"finish_reason":7}]}', b'{"usage":7}',
    b'{"id":7}', b'{"choices":[{"delta":{"content":NaN}}]}', b"[" * 100_000, deep(100_000),
    b'{"created":1e999,"id":"a","choices":[{"index":0,"delta":{"content":"a"},"message":{"content":"a"}}]}',
]  # fmt: skip


@pytest.mark.parametrize("payload", BROKEN, ids=[payload[:40].decode("latin-1") for payload in BROKEN])
def test_garbage_is_a_broken_upstream(payload: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        Fold().add(payload)
    with pytest.raises(UpstreamBroken):
        Fold().whole(payload)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"choices":[]}', b'{"choices":[{"index":0}]}', b'{"choices":[{"message":null}]}']
)
def test_an_answer_without_a_message_is_a_broken_upstream(body: bytes) -> None:
    with pytest.raises(UpstreamBroken, match="choices"):
        Fold().whole(body)


WRONG = [
    {"content": 5}, {"content": {"a": 1}}, {"content": [{"type": "text", "text": 5}]}, {"tool_calls": "x"},
    {"tool_calls": {"a": 1}}, {"tool_calls": [5]}, {"tool_calls": [{"id": "a", "function": 5}]},
    {"tool_calls": [{"id": 5, "function": {"name": "f", "arguments": "{}"}}]},
    {"tool_calls": [{"id": "a", "function": {"name": 5, "arguments": "{}"}}]},
]  # fmt: skip


@pytest.mark.parametrize("given", WRONG, ids=[json.dumps(given) for given in WRONG])
def test_a_message_of_wrong_types_is_a_broken_upstream(given: Message) -> None:
    """It would be sent again with every later turn."""
    with pytest.raises(UpstreamBroken):
        whole({"role": "assistant", "content": "a", **given}).message()


@pytest.mark.parametrize("role", [5, "user", "system", None, ""])
def test_the_reply_is_an_assistants_whatever_the_upstream_calls_it(role: Any) -> None:
    assert whole({"role": role, "content": "a"}).message()["role"] == "assistant"
    assert folded([chunk({"role": role, "content": "a"})]).message()["role"] == "assistant"


def test_nesting_that_cannot_be_stored_is_a_broken_upstream() -> None:
    with pytest.raises(UpstreamBroken):
        folded([deep(500)]).message()


def test_an_error_inside_the_answer_is_raised_with_its_status() -> None:
    error = {"message": "slow down", "code": 429, "type": "rate_limit"}
    with pytest.raises(UpstreamRefused) as caught:
        Fold().add(json.dumps({"error": error}).encode())
    assert (caught.value.status, caught.value.message) == (429, "slow down")
    assert json.loads(caught.value.body or b"") == {"error": error}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "oops", "code": "the user said: my password is x"}, "oops"),
        ({"message": "oops", "code": 200}, "oops"),
        ("oops", "oops"),
        ({}, "the upstream reported an error in mid-answer"),
    ],
)
def test_an_error_without_a_status_is_a_broken_upstream(error: Any, message: str) -> None:
    """Its own code goes to the client with the body, and to no log."""
    for take in (Fold().add, Fold().whole):
        with pytest.raises(UpstreamBroken) as caught:
            take(json.dumps({"error": error}).encode())
        assert (caught.value.message, caught.value.code) == (message, "upstream_broken")
        assert caught.value.body == (json.dumps({"error": error}).encode() if isinstance(error, dict) else None)


def test_an_error_beside_a_choice_that_ends_with_it_is_raised_and_passed_on_as_it_came() -> None:
    given = {"error": {"message": "half \ud83d"}, "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}
    with pytest.raises(UpstreamBroken) as caught:
        Fold().add(json.dumps(given).encode())
    assert json.loads(caught.value.body or b"") == {"error": {"message": "half \ufffd"}}


def test_a_null_error_beside_an_answer_is_none() -> None:
    fold = folded([chunk({"content": "a"}, error=None), chunk({"content": "b"}, error={"message": "late"})])
    assert fold.message()["content"] == "ab"
