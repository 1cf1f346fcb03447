"""What a turn sent and why, as it is stored and shown. Pure."""

import msgspec

from proxy.context.assemble import Plan


class Weight(msgspec.Struct, frozen=True, gc=False):
    """What a prompt weighs beyond its raw tokens: what the upstream will count, and how many raw tokens of it the last
    request of the branch began with."""

    estimate: int
    reused: int


def ledger(number: int | None, branch: int, plan: Plan, weight: Weight) -> dict[str, object]:
    """`total` is in raw tokens, as the segments are; `budget` and `estimate` are in the upstream's."""
    return {
        "turn": number,
        "branch": branch,
        "strategy": plan.strategy,
        "budget": plan.budget,
        "total": plan.total,
        "factor": round(weight.estimate / plan.total, 4),
        "estimate": weight.estimate,
        "prefix": weight.reused,
        "segments": plan.segments,
    }
