"""Turns as they are shown: what each one sent, and why. Reads only; turns.py writes them."""

import msgspec

from proxy.errors import NotFound
from proxy.store.database import Database
from proxy.types import Scope, Status


class Told(msgspec.Struct, frozen=True, gc=False):
    """A stored turn. `model` "": no model was asked. `ledger` and `usage`: JSON; `recalled`: the text that went up with
    its user message. `created_at`: epoch ms."""

    turn: int
    branch: int
    status: Status
    model: str
    request_id: str
    created_at: int
    messages: int
    ledger: bytes
    usage: bytes | None
    recalled: bytes | None = None


async def newest(db: Database, scope: Scope, session: int, limit: int, offset: int) -> list[Told]:
    """A page of the session's turns on all branches, the newest first."""
    rows = await db.all(
        """SELECT turn, branch, status, model, request_id, created_at, last_seq - first_seq + 1, ledger, usage
           FROM turns WHERE tenant = ? AND session = ? ORDER BY turn DESC LIMIT ? OFFSET ?""",
        (scope.tenant, session, limit, offset),
    )
    return [Told(*row) for row in rows]


async def oldest(db: Database, scope: Scope, session: int, limit: int, offset: int) -> list[Told]:
    """The same, the oldest first."""
    rows = await db.all(
        """SELECT turn, branch, status, model, request_id, created_at, last_seq - first_seq + 1, ledger, usage
           FROM turns WHERE tenant = ? AND session = ? ORDER BY turn LIMIT ? OFFSET ?""",
        (scope.tenant, session, limit, offset),
    )
    return [Told(*row) for row in rows]


async def of_turn(db: Database, scope: Scope, session: int, turn: int) -> Told:
    """One turn. Raises NotFound."""
    rows = await db.all(
        """SELECT turn, branch, status, model, request_id, created_at, last_seq - first_seq + 1, ledger, usage, recalled
           FROM turns WHERE tenant = ? AND session = ? AND turn = ?""",
        (scope.tenant, session, turn),
    )
    if not rows:
        raise unknown()
    return Told(*rows[0])


def unknown() -> NotFound:
    """For a turn that is not there."""
    return NotFound("there is no such turn; GET /sessions/{id}/turns lists them", code="turn_not_found")
