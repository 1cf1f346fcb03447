"""Finding sessions, their branches and their standing instructions."""

import pytest

from proxy.store import branches, sessions, turns
from proxy.store.database import Database
from proxy.types import Instructions
from tests.store.saying import ME, find, message, record, say, tenant

pytestmark = pytest.mark.anyio


async def test_a_session_is_found_by_its_name_and_by_its_uuid(db: Database) -> None:
    session, branch = await say(db, "mine", "hello", "hi")
    assert (session.name, session.turns, session.branch, session.branches) == ("mine", 1, 1, 1)
    assert (branch.number, branch.parent, branch.head, branch.total, branch.last_turn) == (1, None, 2, 2, 1)
    assert await sessions.find(db, ME, session.uuid) == (session, branch)


async def test_an_unknown_name_finds_nothing(db: Database) -> None:
    await say(db, "mine", "hello", "hi")
    for name in ("Mine", "mine ", "min%", "", "00000000-0000-4000-8000-000000000000"):
        assert await sessions.find(db, ME, name) is None


async def test_a_name_shaped_like_a_uuid_is_a_name_first(db: Database) -> None:
    session, _ = await say(db, "other", "hello", "hi")
    named = await say(db, "12345678-1234-4234-8234-123456789012", "hello", "hi")
    assert named[0].id != session.id
    assert await sessions.find(db, ME, "12345678-1234-4234-8234-123456789012") == named


async def test_the_same_name_is_another_session_for_another_tenant(db: Database) -> None:
    other = await tenant(db, "other")
    mine, _ = await say(db, "s", "hello", "hi")
    theirs, _ = await say(db, "s", "bonjour", "salut", scope=other, uuid=mine.uuid)
    assert mine.id != theirs.id
    assert (await find(db, "s"))[0].id == mine.id
    assert (await find(db, mine.uuid, other))[0].id == theirs.id


async def test_branches_are_listed_by_their_number(db: Database) -> None:
    session, branch = await say(db, "s", "one", "two")
    await turns.append(db, ME, record("s", (session, branch), [message("uno")], fork_at=0))
    every = await sessions.branches(db, ME, session.id)
    assert {number: (one.parent, one.forked_at, one.head) for number, one in every.items()} == {
        1: (None, 0, 2), 2: (1, 0, 1),
    }  # fmt: skip
    session, branch = await find(db, "s")
    assert (session.branch, session.branches, branch) == (2, 2, every[2])


async def test_instructions_are_stored_once_for_each_text_of_a_session(db: Database) -> None:
    for n, raw in enumerate((b"brief", b"kind", b"brief", b"brief")):
        await say(db, "s", f"q{n}", f"a{n}", instructions=Instructions(raw, 3))
    await say(db, "other", "q", "a", instructions=Instructions(b"brief", 3))
    assert await db.all("SELECT session, raw FROM instructions ORDER BY id") == [
        (1, b"brief"), (1, b"kind"), (2, b"brief"),
    ]  # fmt: skip
    session, branch = await find(db, "s")
    brief = await sessions.same_instructions(db, ME, session.id, b"brief")
    assert brief is not None
    assert brief.id == branch.instructions
    assert brief == Instructions(b"brief", 3, brief.id)
    assert await sessions.instructions(db, ME, session.id, brief.id or 0) == brief
    assert await sessions.same_instructions(db, ME, session.id, b"bold") is None
    assert await sessions.instructions(db, ME, session.id, 99) == Instructions()


async def test_the_instructions_of_each_turn_are_known(db: Database) -> None:
    first, _ = await say(db, "s", "q", "a", instructions=Instructions(b"brief", 3))
    await say(db, "s", "q", "a", instructions=Instructions(b"kind", 3))
    await say(db, "s", "q", "a")
    brief = await sessions.same_instructions(db, ME, first.id, b"brief")
    kind = await sessions.same_instructions(db, ME, first.id, b"kind")
    assert brief is not None
    assert kind is not None
    points = [await branches.after(db, ME, first.id, turn) for turn in (1, 2, 3)]
    assert [point and point.instructions for point in points] == [brief.id, kind.id, None]


async def test_a_deleted_session_leaves_nothing(db: Database) -> None:
    kept, _ = await say(db, "kept", "q", "a", key="k", answer=b"{}")
    gone, _ = await say(db, "gone", "q", "a", key="k", answer=b"{}", instructions=Instructions(b"brief", 3))
    assert await sessions.delete(db, ME, gone.id)
    assert not await sessions.delete(db, ME, gone.id)
    assert await sessions.find(db, ME, "gone") is None
    assert await db.all("SELECT session FROM branches") == [(kept.id,)]
    assert await db.all("SELECT DISTINCT session FROM entries") == [(kept.id,)]
    assert await db.all("SELECT session FROM turns") == [(kept.id,)]
    assert await db.all("SELECT session FROM replays") == [(kept.id,)]
    assert await db.all("SELECT session FROM instructions") == []


async def test_a_new_session_never_gets_the_number_of_a_deleted_one(db: Database) -> None:
    gone, _ = await say(db, "s", "q", "a")
    await sessions.delete(db, ME, gone.id)
    again, _ = await say(db, "s", "q", "a")
    assert again.id > gone.id
