"""A session's conversation: history, messages, clearing."""

from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.adding import Given, add
from proxy.edge import body
from proxy.edge.julep import chat_shapes as shapes
from proxy.edge.julep.asking import in_openai_words
from proxy.edge.julep.shapes import Deleted
from proxy.edge.julep.times import derived, shown, taken
from proxy.edge.operation import Ask
from proxy.recollect import line_of
from proxy.services import Services, epoch_ms
from proxy.store import history, sessions
from proxy.store.entries import PAGE, Segment
from proxy.store.history import Told
from proxy.store.settings import missing
from proxy.types import Scope

TOKENIZER = "o200k_base"
SOURCES: dict[str, shapes.Source] = {"assistant": "api_response", "tool": "tool_response", "function": "tool_response"}


async def show(ask: Ask) -> bytes:
    """Read the conversation, oldest message first, tool calls and results among them."""
    session, line = await _line(ask.svc, ask.who, ask.path["id"])
    query: shapes.Ranged = ask.query
    told = await _told(ask.svc, ask.who, session.id, line, query)
    # Encoded piece by piece: a long conversation must not hold up the loop.
    entries = [msgspec.json.encode(_entry(one, session.uuid)) for one in told]
    head = msgspec.json.encode({"session_id": session.uuid, "created_at": shown(epoch_ms()), "relations": []})
    return head[:-1] + b',"entries":[' + b",".join(entries) + b"]}"


async def _line(svc: Services, who: Scope, name: str) -> tuple[sessions.Session, list[Segment]]:
    """The session and the line of its current branch. Raises NotFound."""
    found = await sessions.find(svc.db, who, name)
    if found is None:
        raise missing()
    session, current = found
    every = await sessions.branches(svc.db, who, session.id) if session.branches > 1 else {current.number: current}
    return session, line_of(every, current)


async def _told(svc: Services, who: Scope, session: int, line: Sequence[Segment], query: shapes.Ranged) -> list[Told]:
    """The part of the conversation that the query asks for, oldest first."""
    last = line[0][2] if line else 0
    if query.before is None:
        end = last if query.limit is None else min(last, query.offset + query.limit)
        return await _span(svc, who, session, line, query.offset + 1, end)
    before = taken(query.before)
    older: list[Told] = []
    wanted = None if query.limit is None else query.offset + query.limit
    while last and (wanted is None or len(older) < wanted):  # from the newest back, until there are enough
        first = max(1, last - PAGE + 1)
        older = [one for one in await _span(svc, who, session, line, first, last) if one.at < before] + older
        last = first - 1
    end = max(0, len(older) - query.offset)
    return older[0 if query.limit is None else max(0, end - query.limit) : end]


async def _span(svc: Services, who: Scope, session: int, line: Sequence[Segment], first: int, last: int) -> list[Told]:
    found: list[Told] = []
    while first <= last:
        part = [(branch, max(low, first), high) for branch, low, high in line if high >= first]
        read = await history.read(svc.db, who, session, part, last)
        if not read:
            break
        found += read
        first = read[-1].seq + 1
    return found


def _entry(told: Told, session: str) -> shapes.Entry:
    value = msgspec.json.decode(told.raw)
    source: shapes.Source = SOURCES.get(told.role, "api_request")
    content = value.get("content")
    return shapes.Entry(
        id=derived(session, told.branch, told.seq),
        session_id=session,
        created_at=shown(told.at),
        timestamp=told.at / 1000,
        role=told.role,
        name=value.get("name"),
        content=[{"type": "text", "text": content}] if isinstance(content, str) else content or [],
        source="tool_request" if told.calls else source,
        tokenizer=TOKENIZER,
        token_count=told.tokens,
        model=told.model,
        tool_calls=value.get("tool_calls"),
        tool_call_id=value.get("tool_call_id"),
        status=told.status,
    )


async def clear(ask: Ask) -> Deleted:
    """Forget the conversation; the session and its settings stay."""
    named = await sessions.find(ask.svc.db, ask.who, ask.path["id"])
    if named is None:
        raise missing()
    async with ask.svc.queue.turn(ask.who.line(named[0].name or named[0].uuid)):
        if not await history.clear(ask.svc.db, ask.who, named[0].id, epoch_ms()):
            raise missing()
    return Deleted(id=named[0].uuid, deleted_at=shown(epoch_ms()))


async def messages(ask: Ask) -> shapes.Messages:
    """List the messages, oldest first, as they were sent and generated."""
    session, line = await _line(ask.svc, ask.who, ask.path["id"])
    last = min(line[0][2] if line else 0, ask.query.offset + ask.query.limit)
    found = await _span(ask.svc, ask.who, session.id, line, ask.query.offset + 1, last)
    return shapes.Messages(items=[_message(one, session.uuid) for one in found])


async def say(ask: Ask) -> shapes.Message:
    """Store a message without calling a model."""
    fields = body.fields(ask.raw)
    fields.pop("created_at", None)
    raw = body.joined(fields)
    _, value = body.messages({"messages": b"[" + raw + b"]"}, 1, ask.svc.config.limits.nesting)[0]
    raw, value = in_openai_words(raw, value)
    when = None if ask.given.created_at is None else taken(ask.given.created_at)
    uuid, told = await add(ask.svc, ask.who, ask.path["id"], Given(raw, value, when, ask.frame.id))
    return _message(told, uuid)


def _message(told: Told, session: str) -> shapes.Message:
    value: dict[str, Any] = msgspec.json.decode(told.raw)
    return shapes.Message(
        id=derived(session, told.branch, told.seq),
        role=told.role,
        content=value.get("content"),
        name=value.get("name"),
        tool_calls=value.get("tool_calls"),
        tool_call_id=value.get("tool_call_id"),
        status=told.status,
        created_at=shown(told.at),
    )
