"""A session's conversation as the Sessions API shows it, and clearing it. Reads along one branch, oldest first."""

from collections.abc import Sequence

import msgspec

from proxy.store import facets, sessions
from proxy.store.database import Database, Tx
from proxy.store.entries import PAGE, Segment
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
    for branch, low, high in reversed(line):
        if low > last:
            break
        rows = await db.all(
            """SELECT e.branch, e.seq, e.role, e.raw, e.tokens, e.calls, e.status, coalesce(e.said_at, t.created_at),
                      t.model
               FROM entries e JOIN turns t ON t.session = e.session AND t.turn = e.turn
               WHERE e.tenant = ? AND e.session = ? AND e.branch = ? AND e.seq BETWEEN ? AND ?
               ORDER BY e.seq LIMIT ?""",
            (scope.tenant, session, branch, low, min(high, last), PAGE),
        )
        if rows:
            return [Told(*row) for row in rows]
    return []


async def clear(db: Database, scope: Scope, session: int, now: int) -> bool:
    """Removes all messages, branches, ledgers and stored answers; the session and its settings stay, and turn numbers
    go on. False when the tenant has no such session."""
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
    tx.all("DELETE FROM branches WHERE tenant = ? AND session = ?", where)
    sessions.begin(tx, scope, session, now)
    return True
