"""Summaries: found along a line, shared by forks, counted, and gone with what they stand for."""

from random import Random

import msgspec
import pytest

from proxy.store import branches, entries, history, sessions, summaries, turns
from proxy.store.database import Database
from proxy.store.summaries import Summary
from tests.store.saying import ME, find, message, record, say, tenant, texts

pytestmark = pytest.mark.anyio


def made(branch: int, upto: int, text: str = "") -> Summary:
    return Summary(branch, upto, 7, "m", 1_000, text or f"{branch}/{upto}")


async def put(db: Database, session: int, *every: Summary) -> None:
    """Stores them, at the end of these entries."""
    for one in every:
        rows = await db.all(
            "SELECT turn FROM entries WHERE session = ? AND branch = ? AND seq = ?", (session, one.branch, one.upto)
        )
        assert await summaries.add(db, ME, session, rows[0][0], one)


async def spoken(db: Database, count: int, name: str = "s") -> sessions.Session:
    """A session of that many turns."""
    for n in range(1, count + 1):
        await say(db, name, f"q{n}", f"a{n}")
    return (await find(db, name))[0]


async def forked(db: Database, session: sessions.Session, at: int) -> None:
    """A branch after the seq `at` of the current one, with a turn of its own."""
    found = await find(db, session.name or "")
    await turns.append(db, ME, record("s", found, [message("x"), message("y", "assistant")], fork_at=at))


async def line(db: Database) -> list[entries.Segment]:
    session, branch = await find(db, "s")
    return branches.line_of(await sessions.branches(db, ME, session.id), branch)


async def test_the_newest_one_on_the_line_is_found(db: Database) -> None:
    session = await spoken(db, 4)
    assert await summaries.newest(db, ME, session.id, [(1, 1, 8)]) is None
    await put(db, session.id, made(1, 2), made(1, 4), made(1, 6))
    assert await summaries.newest(db, ME, session.id, [(1, 1, 8)]) == made(1, 6)
    assert await summaries.newest(db, ME, session.id, [(1, 1, 8)], 6) == made(1, 4)
    assert await summaries.newest(db, ME, session.id, [(1, 1, 8)], 2) is None
    assert await summaries.newest(db, ME, session.id, []) is None


async def test_those_around_the_cut_are_what_is_used_and_what_is_prepared(db: Database) -> None:
    session = await spoken(db, 4)
    whole = [(1, 1, 8)]
    assert await summaries.around(db, ME, session.id, whole, 5) == (None, None)
    await put(db, session.id, made(1, 2), made(1, 4))
    assert await summaries.around(db, ME, session.id, whole, 5) == (made(1, 4), None)
    assert await summaries.around(db, ME, session.id, whole, 4) == (made(1, 2), made(1, 4))
    assert await summaries.around(db, ME, session.id, whole, 1) == (None, made(1, 4))


async def test_forks_share_what_they_have_in_common(db: Database) -> None:
    session = await spoken(db, 4)
    await put(db, session.id, made(1, 2), made(1, 4), made(1, 8))
    await forked(db, session, 4)
    assert await line(db) == [(2, 5, 6), (1, 1, 4)]
    assert await summaries.newest(db, ME, session.id, await line(db)) == made(1, 4)
    await put(db, session.id, made(2, 6))
    assert await summaries.newest(db, ME, session.id, await line(db)) == made(2, 6)
    assert await summaries.newest(db, ME, session.id, [(1, 1, 8)]) == made(1, 8)


