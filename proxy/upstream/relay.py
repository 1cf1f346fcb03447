"""A streamed answer as its client may see it: the upstream's events as they came, while a copy of each is folded."""

from collections.abc import AsyncGenerator

from proxy.errors import UpstreamBroken
from proxy.upstream import wire
from proxy.upstream.fold import Fold
from proxy.upstream.protocol import Answer

DONE = b"data: [DONE]\n\n"


async def relay(answer: Answer, fold: Fold, wants_usage: bool, limit: int) -> AsyncGenerator[bytes]:
    """Whole events, joined as they arrive; never [DONE], which the caller owes once the turn is stored.

    The usage chunk that only the proxy asked for stays here. Ends when the answer is whole: at [DONE], or at a clean
    end after a finish_reason. Raises UpstreamBroken, UpstreamTimeout or the error that the upstream put into the
    stream; also when more than `limit` bytes came.
    """
    splitter = wire.Splitter()
    size = 0
    async for data in answer:
        size += len(data)
        if size > limit:
            raise UpstreamBroken("the upstream's answer is too long; raise limits.answer_mb", code="answer_too_large")
        out, done = _taken(splitter.feed(data), fold, wants_usage)
        if out:
            yield out
        if done:
            return
    out, done = _taken(splitter.feed(b"\n\n") if splitter.rest else [], fold, wants_usage)
    if out:
        yield out
    if not (done or fold.finished):
        raise UpstreamBroken("the upstream's stream ended before the answer was finished; send the message again")


def _taken(events: list[bytes], fold: Fold, wants_usage: bool) -> tuple[bytes, bool]:
    """The events to pass on, folded, and whether [DONE] came. What precedes a broken event is passed on first."""
    out: list[bytes] = []
    for event in events:
        payload = wire.payload(event)
        if payload is None:
            continue
        if payload == b"[DONE]":
            return b"".join(out), True
        if fold.add(payload) and not wants_usage:
            continue
        out.append(wire.relayable(event) or b"")
    return out[0] if len(out) == 1 else b"".join(out), False
