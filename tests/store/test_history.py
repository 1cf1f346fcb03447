"""A conversation as it is shown, and clearing it."""

import json
from collections.abc import Sequence

import pytest

from proxy.errors import Unavailable
from proxy.resources import Page
from proxy.store import entries, history, sessions, settings, turns
from proxy.store.database import Database
from proxy.store.entries import PAGE, Segment
from proxy.store.history import Told
from proxy.types import Instructions, Scope
from tests.store.making import doc, everything, give, member, owner, session, uuids
from tests.store.saying import ME, find, mark, message, record, say, tenant

pytestmark = pytest.mark.anyio

WHOLE = [(1, 1, 1_000)]


async def told(
    db: Database, session: int, line: Sequence[Segment], last: int = 1_000, scope: Scope = ME
) -> list[tuple[int, int, str]]:
    found = await history.read(db, scope, session, line, last)
    return [(one.branch, one.seq, json.loads(one.raw)["content"]) for one in found]


async def branched(db: Database) -> sessions.Found:
    """Branch 1: q1 a1 q2 a2. Branch 2 from its seq 2: b1 b2. Branch 3 from seq 3 of that: c1."""
    await say(db, "s", "q1", "a1", now=10)
    await say(db, "s", "q2", "a2", now=20)
    for fork, texts in ((2, ("b1", "b2")), (3, ("c1",))):
        found = await find(db, "s")
        new = [message(text) for text in texts]
        await turns.append(db, ME, record("s", found, new, fork_at=fork, fork_total=fork, now=30 * fork))
    return await find(db, "s")


# --- reading ---


async def test_a_message_is_told_with_when_it_was_said_and_the_model(db: Database) -> None:
    found = await say(db, "s", "question", "answer here", now=10, model="m-1")
    called = message("look", "assistant", calls=1, status="incomplete")
    await turns.append(db, ME, record("s", found, [called], now=20, model="m-2"))
    first, second, third = await history.read(db, ME, found[0].id, WHOLE, 1_000)
    raw = b'{"role": "user", "content": "question"}'
    assert first == Told(1, 1, "user", raw, 1, 0, "complete", 10, "m-1")
    assert (second.seq, second.role, second.tokens, second.at, second.model) == (2, "assistant", 2, 10, "m-1")
    assert (third.seq, third.calls, third.status, third.at, third.model) == (3, 1, "incomplete", 20, "m-2")


async def test_an_imported_message_was_said_at_its_own_time(db: Database) -> None:
    found = await say(db, "s", "q", "a", now=10)
    await db.transaction(lambda tx: tx.all("UPDATE entries SET said_at = 4 WHERE seq = 1"))
    assert [one.at for one in await history.read(db, ME, found[0].id, WHOLE, 9)] == [4, 10]


async def test_a_conversation_is_read_along_its_line(db: Database) -> None:
    session_, branch = await branched(db)
    assert (branch.number, branch.parent, branch.forked_at, branch.head) == (3, 2, 3, 4)
    line = [(3, 4, 4), (2, 3, 3), (1, 1, 2)]
    assert await told(db, session_.id, line) == [(1, 1, "q1"), (1, 2, "a1"), (2, 3, "b1"), (3, 4, "c1")]
    assert await told(db, session_.id, line, 3) == [(1, 1, "q1"), (1, 2, "a1"), (2, 3, "b1")]
    assert await told(db, session_.id, [(3, 4, 4), (2, 3, 3)]) == [(2, 3, "b1"), (3, 4, "c1")]
    assert await told(db, session_.id, [(3, 4, 4)]) == [(3, 4, "c1")]
    assert await told(db, session_.id, [(1, 1, 4)]) == [(1, 1, "q1"), (1, 2, "a1"), (1, 3, "q2"), (1, 4, "a2")]
    assert await told(db, session_.id, [(2, 3, 4), (1, 2, 2)]) == [(1, 2, "a1"), (2, 3, "b1"), (2, 4, "b2")]


async def test_nothing_is_read_beyond_the_last(db: Database) -> None:
    session_, _ = await branched(db)
    line = [(3, 4, 4), (2, 3, 3), (1, 1, 2)]
    assert await told(db, session_.id, line, 1) == [(1, 1, "q1")]
    assert await told(db, session_.id, line[:2], 2) == await told(db, session_.id, line, 0) == []
    assert await told(db, session_.id, []) == await told(db, 999, line) == []


async def test_a_long_conversation_comes_in_parts(db: Database) -> None:
    size = 2 * PAGE + 10
    messages = [message(f"m{n}", "user" if n % 2 else "assistant") for n in range(1, size + 1)]
    await turns.append(db, ME, record("s", None, messages))
    session_, branch = await find(db, "s")
    found: list[int] = []
    while part := await told(db, session_.id, [(1, len(found) + 1, branch.head)]):
        assert len(part) <= PAGE
        found += [seq for _, seq, _ in part]
    assert found == list(range(1, size + 1))


async def test_a_foreign_conversation_reads_like_none(db: Database) -> None:
    found = await say(db, "s", "q", "a")
    assert await told(db, found[0].id, WHOLE, scope=await tenant(db, "other")) == []


