"""SQLite behind the Database protocol: transactions, durability, ownership, the schema, and a disk that fails."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import apsw
import pytest

from proxy.errors import BadConfig, NotFound, Unavailable
from proxy.store import sqlite
from proxy.store.database import Database, Tx
from proxy.store.sqlite import GROUP, Sqlite

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[Sqlite]:
    """A store with a table of numbers."""
    made = sqlite.opened(url(folder))
    try:
        await made.transaction(lambda tx: tx.all("CREATE TABLE IF NOT EXISTS numbers (n INTEGER UNIQUE, data BLOB)"))
        yield made
    finally:
        await made.close()


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


def adds(n: int, size: int = 0) -> Callable[[Tx], int]:
    def work(tx: Tx) -> int:
        tx.all("INSERT INTO numbers (n, data) VALUES (?, randomblob(?))", (n, size))
        return n

    return work


async def numbers(db: Database) -> list[int]:
    return [row[0] for row in await db.all("SELECT n FROM numbers ORDER BY rowid")]


def outside(folder: Path) -> apsw.Connection:
    """Another process's view."""
    return apsw.Connection(str(folder / "store.db"))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# --- transactions ---


async def test_a_transaction_gives_its_result_once_it_is_committed(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        assert await db.transaction(adds(1)) == 1
        assert list(outside(tmp_path).execute("SELECT n FROM numbers")) == [(1,)]


async def test_transactions_at_once_are_all_committed_in_their_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        many = 3 * GROUP + 7
        assert await asyncio.gather(*(db.transaction(adds(n)) for n in range(many))) == list(range(many))
        assert await numbers(db) == list(range(many))


async def test_an_error_undoes_its_own_transaction_alone(tmp_path: Path) -> None:
    def fails(tx: Tx) -> None:
        adds(100)(tx)
        raise ValueError("no")

    async with opened(tmp_path) as db:
        works = [db.transaction(fails if n in (3, 7) else adds(n)) for n in range(10)]
        results = await asyncio.gather(*works, return_exceptions=True)
        assert [n for n, result in enumerate(results) if isinstance(result, ValueError)] == [3, 7]
        assert await numbers(db) == [0, 1, 2, 4, 5, 6, 8, 9]
        assert await db.transaction(adds(11)) == 11


async def test_a_broken_rule_of_the_schema_is_an_error_of_the_storage_for_that_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        works = [db.transaction(adds(n)) for n in (1, 1, 2)]
        results = await asyncio.gather(*works, return_exceptions=True)
        assert [type(result) for result in results] == [int, Unavailable, int]
        assert await numbers(db) == [1, 2]


async def test_who_stops_waiting_does_not_stop_the_work(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        first = asyncio.ensure_future(db.transaction(adds(1)))
        first.cancel()
        assert await db.transaction(adds(2)) == 2
        assert await numbers(db) == [1, 2]


async def test_a_failed_statement_outside_a_transaction_is_unavailable(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        with pytest.raises(Unavailable) as caught:
            await db.all("SELECT nothing FROM nowhere")
    assert caught.value.code == "storage_unavailable"
    assert "nowhere" not in caught.value.message
    assert caught.value.headers["Retry-After"]


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        await db.ready()
        last = db.transaction(adds(1))
    assert await last == 1, "what was asked before the end is done"
    with pytest.raises(Unavailable):
        await db.transaction(adds(2))
    with pytest.raises(Unavailable):
        await db.all("SELECT 1")
    with pytest.raises(Unavailable):
        await db.ready()


async def test_a_writer_of_another_process_is_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        other = outside(tmp_path)
        other.execute("BEGIN IMMEDIATE; INSERT INTO numbers (n) VALUES (100)")
        waiting = [asyncio.ensure_future(db.transaction(adds(n))) for n in range(3)]
        await settle()
        assert not any(work.done() for work in waiting)
        assert await numbers(db) == [], "reads go on"
        other.execute("COMMIT")
        with anyio.fail_after(LIMIT_S):
            assert await asyncio.gather(*waiting) == [0, 1, 2]
        assert sorted(await numbers(db)) == [0, 1, 2, 100]


@pytest.mark.slow
async def test_a_writer_of_another_process_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        other = outside(tmp_path)
        other.execute("BEGIN IMMEDIATE")
        with anyio.fail_after(LIMIT_S), pytest.raises(Unavailable):
            await db.transaction(adds(1))
        other.execute("ROLLBACK")
        assert await db.transaction(adds(2)) == 2


# --- ownership ---


async def test_a_second_owner_is_refused_and_told_why(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        with pytest.raises(BadConfig, match=r"another session-proxy serves store\.db"):
            sqlite.opened(url(tmp_path))
        await db.transaction(adds(1))


def test_a_look_at_the_lock_does_not_refuse_an_owner(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with (tmp_path / "store.db.lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        os.close(sqlite.owned(path, lambda _: fcntl.flock(looking, fcntl.LOCK_UN)))
        fcntl.flock(looking, fcntl.LOCK_SH)
        with pytest.raises(BadConfig, match="another session-proxy serves"):
            sqlite.owned(path, lambda _: None)


async def test_another_command_may_write_beside_the_owner(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        beside = sqlite.opened(url(tmp_path), own=False)
        await asyncio.gather(beside.transaction(adds(1)), db.transaction(adds(2)))
        await beside.close()
        await db.transaction(adds(3))
        assert sorted(await numbers(db)) == [1, 2, 3]


async def test_the_file_is_free_again_when_its_owner_is_done(tmp_path: Path) -> None:
    for n in range(3):
        async with opened(tmp_path) as db:
            await db.transaction(adds(n))
    assert list(outside(tmp_path).execute("SELECT n FROM numbers")) == [(0,), (1,), (2,)]


def script(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own."""
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


CRASH = """
import asyncio, sys, os, signal
from proxy.store import sqlite

async def main():
    db = sqlite.opened(sys.argv[1])
    await db.transaction(lambda tx: tx.all("CREATE TABLE numbers (n INTEGER UNIQUE, data BLOB)"))
    for n in range(500):
        works = [db.transaction(lambda tx, at=n * 5 + i: tx.all("INSERT INTO numbers (n) VALUES (?)", (at,)))
                 for i in range(5)]
        await asyncio.gather(*works)
        print(n * 5 + 4, flush=True)
        if n == int(sys.argv[2]):
            db.transaction(lambda tx: tx.all("INSERT INTO numbers (n) VALUES (-1)"))
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.parametrize("rounds", [0, 40])
async def test_what_was_told_survives_a_kill_and_the_file_is_free(tmp_path: Path, rounds: int) -> None:
    done = script(CRASH, url(tmp_path), str(rounds))
    assert done.returncode == -signal.SIGKILL, done.stderr
    told = int(done.stdout.split()[-1])
    async with opened(tmp_path) as db:
        stored = await numbers(db)
        assert set(range(told + 1)) <= set(stored)
        assert set(stored) <= {-1, *range(told + 1)}
        assert (await db.all("PRAGMA integrity_check"))[0][0] == "ok"


# --- the schema ---


async def test_a_new_file_gets_the_newest_schema(tmp_path: Path) -> None:
    newest = sqlite.migrations()[-1][0]
    assert sqlite.migrate(tmp_path / "store.db") == newest
    assert sqlite.migrate(tmp_path / "store.db") == newest


async def test_the_steps_count_on_from_one() -> None:
    assert [version for version, _ in sqlite.migrations()] == list(range(1, len(sqlite.migrations()) + 1))


async def test_a_newer_schema_is_refused_and_the_file_let_go(tmp_path: Path) -> None:
    newest = sqlite.migrate(tmp_path / "store.db")
    outside(tmp_path).pragma("user_version", newest + 1)
    with pytest.raises(BadConfig, match=rf"has schema {newest + 1}, this version knows {newest}"):
        sqlite.opened(url(tmp_path))
    outside(tmp_path).pragma("user_version", newest)
    async with opened(tmp_path) as db:
        await db.ready()


async def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """The schema's first step meets a table of its own name, after it has made several others."""
    other = outside(tmp_path)
    other.execute("CREATE TABLE turns (mine)")
    with pytest.raises(BadConfig):
        sqlite.opened(url(tmp_path))
    assert list(other.execute("SELECT name FROM sqlite_master")) == [("turns",)]
    assert other.pragma("user_version") == 0


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(BadConfig, match=r"storage\.url"):
        sqlite.opened(url(tmp_path))


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfig, match=r"storage\.url"):
        sqlite.opened(f"sqlite:///{tmp_path / 'file' / 'store.db'}")


async def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    async with opened(tmp_path / "a" / "b") as db:
        await db.ready()


# --- a disk that is full ---


async def test_a_full_database_is_unavailable_goes_on_reading_and_recovers(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        await db.transaction(adds(0))
        pages = (await db.all("PRAGMA page_count"))[0][0]
        await db.transaction(lambda tx: tx.all("PRAGMA max_page_count = 1"))  # SQLite takes what is there
        assert (await db.all("PRAGMA max_page_count"))[0][0] == pages
        results = await asyncio.gather(*(db.transaction(adds(n, 9000)) for n in range(1, 9)), return_exceptions=True)
        assert {type(result) for result in results} == {Unavailable}
        assert await numbers(db) == [0]
        await db.transaction(lambda tx: tx.all("PRAGMA max_page_count = 1000000"))
        assert await db.transaction(adds(10, 9000)) == 10
        assert await numbers(db) == [0, 10]


async def test_long_work_holds_up_no_reader_and_no_loop(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        await db.transaction(adds(0))
        inside, go_on = threading.Event(), threading.Event()

        def work(tx: Tx) -> int:
            tx.all("DELETE FROM numbers")
            inside.set()
            assert go_on.wait(10)
            return 7

        apart = asyncio.ensure_future(db.apart(work))
        await asyncio.to_thread(inside.wait, 10)
        assert await numbers(db) == [0]
        writing = asyncio.ensure_future(db.transaction(adds(1)))
        await asyncio.sleep(0)
        go_on.set()
        assert (await apart, await writing) == (7, 1)
        assert await numbers(db) == [1]


async def test_long_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        await db.transaction(adds(0))

        def work(tx: Tx) -> None:
            tx.all("DELETE FROM numbers")
            raise NotFound("no")

        with pytest.raises(NotFound):
            await db.apart(work)
        assert await numbers(db) == [0]


FULL = """
import asyncio, resource, sys
from proxy.errors import Unavailable
from proxy.store import sqlite

async def main():
    db = sqlite.opened(sys.argv[1])
    await db.transaction(lambda tx: tx.all("CREATE TABLE numbers (n INTEGER UNIQUE, data BLOB)"))
    told, refused = [], 0
    for limit in (300_000, None, 500_000, None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        failed = 0
        for _ in range(60):
            n = len(told) + refused
            try:
                await db.transaction(lambda tx: tx.all("INSERT INTO numbers VALUES (?, randomblob(9000))", (n,)))
                told.append(n)
            except Unavailable:
                refused += 1
                failed += 1
                assert (await db.all("SELECT count(*) FROM numbers"))[0][0] == len(told)
        assert (failed > 0) == (limit is not None), (limit, failed)
    assert [row[0] for row in await db.all("SELECT n FROM numbers ORDER BY n")] == told
    assert (await db.all("PRAGMA integrity_check"))[0][0] == "ok"
    await db.close()
    print(len(told), refused)

asyncio.run(main())
"""


async def test_a_file_that_may_not_grow_loses_nothing_and_recovers(tmp_path: Path) -> None:
    done = script(FULL, url(tmp_path))
    assert done.returncode == 0, done.stderr
    told, refused = map(int, done.stdout.split())
    assert told + refused == 240
    assert refused > 20
