"""Agents and users: made, read, changed, listed and deleted."""

from typing import Any

import pytest

from proxy.errors import NotFound, ProxyError
from proxy.resources import Member, MemberKind, Owner, Page
from proxy.store import docs, facets, members, settings, tools
from proxy.store.database import Database
from proxy.store.settings import Joining
from proxy.types import Scope
from tests.store.making import body, doc, everything, fails, give, member, owner, session, uuids
from tests.store.saying import ME, say, tenant

pytestmark = pytest.mark.anyio

KINDS: list[MemberKind] = ["agent", "user"]


async def listed(db: Database, kind: MemberKind, scope: Scope = ME, **metadata: Any) -> list[str]:
    return uuids(await members.page(db, scope, kind, facets.of_metadata(metadata), Page()))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_member_is_made_once_and_then_changed(db: Database, kind: MemberKind) -> None:
    made = await member(db, "a", kind, now=5, name="Ada")
    assert made == Member(made.id, kind, "a", 5, 5, b'{"name":"Ada"}')
    assert await members.find(db, ME, kind, "a") == made
    again = await member(db, "a", kind, now=7, name="Bob")
    assert again == Member(made.id, kind, "a", 5, 7, b'{"name":"Bob"}')
    assert await members.find(db, ME, kind, "a") == again
    changed = await members.change(db, ME, kind, "a", body(name="Cid"), 9)
    assert changed == await members.find(db, ME, kind, "a") == Member(made.id, kind, "a", 5, 9, b'{"name":"Cid"}')


async def test_a_change_is_given_what_stands_there(db: Database) -> None:
    seen: list[bytes | None] = []

    def change(old: bytes | None) -> tuple[bytes, list[facets.Facet]]:
        seen.append(old)
        return (old or b"") + b"x", []

    await members.put(db, ME, "user", "u", members.New(change), 1)
    await members.put(db, ME, "user", "u", members.New(change), 2)
    await members.change(db, ME, "user", "u", change, 3)
    assert seen == [None, b"x", b"xx"]


async def test_agents_and_users_are_apart(db: Database) -> None:
    agent, user = await member(db, "same", "agent"), await member(db, "same", "user")
    assert agent.id != user.id
    assert (await listed(db, "agent"), await listed(db, "user")) == (["same"], ["same"])
    await members.delete(db, ME, "agent", "same")
    assert (await listed(db, "agent"), await listed(db, "user")) == ([], ["same"])


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_member_and_a_foreign_one_are_not_found_alike(db: Database, kind: MemberKind) -> None:
    other = await tenant(db, "other")
    await member(db, "theirs", kind, scope=other)
    await member(db, "mine", "user" if kind == "agent" else "agent")
    told = set()
    for uuid in ("theirs", "mine", "nowhere", "", "' OR 1=1 --"):
        for asked in (
            members.find(db, ME, kind, uuid),
            members.change(db, ME, kind, uuid, body(), 1),
            members.delete(db, ME, kind, uuid),
        ):
            with pytest.raises(NotFound) as caught:
                await asked
            told.add((caught.value.message, caught.value.code))
    assert len(told) == 1
    assert await listed(db, kind, other) == ["theirs"]


async def test_members_are_listed_by_metadata(db: Database) -> None:
    await member(db, "a", now=1, metadata={"team": {"name": "x"}, "tags": ["red", "blue"]})
    await member(db, "b", now=2, metadata={"team": {"name": "y"}, "tags": ["red"]})
    await member(db, "c", "user", now=3, metadata={"tags": ["red"]})
    assert await listed(db, "agent") == ["b", "a"]
    assert await listed(db, "agent", tags="red") == ["b", "a"]
    assert await listed(db, "agent", tags="red", team={"name": "x"}) == ["a"]
    assert await listed(db, "agent", tags=["red", "blue"]) == ["a"]
    assert await listed(db, "user", tags="red") == ["c"]


async def test_a_change_of_metadata_and_time_shows_in_the_lists(db: Database) -> None:
    for n, uuid in enumerate("abc"):
        await member(db, uuid, now=n, metadata={"v": 1})
    await members.change(db, ME, "agent", "a", body(metadata={"v": 2}), 9)
    assert await listed(db, "agent", v=1) == ["c", "b"]
    assert await listed(db, "agent", v=2) == ["a"]
    page = Page(sort_by="updated_at")
    assert uuids(await members.page(db, ME, "agent", [], page)) == ["a", "c", "b"]
    assert await listed(db, "agent") == ["c", "b", "a"]


