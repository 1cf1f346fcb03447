"""The request that goes upstream: prices the new messages, fixes the budget, has the context assembled, splices."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import msgspec

from proxy import recollect, remember
from proxy.context import placement, tokens
from proxy.context.assemble import Limits, Material, Plan, assemble
from proxy.context.tokens import Count
from proxy.context.transcript import RESULTS, Piece, of_entry, without_tools
from proxy.introduce import Introduction, introduced
from proxy.recollect import Found
from proxy.remember import Recalled
from proxy.resources import Hit
from proxy.services import Services, Turn
from proxy.store import entries, sessions
from proxy.types import Instructions, Message, Sent

THREAD_BYTES = 100_000
"""Above this many bytes of text, counting (about 40 ms a megabyte) leaves the event loop."""

_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Past(msgspec.Struct, frozen=True, gc=False):
    """The history to choose from; `before`, `before_tokens` and `detached` as in recollect.History."""

    pieces: Sequence[Piece]
    before: int
    before_tokens: int
    detached: bool


class Composed(msgspec.Struct, frozen=True, gc=False):
    """What goes up and what will be stored of it. `new`: the new messages with their tokens; `docs`: the documents that
    were found for them."""

    body: bytes
    plan: Plan
    new: Sequence[Message]
    instructions: Instructions
    cut_key: str
    before_tokens: int
    docs: Sequence[Hit] = ()


class Dressing(msgspec.Struct, frozen=True, gc=False):
    """What a session's settings add to a turn: a system message, and documents."""

    introduction: Introduction = Introduction()
    recalled: Recalled = Recalled()


async def compose(svc: Services, turn: Turn, found: Found) -> Composed:
    """Raises ContextTooLong when what must be sent does not fit the budget."""
    count = await svc.counter()
    new = await _priced(found.new, count)
    instructions = await _instructions(svc, turn, found, count)
    if turn.options.mode == "observe":
        return await _observed(svc, turn, found, new, instructions)
    limits = await _limits(svc, turn, found)
    cut_key = _cut_key(turn, limits)
    tools_tokens = await _tools(turn, count)
    new_tokens = sum([message.tokens for message in new]) + tokens.REPLY
    room = None if limits.budget is None else limits.budget - instructions.tokens - tools_tokens - new_tokens
    dressing = await _dressing(svc, turn, found, _spare(room, limits, found), count)
    intro, recalled = dressing.introduction, dressing.recalled
    if room is not None:
        room -= intro.tokens + recalled.tokens
    past = _block(svc, found, cut_key, room) if turn.options.recall_tools else None
    past = past or await _past(svc, turn, found, limits)
    material = Material(
        instructions=b",".join([raw for raw in (intro.raw, instructions.raw) if raw]),
        instructions_tokens=intro.tokens + instructions.tokens,
        tools_tokens=tools_tokens,
        history=past.pieces,
        before=past.before,
        before_tokens=past.before_tokens,
        new=_with_recalled([Piece(m.role, m.raw, m.tokens, calls=m.calls) for m in new], found, recalled),
        new_tokens=new_tokens,
        detached=past.detached,
        recalled_tokens=recalled.tokens,
        recalled=recalled.segments,
    )
    plan = assemble(material, limits, count)
    body = splice(turn, plan.messages)
    return Composed(body, plan, new, instructions, cut_key, past.before_tokens, recalled.hits)


def _spare(room: int | None, limits: Limits, found: Found) -> int | None:
    """What documents may share: all that history may have, or what a strategy that leaves nothing out of it leaves."""
    if room is None or limits.strategy != "null" or found.branch is None:
        return room
    return room - (found.branch.total if found.fork_at is None else found.fork_total)


async def _dressing(svc: Services, turn: Turn, found: Found, room: int | None, count: Count) -> Dressing:
    """`room`: the tokens that are left for it and for the history, None for no limit."""
    profile = turn.profile
    if profile is None:
        return Dressing()
    hits = await remember.searched(svc, turn, found, profile)
    intro = await introduced(svc, turn, profile, hits, count)
    if intro.shows_docs:
        return Dressing(intro, remember.shown(hits))
    context = svc.config.context
    share = context.recall_max_tokens
    if room is not None:
        share = min(share, int(context.recall_share * (room - intro.tokens)))
    return Dressing(intro, remember.fitting(hits, share, count) if hits else Recalled())


