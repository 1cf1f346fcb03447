"""Answers with several choices, logprobs, refusals, sound, calls of all kinds: whole or streamed, they fold alike."""

import base64
import json
import random
from random import Random
from typing import Any

import pytest

from proxy.errors import UpstreamBroken
from proxy.upstream.fold import Fold
from proxy.upstream.merge import DEEPEST
from tests.upstream.answers import answer, split

Json = dict[str, Any]


def chunk(*choices: Json, **fields: Any) -> bytes:
    return json.dumps({"id": "c1", "created": 5, "model": "m", "choices": list(choices), **fields}).encode()


def part(index: int, delta: Json | None = None, finish: str | None = None, **fields: Any) -> Json:
    return {"index": index, "delta": delta or {}, "finish_reason": finish, **fields}


def folded(*chunks: bytes) -> Fold:
    fold = Fold()
    for payload in chunks:
        fold.add(payload)
    return fold


def whole(given: Json) -> Fold:
    fold = Fold()
    fold.whole(json.dumps(given).encode())
    return fold


def said(*deltas: Json) -> Json:
    """Choice 0's message of a stream of these deltas."""
    return folded(*[chunk(part(0, delta)) for delta in deltas]).message()


# --- fold(split(x)) == x ---


def test_an_answer_split_in_any_way_folds_to_itself() -> None:
    seed = random.randrange(2**32)
    for n in range(seed, seed + 3000):
        draw = Random(n)
        given = answer(draw)
        fold = folded(*split(given, draw))
        assert fold.completion() == given, n
        assert fold.finished, n


def test_an_answer_that_comes_whole_folds_as_its_stream_does() -> None:
    seed = random.randrange(2**32)
    for n in range(seed, seed + 1000):
        draw = Random(n)
        given = answer(draw)
        fold, other = whole(given), folded(*split(given, draw))
        assert fold.completion() == given, n
        assert (fold.message(), fold.untold(), fold.usage) == (other.message(), other.untold(), other.usage), n


def test_what_becomes_history_is_choice_0_without_what_is_empty() -> None:
    seed = random.randrange(2**32)
    for n in range(seed, seed + 300):
        given = answer(Random(n))
        first = given["choices"][0]["message"]
        kept = {key: one for key, one in first.items() if key in ("role", "content") or one not in (None, [], "")}
        assert whole(given).message() == kept, n


def test_what_the_history_does_not_tell_is_all_but_choice_0s_message() -> None:
    seed = random.randrange(2**32)
    for n in range(seed, seed + 500):
        given = answer(Random(n))
        untold = whole(given).untold()
        first, *others = given["choices"]
        ended = first["finish_reason"] in ("stop", "tool_calls", "function_call")
        if not others and first["logprobs"] is None and ended:
            assert untold == [], n
        else:
            assert untold == [{key: one for key, one in first.items() if key != "message"}, *others], n


# --- choices ---


def test_an_answer_is_finished_when_every_choice_that_was_seen_is() -> None:
    fold = folded(chunk(part(0, {"content": "a"}), part(2, {"content": "c"})))
    for index in (0, 1, 2):
        assert not fold.finished
        fold.add(chunk(part(index, finish="stop")))
    assert fold.finished
    fold.add(chunk(part(3)))  # seen, and nothing said yet
    assert not fold.finished


def test_an_answer_without_choice_0_is_not_finished() -> None:
    assert not folded(chunk(part(1, {"content": "b"}, "stop"))).finished
    assert not Fold().finished


def test_a_choice_that_never_gets_a_role_is_one_all_the_same() -> None:
    fold = folded(chunk(part(1, {"content": "b"})), chunk(part(0, {"content": "a"}), part(1, {"content": "c"})))
    assert [one["message"] for one in fold.completion()["choices"]] == [
        {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "bc"},
    ]  # fmt: skip


