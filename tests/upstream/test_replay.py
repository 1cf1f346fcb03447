"""A stored answer again, as the stream that a retry asked for."""

import json
import random
from random import Random
from typing import Any

from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from proxy.upstream import wire
from proxy.upstream.fold import Fold
from proxy.upstream.replay import as_stream
from tests.upstream.answers import answer


def completion(*messages: dict[str, Any], **fields: Any) -> bytes:
    choices = [{"index": n, "message": one, "finish_reason": "stop"} for n, one in enumerate(messages)]
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 5, "model": "m", "choices": choices} | fields
    ).encode()


def chunks(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(wire.payload(event) or b"") for event in wire.Splitter().feed(stream)]


def test_a_stream_is_one_chunk_of_content_and_the_finish() -> None:
    said = {"role": "assistant", "content": "hello"}
    head = {"id": "c", "created": 5, "model": "m", "object": "chat.completion.chunk"}
    assert chunks(as_stream(completion(said), False)) == [
        head | {"choices": [{"index": 0, "delta": said, "finish_reason": None}]},
        head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]


def test_usage_comes_last_for_a_client_that_asked() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    stored = completion({"role": "assistant", "content": "a"}, usage=usage)
    assert [one.get("usage") for one in chunks(as_stream(stored, True))] == [None, None, usage]
    assert chunks(as_stream(stored, True))[-1]["choices"] == []
    assert len(chunks(as_stream(stored, False))) == 2
    assert len(chunks(as_stream(completion({"role": "assistant", "content": "a"}, usage=None), True))) == 2


def test_calls_get_the_index_that_streams_have() -> None:
    made = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in "ab"]
    first = chunks(as_stream(completion({"role": "assistant", "content": None, "tool_calls": made}), False))[0]
    assert first["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **made[0]}, {"index": 1, **made[1]}]


def test_every_choice_is_replayed() -> None:
    stored = completion({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})
    first, last = chunks(as_stream(stored, False))
    assert [(one["index"], one["delta"]["content"]) for one in first["choices"]] == [(0, "a"), (1, "b")]
    assert [one["finish_reason"] for one in last["choices"]] == ["stop", "stop"]


def test_any_answer_replayed_folds_to_itself() -> None:
    seed = random.randrange(2**32)
    for n in range(seed, seed + 1000):
        stored = answer(Random(n))
        fold = Fold()
        for event in wire.Splitter().feed(as_stream(json.dumps(stored).encode(), True)):
            fold.add(wire.payload(event) or b"")
        assert fold.completion() == stored, n
        assert fold.finished, n


def test_the_sdk_puts_any_replayed_answer_together() -> None:
    seed = random.randrange(2**32)
    for n in range(seed, seed + 300):
        stored = answer(Random(n))
        state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
        for one in chunks(as_stream(json.dumps(stored).encode(), True)):
            list(state.handle_chunk(ChatCompletionChunk.construct(**one)))
        final = present(state.current_completion_snapshot.to_dict())
        for choice, kept in zip(final["choices"], stored["choices"], strict=True):
            for call in choice["message"].get("tool_calls", ()):
                call.pop("index", None)  # the SDK's own
            for key in ("token_ids", "native_finish_reason", "content_filter_results"):
                kept.pop(key, None)  # the SDK takes a vendor's fields of a choice from its first chunk alone
        assert final == present(stored), n


def present(value: Any) -> Any:
    """Without nulls: the SDK adds some, and `role` comes without saying."""
    if isinstance(value, dict):
        return {key: present(item) for key, item in value.items() if item is not None}
    return [present(item) for item in value] if isinstance(value, list) else value


def test_whatever_calls_an_answer_holds_its_replay_does_not_break() -> None:
    """A model server's own JSON is replayed before it is checked."""
    for calls in (5, "x", {"a": 1}, [5, None], [{"index": 7, "id": "a"}]):
        given = {"role": "assistant", "content": None, "tool_calls": calls}
        assert len(chunks(as_stream(completion(given), False))) == 2


def test_an_answer_with_little_in_it_is_replayed_too() -> None:
    assert chunks(as_stream(b'{"choices":[]}', True)) == [
        {"object": "chat.completion.chunk", "choices": []}, {"object": "chat.completion.chunk", "choices": []},
    ]  # fmt: skip
    assert chunks(as_stream(b'{"choices":[{}]}', True))[0]["choices"] == [
        {"index": 0, "delta": {}, "finish_reason": None}
    ]


def test_half_a_character_in_the_answer_is_replayed_as_a_replacement() -> None:
    stored = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"a \\ud83d"},"finish_reason":"stop"}]}'
    assert chunks(as_stream(stored, False))[0]["choices"][0]["delta"]["content"] == "a \ufffd"
