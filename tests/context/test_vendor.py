"""What of a stored message goes upstream again, and what stays behind."""

import json
import random
from random import Random
from typing import Any

import pytest

from proxy.context.vendor import forwardable, is_opaque

NOW = 1_700_000_000
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"signature": "mine"}'}}
SIGNED_CALL = CALL | {"extra_content": {"google": {"thought_signature": "c2ln"}}}
ENCRYPTED = {"type": "reasoning.encrypted", "data": "AbC=", "format": "x", "index": 0}
SUMMARY = {"type": "reasoning.summary", "summary": "I looked.", "signature": None, "index": 1}


def said(**fields: Any) -> bytes:
    return json.dumps({"role": "assistant", "content": "hi"} | fields).encode()


def again(raw: bytes, same_model: bool = True, strip: tuple[str, ...] = (), now: int = NOW) -> bytes:
    return forwardable(raw, same_model, strip, now)


def fields(raw: bytes, same_model: bool = True, strip: tuple[str, ...] = (), now: int = NOW) -> dict[str, Any]:
    return json.loads(again(raw, same_model, strip, now))


VERBATIM = [
    {"reasoning_content": "I think"},
    {"reasoning": "I think"},
    {"reasoning_details": [ENCRYPTED, SUMMARY]},
    {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "EqQB"}]},
    {"redacted_thinking": "xx"},
    {"tool_calls": [SIGNED_CALL]},
    {"extra_content": {"google": {"thought_signature": "c2ln"}}},
    {"reasoning_items": [{"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAA", "summary": []}]},
    {"provider_specific_fields": {"thought_signatures": ["c2ln"]}},
    {"cache_control": {"type": "ephemeral"}},
    {"content": [{"type": "text", "text": "hi", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}]},
    {"anything": {"else": [1.50, None]}, "refusal": None},
    {"audio": {"id": "audio_1"}},
]


@pytest.mark.parametrize("extra", VERBATIM, ids=lambda extra: next(iter(extra)))
def test_the_model_that_wrote_a_message_gets_its_very_bytes(extra: dict[str, Any]) -> None:
    raw = b' {"role" : "assistant",\n"n": 1.50, "n": 1e2, ' + json.dumps({"content": "hi"} | extra).encode()[1:]
    assert again(raw) == raw
    assert again(said(**extra)) == said(**extra)


@pytest.mark.parametrize("role", ["user", "tool", "system", "developer"])
@pytest.mark.parametrize("same_model", [True, False])
def test_the_messages_of_others_stay_as_they_are(role: str, same_model: bool) -> None:
    parts = [{"type": "audio", "audio": {"data": "AA", "id": "x"}}, {"type": "thinking", "signature": "s"}]
    raw = json.dumps({"content": parts, "role": role, "annotations": [1], "signature": "s"}).encode()
    assert again(raw, same_model) == raw
    assert not is_opaque(raw)


@pytest.mark.parametrize("name", ["annotations", "citations", "logprobs"])
def test_what_only_answers_hold_is_left_out(name: str) -> None:
    raw = b'{"role":"assistant","content":"hi","%b":[{"type": "url_citation"}],"x":{ "n": 1.50 }}' % name.encode()
    assert again(raw) == b'{"role":"assistant","content":"hi","x":{ "n": 1.50 }}'
    assert not is_opaque(raw)


def test_a_text_that_names_such_fields_is_a_text() -> None:
    raw = said(content='{"annotations": [], "signature": "s", "audio": {"id": "x"}}')
    assert again(raw) == again(raw, False) == raw


# --- another model ---


@pytest.mark.parametrize(
    "opaque",
    [
        {"reasoning_details": [ENCRYPTED, {"type": "reasoning.text", "text": "hm", "signature": "s"}]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "xx"}]},
        {"reasoning_items": [{"id": "rs_1"}]},
        {"extra_content": {"google": {"thought_signature": "c2ln"}}},
        {"provider_specific_fields": {"thought_signatures": ["c2ln"], "thinking_blocks": []}},
        {"reasoning_opaque": "xx"},
        {"signature": "s", "encrypted_content": "xx"},
    ],
)
def test_opaque_reasoning_is_left_out_for_another_model(opaque: dict[str, Any]) -> None:
    raw = said(reasoning_content="I think", reasoning="so", **opaque)
    assert fields(raw, False) == json.loads(said(reasoning_content="I think", reasoning="so"))
    assert is_opaque(raw)


