"""The one write of a turn, and the answers kept for retries."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import Conflict, Unavailable
from proxy.store import sessions, turns
from proxy.store.database import Database
from proxy.types import Instructions
from tests.store.saying import ME, find, mark, message, record, say, tenant, with_fields

pytestmark = pytest.mark.anyio

EVERYTHING = (
    "SELECT * FROM sessions", "SELECT * FROM branches", "SELECT * FROM entries", "SELECT * FROM turns",
    "SELECT * FROM replays", "SELECT * FROM instructions",
)  # fmt: skip


async def rows(db: Database) -> list[Any]:
    return [await db.all(sql) for sql in EVERYTHING]


async def test_a_turn_is_stored_with_all_that_belongs_to_it(db: Database) -> None:
    session, branch = await say(
        db, "s", "how are you", "fine", ledger=b'{"a":1}', usage=b'{"b":2}', request_id="req", model="big", cut=3,
        cut_key="key", now=77,
    )  # fmt: skip
    told = await db.all(
        "SELECT turn, branch, first_seq, last_seq, status, model, request_id, ledger, usage, created_at FROM turns"
    )
    assert told == [(1, 1, 1, 2, "complete", "big", "req", b'{"a":1}', b'{"b":2}', 77)]
    assert (branch.head, branch.total, branch.end_digest, branch.end_status) == (
        2, 4, mark("fine", "assistant"), "complete",
    )  # fmt: skip
    assert (branch.cut, branch.cut_key, branch.last_turn, session.turns) == (3, "key", 1, 1)


async def test_turns_append_along_a_branch(db: Database) -> None:
    for n in range(1, 4):
        session, branch = await say(db, "s", f"q{n}", f"a{n}")
        assert (session.turns, branch.head, branch.last_turn) == (n, 2 * n, n)
    assert await db.all("SELECT seq, turn FROM entries ORDER BY seq") == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 3),
        (6, 3),
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_any_number_of_messages_makes_a_turn(db: Database, count: int) -> None:
    _, branch = await say(db, "s", *(f"m{n}" for n in range(count)))
    assert branch.head == count
    assert await db.all("SELECT seq FROM entries ORDER BY seq") == [(n,) for n in range(1, count + 1)]


async def test_a_fork_starts_after_its_place_with_the_total_there(db: Database) -> None:
    session, branch = await say(db, "s", "one two", "three", "four", "five")
    forked = record(
        "s", (session, branch), [message("other words"), message("x", "assistant")], fork_at=2, fork_total=3
    )
    assert await turns.append(db, ME, forked) == (session.id, 2)
    session, branch = await find(db, "s")
    assert (branch.number, branch.parent, branch.forked_at, branch.head, branch.total) == (2, 1, 2, 4, 6)
    assert (session.branch, session.branches) == (2, 2)


async def test_what_the_session_has_moved_past_is_not_appended(db: Database) -> None:
    session, branch = await say(db, "s", "q", "a")
    await say(db, "s", "q2", "a2")
    before = await rows(db)
    with pytest.raises(Unavailable) as caught:
        await turns.append(db, ME, record("s", (session, branch), [message("late")], number=3))
    assert caught.value.code == "session_moved_on"
    assert await rows(db) == before


async def test_two_first_turns_make_one_session(db: Database) -> None:
    first = record("s", None, [message("q1")], uuid="11111111-1111-4111-8111-111111111111")
    other = with_fields(first, uuid="22222222-2222-4222-8222-222222222222")
    results = await asyncio.gather(*(turns.append(db, ME, one) for one in (first, other)), return_exceptions=True)
    assert [type(result) for result in results] == [tuple, Unavailable]
    assert await db.all("SELECT count(*) FROM entries") == [(1,)]


async def test_two_forks_at_once_do_not_share_a_number(db: Database) -> None:
    session, branch = await say(db, "s", "q", "a")
    forks = [record("s", (session, branch), [message(f"f{n}")], fork_at=0, number=2 + n) for n in range(2)]
    results = await asyncio.gather(*(turns.append(db, ME, fork) for fork in forks), return_exceptions=True)
    assert [type(result) for result in results] == [tuple, Unavailable]
    assert (await find(db, "s"))[0].branches == 2


async def test_a_turn_number_is_never_used_twice(db: Database) -> None:
    found = await say(db, "s", "q", "a")
    before = await rows(db)
    with pytest.raises(Unavailable):
        await turns.append(db, ME, record("s", found, [message("again")], number=1))
    assert await rows(db) == before


async def test_a_deleted_session_takes_no_turn(db: Database) -> None:
    found = await say(db, "s", "q", "a")
    await sessions.delete(db, ME, found[0].id)
    with pytest.raises(Conflict) as caught:
        await turns.append(db, ME, record("s", found, [message("late")]))
    assert caught.value.code == "session_deleted"
    assert caught.value.headers == {"x-should-retry": "false"}
    assert await rows(db) == [[]] * len(EVERYTHING)


async def test_a_foreign_session_takes_no_turn(db: Database) -> None:
    found = await say(db, "s", "q", "a")
    other = await tenant(db, "other")
    before = await rows(db)
    with pytest.raises(Conflict) as caught:
        await turns.append(db, other, record("s", found, [message("mine now")]))
    assert caught.value.code == "session_deleted"
    assert await rows(db) == before


# --- retries ---


async def answered(db: Database, session: int, key: str, now: int = 10) -> turns.Answered | None:
    return await turns.answered(db, ME, session, key, now)


async def test_the_latest_answer_is_kept_for_a_retry_without_a_key(db: Database) -> None:
    session, _ = await say(db, "s", "q", "a", request=b"r1", answer=b"one", now=5)
    assert await answered(db, session.id, "") == turns.Answered(turn=1, branch=1, request=b"r1", answer=b"one", at=5)
    await say(db, "s", "q", "a", request=b"r2", answer=b"two", now=6)
    assert await answered(db, session.id, "") == turns.Answered(turn=2, branch=1, request=b"r2", answer=b"two", at=6)


async def test_a_turn_without_an_answer_leaves_none_of_an_earlier_turn(db: Database) -> None:
    session, _ = await say(db, "s", "q", "a", request=b"r1", answer=b"one")
    await say(db, "s", "q", "half", request=b"r2", answer=b"")
    assert await answered(db, session.id, "") is None


async def test_answers_under_a_key_stay(db: Database) -> None:
    session, _ = await say(db, "s", "q", "a", key="k1", request=b"r1", answer=b"one", now=5)
    await say(db, "s", "q", "a", key="k2", request=b"r2", answer=b"two", now=6)
    await say(db, "s", "q", "a", request=b"r3", answer=b"three")
    assert await answered(db, session.id, "k1") == turns.Answered(turn=1, branch=1, request=b"r1", answer=b"one", at=5)
    assert await answered(db, session.id, "k2") == turns.Answered(turn=2, branch=1, request=b"r2", answer=b"two", at=6)
    assert await answered(db, session.id, "k3") is None
    assert await answered(db, session.id + 1, "k1") is None


async def test_a_key_is_used_once_in_a_session(db: Database) -> None:
    """The schema refuses the second turn; nothing of it is stored."""
    found = await say(db, "s", "q", "a", key="k", answer=b"one")
    before = await rows(db)
    with pytest.raises(Unavailable):
        await turns.append(db, ME, record("s", found, [message("q2")], key="k", answer=b"two"))
    assert await rows(db) == before
    await say(db, "other", "q", "a", key="k", answer=b"mine")


async def test_a_key_counts_for_a_day(db: Database) -> None:
    day = turns.KEY_HOURS * 3_600_000
    session, _ = await say(db, "s", "q", "a", key="k", answer=b"one", now=5)
    assert await answered(db, session.id, "k", now=5 + day) is not None
    assert await answered(db, session.id, "k", now=6 + day) is None


async def test_keys_older_than_a_day_are_forgotten_a_few_at_a_time(db: Database) -> None:
    hour = 3_600_000
    other = await tenant(db, "other")
    await say(db, "theirs", "q", "a", scope=other, key="old", answer=b"a", now=0)
    for n in range(turns.PRUNE + 5):
        await say(db, "s", "q", "a", key=f"old{n}", answer=b"a", now=n)
    await say(db, "s", "q", "a", key="young", answer=b"a", now=2 * hour)
    mine = "SELECT count(*) FROM replays WHERE tenant = 1"
    assert await db.all(mine) == [(turns.PRUNE + 6,)]
    await say(db, "s", "q", "a", key="now", answer=b"a", now=25 * hour)
    assert await db.all(mine) == [(7,)]
    await say(db, "s", "q", "a", key="later", answer=b"a", now=25 * hour)
    assert await db.all(mine) == [(3,)]
    assert await db.all("SELECT key FROM replays WHERE tenant = ?", (other.tenant,)) == [("old",)]


async def test_what_a_turn_sent_is_told_without_its_reply_that_broke_off(db: Database) -> None:
    session, branch = await say(db, "s", "q", "a")
    short = message("hal", "assistant", status="incomplete")
    await turns.append(db, ME, record("s", (session, branch), [message("q2"), message("q3"), short]))
    assert await turns.sent_in(db, ME, session.id, 2) == (3, [mark("q2"), mark("q3")])
    assert await turns.sent_in(db, ME, session.id, 9) == (0, [])


# --- cost ---


async def grown(db: Database, name: str, turns_before: int) -> int:
    """Pages that ten more turns add to a session of so many."""
    for n in range(turns_before):
        await say(db, name, f"question {n}", f"answer {n}", instructions=Instructions(b"brief", 3), answer=b"x" * 200)
    before = (await db.all("PRAGMA page_count"))[0][0]
    for n in range(10):
        await say(db, name, f"more {n}", f"answer {n}", instructions=Instructions(b"brief", 3), answer=b"x" * 200)
    return (await db.all("PRAGMA page_count"))[0][0] - before


async def test_a_turn_costs_the_same_however_long_the_history(db: Database) -> None:
    short = await grown(db, "short", 5)
    long = await grown(db, "long", 400)
    assert long <= short + 4


async def test_a_file_holds_a_turn_in_few_bytes(db: Database, tmp_path: Path) -> None:
    empty = (await db.all("PRAGMA page_count"))[0][0]
    for n in range(300):
        await say(db, "s", f"question {n}", f"answer {n}", answer=b"x" * 200)
    pages, size = (await db.all("PRAGMA page_count"))[0][0] - empty, (await db.all("PRAGMA page_size"))[0][0]
    assert pages * size / 300 < 800
