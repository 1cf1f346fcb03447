"""Branches in the store: where one can begin, lines over forks, listing, deleting."""

import random

import pytest

from proxy.errors import Conflict, NotFound, Unprocessable
from proxy.store import branches, sessions, turns
from proxy.store.branches import Point, line_of, since, until
from proxy.store.database import Database
from proxy.types import Branch, Instructions
from tests.store.making import everything
from tests.store.saying import ME, find, mark, message, record, say, tenant

pytestmark = pytest.mark.anyio


async def fork(db: Database, name: str, turn: int, now: int = 5) -> branches.Listed:
    session, _ = await find(db, name)
    point = await branches.after(db, ME, session.id, turn)
    assert point is not None
    return await branches.begin(db, ME, session.id, point, now)


async def test_a_turn_ends_at_its_last_entry_with_what_it_left(db: Database) -> None:
    first, _ = await say(
        db, "s", "one two", "three", cut=1, cut_key="k", carried=b"c", instructions=Instructions(b"i", 1)
    )
    await say(db, "s", "four", "five", cut=2, cut_key="l")
    found = await branches.after(db, ME, first.id, 1)
    brief = await sessions.same_instructions(db, ME, first.id, b"i")
    assert brief is not None
    assert found == Point(1, 1, 2, 3, mark("three", "assistant"), "complete", brief.id, 1, "k", b"c")
    assert await branches.after(db, ME, first.id, 0) == Point()
    assert await branches.after(db, ME, first.id, 3) is None
    assert await branches.after(db, ME, 99, 0) is None


async def test_an_entry_within_a_turn_is_a_place_too(db: Database) -> None:
    session, _ = await say(db, "s", "one", "two", "three", cut=1, cut_key="k")
    found = await branches.at(db, ME, session.id, 1, 2)
    assert found == Point(1, 1, 2, 2, mark("two"), "complete", None, 1, "k", b"")
    assert await branches.at(db, ME, session.id, 1, 4) is None


async def test_a_fork_is_one_row_that_takes_over_what_the_turn_left(db: Database) -> None:
    await say(db, "s", "one two", "three", cut=1, cut_key="k", carried=b"c", instructions=Instructions(b"i", 1))
    session, root = await say(db, "s", "four", "five")
    before = await everything(db)
    made = await fork(db, "s", 1)
    assert made == branches.Listed(2, 1, 1, 0, True, 5)
    after = await everything(db)
    changed = {table for table in after if before[table] != after[table]}
    assert changed == {"sessions", "branches", "facets"}
    assert len(after["branches"]) == 2
    now, branch = await find(db, "s")
    assert (now.branch, now.branches, now.turns) == (2, 2, session.turns)
    assert (branch.parent, branch.forked_at, branch.head, branch.total, branch.last_turn) == (1, 2, 2, 3, 1)
    assert (branch.end_digest, branch.end_status) == (mark("three", "assistant"), "complete")
    assert (branch.cut, branch.cut_key, branch.carried) == (1, "k", b"c")
    brief = await sessions.same_instructions(db, ME, session.id, b"i")
    assert brief is not None
    assert (branch.instructions, root.instructions) == (brief.id, None)


async def test_a_fork_of_a_fork_points_to_the_owner_of_its_beginning(db: Database) -> None:
    await say(db, "s", "one", "two")
    await fork(db, "s", 1)
    await fork(db, "s", 1)
    made = await fork(db, "s", 0)
    assert made == branches.Listed(4, 1, 0, 0, True, 5)
    listed = await branches.page(db, ME, (await find(db, "s"))[0].id, 100, 0)
    assert [(one.number, one.parent, one.forked_at, one.current) for one in listed] == [
        (1, None, None, False), (2, 1, 1, False), (3, 1, 1, False), (4, 1, 0, True),
    ]  # fmt: skip


