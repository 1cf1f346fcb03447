"""The index of old exchanges: it follows the log in bounded parts, and finds only what lies on the line asked for."""

import json
from collections.abc import Sequence
from random import Random

import pytest

from proxy.recall import exchange
from proxy.store import entries, passages, sessions, turns
from proxy.store.database import Database
from proxy.types import Branch, Message, Session
from tests.store import making
from tests.store.saying import ME, find, message, record, say

pytestmark = pytest.mark.anyio


async def told(db: Database, *texts: str, name: str = "s") -> tuple[Session, Branch]:
    """A session of one turn; questions and answers take turns."""
    found = await sessions.find(db, ME, name)
    said = [message(text, "assistant" if n % 2 else "user") for n, text in enumerate(texts)]
    await turns.append(db, ME, record(name, found, said))
    return await find(db, name)


async def indexed(db: Database, session: int, line: Sequence[entries.Segment]) -> int:
    """Indexes until nothing is missing, and gives in how many steps."""
    steps = 0
    while missing := (await passages.reach(db, ME, session, line)).missing:
        await passages.extend(db, ME, session, missing[0], exchange.cut)
        steps += 1
    return steps


async def spans(db: Database, session: int, line: Sequence[entries.Segment], word: str) -> list[tuple[int, int, int]]:
    """Where the passages stand that hold a word, as far as they lie on the line."""
    ((ids, having),) = await passages.holding(db, ME, session, [word])
    assert having == len(ids)
    places = await passages.around(db, ME, session, ids, 0)
    assert [place.id for place in places] == ids
    return sorted(
        (place.branch, place.first, place.last) for place in places
        if any(place.branch == branch and low <= place.first and place.last <= high for branch, low, high in line)
    )  # fmt: skip


async def test_an_exchange_is_found_by_another_form_of_its_words(db: Database) -> None:
    session, _ = await told(db, "We ship on Monday", "Good", "Tea?", "Yes, please")
    line = [(1, 1, 4)]
    assert await spans(db, session.id, line, "shipping") == []
    assert await indexed(db, session.id, line) == 1
    assert await spans(db, session.id, line, "shipping") == [(1, 1, 2)]
    assert await spans(db, session.id, line, '"; tea-please NOT') == []
    assert await spans(db, session.id, line, "tea-please") == [(1, 3, 4)]


async def test_indexing_again_changes_nothing(db: Database) -> None:
    session, _ = await told(db, "a", "b", "c", "d")
    await indexed(db, session.id, [(1, 1, 4)])
    before = await making.everything(db)
    assert await passages.extend(db, ME, session.id, (1, 1, 4), exchange.cut) == 0
    assert await making.everything(db) == before


async def test_what_lies_beyond_the_line_is_neither_indexed_nor_found(db: Database) -> None:
    session, _ = await told(db, "red", "one", "blue", "two")
    await indexed(db, session.id, [(1, 1, 3)])
    assert await spans(db, session.id, [(1, 1, 4)], "two") == []
    await indexed(db, session.id, [(1, 1, 4)])
    assert await spans(db, session.id, [(1, 1, 4)], "two") == [(1, 4, 4)]
    assert await spans(db, session.id, [(1, 1, 2)], "blue") == []


async def test_a_cut_that_moved_back_is_indexed_up_to_its_place(db: Database) -> None:
    session, _ = await told(db, "red", "one", "blue", "two")
    await indexed(db, session.id, [(1, 1, 4)])
    await indexed(db, session.id, [(1, 1, 3)])
    assert await spans(db, session.id, [(1, 1, 3)], "blue") == [(1, 3, 3)]


async def test_a_branch_finds_its_own_line_only(db: Database) -> None:
    session, branch = await told(db, "start", "go", "red apples", "sweet", "green pears", "sour")
    fork = record("s", (session, branch), [message("blue plums"), message("soft", "assistant")], fork_at=2)
    await turns.append(db, ME, fork)
    trunk, other = [(1, 1, 6)], [(2, 3, 4), (1, 1, 2)]
    await indexed(db, session.id, trunk)
    await indexed(db, session.id, other)
    assert await spans(db, session.id, other, "plums") == [(2, 3, 4)]
    assert await spans(db, session.id, other, "apples") == []
    assert await spans(db, session.id, other, "start") == [(1, 1, 2)]
    assert await spans(db, session.id, trunk, "plums") == []


