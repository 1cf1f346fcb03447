"""Sessions, their branches and their standing instructions: finding them. Turns write them (turns.py)."""

import hashlib
from typing import Any

from proxy.store.database import Database, Tx
from proxy.types import ROOT_BRANCH, Branch, Instructions, Scope, Session

Found = tuple[Session, Branch]


async def find(db: Database, scope: Scope, name: str) -> Found | None:
    """The tenant's session that the client calls `name`, or whose UUID that is, with its current branch."""
    rows = await db.all(
        """SELECT s.id, s.uuid, s.name, s.branch, s.branches, s.turns, s.token_budget, s.overflow,
                  s.dressed,
                  b.branch, b.parent, b.forked_at, b.head, b.total, b.end_digest, b.end_status, b.last_turn,
                  b.cut, b.cut_key, b.instructions, b.carried
           FROM sessions s JOIN branches b ON b.tenant = s.tenant AND b.session = s.id AND b.branch = s.branch
           WHERE s.tenant = ? AND s.name = ?""",
        (scope.tenant, name),
    )
    if not rows and is_uuid(name):
        rows = await db.all(
            """SELECT s.id, s.uuid, s.name, s.branch, s.branches, s.turns, s.token_budget, s.overflow,
                      s.dressed,
                      b.branch, b.parent, b.forked_at, b.head, b.total, b.end_digest, b.end_status, b.last_turn,
                      b.cut, b.cut_key, b.instructions, b.carried
               FROM sessions s JOIN branches b ON b.tenant = s.tenant AND b.session = s.id AND b.branch = s.branch
               WHERE s.tenant = ? AND s.uuid = ?""",
            (scope.tenant, name.lower()),
        )
    return (Session(*rows[0][:9]), Branch(*rows[0][9:])) if rows else None


def is_uuid(name: str) -> bool:
    """Whether a name has the shape of a UUID."""
    return len(name) == 36 and name.count("-") == 4


def has_uuid(tx: Tx, scope: Scope, uuid: str) -> bool:
    """Whether a session has this UUID: no other one may have it as its name, or the id would lead to that one."""
    return bool(tx.all("SELECT 1 FROM sessions WHERE tenant = ? AND uuid = ?", (scope.tenant, uuid.lower())))


def begin(tx: Tx, scope: Scope, session: int, now: int) -> None:
    """The empty root branch of a session that has none."""
    tx.all(
        """INSERT INTO branches (tenant, session, branch, parent, forked_at, head, total, end_digest, end_status,
                                 last_turn, cut, cut_key, instructions, created_at)
           VALUES (?, ?, ?, NULL, 0, 0, 0, x'', 'complete', 0, 0, '', NULL, ?)""",
        (scope.tenant, session, ROOT_BRANCH, now),
    )


async def branches(db: Database, scope: Scope, session: int) -> dict[int, Branch]:
    """All branches of a session, by number."""
    rows = await db.all(
        """SELECT branch, parent, forked_at, head, total, end_digest, end_status, last_turn, cut, cut_key, instructions,
                  carried
           FROM branches WHERE tenant = ? AND session = ?""",
        (scope.tenant, session),
    )
    return {row[0]: Branch(*row) for row in rows}


async def instructions(db: Database, scope: Scope, session: int, number: int) -> Instructions:
    """The standing instructions with this number."""
    rows = await db.all(
        "SELECT raw, tokens, id FROM instructions WHERE tenant = ? AND session = ? AND id = ?",
        (scope.tenant, session, number),
    )
    return Instructions(*rows[0]) if rows else Instructions()


async def same_instructions(db: Database, scope: Scope, session: int, raw: bytes) -> Instructions | None:
    """The stored instructions with this very text, counted already."""
    mark = hashlib.blake2b(raw, digest_size=16).digest()
    rows = await db.all(
        "SELECT raw, tokens, id FROM instructions WHERE tenant = ? AND session = ? AND digest = ?",
        (scope.tenant, session, mark),
    )
    return Instructions(*rows[0]) if rows else None


async def delete(db: Database, scope: Scope, session: int) -> bool:
    """Removes a session with all it holds. False when the tenant has no such session."""

    def work(tx: Any) -> bool:
        return bool(tx.all("DELETE FROM sessions WHERE tenant = ? AND id = ? RETURNING id", (scope.tenant, session)))

    return await db.apart(work)
