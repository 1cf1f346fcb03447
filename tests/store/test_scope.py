"""A tenant sees its own: every function of the store, asked for what is another's, answers as if it were not there."""

import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import pytest

from proxy.errors import Conflict
from proxy.store import entries, sessions, turns
from proxy.store.database import Database
from proxy.types import Branch, Instructions, Scope, Session
from tests.store.saying import mark, message, record, say, tenant

pytestmark = pytest.mark.anyio

LINE = [(1, 1, 3)]
NOWHERE = 999

READS: dict[str, Callable[[Database, Scope, Session, int], Awaitable[Any]]] = {
    "sessions.find": lambda db, scope, session, _: sessions.find(db, scope, session.name or ""),
    "sessions.branches": lambda db, scope, _, id: sessions.branches(db, scope, id),
    "sessions.instructions": lambda db, scope, _, id: sessions.instructions(db, scope, id, 1),
    "sessions.same_instructions": lambda db, scope, _, id: sessions.same_instructions(db, scope, id, b"brief"),
    "sessions.instructions_at": lambda db, scope, _, id: sessions.instructions_at(db, scope, id, 1),
    "entries.window": lambda db, scope, _, id: entries.window(db, scope, id, LINE, None),
    "entries.newest_user": lambda db, scope, _, id: entries.newest_user(db, scope, id, LINE),
    "entries.last_calls": lambda db, scope, _, id: entries.last_calls(db, scope, id, LINE),
    "entries.digests": lambda db, scope, _, id: entries.digests(db, scope, id, LINE),
    "entries.places": lambda db, scope, _, id: entries.places(db, scope, id, mark("q")),
    "entries.stored": lambda db, scope, _, id: entries.stored(db, scope, id, mark("q")),
    "entries.at": lambda db, scope, _, id: entries.at(db, scope, id, LINE, 1),
    "turns.answered": lambda db, scope, _, id: turns.answered(db, scope, id, "k", 1_000),
    "turns.sent_in": lambda db, scope, _, id: turns.sent_in(db, scope, id, 1),
}
WRITES = {"sessions.delete", "turns.append"}


async def filled(db: Database, scope: Scope) -> tuple[Session, Branch]:
    """A session with something of everything."""
    found = await say(db, "s", "q", "a", scope=scope, instructions=Instructions(b"brief", 3), key="k", answer=b"{}")
    called = message("look", "assistant", calls=1)
    await turns.append(db, scope, record("s", found, [called]))
    return found


def functions(module: ModuleType) -> set[str]:
    """The module's public functions that take a scope."""
    name = module.__name__.rpartition(".")[2]
    mine = {
        key: one for key, one in inspect.getmembers(module, inspect.isfunction) if one.__module__ == module.__name__
    }
    return {f"{name}.{key}" for key, one in mine.items()
            if not key.startswith("_") and "scope" in inspect.signature(one).parameters}  # fmt: skip


def test_every_function_of_the_store_is_tried() -> None:
    assert functions(sessions) | functions(entries) | functions(turns) == set(READS) | WRITES


@pytest.mark.parametrize("name", READS)
async def test_what_is_anothers_reads_like_what_is_nowhere(db: Database, name: str) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, _ = await filled(db, mine)
    own = await READS[name](db, mine, session, session.id)
    foreign = await READS[name](db, other, session, session.id)
    unknown = await READS[name](db, other, session, NOWHERE)
    assert own != foreign
    assert foreign == unknown


@pytest.mark.parametrize("name", READS)
async def test_the_latest_answer_and_all_else_are_ones_own_when_both_have_a_session(db: Database, name: str) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, _ = await filled(db, mine)
    theirs, _ = await say(db, "t", "their question", "their answer", scope=other)
    before = await READS[name](db, mine, session, session.id)
    await say(db, "t", "more", "still more", scope=other)
    assert await READS[name](db, mine, session, session.id) == before
    assert session.id != theirs.id


async def test_the_latest_answer_of_a_foreign_session_is_not_given_out(db: Database) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, _ = await say(db, "s", "q", "a", scope=mine, request=b"r", answer=b"secret")
    assert await turns.answered(db, mine, session.id, "", 1_000) is not None
    assert await turns.answered(db, other, session.id, "", 1_000) is None


async def test_what_is_anothers_cannot_be_changed(db: Database) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, branch = await filled(db, mine)
    tables = ("sessions", "branches", "entries", "turns", "replays", "instructions")
    counts = [await db.all(f"SELECT * FROM {table}") for table in tables]  # noqa: S608 - names from the line above
    assert not await sessions.delete(db, other, session.id)
    assert not await sessions.delete(db, other, NOWHERE)
    for fork in (None, 0, 1):
        with pytest.raises(Conflict):
            await turns.append(db, other, record("s", (session, branch), [message("x")], fork_at=fork))
    assert [await db.all(f"SELECT * FROM {table}") for table in tables] == counts  # noqa: S608


async def test_instructions_of_another_session_are_not_taken_over(db: Database) -> None:
    """The same text in a session of one's own is a row of one's own."""
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    await filled(db, mine)
    theirs, _ = await say(db, "s", "q", "a", scope=other, instructions=Instructions(b"brief", 3))
    found = await sessions.same_instructions(db, other, theirs.id, b"brief")
    assert found is not None
    assert await db.all("SELECT tenant FROM instructions WHERE id = ?", (found.id,)) == [(other.tenant,)]
