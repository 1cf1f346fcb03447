"""Session, history, new messages and a budget -> what is sent, and the ledger that says why. Pure."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.context import overflow, transcript
from proxy.context.calibrate import marks
from proxy.context.overflow import STRATEGIES, Digest, Kept, Room
from proxy.context.tokens import REPLY, Count
from proxy.context.transcript import RESULTS, Piece, repaired
from proxy.errors import ContextTooLong


class Material(msgspec.Struct, frozen=True, gc=False):
    """What a turn has to send. `history` is the newest part of the branch, oldest first; `before` counts the messages
    that stand before it and `before_tokens` their tokens. `detached`: its first piece is the newest user message, older
    than the rest and not next to it. `instructions`: JSON messages joined by commas. `recalled_tokens`: of the text
    that stands before a user message, not counted in its piece; `recalled`: its part of the ledger; `recalled_first`:
    it stands behind the system messages instead. `current`, `prepared`: summaries that are ready (overflow.Room)."""

    instructions: bytes
    instructions_tokens: int
    tools_tokens: int
    history: Sequence[Piece]
    before: int
    before_tokens: int
    new: Sequence[Piece]
    new_tokens: int
    detached: bool = False
    recalled_tokens: int = 0
    recalled: Sequence[dict[str, Any]] = ()
    recalled_first: bytes = b""
    current: Digest | None = None
    prepared: Digest | None = None


class Limits(msgspec.Struct, frozen=True, gc=False):
    """The budget in the upstream's tokens (None: no limit) and what a raw token counts there; the strategy asked for;
    the cut that the last turn left, and up to where it cleared results. `summaries`: whether they are wanted. `usual`:
    what a raw token counted in the last turn, where `factor` is the least that it can. `basis`: what the budget comes
    from."""

    budget: int | None
    strategy: str
    cut: int
    evict_to: float
    factor: float = 1.0
    cleared: int = 0
    results: int = 3
    summaries: bool = False
    usual: float = 1.0
    basis: str = ""

    @property
    def usually(self) -> int | None:
        """The budget in raw tokens as it was the last time."""
        return None if self.budget is None else int(self.budget / max(self.factor, self.usual))

    @property
    def raw(self) -> int | None:
        """The budget in raw tokens."""
        return None if self.budget is None else int(self.budget / self.factor)


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What goes upstream: `messages` joined by commas without brackets, and the part of it that is history; `cut` and
    `cleared` for the next turn; the ledger. `open_ended`: the history sent is not one stretch of the store, or waits
    for a result. `sent`: how many messages go up, the system's counted as one; `markers` of them are results that were
    cleared, which saves `saved` tokens. `stable`: the raw tokens that the next request may begin with; `pinned`: the
    seq of a user message that was taken out of its place; `marks`: calibrate.marks of the messages. `to_summarize`: the
    seq up to which a summary should be made."""

    messages: bytes
    past: bytes
    open_ended: bool
    cut: int
    strategy: str
    budget: int | None
    total: int
    system: int
    tools: int
    history: int
    new: int
    recall: int
    dropped: int
    left_tokens: int
    has_user: bool
    segments: list[dict[str, Any]] = []
    summary: int = 0
    summary_upto: int = 0
    cleared: int = 0
    sent: int = 0
    stable: int = 0
    pinned: int = 0
    to_summarize: int | None = None
    markers: int = 0
    saved: int = 0
    marks: tuple[int, int] = (0, 0)


class _Chosen(msgspec.Struct, frozen=True, gc=False):
    """What of the history goes up and what is left out; the new messages, repaired, and their tokens."""

    kept: Kept
    sent: Sequence[Piece]
    left: Sequence[Piece]
    new: Sequence[Piece]
    new_tokens: int

    @property
    def summary(self) -> Digest:
        return self.kept.summary or NO_SUMMARY


NO_SUMMARY = Digest(0, 0, b"")


