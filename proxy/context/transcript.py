"""Entries and new messages -> the list that goes upstream, always valid: each tool call is followed by its result.

A call that nobody answered gets a synthetic result, a result without its call is left out. Both happen on the way
out only; the store keeps what was said. Upstreams answer 400 to anything else, for every later turn of the session.
"""

from collections.abc import Iterable, Sequence

import msgspec

from proxy.context import tokens
from proxy.context.tokens import Count
from proxy.types import Entry

RESULTS = ("tool", "function")
NO_RESULT = "No result was recorded for this tool call."


class Piece(msgspec.Struct, frozen=True, gc=False):
    """One message of the forwarded list, or a block of `count` of them, joined by commas.

    `seq` is its (first) place in the store; None for new and synthetic ones. A block holds no open call.
    """

    role: str
    raw: bytes
    tokens: int
    seq: int | None = None
    turn: int = 0
    calls: int = 0
    count: int = 1


def of_entry(entry: Entry) -> Piece:
    return Piece(entry.role, entry.raw, entry.tokens, entry.seq, entry.turn, entry.calls)


def call_ids(raw: bytes) -> tuple[str, ...]:
    """The ids of the tool calls that an assistant message makes. What a model made up in their place counts as none:
    the upstream is not trusted to keep to the format."""
    calls = msgspec.json.decode(raw).get("tool_calls")
    return tuple(str(call["id"]) for call in calls if isinstance(call, dict) and "id" in call) if calls else ()


def without_tools(pieces: Sequence[Piece], answered: str | None) -> list[Piece]:
    """The history without tool calls and their results, but for the group that holds the call `answered`: its other
    results go up with the one that comes."""
    kept = len(pieces)
    if answered is not None:
        made = (n for n, piece in enumerate(pieces) if piece.calls and answered in call_ids(piece.raw))
        kept = max(made, default=kept)
    return [piece for n, piece in enumerate(pieces) if n >= kept or not (piece.calls or piece.role in RESULTS)]


def _answers(raw: bytes) -> str:
    return str(msgspec.json.decode(raw).get("tool_call_id"))


def repaired(pieces: Sequence[Piece], count: Count) -> list[Piece]:
    """The same list with every call answered and no orphan. Lists without calls and results come back as they are.

    A result that came late, after other messages, takes its place behind its call.
    """
    if not any(piece.calls or piece.role == "tool" for piece in pieces):
        return list(pieces)
    late = _late(pieces)
    out: list[Piece] = []
    open_calls: list[str] = []
    for piece in pieces:
        if piece.role == "tool":
            answered = _answers(piece.raw)
            if answered in open_calls:
                open_calls.remove(answered)
                out.append(piece)
            continue
        out.extend(_filled(open_calls, late, count))
        open_calls = list(call_ids(piece.raw)) if piece.calls else []
        out.append(piece)
    out.extend(_filled(open_calls, late, count))
    return out


def _late(pieces: Sequence[Piece]) -> dict[str, Piece]:
    """The results that stand apart from their call, by its id; one whose call is not before it is none."""
    made: set[str] = set()
    open_calls: list[str] = []
    late: dict[str, Piece] = {}
    for piece in pieces:
        if piece.role != "tool":
            open_calls = list(call_ids(piece.raw)) if piece.calls else []
            made.update(open_calls)
            continue
        answered = _answers(piece.raw)
        if answered in open_calls:
            open_calls.remove(answered)
        elif answered in made:
            late[answered] = piece
    return late


def _filled(calls: Iterable[str], late: dict[str, Piece], count: Count) -> list[Piece]:
    """For calls without a result behind them: the one that came late, else a synthetic one."""
    return [late.pop(call, None) or _no_result(call, count) for call in calls]


def _no_result(call: str, count: Count) -> Piece:
    value = {"role": "tool", "tool_call_id": call, "content": NO_RESULT}
    return Piece("tool", msgspec.json.encode(value), tokens.of_message(value, count))