async def test_the_list_counts_the_turns_of_each_branch_and_comes_in_pages(db: Database) -> None:
    await say(db, "s", "one", "two")
    await say(db, "s", "three", "four")
    await fork(db, "s", 1)
    session, _ = await say(db, "s", "five", "six")
    listed = await branches.page(db, ME, session.id, 100, 0)
    assert [(one.number, one.turns, one.forked_at) for one in listed] == [(1, 2, None), (2, 1, 1)]
    assert await branches.page(db, ME, session.id, 1, 1) == listed[1:]
    assert await branches.page(db, ME, session.id, 1, 2) == []


async def test_a_branch_that_points_higher_than_its_beginning_is_listed_by_its_turn(db: Database) -> None:
    """As older versions made them: the parent is the line that was forked, not the owner of the entry."""
    await say(db, "s", "one", "two")
    await fork(db, "s", 1)
    session, branch = await say(db, "s", "three", "four")
    await turns.append(db, ME, record("s", (session, branch), [message("x")], fork_at=1, fork_total=1))
    listed = await branches.page(db, ME, session.id, 100, 0)
    assert [(one.number, one.parent, one.forked_at) for one in listed] == [(1, None, None), (2, 1, 1), (3, 2, 1)]
    every = await branches.lineage(db, ME, session.id, 3)
    assert line_of(every, every[3]) == [(3, 2, 2), (1, 1, 1)]


async def test_more_turns_than_are_counted_at_once_are_counted(db: Database) -> None:
    session, _ = await say(db, "s", "one", "two")
    rows = [(n, 1 + n % 2) for n in range(2, 2 * branches.COUNTED + 3)]
    await db.transaction(lambda tx: [tx.all(
        """INSERT INTO turns (tenant, session, turn, branch, first_seq, last_seq, status, model, request_id, ledger,
                              created_at) VALUES (1, ?, ?, ?, 1, 1, 'complete', '', '', x'', 0)""",
        (session.id, *row)) for row in rows])  # fmt: skip
    await fork(db, "s", 1)
    listed = await branches.page(db, ME, session.id, 100, 0)
    assert [one.turns for one in listed] == [branches.COUNTED + 2, branches.COUNTED]


async def test_only_what_a_turn_needs_is_read_of_many_branches(db: Database) -> None:
    await say(db, "s", "one", "two")
    for n in range(10):
        await fork(db, "s", 1)
        await say(db, "s", f"q{n}", f"a{n}")
    await fork(db, "s", 5)
    session, current = await say(db, "s", "deep", "end")
    assert set(await branches.lineage(db, ME, session.id, current.number)) == {12, 5, 1}
    assert await branches.lineage(db, ME, session.id, 99) == {}
    every = await sessions.branches(db, ME, session.id)
    found = await branches.reaching(db, ME, session.id, current, mark("a7", "assistant"))
    assert found == {number: every[number] for number in (1, 5, 9, 12)}
    assert set(await branches.reaching(db, ME, session.id, current, b"nothing")) == {1, 5, 12}
    assert await branches.chain(db, ME, session.id, every[1]) == {1: every[1]}
    assert set(await branches.chain(db, ME, session.id, every[12])) == {1, 5, 12}


async def test_a_long_chain_of_forks_is_read_to_its_root(db: Database) -> None:
    session, _ = await say(db, "s", "one", "two")
    for n in range(2 * branches.FEW):
        await fork(db, "s", n + 1)
        session, _ = await say(db, "s", f"q{n}", f"a{n}")
    every = await sessions.branches(db, ME, session.id)
    for number, branch in every.items():
        found = await branches.lineage(db, ME, session.id, number)
        assert found.items() <= every.items()
        assert len(line_of(found, branch)) == number
        assert await branches.chain(db, ME, session.id, branch) == found


