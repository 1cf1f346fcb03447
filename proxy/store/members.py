"""Agents and users: made, read, changed and deleted. Their documents and tools go with them."""

from collections.abc import Callable, Sequence

import msgspec

from proxy.errors import NotFound
from proxy.resources import Member, MemberKind, Page
from proxy.store import facets, keys
from proxy.store.database import Database, Tx
from proxy.store.facets import Facet
from proxy.types import Scope

Change = Callable[[bytes | None], tuple[bytes, Sequence[Facet]]]
"""The old body (None: it is being made) -> the new one and the facets of its metadata. May be called twice."""


async def put(db: Database, scope: Scope, kind: MemberKind, uuid: str, change: Change, now: int) -> Member:
    """Makes the member of that UUID, or changes it."""
    return await db.transaction(lambda tx: _put(tx, keys.owning(tx, scope, now), kind, uuid, change, now))


def _put(tx: Tx, scope: Scope, kind: MemberKind, uuid: str, change: Change, now: int) -> Member:
    rows = tx.all(
        "SELECT id, kind, uuid, created_at, updated_at, body FROM members WHERE tenant = ? AND kind = ? AND uuid = ?",
        (scope.tenant, kind, uuid),
    )
    if rows:
        return _changed(tx, scope, Member(*rows[0]), change, now)
    body, found = change(None)
    rows = tx.all(
        """INSERT INTO members (tenant, kind, uuid, created_at, updated_at, body) VALUES (?, ?, ?, ?, ?, ?)
           RETURNING id, kind, uuid, created_at, updated_at, body""",
        (scope.tenant, kind, uuid, now, now, body),
    )
    member = Member(*rows[0])
    facets.write(tx, scope, kind, member.id, [facets.EVERY, *found], (now, now))
    return member


async def change(db: Database, scope: Scope, kind: MemberKind, uuid: str, change: Change, now: int) -> Member:
    """Raises NotFound when the tenant has no such member."""

    def work(tx: Tx) -> Member:
        rows = tx.all(
            """SELECT id, kind, uuid, created_at, updated_at, body FROM members
               WHERE tenant = ? AND kind = ? AND uuid = ?""",
            (scope.tenant, kind, uuid),
        )
        if not rows:
            raise missing(kind)
        return _changed(tx, scope, Member(*rows[0]), change, now)

    return await db.transaction(work)


def _changed(tx: Tx, scope: Scope, member: Member, change: Change, now: int) -> Member:
    body, found = change(member.body)
    tx.all(
        "UPDATE members SET body = ?, updated_at = ? WHERE tenant = ? AND id = ?", (body, now, scope.tenant, member.id)
    )
    facets.write(tx, scope, member.kind, member.id, [facets.EVERY, *found], (member.created_at, now))
    return msgspec.structs.replace(member, body=body, updated_at=now)


async def find(db: Database, scope: Scope, kind: MemberKind, uuid: str) -> Member:
    """Raises NotFound when the tenant has no such member."""
    rows = await db.all(
        "SELECT id, kind, uuid, created_at, updated_at, body FROM members WHERE tenant = ? AND kind = ? AND uuid = ?",
        (scope.tenant, kind, uuid),
    )
    if not rows:
        raise missing(kind)
    return Member(*rows[0])


async def page(db: Database, scope: Scope, kind: MemberKind, where: Sequence[Facet], page: Page) -> list[Member]:
    """One page of the tenant's agents or users that have all the facets."""
    ids = await facets.page(db, scope, kind, where or [facets.EVERY], page)
    found = await _by_id(db, scope, ids)
    return [found[id] for id in ids if id in found]


async def _by_id(db: Database, scope: Scope, ids: Sequence[int]) -> dict[int, Member]:
    # The plus: SQLite would else walk through the tenant's members for those of the page.
    rows = await db.all(
        """SELECT id, kind, uuid, created_at, updated_at, body FROM members
           WHERE +tenant = ? AND id IN (SELECT value FROM json_each(?))""",
        (scope.tenant, msgspec.json.encode(ids).decode()),
    )
    return {row[0]: Member(*row) for row in rows}


async def taking_part(db: Database, scope: Scope, session: int) -> list[Member]:
    """The agents and users of a session, each in the order in which they were added."""
    rows = await db.all(
        """SELECT m.id, m.kind, m.uuid, m.created_at, m.updated_at, m.body
           FROM participants p JOIN members m ON m.id = p.member
           WHERE p.tenant = ? AND p.session = ? ORDER BY p.kind, p.place""",
        (scope.tenant, session),
    )
    return [Member(*row) for row in rows]


async def delete(db: Database, scope: Scope, kind: MemberKind, uuid: str) -> None:
    """With its documents and tools; the sessions it took part in stay. Raises NotFound."""
    rows = await db.apart(
        lambda tx: tx.all(
            "DELETE FROM members WHERE tenant = ? AND kind = ? AND uuid = ? RETURNING id", (scope.tenant, kind, uuid)
        )
    )
    if not rows:
        raise missing(kind)


def missing(kind: str) -> NotFound:
    """An unknown member and a foreign one get the same bytes."""
    return NotFound(f"there is no such {kind}; its id is what creating it returned", code=f"{kind}_not_found")