async def test_a_long_backlog_is_indexed_in_parts_the_newest_first(db: Database) -> None:
    """Messages so large that a part holds few of them."""
    filler = "x y " * 40_000
    session, branch = await told(db, *(f"word{n} {filler}" for n in range(60)))
    line = [(1, 1, branch.head)]
    (stretch,) = (await passages.reach(db, ME, session.id, line)).missing
    await passages.extend(db, ME, session.id, stretch, exchange.cut)
    assert await spans(db, session.id, line, "word59")
    assert await spans(db, session.id, line, "word1") == []
    (rest,) = (await passages.reach(db, ME, session.id, line)).missing
    assert rest[:2] == (1, 1)
    assert rest[2] < branch.head
    assert rest[2] % 2 == 0, "the part began with a question"
    assert await indexed(db, session.id, line) == 2
    assert await spans(db, session.id, line, "word1")
    rows = await db.all("SELECT first, last FROM passages ORDER BY first")
    assert [seq for first, last in rows for seq in range(first, last + 1)] == list(range(1, 61))


async def test_turns_that_come_while_a_backlog_waits_are_indexed_first(db: Database) -> None:
    filler = "x y " * 40_000
    session, branch = await told(db, *(f"word{n} {filler}" for n in range(60)))
    (stretch,) = (await passages.reach(db, ME, session.id, [(1, 1, branch.head)])).missing
    await passages.extend(db, ME, session.id, stretch, exchange.cut)
    session, branch = await told(db, "newest", "answer")
    line = [(1, 1, branch.head)]
    assert (await passages.reach(db, ME, session.id, line)).missing == [(1, 61, 62)]
    await indexed(db, session.id, line)
    assert await spans(db, session.id, line, "newest") == [(1, 61, 62)]
    assert await spans(db, session.id, line, "word0")


async def test_any_order_of_cuts_covers_every_message(db: Database) -> None:
    random = Random(7)
    session, branch = await told(db, *(f"w{n}" for n in range(40)))
    for cut in [random.randint(1, branch.head) for _ in range(25)]:
        line = [(1, 1, cut)]
        await indexed(db, session.id, line)
        found = {seq for n in range(cut) for _, low, high in await spans(db, session.id, line, f"w{n}")
                 for seq in range(low, high + 1)}  # fmt: skip
        assert found == set(range(1, cut + 1))


async def test_the_neighbours_of_a_passage_are_those_on_its_branch(db: Database) -> None:
    session, _ = await told(db, "a", "b", "c", "d", "e", "f")
    await indexed(db, session.id, [(1, 1, 6)])
    (((middle,), _),) = await passages.holding(db, ME, session.id, ["c"])
    assert [(place.first, place.last, place.turn) for place in await passages.around(db, ME, session.id, [middle], 1)
            ] == [(3, 4, 1), (1, 2, 1), (5, 6, 1)]  # fmt: skip
    assert len(await passages.around(db, ME, session.id, [middle], 0)) == 1


async def test_a_word_that_many_passages_have_gives_the_newest_and_their_number(db: Database) -> None:
    session, branch = await told(db, *(f"same w{n}" for n in range(2 * (passages.MANY + 20))))
    line = [(1, 1, branch.head)]
    await indexed(db, session.id, line)
    ((same, having), (nothing, none), (one, _)) = await passages.holding(db, ME, session.id, ["same", "?", "w0"])
    assert len(same) == passages.MANY
    assert same == sorted(same, reverse=True)
    assert having == passages.MANY + 20
    assert (nothing, none) == ([], 0)
    assert one[0] < same[-1]
    assert (await passages.reach(db, ME, session.id, line)).size == passages.MANY + 20


