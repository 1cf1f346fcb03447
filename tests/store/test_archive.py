"""Whole sessions, row by row: pages in order, and parts that become a session again wholly or not at all."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.errors import BadRequest, Conflict, Unavailable
from proxy.resources import Doc, Member, Owner, Page, Tool
from proxy.store import archive, choices, docs, entries, members, settings, sqlite, tools, turns
from proxy.store.archive import (
    BranchPart,
    DocPart,
    EntryPart,
    InstructionsPart,
    MemberPart,
    Part,
    SessionPart,
    Stored,
    ToolPart,
    TurnPart,
)
from proxy.store.database import Database
from proxy.types import Instructions, Message, Scope
from tests.store import making
from tests.store.saying import ME, find, mark, record, say, tenant
from tests.store.test_plans import BAD, Heard, plan

pytestmark = pytest.mark.anyio

PAGE = Page()
UUID = "12345678-1234-4234-8234-123456789012"
RAW = b'{"role":"user","content":"q"}'
LARGE = b'{"role":"assistant","content":null,"audio":{"data":"%b"}}' % (b"UklG" * 2_000)
PARTS: list[Part] = [
    SessionPart(UUID, "boat", 500, "truncate", 2, 3, 7, 10, 20, b'{"situation":"x"}', ("a", "b"), ("u",),
                (("m:k", "1"),)),
    ToolPart(Tool(0, "t1", "look", 1, 2, b"{}")),
    DocPart(Doc(0, "d1", 3, "Title", b'{"v":1}', b'["We ship"]'), (("We ship", 3),), (("m:v", "1"),)),
    MemberPart(Member(0, "agent", "a", 4, 5, b'{"name":"Ada"}'), (("m:team", "x"),)),
    ToolPart(Tool(0, "t2", "look", 1, 2, b"{}")),
    MemberPart(Member(0, "agent", "b", 4, 5, b'{"name":"Bob"}')),
    MemberPart(Member(0, "user", "u", 4, 5, b"{}")),
    DocPart(Doc(0, "d2", 3, "Title", b"{}", b'["We ship"]'), (("We ship", 3),)),
    InstructionsPart(1, b"brief", 3),
    InstructionsPart(2, b"other", 4),
    EntryPart(1, 1, 3, 5, Message("user", RAW, mark("q"), 5, 0, "complete", 77)),
    EntryPart(1, 2, 3, 9, Message("assistant", LARGE, mark("a"), 4, 1, "incomplete")),
    TurnPart(3, 1, 1, 2, "incomplete", "m", 2, "r", b"{}", b"null", 30),
    BranchPart(1, None, 0, 2, 9, mark("a"), "incomplete", 3, 1, "key", 1, 40),
    BranchPart(2, 1, 1, 1, 5, b"", "complete", 0, 0, "", None, 41),
]  # fmt: skip


async def stored(db: Database, parts: Iterable[Part] = PARTS, scope: Scope = ME) -> Stored:
    return await archive.store(db, scope, lambda: parts, 9)


async def everything(db: Database, id: int, scope: Scope = ME) -> list[Any]:
    """All parts of a session as the functions of this module give them."""
    found = await archive.session(db, scope, id)
    assert found is not None
    session, branches = found
    own = Owner("session", id, session.uuid)
    read: list[Any] = [session, await archive.documents(db, scope, own), await tools.every(db, scope, [own])]
    read += [part for *_, part in await archive.instructions(db, scope, id)]
    for branch in branches:
        page = await archive.entries(db, scope, id, branch.number, (branch.forked_at + 1, branch.head))
        read += [*page, *(await archive.turns(db, scope, id, {entry.turn for entry in page})).values()]
    return [*read, *branches]


async def test_parts_become_a_session_that_is_read_as_the_same_parts(db: Database) -> None:
    assert await stored(db) == Stored(True, ())
    session, current = await find(db, "boat")
    assert (current.number, session.turns, session.dressed) == (2, 7, True)
    read = await everything(db, session.id)
    ids = {row[0]: row[1] for row in await db.all("SELECT raw, id FROM instructions")}
    assert read[0] == SessionPart(UUID, "boat", 500, "truncate", 2, 3, 7, 10, 20, b'{"situation":"x"}')
    assert [doc.uuid for doc in read[1]] == ["d1"]
    assert [tool.uuid for tool in read[2]] == ["t1"]
    assert sorted((part.raw, part.tokens) for part in read if isinstance(part, InstructionsPart)) == [
        (b"brief", 3), (b"other", 4),
    ]  # fmt: skip
    assert [part for part in read if isinstance(part, EntryPart)] == PARTS[10:12]
    (turn,) = [part for part in read if isinstance(part, TurnPart)]
    assert turn == TurnPart(3, 1, 1, 2, "incomplete", "m", ids[b"other"], "r", b"{}", b"null", 30)
    assert [(part.number, part.instructions) for part in read if isinstance(part, BranchPart)] == [
        (1, ids[b"brief"]), (2, None),
    ]  # fmt: skip


async def test_the_choices_of_a_turn_come_with_it(db: Database) -> None:
    await stored(db, [msgspec.structs.replace(part, choices=b"[{}]") if isinstance(part, TurnPart) else part
                      for part in PARTS])  # fmt: skip
    session, _ = await find(db, "boat")
    assert (await choices.of_turn(db, ME, session.id, 3)).choices == b"[{}]"


async def test_members_come_with_it_and_take_part_in_its_order(db: Database) -> None:
    await stored(db)
    session, _ = await find(db, "boat")
    taking_part = await members.taking_part(db, ME, session.id)
    assert [(one.kind, one.uuid, one.created_at, one.updated_at) for one in taking_part] == [
        ("agent", "a", 4, 5), ("agent", "b", 4, 5), ("user", "u", 4, 5),
    ]  # fmt: skip
    owners = [making.owner(one) for one in taking_part]
    assert [tool.uuid for tool in await tools.every(db, ME, owners)] == ["t2"]
    assert [doc.uuid for doc in await docs.page(db, ME, owners[2], [], PAGE)] == ["d2"]
    assert await docs.holding(db, ME, [owners[2]], "ship")
    found = await settings.page(db, ME, [("m:k", "1"), ("agent", str(taking_part[1].id))], PAGE)
    assert [(one.uuid, one.created_at, one.updated_at) for one in found] == [(UUID, 10, 20)]
    assert [one.uuid for one in await members.page(db, ME, "agent", [("m:team", "x")], PAGE)] == ["a"]


@pytest.mark.parametrize("taken", ["uuid", "name", "uuid as name"])
async def test_a_session_that_is_there_stays_as_it_is(db: Database, taken: str) -> None:
    there = {"uuid": (UUID, "x"), "name": ("other", "boat"), "uuid as name": (UUID[:-1] + "3", "x")}[taken]
    await settings.create(db, ME, making.new(there[0], name=there[1]), settings.Joining())
    parts = list(PARTS)
    if taken == "uuid as name":
        parts[0] = msgspec.structs.replace(PARTS[0], name=there[0].upper())
    before = await db.all("SELECT * FROM sessions")
    assert await stored(db, parts) == Stored(False, ())
    assert await db.all("SELECT * FROM sessions") == before
    assert await db.all("SELECT uuid FROM docs") == [("d2",)], "what its members have comes in"
    assert await db.all("SELECT uuid FROM tools") == [("t2",)]
    assert [await db.all(f"SELECT 1 FROM {table}") for table in ("entries", "turns", "instructions")] == [[]] * 3  # noqa: S608 - from above


async def test_members_documents_and_tools_that_are_there_stay(db: Database) -> None:
    mine = await making.member(db, "a", name="mine")
    await making.doc(db, making.owner(mine), "mine", uuid="d1")
    await tools.create(db, ME, making.owner(mine), making.tool("mine", "t1"))
    before = await db.all("SELECT * FROM members, docs, tools")
    assert await stored(db) == Stored(True, ("tool t1", "doc d1", "agent a"))
    assert await db.all("SELECT m.*, d.*, t.* FROM members m, docs d, tools t "
                        "WHERE m.uuid = 'a' AND d.uuid = 'd1' AND t.uuid = 't1'") == before  # fmt: skip
    assert await db.all("SELECT 1 FROM tools WHERE uuid = 't2'") == [], "nothing is added to an agent that was there"


@pytest.mark.parametrize("missing", ["a", "u"])
async def test_without_a_participant_nothing_is_stored(db: Database, missing: str) -> None:
    before = await making.everything(db)
    parts = [part for part in PARTS if not (isinstance(part, MemberPart) and part.member.uuid == missing)]
    with pytest.raises(BadRequest, match=f" {missing} is neither in the file nor in the store"):
        await stored(db, parts, Scope(-1, name="new"))
    assert await making.everything(db) == before


async def test_a_part_that_fails_leaves_nothing(db: Database) -> None:
    before = await making.everything(db)
    with pytest.raises(Conflict):
        await stored(db, [*PARTS, DocPart(Doc(0, "d9", 3, "Title", b"{}", b'["We ship"]'))])
    with pytest.raises(Unavailable):
        await stored(db, [*PARTS, PARTS[-1]])
    assert await making.everything(db) == before


async def test_a_tenant_is_made_with_its_first_session(db: Database) -> None:
    new = Scope(-1, name="new")
    assert (await stored(db, scope=new)).made
    assert not (await stored(db, scope=new)).made
    rows = await db.all("SELECT s.tenant, t.name FROM sessions s JOIN tenants t ON t.id = s.tenant")
    assert [name for _, name in rows] == ["new"]
    assert (await stored(db)).made, "another tenant's session is in nobody's way"
    theirs = Scope(rows[0][0])
    assert (await everything(db, (await find(db, "boat", theirs))[0].id, theirs))[0].uuid == UUID


async def test_sessions_are_listed_oldest_first_page_by_page(db: Database) -> None:
    other = await tenant(db, "other")
    many = entries.PAGE + 2
    for n in range(many):
        await say(db, f"s{n}", "q", "a", now=many - n // 2)
    await say(db, "theirs", "q", "a", scope=other, now=1)
    first = await archive.listed(db, ME)
    rest = await archive.listed(db, ME, first[-1])
    assert (len(first), len(rest)) == (entries.PAGE, 2)
    assert [*first, *rest] == await db.all("SELECT created_at, id FROM sessions WHERE tenant = 1 ORDER BY 1, 2")
    assert await archive.listed(db, ME, rest[-1]) == []


async def test_documents_and_instructions_come_a_few_at_a_time(db: Database) -> None:
    agent = await making.member(db, "a")
    of = making.owner(agent)
    for n in range(archive.FEW + 1):
        await making.doc(db, of, f"text {n}", now=50 - n // 2)
        await say(db, "s", "q", "a", instructions=Instructions(b"brief %d" % n, 1))
    first = await archive.documents(db, ME, of)
    rest = await archive.documents(db, ME, of, (first[-1].created_at, first[-1].id))
    order = await db.all("SELECT id FROM docs ORDER BY created_at, id")
    assert [(doc.id,) for doc in [*first, *rest]] == order
    assert len(rest) == 1
    session, _ = await find(db, "s")
    some = await archive.instructions(db, ME, session.id)
    more = await archive.instructions(db, ME, session.id, some[-1][0])
    assert (len(some), len(more)) == (archive.FEW, 1)
    assert len({part.raw for _, _, part in [*some, *more]}) == archive.FEW + 1


async def test_entries_come_in_pages_of_rows_or_bytes(db: Database) -> None:
    sizes = [1, archive.PAGE_BYTES, 2 * archive.PAGE_BYTES, *[1] * (entries.PAGE + 1)]
    rows = [Message("user", b"x" * size, mark(str(n)), 1) for n, size in enumerate(sizes)]
    await turns.append(db, ME, record("s", None, rows))
    session, branch = await find(db, "s")
    seen: list[int] = []
    seq = 0
    while page := await archive.entries(db, ME, session.id, 1, (seq + 1, branch.head)):
        assert [entry.seq for entry in page] == list(range(seq + 1, page[-1].seq + 1))
        seq = page[-1].seq
        seen.append(len(page))
    assert seen == [1, 1, 1, entries.PAGE, 1]
    assert [entry.seq for entry in await archive.entries(db, ME, session.id, 1, (4, 6))] == [4, 5, 6]


async def test_a_page_of_images_is_as_long_as_they_are(db: Database) -> None:
    """They stand elsewhere, and add up in a page all the same."""
    image = b'{"role":"user","content":"%b"}' % (b"iVBO" * (archive.PAGE_BYTES // 10))
    await turns.append(db, ME, record("s", None, [Message("user", image, mark(str(n)), 1) for n in range(5)]))
    session, branch = await find(db, "s")
    first = await archive.entries(db, ME, session.id, 1, (1, branch.head))
    rest = await archive.entries(db, ME, session.id, 1, (3, branch.head))
    assert [[part.seq for part in page] for page in (first, rest)] == [[1, 2], [3, 4]]
    assert {part.message.raw for part in [*first, *rest]} == {image}


async def test_no_statement_scans_a_table(tmp_path: Path) -> None:
    db = Heard(sqlite.opened(f"sqlite:///{tmp_path / 'store.db'}"))
    try:
        await stored(db)
        session, _ = await find(db, "boat")
        await everything(db, session.id)
        await archive.listed(db, ME)
        statements = db.statements
    finally:
        await db.close()
    assert len(statements) >= 25
    plans = {sql: plan(tmp_path, sql, args) for sql, args in statements.items()}
    assert {sql: steps for sql, steps in plans.items() if any(map(BAD.search, steps))} == {}
