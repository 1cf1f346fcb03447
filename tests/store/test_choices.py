"""What a turn's answer has beside its place in the history."""

import pytest

from proxy.store import branches, choices, history, sessions, turns
from proxy.store.choices import Answer
from proxy.store.database import Database
from tests.store.saying import ME, find, message, record, say, tenant

pytestmark = pytest.mark.anyio

BODY = b'[{"index":0},{"index":1,"message":{}}]'
LARGE = message(f"look {'iVBO' * 2_000}", "assistant")


async def kept(db: Database) -> list[tuple[int, int]]:
    return [(row[0], row[1]) for row in await db.all("SELECT session, turn FROM choices ORDER BY 1, 2")]


async def test_a_turn_tells_its_answer_and_its_choices(db: Database) -> None:
    await say(db, "s", "q", "a", choices=BODY)
    session, _ = await say(db, "s", "q", "b")
    assert await choices.of_turn(db, ME, session.id, 1) == Answer(message("a", "assistant").raw, BODY)
    assert await choices.of_turn(db, ME, session.id, 2) == Answer(message("b", "assistant").raw, None)
    assert await choices.of_turn(db, ME, session.id, 3) == Answer(None, None)
    assert await choices.turns_with_any(db, ME, session.id, [1, 2, 3]) == {1}


async def test_what_is_no_answer_is_none_and_a_large_one_comes_whole(db: Database) -> None:
    await turns.append(db, ME, record("s", None, [message("a note")]))
    await turns.append(db, ME, record("s", await find(db, "s"), [message("q"), LARGE]))
    session, _ = await find(db, "s")
    assert await choices.of_turn(db, ME, session.id, 1) == Answer(None, None)
    assert (await choices.of_turn(db, ME, session.id, 2)).message == LARGE.raw


async def test_they_go_with_their_session(db: Database) -> None:
    session, _ = await say(db, "s", "q", "a", choices=BODY)
    other, _ = await say(db, "t", "q", "a", choices=BODY)
    await sessions.delete(db, ME, session.id)
    assert await kept(db) == [(other.id, 1)]


async def test_they_go_with_the_history_that_is_cleared(db: Database) -> None:
    session, _ = await say(db, "s", "q", "a", choices=BODY)
    other, _ = await say(db, "t", "q", "a", choices=BODY)
    await history.clear(db, ME, session.id, 9)
    assert await kept(db) == [(other.id, 1)]


async def test_they_go_with_their_branch(db: Database) -> None:
    session, _ = await say(db, "s", "q", "a", choices=BODY)
    await branches.begin(db, ME, session.id, branches.Point(), 5)
    await say(db, "s", "q", "b", choices=BODY)
    await branches.begin(db, ME, session.id, branches.Point(), 5)
    await branches.delete(db, ME, session.id, 2, 9)
    assert await kept(db) == [(session.id, 1)]


async def test_a_turn_that_is_another_tenants_or_nowhere_gets_none(db: Database) -> None:
    session, _ = await say(db, "s", "q", "a")
    other = await tenant(db, "other")
    await db.transaction(lambda tx: choices.put(tx, other, session.id, 1, BODY))
    await db.transaction(lambda tx: choices.put(tx, ME, session.id, 2, BODY))
    assert await kept(db) == []
