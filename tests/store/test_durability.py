"""What is answered is on the disk: the sync comes between the commit and the word to whoever waits for it."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from proxy.errors import Unavailable
from proxy.store import disk, sqlite
from proxy.store.database import Tx

pytestmark = pytest.mark.anyio


def insert(name: str) -> Callable[[Tx], object]:
    return lambda tx: tx.all("INSERT INTO tenants (name, created_at) VALUES (?, 0)", (name,))


async def test_a_commit_is_told_only_after_the_sync_of_the_wal(tmp_path: Path) -> None:
    asked, allowed = threading.Event(), threading.Event()
    synced: list[str] = []

    def sync(handle: int) -> None:
        asked.set()
        assert allowed.wait(10)
        os.fdatasync(handle)
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))

    db = sqlite.opened(f"sqlite:///{tmp_path}/s.db", sync=sync)
    waiting = asyncio.ensure_future(db.transaction(insert("one")))
    assert await anyio.to_thread.run_sync(asked.wait, 10)
    await anyio.lowlevel.checkpoint()
    assert not waiting.done()
    assert await db.all("SELECT count(*) FROM tenants WHERE name = 'one'") == [(1,)], "committed, not yet told"
    allowed.set()
    await asyncio.wait_for(waiting, 10)
    assert synced == [str(tmp_path / "s.db-wal")]
    await db.close()


async def test_commits_that_wait_for_one_sync_share_the_next(tmp_path: Path) -> None:
    allowed = threading.Event()
    syncs: list[int] = []

    def sync(handle: int) -> None:
        assert allowed.wait(10)
        syncs.append(handle)

    db = sqlite.opened(f"sqlite:///{tmp_path}/s.db", sync=sync)
    first = asyncio.ensure_future(db.transaction(insert("first")))
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    rest = [asyncio.ensure_future(db.transaction(insert(f"t{n}"))) for n in range(20)]
    await anyio.lowlevel.checkpoint()
    allowed.set()
    await asyncio.wait_for(asyncio.gather(first, *rest), 10)
    assert len(syncs) == 2
    await db.close()


async def test_a_sync_that_fails_is_an_error_and_the_store_goes_on(tmp_path: Path) -> None:
    broken = [OSError("no disk")]

    def sync(_handle: int) -> None:
        if broken:
            raise broken.pop()

    db = sqlite.opened(f"sqlite:///{tmp_path}/s.db", sync=sync)
    with pytest.raises(Unavailable) as failed:
        await db.transaction(insert("one"))
    assert failed.value.code == "storage_unavailable"
    await db.transaction(insert("two"))
    await db.close()


async def test_the_wal_starts_over_under_a_load_without_a_gap(tmp_path: Path) -> None:
    db = sqlite.opened(f"sqlite:///{tmp_path}/s.db", synchronous="normal")
    text = "x" * 40_000

    def large(tx: Tx) -> None:
        tx.all("UPDATE tenants SET name = 'default' WHERE id = 1")
        tx.all("INSERT INTO tenants (name, created_at) VALUES (?, 0)", (text + os.urandom(8).hex(),))

    for _ in range(40):
        await asyncio.gather(*[db.transaction(large) for _ in range(30)])
    size = (tmp_path / "s.db-wal").stat().st_size
    assert size < disk.CROWDED_PAGES * 4120 + (16 << 20)
    await db.close()
