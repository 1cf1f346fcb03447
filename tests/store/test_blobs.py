"""Large base64: taken out of messages, stored once, put back byte for byte, gone with the last branch needing it."""

import asyncio
import base64
import json
import random
import re
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

from proxy.errors import Unavailable
from proxy.store import archive, blobs, branches, entries, history, sessions, turns
from proxy.store.blobs import LEAST, taken_out
from proxy.store.database import Database
from proxy.types import Message
from tests.store import making
from tests.store.saying import ME, find, mark, message, record, say, tenant
from tests.store.test_plans import BAD, Heard, plan

pytestmark = pytest.mark.anyio

IMAGE = base64.b64encode(Random(1).randbytes(30_000)).decode()
SOUND = base64.b64encode(Random(2).randbytes(9_000)).decode()


def shown(*data: str, text: str = "look", role: str = "user") -> Message:
    """A message with images."""
    parts: list[Any] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{one}"}} for one in data]
    raw = json.dumps({"role": role, "content": parts}).encode()
    return Message(role, raw, mark(text, role), 3)


async def tell(db: Database, name: str, *messages: Message, scope: Any = ME, **fields: Any) -> sessions.Found:
    found = await sessions.find(db, scope, name)
    await turns.append(db, scope, record(name, found, messages, **fields))
    return await find(db, name, scope)


async def count(db: Database) -> tuple[int, int]:
    """How many blobs there are, and uses of them."""
    rows = await db.all("SELECT (SELECT count(*) FROM blobs), (SELECT count(*) FROM blob_uses)")
    return rows[0][0], rows[0][1]


# --- taking out ---


def put_back(kept: bytes, runs: list[tuple[bytes, bytes]]) -> bytes:
    data = {hashed.hex(): one for hashed, one in runs}
    return re.sub(rb"\x00([0-9a-f]{64})\x00", lambda found: data[found[1].decode()], kept.removeprefix(b"\x01"))


def test_a_run_leaves_its_hash_in_its_place() -> None:
    raw = shown(IMAGE).raw
    kept, runs = taken_out(raw)
    ((hashed, data),) = runs
    assert data == IMAGE.encode()
    assert kept == b"\x01" + raw.replace(data, b"\x00" + hashed.hex().encode() + b"\x00")


@pytest.mark.parametrize(
    "text",
    [
        "short " * 5_000,
        IMAGE[: LEAST - 1],
        "\u4f60\u597d" * 3_000,
        "a-long_word " * 1_000,
        "/" * 100 + " " + "b" * 4_000,
    ],
)
def test_texts_stay_as_they_are(text: str) -> None:
    raw = json.dumps({"role": "user", "content": text}).encode()
    assert taken_out(raw) == (raw, [])


@pytest.mark.parametrize(
    "spell",
    [
        lambda data: data.replace("/", "\\/"),
        lambda data: data.replace("+", "\\u002B"),
        lambda data: data.replace("+", "-").replace("/", "_"),
        lambda data: "\\n".join(data[n : n + 76] for n in range(0, len(data), 76)),
        lambda data: data + "==",
    ],
)
def test_all_spellings_of_base64_are_found(spell: Any) -> None:
    data = spell(IMAGE)
    kept, runs = taken_out(b'{"role":"user","content":"' + data.encode() + b'"}')
    assert [one for _, one in runs] == [data.encode()]
    assert len(kept) < 200


def test_the_same_data_within_json_within_json_is_the_same_blob() -> None:
    inner = json.dumps({"image": IMAGE})
    plain, nested = taken_out(inner.encode())[1], taken_out(json.dumps({"content": inner}).encode())[1]
    assert plain == nested


def test_any_message_comes_back_byte_for_byte() -> None:
    draw = Random(random.random())
    for _ in range(400):
        pieces = []
        for _ in range(draw.randrange(6)):
            data = base64.b64encode(draw.randbytes(draw.choice((30, 1_500, 3_071, 3_072, 5_000, 9_000)))).decode()
            pieces.append(draw.choice((data, data + "\n", "text é\x00 ", '"', "\\" * draw.randrange(5_000), "x" * 70)))
        raw = json.dumps({"content": draw.choice((pieces, "".join(pieces)))}, ensure_ascii=draw.random() < 0.5).encode()
        kept, runs = taken_out(raw)
        assert put_back(kept, runs) == raw
        assert bool(runs) == (kept[0] == blobs.TAKEN)
        assert max(map(len, re.findall(rb"[A-Za-z0-9+/=]+", kept)), default=0) < LEAST


