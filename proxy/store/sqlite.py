"""SQLite behind the Database protocol: one connection in the event loop, group commit, the disk sync in a thread.

Intentional: statements run in the loop, not in a writer thread. They take tens of microseconds on a warm page cache;
a thread of its own costs two switches of the interpreter lock for each statement and leaves the reader's cache cold
after each commit (figures in docs/decisions.md). What waits for the disk does not run here: a commit writes the WAL
without a sync, then a thread syncs the WAL once for all commits before it, and only then the waiters are told.

Intentional: apsw, not the standard library's sqlite3. It brings one SQLite for every Python, newer than 3.51.3, which
fixed a corruption bug of WAL files with several connections; `keys` writes beside a running server, and a checkpoint
runs on a connection of its own, away from the loop.
"""

import asyncio
import contextlib
import fcntl
import importlib.resources
import os
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import apsw

from proxy.errors import BadConfig, ProxyError, StoredUnsynced, Unavailable
from proxy.store.database import Row, Tx, Value
from proxy.store.disk import CHECKPOINT_PAGES, Disk, connected

T = TypeVar("T")

GROUP = 64
"""Jobs in one commit at the most: bounds how long the event loop is busy with it."""
BUSY_S = 5.0
"""How long a commit waits for another process that writes."""
BUSY_STEP_S = 0.005
GLANCE_S = 0.05
"""After how long the file's lock is tried once more: longer than a look at it lasts."""

_LOST = (apsw.FullError, apsw.IOError, apsw.BusyError, apsw.CorruptError, apsw.ReadOnlyError, apsw.CantOpenError)
"""Errors that end the transaction, not the statement."""


