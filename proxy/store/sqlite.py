"""SQLite behind the Database protocol: one writer thread with group commit, reads on a connection of their own.

Intentional: apsw, not the standard library's sqlite3. It brings one SQLite for every Python, newer than 3.51.3,
which fixed a corruption bug of WAL files with several writing connections; and `keys` writes beside a running server.
Only the writer thread checkpoints, between commits, and only in the process that owns the file (`serve`, `migrate`).
"""

import asyncio
import contextlib
import fcntl
import importlib.resources
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import apsw

from proxy.errors import BadConfig, ProxyError, Unavailable
from proxy.store.database import Row, Tx, Value

T = TypeVar("T")

GROUP = 64
"""Jobs in one commit at the most: bounds how long the first of them waits."""
CHECKPOINT_PAGES = 1000
BUSY_MS = 5000


class Sqlite:
    """An open SQLite store. Make it with `opened`; use the async methods from one event loop."""

    def __init__(self, path: str, synchronous: str, lock: int | None) -> None:
        self._lock = lock
        self._owner = lock is not None
        self._reader = _connect(path, synchronous)
        self._writer = _connect(path, synchronous)
        self._tx = _Writing(self._writer)
        self._pages = 0
        self._closing = False
        self._writer.set_wal_hook(self._wal_grew)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)
        self._thread.start()

    async def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        try:
            return self._reader.execute(sql, args).fetchall()
        except apsw.Error as exc:
            raise _unavailable(exc) from exc

    async def transaction(self, work: Callable[[Tx], T]) -> T:
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self._jobs.put(job)
        return await job.done

    async def ready(self) -> None:
        await self.all("SELECT count(*) FROM tenants WHERE id = 1")

    async def close(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reader.close()
        if self._lock is not None:
            os.close(self._lock)

    def _wal_grew(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _write(self) -> None:
        """The writer thread: takes what is queued, commits it as one group, tells every waiter."""
        while not self._closing:
            group = self._queued()
            if group:
                self._commit(group)
            if self._owner and self._pages >= CHECKPOINT_PAGES:
                self._checkpoint()
        self._writer.close()

    def _queued(self) -> "list[_Job]":
        """Waits for a job, then takes all that wait with it. None in the queue means: close."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == GROUP:
                return group
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group
        self._closing = True
        return group

    def _commit(self, group: "list[_Job]") -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job in group:
                self._run(job)
            self._writer.execute("COMMIT")
        except apsw.Error as exc:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            for job in group:
                job.error = job.error or _unavailable(exc)
        _tell(group)

    def _run(self, job: "_Job") -> None:
        """One job inside the group's transaction; its own error takes back its own statements only."""
        self._writer.execute("SAVEPOINT job")
        try:
            job.result = job.work(self._tx)
        except (apsw.FullError, apsw.IOError, apsw.BusyError, apsw.CorruptError, apsw.ReadOnlyError):
            raise
        except Exception as exc:  # noqa: BLE001 - it belongs to the waiter, who is told below
            job.error = exc
            self._writer.execute("ROLLBACK TO job")
        self._writer.execute("RELEASE job")

    def _checkpoint(self) -> None:
        try:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._pages = 0
        except apsw.Error:
            self._pages = 0  # a reader is in the way, or the disk is full: the next thousand pages try again


class _Writing:
    """The writer's connection as a Tx."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._execute = connection.execute

    def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        return self._execute(sql, args).fetchall()


class _Job:
    """One transaction that waits for its commit."""

    __slots__ = ("done", "error", "loop", "result", "work")

    def __init__(self, work: Callable[[Tx], Any], loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any]) -> None:
        self.work = work
        self.loop = loop
        self.done = done
        self.result: Any = None
        self.error: BaseException | None = None


def _tell(group: list[_Job]) -> None:
    """Wakes the waiters, with one call into the loop for the whole group."""

    def settle() -> None:
        for job in group:
            if job.done.done():
                continue  # the waiter was cancelled; what it asked for is committed all the same
            if job.error is None:
                job.done.set_result(job.result)
            else:
                job.done.set_exception(job.error)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        group[0].loop.call_soon_threadsafe(settle)


def _unavailable(exc: Exception) -> ProxyError:
    return Unavailable(
        f"the storage cannot do this now ({type(exc).__name__}); nothing was stored, try again",
        code="storage_unavailable",
        headers={"Retry-After": "1"},
    )


def file_of(url: str) -> Path:
    """The path in a storage URL: sqlite:///relative or sqlite:////absolute."""
    return Path(url.removeprefix("sqlite:///"))


def opened(url: str, *, synchronous: str = "full", own: bool = True) -> Sqlite:
    """Opens (and makes) the store and brings its schema up to date.

    `own`: this process is the one that serves the file. A second owner gets BadConfig; other commands pass False.
    """
    path = file_of(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = owned(path) if own else None
        migrate(path)
        return Sqlite(str(path), synchronous, lock)
    except (OSError, apsw.Error) as exc:
        raise BadConfig(f"storage.url: the file cannot be used ({type(exc).__name__}: {exc})") from exc


def owned(path: Path) -> int:
    """The lock on the file, held until the process ends, however it ends."""
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(handle)
        raise BadConfig(
            f"storage.url: another session-proxy serves {path.name}; stop it first, or give this one its own file"
        ) from exc
    return handle


def _connect(path: str, synchronous: str) -> apsw.Connection:
    connection = apsw.Connection(path)
    connection.set_busy_timeout(BUSY_MS)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL" if synchronous == "full" else "PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -8000")
    connection.wal_autocheckpoint(0)
    return connection


def migrations() -> list[tuple[int, str]]:
    """The schema's steps, oldest first: (version, SQL)."""
    folder = importlib.resources.files("proxy.store") / "migrations" / "sqlite"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name[:4]), (folder / name).read_text()) for name in names]


def migrate(path: Path) -> int:
    """Applies the missing steps in one transaction and returns the schema's version. Refuses a newer schema."""
    steps = migrations()
    connection = _connect(str(path), "full")
    try:
        have = connection.pragma("user_version")
        if have > steps[-1][0]:
            raise BadConfig(
                f"storage.url: the file has schema {have}, this version knows {steps[-1][0]}; upgrade session-proxy"
            )
        if have == steps[-1][0]:
            return have
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            for version, sql in steps:
                if version > connection.pragma("user_version"):
                    connection.execute(sql)
                    connection.pragma("user_version", version)
        connection.execute("COMMIT")
        return connection.pragma("user_version")
    finally:
        connection.close()