def test_numbers_stay_so_that_what_is_left_is_json() -> None:
    for number in ("0." + "1" * 5_000, "1" * 5_000, "-1.5E-" + "0" * 5_000 + "1"):
        raw = f'{{"role":"user","content":"x{IMAGE}","n":{number},"m":[{number}]}}'.encode()
        kept, runs = taken_out(raw)
        assert [one for _, one in runs] == [f"x{IMAGE}".encode()]
        assert json.loads(blobs.bare(kept), parse_int=str, parse_float=str) == {
            "role": "user",
            "content": "",
            "n": number,
            "m": [number],
        }


# --- storing ---


async def window(db: Database, session: int, line: Any) -> list[bytes]:
    return [entry.raw for entry in await entries.whole(db, ME, await entries.window(db, ME, session, line, None))]


async def test_a_window_reads_no_data(db: Any) -> None:
    heard = Heard(db)
    session, _ = await tell(db, "s", *[shown(IMAGE, text=f"look {n}") for n in range(30)])
    for price in (None, lambda entry: len(entry.raw) // 100):
        read = await entries.window(heard, ME, session.id, [(1, 1, 30)], 10, price)
        assert 0 < len(read) < 30
        assert all(entry.raw[0] == blobs.TAKEN for entry in read)
    assert not any("blobs" in sql for sql in heard.statements)


async def test_others_run_while_much_is_stored_and_read(db: Database) -> None:
    large = [shown(base64.b64encode(Random(n).randbytes(900_000)).decode(), text=f"look {n}") for n in range(4)]
    steps = 0

    async def other() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    before = steps
    taken = await blobs.prepared([one.raw for one in large])
    assert steps > before
    assert taken == [taken_out(one.raw) for one in large]
    session, _ = await tell(db, "s", *large)
    read = await entries.window(db, ME, session.id, [(1, 1, 4)], None)
    before = steps
    assert [entry.raw for entry in await entries.whole(db, ME, read)] == [one.raw for one in large]
    assert steps >= before + 4
    task.cancel()


async def test_every_read_gives_the_message_whole(db: Database) -> None:
    called = Message("assistant", shown(SOUND, role="assistant").raw, mark("c", "assistant"), 3, 1)
    short = Message("assistant", shown(IMAGE, role="assistant").raw, mark("s", "assistant"), 3, 0, "incomplete")
    said = [shown(IMAGE, SOUND, IMAGE), called, message("plain"), short]
    session, _ = await tell(db, "s", *said)
    line = [(1, 1, 4)]
    raws = [one.raw for one in said]
    assert await window(db, session.id, line) == raws
    user = await entries.newest_user(db, ME, session.id, [(1, 1, 2)])
    calls = await entries.last_calls(db, ME, session.id, line)
    first = await entries.at(db, ME, session.id, line, 1)
    assert [one and one.raw for one in (user, calls, first)] == [raws[0], raws[1], raws[0]]
    assert await entries.stored(db, ME, session.id, said[0].digest) == raws[0]
    assert (await entries.digests(db, ME, session.id, line))[1] == {3: raws[3]}
    assert [told.raw for told in await history.read(db, ME, session.id, line, 4)] == raws
    assert [part.message.raw for part in await archive.entries(db, ME, session.id, 1, (1, 4))] == raws


async def test_the_same_data_is_stored_once_however_often_it_is_sent(db: Database) -> None:
    for name in ("s", "s", "t"):
        await tell(db, name, shown(IMAGE, text=f"{name} again"), shown(IMAGE, SOUND))
    assert await count(db) == (2, 4)
    kept = await db.all("SELECT sum(length(raw)) FROM entries")
    assert kept[0][0] < 3_000


async def test_another_tenant_has_data_of_its_own(db: Database) -> None:
    other = await tenant(db, "other")
    await tell(db, "s", shown(IMAGE))
    kept = taken_out(shown(IMAGE).raw)[0]
    with pytest.raises(Unavailable):
        await blobs.restored(db, other, [kept])
    await tell(db, "s", shown(IMAGE), scope=other)
    assert await count(db) == (2, 2)
    assert await blobs.restored(db, other, [kept, b"{}"]) == [shown(IMAGE).raw, b"{}"]


async def test_data_goes_with_the_last_session_that_needs_it(db: Database) -> None:
    before = await making.everything(db)
    one, _ = await tell(db, "one", shown(IMAGE, SOUND))
    two, _ = await tell(db, "two", shown(IMAGE))
    assert await sessions.delete(db, ME, one.id)
    assert await count(db) == (1, 1)
    assert await window(db, two.id, [(1, 1, 1)]) == [shown(IMAGE).raw]
    assert await sessions.delete(db, ME, two.id)
    assert await making.everything(db) == before


async def test_clearing_a_conversation_removes_its_data(db: Database) -> None:
    session, _ = await tell(db, "s", shown(IMAGE))
    await tell(db, "t", shown(SOUND))
    assert await history.clear(db, ME, session.id, 9)
    assert await db.all("SELECT data FROM blobs") == [(SOUND.encode(),)]
    await tell(db, "s", shown(IMAGE))
    assert await count(db) == (2, 2)


async def test_deleting_a_branch_removes_what_only_its_own_entries_need(db: Database) -> None:
    found = await tell(db, "s", shown(IMAGE))
    await tell(db, "s", shown(IMAGE, SOUND), fork_at=1)
    await tell(db, "s", shown(SOUND), fork_at=1)
    session = found[0].id
    assert await count(db) == (2, 4)
    point = await branches.after(db, ME, session, 1)
    assert point is not None
    await branches.begin(db, ME, session, point, 5)
    await branches.delete(db, ME, session, 3, 9)
    assert await count(db) == (2, 3)
    await branches.delete(db, ME, session, 2, 9)
    assert await db.all("SELECT data FROM blobs") == [(IMAGE.encode(),)]
    assert await count(db) == (1, 1)
    assert [
        one.raw for one in await entries.whole(db, ME, await entries.window(db, ME, session, [(1, 1, 1)], None))
    ] == [shown(IMAGE).raw]


async def test_a_turn_that_fails_leaves_no_data(db: Database) -> None:
    found = await say(db, "s", "q", "a")
    await say(db, "s", "q", "a")
    with pytest.raises(Unavailable):
        await turns.append(db, ME, record("s", found, [shown(IMAGE)]))
    assert await count(db) == (0, 0)


async def test_an_entry_whose_data_has_gone_meanwhile_is_not_given_out_in_part(db: Database) -> None:
    session, _ = await tell(db, "s", shown(IMAGE))
    await db.transaction(lambda tx: tx.all("DELETE FROM blob_uses"))
    with pytest.raises(Unavailable) as caught:
        await window(db, session.id, [(1, 1, 1)])
    assert caught.value.code == "session_moved_on"


async def test_how_long_messages_are_is_told_without_reading_them(db: Database) -> None:
    said = [shown(IMAGE, SOUND), message("plain"), shown(IMAGE)]
    await tell(db, "s", *said)
    kept = [row[0] for row in await db.all("SELECT raw FROM entries ORDER BY seq")]
    assert await blobs.sizes(db, ME, kept) == [len(one.raw) for one in said]


async def test_what_goes_with_its_last_use_is_found_by_an_index(db: Database, tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "store.db"))
    sql: Any = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'blob_uses_gone'").get
    connection.close()
    step = re.findall(r"DELETE FROM [^;]+", sql.partition("BEGIN")[2])[0]
    as_seen = step.replace("old.tenant", "1").replace("old.hash", "x'00'")
    assert not any(map(BAD.search, plan(tmp_path, as_seen, ())))
    for where in ("session = 1", "tenant = 1 AND session = 1 AND branch = 1"):
        how = plan(tmp_path, f"DELETE FROM blob_uses WHERE {where}", ())  # noqa: S608 - from the line above
        assert any("blob_uses_session" in one for one in how), how