async def test_the_models_of_turns_are_told(db: Database) -> None:
    for n, model in enumerate(("m-1", "m-2", "m-1")):
        session_, _ = await say(db, "s", f"q{n}", "a", model=model)
    await say(db, "other", "q", "a", model="m-9")
    assert await history.models_of(db, ME, session_.id, [2, 1, 2, 7]) == {1: "m-1", 2: "m-2"}
    assert await history.models_of(db, ME, session_.id, ()) == {}
    assert await history.models_of(db, await tenant(db, "other"), session_.id, [1]) == {}


# --- clearing ---


async def test_a_cleared_conversation_holds_nothing_and_takes_turns_again(db: Database) -> None:
    session_, _ = await branched(db)
    assert (session_.turns, session_.branch, session_.branches) == (4, 3, 3)
    assert await history.clear(db, ME, session_.id, 100)
    session_, branch = await find(db, "s")
    assert (session_.turns, session_.branch, session_.branches) == (4, 1, 1)
    assert (branch.number, branch.parent, branch.head, branch.total, branch.last_turn) == (1, None, 0, 0, 0)
    assert await told(db, session_.id, WHOLE) == []
    session_, branch = await say(db, "s", "anew", "fine", now=110)
    assert (session_.turns, branch.head, branch.total, branch.last_turn) == (5, 2, 2, 5)
    assert await told(db, session_.id, WHOLE) == [(1, 1, "anew"), (1, 2, "fine")]
    await turns.append(db, ME, record("s", (session_, branch), [message("other")], fork_at=1, fork_total=1))
    session_, branch = await find(db, "s")
    assert (session_.turns, branch.number, branch.parent, branch.head) == (6, 2, 1, 2)


async def remember(db: Database, session: int) -> None:
    """What is made of a conversation: a summary, and what is searched for old turns."""
    where = (1, session)
    await db.transaction(lambda tx: (
        tx.all("INSERT INTO summaries VALUES (?, ?, 1, 2, 3, 'm', 9, 'secret')", where),
        tx.all("INSERT INTO summary_calls (tenant, session, calls) VALUES (?, ?, 1)", where),
        tx.all("INSERT INTO passages VALUES (7, ?, ?, 1, 1, 2, 3, 1)", where),
        tx.all("INSERT INTO spoken (rowid, text) VALUES (7, 'secret')"),
    ))  # fmt: skip


async def test_clearing_removes_what_was_said_and_nothing_else(db: Database) -> None:
    """All of one session: its branches, ledgers, standing instructions and stored answers."""
    await member(db, "a")
    await say(db, "kept", "q", "a", key="k", answer=b"x", instructions=Instructions(b"brief", 3))
    made = await session(db, "uuid", name="s", joining=settings.Joining(["a"]), metadata={"v": 1})
    await doc(db, owner(made), "We ship")
    await give(db, owner(made), "look")
    before = await everything(db)
    found = await say(db, "s", "secret", "a", key="k", answer=b"secret", instructions=Instructions(b"secret", 3))
    found = await say(db, "s", "secret 2", "a", request=b"r", answer=b"secret")
    await turns.append(db, ME, record("s", found, [message("secret 3")], fork_at=1, request=b"r", answer=b"secret"))
    await remember(db, made.id)
    assert await history.clear(db, ME, made.id, made.updated_at)
    after = await everything(db)
    assert {name: rows for name, rows in after.items() if name != "sessions"} == {
        name: rows for name, rows in before.items() if name != "sessions"
    }
    assert "secret" not in repr(after)
    assert await settings.find(db, ME, "s") == made
    assert await turns.answered(db, ME, made.id, "k", 1_000) is None
    assert await turns.answered(db, ME, made.id, "", 1_000) is None
    assert await entries.places(db, ME, made.id, mark("secret")) == []


async def test_clearing_moves_the_session_to_the_front_of_what_was_changed(db: Database) -> None:
    made = await session(db, "old", now=1, metadata={"v": 1})
    await session(db, "new", now=2, metadata={"v": 1})
    await history.clear(db, ME, made.id, 3)
    for where in ([], [("m:v", "1")]):
        found = await settings.page(db, ME, where, Page(sort_by="updated_at"))
        assert uuids(found) == ["old", "new"]
    assert found[0].updated_at == 3


async def test_a_turn_that_ran_while_its_conversation_was_cleared_is_refused(db: Database) -> None:
    found = await say(db, "s", "q", "a")
    await history.clear(db, ME, found[0].id, 5)
    before = await everything(db)
    with pytest.raises(Unavailable) as caught:
        await turns.append(db, ME, record("s", found, [message("late")]))
    assert caught.value.code == "session_moved_on"
    assert await everything(db) == before


async def test_an_unknown_session_and_a_foreign_one_cannot_be_cleared(db: Database) -> None:
    found = await say(db, "s", "q", "a")
    before = await everything(db)
    assert not await history.clear(db, await tenant(db, "other"), found[0].id, 5)
    assert not await history.clear(db, ME, 999, 5)
    after = await everything(db)
    assert {name: rows for name, rows in after.items() if name != "tenants"} == {
        name: rows for name, rows in before.items() if name != "tenants"
    }


async def test_an_empty_conversation_can_be_cleared_again_and_again(db: Database) -> None:
    made = await session(db, "s")
    for n in (2, 3):
        assert await history.clear(db, ME, made.id, n)
    assert await told(db, made.id, WHOLE) == []
