"""The history that a turn may send, as it goes upstream: kept joined since the last turn, or read piece by piece."""

import math
from collections.abc import Callable, Sequence

import msgspec

from proxy import recollect
from proxy.context import vendor
from proxy.context.assemble import Limits, within
from proxy.context.overflow import WATERMARK, Digest
from proxy.context.summary import message
from proxy.context.tokens import Count
from proxy.context.transcript import CLEARABLE, RESULTS, Piece, cleared, marker, of_entry, without_tools
from proxy.errors import ContextTooLong
from proxy.recollect import Found, History
from proxy.services import Services, Turn
from proxy.store import blobs, entries, history, summaries, turns
from proxy.types import Entry


class Past(msgspec.Struct, frozen=True, gc=False):
    """The history to choose from; `before`, `before_tokens` and `detached` as in recollect.History."""

    pieces: Sequence[Piece]
    before: int
    before_tokens: int
    detached: bool


def joined(svc: Services, found: Found, cut_key: str, room: int | None, limits: Limits) -> Past | None:
    """The history as the last turn sent it, if it may be sent again as it is. Where a summary may be due it may not:
    the turns in it have to be told apart."""
    new = found.new
    if found.session is None or found.branch is None or found.fork_at is not None:
        return None
    if new and new[0].role in RESULTS:
        return None  # they answer a call in the history, which only its own piece shows
    block = svc.forwarded.get(found.session.id, found.branch.number, found.branch.last_turn, cut_key)
    if block is None or (room is not None and block.tokens > _most(room, limits)):
        return None
    if not (block.has_user or any(message.role == "user" for message in new)):
        return None
    if len(block.raw) + _size(found) > svc.config.limits.prompt_mb << 20:
        return None
    piece = Piece(
        "block", block.raw, block.tokens, block.first, count=block.count, cleared=block.cleared, saved=block.saved
    )
    return Past((piece,), block.first - 1, block.before_tokens, False)


def _most(room: int, limits: Limits) -> float:
    """What the joined history may have of the room."""
    if not (limits.summaries and limits.raw and limits.usually):
        return room
    return WATERMARK * (room - limits.raw + limits.usually)


async def read(svc: Services, turn: Turn, found: Found, limits: Limits, count: Count) -> Past:
    """The history from the store, message by message, as far back as it could be sent."""
    clears = limits.strategy == "adaptive"
    price = marker(count) if clears else 0
    counted = _with_markers(limits.results, price) if clears else None
    upto = limits.cleared if clears else 0
    got = _lightened(await recollect.history(svc, turn, found, limits.raw, limits.cut, counted), upto, price)
    first = await _first_within(svc, turn, found, got.entries, limits)
    if first is not None:
        got = _lightened(await recollect.history(svc, turn, found, None, first), upto, price)
    whole = await entries.whole(svc.db, turn.scope, got.entries)
    pieces: Sequence[Piece] = [of_entry(entry) for entry in await _as_forwarded(svc, turn, found, whole)]
    pieces = marked(pieces, upto, price)
    if not turn.options.recall_tools:
        pieces = without_tools(pieces, found.new[0].answers if found.new else None)
    return Past(pieces, got.before, got.before_tokens, got.detached)


def _lightened(got: History, upto: int, price: int) -> History:
    """The history without the large base64 of results that go up as a marker."""
    if not upto:
        return got
    light = [
        msgspec.structs.replace(one, raw=blobs.bare(one.raw))
        if one.role == CLEARABLE and one.seq < upto and one.tokens > price
        else one
        for one in got.entries
    ]
    return msgspec.structs.replace(got, entries=light)


async def _first_within(svc: Services, turn: Turn, found: Found, read: Sequence[Entry], limits: Limits) -> int | None:
    """The seq that the history begins with where more would be too large to send; None where all of it may go. Raises
    ContextTooLong where nothing may be left out, or too much of it is needed."""
    most = svc.config.limits.prompt_mb << 20
    new = [Piece(message.role, b"", len(message.raw)) for message in found.new]
    sizes = await blobs.sizes(svc.db, turn.scope, [entry.raw for entry in read])
    needed = sum(sizes) + _size(found)
    if needed <= most or not read:
        return None
    pieces = [msgspec.structs.replace(of_entry(entry), tokens=size) for entry, size in zip(read, sizes, strict=True)]
    try:
        kept = within(pieces, new, limits, most)
    except ContextTooLong:
        raise _too_large(limits.strategy, needed) from None
    return read[kept.start].seq if kept.start < len(read) else read[-1].seq + 1


