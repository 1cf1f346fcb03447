"""Which part of the history is sent when not all of it fits. Pure functions of one signature, in one table.

A strategy never changes the store; it chooses where the sent history starts, which old tool results go up as markers,
and which summary stands in for what is left out. The unit of leaving is the turn; where one turn is too large (a long
tool loop), the group of a call and its results. Adding a strategy is a function, a row in STRATEGIES and its tests.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import msgspec

from proxy.context.transcript import CLEARABLE, RESULTS, Piece
from proxy.errors import ContextTooLong

WATERMARK = 0.7
"""How full the history's room is when a summary of what will leave next is asked for."""


class Digest(msgspec.Struct, frozen=True, gc=False):
    """A summary that is ready: it stands in for the entries up to `upto`. `raw`: the message that carries it."""

    upto: int
    tokens: int
    raw: bytes


class Room(msgspec.Struct, frozen=True, gc=False):
    """The history that could be sent, and the room for it. All numbers are raw tokens.

    `pieces`: the newest part of the history, oldest first, repaired. `budget`: for everything sent; `factor`: what a
    raw token counts for the upstream, for what people read. `fixed`: system and tools; `new`: the new messages. `cut`:
    the seq where the last turn's history began (0: at the first message). `must`: index from which pieces have to be
    sent (a group that the new messages answer). `user`: index of the newest user message when the new messages hold
    none. `whole`: the pieces reach back to the cut; what does not was more than the budget already, whatever is left of
    it. `results`: how many of the newest tool results stay whole; `marker`: what a cleared one costs. `current`: the
    summary of what stands before the cut; `prepared`: one that reaches beyond it. `summaries`: whether they are wanted;
    `usual`: the budget as it was the last time, where this one is the most that it can be.
    """

    pieces: Sequence[Piece]
    budget: int | None
    fixed: int
    new: int
    cut: int
    evict_to: float
    must: int
    user: int | None
    whole: bool = True
    factor: float = 1.0
    results: int = 3
    marker: int = 0
    current: Digest | None = None
    prepared: Digest | None = None
    summaries: bool = False
    usual: int | None = None


class Kept(msgspec.Struct, frozen=True, gc=False):
    """Send `pieces[start:]`, and before them the newest user message at index `user` if that is not None. Results with
    a seq below `cleared` go up as a marker; `summary` stands before the history."""

    start: int
    user: int | None = None
    cleared: int = 0
    summary: Digest | None = None


class _Sizes(msgspec.Struct, frozen=True, gc=False):
    """tails[n]: what sending `pieces[n:]` costs, the pinned user message included; one longer than pieces. `cleared`:
    the seq below which results are taken as cleared."""

    tails: Sequence[int]
    cleared: int = 0


def everything(room: Room) -> Kept:
    """`null`: nothing is left out; what does not fit is an error."""
    needed = room.fixed + room.new + sum(piece.tokens for piece in room.pieces)
    if room.budget is not None and needed > room.budget:
        raise ContextTooLong(
            f"the conversation needs {_shown(room, needed)} tokens, the budget is {_shown(room, room.budget)} and "
            "context_overflow is null; raise token_budget or use context_overflow truncate or adaptive",
            param="messages",
        )
    return Kept(0)


def truncate(room: Room) -> Kept:
    """The oldest whole turns leave. With hysteresis: the last turn's cut stays while it fits, so that the prefix stays
    byte-identical for many turns; else history shrinks to `evict_to` of the budget at once."""
    if room.budget is None:
        return Kept(0)
    sizes = _sizes(room)
    kept = _stays(room, sizes)
    if kept is not None:
        return kept
    _check(room, sizes)
    return _evicted(room, sizes)


def adaptive(room: Room) -> Kept:
    """When something has to leave, old tool results are cleared first: markers take their place. Then as `truncate`, or
    as `summarize` where summaries are wanted."""
    if room.budget is None:
        return Kept(0)
    sizes = _sizes(room)
    kept = _stays(room, sizes)
    if kept is not None:
        return kept
    markers = _cleared(room)
    if markers is not None:
        sizes = markers
        start = _kept_cut(room)
        if room.whole and sizes.tails[start] <= (_available(room, room.current) + _target(room, room.current)) // 2:
            return _kept(room, start, sizes, room.current)
    _check(room, sizes)
    return _advanced(room, sizes) or _evicted(room, sizes)


def summarize(room: Room) -> Kept:
    """What leaves is replaced by a summary that was made ahead; until one is ready, as `truncate`."""
    if room.budget is None:
        return Kept(0)
    sizes = _sizes(room)
    kept = _stays(room, sizes)
    if kept is not None:
        return kept
    _check(room, sizes)
    return _advanced(room, sizes) or _evicted(room, sizes)


def _shown(room: Room, tokens: int) -> str:
    return f"{math.ceil(tokens * room.factor):,}"


def _check(room: Room, sizes: _Sizes) -> None:
    """What must be sent has to fit, without any summary."""
    if room.budget is None:
        return
    least = sizes.tails[room.must]
    if least > _available(room, None):
        raise ContextTooLong(
            f"the new messages and the tool calls they answer need {_shown(room, room.new + least)} tokens, "
            f"the budget leaves {_shown(room, room.budget - room.fixed)}; raise token_budget or send less",
            param="messages",
        )


def _available(room: Room, summary: Digest | None) -> int:
    """The room that is left for history."""
    return (room.budget or 0) - room.fixed - room.new - (summary.tokens if summary is not None else 0)


def _target(room: Room, summary: Digest | None) -> int:
    """What history shrinks to when it must."""
    aim = int(room.evict_to * ((room.budget or 0) - room.fixed - (summary.tokens if summary is not None else 0)))
    return min(_available(room, summary), aim)


