"""Old turns: a question finds what was said long ago, small talk nothing, and nobody another session's."""

import pytest

from proxy.recall import query, turns
from proxy.recall.turns import Old
from proxy.store import sessions
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
    return await turns.text(db, scope, session, [(1, 1, last)], text, 10)


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


def test_a_word_that_was_never_said_lowers_the_share() -> None:
    weights, _ = query.asked("zebra?")
    known = turns.share(weights, {"zebra": ([1], 1)}, 100)
    more, _ = query.asked("zebra quartz?")
    assert turns.share(more, {"zebra": ([1], 1), "quartz": ([], 0)}, 100) < known


def test_what_everybody_said_tells_nothing() -> None:
    weights, _ = query.asked("zebra?")
    assert turns.share(weights, {"zebra": (list(range(100)), 100)}, 100) < 0.01


def test_a_question_beside_much_else_is_what_counts() -> None:
    weights, asks = query.asked("The build is red since lunch. Which port did we give Redis?")
    assert asks
    assert weights["redis"] > weights["build"]
    assert query.asked("The build is red since lunch.")[1] is False
    assert query.asked("Remind me of Nora's address.")[1] is True
