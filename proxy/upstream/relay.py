"""A streamed answer as its client may see it: the upstream's events as they came, while a copy of each is folded."""

from collections.abc import AsyncGenerator

import msgspec

from proxy.errors import UpstreamBroken, UpstreamError
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
        taken = _take(splitter.feed(data), fold, wants_usage)
        if taken.out:
            yield b"".join(taken.out)
        if taken.failure is not None:
            raise taken.failure
        if taken.done:
            return
    taken = _take(splitter.feed(b"\n\n") if splitter.rest else [], fold, wants_usage)
    if taken.out:
        yield b"".join(taken.out)
    if taken.failure is not None:
        raise taken.failure
    if not (taken.done or fold.finished):
        raise UpstreamBroken("the upstream's stream ended before the answer was finished; send the message again")


class _Taken(msgspec.Struct):
    """Events to pass on, whether [DONE] came, and the failure that followed them."""

    out: list[bytes] = []
    done: bool = False
    failure: UpstreamError | None = None


def _take(events: list[bytes], fold: Fold, wants_usage: bool) -> _Taken:
    """The events to pass on, folded. What precedes a broken event is passed on first."""
    taken = _Taken()
    for event in events:
        payload = wire.payload(event)
        if payload is None or payload.startswith(b":"):
            continue  # a comment; some servers write theirs as data
        if payload == b"[DONE]":
            taken.done = True
            break
        try:
            hidden = fold.add(payload)
        except UpstreamError as failure:
            taken.failure = failure
            break
        if wants_usage or not hidden:
            taken.out.append(wire.relayable(event) or b"")
    return taken
