"""How much of a prompt the upstream has seen before: what a provider's prompt cache can reuse. Pure.

A request can begin as the last one of its branch did while its head (model, tools, system messages) and the place where
its history begins are the same. Only what stood behind recalled text is new to the cache, since that text goes up with
one message only once.
"""

import hashlib
from collections.abc import Iterable

from proxy.context.assemble import Plan
from proxy.context.tokens import REPLY
from proxy.types import Carried


def head_key(model: str, parts: Iterable[bytes]) -> str:
    """What stands for the model, the tools and the system messages."""
    mark = hashlib.blake2b(model.encode(), digest_size=8)
    for part in parts:
        mark.update(b"\x00")
        mark.update(part)
    return mark.hexdigest()


def history_key(cut_key: str, plan: Plan) -> str:
    """What stands for where the history begins, and what was replaced in it."""
    return f"{cut_key}|{plan.cut}|{plan.cleared}|{plan.summary_upto}|{plan.pinned}"


def reusable(last: Carried, head: str, history: str, resumed: bool) -> int:
    """The raw tokens of this request that the last one of its branch began with. `resumed`: the recalled text of the
    last request goes up again, in the same place."""
    if last.head_key != head:
        return 0
    if last.prefix_key != history:
        return last.head
    return last.whole if resumed else last.prefix


def carried(plan: Plan, head: str, history: str, model: str, lasts: bool = True) -> Carried:
    """What this request leaves for the next one; its drift is known once the upstream has counted. `lasts`: what was
    sent goes up again; where it does not, only the head is sure to."""
    fixed = plan.system + plan.tools
    return Carried(
        cleared=plan.cleared,
        prefix=plan.stable if lasts else fixed,
        prefix_key=history,
        head=fixed,
        head_key=head,
        whole=plan.total - REPLY if lasts else fixed,
        model=model,
    )
