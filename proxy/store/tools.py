"""Tools of agents and sessions: made, read, changed and deleted."""

from collections.abc import Callable, Sequence

import msgspec

from proxy.errors import BadRequest, Conflict, NotFound
from proxy.resources import Owner, Tool
from proxy.store import owners
from proxy.store.database import Database, Tx
from proxy.types import Scope

MOST = 128
"""Tools of one owner; more than OpenAI takes in a request."""


async def create(db: Database, scope: Scope, owner: Owner, tool: Tool) -> Tool:
    """Raises Conflict for a name that the owner's tools have already, NotFound when the owner is gone."""
    return await db.transaction(lambda tx: _create(tx, scope, owner, tool))


def _create(tx: Tx, scope: Scope, owner: Owner, tool: Tool) -> Tool:
    owners.hold(tx, scope, owner)
    have = tx.all(
        "SELECT count(*), coalesce(sum(name = ?), 0) FROM tools WHERE tenant = ? AND kind = ? AND owner = ?",
        (tool.name, scope.tenant, owner.kind, owner.id),
    )[0]
    if have[1]:
        raise taken(owner, tool.name)
    if have[0] >= MOST:
        raise BadRequest(f"the {owner.kind} has {MOST} tools already; delete one first", param="tools")
    rows = tx.all(
        """INSERT INTO tools (tenant, uuid, kind, owner, name, created_at, updated_at, body)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
        (scope.tenant, tool.uuid, owner.kind, owner.id, tool.name, tool.created_at, tool.updated_at, tool.body),
    )
    return msgspec.structs.replace(tool, id=rows[0][0])


def taken(owner: Owner, name: str) -> Conflict:
    """A second tool of one name."""
    return Conflict(
        f"the {owner.kind} has a tool named {name} already; change that one, or choose another name",
        param="name",
        code="tool_exists",
        headers={"x-should-retry": "false"},
    )


def put(tx: Tx, scope: Scope, owner: Owner, given: Sequence[Tool]) -> None:
    """Within the transaction that makes their owner: each new, or in place of the one of its name."""
    for tool in given:
        same = tx.all(
            """UPDATE tools SET body = ?, updated_at = ? WHERE tenant = ? AND kind = ? AND owner = ? AND name = ?
               RETURNING id""",
            (tool.body, tool.updated_at, scope.tenant, owner.kind, owner.id, tool.name),
        )
        if not same:
            _create(tx, scope, owner, tool)


async def every(db: Database, scope: Scope, whose: Sequence[Owner]) -> list[Tool]:
    """The tools of all these owners, owner by owner as given, oldest first."""
    found = []
    for owner in whose:
        rows = await db.all(
            """SELECT id, uuid, name, created_at, updated_at, body FROM tools
               WHERE tenant = ? AND kind = ? AND owner = ?""",
            (scope.tenant, owner.kind, owner.id),
        )
        found += [Tool(*row) for row in sorted(rows)]
    return found


async def change(db: Database, scope: Scope, owner: Owner, uuid: str, change: Callable[[Tool], Tool], now: int) -> Tool:
    """Takes over name and body. Raises NotFound, or Conflict when the new name is taken. `change` is pure and may be
    called twice."""

    def work(tx: Tx) -> Tool:
        rows = tx.all(
            """SELECT id, uuid, name, created_at, updated_at, body FROM tools
               WHERE tenant = ? AND kind = ? AND owner = ? AND uuid = ?""",
            (scope.tenant, owner.kind, owner.id, uuid),
        )
        if not rows:
            raise missing()
        old = Tool(*rows[0])
        wanted = change(old)
        new = msgspec.structs.replace(old, name=wanted.name, body=wanted.body, updated_at=now)
        if new.name != old.name and tx.all(
            "SELECT 1 FROM tools WHERE tenant = ? AND kind = ? AND owner = ? AND name = ?",
            (scope.tenant, owner.kind, owner.id, new.name),
        ):
            raise taken(owner, new.name)
        tx.all(
            "UPDATE tools SET name = ?, body = ?, updated_at = ? WHERE tenant = ? AND id = ?",
            (new.name, new.body, now, scope.tenant, old.id),
        )
        return new

    return await db.transaction(work)


async def delete(db: Database, scope: Scope, owner: Owner, uuid: str) -> None:
    """Raises NotFound when the owner has no such tool."""
    rows = await db.transaction(
        lambda tx: tx.all(
            "DELETE FROM tools WHERE tenant = ? AND kind = ? AND owner = ? AND uuid = ? RETURNING id",
            (scope.tenant, owner.kind, owner.id, uuid),
        )
    )
    if not rows:
        raise missing()


def missing() -> NotFound:
    """An unknown tool and a foreign one get the same bytes."""
    return NotFound("there is no such tool here; list the tools for their ids", code="tool_not_found")