def assemble(material: Material, limits: Limits, count: Count) -> Plan:
    """Raises ContextTooLong when what must be sent does not fit."""
    _check(material, limits)
    pieces = repaired([*material.history, *material.new], count)
    border = _border(pieces, material)
    history, new = pieces[:border], pieces[border:]
    new_tokens = material.new_tokens + sum([p.tokens for p in new]) - sum([p.tokens for p in material.new])
    room = _room(material, limits, history, new, new_tokens + material.recalled_tokens, count)
    kept = STRATEGIES[limits.strategy](room)
    if kept.cleared:
        history = [transcript.cleared(p, room.marker) if (p.seq or 0) < kept.cleared else p for p in history]
    sent = history[kept.start :] if kept.user is None else [history[kept.user], *history[kept.start :]]
    left = [*_orphans(material, history), *[piece for n, piece in enumerate(history[: kept.start]) if n != kept.user]]
    chosen = _Chosen(kept, sent, [piece for piece in left if piece.seq is not None], new, new_tokens)
    past = sent[0].raw if len(sent) == 1 else b",".join([piece.raw for piece in sent])
    heads = [part for part in (material.instructions, chosen.summary.raw, material.recalled_first) if part]
    history_tokens = sum([piece.tokens for piece in sent])
    fixed = material.instructions_tokens + material.tools_tokens + chosen.summary.tokens
    messages = b",".join([*heads, *([past] if past else ()), *[piece.raw for piece in new]])
    return Plan(
        messages=messages,
        past=past,
        open_ended=kept.user is not None or material.detached or _waits(new),
        cut=_cut(history, kept.start, material),
        strategy=limits.strategy,
        budget=limits.budget,
        total=fixed + history_tokens + material.recalled_tokens + new_tokens,
        system=material.instructions_tokens,
        tools=material.tools_tokens,
        history=history_tokens,
        new=new_tokens,
        recall=material.recalled_tokens,
        dropped=material.before + sum([piece.count for piece in chosen.left]),
        left_tokens=sum([piece.tokens + piece.saved for piece in chosen.left]),
        has_user=any(piece.role in ("user", "block") for piece in sent),
        segments=_segments(material, chosen),
        summary=chosen.summary.tokens,
        summary_upto=chosen.summary.upto,
        cleared=max(kept.cleared, limits.cleared),
        sent=len(heads) + sum([piece.count for piece in [*sent, *new]]),
        stable=fixed if material.recalled_first else fixed + history_tokens + new_tokens - _unstable(material, chosen),
        pinned=0 if kept.user is None else history[kept.user].seq or 0,
        to_summarize=overflow.to_summarize(room, kept),
        marks=marks(messages),
        markers=sum([piece.cleared for piece in sent]),
        saved=sum([piece.saved for piece in sent]),
    )


def within(history: Sequence[Piece], new: Sequence[Piece], limits: Limits, most: int) -> Kept:
    """What of the history goes up where it is too large to send: the pieces' `tokens` are their bytes here, and the
    oldest turns leave as they do over a budget. Raises ContextTooLong when what must be sent is too large."""
    room = Room(
        pieces=history,
        budget=most,
        fixed=0,
        new=min(most, sum([piece.tokens for piece in new])),
        cut=limits.cut,
        evict_to=limits.evict_to,
        must=_must(history, new),
        user=_newest_user(history, new),
    )
    return STRATEGIES["null" if limits.strategy == "null" else "truncate"](room)


def _unstable(material: Material, chosen: _Chosen) -> int:
    """The tokens that the next request may not begin with: what opens the reply, and what stands behind recalled text,
    which goes up with one message only once."""
    if not material.recalled_tokens:
        return REPLY
    pieces = [*chosen.sent, *chosen.new]
    at = max((n for n, piece in enumerate(pieces) if piece.role == "user"), default=0)
    return REPLY + sum([piece.tokens for piece in pieces[at:]])


def _room(
    material: Material, limits: Limits, history: Sequence[Piece], new: Sequence[Piece], needed: int, count: Count
) -> Room:
    clears = limits.strategy == "adaptive" and any(piece.role in RESULTS for piece in history)
    return Room(
        pieces=history,
        budget=limits.raw,
        fixed=material.instructions_tokens + material.tools_tokens,
        new=needed,
        cut=limits.cut,
        evict_to=limits.evict_to,
        must=_must(history, new),
        user=_newest_user(history, new),
        whole=_reaches_cut(material, limits.cut),
        factor=limits.factor,
        results=limits.results,
        marker=transcript.marker(count) if clears else 0,
        current=material.current,
        prepared=material.prepared,
        summaries=limits.summaries,
        usual=limits.usually,
    )


def _check(material: Material, limits: Limits) -> None:
    """New messages that alone do not fit are an error under every strategy, and so is a too large system prompt."""
    room = limits.raw
    if room is None:
        return
    fixed = material.instructions_tokens + material.tools_tokens

    def shown(tokens: int) -> str:
        return f"{math.ceil(tokens * limits.factor):,}"

    if fixed > room:
        raise ContextTooLong(
            f"the system messages and tools need {shown(fixed)} tokens, the budget is {limits.budget:,}; "
            "raise token_budget or shorten them",
            param="token_budget",
        )
    if fixed + material.new_tokens > room:
        raise ContextTooLong(
            f"the new messages need {shown(material.new_tokens)} tokens, the budget of {limits.budget:,} leaves "
            f"{shown(room - fixed)} for them; raise token_budget or send less",
            param="messages",
        )


