"""When to ask again. Pure: attempt, status and Retry-After in, seconds to wait or None out."""

BASE_S = 0.25
CAP_S = 4.0
PATIENCE_S = 5.0
"""A Retry-After above this goes to the client instead: its SDK can wait, a proxied request should not."""

RETRIED = frozenset({500, 502, 503, 504, 529})
UNREACHABLE = 0
"""The status of a call that never got an answer: refused, reset, garbage."""


def wait(attempt: int, retries: int, status: int, retry_after: float | None, jitter: float) -> float | None:
    """Seconds before attempt number `attempt` + 1 (attempts count from 1); None: give the error to the client.

    `retries`: how many attempts may follow the first. `jitter`: random, 0 to 1. 429 and other 4xx are the client's
    to repeat: it knows its own patience, and its SDK obeys Retry-After.
    """
    if attempt > retries or not (status == UNREACHABLE or status in RETRIED):
        return None
    if retry_after is not None:
        return retry_after if retry_after <= PATIENCE_S else None
    return min(CAP_S, BASE_S * 2 ** (attempt - 1)) * (0.5 + jitter / 2)
