"""Sessions as the Sessions API makes, shows, changes and lists them: their settings, and who takes part."""

from collections.abc import Callable, Sequence

import msgspec

from proxy.errors import BadRequest, Conflict, NotFound
from proxy.resources import MemberKind, Page, SessionFields, Settings
from proxy.store import facets, keys, owners, sessions
from proxy.store.database import Database, Row, Tx
from proxy.store.facets import Facet
from proxy.store.sessions import is_uuid
from proxy.types import ROOT_BRANCH, Scope

MOST = 100
"""Agents of a session, and users: a turn reads them all."""

_encode = msgspec.json.encode
_fields = msgspec.json.Decoder(SessionFields).decode

Change = Callable[[Settings], Settings]
"""The session as it is, without its participants -> as it shall be. Pure; may be called twice. Its ids, name, times and
participants are not taken over."""


class Joining(msgspec.Struct, frozen=True, gc=False):
    """The agents and users that shall take part, by UUID."""

    agents: Sequence[str] = ()
    users: Sequence[str] = ()


async def create(db: Database, scope: Scope, new: Settings, joining: Joining) -> Settings:
    """Makes the session with an empty conversation. Raises Conflict for a name that is taken, BadRequest for a
    participant that the tenant does not have."""
    return await db.transaction(lambda tx: _create(tx, keys.owning(tx, scope, new.created_at), new, joining))


def _create(tx: Tx, scope: Scope, new: Settings, joining: Joining) -> Settings:
    if new.name is not None and is_uuid(new.name) and sessions.has_uuid(tx, scope, new.name):
        raise _taken()
    rows = tx.all(
        """INSERT INTO sessions (tenant, uuid, name, branch, branches, turns, token_budget, overflow, created_at,
                                 updated_at, dressed)
           VALUES (?, ?, ?, ?, 1, 0, ?, ?, ?, ?, 1) ON CONFLICT DO NOTHING RETURNING id""",
        (scope.tenant, new.uuid, new.name, ROOT_BRANCH, new.token_budget, new.overflow, new.created_at, new.updated_at),
    )
    if not rows:
        raise _taken()
    id = rows[0][0]
    sessions.begin(tx, scope, id, new.created_at)
    tx.all("INSERT INTO settings (tenant, session, body) VALUES (?, ?, ?)", (scope.tenant, id, _encode(new.fields)))
    _join(tx, scope, id, "agent", joining.agents)
    _join(tx, scope, id, "user", joining.users)
    return _indexed(tx, scope, msgspec.structs.replace(new, id=id))


def _taken() -> Conflict:
    return Conflict(
        "there is a session of this name or id already; choose another, or change that one with PATCH",
        code="session_exists",
        headers={"x-should-retry": "false"},
    )


def _join(tx: Tx, scope: Scope, session: int, kind: MemberKind, uuids: Sequence[str]) -> None:
    """Adds participants behind those that are there. Raises BadRequest for an unknown one, and beyond 100 of a kind."""
    have = tx.all(
        "SELECT count(*) FROM participants WHERE tenant = ? AND session = ? AND kind = ?", (scope.tenant, session, kind)
    )[0][0]
    if uuids and have + len(uuids) > MOST:
        raise BadRequest(f"a session has at most {MOST} {kind}s", param=f"{kind}s")
    for uuid in uuids:
        rows = tx.all(
            """INSERT INTO participants (tenant, session, kind, place, member)
               SELECT m.tenant, ?, m.kind, (SELECT coalesce(max(place), 0) + 1 FROM participants
                                            WHERE session = ? AND kind = m.kind), m.id
               FROM members m WHERE m.tenant = ? AND m.kind = ? AND m.uuid = ?
               ON CONFLICT DO NOTHING RETURNING member""",
            (session, session, scope.tenant, kind, uuid),
        )
        if not rows and not tx.all(
            "SELECT 1 FROM members WHERE tenant = ? AND kind = ? AND uuid = ?", (scope.tenant, kind, uuid)
        ):
            raise BadRequest(
                f"The specified participant ID is invalid for the given participant type during create: there is no "
                f"such {kind}",
                param=kind,
                code="invalid_participant",
            )


def _indexed(tx: Tx, scope: Scope, settings: Settings) -> Settings:
    """Writes what the session is listed by; gives the session with its participants."""
    rows = tx.all(
        """SELECT m.kind, m.uuid, m.id FROM participants p JOIN members m ON m.id = p.member
           WHERE p.tenant = ? AND p.session = ? ORDER BY p.kind, p.place""",
        (scope.tenant, settings.id),
    )
    found: list[Facet] = [facets.EVERY, *[(kind, str(id)) for kind, _, id in rows]]
    found += facets.of_metadata(settings.fields.metadata)
    facets.write(tx, scope, "session", settings.id, found, (settings.created_at, settings.updated_at))
    agents = tuple(uuid for kind, uuid, _ in rows if kind == "agent")
    users = tuple(uuid for kind, uuid, _ in rows if kind == "user")
    return msgspec.structs.replace(settings, agents=agents, users=users)