class Sqlite:
    """An open SQLite store, for one event loop. Make it with `opened`."""

    def __init__(self, path: str, sync: Callable[[int], None] | None, lock: int | None) -> None:
        self._lock = lock
        self._path = path
        self._connection = connected(path)
        self._tx = _Writing(self._connection)
        self._connection.set_wal_hook(self._wal_grew)
        self._pages = self._checkpointed = 0
        self._waiting: list[_Job] = []
        self._flushing = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._disk = Disk(path, sync, owner=lock is not None)

    async def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        try:
            return self._connection.execute(sql, args).fetchall()
        except apsw.Error as exc:
            raise _unavailable(exc) from exc

    async def apart(self, work: Callable[[Tx], T]) -> T:
        result: list[T] = []
        await asyncio.to_thread(lambda: result.append(self._written(work)))
        await self.transaction(lambda tx: None)  # its sync covers what was written before it
        return result[0]

    def _written(self, work: Callable[[Tx], Any]) -> Any:
        """One transaction on a connection of its own; those of the loop's connection wait for its end meanwhile."""
        try:
            with contextlib.closing(connected(self._path)) as connection:
                connection.set_busy_timeout(int(BUSY_S * 1000))
                connection.execute("BEGIN IMMEDIATE")
                result = work(_Writing(connection))  # an error ends the connection, and the transaction with it
                connection.execute("COMMIT")  # apsw's `with` would do its part of this under the interpreter's lock
                return result
        except apsw.Error as exc:
            raise _unavailable(exc) from exc

    def transaction(self, work: Callable[[Tx], T]) -> Awaitable[T]:
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future())
        if self._closed:
            job.done.set_exception(_unavailable(apsw.ConnectionClosedError("closed")))
            return job.done
        self._waiting.append(job)
        if not self._flushing:
            self._flushing = True
            self._idle.clear()
            loop.call_soon(self._flush, loop, loop.time() + BUSY_S)
        return job.done

    async def ready(self) -> None:
        await self.all("SELECT count(*) FROM tenants WHERE id = 1")

    async def close(self) -> None:
        self._closed = True
        await self._idle.wait()
        self._connection.close()
        await asyncio.to_thread(self._disk.close)
        if self._lock is not None:
            os.close(self._lock)

    def _wal_grew(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _flush(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Commits what waits as one group and hands it to the disk; comes again while more waits."""
        group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
        try:
            self._commit(group)
        except apsw.Error as exc:
            open_ones = [job for job in group if not job.settled]
            if isinstance(exc, apsw.BusyError) and loop.time() < deadline and len(open_ones) == len(group):
                self._waiting = group + self._waiting  # another process writes: the loop goes on meanwhile
                loop.call_later(BUSY_STEP_S, self._flush, loop, deadline)
                return
            _fail(open_ones, exc)
        self._disk.sync(self._checkpoint_due(), lambda error: self._synced(loop, group, error))

    def _checkpoint_due(self) -> int:
        """The WAL's pages when a checkpoint is due, else 0. The WAL starts over by itself after a complete one."""
        if self._pages < self._checkpointed:
            self._checkpointed = 0
        if self._pages - self._checkpointed < CHECKPOINT_PAGES:
            return 0
        self._checkpointed = self._pages
        return self._pages

    def _synced(self, loop: asyncio.AbstractEventLoop, group: "list[_Job]", error: OSError | None) -> None:
        for job in group:
            if error is not None and job.error is None:
                job.error = StoredUnsynced(
                    "stored, but the disk did not confirm it; it may be lost at a power failure: try again",
                    headers={"Retry-After": "1"},
                )
            job.settle()
        if self._waiting:
            self._flush(loop, loop.time() + BUSY_S)
        else:
            self._flushing = False
            self._idle.set()

    def _commit(self, group: "list[_Job]") -> None:
        """One transaction for the group. Raises apsw.Error when nothing is committed.

        An error of one job undoes the group, which then runs again job by job: work is repeatable, and a savepoint for
        each job would cost every group what only a failing one needs.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for job in group:
                job.result = job.work(self._tx)
            self._connection.execute("COMMIT")
            for job in group:
                job.settled = True
        except _LOST:
            self._rollback()
            raise
        except Exception as exc:  # noqa: BLE001 - it belongs to the waiter, who is told below
            self._rollback()
            if len(group) == 1:
                group[0].error, group[0].settled = exc, True
                return
            for job in group:
                self._commit([job])

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class _Writing:
    """The writer's connection as a Tx."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._execute = connection.execute

    def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        return self._execute(sql, args).fetchall()


class _Job:
    """One transaction that waits for its commit."""

    __slots__ = ("done", "error", "result", "settled", "work")

    def __init__(self, work: Callable[[Tx], Any], done: asyncio.Future[Any]) -> None:
        self.work = work
        self.done = done
        self.result: Any = None
        self.error: BaseException | None = None
        self.settled = False
        """Whether it is decided: committed, or refused by its own error."""

    def settle(self) -> None:
        if self.done.done():
            return  # the waiter was cancelled; what it asked for is committed all the same
        if self.error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(_unavailable(self.error) if isinstance(self.error, apsw.Error) else self.error)


def _fail(group: list[_Job], exc: Exception) -> None:
    for job in group:
        job.error = job.error or _unavailable(exc)


def _unavailable(exc: BaseException) -> ProxyError:
    return Unavailable(
        f"the storage cannot do this now ({type(exc).__name__}); nothing was stored, try again",
        code="storage_unavailable",
        headers={"Retry-After": "1"},
    )


def file_of(url: str) -> Path:
    """The path in a storage URL: sqlite:///relative or sqlite:////absolute."""
    return Path(url.removeprefix("sqlite:///"))


def opened(
    url: str, *, synchronous: str = "full", own: bool = True, sync: Callable[[int], None] = os.fdatasync
) -> Sqlite:
    """Opens (and makes) the store and brings its schema up to date.

    `own`: this process is the one that serves the file. A second owner gets BadConfig; other commands pass False.
    `sync` brings the WAL's file descriptor to the disk; used with `synchronous` full.
    """
    path = file_of(url)
    with _usable(path, own) as lock:
        migrate(path)
        if not own:
            return Sqlite(str(path), sync if synchronous == "full" else None, None)
        kept = os.dup(lock)  # the lock lives as long as any descriptor of it
        try:
            return Sqlite(str(path), sync if synchronous == "full" else None, kept)
        except BaseException:
            os.close(kept)
            raise


def migrated(url: str) -> int:
    """Brings the schema up to date and returns its version. The file must not be served meanwhile."""
    path = file_of(url)
    with _usable(path, own=True):
        return migrate(path)


@contextlib.contextmanager
def _usable(path: Path, own: bool) -> Generator[int]:
    """The lock on the file, where it is owned or its schema must change; -1 else. Raises BadConfig for what is no
    store, or cannot be one."""
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if own or _behind(path):  # a schema is changed by one process that has the file for itself
            lock = owned(path)
        yield lock
    except (OSError, apsw.Error) as exc:
        raise BadConfig(f"storage.url: the file cannot be used ({type(exc).__name__}: {exc})") from exc
    finally:
        if lock >= 0:
            os.close(lock)


def owned(path: Path, wait: Callable[[float], None] = time.sleep) -> int:
    """The lock on the file, held until the process ends, however it ends. A look at it (`inspection.held`) takes it for
    an instant, so one refusal is not believed."""
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    if not _locked(handle):
        wait(GLANCE_S)
        if not _locked(handle):
            os.close(handle)
            raise BadConfig(
                f"storage.url: another session-proxy serves {path.name}; stop it first, or give this one its own file"
            )
    return handle


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def migrations() -> list[tuple[int, str]]:
    """The schema's steps, oldest first: (version, SQL)."""
    folder = importlib.resources.files("proxy.store") / "migrations" / "sqlite"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name[:4]), (folder / name).read_text()) for name in names]


def _behind(path: Path) -> bool:
    """Whether the file's schema is older than this version's."""
    connection = connected(str(path))
    try:
        return connection.pragma("user_version") < migrations()[-1][0]
    finally:
        connection.close()


def migrate(path: Path) -> int:
    """Applies the missing steps in one transaction and returns the schema's version. Refuses a newer schema."""
    steps = migrations()
    connection = connected(str(path))
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
