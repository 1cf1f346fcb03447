"""Entries and new messages -> the list that goes upstream, always valid: each tool call is followed by its result.

A call that nobody answered gets a synthetic result, a result without its call is left out. Both happen on the way
out only; the store keeps what was said. Upstreams answer 400 to anything else, for every later turn of the session.
"""

from collections.abc import Sequence

import msgspec

from proxy.context import tokens
from proxy.context.tokens import Count
from proxy.types import Entry

RESULTS = ("tool", "function")
NO_RESULT = "No result was recorded for this tool call."
CLEARABLE = "tool"
"""The role of results that can be cleared; those of the legacy `function` role name their function."""
CLEARED = "[This old tool result was removed to save room. Call the tool again if it is needed.]"


class Piece(msgspec.Struct, frozen=True, gc=False):
    """One message of the forwarded list, or a block of `count` of them, joined by commas.

    `seq` is its (first) place in the store; None for new and synthetic ones. A block holds no open call. `cleared`: how
    many tool results in it are markers, which saves `saved` tokens.
    """

    role: str
    raw: bytes
    tokens: int
    seq: int | None = None
    turn: int = 0
    calls: int = 0
    count: int = 1
    cleared: int = 0
    saved: int = 0


def of_entry(entry: Entry) -> Piece:
    return Piece(entry.role, entry.raw, entry.tokens, entry.seq, entry.turn, entry.calls)


class _Call(msgspec.Struct, gc=False):
    id: str


class _Made(msgspec.Struct, gc=False):
    tool_calls: list[_Call] | None = None


class _Result(msgspec.Struct, gc=False):
    tool_call_id: str


_made = msgspec.json.Decoder(_Made).decode
_result = msgspec.json.Decoder(_Result).decode


def call_ids(raw: bytes) -> tuple[str, ...]:
    """The ids of the tool calls that an assistant message makes. What a model made up in their place counts as none:
    the upstream is not trusted to keep to the format."""
    try:
        return tuple([call.id for call in _made(raw).tool_calls or ()])
    except msgspec.ValidationError:
        calls = msgspec.json.decode(raw).get("tool_calls")
        return tuple(str(call["id"]) for call in calls if isinstance(call, dict) and "id" in call) if calls else ()


def without_tools(pieces: Sequence[Piece], answered: str | None) -> list[Piece]:
    """The history without tool calls and their results, but for the group that holds the call `answered`: its other
    results go up with the one that comes. A call of the old kind has no id: at the end of the history it stays, for
    what answers it comes next."""
    kept = len(pieces) - 1 if pieces and _calls_function(pieces[-1]) else len(pieces)
    if answered is not None:
        made = (n for n, piece in enumerate(pieces) if piece.calls and answered in call_ids(piece.raw))
        kept = max(made, default=kept)
    return [piece for n, piece in enumerate(pieces) if n >= kept or not _is_tools(piece)]


def _is_tools(piece: Piece) -> bool:
    return piece.calls > 0 or piece.role in RESULTS or _calls_function(piece)


def _calls_function(piece: Piece) -> bool:
    """Whether it makes a call of the old kind."""
    if piece.role != "assistant" or b'"function_call"' not in piece.raw:
        return False
    return bool(msgspec.json.decode(piece.raw).get("function_call"))


def marker(count: Count) -> int:
    """The raw tokens of a cleared result."""
    return tokens.of_message({"content": CLEARED}, count)


def cleared(piece: Piece, price: int) -> Piece:
    """A tool result with a marker in place of its text, for `price` tokens; one that is no longer stays as it is."""
    if piece.role != CLEARABLE or piece.tokens <= price:
        return piece
    value = {"role": piece.role, "tool_call_id": _answers(piece.raw), "content": CLEARED}
    saved = piece.tokens - price
    return msgspec.structs.replace(piece, raw=msgspec.json.encode(value), tokens=price, cleared=1, saved=saved)


def _answers(raw: bytes) -> str:
    try:
        return _result(raw).tool_call_id
    except msgspec.ValidationError:
        return str(msgspec.json.decode(raw).get("tool_call_id"))


class _Group(msgspec.Struct, gc=False):
    """A message that makes calls, the results behind it, the calls that have none there, and results that came late."""

    made: Piece
    open: list[str]
    results: list[Piece]
    late: dict[str, Piece]

    def whole(self, count: Count) -> list[Piece]:
        """All of it, valid: late results in their places, synthetic ones where there are none."""
        missing = [self.late.get(call) or _no_result(call, count) for call in self.open]
        return [self.made, *self.results, *missing]


def repaired(pieces: Sequence[Piece], count: Count) -> list[Piece]:
    """The same list with every call answered and no orphan. Lists without calls and results come back as they are.

    A result that came late, after other messages, takes its place behind its call: the last one before it with that id
    that has none.
    """
    if not any(piece.calls or piece.role == "tool" for piece in pieces):
        return list(pieces)
    out: list[Piece | _Group] = []
    groups: list[_Group] = []
    last: _Group | None = None
    for piece in pieces:
        if piece.role == "tool":
            _place(piece, last, groups)
            continue
        last = None
        if piece.calls:
            last = _Group(piece, list(call_ids(piece.raw)), [], {})
            groups.append(last)
        out.append(last or piece)
    return [one for item in out for one in (item.whole(count) if isinstance(item, _Group) else (item,))]


def _place(result: Piece, last: _Group | None, groups: Sequence[_Group]) -> None:
    """Behind the call that it answers: of the message before it, else of the nearest one that still waits."""
    answered = _answers(result.raw)
    if last is not None and answered in last.open:
        last.open.remove(answered)
        last.results.append(result)
        return
    waiting = (group for group in reversed(groups) if answered in group.open and answered not in group.late)
    group = next(waiting, None)
    if group is not None:
        group.late[answered] = result


def _no_result(call: str, count: Count) -> Piece:
    value = {"role": "tool", "tool_call_id": call, "content": NO_RESULT}
    return Piece("tool", msgspec.json.encode(value), tokens.of_message(value, count))
