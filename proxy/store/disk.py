"""The thread that waits for the disk: a commit is in the WAL at once, and lasts only when the WAL is synced."""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import apsw

CHECKPOINT_PAGES = 4000
"""How far the WAL grows (16 MB) before its pages go to the database file; pages of hot sessions then go there once."""
CROWDED_PAGES = 4 * CHECKPOINT_PAGES
"""A WAL this long (64 MB) is checkpointed before anything more is written: under a load without a gap it would else
never start over."""


class Disk:
    """The thread that waits for the disk: syncs the WAL after a commit, and checkpoints when it has grown."""

    def __init__(self, path: str, sync: Callable[[int], None] | None, owner: bool) -> None:
        self._wal = os.open(path + "-wal", os.O_RDWR | os.O_CREAT, 0o644)
        _sync_folder(Path(path).parent)  # the names of new files last only once their folder is on the disk
        self._connection = connected(path) if owner else None
        self._sync = sync
        self._unsure = False
        self._asked: queue.SimpleQueue[tuple[int, Callable[[OSError | None], None]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="store-disk", daemon=True)
        self._thread.start()

    def sync(self, pages: int, done: Callable[[OSError | None], None]) -> None:
        """Calls `done` in the loop once the WAL is on the disk (at once where commits need not wait for it). `pages`:
        the length of a WAL that is to be checkpointed, 0 for none."""
        if self._sync is not None or pages:
            self._asked.put((pages, done))
        else:
            done(None)

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()
        os.close(self._wal)
        if self._connection is not None:
            self._connection.close()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            pages, done = asked
            error = self._synced()
            if pages >= CROWDED_PAGES:
                self._checkpoint()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(done, error)
            if 0 < pages < CROWDED_PAGES:
                self._checkpoint()

    def _synced(self) -> OSError | None:
        """Brings the WAL to the disk. After a failure a sync proves nothing about what came before it: the kernel tells
        an error once. Then only a checkpoint that moves all pages to the database file, synced, makes good again."""
        try:
            if self._unsure:
                self._recover()
                self._unsure = False
            if self._sync is not None:
                self._sync(self._wal)
        except OSError as exc:
            self._unsure = True
            return exc
        return None

    def _recover(self) -> None:
        if self._connection is None:
            return
        try:
            in_wal, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
        except apsw.Error as exc:
            raise OSError("the checkpoint failed") from exc
        if moved < in_wal:
            raise OSError("the checkpoint is not complete")

    def _checkpoint(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(apsw.Error):  # a reader is in the way, or the disk is full: the next one tries
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def connected(path: str) -> apsw.Connection:
    """A connection that never checkpoints by itself and syncs the WAL only then; Disk does it for the commits."""
    connection = apsw.Connection(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -8000")
    connection.wal_autocheckpoint(0)
    return connection
