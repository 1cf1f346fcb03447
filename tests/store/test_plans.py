"""How the database runs what the hot path asks: by ranges of an index, never by a scan or a sort of its own."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import apsw
import pytest

from proxy.store import entries, keys, sessions, sqlite, turns
from proxy.store.database import Row, Tx, Value
from proxy.store.sqlite import Sqlite
from proxy.types import Instructions
from tests.store.saying import ME, mark, message, record

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Heard:
    """A store that remembers every statement it was given."""

    def __init__(self, db: Sqlite) -> None:
        self.db = db
        self.statements: dict[str, Sequence[Value]] = {}

    async def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        self.statements[sql] = args
        return await self.db.all(sql, args)

    async def transaction(self, work: Callable[[Tx], T]) -> T:
        return await self.db.transaction(lambda tx: work(HeardTx(tx, self)))

    async def ready(self) -> None:
        await self.db.ready()

    async def close(self) -> None:
        await self.db.close()


class HeardTx:
    def __init__(self, tx: Tx, heard: Heard) -> None:
        self.tx = tx
        self.heard = heard

    def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        self.heard.statements[sql] = args
        return self.tx.all(sql, args)


async def every_statement(folder: Path) -> dict[str, Sequence[Value]]:
    """Those of a turn of every kind, and of what comes before it."""
    db = Heard(sqlite.opened(f"sqlite:///{folder / 'store.db'}"))
    try:
        found = None
        for n, fork in enumerate((None, None, 1, None)):
            new = [message(f"q{n}"), message("look", "assistant", calls=1), message(f"a{n}", "assistant")]
            turn = record(
                "s", found, new, fork_at=fork, instructions=Instructions(b"brief", 3), key=f"k{n}", answer=b"a"
            )
            await turns.append(db, ME, turn)
            found = await sessions.find(db, ME, "s")
        assert found is not None
        session = found[0]
        await sessions.find(db, ME, session.uuid)
        await sessions.branches(db, ME, session.id)
        await sessions.instructions(db, ME, session.id, 1)
        await sessions.same_instructions(db, ME, session.id, b"brief")
        await sessions.instructions_at(db, ME, session.id, 1)
        line = [(2, 2, 7), (1, 1, 1)]
        await entries.window(db, ME, session.id, line, 5)
        await entries.newest_user(db, ME, session.id, line)
        await entries.last_calls(db, ME, session.id, line)
        await entries.digests(db, ME, session.id, line)
        await entries.places(db, ME, session.id, mark("q1"))
        await entries.stored(db, ME, session.id, mark("q1"))
        await entries.at(db, ME, session.id, line, 1)
        await turns.answered(db, ME, session.id, "", 1_000)
        await turns.answered(db, ME, session.id, "k1", 1_000)
        await turns.sent_in(db, ME, session.id, 1)
        await keys.create(db, "acme", "user", b"sp-1", 1)
        await keys.scope_of(db, b"sp-1")
        await turns.append(db, await keys.passthrough_scope(db, b"sk-1"), record("s", None, [message("q")]))
        await sessions.delete(db, ME, session.id)
        return db.statements
    finally:
        await db.close()


def plan(folder: Path, sql: str, args: Sequence[Value]) -> list[str]:
    connection = apsw.Connection(str(folder / "store.db"))
    try:
        rows: Any = connection.execute("EXPLAIN QUERY PLAN " + sql, args)
        return [row[3] for row in rows]
    finally:
        connection.close()


async def test_no_statement_of_the_hot_path_scans_or_sorts(tmp_path: Path) -> None:
    statements = await every_statement(tmp_path)
    assert len(statements) >= 25
    plans = {sql: plan(tmp_path, sql, args) for sql, args in statements.items()}
    bad = re.compile(r"\bSCAN (?!\d+-ROW VALUES|CONSTANT ROW)|TEMP B-TREE|AUTOMATIC")
    wrong = {sql: steps for sql, steps in plans.items() if any(bad.search(step) for step in steps)}
    assert not wrong


async def test_the_last_calls_are_found_by_their_own_index(tmp_path: Path) -> None:
    """A long chat without calls must not be walked through for them."""
    statements = await every_statement(tmp_path)
    (sql,) = [sql for sql in statements if "calls > 0" in sql]
    assert any("entries_calls" in step for step in plan(tmp_path, sql, statements[sql]))