async def test_a_change_that_fails_leaves_all_as_it_was(db: Database) -> None:
    await member(db, "a", metadata={"v": 1})
    before = await everything(db)
    nobody = Scope(-5, name="key:new")
    for asked in (
        members.put(db, ME, "agent", "a", members.New(fails(ProxyError("no"))), 9),
        members.put(db, ME, "agent", "new", members.New(fails(ProxyError("no"))), 9),
        members.put(db, nobody, "agent", "new", members.New(fails(ProxyError("no"))), 9),
        members.change(db, ME, "agent", "a", fails(ProxyError("no")), 9),
    ):
        with pytest.raises(ProxyError, match="no"):
            await asked
    assert await everything(db) == before


async def test_the_first_member_of_a_new_tenant_makes_the_tenant(db: Database) -> None:
    nobody = Scope(-5, name="key:new")
    assert await listed(db, "agent", nobody) == []
    made = await member(db, "a", scope=nobody)
    await member(db, "a", scope=nobody, now=2)
    rows = await db.all("SELECT id FROM tenants WHERE name = 'key:new'")
    found = Scope(rows[0][0])
    assert (await members.find(db, found, "agent", "a")).id == made.id
    assert (await listed(db, "agent", found), await listed(db, "agent")) == (["a"], [])


async def test_those_who_take_part_come_in_the_order_in_which_they_were_added(db: Database) -> None:
    for kind in KINDS:
        for uuid in "cab":
            await member(db, f"{kind} {uuid}", kind)
    made = await session(db, "s", joining=Joining(["agent b", "agent c"], ["user c"]))
    await settings.change(db, ME, made.id, lambda old: old, Joining(["agent a"], ["user a"]), 2)
    found = await members.taking_part(db, ME, made.id)
    assert uuids(found) == ["agent b", "agent c", "agent a", "user c", "user a"]
    assert await members.taking_part(db, ME, made.id + 1) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_with_a_member_goes_all_that_hangs_on_it(db: Database, kind: MemberKind) -> None:
    """What others have stays: the member before it, of the same number as a session, and those whose number begins
    alike."""
    kept = [await member(db, f"kept {n}", kind, metadata={"v": 1}) for n in range(11)]
    first = await session(db, "s", joining=Joining(uuids(kept)) if kind == "agent" else Joining((), uuids(kept)))
    for of in (owner(kept[0]), Owner("session", 12, "s")):
        if of.kind == kind:
            await doc(db, of, "We ship to France")
            await give(db, of, "look")
    await say(db, "s", "q", "a")
    before = await everything(db)

    gone = await member(db, "gone", kind, metadata={"v": 1, "w": [1, 2]})
    await doc(db, owner(gone), "We ship to France", "We ship to Spain", v=1)
    await give(db, owner(gone), "look")
    joining = Joining([gone.uuid]) if kind == "agent" else Joining((), [gone.uuid])
    await settings.change(db, ME, first.id, lambda old: old, joining, first.updated_at)
    assert (kind, str(gone.id)) in await db.all("SELECT key, value FROM facets WHERE kind = 'session'")
    await members.delete(db, ME, kind, "gone")
    assert await everything(db) == before
    assert uuids(await members.taking_part(db, ME, first.id)) == uuids(kept)
    for where in ([(kind, str(gone.id))], [(kind, str(gone.id)), facets.EVERY]):
        assert await settings.page(db, ME, where, Page()) == []


async def test_what_went_with_a_member_is_not_found_by_a_new_one(db: Database) -> None:
    """Numbers are not given twice."""
    old = await member(db, "a")
    await doc(db, owner(old), "We ship to France")
    await give(db, owner(old), "look")
    await members.delete(db, ME, "agent", "a")
    of = owner(await member(db, "a"))
    assert of.id != old.id
    assert await docs.page(db, ME, of, [], Page()) == []
    assert await docs.holding(db, ME, [of, owner(old)], "ship") == []
    assert await tools.every(db, ME, [of]) == []
