"""Which upstreams are left alone for a while: circuit breakers, and pauses that an upstream asked for.

An upstream that fails several times in a row is left out; after its pause one request at a time tries it again, and the
first good answer brings it back. One that answers 429 or 503 with Retry-After is left out so long, for that model.
Leaving out is for choosing: a request that all others fail is sent to the first one that is left out all the same.
"""

import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager

from proxy.config import UpstreamConfig
from proxy.errors import UpstreamError
from proxy.telemetry.log import Log
from proxy.telemetry.metrics import Metrics
from proxy.upstream.exchange import retry_after
from proxy.upstream.route import Target

LONGEST_REST_S = 300.0
"""Of a Retry-After: one that asks for more is asked again then."""
OURS = ("upstream_busy", "upstream_closed")
RESTS = 1000
"""Models whose pause is remembered at the most."""


class _Trouble:
    """An upstream that failed lately: how often in a row, until when it is left out, whether a request tries it now."""

    __slots__ = ("failures", "trying", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0
        self.trying = False


def _silent(level: str, event: str, **facts: object) -> None:
    """A log that keeps nothing."""


class Breakers:
    """One circuit breaker for each upstream, by its settings: after a reload that changes them, requests that began
    before it say nothing of what is there now. `clock`: monotonic seconds."""

    def __init__(
        self, log: Log = _silent, metrics: Metrics | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._metrics = metrics or Metrics(on=False)
        self._clock = clock
        self._troubled: dict[UpstreamConfig, _Trouble] = {}
        self._rests: dict[tuple[UpstreamConfig, str | None], float] = {}

    def choose(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """Those that may be asked, in their order, and last the first of those that are left out: it may be back, and
        whoever is failed by all others loses nothing by asking it."""
        if len(targets) == 1 or not (self._troubled or self._rests):
            return tuple(targets)
        admitted = [target for target in targets if self.admits(target)]
        left_out = [target for target in targets if target not in admitted]
        return (*admitted, *left_out[:1])

    def admits(self, target: Target) -> bool:
        """Whether the upstream may be asked for that model now."""
        if self._rests:
            until = self._rests.get((target.upstream, target.model))
            if until is not None and self._clock() < until:
                return False
        trouble = self._troubled.get(target.upstream)
        if trouble is None or not trouble.until:
            return True
        return self._clock() >= trouble.until and not trouble.trying

    @contextmanager
    def trial(self, target: Target, own_key: bool) -> Generator[None]:
        """Around one call: how it ends is taken down. `own_key`: with the proxy's key; what a client's own key has used
        up says nothing to others."""
        trouble = self._troubled.get(target.upstream) if self._troubled else None
        probing = trouble is not None and trouble.until > 0.0 and not trouble.trying
        if trouble is not None and probing:
            trouble.trying = True
        try:
            yield
        except UpstreamError as failure:
            self._failed(target, failure, own_key)
            raise
        else:
            self._answered(target)
        finally:
            if trouble is not None and probing:
                trouble.trying = False

    def forget_all_but(self, upstreams: Collection[UpstreamConfig]) -> None:
        """The others have changed or gone."""
        self._troubled = {one: trouble for one, trouble in self._troubled.items() if one in upstreams}
        self._rests = {(one, model): until for (one, model), until in self._rests.items() if one in upstreams}

    def moved_on(self, target: Target, other: Target, failure: UpstreamError) -> None:
        """A request goes on to `other`, since `target` failed it."""
        names = {"upstream": target.upstream.name, "to": other.upstream.name}
        self._metrics.fallback()
        self._log("warning", "fallback", **names, code=_code(failure))

    def _answered(self, target: Target) -> None:
        trouble = self._troubled.pop(target.upstream, None) if self._troubled else None
        if trouble is not None and trouble.until:
            self._log("info", "upstream_back", upstream=target.upstream.name)

    def _failed(self, target: Target, failure: UpstreamError, own_key: bool) -> None:
        settings = target.upstream
        pause = retry_after(failure)
        if failure.status in (429, 503) and pause is not None and pause > 0 and own_key:
            if len(self._rests) >= RESTS:
                self._rests.clear()
            self._rests[settings, target.model] = self._clock() + min(pause, LONGEST_REST_S)
        if not is_outage(failure):
            self._answered(target)
            return
        trouble = self._troubled.setdefault(settings, _Trouble())
        trouble.failures += 1
        if settings.breaker_failures and trouble.failures >= settings.breaker_failures:
            if not trouble.until:
                self._log("warning", "upstream_left_out", upstream=settings.name, code=_code(failure))
            trouble.until = self._clock() + settings.breaker_pause_s


def _code(failure: UpstreamError) -> str:
    return failure.code or str(failure.status)


def is_outage(failure: UpstreamError) -> bool:
    """Whether a failure speaks of the upstream as a whole: no answer, a broken one, a status of 5xx. Not 501, which
    speaks of one endpoint, and not our own limit of connections, or our own end."""
    return failure.status >= 500 and failure.status != 501 and failure.code not in OURS


def may_move_on(failure: UpstreamError) -> bool:
    """Whether another upstream may do better: whatever is not of the client's making."""
    return (failure.status >= 500 or failure.status in (408, 429)) and failure.code != "answer_too_large"