async def change(db: Database, scope: Scope, id: int, change: Change, joining: Joining, now: int) -> Settings:
    """Changes the session and adds participants. Raises NotFound when it is gone, BadRequest for an unknown
    participant."""

    def work(tx: Tx) -> Settings:
        rows = tx.all(
            """SELECT s.id, s.uuid, s.name, s.token_budget, s.overflow, s.created_at, s.updated_at, t.body
               FROM sessions s LEFT JOIN settings t ON t.session = s.id WHERE s.tenant = ? AND s.id = ?""",
            (scope.tenant, id),
        )
        if not rows:
            raise missing()
        old = _settings(rows[0])
        new = msgspec.structs.replace(
            change(old), id=id, uuid=old.uuid, name=old.name, created_at=old.created_at, updated_at=now
        )
        tx.all(
            """UPDATE sessions SET token_budget = ?, overflow = ?, updated_at = ?, dressed = 1
               WHERE tenant = ? AND id = ?""",
            (new.token_budget, new.overflow, now, scope.tenant, id),
        )
        tx.all(
            """INSERT INTO settings (tenant, session, body) VALUES (?, ?, ?)
               ON CONFLICT (session) DO UPDATE SET body = excluded.body""",
            (scope.tenant, id, _encode(new.fields)),
        )
        _join(tx, scope, id, "agent", joining.agents)
        _join(tx, scope, id, "user", joining.users)
        return _indexed(tx, scope, new)

    return await db.transaction(work)


async def find(db: Database, scope: Scope, name: str) -> Settings:
    """The session that the tenant calls `name`, or whose UUID that is. Raises NotFound."""
    rows = await db.all(
        """SELECT s.id, s.uuid, s.name, s.token_budget, s.overflow, s.created_at, s.updated_at, t.body
           FROM sessions s LEFT JOIN settings t ON t.session = s.id WHERE s.tenant = ? AND s.name = ?""",
        (scope.tenant, name),
    )
    if not rows and is_uuid(name):
        rows = await db.all(
            """SELECT s.id, s.uuid, s.name, s.token_budget, s.overflow, s.created_at, s.updated_at, t.body
               FROM sessions s LEFT JOIN settings t ON t.session = s.id WHERE s.tenant = ? AND s.uuid = ?""",
            (scope.tenant, name.lower()),
        )
    if not rows:
        raise missing()
    return (await _with_participants(db, scope, [_settings(rows[0])]))[0]


async def fields(db: Database, scope: Scope, session: int) -> SessionFields:
    """What is set on a session, by its number."""
    rows = await db.all("SELECT body FROM settings WHERE tenant = ? AND session = ?", (scope.tenant, session))
    return _fields(rows[0][0]) if rows else SessionFields()


async def page(db: Database, scope: Scope, where: Sequence[Facet], page: Page) -> list[Settings]:
    """One page of the tenant's sessions that have all the facets."""
    ids = await facets.page(db, scope, "session", where or [facets.EVERY], page)
    # The plus: SQLite would else walk through the tenant's sessions for those of the page.
    rows = await db.all(
        """SELECT s.id, s.uuid, s.name, s.token_budget, s.overflow, s.created_at, s.updated_at, t.body
           FROM sessions s LEFT JOIN settings t ON t.session = s.id
           WHERE +s.tenant = ? AND s.id IN (SELECT value FROM json_each(?))""",
        (scope.tenant, _encode(ids).decode()),
    )
    found = {row[0]: _settings(row) for row in rows}
    return await _with_participants(db, scope, [found[id] for id in ids if id in found])


async def _with_participants(db: Database, scope: Scope, sessions: Sequence[Settings]) -> list[Settings]:
    rows = await db.all(
        """SELECT p.session, p.kind, m.uuid FROM participants p JOIN members m ON m.id = p.member
           WHERE p.tenant = ? AND p.session IN (SELECT value FROM json_each(?)) ORDER BY p.session, p.kind, p.place""",
        (scope.tenant, _encode([session.id for session in sessions]).decode()),
    )
    of: dict[tuple[int, str], list[str]] = {}
    for session, kind, uuid in rows:
        of.setdefault((session, kind), []).append(uuid)
    return [
        msgspec.structs.replace(
            session, agents=tuple(of.get((session.id, "agent"), ())), users=tuple(of.get((session.id, "user"), ()))
        )
        for session in sessions
    ]


def _settings(row: Row) -> Settings:
    return Settings(*row[:7], fields=SessionFields() if row[7] is None else _fields(row[7]))


def missing() -> NotFound:
    """An unknown session and a foreign one get the same bytes."""
    return owners.missing("session")
