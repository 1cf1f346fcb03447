"""The upstream's answer to a turn. A prompt that it finds too long is composed again, shorter, if that is allowed."""

import math

import msgspec

from proxy.compose import compose
from proxy.context.refused import Refused, smaller, too_long
from proxy.errors import UpstreamError, UpstreamRefused
from proxy.keeping import Kept
from proxy.services import Services, Turn
from proxy.upstream.exchange import exchange
from proxy.upstream.protocol import Answer, Call

SHRINKS = 2
"""How often a turn is sent again, shorter, at the most."""
ROUNDING = 1.02
"""A part of a prompt may weigh a little more than its share of the whole."""


async def asked(svc: Services, turn: Turn, kept: Kept) -> tuple[Kept, Answer]:
    """The turn as it was sent in the end, and the answer, to be closed by the caller. Raises UpstreamError, or
    ContextTooLong when system, tools and new messages alone do not fit the context that the upstream names."""
    upstream = turn.target.upstream
    refused: Refused | None = None
    for attempt in range(SHRINKS + 1):
        call = Call("POST", "/chat/completions", kept.composed.body, turn.headers)
        try:
            own_key = turn.scope.credential is None
            answer = await exchange(svc.upstreams[upstream.name], upstream, call, own_key, _is_too_long)
        except UpstreamRefused as exc:
            refused = _read(exc)
            if refused is None or attempt == SHRINKS or not _may_shrink(turn, kept):
                raise
            shorter = await _shorter(svc, turn, kept, refused)
            if len(shorter.composed.body) >= len(kept.composed.body):
                raise
            kept = shorter
        else:
            return kept if refused is None else _taught(svc, turn, kept, refused), answer
    raise AssertionError  # the last attempt returns or raises


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