@pytest.mark.parametrize("seed", range(20))
async def test_on_any_line_the_one_found_is_the_last_that_stands_on_it(db: Database, seed: int) -> None:
    draw = Random(seed)
    session = await spoken(db, 6)
    for _ in range(draw.randrange(8)):
        head = (await find(db, "s"))[1].head
        if draw.random() < 0.5:
            await forked(db, session, 2 * draw.randrange(head // 2 + 1))
        else:
            await say(db, "s", "more", "still more")
    places = await db.all("SELECT branch, seq FROM entries WHERE session = ? AND role = 'assistant'", (session.id,))
    every = [made(branch, seq) for branch, seq in places if draw.random() < 0.4]
    await put(db, session.id, *every)
    stretches = await line(db)
    cut = draw.randint(0, 14)
    on_line = [one for one in every if any(b == one.branch and f <= one.upto <= n for b, f, n in stretches)]
    below = max((one for one in on_line if one.upto < cut), key=lambda one: one.upto, default=None)
    newest = max(on_line, key=lambda one: one.upto, default=None)
    prepared = newest if newest is not None and newest.upto >= cut else None
    assert await summaries.around(db, ME, session.id, stretches, cut) == (below, prepared)


async def test_what_is_not_covered_yet_is_read_oldest_first_a_stretch_at_a_time(db: Database) -> None:
    session = await spoken(db, 3)
    await forked(db, session, 4)
    whole = await line(db)
    first = await summaries.uncovered(db, ME, session.id, whole, 2)
    assert texts(first) == ["a1", "q2", "a2"]
    assert [one.seq for one in first] == [2, 3, 4]
    assert texts(await summaries.uncovered(db, ME, session.id, whole, 5)) == ["x", "y"]
    assert await summaries.uncovered(db, ME, session.id, whole, 7) == []
    assert await summaries.uncovered(db, ME, session.id, [], 1) == []


async def test_a_page_of_it_is_bounded(db: Database) -> None:
    await turns.append(db, ME, record("s", None, [message(f"m{n}") for n in range(600)]))
    session = (await find(db, "s"))[0]
    page = await summaries.uncovered(db, ME, session.id, [(1, 1, 600)], 100)
    assert [one.seq for one in page] == list(range(100, 356))


async def test_large_base64_is_not_read(db: Database) -> None:
    kept = b"\x01" + b'{"role":"user","content":"see \x00' + b"ab" * 32 + b'\x00 there"}'
    await turns.append(db, ME, record("s", None, [msgspec.structs.replace(message("x"), raw=kept)]))
    session = (await find(db, "s"))[0]
    assert texts(await summaries.uncovered(db, ME, session.id, [(1, 1, 1)], 1)) == ["see [...] there"]


async def test_a_summary_is_stored_only_for_the_entry_that_it_was_made_of(db: Database) -> None:
    session = await spoken(db, 2)
    assert not await summaries.add(db, ME, session.id, 1, made(1, 4))
    assert await summaries.add(db, ME, session.id, 2, made(1, 4))
    assert not await summaries.add(db, ME, session.id, 2, made(1, 4, "another"))
    assert await summaries.newest(db, ME, session.id, [(1, 1, 4)]) == made(1, 4)
    await history.clear(db, ME, session.id, 9)
    await say(db, "s", "new", "start")
    assert not await summaries.add(db, ME, session.id, 1, made(1, 2, "of what is cleared"))
    assert await summaries.add(db, ME, session.id, 3, made(1, 2))


async def test_calls_are_counted_up_to_the_cap(db: Database) -> None:
    session = await spoken(db, 1)
    other = await spoken(db, 1, "other")
    assert not await summaries.take_call(db, ME, session.id, 0)
    assert [await summaries.take_call(db, ME, session.id, 3) for _ in range(5)] == [True, True, True, False, False]
    await summaries.give_call_back(db, ME, session.id)
    assert [await summaries.take_call(db, ME, session.id, 3) for _ in range(2)] == [True, False]
    assert await summaries.take_call(db, ME, other.id, 1)
    assert not await summaries.take_call(db, ME, 999, 1)


async def test_sessions_with_a_summary_are_told(db: Database) -> None:
    one, other = await spoken(db, 1, "s"), await spoken(db, 1, "t")
    await put(db, one.id, made(1, 2))
    assert await summaries.summarized(db, ME, [one.id, other.id, 999]) == {one.id}
    assert await summaries.summarized(db, ME, []) == set()


async def test_they_go_with_their_session_their_conversation_and_their_branch(db: Database) -> None:
    async def left() -> list[tuple[int, int]]:
        return [(row[0], row[1]) for row in await db.all("SELECT branch, upto FROM summaries ORDER BY branch, upto")]

    session = await spoken(db, 2)
    await forked(db, session, 2)
    await put(db, session.id, made(1, 2), made(1, 4), made(2, 4))
    root = (await sessions.branches(db, ME, session.id))[1]
    now = (await find(db, "s"))[0]
    await turns.append(db, ME, record("s", (now, root), [message("q3")]))
    await branches.delete(db, ME, session.id, 2, 9)
    assert await left() == [(1, 2), (1, 4)]
    await history.clear(db, ME, session.id, 9)
    assert await left() == []
    await say(db, "s", "new", "start")
    await put(db, session.id, made(1, 2))
    await summaries.take_call(db, ME, session.id, 9)
    await sessions.delete(db, ME, session.id)
    assert await left() == []
    assert await db.all("SELECT * FROM summary_calls") == []


async def test_anothers_are_not_seen_and_not_made(db: Database) -> None:
    other = await tenant(db, "other")
    session = await spoken(db, 2)
    await put(db, session.id, made(1, 2))
    assert await summaries.newest(db, other, session.id, [(1, 1, 4)]) is None
    assert await summaries.around(db, other, session.id, [(1, 1, 4)], 1) == (None, None)
    assert await summaries.uncovered(db, other, session.id, [(1, 1, 4)], 1) == []
    assert await summaries.summarized(db, other, [session.id]) == set()
    assert not await summaries.add(db, other, session.id, 2, made(1, 4))
    assert not await summaries.take_call(db, other, session.id, 9)
