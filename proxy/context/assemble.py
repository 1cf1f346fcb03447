"""Session, history, new messages and a budget -> what is sent, and the ledger that says why. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.context.overflow import RUNS_AS, STRATEGIES, Room
from proxy.context.tokens import Count
from proxy.context.transcript import RESULTS, Piece, repaired
from proxy.errors import ContextTooLong


class Material(msgspec.Struct, frozen=True, gc=False):
    """What a turn has to send. `history` is the newest part of the branch, oldest first; `before` counts the messages
    that stand before it and `before_tokens` their tokens. `detached`: its first piece is the newest user message, older
    than the rest and not next to it. `instructions`: JSON messages joined by commas. `recalled_tokens`: of documents
    that stand in one of the new messages, not counted in `new_tokens`; `recalled`: their part of the ledger."""

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


class Limits(msgspec.Struct, frozen=True, gc=False):
    """The budget in raw tokens (None: no limit), the strategy asked for, and the cut that the last turn left."""

    budget: int | None
    strategy: str
    cut: int
    evict_to: float


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What goes upstream: `messages` joined by commas without brackets, and the part of it that is history; `cut` for
    the next turn; the ledger. `open_ended`: the history sent is not one stretch of the store, or waits for a result."""

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


def assemble(material: Material, limits: Limits, count: Count) -> Plan:
    """Raises ContextTooLong when what must be sent does not fit."""
    fixed = material.instructions_tokens + material.tools_tokens
    _check(material, limits, fixed)
    pieces = repaired([*material.history, *material.new], count)
    border = _border(pieces, material)
    history, new = pieces[:border], pieces[border:]
    strategy = RUNS_AS.get(limits.strategy, limits.strategy)
    new_tokens = material.new_tokens + sum(p.tokens for p in new) - sum(p.tokens for p in material.new)
    room = Room(
        pieces=history,
        budget=limits.budget,
        fixed=fixed,
        new=new_tokens + material.recalled_tokens,
        cut=limits.cut,
        evict_to=limits.evict_to,
        must=_must(history, new),
        user=_newest_user(history, new),
        whole=_reaches_cut(material, limits.cut),
    )
    kept = STRATEGIES[strategy](room)
    sent = history[kept.start :] if kept.user is None else [history[kept.user], *history[kept.start :]]
    past = sent[0].raw if len(sent) == 1 else b",".join([piece.raw for piece in sent])
    parts = [part for part in (material.instructions, past) if part]
    parts.extend([piece.raw for piece in new])
    history_tokens = sum([piece.tokens for piece in sent])
    left = [*_orphans(material, history), *[piece for n, piece in enumerate(history[: kept.start]) if n != kept.user]]
    return Plan(
        messages=b",".join(parts),
        past=past,
        open_ended=kept.user is not None or material.detached or _waits(new),
        cut=_cut(history, kept.start, material),
        strategy=strategy,
        budget=limits.budget,
        total=fixed + history_tokens + material.recalled_tokens + new_tokens,
        system=material.instructions_tokens,
        tools=material.tools_tokens,
        history=history_tokens,
        new=new_tokens,
        recall=material.recalled_tokens,
        dropped=material.before + sum([piece.count for piece in left if piece.seq is not None]),
        left_tokens=sum([piece.tokens for piece in left if piece.seq is not None]),
        has_user=any(piece.role in ("user", "block") for piece in sent),
        segments=_segments(material, sent, left, new, new_tokens),
    )


def _check(material: Material, limits: Limits, fixed: int) -> None:
    """New messages that alone do not fit are an error under every strategy, and so is a too large system prompt."""
    budget = limits.budget
    if budget is None:
        return
    if fixed > budget:
        raise ContextTooLong(
            f"the system messages and tools need {fixed:,} tokens, the budget is {budget:,}; "
            "raise token_budget or shorten them",
            param="token_budget",
        )
    if fixed + material.new_tokens > budget:
        raise ContextTooLong(
            f"the new messages need {material.new_tokens:,} tokens, the budget of {budget:,} leaves "
            f"{budget - fixed:,} for them; raise token_budget or send less",
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


def _segments(
    material: Material, sent: Sequence[Piece], left: Sequence[Piece], new: Sequence[Piece], new_tokens: int
) -> list[dict[str, Any]]:
    """The ledger: contiguous history is one segment, so that its size does not depend on the history's."""
    out: list[dict[str, Any]] = []
    if material.instructions_tokens:
        out.append({"source": "system", "tokens": material.instructions_tokens, "kept": True, "reason": "instructions"})
    if material.tools_tokens:
        out.append({"source": "tools", "tokens": material.tools_tokens, "kept": True, "reason": "tools"})
    older = material.before + sum([piece.count for piece in left if piece.seq is not None])
    if older:
        tokens = material.before_tokens + sum([piece.tokens for piece in left if piece.seq is not None])
        out.append({"source": "history", "count": older, "tokens": tokens, "kept": False, "reason": "over budget"})
    if sent:
        stored = [piece for piece in sent if piece.seq is not None]
        span = {"from": stored[0].seq, "to": (stored[-1].seq or 0) + stored[-1].count - 1} if stored else {}
        count = sum([piece.count for piece in stored])
        tokens = sum([piece.tokens for piece in sent])
        out.append({"source": "history", **span, "count": count, "tokens": tokens, "kept": True, "reason": "fits"})
    out += material.recalled
    out.append({"source": "new", "count": len(new), "tokens": new_tokens, "kept": True, "reason": "new"})
    return out
