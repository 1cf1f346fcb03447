"""How the database runs what the hot path asks: by ranges of an index, never by a scan or a sort of its own."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import apsw
import pytest

from proxy.recall import exchange
from proxy.resources import Owner, Page
from proxy.store import (
    blobs,
    branches,
    choices,
    completions,
    docs,
    entries,
    files,
    history,
    keys,
    ledgers,
    members,
    passages,
    sessions,
    settings,
    sqlite,
    summaries,
    tools,
    turns,
)
from proxy.store.database import Database, Row, Tx, Value
from proxy.store.facets import EVERY
from proxy.store.settings import Joining
from proxy.store.sqlite import Sqlite
from proxy.types import Instructions, Session
from tests.store import making
from tests.store.saying import ME, mark, message, record

pytestmark = pytest.mark.anyio

T = TypeVar("T")

HARMLESS = (
    r"h\b|\d+-ROW VALUES|CONSTANT ROW|\(subquery|(json_each|[cf]) VIRTUAL TABLE|w(ords)? VIRTUAL TABLE INDEX \d+:[M=]"
)
"""Scans of a bounded part (h), of rows that the statement brings along, counts up to a limit, what the request itself
asks for (json_each); and what a search in the index of words is called."""
BAD = re.compile(rf"\bSCAN (?!{HARMLESS})|TEMP B-TREE|AUTOMATIC|\((tenant|kind)=\?( AND kind=\?)?\)")
"""The last: a walk through all that a tenant has, or through all things of a kind."""


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

    async def apart(self, work: Callable[[Tx], T]) -> T:
        return await self.db.apart(lambda tx: work(HeardTx(tx, self)))

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
            look = message(f"look {'iVBO' * 2_000}", "assistant", calls=1)
            new = [message(f"q{n}"), look, message(f"a{n}", "assistant")]
            turn = record(
                "s", found, new, fork_at=fork, instructions=Instructions(b"brief", 3), key=f"k{n}", answer=b"a",
                completion=making.completion("c"), choices=b"[{}]",
            )  # fmt: skip
            await turns.append(db, ME, turn)
            found = await sessions.find(db, ME, "s")
        assert found is not None
        session = found[0]
        await sessions.find(db, ME, session.uuid)
        await sessions.branches(db, ME, session.id)
        await sessions.instructions(db, ME, session.id, 1)
        await sessions.same_instructions(db, ME, session.id, b"brief")
        await passages_of(db, session)
        await branches_of(db, session)
        line = [(2, 2, 7), (1, 1, 1)]
        for some in (line, line[:1], [(3, 9, 40), (2, 8, 8), (1, 1, 7)]):
            read = await entries.window(db, ME, session.id, some, None)
            await blobs.sizes(db, ME, [entry.raw for entry in read])
            await entries.whole(db, ME, read)
            await entries.newest_user(db, ME, session.id, some)
            await entries.last_calls(db, ME, session.id, some)
            await entries.digests(db, ME, session.id, some)
        await entries.places(db, ME, session.id, mark("q1"))
        await entries.stored(db, ME, session.id, mark("q1"))
        await entries.at(db, ME, session.id, line, 1)
        assert await summaries.take_call(db, ME, session.id, 9)
        await summaries.give_call_back(db, ME, session.id)
        assert await summaries.add(db, ME, session.id, 1, summaries.Summary(1, 1, 3, "m", 1, "text"))
        assert (await summaries.around(db, ME, session.id, line, 1))[1] is not None
        await summaries.uncovered(db, ME, session.id, line, 1)
        assert await summaries.summarized(db, ME, [session.id])
        await turns.answered(db, ME, session.id, "", 1_000)
        await turns.answered(db, ME, session.id, "k1", 1_000)
        await turns.sent_in(db, ME, session.id, 1)
        assert (await choices.of_turn(db, ME, session.id, 1)).choices == b"[{}]"
        assert await choices.turns_with_any(db, ME, session.id, [1, 2, 9]) == {1, 2}
        await keys.create(db, "acme", "user", b"sp-1", 1)
        await keys.scope_of(db, b"sp-1")
        await turns.append(db, await keys.passthrough_scope(db, b"sk-1"), record("s", None, [message("q")]))
        await sessions.delete(db, ME, session.id)
        return db.statements
    finally:
        await db.close()


async def passages_of(db: Database, session: Session) -> None:
    """What a search of old turns asks, and what it writes before it."""
    line = [(2, 2, 7), (1, 1, 1)]
    reach = await passages.reach(db, ME, session.id, line)
    for stretch in reach.missing:
        await passages.extend(db, ME, session.id, stretch, exchange.cut)
    ((ids, _),) = await passages.holding(db, ME, session.id, ["q3"])
    assert await passages.around(db, ME, session.id, ids, 0)
    assert await passages.around(db, ME, session.id, ids, 1)
    assert await passages.told(db, ME, session.id, line)


async def branches_of(db: Database, session: Session) -> None:
    """What a turn asks of many branches, and what shows, makes and deletes them."""
    for turn in (0, 1):
        point = await branches.after(db, ME, session.id, turn)
        assert point is not None
        made = await branches.begin(db, ME, session.id, point, 5, branches.Why(1, branches.Once("fork", b"r")))
    await branches.at(db, ME, session.id, 1, 1)
    await branches.start_of(db, ME, session.id, 1)
    await branches.lineage(db, ME, session.id, 2)
    _, current = await sessions.find(db, ME, session.uuid) or (session, None)
    assert current is not None
    await branches.reaching(db, ME, session.id, current, mark("a3", "assistant"))
    await branches.page(db, ME, session.id, 9, 1)
    await branches.living(db, ME, session.id)
    await branches.delete(db, ME, session.id, made.number - 1, 5)
    await ledgers.newest(db, ME, session.id, 2, 1)
    await ledgers.oldest(db, ME, session.id, 2, 1)
    await ledgers.of_turn(db, ME, session.id, 1)


LISTS = [Page(2, 1, "created_at"), Page(2, 1, "created_at", "asc"), Page(2, 1, "updated_at"),
         Page(2, 1, "updated_at", "asc")]  # fmt: skip


async def every_statement_of_the_api(folder: Path) -> dict[str, Sequence[Value]]:
    """Those of a session with all that it may have, from its making to its end."""
    db = Heard(sqlite.opened(f"sqlite:///{folder / 'store.db'}"))
    try:
        agent = await making.member(db, "a", metadata={"v": 1, "w": 2})
        await making.member(db, "a", metadata={"v": 1, "w": 2})
        await making.member(db, "u", "user")
        uuids = [f"12345678-1234-4234-8234-12345678901{n}" for n in range(3)]
        for n, uuid in enumerate(uuids):
            await making.session(db, uuid, name=f"s{n}", joining=Joining(["a"]), metadata={"v": 1, "w": 2})
        made = await settings.find(db, ME, "s1")
        assert await settings.find(db, ME, uuids[1]) == made
        await settings.change(db, ME, made.id, lambda old: old, Joining(["a"], ["u"]), 2)
        await settings.fields(db, ME, made.id)
        found = await sessions.find(db, ME, "s1")
        await turns.append(db, ME, record("s1", found, [message("q"), message("a", "assistant")]))
        await history.read(db, ME, made.id, [(1, 1, 2)], 9)
        await history.read(db, ME, made.id, [(2, 2, 2), (1, 1, 1)], 9)
        await history.models_of(db, ME, made.id, [1, 2])
        owners = [making.owner(agent), making.owner(made)]
        for of in owners:
            await make_and_read(db, of)
        for page in LISTS:
            for where in ([], [("m:v", "1")], [("m:v", "1"), ("m:w", "2"), ("agent", str(agent.id)), EVERY]):
                assert await settings.page(db, ME, where, page)
            await members.page(db, ME, "agent", [("m:v", "1")], page)
            await docs.page(db, ME, owners[0], [("m:v", "1")], page)
        await completions_of(db)
        await members.find(db, ME, "agent", "a")
        await members.change(db, ME, "agent", "a", making.body(), 3)
        await members.taking_part(db, ME, made.id)
        kept = await making.file(db, "f", bytes(files.PIECE + 1))
        assert await files.find(db, ME, "f") == kept
        assert await files.piece(db, ME, kept.id, 1)
        assert await files.page(db, ME, LISTS[0]) == []
        await files.delete(db, ME, "f")
        await history.clear(db, ME, made.id, 4)
        await members.delete(db, ME, "agent", "a")
        await sessions.delete(db, ME, made.id)
        return db.statements
    finally:
        await db.close()


async def completions_of(db: Database) -> None:
    """What keeps, lists, changes and deletes answers."""
    for n in (1, 1, 2):
        await making.kept(db, f"c{n}", n, models=("m", "n"), metadata={"v": "1"}, request=b"r")
    await completions.keep(db, ME, making.completion("c2", 2, request=b"r"), 2_000)
    await completions.find(db, ME, "c2")
    await completions.messages(db, ME, "c2")
    after = await completions.place(db, ME, "c1")
    for page in (Page(2), Page(2, direction="asc", after=after)):
        for where in ([], [completions.of_model("m")], [completions.of_model("m"), ("m:v", "1")]):
            await completions.page(db, ME, where, page)
    await completions.change(db, ME, "c1", {"v": "2"})
    await completions.delete(db, ME, "c1", 5)


async def make_and_read(db: Database, of: Owner) -> None:
    """All that is asked about what an owner has."""
    await making.doc(db, of, "We ship", "to France", uuid=f"d {of.word}", v=1)
    await docs.find(db, ME, f"d {of.word}")
    assert await docs.any_of(db, ME, [of])
    assert await docs.size(db, ME, [of]) == 2
    found = await docs.holding(db, ME, [of], "ship", [("m:v", "1")])
    assert await docs.hits(db, ME, [of], [(id, 1.0) for id, _ in found])
    made = await making.give(db, of, "look")
    await tools.every(db, ME, [of])
    await tools.change(db, ME, of, made.uuid, lambda old: making.tool("see"), 2)
    await tools.delete(db, ME, of, made.uuid)
    await making.doc(db, of, "gone", uuid=f"e {of.word}")
    await docs.delete(db, ME, of, [f"e {of.word}"])


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
    assert {sql: steps for sql, steps in plans.items() if any(map(BAD.search, steps))} == {}


async def test_the_last_calls_are_found_by_their_own_index(tmp_path: Path) -> None:
    """A long chat without calls must not be walked through for them."""
    statements = await every_statement(tmp_path)
    found = [sql for sql in statements if "calls > 0" in sql]
    assert len(found) == 2, "one for the newest branch, one for those before it"
    for sql in found:
        assert any("entries_calls" in step for step in plan(tmp_path, sql, statements[sql]))


async def test_no_statement_of_the_api_scans_a_table(tmp_path: Path) -> None:
    statements = await every_statement_of_the_api(tmp_path)
    assert len(statements) >= 60
    plans = {sql: plan(tmp_path, sql, args) for sql, args in statements.items()}
    assert {sql: steps for sql, steps in plans.items() if any(map(BAD.search, steps))} == {}


async def test_a_list_is_a_range_of_one_index(tmp_path: Path) -> None:
    statements = await every_statement_of_the_api(tmp_path)
    walks = [sql for sql in statements if "INDEXED BY facets_" in sql and "ORDER BY" in sql]
    assert len(walks) == 4
    for sql in walks:
        first = plan(tmp_path, sql, statements[sql])[0]
        by = "created" if "ORDER BY created_at" in sql else "updated"
        assert re.search(rf"SEARCH f USING COVERING INDEX facets_{by} \(tenant=\? AND kind=\? AND key=\? AND value=\? "
                         rf"AND \({by}_at,owner\)[<>]\(\?,\?\)\)", first), first  # fmt: skip


@pytest.mark.parametrize("table", ["members", "sessions", "docs", "chunks", "files", "completions"])
async def test_what_goes_with_its_owner_is_found_by_an_index(tmp_path: Path, table: str) -> None:
    """The statements of the triggers, each for one row of the table that is deleted."""
    await every_statement_of_the_api(tmp_path)
    connection = apsw.Connection(str(tmp_path / "store.db"))
    sql: Any = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)).get
    connection.close()
    steps = re.findall(r"DELETE FROM [^;]+", sql.partition("BEGIN")[2])
    assert steps
    for step in steps:
        as_seen = re.sub(r"\bold\.(\w+)", rf"(SELECT \1 FROM {table} WHERE id = 1)", step)  # noqa: S608 - names from above
        how = plan(tmp_path, as_seen, ())
        assert not any(map(BAD.search, how)), (as_seen, how)


async def test_what_goes_with_a_turn_is_found_by_an_index(tmp_path: Path) -> None:
    """As the foreign key looks for it, for each turn that is deleted."""
    await every_statement(tmp_path)
    for table in ("completions", "choices"):
        (step,) = plan(tmp_path, f"DELETE FROM {table} WHERE session = ? AND turn = ?", (1, 1))  # noqa: S608 - from above
        assert re.search(r"(completions_turn|PRIMARY KEY) \(session=\? AND turn=\?\)", step), step
