"""A look at a store's file that changes nothing: it makes no file, applies no step of the schema, moves no page.

Where nobody has the file and its WAL is empty, it is opened as immutable, so that not even the WAL's index is made. A
server's WAL is read through an ordinary connection that only reads, and never checkpoints. SQLite does not look whether
an immutable file changes: what seems wrong with one is believed only if it has not changed meanwhile.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import apsw

from proxy.errors import Unavailable

T = TypeVar("T")

STEPS = 10_000
"""Instructions of SQLite's machine between two looks at the clock."""
RECENT = 100
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """`schema`: its version, 0 for none. `foreign`: it has tables that are not a store's. `keys`: API keys that work.
    `newest`: when the newest sessions were last changed, in epoch milliseconds; None if there are none."""

    schema: int
    foreign: bool
    keys: int
    newest: int | None


def facts(path: Path) -> Facts:
    """What a file says of itself. Raises Unavailable for one that is no database, or is damaged."""
    return looked(path, _facts, lambda _: True)


def _facts(connection: apsw.Connection) -> Facts:
    schema = connection.pragma("user_version")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not {"tenants", "keys", "sessions"} <= tables:
        return Facts(schema, bool(tables), 0, None)
    rows = connection.execute(
        """SELECT (SELECT count(*) FROM keys WHERE revoked_at IS NULL),
           (SELECT max(updated_at) FROM (SELECT updated_at FROM sessions ORDER BY id DESC LIMIT ?))""",
        (RECENT,),
    )
    keys, newest = cast(tuple[int, int | None], rows.fetchall()[0])
    return Facts(schema, False, keys, newest)


def damage(path: Path, limit_s: float) -> list[str] | None:
    """What SQLite's own check finds wrong with a file, [] for nothing; None when it was not done in time. Raises
    Unavailable where it finds no way through the file."""
    end = time.monotonic() + limit_s

    def check(connection: apsw.Connection) -> list[str] | None:
        connection.set_progress_handler(lambda: time.monotonic() > end, STEPS)
        try:
            rows = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
        except apsw.InterruptError:
            return None
        return [] if rows == ["ok"] else rows[:SHOWN]

    return looked(path, check, lambda wrong: not wrong)


def held(path: Path) -> bool:
    """Whether a server, or a `migrate`, has the file."""
    try:
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared and for an instant: two looks are none's trouble
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def log_size(path: Path) -> int:
    """Bytes of the WAL."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except OSError:
        return 0


def looked(path: Path, look: Callable[[apsw.Connection], T], sound: Callable[[T], bool]) -> T:
    """What `look` finds. Where that is not `sound`, or Unavailable, in a file that nobody had and that somebody has or
    has changed now, it looks once more."""
    before = _quiet(path)
    try:
        with _reading(path, before is not None) as connection:
            found = look(connection)
        if sound(found) or before is None or _quiet(path) == before:
            return found
    except Unavailable:
        if before is None or _quiet(path) == before:
            raise
    with _reading(path, _quiet(path) is not None) as connection:
        return look(connection)


def _quiet(path: Path) -> tuple[int, int] | None:
    """The time and the size of a file that nobody has and whose WAL is empty; None for any other."""
    try:
        told = path.stat()
    except OSError:
        return 0, 0
    return None if held(path) or log_size(path) else (told.st_mtime_ns, told.st_size)


@contextlib.contextmanager
def _reading(path: Path, quiet: bool) -> Generator[apsw.Connection]:
    try:
        with contextlib.closing(_opened(path, quiet)) as connection:
            yield connection
    except (apsw.NotADBError, apsw.CorruptError) as exc:
        why = "is no SQLite database" if isinstance(exc, apsw.NotADBError) else "is damaged"
        raise Unavailable(f"{path.name} {why}; {rescue(path)}") from exc
    except apsw.Error as exc:
        raise Unavailable(f"{path.name} cannot be read ({type(exc).__name__}: {exc})") from exc


def _opened(path: Path, quiet: bool) -> apsw.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if quiet else "")
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def rescue(path: Path) -> str:
    """What to do about a damaged file."""
    return (
        f"stop the server, keep a copy, and put a backup in its place; without one, `sqlite3 {path.name} .recover` "
        "saves what can be read, and with the file moved away `serve` begins a new one"
    )
