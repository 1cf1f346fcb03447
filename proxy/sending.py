"""The upstream's answer to a turn. A prompt that it finds too long is composed again, shorter, if that is allowed."""

import math

import msgspec

from proxy.budget import sample
from proxy.compose import compose
from proxy.context.refused import Refused, smaller, too_long
from proxy.errors import UpstreamRefused
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
    for attempt in range(SHRINKS + 1):
        call = Call("POST", "/chat/completions", kept.composed.body, turn.headers)
        try:
            return kept, await exchange(svc.upstreams[upstream.name], upstream, call, turn.scope.credential is None)
        except UpstreamRefused as exc:
            refused = too_long(exc.status, exc.body, exc.message)
            if refused is None or attempt == SHRINKS or not _may_shrink(turn, kept):
                raise
            shorter = await _shorter(svc, turn, kept, refused)
            if len(shorter.composed.body) >= len(kept.composed.body):
                raise
            kept = shorter
    raise AssertionError  # the last attempt returns or raises


def _may_shrink(turn: Turn, kept: Kept) -> bool:
    return turn.options.mode != "observe" and kept.composed.plan.strategy != "null"


async def _shorter(svc: Services, turn: Turn, kept: Kept, refused: Refused) -> Kept:
    """The turn with less history, after what the refusal taught: how large the context is, and what it counted."""
    upstream, model = turn.target.upstream.name, turn.target.model or ""
    tried = kept.composed.weight.estimate
    svc.metrics.context_retry()
    taught = svc.calibration.limited(upstream, model, refused.limit or _guessed(tried, turn.reserve))
    if refused.counted is not None:
        svc.calibration.learn(upstream, model, sample(kept.composed.plan), refused.counted)
    ceiling = max(smaller(refused, tried, turn.reserve), _least(kept, refused))
    return msgspec.structs.replace(kept, composed=await compose(svc, turn, kept.at, ceiling), taught=taught)


def _least(kept: Kept, refused: Refused) -> int:
    """What system, tools and new messages need, where that may fit: history leaves before the turn is given up."""
    plan, tried = kept.composed.plan, kept.composed.weight.estimate
    least = math.ceil(tried * (plan.system + plan.tools + plan.new) / plan.total * ROUNDING)
    most = tried - 1 if refused.limit is None else min(tried - 1, refused.limit)
    return least if least <= most else 0


def _guessed(tried: int, reserve: int) -> int:
    """A context that leaves less for the prompt than was refused, once the answer's reserve is taken off."""
    room = tried * 9 // 10
    return max(1, room + min(reserve, room))
