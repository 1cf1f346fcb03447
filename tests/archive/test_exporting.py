"""What is exported and imported again is the same, to the byte and to the row."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from proxy.archive import exporting
from proxy.errors import Conflict
from proxy.store import archive, entries, history, sessions
from proxy.store.database import Database
from proxy.types import Scope
from tests.archive.stores import CHOICES, ODD, SPREAD, exported, fill, imported, opened, rows, said, says, turn, user
from tests.clients import Conversation
from tests.inprocess import Model, services
from tests.store.saying import ME, find, tenant
from tests.test_recollect import Table

pytestmark = pytest.mark.anyio


def read(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


async def test_what_is_imported_is_exported_again_byte_for_byte(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await fill(db)
        data = await exported(db)
        told = await imported(other, data)
        assert [one.problem for one in told] == [None] * 4
        assert [kept for one in told for kept in one.kept] == []
        assert await exported(other) == data
        assert await rows(other) == await rows(db)


async def test_a_session_alone_goes_to_another_tenant_of_the_same_store(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        await fill(db)
        theirs = await tenant(db, "theirs")
        data = await exported(db, ME, "trip")
        assert [one.problem for one in await imported(db, data, theirs)] == [None]
        assert await exported(db, theirs) == data
        assert await exported(db, ME, "trip") == data


async def test_every_line_is_an_object_that_says_what_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        await fill(db)
        lines = read(await exported(db))
    kinds = [line["type"] for line in lines]
    assert set(kinds) == {
        "session", "agent", "user", "tool", "doc", "instructions", "branch", "turn", "entry", "end",
    }  # fmt: skip
    assert [line["version"] for line in lines if line["type"] == "session"] == [1] * 4
    assert [kind for kind in kinds if kind in ("agent", "user")] == ["agent", "agent", "user"], "each once in a file"
    assert {line["created_at"] for line in lines if line["type"] == "agent"} == {"2023-11-14T22:13:20.123000Z"}


async def test_messages_stand_in_the_lines_as_they_are(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        await turn(db, "s", said(user(ODD)), said(SPREAD), said(says("yes")))
        data = await exported(db)
    entries = [line["message"] for line in read(data) if line["type"] == "entry"]
    assert entries[0] == user(ODD)
    assert entries[1] == SPREAD.decode(), "what holds line ends is a text"
    assert json.dumps(user(ODD), ensure_ascii=False).encode() in data


async def test_choices_stand_in_the_line_of_their_turn(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        for n in range(3):
            await turn(db, "s", said(user("q")), said(says("a")), choices=CHOICES if n == 1 else None)
        data = await exported(db)
    assert [line["choices"] for line in read(data) if line["type"] == "turn"] == [None, json.loads(CHOICES), None]
    assert data.count(CHOICES) == 1


async def test_neither_answers_for_retries_nor_another_tenants_lines_are_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        theirs = await tenant(db, "theirs")
        await turn(db, "s", said(user("q")), said(says("a")), answer=b"a stored answer", request=b"0123")
        await turn(db, "t", said(user("theirs")), said(says("a")), scope=theirs)
        data = await exported(db)
        assert b"stored answer" not in data
        assert b"theirs" not in data
        assert len(data) > 500
        session, _ = await find(db, "s")
        assert [piece async for piece in exporting.session(db, theirs, session.id, set())] == []


async def test_a_session_that_is_gone_has_no_lines(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        assert [piece async for piece in exporting.session(db, ME, 99, set())] == []
        assert await exported(db) == b""


async def test_all_sessions_of_a_large_store_are_written_oldest_first(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        many = entries.PAGE + 3
        for n in range(many):
            await turn(db, f"s{n}", said(user("q")), now=many - n // 2)
        ids = [id async for id in exporting.every(db, ME)]
        order = await db.all("SELECT id FROM sessions ORDER BY created_at, id")
        assert ids == [row[0] for row in order]


@pytest.mark.parametrize("begun", [False, True], ids=["before its turns", "between its turns"])
async def test_a_session_that_is_cleared_meanwhile_is_not_passed_off_as_whole(tmp_path: Path, begun: bool) -> None:
    async with opened(tmp_path / "a.db") as db:
        await turn(db, "s", *[said(user(f"q{n}")) for n in range(entries.PAGE)])
        await turn(db, "s", said(user("q")))
        session, _ = await find(db, "s")
        written = []
        with pytest.raises(Conflict, match="cleared or deleted"):
            async for piece in exporting.session(db, ME, session.id, set()):
                written.append(piece)
                if (b'"entry"' in piece) if begun else (b'"session"' in piece):
                    await history.clear(db, ME, session.id, 9)
        assert written
        assert b'"end"' not in b"".join(written)


async def test_a_turn_that_is_stored_meanwhile_is_left_out(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db, opened(tmp_path / "b.db") as other:
        await turn(db, "s", said(user("q1")), said(says("a1")))
        before = await exported(db)
        session, _ = await find(db, "s")
        pieces = []
        async for piece in exporting.session(db, ME, session.id, set()):
            if not pieces:
                await turn(db, "s", said(user("q2")), said(says("a2")))
            pieces.append(piece)
        assert b"".join(pieces) == before
        assert [one.problem for one in await imported(other, before)] == [None]


async def test_large_messages_are_read_one_by_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        large = [said(user("x" * size)) for size in (10, archive.PAGE_BYTES, archive.PAGE_BYTES + 1, 20, 30)]
        await turn(db, "s", *large)
        session, _ = await find(db, "s")
        spans = []
        seq = 0
        while page := await archive.entries(db, ME, session.id, 1, (seq + 1, 5)):
            seq = page[-1].seq
            spans.append(len(page))
        assert spans == [1, 1, 1, 2]


async def test_a_long_session_leaves_the_event_loop_to_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as db:
        pages = 4
        await turn(db, "s", *[said(user(f"q{n}")) for n in range(pages * entries.PAGE)])
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(other())
        data = await exported(db)
        beside.cancel()
        assert data.count(b'"entry"') == pages * entries.PAGE
        assert turns >= pages


async def play(folder: Path, sequences: int) -> None:
    """Random clients, each of whose sessions moves to the other store between two turns."""
    seed = random.randrange(2**32)
    model = Model()
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    async with services(folder / "a", model) as here, services(folder / "b", model) as there:
        for n in range(seed, seed + sequences):
            talk = Conversation(random.Random(n), noise=True)
            table = Table(here, model, talk, f"s{n}")
            count = talk.random.randint(2, 10)
            move = talk.random.randint(1, count)
            for at in range(count):
                if at == move:
                    await moved(here.db, there.db, table.name)
                    table = Table(there, model, talk, table.name)
                step = talk.step()
                try:
                    await table.turn(step)
                except Exception as exc:
                    raise AssertionError(f"seed {n}: {step}") from exc
                if step.repeats:
                    break
            await table.check_store()


async def moved(here: Database, there: Database, name: str) -> None:
    found = await sessions.find(here, ME, name)
    if found is None:
        return
    data = await exported(here, ME, name)
    assert [one.problem for one in await imported(there, data)] == [None]
    assert await exported(there, ME, name) == data
    assert await stored(there, name) == await stored(here, name)


async def stored(db: Database, name: str, scope: Scope = ME) -> dict[str, Any]:
    uuid = (await find(db, name, scope))[0].uuid
    return {sql: [row for row in found if row[0] == uuid] for sql, found in (await rows(db, scope)).items()}


async def test_any_session_goes_on_in_the_store_that_it_moved_to(tmp_path: Path) -> None:
    """Digests, totals and the ends of branches are made anew: each kind of client is recognised as before."""
    await play(tmp_path, 60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_two_thousand_sessions_go_on_where_they_moved_to(tmp_path: Path) -> None:
    await play(tmp_path, 2_000)