def _sizes(room: Room) -> _Sizes:
    return _Sizes(_tails(room, [piece.tokens for piece in room.pieces]))


def _tails(room: Room, prices: Sequence[int]) -> list[int]:
    tails = list(accumulate(reversed(prices), initial=0))[::-1]
    if room.user is None:
        return tails
    pinned = prices[room.user]
    return [tail + (pinned if n > room.user else 0) for n, tail in enumerate(tails)]


def _cleared(room: Room) -> _Sizes | None:
    """The sizes with all clearable results but the newest ones cleared; None when nothing would be gained."""
    places = [n for n in range(room.must) if room.pieces[n].role == CLEARABLE and room.pieces[n].seq is not None]
    later = sum(piece.role == CLEARABLE for piece in room.pieces[room.must :])
    old = places[: max(0, len(places) - max(0, room.results - later))]
    if not any(room.pieces[n].tokens > room.marker for n in old):
        return None
    prices = [piece.tokens for piece in room.pieces]
    for n in old:
        prices[n] = min(prices[n], room.marker)
    return _Sizes(_tails(room, prices), max(room.pieces[n].seq or 0 for n in old) + 1)


def _stays(room: Room, sizes: _Sizes) -> Kept | None:
    """The last turn's cut, while it fits."""
    start = _kept_cut(room)
    if not room.whole or sizes.tails[start] > _available(room, room.current):
        return None
    return _kept(room, start, sizes, room.current)


def _advanced(room: Room, sizes: _Sizes) -> Kept | None:
    """The start behind the prepared summary, where the rest fits beside it."""
    summary = room.prepared
    if summary is None:
        return None
    if not any(piece.seq == summary.upto + 1 for piece in room.pieces):
        return None  # what lies between was not read
    groups = (n for n in range(room.must) if room.pieces[n].role not in RESULTS)
    start = next((n for n in groups if (room.pieces[n].seq or 0) > summary.upto), room.must)
    if any(0 < (piece.seq or 0) <= summary.upto for piece in room.pieces[start:]):
        return None  # it tells of what is sent itself
    return _kept(room, start, sizes, summary) if sizes.tails[start] <= _available(room, summary) else None


def _evicted(room: Room, sizes: _Sizes) -> Kept:
    """The earliest place to start from: between turns if possible, else between groups, else what must be sent. The
    newest summary of what stands before it comes along, where it fits."""
    known = [one for one in (room.current, room.prepared) if one is not None]
    largest = max(known, key=lambda one: one.tokens, default=None)
    if largest is not None and sizes.tails[room.must] > _available(room, largest):
        largest = None
    available, target = _available(room, largest), _target(room, largest)
    start = room.must
    groups = [n for n in range(room.must) if room.pieces[n].role not in RESULTS]
    turns = _turns(room, groups)
    for places, limit in ((turns, target), (turns, available), (groups, target), (groups, available)):
        found = next((n for n in places if sizes.tails[n] <= limit), None)
        if found is not None:
            start = found
            break
    before = _seq_from(room, start)
    fitting = [one for one in known if largest is not None and one.upto < before]
    return _kept(room, start, sizes, max(fitting, key=lambda one: one.upto, default=None))


def _kept(room: Room, start: int, sizes: _Sizes, summary: Digest | None) -> Kept:
    user = room.user if room.user is not None and room.user < start else None
    return Kept(start, user, sizes.cleared, summary)


def _seq_from(room: Room, n: int) -> int:
    """The seq that the history has from index `n` on; beyond all of it at the end."""
    return next((piece.seq for piece in room.pieces[n:] if piece.seq is not None), 1 << 62)


def _kept_cut(room: Room) -> int:
    """The index where the last turn's history began."""
    if room.whole and not room.cut:
        return 0
    for n, piece in enumerate(room.pieces[: room.must]):
        if piece.seq is not None and piece.seq >= room.cut and piece.role not in RESULTS:
            return n
    return room.must


def _turns(room: Room, groups: Iterable[int]) -> list[int]:
    """Those of the indexes where turns begin; not with an answer, whose question was stored by itself."""
    pieces = room.pieces
    return [n for n in groups if pieces[n].role == "user" or (pieces[n].role != "assistant" and _begins_turn(room, n))]


def _begins_turn(room: Room, n: int) -> bool:
    return room.whole if n == 0 else room.pieces[n].turn != room.pieces[n - 1].turn


def to_summarize(room: Room, kept: Kept) -> int | None:
    """The seq up to which a summary should be made now: what has left without one, and from WATERMARK on what leaves
    next. None when there is nothing to do."""
    if not room.summaries or room.budget is None:
        return None
    if room.usual is not None:
        room = msgspec.structs.replace(room, budget=room.usual)
    first = _seq_from(room, kept.start)
    gone = first - 1 if room.pieces and first < 1 << 62 else 0
    ready = max((one.upto for one in (room.current, room.prepared) if one is not None), default=0)
    upto = gone if gone > ready else 0
    tails = _tails(room, [piece.tokens for piece in room.pieces])
    available, target = _available(room, kept.summary), _target(room, kept.summary)
    if available > 0 and tails[kept.start] >= WATERMARK * available:
        stays = max(0, tails[kept.start] - (available - target))
        groups = (n for n in range(kept.start + 1, room.must) if room.pieces[n].role not in RESULTS)
        after = next((n for n in _turns(room, groups) if tails[n] <= stays), None)
        upto = max(upto, _seq_from(room, after) - 1 if after is not None else 0)
    return upto if upto > ready else None


STRATEGIES: dict[str, Callable[[Room], Kept]] = {
    "adaptive": adaptive,
    "summarize": summarize,
    "truncate": truncate,
    "null": everything,
    "observe": everything,
}