def _with_recalled(new: list[Piece], found: Found, recalled: Recalled) -> list[Piece]:
    """The new messages with the recalled documents before the text of the last user message."""
    if not recalled.text:
        return new
    at = max(n for n, piece in enumerate(new) if piece.role == "user")
    new[at] = msgspec.structs.replace(new[at], raw=placement.before(found.new[at].value, recalled.text))
    return new


async def _observed(
    svc: Services, turn: Turn, found: Found, new: Sequence[Message], instructions: Instructions
) -> Composed:
    """Forwarded as sent: no budget applies, nothing is left out, and the plan tells what goes up."""
    count = await svc.counter()
    material = Material(
        instructions=instructions.raw if turn.system is not None else b"",
        instructions_tokens=instructions.tokens if turn.system is not None else 0,
        tools_tokens=await _tools(turn, count),
        history=await _known(svc, turn, found),
        before=0,
        before_tokens=0,
        new=(),
        new_tokens=sum([message.tokens for message in new]) + tokens.REPLY,
    )
    plan = assemble(material, Limits(None, "observe", 0, 1.0), count)
    return Composed(splice(turn, as_sent(turn)), plan, new, instructions, "", 0)


async def _known(svc: Services, turn: Turn, found: Found) -> Sequence[Piece]:
    """The sent messages that are stored already, as one block: their price is the difference of two running totals."""
    if found.session is None or not found.known or not found.line:
        return ()
    last = found.line[0][2]
    end = await entries.at(svc.db, turn.scope, found.session.id, found.line, last)
    before = await entries.at(svc.db, turn.scope, found.session.id, found.line, last - found.known)
    price = (end.total if end else 0) - (before.total if before else 0)
    return (Piece("block", b"", price, last - found.known + 1, count=found.known),)


def _block(svc: Services, found: Found, cut_key: str, room: int | None) -> Past | None:
    """The history as the last turn sent it, if it may be sent again as it is."""
    new = found.new
    if found.session is None or found.branch is None or found.fork_at is not None:
        return None
    if new and new[0].role in RESULTS:
        return None  # they answer a call in the history, which only its own piece shows
    block = svc.forwarded.get(found.session.id, found.branch.number, found.branch.last_turn, cut_key)
    if block is None or (room is not None and block.tokens > room):
        return None
    if not (block.has_user or any(message.role == "user" for message in new)):
        return None
    piece = Piece("block", block.raw, block.tokens, block.first, count=block.count)
    return Past((piece,), block.first - 1, block.before_tokens, False)


async def _past(svc: Services, turn: Turn, found: Found, limits: Limits) -> Past:
    """The history from the store, message by message."""
    read = await recollect.history(svc, turn, found, limits.budget, limits.cut)
    pieces = [of_entry(entry) for entry in read.entries]
    if not turn.options.recall_tools:
        pieces = without_tools(pieces, found.new[0].answers if found.new else None)
    return Past(pieces, read.before, read.before_tokens, read.detached)


async def reprice(svc: Services, turn: Turn, found: Found, composed: Composed) -> Composed:
    """The same turn after others were stored meanwhile: what is new in it by now."""
    count = await svc.counter()
    known = await _instructions(svc, turn, found, count)
    return msgspec.structs.replace(composed, new=await _priced(found.new, count), instructions=known)


P = ParamSpec("P")
R = TypeVar("R")


