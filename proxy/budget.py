"""How much may go upstream: a turn's budget, what its tokens count there, the strategy for what does not fit."""

import math
from collections.abc import Callable

import msgspec

from proxy.context import calibrate
from proxy.context.assemble import Limits, Material, Plan, assemble
from proxy.context.calibrate import Learnt, Sample
from proxy.context.tokens import Count
from proxy.errors import ContextTooLong
from proxy.recollect import Found
from proxy.services import Services, Turn
from proxy.types import Carried

ATTEMPTS = 8
"""Plans that are made after one that was too large, at the most; the first is mostly the last."""

_carried = msgspec.json.Decoder(Carried).decode


class Scale(msgspec.Struct, frozen=True, gc=False):
    """What raw tokens count for the upstream: what it taught, and how far the last prompt of the branch was off."""

    learnt: Learnt
    drift: float

    @property
    def least(self) -> float:
        """The least that a raw token counts."""
        return calibrate.least_factor(self.learnt, self.drift)

    def estimate(self, plan: Plan) -> int:
        """The prompt's tokens as the upstream will count them."""
        return calibrate.expected(self.learnt, sample(plan), self.drift)


class Weighed(msgspec.Struct, frozen=True, gc=False):
    """A plan with what the upstream will count for it."""

    plan: Plan
    estimate: int


def last(found: Found) -> Carried:
    """What the last turn of the branch left; nothing at its beginning."""
    return _carried(found.left.carried) if found.left.carried else Carried()


def scale(svc: Services, turn: Turn, before: Carried) -> Scale:
    """What counts for this turn's upstream and model."""
    model = turn.target.model or ""
    learnt = svc.calibration.of(turn.target.upstream.name, model)
    return Scale(learnt, before.drift if before.model == model else 1.0)


def without_drift(scale: Scale) -> Scale:
    """What counts for the model, whatever the last prompt of the branch counted; never more than with that."""
    return Scale(scale.learnt, min(scale.drift, 1.0))


def sample(plan: Plan) -> Sample:
    """A plan as calibration sees it."""
    return Sample(plan.total - plan.tools, plan.tools, plan.sent, plan.system > 0, *plan.marks)


async def limits(svc: Services, turn: Turn, found: Found, ceiling: int | None, scale: Scale) -> Limits:
    """The budget: the request's, the session's, the configuration's, else the model's context less the answer's
    reserve; never more than the upstream said it takes, or than `ceiling` where it has just said so. The strategy
    in the same order."""
    context, session = svc.config.context, found.session
    budget = turn.options.token_budget
    if budget is None and session is not None:
        budget = session.token_budget
    if budget is None:
        budget = context.token_budget
    basis = str(budget)
    known = scale.learnt.limit if turn.target.context_tokens is None else None  # who configures it knows better
    if budget is None:
        window = turn.target.context_tokens or await svc.context_of(turn.target, turn.headers)
        basis = f"context {window}"
        budget = None if window is None else _room(turn, window)
    before = last(found)
    most = ceiling
    if most is None and before.model == (turn.target.model or ""):
        most = before.ceiling or None
    if most is None and known is not None:
        most = _room(turn, known)
    if most is not None:
        basis += f" limit {known} {most if known is None else ''}"
        budget = min(budget or most, most)
    strategy = turn.options.overflow or (session.overflow if session else None) or context.overflow
    found_limits = Limits(
        budget=budget,
        basis=basis,
        strategy=strategy,
        cut=0,
        evict_to=context.evict_to,
        factor=scale.least,
        results=context.tool_result_clear_after,
        summaries=strategy == "summarize" or (strategy == "adaptive" and context.summaries),
        usual=before.factor,
    )
    if found.left.cut_key != cut_key(turn, found_limits):
        return found_limits
    return msgspec.structs.replace(found_limits, cut=found.left.cut, cleared=before.cleared)


def _room(turn: Turn, window: int) -> int:
    """What the answer leaves of a model's context; half where it would leave next to nothing, as some clients ask for
    answers as long as the context."""
    return window - turn.reserve if turn.reserve <= window * 7 // 8 else max(1, window // 2)


def cut_key(turn: Turn, limits: Limits) -> str:
    """What the cut, and the history that is kept joined for it, were made for; another budget, strategy or model, or an
    upstream that refuses other fields, starts over. What a request keeps for its answer is none of it: clients change
    that from turn to turn."""
    tools = "" if turn.options.recall_tools else "|without tools"
    stripped = "".join([f"|without {name}" for name in turn.target.upstream.strip_fields])
    return f"{limits.basis}|{limits.strategy}|{turn.target.model or ''}{tools}{stripped}"


def fitted(material: Material, limits: Limits, estimate: Callable[[Plan], int], count: Count) -> Weighed:
    """The plan whose estimate keeps to the budget. What a raw token counts is known once the plan is made, so a plan
    that turns out too large is made again, with less room. Raises ContextTooLong when what must be sent does not
    fit."""
    plan = assemble(material, limits, count)
    expected = estimate(plan)
    if limits.budget is None or expected <= limits.budget:
        return Weighed(plan, expected)
    low, high = 0, plan.total
    room = max(0, high - math.ceil((expected - limits.budget) / limits.factor))
    for _ in range(ATTEMPTS):
        try:
            plan = assemble(material, _narrowed(limits, limits.budget, room), count)
        except ContextTooLong:
            low = room
        else:
            expected = estimate(plan)
            if expected <= limits.budget:
                return Weighed(plan, expected)
            high = min(room, plan.total)
        room = (low + high) // 2
    hint = "use context_overflow truncate or adaptive" if limits.strategy == "null" else "send less"
    raise ContextTooLong(
        f"the prompt needs {expected:,} tokens as the upstream counts them, the budget is {limits.budget:,}; "
        f"raise token_budget or {hint}",
        param="messages",
    )


def _narrowed(limits: Limits, budget: int, room: int) -> Limits:
    """The same budget, of which so many raw tokens are all."""
    return msgspec.structs.replace(limits, factor=budget / (room + 0.5))
