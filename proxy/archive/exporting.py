"""Sessions -> the lines of an export, read page by page, so that neither memory nor the event loop feels their size."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from proxy.archive import lines
from proxy.archive.lines import AnyLine, embedded, shown, written
from proxy.errors import Conflict
from proxy.resources import Member, Owner
from proxy.store import archive, choices, members, tools
from proxy.store.archive import BranchPart, EntryPart, SessionPart, TurnPart
from proxy.store.database import Database
from proxy.types import Scope


async def every(db: Database, scope: Scope) -> AsyncIterator[int]:
    """The numbers of all sessions of the tenant, oldest first."""
    place = archive.START
    while page := await archive.listed(db, scope, place):
        for place in page:
            yield place[1]


async def session(db: Database, scope: Scope, id: int, known: set[int]) -> AsyncIterator[bytes]:
    """The lines of one session, several at a time; none when it is gone. `known`: the numbers of the agents and users
    that stand in the file already; those of this session are added. Raises Conflict when it changes meanwhile."""
    found = await archive.session(db, scope, id)
    if found is None:
        return
    part, branches = found
    taking_part = await members.taking_part(db, scope, id)
    yield written(_session(part, taking_part))
    async for piece in _owned(db, scope, Owner("session", id, part.uuid)):
        yield piece
    for member in taking_part:
        if member.id not in known:
            known.add(member.id)
            yield written(_member(member))
            async for piece in _owned(db, scope, Owner(member.kind, member.id, member.uuid)):
                yield piece
    numbers: dict[int | None, int | None] = {None: None}
    async for piece in _instructions(db, scope, id, numbers):
        yield piece
    yield _joined(_branch(branch, numbers) for branch in branches)
    for branch in branches:
        async for piece in _turns(db, scope, id, branch, numbers):
            yield piece
    yield written(lines.EndLine(part.uuid))


async def _owned(db: Database, scope: Scope, owner: Owner) -> AsyncIterator[bytes]:
    """The tools and documents of a session, agent or user."""
    yield _joined(
        lines.ToolLine(
            owner=owner.uuid,
            uuid=tool.uuid,
            name=tool.name,
            created_at=shown(tool.created_at),
            updated_at=shown(tool.updated_at),
            fields=embedded(tool.body),
        )
        for tool in await tools.every(db, scope, [owner])
    )
    place = archive.START
    while page := await archive.documents(db, scope, owner, place):
        place = (page[-1].created_at, page[-1].id)
        yield _joined(
            lines.DocLine(
                owner=owner.uuid,
                uuid=doc.uuid,
                title=doc.title,
                created_at=shown(doc.created_at),
                metadata=embedded(doc.metadata),
                content=embedded(doc.content),
            )
            for doc in page
        )
        await asyncio.sleep(0)


async def _instructions(
    db: Database, scope: Scope, id: int, numbers: dict[int | None, int | None]
) -> AsyncIterator[bytes]:
    """The standing instructions, numbered from 1; `numbers` takes up what the database calls them by."""
    mark = b""
    while page := await archive.instructions(db, scope, id, mark):
        out = []
        for _, number, part in page:
            numbers[number] = len(numbers)
            out.append(lines.InstructionsLine(len(numbers) - 1, part.tokens, embedded(b"[" + part.raw + b"]")))
        mark = page[-1][0]
        yield _joined(out)
        await asyncio.sleep(0)


async def _turns(
    db: Database, scope: Scope, id: int, branch: BranchPart, numbers: Mapping[int | None, int | None]
) -> AsyncIterator[bytes]:
    """The branch's own turns, each with its entries."""
    seq, turn = branch.forked_at, 0
    while seq < branch.head:
        page = await archive.entries(db, scope, id, branch.number, (seq + 1, branch.head))
        turns = await archive.turns(db, scope, id, {entry.turn for entry in page})
        held = await choices.turns_with_any(db, scope, id, turns)
        out: list[AnyLine] = []
        for entry in page:
            if entry.turn not in turns:
                raise _changed()
            if entry.turn != turn:
                turn = entry.turn
                if turn in held:  # each may be large
                    yield _joined(out)
                    out = []
                out.append(_turn(turns[turn], await _choices(db, scope, id, turn) if turn in held else None, numbers))
            out.append(_entry(entry))
            seq = entry.seq
        if not page:
            raise _changed()
        yield _joined(out)
        await asyncio.sleep(0)


async def _choices(db: Database, scope: Scope, id: int, turn: int) -> bytes:
    answer = await choices.of_turn(db, scope, id, turn)
    if answer.choices is None:
        raise _changed()
    return answer.choices


def _joined(some: Iterable[AnyLine]) -> bytes:
    return b"".join([written(line) for line in some])


def _session(part: SessionPart, taking_part: Iterable[Member]) -> AnyLine:
    by_kind: dict[str, list[str]] = {"agent": [], "user": []}
    for member in taking_part:
        by_kind[member.kind].append(member.uuid)
    return lines.SessionLine(
        version=lines.VERSION,
        uuid=part.uuid,
        name=part.name,
        created_at=shown(part.created_at),
        updated_at=shown(part.updated_at),
        token_budget=part.token_budget,
        overflow=part.overflow,
        branch=part.branch,
        branches=part.branches,
        turns=part.turns,
        agents=by_kind["agent"],
        users=by_kind["user"],
        settings=embedded(part.settings),
    )


def _member(member: Member) -> AnyLine:
    kind = lines.AgentLine if member.kind == "agent" else lines.UserLine
    return kind(member.uuid, shown(member.created_at), shown(member.updated_at), embedded(member.body))


def _branch(part: BranchPart, numbers: Mapping[int | None, int | None]) -> AnyLine:
    return lines.BranchLine(
        number=part.number,
        parent=part.parent,
        forked_at=part.forked_at,
        head=part.head,
        cut=part.cut,
        cut_key=part.cut_key,
        instructions=numbers.get(part.instructions),
        created_at=shown(part.created_at),
    )


def _turn(part: TurnPart, untold: bytes | None, numbers: Mapping[int | None, int | None]) -> AnyLine:
    return lines.TurnLine(
        number=part.number,
        branch=part.branch,
        status=part.status,
        model=part.model,
        instructions=numbers.get(part.instructions),
        request_id=part.request_id,
        created_at=shown(part.created_at),
        usage=embedded(part.usage),
        ledger=embedded(part.ledger),
        choices=embedded(untold),
    )


def _entry(part: EntryPart) -> AnyLine:
    message = part.message
    return lines.EntryLine(
        turn=part.turn,
        seq=part.seq,
        status=message.status,
        tokens=message.tokens,
        said_at=None if message.said_at is None else shown(message.said_at),
        message=embedded(message.raw),
    )


def _changed() -> Conflict:
    return Conflict(
        "the session was cleared or deleted while it was written; what stands of it has no end, export it again",
        code="session_changed",
        headers={"Retry-After": "0"},
    )
