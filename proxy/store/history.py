"""A session's conversation as the Sessions API shows it, and clearing it. Reads along one branch, oldest first."""

from collections.abc import Collection, Sequence
from operator import itemgetter

import msgspec

from proxy.store import blobs, facets, sessions
from proxy.store.database import Database, Row, Tx
from proxy.store.entries import PAGE, Segment, spelt, within
from proxy.types import ROOT_BRANCH, Scope, Status


class Told(msgspec.Struct, frozen=True, gc=False):
    """A stored message with when it was said (epoch ms) and the model that was asked in its turn."""

    branch: int
    seq: int
    role: str
    raw: bytes
    tokens: int
    calls: int
    status: Status
    at: int
    model: str


async def read(db: Database, scope: Scope, session: int, line: Sequence[Segment], last: int) -> list[Told]:
    """Up to 256 messages along a line from its first seq on, not beyond `last`."""
    low = line[-1][1] if line else 0
    while line and low <= min(last, line[0][2]):
        parts = within(line, low, min(last, low + PAGE - 1))
        rows = await _rows(db, scope, session, parts) if parts else []
        if rows:
            raws = await blobs.restored(db, scope, [row[3] for row in rows])
            return [Told(row[0], row[1], row[2], raw, *row[4:]) for row, raw in zip(rows, raws, strict=True)]
        low += PAGE
    return []


async def _rows(db: Database, scope: Scope, session: int, parts: Sequence[Segment]) -> list[Row]:
    """The rows of these stretches, oldest first."""
    if len(parts) == 1:
        return await db.all(
            """SELECT e.branch, e.seq, e.role, e.raw, e.tokens, e.calls, e.status, coalesce(e.said_at, t.created_at),
                      t.model
               FROM entries e JOIN turns t ON t.session = e.session AND t.turn = e.turn
               WHERE e.tenant = ? AND e.session = ? AND e.branch = ? AND e.seq BETWEEN ? AND ? ORDER BY e.seq""",
            (scope.tenant, session, *parts[0]),
        )
    rows = await db.all(
        """SELECT e.branch, e.seq, e.role, e.raw, e.tokens, e.calls, e.status, coalesce(e.said_at, t.created_at),
                  t.model
           FROM json_each(?) h CROSS JOIN entries e JOIN turns t ON t.session = e.session AND t.turn = e.turn
           WHERE e.tenant = ? AND e.session = ? AND e.branch = h.value ->> 0
             AND e.seq BETWEEN h.value ->> 1 AND h.value ->> 2""",
        (spelt(parts), scope.tenant, session),
    )
    return sorted(rows, key=itemgetter(1))


async def models_of(db: Database, scope: Scope, session: int, turns: Collection[int]) -> dict[int, str]:
    """The model that was asked in each of these turns."""
    rows = await db.all(
        """SELECT turn, model FROM turns
           WHERE tenant = ? AND session = ? AND turn IN (SELECT value FROM json_each(?))""",
        (scope.tenant, session, msgspec.json.encode(sorted(set(turns))).decode()),
    )
    return dict(rows)


async def clear(db: Database, scope: Scope, session: int, now: int) -> bool:
    """Removes all messages, branches, instructions, ledgers, summaries and stored answers; the session and its settings
    stay, and turn numbers go on. False when the tenant has no such session."""
    return await db.apart(lambda tx: _clear(tx, scope, session, now))


def _clear(tx: Tx, scope: Scope, session: int, now: int) -> bool:
    rows = tx.all(
        """UPDATE sessions SET branch = ?, branches = 1, updated_at = ?, answered = NULL, request = NULL, answer = NULL
           WHERE tenant = ? AND id = ? RETURNING id""",
        (ROOT_BRANCH, now, scope.tenant, session),
    )
    if not rows:
        return False
    facets.touch(tx, scope, "session", session, now)
    where = (scope.tenant, session)
    tx.all("DELETE FROM entries WHERE tenant = ? AND session = ?", where)
    tx.all("DELETE FROM turns WHERE tenant = ? AND session = ?", where)
    tx.all("DELETE FROM replays WHERE tenant = ? AND session = ?", where)
    tx.all("DELETE FROM instructions WHERE tenant = ? AND session = ?", where)
    tx.all("DELETE FROM summaries WHERE tenant = ? AND session = ?", where)
    tx.all("DELETE FROM summary_calls WHERE tenant = ? AND session = ?", where)
    tx.all("DELETE FROM passages WHERE tenant = ? AND session = ?", where)
    tx.all("DELETE FROM blob_uses WHERE tenant = ? AND session = ?", where)
    tx.all("DELETE FROM branches WHERE tenant = ? AND session = ?", where)
    sessions.begin(tx, scope, session, now)
    return True