def _border(pieces: Sequence[Piece], material: Material) -> int:
    """Where the new messages begin in the repaired list: synthetic results before them belong to the history."""
    if not material.new:
        return len(pieces)
    fresh = {id(piece) for piece in material.new}
    return next((n for n, piece in enumerate(pieces) if id(piece) in fresh), len(pieces))


def _reaches_cut(material: Material, cut: int) -> bool:
    """Whether the history was read back to where the last turn's began, and not only until the budget was full."""
    first = material.history[int(material.detached) :][:1]
    return not first or (first[0].seq or 0) <= max(cut, 1)


def _orphans(material: Material, history: Sequence[Piece]) -> list[Piece]:
    """Stored results that are not sent because their call stands before what was read."""
    if not any(piece.role == "tool" for piece in material.history):
        return []
    sent = {piece.seq for piece in history}
    return [piece for piece in material.history if piece.seq not in sent]


def _waits(new: Sequence[Piece]) -> bool:
    """Whether the history before the new messages has a call that they answer."""
    return bool(new) and new[0].role in RESULTS


def _must(history: Sequence[Piece], new: Sequence[Piece]) -> int:
    """Where the group begins that the first new messages answer; the history's end when they answer nothing."""
    if not _waits(new):
        return len(history)
    return max((n for n, piece in enumerate(history) if piece.role == "assistant"), default=len(history))


def _newest_user(history: Sequence[Piece], new: Sequence[Piece]) -> int | None:
    """The newest user message is always sent: its index in the history, unless the new messages bring one."""
    if any(piece.role == "user" for piece in new):
        return None
    return max((n for n, piece in enumerate(history) if piece.role == "user"), default=None)


def _cut(history: Sequence[Piece], start: int, material: Material) -> int:
    """The seq from which the history is sent; 0 when nothing was left out."""
    if start == 0 and material.before == 0:
        return 0
    start = max(start, int(material.detached))
    later = (piece.seq for piece in history[start:] if piece.seq is not None)
    last = max((piece.seq for piece in history if piece.seq is not None), default=material.before)
    return next(later, last + 1)


def _segments(material: Material, chosen: _Chosen) -> list[dict[str, Any]]:
    """The ledger: contiguous history is one segment, so that its size does not depend on the history's."""
    out: list[dict[str, Any]] = []
    summary = chosen.summary
    if material.instructions_tokens:
        out.append(_segment("system", material.instructions_tokens, "instructions"))
    if material.tools_tokens:
        out.append(_segment("tools", material.tools_tokens, "tools"))
    if summary.upto:
        out.append(_segment("summary", summary.tokens, "stands in for what left", **{"from": 1, "to": summary.upto}))
    out += _history(material, chosen)
    out += material.recalled
    out.append(_segment("new", chosen.new_tokens, "new", count=len(chosen.new)))
    return out


def _history(material: Material, chosen: _Chosen) -> list[dict[str, Any]]:
    """What was left out, what was cleared in what is sent, and what is sent."""
    out = []
    sent, left = chosen.sent, chosen.left
    older = material.before + sum([piece.count for piece in left])
    if older:
        tokens = material.before_tokens + sum([piece.tokens + piece.saved for piece in left])
        out.append(_segment("history", tokens, "over budget", kept=False, count=older))
    removed = sum([piece.cleared for piece in sent])
    if removed:
        saved = sum([piece.saved for piece in sent])
        out.append(_segment("history", saved, "tool results cleared", kept=False, count=removed))
    if sent:
        stored = [piece for piece in sent if piece.seq is not None]
        span: dict[str, Any] = (
            {"from": stored[0].seq, "to": (stored[-1].seq or 0) + stored[-1].count - 1} if stored else {}
        )
        count = sum([piece.count for piece in stored])
        out.append(_segment("history", sum([piece.tokens for piece in sent]), "fits", **span, count=count))
    return out


def _segment(source: str, tokens: int, reason: str, kept: bool = True, **more: Any) -> dict[str, Any]:
    return {"source": source, **more, "tokens": tokens, "kept": kept, "reason": reason}
