"""Tenants and their API keys."""

import pytest

from proxy.errors import BadRequest, NotFound
from proxy.store import keys, sessions, turns
from proxy.store.database import Database
from tests.store.saying import find, message, record

pytestmark = pytest.mark.anyio


async def test_a_key_opens_its_tenant_in_its_role(db: Database) -> None:
    await keys.create(db, "acme", "user", b"sp-1", 5)
    await keys.create(db, "acme", "admin", b"sp-2", 6)
    await keys.create(db, "other", "user", b"sp-3", 7)
    scopes = [await keys.scope_of(db, key) for key in (b"sp-1", b"sp-2", b"sp-3")]
    assert [scope.role for scope in scopes if scope] == ["user", "admin", "user"]
    tenants = [scope.tenant for scope in scopes if scope]
    assert tenants[0] == tenants[1] != tenants[2]
    assert 1 not in tenants, "the tenant of auth.mode open"


@pytest.mark.parametrize("key", [b"", b"sp-", b"sp-2", b"SP-1", b"sp-1 ", b"sp-1\0", b"\xff"])
async def test_any_other_key_opens_nothing(db: Database, key: bytes) -> None:
    await keys.create(db, "acme", "user", b"sp-1", 5)
    assert await keys.scope_of(db, key) is None


async def test_keys_are_stored_hashed(db: Database) -> None:
    name = await keys.create(db, "acme", "user", b"sp-secret", 5)
    scope = await keys.passthrough_scope(db, b"sk-secret")
    await turns.append(db, scope, record("s", None, [message("q")]))
    assert "sk-secret" not in repr(scope)
    stored = [*await db.all("SELECT * FROM keys"), *await db.all("SELECT * FROM tenants")]
    assert "secret" not in repr(stored)
    assert "secret" not in name


async def test_keys_are_listed_in_the_order_they_were_made(db: Database) -> None:
    first = await keys.create(db, "acme", "user", b"sp-1", 5)
    second = await keys.create(db, "other", "admin", b"sp-2", 6)
    await keys.revoke(db, first, 9)
    assert await keys.listed(db) == [
        keys.Key(first, "acme", "user", 5, 9), keys.Key(second, "other", "admin", 6, None),
    ]  # fmt: skip


async def test_a_revoked_key_opens_nothing_and_cannot_be_revoked_again(db: Database) -> None:
    name = await keys.create(db, "acme", "user", b"sp-1", 5)
    await keys.create(db, "acme", "user", b"sp-2", 5)
    await keys.revoke(db, name, 9)
    assert await keys.scope_of(db, b"sp-1") is None
    assert await keys.scope_of(db, b"sp-2") is not None
    for unknown in (name, "sk_nothing"):
        with pytest.raises(NotFound):
            await keys.revoke(db, unknown, 10)


# --- auth.mode passthrough: the client's own key upstream is who it is ---


async def owner(db: Database, credential: bytes) -> int:
    return (await keys.passthrough_scope(db, credential)).tenant


async def test_an_upstream_key_leaves_nothing_before_its_first_turn(db: Database) -> None:
    """Anybody can send any key: only a turn that was answered makes a tenant."""
    before = await db.all("SELECT * FROM tenants")
    scopes = [await keys.passthrough_scope(db, key) for key in (b"sk-a", b"sk-b", b"sk-a")]
    assert scopes[0] == scopes[2] != scopes[1]
    assert [scope.credential for scope in scopes] == [b"sk-a", b"sk-b", b"sk-a"]
    assert await db.all("SELECT * FROM tenants") == before
    assert await sessions.find(db, scopes[0], "s") is None


async def test_a_first_turn_makes_the_tenant_of_its_key(db: Database) -> None:
    mine, theirs = await keys.passthrough_scope(db, b"sk-a"), await keys.passthrough_scope(db, b"sk-b")
    await turns.append(db, mine, record("s", None, [message("q")]))
    again = await keys.passthrough_scope(db, b"sk-a")
    assert again.tenant > 1
    found = await sessions.find(db, again, "s")
    assert found is not None
    assert await sessions.find(db, theirs, "s") is None
    await turns.append(db, theirs, record("s", None, [message("q")]))
    assert (await find(db, "s", await keys.passthrough_scope(db, b"sk-b")))[0].id != found[0].id


async def test_a_rotated_key_takes_its_tenant_and_its_sessions_along(db: Database) -> None:
    await turns.append(db, await keys.passthrough_scope(db, b"sk-old"), record("s", None, [message("q")]))
    old = await owner(db, b"sk-old")
    await keys.rebind(db, b"sk-old", b"sk-new")
    assert await owner(db, b"sk-new") == old
    assert await owner(db, b"sk-old") != old
    assert await sessions.find(db, await keys.passthrough_scope(db, b"sk-new"), "s") is not None


async def test_a_tenant_is_moved_onto_no_other(db: Database) -> None:
    for key in (b"sk-old", b"sk-new"):
        await turns.append(db, await keys.passthrough_scope(db, key), record("s", None, [message("q")]))
    before = [await owner(db, key) for key in (b"sk-old", b"sk-new")]
    with pytest.raises(BadRequest):
        await keys.rebind(db, b"sk-old", b"sk-new")
    with pytest.raises(NotFound):
        await keys.rebind(db, b"sk-nobody", b"sk-other")
    assert [await owner(db, key) for key in (b"sk-old", b"sk-new")] == before