async def test_a_deleted_branch_leaves_nothing_and_takes_nothing_along(db: Database) -> None:
    await say(db, "s", "one", "two", key="k1", answer=b"{}")
    session, _ = await find(db, "s")
    before = await everything(db)
    await fork(db, "s", 1)
    await say(db, "s", "three", "four", key="k2", answer=b"{}")
    await say(db, "s", "five", "six", request=b"r", answer=b"{}")
    await db.transaction(lambda tx: (
        tx.all("INSERT INTO summaries (tenant, session, branch, upto, tokens, model, created_at, text) "
               "VALUES (1, ?, 2, 3, 1, 'm', 0, 'x')", (session.id,)),
        tx.all("INSERT INTO passages (id, tenant, session, branch, first, last, words) VALUES (7, 1, ?, 2, 3, 4, 1)",
               (session.id,)),
        tx.all("INSERT INTO spoken (rowid, text) VALUES (7, 'x')")))  # fmt: skip
    point = await branches.after(db, ME, session.id, 1)
    assert point is not None
    await branches.begin(db, ME, session.id, point, 5)
    await branches.delete(db, ME, session.id, 2, 9)
    after = await everything(db)
    for table in ("entries", "turns", "replays", "summaries", "passages", "spoken"):
        assert after[table] == before[table], table
    assert [row[2] for row in after["branches"]] == [1, 3]
    assert await turns.answered(db, ME, session.id, "", 1_000) is None
    assert (await db.all("SELECT answered, request, answer, turns, branches FROM sessions")) == [
        (None, None, None, 3, 3)
    ]
    assert await turns.answered(db, ME, session.id, "k2", 1_000) is None
    again, branch = await say(db, "s", "seven", "eight", key="k2", answer=b"{}")
    assert (again.turns, branch.number) == (4, 3)


async def test_instructions_go_with_the_last_that_names_them(db: Database) -> None:
    async def kept() -> list[bytes]:
        return [row[0] for row in await db.all("SELECT raw FROM instructions ORDER BY raw")]

    session, _ = await say(db, "s", "one", "two", instructions=Instructions(b"all", 1))
    await say(db, "t", "one", "two", instructions=Instructions(b"other", 1))
    for word in (b"first", b"second"):
        await fork(db, "s", 1)
        await say(db, "s", "three", "four", instructions=Instructions(b"both", 1))
        await say(db, "s", "five", "six", instructions=Instructions(word, 1))
    await fork(db, "s", 1)
    assert await kept() == [b"all", b"both", b"first", b"other", b"second"]
    await branches.delete(db, ME, session.id, 2, 9)
    assert await kept() == [b"all", b"both", b"other", b"second"]
    await branches.delete(db, ME, session.id, 3, 9)
    assert await kept() == [b"all", b"other"]


async def test_forks_are_bounded_and_a_deleted_branch_makes_room(db: Database) -> None:
    session, _ = await say(db, "s", "one", "two")
    rows = [(session.id, n) for n in range(2, branches.MOST + 1)]
    await db.transaction(lambda tx: [tx.all("UPDATE sessions SET branches = ?", (branches.MOST,)), *(tx.all(
        """INSERT INTO branches (tenant, session, branch, parent, forked_at, head, total, end_digest, end_status,
                                 last_turn, cut, cut_key, created_at)
           VALUES (1, ?, ?, 1, 0, 0, 0, x'', 'complete', 0, 0, '', 0)""", row) for row in rows)])  # fmt: skip
    before = await everything(db)
    with pytest.raises(Conflict, match="DELETE") as caught:
        await fork(db, "s", 1)
    assert caught.value.code == "too_many_branches"
    assert await everything(db) == before
    await branches.delete(db, ME, session.id, 7, 9)
    assert (await fork(db, "s", 1)).number == branches.MOST + 1
    with pytest.raises(Conflict):
        await fork(db, "s", 1)
    found = await find(db, "s")
    await turns.append(db, ME, record("s", found, [message("edit")], fork_at=0))
    assert await branches.living(db, ME, session.id) == branches.MOST + 1


