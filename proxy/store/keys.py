"""Tenants and their API keys. A key is shown once and stored as its SHA-256."""

import hashlib
from dataclasses import dataclass

from proxy.errors import BadRequest, NotFound
from proxy.store.database import Database, Tx
from proxy.types import Scope


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    tenant: str
    role: str
    created_at: int
    revoked_at: int | None


def hashed(key: bytes) -> bytes:
    """What is stored of a key. Keys are 256 random bits, so that a plain hash needs no salt and no stretching."""
    return hashlib.sha256(key).digest()


async def scope_of(db: Database, key: bytes) -> Scope | None:
    """Who a key belongs to; None for an unknown or revoked one. The only query without a tenant: it finds it."""
    rows = await db.all("SELECT tenant, role FROM keys WHERE hash = ? AND revoked_at IS NULL", (hashed(key),))
    return Scope(rows[0][0], rows[0][1]) if rows else None


async def passthrough_scope(db: Database, credential: bytes) -> Scope:
    """Whose upstream key it is in `passthrough` mode."""
    name = passthrough_name(credential)
    rows = await db.all("SELECT id FROM tenants WHERE name = ?", (name,))
    tenant = rows[0][0] if rows else -int.from_bytes(hashed(credential)[:7], "big") - 1
    return Scope(tenant, name=name, credential=credential)


async def named(db: Database, name: str) -> Scope | None:
    """The tenant of that name, if there is one."""
    rows = await db.all("SELECT id FROM tenants WHERE name = ?", (name,))
    return Scope(rows[0][0]) if rows else None


def passthrough_name(credential: bytes) -> str:
    return "key:" + hashed(credential).hex()


def tenant(tx: Tx, name: str, now: int) -> int:
    """The number of a tenant, made if it is new."""
    tx.all("INSERT INTO tenants (name, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, now))
    return tx.all("SELECT id FROM tenants WHERE name = ?", (name,))[0][0]


def owning(tx: Tx, scope: Scope, now: int) -> Scope:
    """The scope under its tenant's number; the tenant of `passthrough` mode is made with the first thing it owns."""
    return scope if scope.tenant > 0 else Scope(tenant(tx, scope.name, now), scope.role, scope.name, scope.credential)


async def create(db: Database, owner: str, role: str, key: bytes, now: int) -> str:
    """Stores a key of the tenant `owner` (made if new) and returns the key's id."""
    mark = hashed(key)
    name = "sk_" + mark.hex()[:12]

    def work(tx: Tx) -> str:
        number = tenant(tx, owner, now)
        tx.all(
            "INSERT INTO keys (id, tenant, role, hash, created_at) VALUES (?, ?, ?, ?, ?)",
            (name, number, role, mark, now),
        )
        return name

    return await db.transaction(work)


async def listed(db: Database) -> list[Key]:
    """All keys of all tenants, oldest first, revoked ones among them."""
    rows = await db.all(
        """SELECT k.id, t.name, k.role, k.created_at, k.revoked_at
           FROM keys k JOIN tenants t ON t.id = k.tenant ORDER BY k.created_at, k.id"""
    )
    return [Key(*row) for row in rows]


async def revoke(db: Database, name: str, now: int) -> None:
    """From the next request on the key is refused. NotFound when there is no such live key."""
    rows = await db.transaction(
        lambda tx: tx.all(
            "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL RETURNING id", (now, name)
        )
    )
    if not rows:
        raise NotFound(f"there is no live key {name}; `session-proxy keys list` shows them", param="id")


async def rebind(db: Database, old: bytes, new: bytes) -> None:
    """Moves the tenant of a rotated upstream key (`passthrough` mode) to the new key."""

    def work(tx: Tx) -> None:
        if tx.all("SELECT 1 FROM tenants WHERE name = ?", (passthrough_name(new),)):
            raise BadRequest("the new key owns sessions already; a tenant cannot be moved onto another", param="new")
        moved = tx.all(
            "UPDATE tenants SET name = ? WHERE name = ? RETURNING id", (passthrough_name(new), passthrough_name(old))
        )
        if not moved:
            raise NotFound("no tenant belongs to the old key", param="old")

    await db.transaction(work)