def _size(found: Found) -> int:
    """The bytes of the new messages."""
    return sum([len(message.raw) for message in found.new])


def _too_large(strategy: str, needed: int) -> ContextTooLong:
    what, hint = "the new messages and the tool calls they answer hold more", "send less"
    if strategy == "null":
        what = (
            f"the conversation holds {math.ceil(needed / (1 << 20)):,} MB, context_overflow is null, and that is more"
        )
        hint = "use context_overflow truncate or adaptive"
    return ContextTooLong(f"{what} than limits.prompt_mb allows; raise that or {hint}", param="messages")


def marked(pieces: Sequence[Piece], upto: int, price: int) -> Sequence[Piece]:
    """The pieces with markers in place of the tool results before the seq `upto`; `price`: a marker's tokens."""
    return [cleared(one, price) if (one.seq or 0) < upto else one for one in pieces] if upto else pieces


def _with_markers(newest: int, price: int) -> Callable[[Entry], int]:
    """What an entry costs at the least, once all tool results but the newest are cleared; asked from the newest on."""
    seen = 0

    def least(entry: Entry) -> int:
        nonlocal seen
        if entry.role != CLEARABLE:
            return entry.tokens
        seen += 1
        return entry.tokens if seen <= newest else min(entry.tokens, price)

    return least


async def _as_forwarded(svc: Services, turn: Turn, found: Found, read: Sequence[Entry]) -> Sequence[Entry]:
    """The messages without what only their first reader was meant to have. Most have nothing of the kind."""
    strip = turn.target.upstream.strip_fields
    some = [
        n for n, entry in enumerate(read) if strip or (entry.role == "assistant" and not vendor.is_plain(entry.raw))
    ]
    if not some or found.session is None:
        return read
    said = {read[n].turn for n in some if vendor.is_opaque(read[n].raw)}
    models: dict[int, str] = {}
    if said:
        models = await history.models_of(svc.db, turn.scope, found.session.id, sorted(said))
    model = turn.target.model or ""
    out = list(read)
    for n in some:
        raw = replayed(turn, read[n].raw, models.get(read[n].turn) in (None, "", model))
        if raw is not read[n].raw:
            out[n] = msgspec.structs.replace(read[n], raw=raw)
    return out


def replayed(turn: Turn, raw: bytes, same_model: bool = True) -> bytes:
    """A stored message as this turn's upstream may see it again."""
    return vendor.forwardable(raw, same_model, turn.target.upstream.strip_fields, turn.now // 1000)


async def price_of(svc: Services, turn: Turn, found: Found) -> tuple[Piece, ...]:
    """The sent messages that are stored already, as one block: their price is the difference of two running totals."""
    if found.session is None or not found.known or not found.line:
        return ()
    last = found.line[0][2]
    end = await entries.at(svc.db, turn.scope, found.session.id, found.line, last)
    before = await entries.at(svc.db, turn.scope, found.session.id, found.line, last - found.known)
    price = (end.total if end else 0) - (before.total if before else 0)
    return (Piece("block", b"", price, last - found.known + 1, count=found.known),)


class Ready(msgspec.Struct, frozen=True, gc=False):
    """The summaries that are there: of what stands before the cut, and one that reaches beyond it."""

    current: Digest | None = None
    prepared: Digest | None = None

    def after(self, cut: int) -> "Ready":
        """The same once the history begins at the seq `cut`."""
        known = [one for one in (self.current, self.prepared) if one is not None]
        before = [one for one in known if one.upto < cut]
        beyond = [one for one in known if one.upto >= cut]
        return Ready(max(before, key=lambda one: one.upto, default=None), next(iter(beyond), None))


async def summarized(svc: Services, turn: Turn, found: Found, limits: Limits) -> Ready:
    """What can stand in for old messages; nothing where summaries are not wanted."""
    if not limits.summaries or found.session is None:
        return Ready()
    around = await summaries.around(svc.db, turn.scope, found.session.id, found.line, max(limits.cut, 1))
    return Ready(*[None if one is None else Digest(one.upto, one.tokens, message(one.text)) for one in around])


async def resumed(svc: Services, turn: Turn, found: Found, past: Past) -> str:
    """The recalled text that the newest user message was first sent with: it stays for the rest of its tool loop, so
    that the prompt's beginning does. Empty outside of one."""
    if found.session is None or not (found.new and found.new[0].role in RESULTS):
        return ""
    asked = next((piece for piece in reversed(past.pieces) if piece.role == "user"), None)
    if asked is None or any(message.role == "user" for message in found.new):
        return ""
    return await turns.recalled(svc.db, turn.scope, found.session.id, asked.turn)