def test_what_was_cut_short_is_the_text_of_choice_0_alone() -> None:
    fold = folded(chunk(part(1, {"content": "b"})))
    assert not fold.has_text
    assert fold.text_only() == {"role": "assistant", "content": ""}
    fold.add(chunk(part(0, {"content": "a"})))
    assert fold.has_text
    assert fold.text_only() == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("numbers", [[None, None, None], [0, 0, 0], [1, 2, 3]])
def test_whole_choices_that_are_not_counted_from_0_are_taken_in_their_order(numbers: list[int | None]) -> None:
    choices = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in "abc"]
    counted = [one if n is None else one | {"index": n} for n, one in zip(numbers, choices, strict=True)]
    fold = whole({"id": "c", "choices": counted})
    assert [(one["index"], one["message"]["content"]) for one in fold.completion()["choices"]] == [
        (0, "a"), (1, "b"), (2, "c"),
    ]  # fmt: skip


def test_whole_choices_in_another_order_keep_their_numbers() -> None:
    choices = [{"index": n, "message": {"content": f"{n}"}, "finish_reason": "stop"} for n in (2, 0, 1)]
    fold = whole({"id": "c", "choices": choices})
    assert fold.message()["content"] == "0"
    assert [one["message"]["content"] for one in fold.completion()["choices"]] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        ({"content": "a"}, "stop"),
        ({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]}, "tool_calls"),
        ({"function_call": {"name": "f", "arguments": ""}}, "function_call"),
    ],
)
def test_an_answer_whose_end_gives_no_reason_ended_as_its_message_shows(delta: Json, reason: str) -> None:
    fold = folded(chunk(part(0, delta)))
    assert fold.completion()["choices"][0]["finish_reason"] == reason
    assert fold.untold() == []


# --- what a message holds ---


def test_a_refusal_joins_and_leaves_no_content() -> None:
    deltas = ({"role": "assistant", "content": "", "refusal": None}, {"refusal": "I "}, {"refusal": "won't"})
    assert said(*deltas) == {"role": "assistant", "content": None, "refusal": "I won't"}


def test_a_call_of_the_old_kind_joins_its_arguments() -> None:
    first = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": ""}}
    deltas = (first, {"function_call": {"arguments": '{"q":'}}, {"function_call": {"arguments": "1}"}})
    made = {"name": "look", "arguments": '{"q":1}'}
    assert said(*deltas) == {"role": "assistant", "content": None, "function_call": made}


@pytest.mark.parametrize("kind", [{"type": "custom"}, {"type": None}, {}])
def test_a_custom_call_joins_its_input_and_has_its_type(kind: Json) -> None:
    first = {"index": 0, "id": "c", **kind, "custom": {"name": "shell", "input": ""}}
    more = [{"index": 0, "custom": {"input": text}} for text in ("ls ", "-l")]
    made = {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    assert said(*[{"tool_calls": [one]} for one in (first, *more)])["tool_calls"] == [made]


def test_sound_is_joined_of_pieces_that_are_base64_each_by_itself() -> None:
    each = [base64.b64encode(piece).decode() for piece in (b"a", b"bc", b"def", b"g")]
    deltas: list[Json] = [{"id": "audio_1"}, {"transcript": "Hel"}, *({"data": one} for one in each)]
    deltas += [{"transcript": "lo"}, {"expires_at": 99}]
    audio = {"id": "audio_1", "transcript": "Hello", "data": base64.b64encode(b"abcdefg").decode(), "expires_at": 99}
    assert said(*[{"audio": one} for one in deltas]) == {"role": "assistant", "content": None, "audio": audio}


def test_sound_that_is_no_base64_stays_as_it_is() -> None:
    assert said({"audio": {"data": "=?="}}, {"audio": {"data": "ab=="}})["audio"]["data"] == "=?=ab=="


def test_text_beside_parts_stands_behind_them() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = said({"content": [thought]}, {"content": "yes"}, {"content": "!"})["content"]
    assert parts == [thought, {"type": "text", "text": "yes!"}]


def test_an_answer_of_nothing_but_reasoning_can_be_sent_again() -> None:
    assert said({"content": None, "reasoning_content": "hm"}) == {
        "role": "assistant", "content": "", "reasoning_content": "hm",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"content": 5}, {"content": {"a": 1}}, {"function_call": "look"},
                                   {"function_call": {"name": "look", "arguments": {}}}])  # fmt: skip
