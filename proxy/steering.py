"""Which upstream a turn goes to: the first that may be asked now; and the turn as it looks for another one."""

from collections.abc import Sequence

import msgspec

from proxy.services import Services, Turn
from proxy.upstream.headers import upstream_headers
from proxy.upstream.route import Target


def steered(svc: Services, turn: Turn) -> Turn:
    """The turn before the upstreams that are not left out."""
    if not turn.others:
        return turn
    first, *others = svc.breakers.choose((turn.target, *turn.others))
    return sent_to(turn, first, others)


def sent_to(turn: Turn, target: Target, others: Sequence[Target] = ()) -> Turn:
    """The turn for `target`: with the headers, and so the key, that are for that upstream. `others` take over."""
    if target is turn.target:
        return msgspec.structs.replace(turn, others=tuple(others))
    headers = upstream_headers(turn.scope.credential, target.upstream, turn.client)
    return msgspec.structs.replace(turn, target=target, others=tuple(others), headers=headers)