async def test_what_others_need_is_not_deleted(db: Database) -> None:
    session, _ = await say(db, "s", "one", "two")
    await fork(db, "s", 1)
    await say(db, "s", "three", "four")
    await fork(db, "s", 2)
    before = await everything(db)
    for number, code in ((3, "branch_current"), (2, "branch_has_children"), (1, "branch_has_children")):
        with pytest.raises(Conflict) as caught:
            await branches.delete(db, ME, session.id, number, 9)
        assert caught.value.code == code
    for number in (0, -1, 4):
        with pytest.raises(NotFound):
            await branches.delete(db, ME, session.id, number, 9)
    assert await everything(db) == before


async def test_no_branch_begins_in_a_session_that_is_gone(db: Database) -> None:
    session, _ = await say(db, "s", "one", "two")
    await sessions.delete(db, ME, session.id)
    with pytest.raises(NotFound):
        await branches.begin(db, ME, session.id, Point(), 5)


async def test_an_answer_is_kept_for_its_retry_over_a_fork_but_not_over_an_undo(db: Database) -> None:
    session, _ = await say(db, "s", "one", "two", request=b"r", answer=b"{}")
    await fork(db, "s", 0)
    assert await turns.answered(db, ME, session.id, "", 1_000) is not None
    await branches.begin(db, ME, session.id, Point(), 5, branches.Why(1))
    assert await turns.answered(db, ME, session.id, "", 1_000) is None


def test_any_line_is_made_of_the_stretches_that_its_branches_own() -> None:
    seed = random.randrange(2**32)
    for n in range(seed, seed + 300):
        draw = random.Random(n)
        every: dict[int, Branch] = {}
        lines: dict[int, list[tuple[int, int]]] = {}
        for number in range(1, draw.randint(2, 9)):
            parent = draw.choice(list(every)) if every else None
            at = draw.randint(0, every[parent].head) if parent else 0
            head = at + draw.randint(0, 4)
            every[number] = Branch(number, parent, at, head, 0, b"", "complete", 0, 0, "", None)
            before = lines[parent][:at] if parent else []
            lines[number] = before + [(number, seq) for seq in range(at + 1, head + 1)]
        for number, line in lines.items():
            made = line_of(every, every[number])
            seq = draw.randint(0, 20)
            assert said(made) == line, n
            assert said(until(made, seq)) == line[:seq], n
            assert said(since(made, seq + 1)) == line[seq:], n


def said(line: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    return [(branch, seq) for branch, first, last in reversed(line) for seq in range(first, last + 1)]


async def test_a_turn_goes_on_from_any_fork_with_the_right_totals(db: Database) -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    await say(db, "s", "one", "two three")
    for n in range(20):
        if draw.random() < 0.5:
            await fork(db, "s", draw.randint(0, (await find(db, "s"))[0].turns))
        await say(db, "s", f"q{n} " * draw.randint(1, 3), f"a{n}")
    session, _ = await find(db, "s")
    every = await sessions.branches(db, ME, session.id)
    for branch in every.values():
        total = 0
        for owner, first, last in reversed(line_of(every, branch)):
            rows = await db.all(
                "SELECT tokens, total FROM entries WHERE session = ? AND branch = ? AND seq BETWEEN ? AND ?",
                (session.id, owner, first, last),
            )
            assert len(rows) == last - first + 1, seed
            for tokens, running in rows:
                total += tokens
                assert running == total, seed
        assert branch.total == total, seed


async def test_a_branch_is_made_once_under_a_key_and_nobody_elses(db: Database) -> None:
    session, _ = await say(db, "s", "q", "a")
    once = branches.Once("key", b"request")
    made = await branches.begin(db, ME, session.id, Point(), 5, branches.Why(0, once))
    assert await branches.made(db, ME, session.id, once, 6) == made
    assert await branches.made(db, await tenant(db, "other"), session.id, once, 6) is None
    assert await branches.made(db, ME, session.id, once, 5 + 25 * 3_600_000) is None
    with pytest.raises(Unprocessable):
        await branches.made(db, ME, session.id, branches.Once("key", b"another"), 6)
    later = await branches.begin(db, ME, session.id, Point(), 9, branches.Why(0, once))
    assert await branches.made(db, ME, session.id, once, 9) == later
