"""The log of messages: windows, digests and places, along lines that fork."""

import random
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import LiteralString, TypeVar

import pytest

from proxy.store import entries, sessions, turns
from proxy.store.database import Database, Row, Tx, Value
from proxy.store.entries import PAGE, Segment
from tests.store.saying import ME, find, mark, message, record, say, texts

pytestmark = pytest.mark.anyio

T = TypeVar("T")


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
        user = await entries.newest_user(db, ME, session.id, segments)
        asked = [text for text in said if text != "t3"]
        assert ([] if user is None else texts([user])) == asked[-1:]
        marks, short = await entries.digests(db, ME, session.id, segments)
        assert marks == [mark(text, "assistant" if text == "t3" else "user") for text in said]
        assert short == {}
        for n, text in enumerate(said, 1):
            entry = await entries.at(db, ME, session.id, segments, n)
            assert entry is not None
            assert texts([entry]) == [text]
        assert await entries.at(db, ME, session.id, segments, len(said) + 1) is None


async def test_a_window_counts_by_another_price(db: Database) -> None:
    """As for old results that are sent as a short marker."""
    session, branch = await say(db, "s", *["one two three"] * 40)
    line = [(1, 1, 40)]
    for tokens in (0, 5, 40, 41, 90):
        for most in (20, 40):
            found = await entries.window(
                db, ME, session.id, line, tokens, lambda entry, most=most: 3 if entry.seq > most else 1
            )
            counts = [3 if seq > most else 1 for seq in range(40, 0, -1)]
            held = [sum(counts[:n]) for n in range(1, 41)]
            wanted = sum(one <= tokens for one in held)
            assert [entry.seq for entry in found] == list(range(40 - min(wanted, 39), 41))
    assert await entries.window(db, ME, session.id, line, None, lambda _: 0) == await entries.window(
        db, ME, session.id, line, None
    )
    assert branch.head == 40


async def nested(db: Database, forks: int, each: int) -> tuple[int, list[str], list[Segment]]:
    """A session whose line goes over so many forks, `each` messages of one token on every branch, and a tail besides
    that the line leaves."""
    session, _ = await say(db, "s", *[f"1.{n}" for n in range(1, each + 1)], "tail")
    said, line = [f"1.{n}" for n in range(1, each + 1)], [(1, 1, each)]
    for branch in range(2, forks + 2):
        new = [f"{branch}.{n}" for n in range(1, each + 1)]
        messages = [message(text) for text in [*new, "tail"]]
        await turns.append(db, ME, record("s", await find(db, "s"), messages, fork_at=len(said)))
        line = [(branch, len(said) + 1, len(said) + each), *line]
        said += new
    return session.id, said, line


@pytest.mark.parametrize(("forks", "each"), [(1, 300), (5, 60), (40, 1), (150, 2)])
async def test_lines_over_many_forks_are_read_page_by_page(db: Database, forks: int, each: int) -> None:
    session, said, line = await nested(db, forks, each)
    assert await read(db, session, line, None) == said
    for tokens in (0, 17, 100, PAGE, len(said) - 1):
        assert await read(db, session, line, tokens) == said[-tokens - 1 :]
    for _, low, high in line[:3]:
        upto = [(branch, first, min(last, high)) for branch, first, last in line if first <= high]
        assert await read(db, session, upto, None) == said[:high]
        rest = [(branch, max(first, low), last) for branch, first, last in line if last >= low]
        assert await read(db, session, rest, None) == said[low - 1 :]
    marks, _ = await entries.digests(db, ME, session, line)
    assert marks == [mark(text) for text in said]


async def test_a_page_is_one_statement_however_many_branches_it_crosses(db: Database) -> None:
    session, said, line = await nested(db, 100, 1)
    heard = Heard(db)
    assert texts(await entries.window(heard, ME, session, line, None)) == said
    assert len(heard.asked) == 1
    await entries.digests(heard, ME, session, line)
    assert len(heard.asked) == 2
    assert await entries.last_calls(heard, ME, session, line) is None
    assert len(heard.asked) == 4


class Heard:
    """A store that counts what it is asked."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.asked: list[str] = []

    async def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        self.asked.append(sql)
        return await self.db.all(sql, args)

    def transaction(self, work: Callable[[Tx], T]) -> Awaitable[T]:
        return self.db.transaction(work)

    async def apart(self, work: Callable[[Tx], T]) -> T:
        return await self.db.apart(work)

    async def ready(self) -> None:
        await self.db.ready()

    async def close(self) -> None:
        await self.db.close()


async def test_a_gap_in_a_line_hides_nothing_behind_it(db: Database) -> None:
    session, _, _ = await nested(db, 3, 2)
    assert await read(db, session, [(4, 7, 8), (2, 3, 4), (1, 1, 1)], None) == ["1.1", "2.1", "2.2", "4.1", "4.2"]
    assert await read(db, session, [(4, 7, 8), (99, 5, 6), (1, 1, 2)], 100) == ["1.1", "1.2", "4.1", "4.2"]


async def test_calls_are_found_beyond_the_newest_branch(db: Database) -> None:
    session, branch = await say(db, "s", "q1", "a")
    called = message("look", "assistant", calls=1)
    await turns.append(db, ME, record("s", (session, branch), [message("q2"), called, message("t", "tool")]))
    for at in (5, 6):
        found = await find(db, "s")
        await turns.append(db, ME, record("s", found, [message("r", "tool"), message("x", "tool")], fork_at=at))
    line = [(3, 7, 8), (2, 6, 6), (1, 1, 5)]
    calls = await entries.last_calls(db, ME, session.id, line)
    user = await entries.newest_user(db, ME, session.id, line)
    assert calls is not None
    assert user is not None
    assert texts([calls, user]) == ["look", "q2"]
    assert await entries.last_calls(db, ME, session.id, [(3, 7, 8), (2, 6, 6), (1, 1, 3)]) is None


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
