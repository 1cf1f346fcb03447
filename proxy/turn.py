"""The one path of every chat turn. Streaming is the primitive; the whole answer is a fold over it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, nullcontext
from dataclasses import dataclass

import msgspec

from proxy import recollect
from proxy.compose import compose
from proxy.context.assemble import Plan
from proxy.errors import UpstreamError
from proxy.keeping import Kept, keep, keep_cut_short
from proxy.services import Services, Turn
from proxy.store import sessions
from proxy.upstream import replay
from proxy.upstream.exchange import exchange, kept_headers, read
from proxy.upstream.fold import Fold
from proxy.upstream.protocol import Answer, Call
from proxy.upstream.relay import DONE, relay


class Begin(msgspec.Struct, frozen=True, gc=False):
    """The first event: what the response's headers tell. `number` None: the turn is not stored. `plan` None: a retry
    that got its stored answer. `overhead_s`: the proxy's own time so far, waiting for others excluded."""

    uuid: str
    number: int | None
    branch: int
    plan: Plan | None
    upstream: Mapping[str, str] = {}
    overhead_s: float = 0.0


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Whole events of the stream."""

    data: bytes


class End(msgspec.Struct, frozen=True, gc=False):
    """The last bytes of the answer; the turn is stored when this comes."""

    data: bytes


Event = Begin | Chunk | End


@dataclass(slots=True)
class Client:
    """Whether the one who asked is still there; set by the edge before it cancels the turn."""

    left: bool = False


@dataclass(slots=True)
class _Clock:
    """The proxy's own time: all but the waits for the queue and the upstream."""

    own: float
    since: float

    def pause(self) -> None:
        self.own += time.perf_counter() - self.since

    def go_on(self) -> None:
        self.since = time.perf_counter()


async def run(svc: Services, turn: Turn, client: Client) -> AsyncGenerator[Event]:
    """Begin, any number of Chunk, End. Raises ProxyError before Begin (nothing was sent) or after it (the stream
    breaks). Close it, or cancel the task that runs it, and the upstream is closed and the turn settled as G4 says."""
    clock = _Clock(0.0, turn.started)
    name = await _own_name(svc, turn)
    clock.pause()
    observed = turn.options.mode == "observe" and not (turn.key or turn.retried)
    async with nullcontext() if observed else svc.queue.turn(turn.scope.tenant, name):
        clock.go_on()
        found = await sessions.find(svc.db, turn.scope, turn.name)
        earlier = None if found is None else await recollect.answered(svc, turn, found[0])
        if found is not None and earlier is not None:
            yield Begin(found[0].uuid, earlier.turn, found[0].branch, None)
            yield End(replay.as_stream(earlier.answer, turn.wants_usage) + DONE if turn.stream else earlier.answer)
            return
        at = await recollect.find(svc, turn, found)
        composed = await compose(svc, turn, at)
        key = (turn.scope.tenant, name)
        number = svc.numbers.promise(key, 0 if at.session is None else at.session.turns)
        uuid = svc.numbers.uuid(key) if at.session is None else at.session.uuid
        kept = Kept(at, composed, uuid, number, observed)
        try:
            async with aclosing(_answered(svc, turn, client, kept, clock)) as events:
                async for event in events:
                    yield event
        finally:
            svc.numbers.release(key, number)


async def _own_name(svc: Services, turn: Turn) -> str:
    """The name that the session's turns queue under: a session asked for by its UUID may have one of its own."""
    found = await sessions.find(svc.db, turn.scope, turn.name) if sessions.is_uuid(turn.name) else None
    return turn.name if found is None else found[0].name or found[0].uuid


async def _answered(svc: Services, turn: Turn, client: Client, kept: Kept, clock: _Clock) -> AsyncGenerator[Event]:
    """The upstream's part of the turn, and its end."""
    upstream = turn.target.upstream
    call = Call("POST", "/chat/completions", kept.composed.body, turn.headers)
    clock.pause()
    answer = await exchange(svc.upstreams[upstream.name], upstream, call, own_key=turn.scope.credential is None)
    fold = Fold()
    begin = _begin(turn, kept, answer, clock)
    begun = settling = False
    try:
        limit = svc.config.limits.answer_mb << 20
        if turn.stream and not _is_json(answer):
            async with aclosing(relay(answer, fold, turn.wants_usage, limit)) as chunks:
                async for chunk in chunks:
                    if not begun:
                        begun = True
                        yield begin
                    yield Chunk(chunk)
            last, body = DONE, None
        else:
            body = await read(answer, limit)
            fold.whole(body)
            last = replay.as_stream(body, turn.wants_usage) + DONE if turn.stream else body
        clock.go_on()
        settling = True
        branch = await keep(svc, turn, kept, fold, body)
        if not begun:
            clock.pause()
            yield _begin(turn, kept, answer, clock, branch)
        yield End(last)
    except UpstreamError:
        if begun and not settling and svc.config.sessions.on_upstream_break == "partial":
            await keep_cut_short(svc, turn, kept, fold)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        if begun and not settling and client.left and svc.config.sessions.on_disconnect == "partial":
            await keep_cut_short(svc, turn, kept, fold)
        raise
    finally:
        await answer.aclose()


def _begin(turn: Turn, kept: Kept, answer: Answer, clock: _Clock, branch: int | None = None) -> Begin:
    number = kept.number if turn.options.save else None
    return Begin(
        kept.uuid,
        number,
        branch or kept.at.branch_number,
        kept.composed.plan,
        kept_headers(answer),
        overhead_s=clock.own,
    )


def _is_json(answer: Answer) -> bool:
    """An upstream that answers a stream request with one JSON object."""
    return any(name == b"content-type" and value.startswith(b"application/json") for name, value in answer.headers)
