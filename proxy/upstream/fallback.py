"""One request, several upstreams: the first that answers serves it. Nothing was sent to the client before that."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from proxy.errors import ContextTooLong, UpstreamError, UpstreamRefused
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
    """What `attempt(target, last)` gives for the first of `targets` that it does not fail for. `last`: nobody takes
    over, so that retries are worth their wait. Raises UpstreamError: what an upstream said before what it was not
    reached for."""
    failures: list[UpstreamError] = []
    for n, target in enumerate(targets):
        last = n == len(targets) - 1
        if not (last or breakers.admits(target)):
            continue
        try:
            with breakers.trial(target, own_key):
                return await attempt(target, last)
        except ContextTooLong:  # of a fallback with a smaller context
            if not failures:
                raise
        except UpstreamError as failure:
            failure.headers.setdefault("x-upstream", target.upstream.name)
            if not (may_move_on(failure) or (failures and failure.status in ABSENT)):
                raise
            failures.append(failure)
            if not last:
                breakers.moved_on(target, failure)
    raise next((one for one in failures if isinstance(one, UpstreamRefused)), failures[-1])
