"""A session's conversation: history, messages, clearing."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from proxy.adding import Given, add
from proxy.edge import body
from proxy.edge.julep import chat_shapes as shapes
from proxy.edge.julep.asking import in_openai_words, in_parts
from proxy.edge.julep.shapes import Deleted
from proxy.edge.julep.times import derived, read, shown, taken
from proxy.edge.operation import Ask, Lines
from proxy.services import Services, epoch_ms
from proxy.settled import settled
from proxy.store import history, sessions, summaries
from proxy.store.branches import chain, line_of
from proxy.store.entries import PAGE, Segment
from proxy.store.history import Told
from proxy.store.settings import missing
from proxy.store.summaries import Summary
from proxy.types import Scope

TOKENIZER = "o200k_base"
RELATION = "summary_of"
AFTER_S = 0.001
"""How much later than the last message that it covers a summary is, so that an order by time has it there."""
SOURCES: dict[str, shapes.Source] = {"assistant": "api_response", "tool": "tool_response", "function": "tool_response"}


async def show(ask: Ask) -> Lines:
    """Read the conversation, oldest message first, tool calls and results among them."""
    before = None if ask.query.before is UNSET else taken(read(ask.query.before, "before"), "before")
    session, line = await _line(ask.svc, ask.who, ask.path["id"])
    parts = _told(ask.svc, ask.who, session.id, line, ask.query, before)
    newest = await summaries.newest(ask.svc.db, ask.who, session.id, line)
    return Lines(_encoded(parts, session.uuid, newest), "application/json")


async def _encoded(
    parts: AsyncIterator[Sequence[Told]], session: str, summary: Summary | None
) -> AsyncGenerator[bytes]:
    """The history as JSON, part by part: a long conversation is never in memory as a whole. The summary stands behind
    the last message that it covers."""
    head = msgspec.json.encode({"session_id": session, "created_at": shown(epoch_ms())})
    yield head[:-1] + b',"entries":['
    covered: list[Segment] = []
    between = b""
    async for part in parts:
        if part:
            entries = [entry for one in part for entry in _entries(one, session, summary)]
            yield between + b",".join([msgspec.json.encode(entry) for entry in entries])
            between = b","
            _note(covered, [one for one in part if summary is not None and one.seq <= summary.upto])
            await asyncio.sleep(0)  # others get their turn
    yield b'],"relations":['
    between = b""
    for related in _relations(covered, session, summary):
        yield between + b",".join([msgspec.json.encode(one) for one in related])
        between = b","
        await asyncio.sleep(0)
    yield b"]}"


def _note(covered: list[Segment], part: Sequence[Told]) -> None:
    """Adds the places of messages to stretches of them: a long history needs few."""
    for one in part:
        if covered and covered[-1][0] == one.branch and covered[-1][2] == one.seq - 1:
            covered[-1] = (one.branch, covered[-1][1], one.seq)
        else:
            covered.append((one.branch, one.seq, one.seq))


def _relations(covered: Sequence[Segment], session: str, summary: Summary | None) -> Generator[list[shapes.Relation]]:
    """From the summary to the messages that it covers, a page at a time."""
    if summary is None:
        return
    head = _id_of(summary, session)
    for branch, first, last in covered:
        for at in range(first, last + 1, PAGE):
            tails = range(at, min(last + 1, at + PAGE))
            yield [shapes.Relation(head=head, relation=RELATION, tail=derived(session, branch, seq)) for seq in tails]


def _id_of(summary: Summary, session: str) -> str:
    return derived(session, "summary", summary.branch, summary.upto)


async def _line(svc: Services, who: Scope, name: str) -> tuple[sessions.Session, list[Segment]]:
    """The session and the line of its current branch. Raises NotFound."""
    found = await sessions.find(svc.db, who, name)
    if found is None:
        raise missing()
    session, current = found
    return session, line_of(await chain(svc.db, who, session.id, current), current)


async def _told(
    svc: Services, who: Scope, session: int, line: Sequence[Segment], query: shapes.Ranged, before: int | None
) -> AsyncGenerator[Sequence[Told]]:
    """The part of the conversation that the query asks for, oldest first, page by page. `before`: epoch ms."""
    last = line[0][2] if line else 0
    if before is None:
        end = last if query.limit is UNSET else min(last, query.offset + query.limit)
        async for page in _pages(svc, who, session, line, (query.offset + 1, end)):
            yield page
        return
    older: list[Sequence[Told]] = []
    wanted = None if query.limit is UNSET else query.offset + query.limit
    while last and (wanted is None or sum(map(len, older)) < wanted):  # from the newest back, until there are enough
        first = max(1, last - PAGE + 1)
        async for page in _pages(svc, who, session, line, (first, last)):
            older.append([one for one in page if one.at < before])
        await asyncio.sleep(0)
        last = first - 1
    found = [one for page in reversed(older) for one in page]
    end = max(0, len(found) - query.offset)
    found = found[0 if query.limit is UNSET else max(0, end - query.limit) : end]
    for at in range(0, len(found), PAGE):
        yield found[at : at + PAGE]


async def _pages(
    svc: Services, who: Scope, session: int, line: Sequence[Segment], span: tuple[int, int]
) -> AsyncGenerator[list[Told]]:
    """The messages of a span of the line, oldest first. A page ends where a branch does."""
    first, last = span
    while first <= last:
        part = [(branch, max(low, first), high) for branch, low, high in line if high >= first]
        found = await history.read(svc.db, who, session, part, last)
        if not found:
            return
        yield found
        first = found[-1].seq + 1


def _entries(told: Told, session: str, summary: Summary | None) -> list[shapes.Entry]:
    """A message, and the summary behind the last one that it covers."""
    entry = _entry(told, session)
    if summary is None or told.seq != summary.upto:
        return [entry]
    carried = shapes.Entry(
        id=_id_of(summary, session),
        session_id=session,
        created_at=shown(summary.created_at),
        timestamp=entry.timestamp + AFTER_S,
        role="system",
        name="information",
        content=[{"type": "text", "text": summary.text}],
        source="summarizer",
        tokenizer=TOKENIZER,
        token_count=summary.tokens,
        model=summary.model,
        tool_calls=None,
        tool_call_id=None,
        status="complete",
    )
    return [entry, carried]


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
        if not await settled(history.clear(ask.svc.db, ask.who, named[0].id, epoch_ms())):
            raise missing()
    return Deleted(id=named[0].uuid, deleted_at=shown(epoch_ms()))


async def messages(ask: Ask) -> shapes.Messages:
    """List the messages, oldest first, as they were sent and generated."""
    session, line = await _line(ask.svc, ask.who, ask.path["id"])
    last = min(line[0][2] if line else 0, ask.query.offset + ask.query.limit)
    pages = _pages(ask.svc, ask.who, session.id, line, (ask.query.offset + 1, last))
    found = [one async for page in pages for one in page]
    return shapes.Messages(items=[_message(one, session.uuid) for one in found])


async def say(ask: Ask) -> shapes.Message:
    """Store a message without calling a model."""
    fields = body.fields(ask.raw)
    fields.pop("created_at", None)
    raw = body.joined(fields)
    said = {"messages": in_parts(b"[" + raw + b"]", [ask.given])}
    raw, value = in_openai_words(*body.messages(said, 1, ask.svc.config.limits.nesting)[0])
    when = None if ask.given.created_at is None else taken(ask.given.created_at, "created_at")
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
