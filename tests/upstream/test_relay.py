"""A streamed answer as its client may see it."""

import json
import random
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from proxy.errors import UpstreamBroken, UpstreamRefused
from proxy.upstream.fold import Fold
from proxy.upstream.relay import Relay

LIMIT = 1 << 20


def event(content: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: %b\n\n" % json.dumps({"id": "c", "choices": choices, **fields}).encode()


USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = [event("hel"), event("lo"), event(finish="stop"), USAGE, DONE]


def relayed(pieces: Sequence[bytes], wants_usage: bool = False, limit: int = LIMIT) -> tuple[list[bytes], Relay, Fold]:
    """What goes to the client, piece by piece, as turn.py drives it."""
    fold = Fold()
    relay = Relay(fold, wants_usage, limit)
    out = []
    for piece in pieces:
        out.append(relay.take(piece))
        if relay.over:
            break
    out.append(relay.end())
    return [part for part in out if part], relay, fold


def test_events_pass_as_they_come_without_the_end_and_the_usage_nobody_asked_for() -> None:
    out, relay, fold = relayed(STREAM)
    assert out == STREAM[:3]
    relay.check()
    assert fold.message()["content"] == "hello"
    assert fold.usage == {"prompt_tokens": 3}


def test_usage_passes_to_a_client_that_asked() -> None:
    out, relay, _ = relayed(STREAM, wants_usage=True)
    assert out == STREAM[:4]
    relay.check()


def test_usage_beside_a_choice_passes_to_everybody() -> None:
    last = event(finish="stop", usage={"prompt_tokens": 3})
    out, _, _ = relayed([event("a"), last, DONE])
    assert out == [event("a"), last]


def test_any_cut_of_the_bytes_gives_the_same_events() -> None:
    seed = random.randrange(2**32)
    whole = b"".join(STREAM)
    for n in range(seed, seed + 500):
        draw = Random(n)
        cuts = sorted(draw.sample(range(1, len(whole)), draw.randint(0, 30)))
        out, relay, fold = relayed([whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)])
        relay.check()
        assert b"".join(out) == b"".join(STREAM[:3]), n
        assert all(part.endswith(b"\n\n") for part in out), n
        assert fold.message()["content"] == "hello"


def test_unknown_fields_and_spaces_stay_as_they_are() -> None:
    odd = b'data:  {"choices": [ {"index":0,"delta":{"content":"a","x":1.50}} ],  "y":null}\n\n'
    out, _, _ = relayed([odd, event(finish="stop"), DONE])
    assert out[0] == odd


def test_comments_and_other_fields_stay_here() -> None:
    noise = [
        b": ping\n\n",
        b"retry: 10\n\n",
        b"id: 7\n\n",
        b"event: x\n\n",
        b"data: : OPENROUTER PROCESSING\n\n",
        b"\n\n",
    ]
    out, relay, _ = relayed([event("a"), *noise, event(finish="stop"), DONE])
    relay.check()
    assert b"".join(out) == event("a") + event(finish="stop")


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_other_line_ends_become_line_feeds(end: bytes) -> None:
    out, relay, fold = relayed([b"".join(STREAM).replace(b"\n", end)])
    relay.check()
    assert b"".join(out) == b"".join(STREAM[:3])
    assert fold.message()["content"] == "hello"


def test_nothing_after_the_end_is_taken() -> None:
    out, relay, fold = relayed([event("a") + event(finish="stop") + DONE + event("late")])
    assert relay.over
    relay.check()
    assert b"".join(out) == event("a") + event(finish="stop")
    assert fold.message()["content"] == "a"


def test_a_stream_without_done_is_whole_once_it_has_finished() -> None:
    out, relay, _ = relayed([event("a"), event(finish="stop")])
    relay.check()
    assert len(out) == 2


def test_a_last_event_without_its_blank_line_counts() -> None:
    out, relay, _ = relayed([event("a"), event(finish="stop").rstrip(b"\n")])
    relay.check()
    assert b"".join(out) == event("a") + event(finish="stop")
    _, relay, _ = relayed([event("a"), event(finish="stop"), b"data: [DONE]"])
    relay.check()


def test_a_stream_that_ends_before_it_is_finished_is_broken() -> None:
    out, relay, _ = relayed([event("a")])
    assert out == [event("a")]
    with pytest.raises(UpstreamBroken, match="before the answer was finished"):
        relay.check()


def test_an_empty_stream_is_broken() -> None:
    _, relay, _ = relayed([])
    with pytest.raises(UpstreamBroken):
        relay.check()


@pytest.mark.parametrize("bad", [b"data: {broken\n\n", b"data: 7\n\n", b"data: <html>\n\n", b"data: {}x\n\n"])
def test_what_precedes_a_broken_event_is_passed_on_first(bad: bytes) -> None:
    out, relay, fold = relayed([event("a") + event("b") + bad + event("c")])
    assert b"".join(out) == event("a") + event("b")
    assert relay.over
    with pytest.raises(UpstreamBroken):
        relay.check()
    assert fold.text_only()["content"] == "ab"


def test_an_error_inside_the_stream_ends_it_after_what_came_before() -> None:
    error = b'data: {"error": {"message": "slow down", "code": 429}}\n\n'
    out, relay, _ = relayed([event("a") + error])
    assert out == [event("a")]
    with pytest.raises(UpstreamRefused) as caught:
        relay.check()
    assert caught.value.status == 429


def test_an_answer_longer_than_the_limit_is_broken() -> None:
    size = len(event("a"))
    _, relay, _ = relayed([event("a"), event("b")], limit=2 * size)
    assert not relay.over
    out, relay, _ = relayed([event("a"), event("b"), event("c")], limit=2 * size)
    assert out == [event("a"), event("b")]
    with pytest.raises(UpstreamBroken) as caught:
        relay.check()
    assert caught.value.code == "answer_too_large"


def test_an_event_longer_than_the_limit_of_events_is_broken() -> None:
    huge = b"data: " + b"x" * (5 << 20)
    _, relay, _ = relayed([event("a"), huge], limit=64 << 20)
    with pytest.raises(UpstreamBroken):
        relay.check()


def test_a_stream_that_holds_no_answer_is_a_broken_one() -> None:
    other = b'data: {"choices":[{"index":1,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    for pieces in ([DONE], [other, DONE], [b": hello\n\n", DONE]):
        _, relay, _ = relayed(pieces)
        with pytest.raises(UpstreamBroken):
            relay.check()
