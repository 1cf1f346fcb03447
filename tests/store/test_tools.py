"""Tools of agents and sessions."""

from typing import Any

import msgspec
import pytest

from proxy.errors import BadRequest, Conflict, NotFound, ProxyError
from proxy.resources import Owner, Tool
from proxy.store import members, sessions, tools
from proxy.store.database import Database
from tests.store.making import everything, fails, give, member, owner, session, tool
from tests.store.saying import ME, find, say, tenant

pytestmark = pytest.mark.anyio


@pytest.fixture
async def of(db: Database) -> Owner:
    return owner(await member(db, "ada"))


def to(**fields: Any) -> Any:
    return lambda old: msgspec.structs.replace(old, **fields)


async def names(db: Database, *owners: Owner) -> list[str]:
    return [one.name for one in await tools.every(db, ME, owners)]


async def test_tools_are_listed_as_they_were_made_owner_by_owner(db: Database, of: Owner) -> None:
    chat = owner(await session(db, "s"))
    assert chat.id == of.id, "they are told apart all the same"
    made = [await tools.create(db, ME, of, tool(name, now=5, body=b'{"a":1}')) for name in ("zoo", "ant", "cat")]
    theirs = await tools.create(db, ME, chat, tool("ant", uuid="other"))
    assert made[0] == Tool(made[0].id, "tool zoo", "zoo", 5, 5, b'{"a":1}')
    assert await tools.every(db, ME, [chat, of]) == [theirs, *made]
    assert await tools.every(db, ME, [of]) == made
    assert await tools.every(db, ME, []) == []


async def test_a_name_is_given_once_to_an_owner(db: Database, of: Owner) -> None:
    await give(db, of, "look")
    before = await everything(db)
    with pytest.raises(Conflict, match="look") as caught:
        await tools.create(db, ME, of, tool("look", uuid="another"))
    assert (caught.value.code, caught.value.headers) == ("tool_exists", {"x-should-retry": "false"})
    assert await everything(db) == before
    await give(db, of, "Look")
    await give(db, owner(await member(db, "bob")), "look")


async def test_an_owner_has_128_tools_and_no_more(db: Database, of: Owner) -> None:
    for n in range(tools.MOST):
        await give(db, of, f"t{n}")
    with pytest.raises(BadRequest, match="128 tools already"):
        await give(db, of, "one more")
    assert await names(db, of) == [f"t{n}" for n in range(tools.MOST)]
    await tools.delete(db, ME, of, (await tools.every(db, ME, [of]))[5].uuid)
    await give(db, of, "one more")


async def test_a_change_takes_over_name_and_body_and_nothing_else(db: Database, of: Owner) -> None:
    made = await give(db, of, "look")
    changed = await tools.change(db, ME, of, made.uuid, lambda _: Tool(99, "x", "see", 7, 8, b"new"), 9)
    assert changed == Tool(made.id, made.uuid, "see", 1, 9, b"new")
    assert await tools.every(db, ME, [of]) == [changed]
    same = await tools.change(db, ME, of, made.uuid, to(body=b"newer"), 10)
    assert (same.name, same.body, same.updated_at) == ("see", b"newer", 10)


async def test_a_change_to_a_name_that_is_taken_is_refused(db: Database, of: Owner) -> None:
    look, see = await give(db, of, "look"), await give(db, of, "see")
    before = await everything(db)
    with pytest.raises(Conflict, match="look"):
        await tools.change(db, ME, of, see.uuid, to(name="look"), 9)
    with pytest.raises(ProxyError, match="no"):
        await tools.change(db, ME, of, look.uuid, fails(ProxyError("no")), 9)
    assert await everything(db) == before


async def test_an_unknown_tool_and_a_foreign_one_are_not_found_alike(db: Database, of: Owner) -> None:
    other = await tenant(db, "other")
    theirs = owner(await member(db, "a", scope=other))
    foreign = await give(db, theirs, "look", scope=other)
    bobs = await give(db, owner(await member(db, "bob")), "look")
    before = await everything(db)
    told = set()
    for whose in (of, theirs):
        for uuid in (foreign.uuid, bobs.uuid, "nowhere", "", "' OR 1=1 --"):
            for asked in (
                tools.change(db, ME, whose, uuid, to(name="x"), 9),
                tools.delete(db, ME, whose, uuid),
            ):
                with pytest.raises(NotFound) as caught:
                    await asked
                told.add((caught.value.message, caught.value.code))
    assert len(told) == 1
    assert await names(db, theirs) == []
    assert await everything(db) == before


async def test_a_tool_that_is_deleted_is_gone(db: Database, of: Owner) -> None:
    made = await give(db, of, "look")
    await give(db, of, "see")
    await tools.delete(db, ME, of, made.uuid)
    assert await names(db, of) == ["see"]
    with pytest.raises(NotFound):
        await tools.delete(db, ME, of, made.uuid)
    await give(db, of, "look")
    assert await names(db, of) == ["see", "look"]


async def test_nothing_is_given_to_an_owner_who_is_gone_or_anothers(db: Database) -> None:
    other = await tenant(db, "other")
    agent, chat = await member(db, "a"), await session(db, "s")
    await members.delete(db, ME, "agent", "a")
    await sessions.delete(db, ME, chat.id)
    theirs = [await member(db, "a", scope=other), await session(db, "s", scope=other)]
    before = await everything(db)
    for whose in (agent, chat, *theirs):
        with pytest.raises(NotFound) as caught:
            await give(db, owner(whose), "look")
        assert caught.value.code == f"{owner(whose).kind}_not_found"
    assert await everything(db) == before


async def test_a_sessions_tool_dresses_it(db: Database, of: Owner) -> None:
    said, _ = await say(db, "chat", "q", "a")
    await give(db, of, "look")
    assert not (await find(db, "chat"))[0].dressed
    await give(db, Owner("session", said.id, said.uuid), "look")
    assert (await find(db, "chat"))[0].dressed
