"""The upstream's answer to a turn, as far as its first bytes: until then another try is possible.

A prompt that an upstream finds too long is composed again, shorter, if that is allowed. A turn that an upstream fails
is composed again for the next one that serves its model.
"""

import math
from collections.abc import AsyncIterator, Callable

import msgspec

from proxy.compose import compose
from proxy.context.refused import Refused, smaller, too_long
from proxy.errors import UpstreamError, UpstreamRefused
from proxy.keeping import Kept
from proxy.services import Services, Turn
from proxy.steering import sent_to
from proxy.upstream.exchange import always, exchange, read
from proxy.upstream.fallback import first_good
from proxy.upstream.fold import Fold
from proxy.upstream.headers import has_media
from proxy.upstream.protocol import Answer, Call
from proxy.upstream.relay import Relay
from proxy.upstream.route import Target

SHRINKS = 2
"""How often a turn is sent again, shorter, at the most."""
ROUNDING = 1.02
"""A part of a prompt may weigh a little more than its share of the whole."""


class Opened(msgspec.Struct, frozen=True, gc=False):
    """A turn as it was sent in the end, and its answer, to be closed by the caller: as a stream that has begun, with
    its `first` whole events (`relay`, and the bytes to come in `stream`), or whole, as `body`. `fold` has read them."""

    turn: Turn
    kept: Kept
    answer: Answer
    fold: Fold
    stream: AsyncIterator[bytes]
    relay: Relay | None = None
    first: bytes = b""
    body: bytes | None = None


async def asked(svc: Services, turn: Turn, kept: Kept) -> Opened:
    """The answer of the first upstream that gives one. Raises UpstreamError, or ContextTooLong when system, tools and
    new messages alone do not fit the context that the upstream names."""

    async def attempt(target: Target, last: bool) -> Opened:
        if target is turn.target:
            return await _asked(svc, turn, kept, last)
        elsewhere = sent_to(turn, target)
        composed = await compose(svc, elsewhere, kept.at)
        return await _asked(svc, elsewhere, msgspec.structs.replace(kept, composed=composed), last)

    own_key = turn.scope.credential is None
    return await first_good(svc.breakers, (turn.target, *turn.others), own_key, attempt)


async def _asked(svc: Services, turn: Turn, kept: Kept, last: bool) -> Opened:
    """The answer of the turn's upstream. `last`: no other takes over."""
    refused: Refused | None = None
    for attempt in range(SHRINKS + 1):
        try:
            opened = await _opened(svc, turn, kept, _is_too_long if last else always)
        except UpstreamRefused as exc:
            refused = _read(exc)
            if refused is None or attempt == SHRINKS or not _may_shrink(turn, kept):
                raise
            shorter = await _shorter(svc, turn, kept, refused)
            if len(shorter.composed.body) >= len(kept.composed.body):
                raise
            kept = shorter
        else:
            if refused is None:
                return opened
            return msgspec.structs.replace(opened, kept=_taught(svc, turn, kept, refused))
    raise AssertionError  # the last attempt returns or raises


async def _opened(svc: Services, turn: Turn, kept: Kept, final: Callable[[UpstreamError], bool]) -> Opened:
    """One request to the turn's upstream."""
    upstream = turn.target.upstream
    call = Call("POST", "/chat/completions" + turn.query, kept.composed.body, turn.headers)
    answer = await exchange(svc.upstreams[upstream.name], upstream, call, turn.scope.credential is None, final)
    fold, limit = Fold(), svc.config.limits.answer_mb << 20
    try:
        one_object = has_media(answer.headers, b"application/json")  # some answer a stream request so
        if turn.stream and not one_object:
            relay, stream = Relay(fold, turn.wants_usage, limit), aiter(answer)
            return Opened(turn, kept, answer, fold, stream, relay, await _first(stream, relay))
        body = await read(answer, limit)
        fold.whole(body)
        return Opened(turn, kept, answer, fold, aiter(answer), body=body)
    except BaseException:
        await answer.aclose()
        raise


async def _first(stream: AsyncIterator[bytes], relay: Relay) -> bytes:
    """The first whole events; b"" for an answer that is over without one that the client may see."""
    async for data in stream:
        out = relay.take(data)
        if out:
            return out
        if relay.over:
            break
    out = relay.end()
    relay.check()
    return out


def _read(failure: UpstreamError) -> Refused | None:
    if not isinstance(failure, UpstreamRefused):
        return None
    return too_long(failure.status, failure.body, failure.message)


def _is_too_long(failure: UpstreamError) -> bool:
    return _read(failure) is not None


def _may_shrink(turn: Turn, kept: Kept) -> bool:
    return turn.options.mode != "observe" and kept.composed.plan.strategy != "null"


async def _shorter(svc: Services, turn: Turn, kept: Kept, refused: Refused) -> Kept:
    """The turn with less history."""
    svc.metrics.context_retry()
    ceiling = max(smaller(refused, kept.composed.weight.estimate, turn.reserve), _least(kept, refused))
    return msgspec.structs.replace(kept, composed=await compose(svc, turn, kept.at, ceiling))


def _taught(svc: Services, turn: Turn, kept: Kept, refused: Refused) -> Kept:
    """What a refusal says, once a shorter prompt was taken: before that it may have been about something else. A limit
    that it names holds for the model, one that is guessed for this branch alone."""
    upstream, model = turn.target.upstream.name, turn.target.model or ""
    if refused.limit is not None:
        return msgspec.structs.replace(kept, taught=svc.calibration.limited(upstream, model, refused.limit))
    composed = kept.composed
    carried = msgspec.structs.replace(composed.carried, ceiling=composed.limits.budget or 0)
    return msgspec.structs.replace(kept, composed=msgspec.structs.replace(composed, carried=carried))


def _least(kept: Kept, refused: Refused) -> int:
    """What system, tools and new messages need, where that may fit: history leaves before the turn is given up."""
    plan, tried = kept.composed.plan, kept.composed.weight.estimate
    least = math.ceil(tried * (plan.system + plan.tools + plan.new) / plan.total * ROUNDING)
    most = tried - 1 if refused.limit is None else min(tried - 1, refused.limit)
    return least if least <= most else 0
