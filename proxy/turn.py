"""The one path of every chat turn. Streaming is the primitive; the whole answer is a fold over it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext

from proxy import recollect
from proxy.compose import placed
from proxy.errors import Unavailable, UpstreamError
from proxy.events import Begin, Chunk, Client, Clock, End, Event, begin
from proxy.introduce import rendered
from proxy.keeping import Kept, keep, keep_cut_short, to_summarize
from proxy.profile import dress
from proxy.sending import asked
from proxy.services import Services, Turn
from proxy.steering import steered
from proxy.store import sessions
from proxy.types import Line
from proxy.upstream import replay
from proxy.upstream.relay import DONE


async def run(svc: Services, turn: Turn, client: Client) -> AsyncGenerator[Event]:
    """Begin, any number of Chunk, End. Raises ProxyError before Begin (nothing was sent) or after it (the stream
    breaks). Close it, or cancel the task that runs it, and the upstream is closed and the turn settled as G4 says."""
    clock = Clock(0.0, turn.started)
    name = await _own_name(svc, turn)
    clock.pause()
    key = turn.scope.line(name)
    async with _own_turn(svc, turn, key):
        clock.go_on()
        turn = await recollect.with_tenant(svc, turn)
        found = await sessions.find(svc.db, turn.scope, turn.name)
        earlier = None if found is None else await recollect.answered(svc, turn, found[0], key)
        if found is not None and earlier is not None:
            yield Begin(found[0].uuid, earlier.turn, earlier.branch, None)
            yield End(replay.as_stream(earlier.answer, turn.wants_usage) + DONE if turn.stream else earlier.answer)
            return
        async with aclosing(_taken(svc, turn, client, found, key, clock)) as events:
            async for event in events:
                yield event


async def _taken(
    svc: Services, turn: Turn, client: Client, found: sessions.Found | None, key: Line, clock: Clock
) -> AsyncGenerator[Event]:
    """A turn that is new: placed, composed, numbered, answered."""
    svc.failed.note(key, turn.request)  # until it is stored
    turn = await rendered(svc, steered(svc, await dress(svc, turn, found)))
    at = await recollect.find(svc, turn, found)
    turn, composed = await placed(svc, turn, at)
    number = svc.numbers.promise(key, 0 if at.session is None else at.session.turns)
    uuid = svc.numbers.uuid(key) if at.session is None else at.session.uuid
    kept = Kept(at, composed, uuid, key[1], number)
    try:
        async with _summarizing(svc, turn, kept), aclosing(_answered(svc, turn, client, kept, clock)) as events:
            async for event in events:
                yield event
    finally:
        svc.numbers.release(key, number)


def _own_turn(svc: Services, turn: Turn, key: Line) -> AbstractAsyncContextManager[None]:
    """The session's queue. Observed turns run at once; only those under one Idempotency-Key wait for each other."""
    if turn.options.mode != "observe":
        return svc.queue.turn(key)
    return svc.queue.turn(turn.scope.line(f"{key[1]} {turn.key}")) if turn.key else nullcontext()


def _summarizing(svc: Services, turn: Turn, kept: Kept) -> AbstractAsyncContextManager[None]:
    """A client's own key is used while its request runs, so what is due is summarised meanwhile."""
    wanted = to_summarize(turn, kept) if turn.scope.credential is not None else None
    return nullcontext() if wanted is None else svc.summaries.during(wanted)


async def _own_name(svc: Services, turn: Turn) -> str:
    """The name that the session's turns queue under: a session asked for by its UUID may have one of its own."""
    found = await sessions.find(svc.db, turn.scope, turn.name) if sessions.is_uuid(turn.name) else None
    return turn.name if found is None else found[0].name or found[0].uuid


async def _answered(svc: Services, turn: Turn, client: Client, kept: Kept, clock: Clock) -> AsyncGenerator[Event]:
    """The upstream's part of the turn, and its end."""
    clock.pause()
    opened = await asked(svc, turn, kept)
    turn, kept, answer, fold, relay = opened.turn, opened.kept, opened.answer, opened.fold, opened.relay
    begun = settling = False
    try:
        if opened.first:
            begun = True
            yield begin(turn, kept, answer, clock)
            yield Chunk(opened.first)
        if relay is None:
            last = _whole(turn, opened.body or b"")
        else:
            while not relay.over and (data := await anext(opened.stream, None)) is not None:
                if out := relay.take(data):
                    yield Chunk(out)
            last = relay.end() + DONE
            relay.check()
        clock.go_on()
        settling = True
        branch = await _counted(svc, keep(svc, turn, kept, fold, opened.body), begun)
        if not begun:
            clock.pause()
            yield begin(turn, kept, answer, clock, branch)
        yield End(last)
    except (UpstreamError, asyncio.CancelledError, GeneratorExit) as exc:
        if begun and not settling and _keeps_text(svc, client, exc):
            await answer.aclose()  # the model stops now, not once the store has synced
            await keep_cut_short(svc, turn, kept, fold)
        raise
    finally:
        await answer.aclose()


async def _counted(svc: Services, keeping: Awaitable[int], begun: bool) -> int:
    """The turn's branch, once it is stored; a text that was sent and could not be stored is counted."""
    try:
        return await keeping
    except Unavailable:
        if begun:
            svc.metrics.lost_turn()
        raise


def _keeps_text(svc: Services, client: Client, broken: BaseException) -> bool:
    """Whether the text that was sent before a break is kept: guarantee G4's table, with its two options."""
    if isinstance(broken, UpstreamError):
        return svc.config.sessions.on_upstream_break == "partial"
    return client.left and svc.config.sessions.on_disconnect == "partial"


def _whole(turn: Turn, body: bytes) -> bytes:
    """What the client gets for an answer that came as one JSON object."""
    return replay.as_stream(body, turn.wants_usage) + DONE if turn.stream else body
