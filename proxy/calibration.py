"""What the upstreams taught, by upstream and model: in memory for the turns, stored now and then for the next start."""

from proxy.context import calibrate
from proxy.context.calibrate import Learnt, Sample
from proxy.store import calibrations
from proxy.store.database import Database

MOST = calibrations.MOST
EARLY = 32
"""Samples after each of which the state is written; later it is written after every `EVERY`th."""
EVERY = 16
LONGEST = 256
"""Characters of a model's name; nothing is learnt of one with a longer name."""


class Calibration:
    """The models that were heard of last, `MOST` at the most."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Learnt] = {}

    async def load(self, db: Database) -> None:
        """Takes up what was written; called once, before the first turn."""
        for upstream, model, state in await calibrations.every(db):
            self._keep(upstream, model, calibrate.decoded(state))

    def of(self, upstream: str, model: str) -> Learnt:
        """What is known of a model."""
        return self._known.get((upstream, model), calibrate.FRESH)

    def learn(self, upstream: str, model: str, sample: Sample, counted: int) -> bytes | None:
        """Takes up what the upstream counted in a prompt; gives the state to be stored when that is due."""
        known = self.of(upstream, model)
        learnt = calibrate.learn(known, sample, counted)
        if learnt is known or len(model) > LONGEST:
            return None
        self._keep(upstream, model, learnt)
        return calibrate.encoded(learnt) if learnt.count <= EARLY or learnt.count % EVERY == 0 else None

    def limited(self, upstream: str, model: str, limit: int) -> bytes | None:
        """Takes up the context in tokens that an overflow error named; gives the state to be stored."""
        known = self.of(upstream, model)
        learnt = calibrate.with_limit(known, limit)
        if learnt is known or len(model) > LONGEST:
            return None
        self._keep(upstream, model, learnt)
        return calibrate.encoded(learnt)

    def _keep(self, upstream: str, model: str, learnt: Learnt) -> None:
        self._known.pop((upstream, model), None)  # to the end: the first is the one unheard of for the longest time
        self._known[upstream, model] = learnt
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
