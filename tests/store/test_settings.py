"""Sessions as the Sessions API has them: made, changed, shown, listed; and who takes part."""

import asyncio
from typing import Any

import msgspec
import pytest

from proxy.errors import BadRequest, Conflict, NotFound, ProxyError
from proxy.resources import Page, SessionFields, Settings
from proxy.store import facets, members, sessions, settings, turns
from proxy.store.database import Database
from proxy.store.facets import Facet
from proxy.store.settings import Joining
from proxy.types import Scope
from tests.store.making import JOINING, doc, everything, fails, give, member, new, owner, session, uuids
from tests.store.saying import ME, find, message, record, say, tenant

pytestmark = pytest.mark.anyio

UUID = "12345678-1234-4234-8234-123456789012"


async def listed(db: Database, *where: Facet, scope: Scope = ME, **page: Any) -> list[str]:
    return uuids(await settings.page(db, scope, where, Page(**page)))


def with_fields(**fields: Any) -> settings.Change:
    return lambda old: msgspec.structs.replace(old, fields=msgspec.structs.replace(old.fields, **fields))


async def change(db: Database, id: int, how: settings.Change, now: int = 9, joining: Joining = JOINING) -> Settings:
    return await settings.change(db, ME, id, how, joining, now)


# --- made and found ---


async def test_a_session_is_found_as_it_was_made(db: Database) -> None:
    fields = SessionFields(situation="At sea", render_templates=False, metadata={"a": [1, {"b": None}]})
    given = Settings(0, UUID, "boat", 500, "truncate", 5, 6, fields)
    made = await settings.create(db, ME, given, JOINING)
    assert made == msgspec.structs.replace(given, id=made.id)
    assert await settings.find(db, ME, "boat") == await settings.find(db, ME, UUID) == made
    assert await settings.page(db, ME, [], Page()) == [made]
    assert await settings.fields(db, ME, made.id) == fields


async def test_a_session_made_here_takes_turns(db: Database) -> None:
    made = await session(db, UUID, name="boat")
    found = await find(db, "boat")
    assert (found[0].id, found[0].uuid, found[0].turns, found[0].dressed) == (made.id, UUID, 0, True)
    assert (found[1].number, found[1].head, found[1].total) == (1, 0, 0)
    session_, branch = await say(db, "boat", "q", "a")
    assert (session_.turns, branch.head) == (1, 2)
    unnamed = await session(db, "11111111-1111-4111-8111-111111111111")
    await turns.append(db, ME, record("", await find(db, unnamed.uuid), [message("q")]))
    assert (await find(db, unnamed.uuid))[1].head == 1


async def test_a_session_made_by_a_turn_is_listed_and_found(db: Database) -> None:
    said, _ = await say(db, "chat", "q", "a", now=5)
    await session(db, "later", now=6)
    shown = Settings(said.id, said.uuid, "chat", None, None, 5, 5, SessionFields())
    assert await settings.find(db, ME, "chat") == shown
    assert await settings.page(db, ME, [], Page(offset=1)) == [shown]
    assert await settings.fields(db, ME, said.id) == SessionFields()
    assert not said.dressed


async def test_a_session_made_by_a_turn_can_be_changed(db: Database) -> None:
    agent = await member(db, "a")
    said, _ = await say(db, "chat", "q", "a", now=5)
    changed = await change(db, said.id, with_fields(metadata={"v": 1}), 7, Joining([agent.uuid]))
    assert (changed.created_at, changed.updated_at, changed.agents) == (5, 7, ("a",))
    assert await settings.find(db, ME, "chat") == changed
    assert await listed(db, ("m:v", "1"), ("agent", str(agent.id))) == [said.uuid]
    assert (await find(db, "chat"))[0].dressed


async def test_a_turn_moves_its_session_to_the_front_of_what_was_changed(db: Database) -> None:
    made = await session(db, UUID, now=1, name="old", metadata={"v": 1})
    await session(db, "newer", now=2, metadata={"v": 1})
    await say(db, "newest", "q", "a", now=3)
    await say(db, "old", "q", "a", now=4)
    assert (await settings.find(db, ME, "old")).updated_at == 4
    newest = (await find(db, "newest"))[0].uuid
    assert await listed(db, sort_by="updated_at") == [made.uuid, newest, "newer"]
    assert await listed(db, ("m:v", "1"), sort_by="updated_at") == [made.uuid, "newer"]
    assert await listed(db) == [newest, "newer", made.uuid]


