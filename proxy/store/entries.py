"""The append-only log of messages: windows, digests and lookups. Every read is a range of one index.

A line crosses forks: its stretches stand on several branches. A page of it is one statement however many they are.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import starmap
from operator import itemgetter

import msgspec
from msgspec.structs import replace

from proxy.store import blobs
from proxy.store.database import Database, Row
from proxy.types import Entry, Scope

PAGE = 256
"""Rows in one read: bounds how long the event loop is busy with it."""
SMALLEST = 16
"""Rows in the first read of a window that may hold little."""
USUAL = 24
"""Tokens that a message has at least, most of the time: so many rows are read for a window at first."""
FEW = 6
"""Rows of a stretch: with fewer on average, to look for each row costs less than to take the stretches apart."""

Segment = tuple[int, int, int]
"""(branch, first seq, last seq): a stretch of a branch's line that stands in one branch's own rows."""

_encode = msgspec.json.encode
_seq = itemgetter(0)


async def window(
    db: Database,
    scope: Scope,
    session: int,
    line: Sequence[Segment],
    tokens: int | None,
    price: Callable[[Entry], int] | None = None,
) -> list[Entry]:
    """The newest entries along a line (newest segment first), oldest first, until they hold `tokens` (None: all).
    `price`: what an entry counts, asked once for each, the newest first; None: its own tokens.

    They come as they are kept, without their large base64: `whole` puts it back.
    """
    pages: list[list[Entry]] = []
    left = tokens
    at = line[0][2] if line else 0
    size = 0
    while line and at >= line[-1][1]:
        size = PAGE if left is None else min(PAGE, max(SMALLEST, left // USUAL, 2 * size))
        rows = await _page(db, scope, session, within(line, at - size + 1, at))
        if len(line) > 1:
            rows.sort(key=_seq)
        if left is None:
            page = list(starmap(Entry, rows))
        elif price is None:
            page, left = _newest(rows, left)
        else:
            page, left = _fitting(list(starmap(Entry, rows)), price, left)
        pages.append(page)
        if left is not None and left < 0:
            break
        at -= size
    return pages[0] if len(pages) == 1 else [entry for page in reversed(pages) for entry in page]


def _newest(rows: Sequence[Row], left: int) -> tuple[list[Entry], int]:
    """The newest entries that hold the tokens `left`, and what they leave: below 0 with the one that is too much."""
    found: list[Entry] = []
    for row in reversed(rows):
        found.append(Entry(*row))
        left -= row[3]
        if left < 0:
            break
    found.reverse()
    return found, left


def _fitting(entries: list[Entry], price: Callable[[Entry], int], left: int) -> tuple[list[Entry], int]:
    """As `_newest`, with a price of one's own."""
    for n in range(len(entries) - 1, -1, -1):
        left -= price(entries[n])
        if left < 0:
            return entries[n:], left
    return entries, left


def _page(db: Database, scope: Scope, session: int, parts: Sequence[Segment]) -> Awaitable[list[Row]]:
    """The rows of these stretches."""
    if len(parts) == 1:
        return db.all(
            """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries
               WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? ORDER BY seq""",
            (scope.tenant, session, *parts[0]),
        )
    if sum(last - first for _, first, last in parts) < FEW * len(parts):
        return db.all(
            """SELECT e.seq, e.role, e.raw, e.tokens, e.total, e.calls, e.turn, e.status
               FROM json_each(?) h CROSS JOIN entries e
               WHERE e.tenant = ? AND e.session = ? AND e.branch = h.value AND e.seq = h.key + ?""",
            (_branches(parts), scope.tenant, session, parts[0][1] if parts else 0),
        )
    return db.all(
        """SELECT e.seq, e.role, e.raw, e.tokens, e.total, e.calls, e.turn, e.status
           FROM json_each(?) h CROSS JOIN entries e
           WHERE e.tenant = ? AND e.session = ? AND e.branch = h.value ->> 0
             AND e.seq BETWEEN h.value ->> 1 AND h.value ->> 2""",
        (spelt(parts), scope.tenant, session),
    )


def within(line: Sequence[Segment], first: int, last: int) -> list[Segment]:
    """The part of a line from `first` to `last`, oldest segment first."""
    if len(line) == 1:
        branch, low, high = line[0]
        return [(branch, max(low, first), min(high, last))]
    found = [(branch, max(low, first), min(high, last)) for branch, low, high in line if low <= last and high >= first]
    return found[::-1]


def spelt(parts: Sequence[Segment]) -> str:
    """Segments as JSON, for a statement that reads them all."""
    return _encode(parts).decode()


