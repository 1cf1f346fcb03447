"""The log of messages: windows, digests and places, along lines that fork."""

import random
from collections.abc import Sequence
from random import Random

import pytest

from proxy.store import entries, sessions, turns
from proxy.store.database import Database
from proxy.store.entries import PAGE, Segment
from tests.store.saying import ME, find, mark, message, record, say, texts

pytestmark = pytest.mark.anyio


async def long_session(db: Database, messages: int, name: str = "s") -> int:
    """A session of one turn with messages "m1", "m2" ... of one token each."""
    session, _ = await say(db, name, *(f"m{n}" for n in range(1, messages + 1)))
    return session.id


async def read(db: Database, session: int, line: Sequence[Segment], tokens: int | None) -> list[str]:
    return texts(await entries.window(db, ME, session, line, tokens))


async def test_a_window_is_the_newest_part_oldest_first(db: Database) -> None:
    session = await long_session(db, 6)
    assert await read(db, session, [(1, 1, 6)], None) == ["m1", "m2", "m3", "m4", "m5", "m6"]
    assert await read(db, session, [(1, 3, 5)], None) == ["m3", "m4", "m5"]
    assert await read(db, session, [], None) == []


async def test_a_window_ends_with_the_message_that_is_too_much(db: Database) -> None:
    session = await long_session(db, 6)
    assert await read(db, session, [(1, 1, 6)], 2) == ["m4", "m5", "m6"]
    assert await read(db, session, [(1, 1, 6)], 0) == ["m6"]
    assert await read(db, session, [(1, 1, 6)], 6) == ["m1", "m2", "m3", "m4", "m5", "m6"]


async def test_a_window_is_as_long_as_it_has_to_be(db: Database) -> None:
    many = 2 * PAGE + 10
    session = await long_session(db, many)
    assert await read(db, session, [(1, 1, many)], None) == [f"m{n}" for n in range(1, many + 1)]
    assert len(await read(db, session, [(1, 1, many)], PAGE)) == PAGE + 1
    assert len(await read(db, session, [(1, 1, many)], PAGE - 1)) == PAGE


async def test_entries_carry_the_running_total(db: Database) -> None:
    session, _ = await say(db, "s", "one two three", "four", "five six")
    read = await entries.window(db, ME, session.id, [(1, 1, 3)], None)
    assert [(entry.seq, entry.tokens, entry.total) for entry in read] == [(1, 3, 3), (2, 1, 4), (3, 2, 6)]


async def test_any_line_over_any_forks_is_read_as_it_was_said(db: Database) -> None:
    """Branches off branches at any place, against lists in memory."""
    draw = Random(random.random())
    session, _ = await say(db, "s", "t1", "t2", "t3")
    lines: dict[int, tuple[list[str], list[Segment]]] = {1: (["t1", "t2", "t3"], [(1, 1, 3)])}
    for n in range(4, 40):
        number = draw.choice(list(lines))
        said, segments = lines[number]
        at = draw.randrange(len(said) + 1)
        now, _ = await find(db, "s")
        branch = (await sessions.branches(db, ME, session.id))[number]
        forked = record("s", (now, branch), [message(f"t{n}"), message(f"r{n}")], fork_at=at)
        _, made = await turns.append(db, ME, forked)
        kept = [(one, first, min(last, at)) for one, first, last in segments if first <= at]
        lines[made] = ([*said[:at], f"t{n}", f"r{n}"], [(made, at + 1, at + 2), *kept])
    for said, segments in lines.values():
        assert await read(db, session.id, segments, None) == said
        least = draw.randint(0, len(said))
        assert await read(db, session.id, segments, least) == said[-least - 1 :]
        marks, short = await entries.digests(db, ME, session.id, segments)
        assert marks == [mark(text, "assistant" if text == "t3" else "user") for text in said]
        assert short == {}
        for n, text in enumerate(said, 1):
            entry = await entries.at(db, ME, session.id, segments, n)
            assert entry is not None
            assert texts([entry]) == [text]
        assert await entries.at(db, ME, session.id, segments, len(said) + 1) is None


async def test_digests_come_in_order_with_the_text_of_replies_that_broke_off(db: Database) -> None:
    session, branch = await say(db, "s", "a", "b")
    short = message("c d", "assistant", status="incomplete")
    await turns.append(db, ME, record("s", (session, branch), [message("q"), short]))
    marks, texts_of_short = await entries.digests(db, ME, session.id, [(1, 1, 4)])
    assert marks == [mark("a"), mark("b", "assistant"), mark("q"), mark("c d", "assistant")]
    assert texts_of_short == {3: short.raw}


async def test_the_places_of_a_message_are_told_branch_by_branch_oldest_first(db: Database) -> None:
    session, branch = await say(db, "s", "ok", "b", "ok", "c")
    await turns.append(db, ME, record("s", (session, branch), [message("x"), message("ok")], fork_at=1))
    assert await entries.places(db, ME, session.id, mark("ok")) == [(1, 1), (1, 3), (2, 3)]
    assert await entries.places(db, ME, session.id, mark("nothing")) == []


async def test_of_equal_messages_the_newest_is_the_stored_one(db: Database) -> None:
    session, branch = await say(db, "s", "q", "a")
    newer = record("s", (session, branch), [message("again")], fork_at=1)
    twin = message("a", "assistant")
    await turns.append(db, ME, record("s", (session, branch), [*newer.messages, twin]))
    assert await entries.stored(db, ME, session.id, mark("a", "assistant")) == twin.raw
    assert await entries.stored(db, ME, session.id, mark("nothing")) is None


async def test_the_newest_question_and_the_newest_calls_are_found_far_back(db: Database) -> None:
    session, branch = await say(db, "s", "q1", "a")
    called = message("look", "assistant", calls=2)
    rest = [message(f"t{n}", "tool") for n in range(50)]
    await turns.append(db, ME, record("s", (session, branch), [message("q2"), called, *rest]))
    line = [(1, 1, 54)]
    user = await entries.newest_user(db, ME, session.id, line)
    calls = await entries.last_calls(db, ME, session.id, line)
    assert user is not None
    assert calls is not None
    assert texts([user, calls]) == ["q2", "look"]
    assert await entries.last_calls(db, ME, session.id, [(1, 1, 3)]) is None
    earlier = await entries.newest_user(db, ME, session.id, [(1, 1, 2)])
    assert earlier is not None
    assert texts([earlier]) == ["q1"]
    assert await entries.newest_user(db, ME, session.id, [(1, 2, 2)]) is None