@pytest.mark.parametrize("again", [new(UUID), new("other", name="boat"), new(UUID, name="boat")])
async def test_a_name_or_an_id_that_is_taken_is_refused(db: Database, again: Settings) -> None:
    await session(db, UUID, name="boat")
    before = await everything(db)
    with pytest.raises(Conflict) as caught:
        await settings.create(db, ME, again, JOINING)
    assert (caught.value.code, caught.value.headers) == ("session_exists", {"x-should-retry": "false"})
    assert await everything(db) == before
    other = await tenant(db, "other")
    assert (await settings.create(db, other, again, JOINING)).id


async def test_a_name_that_a_chat_has_taken_is_refused(db: Database) -> None:
    await say(db, "chat", "q", "a")
    with pytest.raises(Conflict):
        await session(db, UUID, name="chat")


async def test_an_unknown_session_and_a_foreign_one_are_not_found_alike(db: Database) -> None:
    other = await tenant(db, "other")
    theirs = await session(db, UUID, scope=other, name="boat", metadata={"v": 1})
    told = set()
    for asked in (
        settings.find(db, ME, UUID), settings.find(db, ME, "boat"), settings.find(db, ME, "nowhere"),
        settings.find(db, ME, ""), settings.change(db, ME, theirs.id, with_fields(), JOINING, 9),
        settings.change(db, ME, 999, with_fields(), JOINING, 9),
    ):  # fmt: skip
        with pytest.raises(NotFound) as caught:
            await asked
        told.add((caught.value.message, caught.value.code))
    assert len(told) == 1
    assert await listed(db) == await listed(db, ("m:v", "1")) == []
    assert await settings.fields(db, ME, theirs.id) == SessionFields()
    assert await settings.find(db, other, UUID) == theirs


async def test_the_first_session_of_a_new_tenant_makes_the_tenant(db: Database) -> None:
    nobody = Scope(-5, name="key:new")
    assert await listed(db, scope=nobody) == []
    with pytest.raises(BadRequest):
        await session(db, "s", scope=nobody, joining=Joining(["nowhere"]))
    assert await db.all("SELECT * FROM tenants WHERE name = 'key:new'") == []
    await session(db, "s", scope=nobody)
    rows = await db.all("SELECT id FROM tenants WHERE name = 'key:new'")
    assert await listed(db, scope=Scope(rows[0][0])) == ["s"]


# --- changed ---


async def test_a_change_takes_over_what_is_set_and_nothing_else(db: Database) -> None:
    agent = await member(db, "a")
    made = await session(db, UUID, now=5, name="boat", joining=Joining(["a"]), situation="At sea", metadata={"v": 1})

    def all_new(_: Settings) -> Settings:
        return Settings(99, "x", "y", 7, "truncate", 70, 80, SessionFields(metadata={"v": 2}), ("b",), ("c",))

    changed = await change(db, made.id, all_new)
    assert changed == Settings(
        made.id, UUID, "boat", 7, "truncate", 5, 9, SessionFields(metadata={"v": 2}), (agent.uuid,)
    )
    assert await settings.find(db, ME, UUID) == changed
    assert (await listed(db, ("m:v", "1")), await listed(db, ("m:v", "2"))) == ([], [UUID])


async def test_a_change_is_given_the_session_as_it_is(db: Database) -> None:
    made = await session(db, UUID, name="boat", situation="At sea")
    seen: list[Settings] = []
    await change(db, made.id, lambda old: seen.append(old) or with_fields(situation="Ashore")(old), 8)
    await change(db, made.id, lambda old: seen.append(old) or old)
    assert [(old.id, old.uuid, old.name, old.updated_at, old.fields.situation) for old in seen] == [
        (made.id, UUID, "boat", 1, "At sea"), (made.id, UUID, "boat", 8, "Ashore"),
    ]  # fmt: skip


async def test_a_change_that_fails_leaves_all_as_it_was(db: Database) -> None:
    await member(db, "a")
    made = await session(db, UUID, metadata={"v": 1})
    before = await everything(db)
    large = {f"k{n}": n for n in range(257)}
    for joining, how in (
        (Joining(["a"]), fails(ProxyError("no"))),
        (Joining(["a", "nowhere"]), with_fields(metadata={"v": 2})),
        (Joining(["a"]), with_fields(metadata=large)),
    ):
        with pytest.raises(ProxyError):
            await change(db, made.id, how, 9, joining)
    with pytest.raises(BadRequest, match="256"):
        await session(db, "new", joining=Joining(["a"]), metadata=large)
    assert await everything(db) == before


async def test_changes_of_one_session_at_once_each_see_the_one_before(db: Database) -> None:
    made = await session(db, UUID, metadata={"n": 0})

    def more(old: Settings) -> Settings:
        return with_fields(metadata={"n": old.fields.metadata["n"] + 1})(old)

    await asyncio.gather(*(settings.change(db, ME, made.id, more, JOINING, n) for n in range(20)))
    assert await listed(db, ("m:n", "20")) == [UUID]


