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


def _answers(raw: bytes) -> str:
    return str(msgspec.json.decode(raw).get("tool_call_id"))


def repaired(pieces: Sequence[Piece], count: Count) -> list[Piece]:
    """The same list with every call answered and no orphan. Lists without calls and results come back as they are."""
    if not any(piece.calls or piece.role == "tool" for piece in pieces):
        return list(pieces)
    out: list[Piece] = []
    open_calls: list[str] = []
    for piece in pieces:
        if piece.role == "tool":
            answered = _answers(piece.raw)
            if answered in open_calls:
                open_calls.remove(answered)
                out.append(piece)
            continue
        out.extend(_synthetic(open_calls, count))
        open_calls = list(call_ids(piece.raw)) if piece.calls else []
        out.append(piece)
    out.extend(_synthetic(open_calls, count))
    return out


def _synthetic(calls: Iterable[str], count: Count) -> list[Piece]:
    return [_no_result(call, count) for call in calls]


def _no_result(call: str, count: Count) -> Piece:
    value = {"role": "tool", "tool_call_id": call, "content": NO_RESULT}
    return Piece("tool", msgspec.json.encode(value), tokens.of_message(value, count))
