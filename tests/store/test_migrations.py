"""A store of an older version, opened by this one."""

from pathlib import Path

import apsw
import pytest

from proxy.resources import Page, SessionFields, Settings
from proxy.store import facets, history, keys, sessions, settings, sqlite, turns
from proxy.store.settings import Joining
from proxy.types import Scope
from tests.store.making import member, uuids
from tests.store.saying import ME, find, mark, message, record, texts

pytestmark = pytest.mark.anyio

ACME = Scope(2)
SESSIONS = [(1, 1, "one", 10, 40), (2, 1, "two", 20, 20), (3, 2, "one", 30, 30), (4, 1, "three", 30, 35)]
"""id, tenant, name, made, changed."""


def uuid(session: int) -> str:
    return f"12345678-1234-4234-8234-{session:012}"


def first_version(file: Path) -> None:
    """A store of schema 1 with a key, sessions of two tenants, and two turns of the first one."""
    connection = apsw.Connection(str(file))
    version, sql = sqlite.migrations()[0]
    connection.execute(sql)
    connection.pragma("user_version", version)
    connection.execute("INSERT INTO tenants VALUES (2, 'acme', 5)")
    connection.execute("INSERT INTO keys VALUES ('k', 2, 'user', ?, 5, NULL)", (keys.hashed(b"sp-1"),))
    for id, tenant, name, made, changed in SESSIONS:
        connection.execute(
            """INSERT INTO sessions (id, tenant, uuid, name, branch, branches, turns, token_budget, overflow,
                                     created_at, updated_at)
               VALUES (?, ?, ?, ?, 1, 1, ?, ?, 'truncate', ?, ?)""",
            (id, tenant, uuid(id), name, 2 * (id == 1), 500 if id == 1 else None, made, changed),
        )
        connection.execute(
            "INSERT INTO branches VALUES (?, ?, 1, NULL, 0, ?, ?, ?, 'complete', ?, 0, '', NULL, ?)",
            (tenant, id, *((4, 4, mark("a2", "assistant"), 2) if id == 1 else (0, 0, b"", 0)), made),
        )
    for seq, (text, role) in enumerate([("q1", "user"), ("a1", "assistant"), ("q2", "user"), ("a2", "assistant")], 1):
        made_of = message(text, role)
        connection.execute(
            "INSERT INTO entries VALUES (1, 1, 1, ?, ?, ?, 1, ?, 0, 'complete', ?, ?)",
            (seq, (seq + 1) // 2, role, seq, made_of.digest, made_of.raw),
        )
    for turn in (1, 2):
        connection.execute(
            "INSERT INTO turns VALUES (1, 1, ?, 1, ?, ?, 'complete', 'm', NULL, 'r', ?, NULL, ?)",
            (turn, 2 * turn - 1, 2 * turn, b"{}", 10 * turn),
        )
    connection.close()


async def test_a_store_of_the_first_version_is_opened_with_all_its_sessions(tmp_path: Path) -> None:
    first_version(tmp_path / "store.db")
    db = sqlite.opened(f"sqlite:///{tmp_path / 'store.db'}")
    try:
        page = await settings.page(db, ME, [], Page())
        assert [one.name for one in page] == ["three", "two", "one"]
        assert page[-1] == Settings(1, uuid(1), "one", 500, "truncate", 10, 40, SessionFields())
        by_change = await settings.page(db, ME, [], Page(sort_by="updated_at"))
        assert [one.name for one in by_change] == ["one", "three", "two"]
        assert uuids(await settings.page(db, ACME, [], Page())) == [uuid(3)]
        assert await keys.scope_of(db, b"sp-1") == ACME
        assert await settings.find(db, ME, uuid(1)) == await settings.find(db, ME, "one") == page[-1]
    finally:
        await db.close()


async def test_sessions_of_the_first_version_get_turns_settings_and_participants(tmp_path: Path) -> None:
    first_version(tmp_path / "store.db")
    db = sqlite.opened(f"sqlite:///{tmp_path / 'store.db'}")
    try:
        found = await find(db, "one")
        assert (found[0].turns, found[0].dressed, found[1].head) == (2, False, 4)
        await turns.append(db, ME, record("one", found, [message("q3"), message("a3", "assistant")], now=50))
        told = await history.read(db, ME, 1, [(1, 1, 6)], 9)
        assert texts(told) == ["q1", "a1", "q2", "a2", "q3", "a3"]
        assert [one.at for one in told] == [10, 10, 20, 20, 50, 50]
        await turns.append(db, ME, record("two", await find(db, "two"), [message("q")], now=60))
        await turns.append(db, ME, record("new", None, [message("q")], now=70))
        by_change = await settings.page(db, ME, [], Page(sort_by="updated_at"))
        assert [(one.name, one.updated_at) for one in by_change] == [
            ("new", 70), ("two", 60), ("one", 50), ("three", 35),
        ]  # fmt: skip

        await member(db, "a")
        fields = SessionFields(metadata={"v": 1})
        await settings.change(
            db, ME, 4, lambda old: Settings(0, "", None, None, None, 0, 0, fields), Joining(["a"]), 80
        )
        (changed,) = await settings.page(db, ME, facets.of_metadata({"v": 1}), Page())
        assert (changed.uuid, changed.agents, changed.fields) == (uuid(4), ("a",), fields)
        assert await sessions.delete(db, ME, 1)
        assert [one.name for one in await settings.page(db, ME, [], Page(direction="asc"))] == ["two", "three", "new"]
    finally:
        await db.close()


async def test_an_upgraded_store_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    first_version(tmp_path / "store.db")
    sqlite.migrate(tmp_path / "store.db")
    sqlite.migrate(tmp_path / "new.db")
    found = []
    for name in ("store.db", "new.db"):
        connection = apsw.Connection(str(tmp_path / name))
        found.append(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall())
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.close()
    assert found[0] == found[1]