def test_what_can_be_read_beside_it_stays() -> None:
    vendors = {"google": {"thought": True, "thought_signature": "c2ln"}, "other": 1}
    raw = said(
        reasoning_details=[SUMMARY, ENCRYPTED],
        tool_calls=[SIGNED_CALL, SIGNED_CALL | {"extra_content": vendors}],
        provider_specific_fields={"refusal": None, "reasoning_content": "hm", "thought_signatures": ["s"]},
    )
    assert fields(raw, False) == json.loads(
        said(
            reasoning_details=[SUMMARY],
            tool_calls=[CALL, CALL | {"extra_content": {"google": {"thought": True}, "other": 1}}],
            provider_specific_fields={"refusal": None, "reasoning_content": "hm"},
        )
    )


def test_thinking_parts_leave_the_content() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    text = {"type": "text", "text": "hi"}
    hidden = {"type": "redacted_thinking", "data": "xx"}
    assert fields(said(content=[thought, text, hidden]), False)["content"] == [text]
    assert fields(said(content=[thought]), False)["content"] == ""
    assert fields(said(content=[thought], tool_calls=[CALL]), False)["content"] is None
    assert fields(said(content=[thought, text])) == json.loads(said(content=[thought, text]))


def test_arguments_of_calls_are_nobodys_vendor_fields() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "sign", "arguments": {"signature": "Ada"}}}
    raw = said(tool_calls=[call])
    assert again(raw, False) == raw
    assert not is_opaque(raw)


# --- audio ---


AUDIO = {"id": "audio_1", "data": "UklGRg==", "expires_at": NOW + 10, "transcript": "good morning"}


def test_audio_is_sent_by_its_id() -> None:
    assert fields(said(content=None, audio=AUDIO)) == {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}


@pytest.mark.parametrize(("same_model", "now"), [(True, NOW + 10), (False, NOW)])
def test_audio_that_the_upstream_does_not_have_becomes_its_words(same_model: bool, now: int) -> None:
    raw = said(content=None, audio=AUDIO)
    assert fields(raw, same_model, now=now) == {"role": "assistant", "content": "good morning"}
    assert fields(said(content="text", audio=AUDIO), same_model, now=now) == {"role": "assistant", "content": "text"}
    assert is_opaque(raw)


def test_audio_without_words_leaves_an_empty_text() -> None:
    assert fields(said(content=None, audio={"id": "a"}), False) == {"role": "assistant", "content": ""}
    assert fields(said(audio={"data": "AA"})) == {"role": "assistant", "content": "hi"}
    assert fields(said(audio=None)) == json.loads(said(audio=None))


# --- fields that an upstream refuses ---


def test_named_fields_are_left_out_of_messages_and_parts_of_any_role() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    text = {"type": "text", "text": "a cache_control"}
    inner = {"type": "tool_result", "content": [text | mark]}
    for role in ("user", "assistant", "tool"):
        raw = json.dumps({"role": role, "content": [text | mark, inner | mark], **mark, "x": mark}).encode()
        bare = {"role": role, "content": [text, {"type": "tool_result", "content": [text]}], "x": mark}
        assert fields(raw, strip=("cache_control", "other")) == bare
        assert again(raw, strip=("other",)) == raw


def test_both_kinds_of_fields_go_together() -> None:
    raw = said(content=[{"type": "text", "text": "hi", "cache_control": {}}], annotations=[], signature="s")
    assert fields(raw, False, ("cache_control",)) == {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}


# --- any message ---


NAMES = ("signature", "text", "arguments", "annotations", "reasoning_details", "thinking_blocks", "x", "data", "type",
         "audio", "content", "cache_control", "extra_content", "id")  # fmt: skip


def value(draw: Random, depth: int) -> Any:
    kind = draw.randrange(6 if depth else 4)
    if kind == 4:
        return {name: value(draw, depth - 1) for name in draw.sample(NAMES, draw.randrange(4))}
    if kind == 5:
        return [value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return draw.choice((None, True, 1.5, "thinking", "reasoning.encrypted", "a\"b'\\,", "é", ""))


def test_any_message_stays_a_message_and_is_settled_at_once() -> None:
    draw = Random(random.random())
    for _ in range(2000):
        role = draw.choice(("assistant", "user"))
        made = {"content": value(draw, 3), "tool_calls": value(draw, 3)} | {
            name: value(draw, 3) for name in draw.sample(NAMES, 4)
        }
        raw = json.dumps(made | {"role": role}).encode()
        for same in (True, False):
            for strip in ((), ("cache_control", "x")):
                once = again(raw, same, strip)
                assert again(once, same, strip) == once
                assert json.loads(once)["role"] == role
                assert set(json.loads(once)) <= set(json.loads(raw))
                if not strip:
                    assert (once != raw) or same or not is_opaque(raw)
    deep = b'{"role":"assistant","content":"x","y":' + b'{"signature":1,"a":' * 300 + b"1" + b"}" * 301
    assert json.loads(again(deep, False))["role"] == "assistant"
