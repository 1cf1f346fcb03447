"""Which part of the history is sent when not all of it fits. Pure functions of one signature, in one table.

A strategy never changes the store; it chooses where the sent history starts. The unit of leaving is the turn; where
one turn alone is too large (a long tool loop), the group of a call and its results. Adding a strategy is a function,
a row in STRATEGIES and its tests.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

import msgspec

from proxy.context.transcript import RESULTS, Piece
from proxy.errors import ContextTooLong


class Room(msgspec.Struct, frozen=True, gc=False):
    """The history that could be sent, and the room for it. All numbers are raw tokens.

    `pieces`: the newest part of the history, oldest first, repaired. `budget`: for everything sent; `fixed`: system and
    tools; `new`: the new messages. `cut`: the seq where the last turn's history began (0: at the first message).
    `must`: index from which pieces have to be sent (a group that the new messages answer). `user`: index of the newest
    user message when the new messages hold none. `whole`: the pieces reach back to the cut; what does not was more than
    the budget already, whatever is left of it.
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


class Kept(msgspec.Struct, frozen=True, gc=False):
    """Send `pieces[start:]`, and before them the newest user message at index `user` if that is not None."""

    start: int
    user: int | None = None


def everything(room: Room) -> Kept:
    """`null`: nothing is left out; what does not fit is an error."""
    needed = room.fixed + room.new + sum(piece.tokens for piece in room.pieces)
    if room.budget is not None and needed > room.budget:
        raise ContextTooLong(
            f"the conversation needs {needed:,} tokens, the budget is {room.budget:,} and context_overflow is null; "
            "raise token_budget or use context_overflow truncate or adaptive",
            param="messages",
        )
    return Kept(0)


def truncate(room: Room) -> Kept:
    """The oldest whole turns leave. With hysteresis: the last turn's cut stays while it fits, so that the prefix stays
    byte-identical for many turns; else history shrinks to `evict_to` of the budget at once."""
    if room.budget is None:
        return Kept(0)
    sizes = _sizes(room)
    available = room.budget - room.fixed - room.new
    if sizes[room.must] > available:
        raise ContextTooLong(
            f"the new messages and the tool calls they answer need {room.new + sizes[room.must]:,} tokens, "
            f"the budget leaves {room.budget - room.fixed:,}; raise token_budget or send less",
            param="messages",
        )
    start = _kept_cut(room)
    if not room.whole or sizes[start] > available:
        start = _evict(room, sizes, available, min(available, int(room.evict_to * (room.budget - room.fixed))))
    return Kept(start, room.user if room.user is not None and room.user < start else None)


def _sizes(room: Room) -> list[int]:
    """sizes[n]: what sending `pieces[n:]` costs, the pinned user message included. One longer than pieces."""
    tails = list(accumulate((piece.tokens for piece in reversed(room.pieces)), initial=0))[::-1]
    if room.user is None:
        return tails
    pinned = room.pieces[room.user].tokens
    return [tail + (pinned if n > room.user else 0) for n, tail in enumerate(tails)]


def _kept_cut(room: Room) -> int:
    """The index where the last turn's history began."""
    if room.whole and not room.cut:
        return 0
    for n, piece in enumerate(room.pieces[: room.must]):
        if piece.seq is not None and piece.seq >= room.cut and piece.role not in RESULTS:
            return n
    return room.must


def _evict(room: Room, sizes: Sequence[int], available: int, target: int) -> int:
    """The earliest place to start from: between turns if possible, else between groups, else what must be sent."""
    pieces = room.pieces
    groups = [n for n in range(room.must) if pieces[n].role not in RESULTS]
    turns = [n for n in groups if pieces[n].role == "user" or _begins_turn(room, n)]
    for places, limit in ((turns, target), (turns, available), (groups, target), (groups, available)):
        start = next((n for n in places if sizes[n] <= limit), None)
        if start is not None:
            return start
    return room.must


def _begins_turn(room: Room, n: int) -> bool:
    return room.whole if n == 0 else room.pieces[n].turn != room.pieces[n - 1].turn


STRATEGIES: dict[str, Callable[[Room], Kept]] = {"truncate": truncate, "null": everything, "observe": everything}

RUNS_AS = {"adaptive": "truncate", "summarize": "truncate"}
"""Strategies that sessions may ask for already and that run as another one."""
