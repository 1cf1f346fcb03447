"""Old turns: a question finds what was said long ago, small talk nothing, and nobody another session's."""

from collections.abc import Mapping, Sequence

import pytest

from proxy.recall import query, turns
from proxy.recall.turns import Old
from proxy.store import passages, sessions
from proxy.store import turns as log
from proxy.store.database import Database
from proxy.types import Branch, Scope, Session
from tests.store.saying import ME, find, message, record, tenant

pytestmark = pytest.mark.anyio

ADMITTED = 0.25
TALK = [
    ("My sister Nora moved to Lisbon in spring", "How nice for her"),
    ("She works at the aquarium there", "Feeding the penguins, I hope"),
    ("The car needs new brakes before winter", "Shall I remind you?"),
    ("Good morning, how are you?", "Very well, thank you"),
    ("I like the blue curtains best", "They suit the kitchen"),
    ("Thanks, great!", "You are welcome"),
    ("We booked the Alfama guest house for May", "It has a lovely terrace"),
    ("The cat caught a mouse again", "Poor mouse"),
]
SMALL = ["thanks, great!", "ok", "haha nice", "good morning, how are you?", "Thanks a lot, bye!", "Danke!", "", "?!"]


async def told(db: Database, name: str = "s", scope: Scope = ME) -> tuple[Session, Branch]:
    for question, answer in TALK:
        found = await sessions.find(db, scope, name)
        said = [message(question), message(answer, "assistant")]
        await log.append(db, scope, record(name, found, said))
    return await find(db, name, scope)


async def asked(db: Database, session: int, text: str, last: int = 16, scope: Scope = ME) -> list[Old]:
    found = await turns.find(db, scope, session, [(1, 1, last)], text, turns.Wanted(0.0, 10, 10))
    return await turns.read(db, scope, session, found, text)


async def test_a_question_finds_what_was_said_long_ago(db: Database) -> None:
    session, _ = await told(db)
    best = (await asked(db, session.id, "What was the name of the guest house that we booked?"))[0]
    assert (best.turn, best.first, best.last) == (7, 13, 14)
    assert best.score >= ADMITTED
    assert [line.text for line in best.lines] == list(TALK[6])


async def test_the_exchange_that_follows_comes_along(db: Database) -> None:
    """What Nora does is said one exchange after her name."""
    session, _ = await told(db)
    assert [old.turn for old in await asked(db, session.id, "What is Nora's job?")] == [1, 2]


@pytest.mark.parametrize("text", SMALL)
async def test_small_talk_recalls_nothing(db: Database, text: str) -> None:
    session, _ = await told(db)
    assert [old for old in await asked(db, session.id, text) if old.score >= ADMITTED] == []


async def test_small_talk_asks_the_store_for_nothing(db: Database) -> None:
    session, _ = await told(db)
    await asked(db, session.id, "thanks, great!")
    assert await db.all("SELECT id FROM passages") == []


async def test_what_is_still_in_the_window_is_not_found(db: Database) -> None:
    session, _ = await told(db)
    assert [old.turn for old in await asked(db, session.id, "Which guest house?", last=12) if old.turn == 7] == []
    assert next(old.turn for old in await asked(db, session.id, "Which guest house?")) == 7


async def test_nobody_finds_what_is_anothers(db: Database) -> None:
    session, _ = await told(db)
    other = await tenant(db, "other")
    await told(db, "s", other)
    await asked(db, session.id, "Which guest house?")
    assert await asked(db, session.id, "Which guest house?", scope=other) == []


async def test_scores_lie_between_0_and_1_best_first(db: Database) -> None:
    session, _ = await told(db)
    for text in ("Nora Lisbon spring?", "brakes", "the blue curtains in the kitchen, the cat and the mouse?"):
        scores = [old.score for old in await asked(db, session.id, text)]
        assert scores
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score <= 1 for score in scores)


def share(text: str, found: Mapping[str, tuple[Sequence[int], int]]) -> float:
    weights, _ = query.asked(text)
    _, held = turns.shares(weights, found, 100)
    return max(held.values())


def test_a_word_that_was_never_said_lowers_the_share() -> None:
    known = share("zebra?", {"zebra": ([1], 1)})
    assert share("zebra quartz?", {"zebra": ([1], 1), "quartz": ([], 0)}) < known


def test_what_everybody_said_tells_nothing() -> None:
    everywhere = list(range(100))
    assert share("zebra?", {"zebra": (everywhere, 100)}) < 0.01
    full, held = turns.shares({"zebra": 1.0, "quartz": 1.0}, {"zebra": (everywhere, 100), "quartz": ([7], 1)}, 100)
    assert list(full) == list(held) == [7]


def test_a_word_weighs_in_the_share_and_not_in_the_fit() -> None:
    found = {"zebra": ([1], 1), "quartz": ([2], 1)}
    full, held = turns.shares({"zebra": 1.0, "quartz": 0.5}, found, 100)
    assert full[1] == full[2]
    assert held[1] == 2 * held[2]


def test_the_same_words_tell_more_in_a_short_passage() -> None:
    fit = turns.fitting({passages.LENGTHS + 3: 1.0, 2 * passages.LENGTHS + 90: 1.0})
    assert fit[passages.LENGTHS + 3] > fit[2 * passages.LENGTHS + 90]


async def test_what_cannot_be_admitted_is_not_looked_for_any_further(db: Database) -> None:
    """The exchanges that score enough are the same, whatever the floor; below it some are shown."""
    session, _ = await told(db)
    for text in ("Nora Lisbon spring?", "What is Nora's job?", "brakes and curtains and the cat in Lisbon?"):
        every = await turns.find(db, ME, session.id, [(1, 1, 16)], text, turns.Wanted(0.0, 10, 10))
        for floor in (0.1, 0.25, 0.5, 0.99):
            found = await turns.find(db, ME, session.id, [(1, 1, 16)], text, turns.Wanted(floor, 10, 2))
            enough = [old for old in every if old.score >= floor]
            assert [old for old in found if old.score >= floor] == enough
            assert found[0].score == pytest.approx(every[0].score)
            assert not any(old.lines for old in found)


async def test_a_branch_finds_what_it_begins_with_behind_much_that_is_anothers(db: Database) -> None:
    session, branch = await told(db)
    for n in range(120):
        said = [message(f"Nora's guest house again {n}"), message("Lovely", "assistant")]
        await log.append(db, ME, record("s", await sessions.find(db, ME, "s"), said))
    session, branch = await find(db, "s", ME)
    await turns.find(db, ME, session.id, [(1, 1, branch.head)], "Which guest house?", turns.Wanted(0.25, 10, 10))
    fork = record("s", (session, branch), [message("Which guest house?")], fork_at=14)
    await log.append(db, ME, fork)
    line = [(1, 1, 14)]
    found = await turns.find(db, ME, session.id, line, "Which guest house?", turns.Wanted(0.25, 10, 10))
    assert found[0].turn == 7
    assert all(old.last <= 14 for old in found)


def test_a_question_beside_much_else_is_what_counts() -> None:
    weights, asks = query.asked("The build is red since lunch. Which port did we give Redis?")
    assert asks
    assert weights["redis"] > weights["build"]
    assert query.asked("The build is red since lunch.")[1] is False
    assert query.asked("Remind me of Nora's address.")[1] is True
