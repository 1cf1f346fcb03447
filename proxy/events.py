"""What a turn gives to the edge, in this order: Begin, any number of Chunk, End."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from proxy.context.assemble import Plan
from proxy.resources import Hit


class Begin(msgspec.Struct, frozen=True, gc=False):
    """The first event: what the response's headers tell. `number` None: the turn is not stored. `plan` None: a retry
    that got its stored answer. `overhead_s`: the proxy's own time so far, waiting for others excluded. `docs`: the
    documents that were found; `speaker`: the name of the agent that answers, where there are
    several; `model`: the one that was asked."""

    uuid: str
    number: int | None
    branch: int
    plan: Plan | None
    upstream: Mapping[str, str] = {}
    overhead_s: float = 0.0
    docs: Sequence[Hit] = ()
    speaker: str | None = None
    model: str | None = None


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