def test_a_streamed_message_of_wrong_types_is_a_broken_upstream(wrong: Json) -> None:
    with pytest.raises(UpstreamBroken):
        said({"content": "a"}, wrong)


# --- what stands beside the message ---


def test_logprobs_are_those_of_all_chunks_and_null_where_there_are_none() -> None:
    one, two, three = ({"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": []} for text in "abc")
    fold = folded(
        chunk(part(0, {"role": "assistant", "content": ""}, logprobs=None), part(1, logprobs=None)),
        chunk(part(0, {"content": "a"}, logprobs={"content": [one], "refusal": None})),
        chunk(part(0, {"content": "bc"}, logprobs={"content": [two, three], "refusal": None})),
        chunk(part(0, finish="stop", logprobs=None)),
    )
    told = [choice["logprobs"] for choice in fold.completion()["choices"]]
    assert told == [{"content": [one, two, three], "refusal": None}, None]


def test_a_server_that_first_says_what_it_filtered_is_named_by_the_chunk_that_names_it() -> None:
    filtered = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}]
    first = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": filtered}
    fold = folded(json.dumps(first).encode(), chunk(part(0, {"content": "a"}, "stop")))
    told = fold.completion()
    assert (fold.id, fold.model, told["created"], told["prompt_filter_results"]) == ("c1", "m", 5, filtered)


def test_a_server_without_ids_is_known_by_what_it_said_first() -> None:
    parts = [b'{"model":"m","created":5,"choices":[]}', b'{"model":"n","created":6,"choices":[]}', b'{"choices":[]}']
    told = folded(*parts).completion()
    assert (told["id"], told["model"], told["created"]) == (None, "m", 5)


def test_padding_and_what_nobody_said_are_no_part_of_the_answer() -> None:
    fold = folded(chunk(part(0, {"content": "a", "obfuscation": "x"}), obfuscation="yy", usage=None, x_top=None))
    assert fold.completion().keys() == {"id", "object", "created", "model", "choices"}
    assert fold.message() == {"role": "assistant", "content": "a"}


def test_halves_of_a_character_are_joined_or_replaced_wherever_they_stand() -> None:
    fold = folded(
        b'{"x":"\\ud83d","choices":[{"index":1,"delta":{"refusal":"\\ud83d"},"y":"\\ud83d",'
        b'"logprobs":{"content":[{"token":"\\ud83d"}]}}]}',
        b'{"choices":[{"index":1,"delta":{"refusal":"\\ude42"},"finish_reason":"stop"}]}',
    )
    told = fold.completion()
    assert json.loads(json.dumps(told, ensure_ascii=False).encode()) == told
    choice = told["choices"][0]
    assert (told["x"], choice["y"], choice["message"]["refusal"]) == ("\ufffd", "\ufffd", "🙂")
    assert choice["logprobs"]["content"] == [{"token": "\ufffd"}]


# --- what an upstream may do to the proxy ---


@pytest.mark.parametrize("place", ["delta", "logprobs", "x_choice"])
def test_what_is_nested_too_deeply_is_a_broken_upstream_however_often_it_comes(place: str) -> None:
    value: Json = {}
    for _ in range(300):
        value = {"k": value}
    fold = Fold()
    with pytest.raises(UpstreamBroken):
        for _ in range(2):
            fold.add(chunk({"index": 0, place: {"k": value}}))
    assert DEEPEST < 300