async def test_the_numbers_of_two_sessions_lie_apart(db: Database) -> None:
    """However their turns alternate; each number tells about how long its passage is."""
    sessions_of = {}
    for n in range(4):
        for name in ("s", "t"):
            session, branch = await told(db, f"question{n} " + "word " * 100 * n, "answer", name=name)
            await indexed(db, session.id, [(1, 1, branch.head)])
            sessions_of[name] = session.id
    rows = await db.all("SELECT id, session, words FROM passages ORDER BY id")
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert len({row[1] for row in rows}) == 2
    for id, _, many in rows:
        assert id % passages.LENGTHS == min(many // passages.STEP, passages.LENGTHS - 1)
    ((found, _),) = await passages.holding(db, ME, sessions_of["s"], ["question2"])
    assert [(place.first, place.last, place.turn) for place in
            await passages.around(db, ME, sessions_of["s"], found, 0)] == [(5, 6, 3)]  # fmt: skip
    assert await passages.around(db, ME, sessions_of["t"], found, 1) == []


async def test_it_is_told_whether_newer_passages_lie_elsewhere(db: Database) -> None:
    session, branch = await told(db, "start", "go", "red apples", "sweet")
    await indexed(db, session.id, [(1, 1, 4)])
    assert not (await passages.reach(db, ME, session.id, [(1, 1, 4)])).mixed
    assert (await passages.reach(db, ME, session.id, [(1, 1, 2)])).mixed
    fork = record("s", (session, branch), [message("blue plums"), message("soft", "assistant")], fork_at=2)
    await turns.append(db, ME, fork)
    assert (await passages.reach(db, ME, session.id, [(2, 3, 4), (1, 1, 2)])).mixed
    await indexed(db, session.id, [(2, 3, 4), (1, 1, 2)])
    assert (await passages.reach(db, ME, session.id, [(1, 1, 4)])).mixed


async def test_what_is_said_beside_an_image_is_found(db: Database) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo" * 1000}}
    raw = json.dumps({"role": "user", "content": [{"type": "text", "text": "my garden"}, image]}).encode()
    said = [Message("user", raw, b"1" * 16, 9), message("Lovely", "assistant")]
    await turns.append(db, ME, record("s", None, said))
    session, _ = await find(db, "s")
    await indexed(db, session.id, [(1, 1, 2)])
    assert await spans(db, session.id, [(1, 1, 2)], "garden") == [(1, 1, 2)]
    first, _ = await passages.told(db, ME, session.id, [(1, 1, 2)])
    assert exchange.line(first).text == "my garden"


async def test_the_index_goes_with_its_session(db: Database) -> None:
    session, _ = await told(db, "a", "b")
    await indexed(db, session.id, [(1, 1, 2)])
    await say(db, "other", "q", "a")
    assert await db.all("SELECT rowid FROM spoken")
    await sessions.delete(db, ME, session.id)
    assert await db.all("SELECT rowid FROM spoken") == await db.all("SELECT id FROM passages") == []


async def test_numbers_of_what_is_gone_can_be_given_again(db: Database) -> None:
    session, _ = await told(db, "red", "one", "blue", "two")
    await indexed(db, session.id, [(1, 1, 4)])
    rows = await db.all("SELECT id FROM passages")
    await db.transaction(lambda tx: tx.all("DELETE FROM passages WHERE last > 2"))
    assert await spans(db, session.id, [(1, 1, 4)], "blue") == []
    await indexed(db, session.id, [(1, 1, 4)])
    assert await db.all("SELECT id FROM passages") == rows
    assert await spans(db, session.id, [(1, 1, 4)], "blue") == [(1, 3, 4)]
    assert await spans(db, session.id, [(1, 1, 4)], "red") == [(1, 1, 2)]


async def test_nothing_is_written_for_a_session_that_is_gone(db: Database) -> None:
    session, _ = await told(db, "a", "b")
    await sessions.delete(db, ME, session.id)
    assert await passages.extend(db, ME, session.id, (1, 1, 2), exchange.cut) == 0
    assert await db.all("SELECT id FROM passages") == []
