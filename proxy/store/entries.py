"""The append-only log of messages: windows, digests and lookups. Every read is a range of one index."""

from collections.abc import Sequence

from proxy.store.database import Database
from proxy.types import Entry, Scope

PAGE = 256
"""Rows in one read: bounds how long the event loop is busy with it."""

Segment = tuple[int, int, int]
"""(branch, first seq, last seq): a stretch of a branch's line that stands in one branch's own rows."""


async def window(db: Database, scope: Scope, session: int, line: Sequence[Segment], tokens: int | None) -> list[Entry]:
    """The newest entries along a line (newest segment first), oldest first, until they hold `tokens` (None: all)."""
    found: list[Entry] = []
    held = 0
    for branch, first, last in line:
        at = last
        while at >= first:
            rows = await db.all(
                """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries
                   WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ?
                   ORDER BY seq DESC LIMIT ?""",
                (scope.tenant, session, branch, first, at, PAGE),
            )
            for row in rows:
                found.append(Entry(*row))
                held += row[3]
                if tokens is not None and held > tokens:
                    return found[::-1]
            if not rows:
                break
            at = rows[-1][0] - 1
    return found[::-1]


async def newest_user(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> Entry | None:
    """The newest user message along a line."""
    for branch, first, last in line:
        rows = await db.all(
            """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries
               WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? AND role = 'user'
               ORDER BY seq DESC LIMIT 1""",
            (scope.tenant, session, branch, first, last),
        )
        if rows:
            return Entry(*rows[0])
    return None


async def last_calls(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> Entry | None:
    """The newest message along a line that makes tool calls."""
    for branch, first, last in line:
        rows = await db.all(
            """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries INDEXED BY entries_calls
               WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? AND calls > 0
               ORDER BY seq DESC LIMIT 1""",
            (scope.tenant, session, branch, first, last),
        )
        if rows:
            return Entry(*rows[0])
    return None


async def digests(
    db: Database, scope: Scope, session: int, line: Sequence[Segment]
) -> tuple[list[bytes], dict[int, bytes]]:
    """The digests along a line, oldest first, and the raw messages of its replies that were cut short, by index."""
    marks: list[bytes] = []
    short: dict[int, bytes] = {}
    for branch, first, last in reversed(line):
        rows = await db.all(
            """SELECT digest, CASE status WHEN 'incomplete' THEN raw END FROM entries
               WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? ORDER BY seq""",
            (scope.tenant, session, branch, first, last),
        )
        for digest, raw in rows:
            if raw is not None:
                short[len(marks)] = raw
            marks.append(digest)
    return marks, short


async def places(db: Database, scope: Scope, session: int, digest: bytes) -> list[tuple[int, int]]:
    """Where a message stands: (branch, seq), oldest first on each branch."""
    rows = await db.all(
        "SELECT branch, seq FROM entries INDEXED BY entries_digest "
        "WHERE tenant = ? AND session = ? AND digest = ? ORDER BY branch, seq",
        (scope.tenant, session, digest),
    )
    return [(row[0], row[1]) for row in rows]


async def stored(db: Database, scope: Scope, session: int, digest: bytes) -> bytes | None:
    """The raw message with this digest, the newest if there are several."""
    rows = await db.all(
        "SELECT raw FROM entries INDEXED BY entries_digest "
        "WHERE tenant = ? AND session = ? AND digest = ? ORDER BY branch DESC, seq DESC LIMIT 1",
        (scope.tenant, session, digest),
    )
    return rows[0][0] if rows else None


async def at(db: Database, scope: Scope, session: int, line: Sequence[Segment], seq: int) -> Entry | None:
    """The entry at a place of a line."""
    for branch, first, last in line:
        if first <= seq <= last:
            rows = await db.all(
                """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries
                   WHERE tenant = ? AND session = ? AND branch = ? AND seq = ?""",
                (scope.tenant, session, branch, seq),
            )
            return Entry(*rows[0]) if rows else None
    return None
