"""One request, several upstreams: the first that answers serves it. Nothing was sent to the client before that."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from proxy.errors import ContextTooLong, UpstreamError, UpstreamRefused, UpstreamTimeout
from proxy.upstream.breaker import Breakers, may_move_on
from proxy.upstream.route import Target

Result = TypeVar("Result")

ABSENT = (401, 403, 404)
"""What a fallback answers that does not know the model, or the key: no answer to the request."""


async def first_good(
    breakers: Breakers,
    targets: Sequence[Target],
    own_key: bool,
    attempt: Callable[[Target, bool], Awaitable[Result]],
) -> Result:
    """What `attempt(target, last)` gives for the first of `targets` that it does not fail for. `last`: no other that is
    well takes over, so that retries are worth their wait. All of them together have the first one's total time. Raises
    UpstreamError: what an upstream said before what it was not reached for."""
    failures: list[UpstreamError] = []
    until = asyncio.get_running_loop().time() + targets[0].upstream.total_timeout_s
    for n, target in enumerate(targets):
        others = targets[n + 1 :]
        well = len(targets) == 1 or breakers.admits(target)
        if others and not well:
            continue
        last = well and not any(breakers.admits(other) for other in others)
        try:
            with breakers.trial(target, own_key):
                return await (_before(until, attempt(target, last)) if failures else attempt(target, last))
        except ContextTooLong:  # of a fallback with a smaller context
            if not failures:
                raise
        except UpstreamError as failure:
            failure.headers.setdefault("x-upstream", target.upstream.name)
            if not (may_move_on(failure) or (failures and failure.status in ABSENT)):
                raise
            failures.append(failure)
            if others:
                breakers.moved_on(target, others[0], failure)
    raise next((one for one in failures if isinstance(one, UpstreamRefused)), failures[-1])


async def _before(until: float, answer: Awaitable[Result]) -> Result:
    """The answer, if it begins in time. Raises UpstreamTimeout."""
    try:
        async with asyncio.timeout_at(until):
            return await answer
    except TimeoutError as exc:
        raise UpstreamTimeout("no upstream answered within the first one's total_timeout_s") from exc