async def priced(size: int, price: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `price` counts in `size` bytes, in a thread where that is much."""
    if size > THREAD_BYTES:
        return await asyncio.to_thread(price, *args, **kwargs)
    return price(*args, **kwargs)


async def _priced(new: Sequence[Sent], count: Count) -> list[Message]:
    return await priced(sum([len(message.raw) for message in new]), _price, new, count)


async def _tools(turn: Turn, count: Count) -> int:
    """The raw tokens of the request's tools."""
    given = turn.fields.get("tools", b"null")
    if given == b"null":
        return 0
    return await priced(len(given), tokens.of_tools, [bytes(item) for item in _items(given)], count)


def _price(new: Iterable[Sent], count: Count) -> list[Message]:
    return [Message(m.role, m.raw, m.digest, tokens.of_message(m.value, count), len(m.calls)) for m in new]


async def _instructions(svc: Services, turn: Turn, found: Found, count: Count) -> Instructions:
    """The request's own instructions, else those in force; an empty message clears them."""
    if turn.system is None:
        return found.instructions
    values = [msgspec.json.decode(raw) for raw in turn.system]
    if not any(value.get("content") for value in values):
        return Instructions()
    raw = b",".join(turn.system)
    if found.session is not None:
        known = await sessions.same_instructions(svc.db, turn.scope, found.session.id, raw)
        if known is not None:
            return known
    return Instructions(raw, sum(tokens.of_message(value, count) for value in values))


async def _limits(svc: Services, turn: Turn, found: Found) -> Limits:
    """The budget: the request's, the session's, the configuration's, else the model's context less the answer's
    reserve. The strategy in the same order."""
    context, session = svc.config.context, found.session
    budget = turn.options.token_budget
    if budget is None and session is not None:
        budget = session.token_budget
    if budget is None:
        budget = context.token_budget
    if budget is None:
        window = turn.target.context_tokens or await svc.context_of(turn.target, turn.headers)
        budget = None if window is None else max(1, window - turn.reserve)
    strategy = turn.options.overflow or (session.overflow if session else None) or context.overflow
    limits = Limits(budget, strategy, 0, context.evict_to)
    if found.branch is not None and found.fork_at is None and found.branch.cut_key == _cut_key(turn, limits):
        return Limits(budget, strategy, found.branch.cut, context.evict_to)
    return limits


def _cut_key(turn: Turn, limits: Limits) -> str:
    """What the cut was made for; another budget, strategy or model starts over."""
    tools = "" if turn.options.recall_tools else "|without tools"
    return f"{limits.budget}|{limits.strategy}|{turn.target.model or ''}{tools}"


def as_sent(turn: Turn) -> bytes:
    """The client's messages, unchanged."""
    return turn.fields["messages"].strip()[1:-1]


def splice(turn: Turn, messages: bytes) -> bytes:
    """The body: the client's fields as they came, with `messages`, the upstream's model name, and usage asked for.

    One join: history is never parsed and dumped again, and numbers and unknown fields keep their bytes.
    """
    parts = [b'{"messages":[', messages, b"]"]
    fields = turn.fields
    if turn.target.model != turn.model:
        fields = {**fields, "model": msgspec.json.encode(turn.target.model)}
    if turn.stream and turn.target.upstream.stream_usage:
        fields = {**fields, "stream_options": _with_usage(fields.get("stream_options"))}
    for key, value in _upstream_fields(turn, fields):
        parts += (b',"', key.encode(), b'":', value)
    parts.append(b"}")
    return b"".join(parts)


def _upstream_fields(turn: Turn, fields: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    kept = [(key, value) for key, value in fields.items() if key != "messages"]
    if fields.get("store") == b"true" and not turn.target.upstream.supports_store:
        kept = [(key, value) for key, value in kept if key not in ("store", "metadata")]
    return [(key if key.isidentifier() else msgspec.json.encode(key)[1:-1].decode(), value) for key, value in kept]


def _with_usage(given: bytes | None) -> bytes:
    if given is None or given == b"null":
        return b'{"include_usage":true}'
    options = msgspec.json.decode(given)
    return msgspec.json.encode({**options, "include_usage": True}) if isinstance(options, dict) else given


def ledger(number: int | None, branch: int, plan: Plan) -> dict[str, object]:
    """What a turn sent and why, as it is stored and shown."""
    return {
        "turn": number,
        "branch": branch,
        "strategy": plan.strategy,
        "budget": plan.budget,
        "total": plan.total,
        "segments": plan.segments,
    }
