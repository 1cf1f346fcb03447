"""Agents and users: made, read, changed and deleted. Their documents and tools go with them."""

from collections.abc import Callable, Sequence

import msgspec

from proxy.resources import Member, MemberKind, Owner, Page, Tool
from proxy.store import docs, facets, keys, owners, tools
from proxy.store.database import Database, Tx
from proxy.store.facets import Facet
from proxy.types import Scope

SLICE = 2000
"""Sessions that a member leaves in one transaction."""

Change = Callable[[bytes | None], tuple[bytes, Sequence[Facet]]]
"""The old body (None: it is being made) -> the new one and the facets of its metadata. May be called twice."""


class New(msgspec.Struct, frozen=True, gc=False):
    """What is made, or put in the place of what is there: its body, and tools that come with it."""

    change: Change
    tools: Sequence[Tool] = ()


async def put(db: Database, scope: Scope, kind: MemberKind, uuid: str, new: New, now: int) -> Member:
    """Makes the member of that UUID, or changes it; with its tools, or not at all."""

    def work(tx: Tx) -> Member:
        own = keys.owning(tx, scope, now)
        member = _put(tx, own, kind, uuid, new.change, now)
        tools.put(tx, own, Owner(kind, member.id, member.uuid), new.tools)
        return member

    return await db.transaction(work)


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
            raise owners.missing(kind)
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
        raise owners.missing(kind)
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
    """With its documents and tools; the sessions it took part in stay. Raises NotFound.

    What it may have much of goes first and in slices, so that other writers get their turn: its documents, its places
    in sessions. A process that is killed in between leaves a member with less, which can be deleted again.
    """
    member = await find(db, scope, kind, uuid)
    await docs.delete_all(db, scope, Owner(kind, member.id, member.uuid))
    while await db.apart(lambda tx: _leave_sessions(tx, scope, member)):
        pass
    rows = await db.apart(
        lambda tx: tx.all("DELETE FROM members WHERE tenant = ? AND id = ? RETURNING id", (scope.tenant, member.id))
    )
    if not rows:
        raise owners.missing(kind)


def _leave_sessions(tx: Tx, scope: Scope, member: Member) -> bool:
    """Takes the member out of some sessions. False when it is in none."""
    rows = tx.all(
        "SELECT session FROM participants WHERE +tenant = ? AND member = ? LIMIT ?", (scope.tenant, member.id, SLICE)
    )
    for (session,) in rows:
        tx.all(
            "DELETE FROM participants WHERE +tenant = ? AND member = ? AND session = ?",
            (scope.tenant, member.id, session),
        )
        tx.all(
            "DELETE FROM facets WHERE tenant = ? AND kind = 'session' AND owner = ? AND key = ? AND value = ?",
            (scope.tenant, session, member.kind, str(member.id)),
        )
    return bool(rows)
