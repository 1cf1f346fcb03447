"""The store that `bench api` fills holds what the store's own functions would have written."""

import json
from pathlib import Path

import pytest

from bench.bodies import Job, ask
from bench.fill import AGENTS, agent_uuid, fill, session_uuid
from proxy.resources import Page, SessionFields, Settings
from proxy.store import facets, sessions, settings, sqlite
from proxy.store.database import Database, Row
from proxy.store.settings import Joining
from proxy.types import Scope

pytestmark = pytest.mark.anyio

ME = Scope(1)


async def test_a_filled_store_lists_its_sessions_newest_first_and_by_each_value(tmp_path: Path) -> None:
    filled = fill(tmp_path / "bench.db", 200)
    assert filled.sessions == 200
    db = sqlite.opened(f"sqlite:///{tmp_path / 'bench.db'}")
    try:
        every = await settings.page(db, ME, [], Page(300))
        assert [one.uuid for one in every] == [session_uuid(number) for number in range(200, 0, -1)]
        assert {one.agents for one in every} == {(agent_uuid(number),) for number in range(1, AGENTS + 1)}
        for key in ("customer", "plan", "channel"):
            value = every[0].fields.metadata[key]
            found = await settings.page(db, ME, facets.of_metadata({key: value}), Page(300))
            assert found == [one for one in every if one.fields.metadata[key] == value]
        assert await sessions.find(db, ME, every[0].uuid)
    finally:
        await db.close()


async def test_a_filled_session_has_the_rows_of_one_that_was_made(tmp_path: Path) -> None:
    fill(tmp_path / "bench.db", 3)
    db = sqlite.opened(f"sqlite:///{tmp_path / 'bench.db'}")
    try:
        like = await settings.find(db, ME, session_uuid(3))
        fields = SessionFields(metadata=like.fields.metadata)
        new = Settings(0, "new", None, None, None, like.created_at, like.updated_at, fields)
        made = await settings.create(db, ME, new, Joining(like.agents))
        ours, theirs = await of_one(db, made.id), await of_one(db, like.id)
        assert all(ours)
        assert ours == theirs
    finally:
        await db.close()


async def of_one(db: Database, session: int) -> list[list[Row]]:
    """All that stands in the store of a session, but for its number and name."""
    return [
        await db.all(
            """SELECT tenant, name, branch, branches, turns, token_budget, overflow, created_at, updated_at, answered,
                      request, answer, dressed
               FROM sessions WHERE id = ?""",
            (session,),
        ),
        await db.all(
            """SELECT tenant, branch, parent, forked_at, head, total, end_digest, end_status, last_turn, cut, cut_key,
                      instructions, created_at
               FROM branches WHERE session = ?""",
            (session,),
        ),
        await db.all("SELECT tenant, body FROM settings WHERE session = ?", (session,)),
        await db.all("SELECT tenant, kind, place, member FROM participants WHERE session = ?", (session,)),
        await db.all(
            """SELECT tenant, kind, key, value, created_at, updated_at FROM facets
               WHERE kind = 'session' AND owner = ?""",
            (session,),
        ),
    ]


@pytest.mark.parametrize("kind", ["stateless", "turn", "fill", "stream", "get", "create"])
def test_every_kind_of_job_makes_a_request_of_what_the_generator_reads(kind: str) -> None:
    given = {"port": 1, "kind": kind, "connections": 2, "each": 3, "model": "m", "session": "s", "paths": ["/a"]}
    assert b"HTTP/1.1" in ask(Job.read(json.dumps(given)), 0, 0).data
