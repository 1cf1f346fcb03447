"""What a turn gives to the edge, in this order: Begin, any number of Chunk, End."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from proxy.context.assemble import Plan
from proxy.keeping import Kept, speaker
from proxy.resources import Hit
from proxy.services import Turn
from proxy.upstream.exchange import kept_headers
from proxy.upstream.protocol import Answer


class Begin(msgspec.Struct, frozen=True, gc=False):
    """The first event: what the response's headers tell. `number` None: the turn is not stored. `plan` None: a retry
    that got its stored answer. `overhead_s`: the proxy's own time so far, waiting for others excluded. `docs`: the
    documents that were found; `speaker`: the name of the agent that answers, where there are
    several; `model`: the one that was asked. `estimate`: the prompt's tokens as the upstream will count them;
    `recalled`: how many documents and old turns were put in; `errors`: the parts that the turn had to do without."""

    uuid: str
    number: int | None
    branch: int
    plan: Plan | None
    upstream: Mapping[str, str] = {}
    overhead_s: float = 0.0
    docs: Sequence[Hit] = ()
    speaker: str | None = None
    model: str | None = None
    estimate: int = 0
    recalled: int = 0
    errors: Sequence[str] = ()


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Whole events of the stream."""

    data: bytes


class End(msgspec.Struct, frozen=True, gc=False):
    """The last bytes of the answer; the turn is stored when this comes."""

    data: bytes


Event = Begin | Chunk | End


@dataclass(slots=True)
class Client:
    """Whether the one who asked is still there; set by the edge before it cancels the turn. `may_leave`: the turn goes
    on to its end without one."""

    left: bool = False
    may_leave: bool = False


@dataclass(slots=True)
class Clock:
    """The proxy's own time: all but the waits for the queue and the upstream. Seconds."""

    own: float
    since: float

    def pause(self) -> None:
        self.own += time.perf_counter() - self.since

    def go_on(self) -> None:
        self.since = time.perf_counter()


def begin(turn: Turn, kept: Kept, answer: Answer, clock: Clock, branch: int | None = None) -> Begin:
    """What an answer that begins tells of its turn. `branch`: where the turn was stored, once it is."""
    composed = kept.composed
    return Begin(
        uuid=kept.uuid,
        number=kept.number if turn.options.save else None,
        branch=branch or kept.at.branch_number,
        plan=composed.plan,
        upstream={**kept_headers(answer), "x-upstream": turn.target.upstream.name},
        overhead_s=clock.own,
        docs=composed.recalled.hits,
        speaker=speaker(turn),
        model=turn.target.model,
        estimate=composed.weight.estimate,
        recalled=len(composed.recalled.hits) + composed.recalled.turns,
        errors=composed.errors,
    )