# --- who takes part ---


async def test_participants_stand_in_the_order_in_which_they_were_added_and_once(db: Database) -> None:
    for uuid in "abc":
        await member(db, f"agent {uuid}")
        await member(db, f"user {uuid}", "user")
    joining = Joining(["agent c", "agent a", "agent c"], ["user b", "user b"])
    made = await session(db, UUID, joining=joining)
    assert (made.agents, made.users) == (("agent c", "agent a"), ("user b",))
    changed = await change(db, made.id, with_fields(), 9, Joining(["agent a", "agent b", "agent c"], ["user a"]))
    assert (changed.agents, changed.users) == (("agent c", "agent a", "agent b"), ("user b", "user a"))
    assert await settings.find(db, ME, UUID) == changed
    assert await settings.page(db, ME, [], Page()) == [changed]


async def test_who_left_and_comes_back_stands_last(db: Database) -> None:
    for uuid in "abc":
        await member(db, uuid)
    made = await session(db, UUID, joining=Joining(["a", "b", "c"]))
    await members.delete(db, ME, "agent", "a")
    assert (await settings.find(db, ME, UUID)).agents == ("b", "c")
    again = await member(db, "a")
    changed = await change(db, made.id, with_fields(), 9, Joining(["a"]))
    assert changed.agents == ("b", "c", "a")
    assert await listed(db, ("agent", str(again.id))) == [UUID]


async def test_only_members_of_the_tenant_and_of_the_kind_take_part(db: Database) -> None:
    other = await tenant(db, "other")
    await member(db, "theirs", scope=other)
    await member(db, "a user", "user")
    await member(db, "mine")
    before = await everything(db)
    told = set()
    for uuid in ("theirs", "nowhere", "a user", ""):
        with pytest.raises(BadRequest) as caught:
            await session(db, UUID, joining=Joining(["mine", uuid]))
        told.add((caught.value.message, caught.value.param, caught.value.code))
    assert len(told) == 1
    with pytest.raises(BadRequest):
        await session(db, UUID, joining=Joining((), ["mine"]))
    assert await everything(db) == before


async def test_sessions_are_listed_by_who_takes_part(db: Database) -> None:
    ada, bob = await member(db, "ada"), await member(db, "bob")
    user = await member(db, "user", "user")
    for n, (agents, users) in enumerate([(["ada"], []), (["bob", "ada"], ["user"]), (["bob"], ["user"]), ([], [])]):
        await session(db, f"s{n}", now=n, joining=Joining(agents, users), metadata={"n": n})
    by = {"ada": ("agent", str(ada.id)), "bob": ("agent", str(bob.id)), "user": ("user", str(user.id))}
    assert await listed(db, by["ada"]) == ["s1", "s0"]
    assert await listed(db, by["ada"], by["bob"]) == ["s1"]
    assert await listed(db, by["bob"], by["user"], ("m:n", "2")) == ["s2"]
    assert await listed(db, ("user", str(ada.id))) == []


# --- deleted ---


async def test_with_a_session_goes_all_that_hangs_on_it(db: Database) -> None:
    agent, user = await member(db, "a"), await member(db, "u", "user")
    kept = await session(db, "kept", name="kept", joining=Joining(["a"], ["u"]), metadata={"v": 1})
    for of in (owner(kept), owner(agent), owner(user)):
        await doc(db, of, "We ship to France", v=1)
        await give(db, of, "look")
    await say(db, "kept", "q", "a", key="k", answer=b"x")
    before = await everything(db)

    gone = await session(db, UUID, name="gone", joining=Joining(["a"], ["u"]), metadata={"v": 1, "w": [1, 2]})
    await doc(db, owner(gone), "We ship to France", "and Spain", v=1)
    await give(db, owner(gone), "look")
    found = await say(db, "gone", "q", "a", key="k", answer=b"x")
    await turns.append(db, ME, record("gone", found, [message("q2")], fork_at=1))
    assert await sessions.delete(db, ME, gone.id)
    assert await everything(db) == before
    assert await listed(db) == await listed(db, ("m:v", "1"), facets.EVERY) == ["kept"]


async def test_a_session_that_is_gone_is_not_changed_by_what_comes_late(db: Database) -> None:
    made = await session(db, UUID, name="gone")
    found = await find(db, "gone")
    await sessions.delete(db, ME, made.id)
    before = await everything(db)
    with pytest.raises(NotFound):
        await change(db, made.id, with_fields())
    with pytest.raises(Conflict):
        await turns.append(db, ME, record("gone", found, [message("q")]))
    assert await everything(db) == before