def _branches(parts: Sequence[Segment]) -> str:
    """The branch of each place from the first to the last, as JSON; 0 for a place between two parts."""
    out: list[int] = []
    for branch, first, last in parts:
        out += [0] * (first - parts[0][1] - len(out))
        out += [branch] * (last - first + 1)
    return _encode(out).decode()


async def whole(db: Database, scope: Scope, found: Sequence[Entry]) -> Sequence[Entry]:
    """The entries with what was taken out of them."""
    if not [entry for entry in found if entry.raw[0] == blobs.TAKEN]:
        return found
    raws = await blobs.restored(db, scope, [entry.raw for entry in found])
    return [replace(entry, raw=raw) for entry, raw in zip(found, raws, strict=True)]


async def _only(db: Database, scope: Scope, rows: Sequence[Row]) -> Entry | None:
    """The one row as an entry, if there is one."""
    found = await whole(db, scope, [Entry(*row) for row in rows])
    return found[0] if found else None


async def newest_user(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> Entry | None:
    """The newest user message along a line."""
    for branch, first, last in line[:1]:
        rows = await db.all(
            """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries
               WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? AND role = 'user'
               ORDER BY seq DESC LIMIT 1""",
            (scope.tenant, session, branch, first, last),
        )
        if rows:
            return await _only(db, scope, rows)
    if len(line) < 2:
        return None
    newest = await db.all(
        """SELECT max((SELECT seq FROM entries e
                       WHERE e.tenant = ? AND e.session = ? AND e.branch = h.value ->> 0
                         AND e.seq BETWEEN h.value ->> 1 AND h.value ->> 2 AND e.role = 'user'
                       ORDER BY e.seq DESC LIMIT 1)) FROM json_each(?) h""",
        (scope.tenant, session, spelt(line[1:])),
    )
    return None if newest[0][0] is None else await at(db, scope, session, line, newest[0][0])


async def last_calls(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> Entry | None:
    """The newest message along a line that makes tool calls."""
    for branch, first, last in line[:1]:
        rows = await db.all(
            """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries INDEXED BY entries_calls
               WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? AND calls > 0
               ORDER BY seq DESC LIMIT 1""",
            (scope.tenant, session, branch, first, last),
        )
        if rows:
            return await _only(db, scope, rows)
    if len(line) < 2:
        return None
    newest = await db.all(
        """SELECT max((SELECT seq FROM entries e INDEXED BY entries_calls
                       WHERE e.tenant = ? AND e.session = ? AND e.branch = h.value ->> 0
                         AND e.seq BETWEEN h.value ->> 1 AND h.value ->> 2 AND e.calls > 0
                       ORDER BY e.seq DESC LIMIT 1)) FROM json_each(?) h""",
        (scope.tenant, session, spelt(line[1:])),
    )
    return None if newest[0][0] is None else await at(db, scope, session, line, newest[0][0])


async def digests(
    db: Database, scope: Scope, session: int, line: Sequence[Segment]
) -> tuple[list[bytes], dict[int, bytes]]:
    """The digests along a line, oldest first, and the raw messages of its replies that were cut short, by index."""
    if len(line) == 1:
        rows = await db.all(
            """SELECT seq, digest, CASE status WHEN 'incomplete' THEN raw END FROM entries
               WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? ORDER BY seq""",
            (scope.tenant, session, *line[0]),
        )
    else:
        rows = await db.all(
            """SELECT e.seq, e.digest, CASE e.status WHEN 'incomplete' THEN e.raw END
               FROM json_each(?) h CROSS JOIN entries e
               WHERE e.tenant = ? AND e.session = ? AND e.branch = h.value ->> 0
                 AND e.seq BETWEEN h.value ->> 1 AND h.value ->> 2""",
            (spelt(line[::-1]), scope.tenant, session),
        )
        rows.sort(key=_seq)
    short = {n: raw for n, (_, _, raw) in enumerate(rows) if raw is not None}
    raws = await blobs.restored(db, scope, list(short.values())) if short else ()
    return [mark for _, mark, _ in rows], dict(zip(short, raws, strict=True))


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
    return (await blobs.restored(db, scope, [rows[0][0]]))[0] if rows else None


async def at(db: Database, scope: Scope, session: int, line: Sequence[Segment], seq: int) -> Entry | None:
    """The entry at a place of a line."""
    for branch, first, last in line:
        if first <= seq <= last:
            rows = await db.all(
                """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries
                   WHERE tenant = ? AND session = ? AND branch = ? AND seq = ?""",
                (scope.tenant, session, branch, seq),
            )
            return await _only(db, scope, rows)
    return None
