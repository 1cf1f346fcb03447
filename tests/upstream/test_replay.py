"""A stored answer again, as the stream that a retry asked for."""

import json
import random
from random import Random
from typing import Any

from proxy.upstream import wire
from proxy.upstream.fold import Fold
from proxy.upstream.replay import as_stream
from tests.upstream.test_fold import message


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
    for n in range(seed, seed + 500):
        said = message(Random(n))
        fold = Fold()
        for event in wire.Splitter().feed(as_stream(completion(said), False)):
            fold.add(wire.payload(event) or b"")
        assert fold.message() == said, n
        assert fold.finished


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
