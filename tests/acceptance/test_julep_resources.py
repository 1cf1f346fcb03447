"""The julep SDK, unchanged: agents, users, tools and the rest that is made, read, changed, listed and deleted."""

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import julep
import pytest

from tests.acceptance.asking import MODEL, served
from tests.acceptance.julep_client import Sdk, connected, root
from tests.acceptance.stage import Stage, Talk
from tests.scripted import echoes, says, scripted_upstream

pytestmark = pytest.mark.anyio

CLOCK: Any = {"name": "clock", "type": "function", "function": {"parameters": {"type": "object", "properties": {}}}}


async def gone(sdk: Sdk, method: str, *args: Any, **given: Any) -> None:
    """What was deleted is not found any more."""
    with pytest.raises(julep.NotFoundError):
        await sdk(method, *args, **given)


# --- agents ---


async def test_an_agent_is_made_and_read_with_all_that_was_set(sdk: Sdk) -> None:
    given = {
        "name": "Ada Lovelace",
        "about": "a support agent",
        "model": MODEL,
        "instructions": ["Be brief.", "Never guess."],
        "default_settings": {"temperature": 0.3, "stop": ["END"]},
        "default_system_template": "You are {{agent.name}}.",
        "metadata": {"team": "support", "deep": {"level": 2}},
        "project": "shop",
    }
    made = await sdk("agents.create", **given)
    read = await sdk("agents.get", made.id)
    assert read == made
    assert {key: value for key, value in made.to_dict().items() if key in given} == given
    assert (uuid.UUID(made.id).version, made.canonical_name) == (4, "Ada_Lovelace")
    assert made.created_at == made.updated_at
    assert made.created_at.tzinfo is not None


async def test_an_agent_has_defaults_for_what_was_not_set(sdk: Sdk) -> None:
    made = await sdk("agents.create", name="Ada", instructions="Be brief.")
    shown = made.to_dict()
    assert (shown["about"], shown["model"], shown["metadata"], shown["default_settings"]) == ("", "", {}, {})
    assert shown["instructions"] == ["Be brief."]
    assert (shown["default_system_template"], shown["project"]) == (None, None)


async def test_updating_an_agent_merges_and_resetting_replaces(sdk: Sdk) -> None:
    id = await sdk.agent(about="first", metadata={"a": 1}, default_settings={"temperature": 0.3})
    updated = await sdk("agents.update", id, metadata={"b": 2}, default_settings={"top_p": 0.5})
    assert (updated.metadata, updated.about, updated.model) == ({"a": 1, "b": 2}, "first", MODEL)
    assert updated.default_settings == {"temperature": 0.3, "top_p": 0.5}
    reset = await sdk("agents.reset", id, name="Eve", metadata={"c": 3})
    assert (reset.name, reset.about, reset.model, reset.metadata) == ("Eve", "", "", {"c": 3})
    assert await sdk("agents.get", id) == reset
    assert reset.updated_at >= updated.updated_at >= reset.created_at


async def test_create_or_update_makes_an_agent_of_that_id_or_replaces_it(sdk: Sdk) -> None:
    id = str(uuid.uuid4())
    made = await sdk("agents.create_or_update", id, name="Ada", about="first")
    assert (made.id, made.about) == (id, "first")
    again = await sdk("agents.create_or_update", id, name="Eve")
    assert (again.id, again.name, again.about, again.created_at) == (id, "Eve", "", made.created_at)
    assert [agent.id for agent in await sdk.every("agents.list")] == [id]


async def test_deleting_an_agent_takes_its_documents_and_tools_but_not_its_sessions(sdk: Sdk) -> None:
    id = await sdk.agent()
    session = await sdk.session(id)
    doc = await sdk("agents.docs.create", agent_id=id, title="T", content="tea")
    answer = await sdk("agents.delete", id)
    assert (answer.id, answer.jobs) == (id, [])
    await gone(sdk, "agents.get", id)
    await gone(sdk, "docs.get", doc.id)
    await gone(sdk, "agents.delete", id)
    assert (await sdk("sessions.get", session)).id == session


async def test_listing_follows_the_pages_to_their_end(sdk: Sdk) -> None:
    made = [await sdk.agent(f"Ada {n}", metadata={"odd": n % 2 == 1, "n": n}) for n in range(5)]
    assert [agent.id for agent in await sdk.every("agents.list", limit=2)] == made[::-1]
    assert [agent.id for agent in await sdk.every("agents.list", limit=2, direction="asc", offset=1)] == made[1:]
    assert [agent.id for agent in (await sdk("agents.list", limit=2)).items] == made[:2:-1]
    odd = await sdk.every("agents.list", limit=1, metadata_filter={"odd": True})
    assert [agent.id for agent in odd] == [made[3], made[1]]
    assert [agent.id for agent in await sdk.every("agents.list", metadata_filter={"n": 4})] == made[4:]
    assert await sdk.every("agents.list", metadata_filter={"n": 9}) == []


async def test_lists_are_sorted_by_the_time_that_is_asked_for(sdk: Sdk) -> None:
    first, second = await sdk.agent("first"), await sdk.agent("second")
    await sdk("agents.update", first, about="changed")
    newest = await sdk.every("agents.list", sort_by="updated_at", limit=1)
    assert [agent.id for agent in newest] == [first, second]


async def test_the_models_of_the_upstream_are_listed(tmp_path: Path) -> None:
    async with (
        scripted_upstream(says("no"), models=[{"id": "big"}, {"id": "small"}]) as up,
        served(up, tmp_path) as proxied,
        connected(up, proxied) as sdk,
    ):
        assert [model.id for model in (await sdk("agents.list_models")).models] == ["big", "small"]


# --- users ---


async def test_a_user_is_made_read_changed_and_deleted(sdk: Sdk) -> None:
    made = await sdk("users.create", name="Bob", about="a customer", metadata={"a": 1})
    assert await sdk("users.get", made.id) == made
    assert (made.name, made.about, made.metadata) == ("Bob", "a customer", {"a": 1})
    updated = await sdk("users.update", made.id, metadata={"b": 2})
    assert (updated.name, updated.about, updated.metadata) == ("Bob", "a customer", {"a": 1, "b": 2})
    reset = await sdk("users.reset", made.id, name="Rob")
    assert (reset.name, reset.about, reset.metadata) == ("Rob", "", {})
    answer = await sdk("users.delete", made.id)
    assert (answer.id, answer.jobs) == (made.id, [])
    await gone(sdk, "users.get", made.id)


async def test_create_or_update_makes_a_user_of_that_id_or_replaces_it(sdk: Sdk) -> None:
    id = str(uuid.uuid4())
    assert (await sdk("users.create_or_update", id, name="Bob", about="x")).id == id
    again = await sdk("users.create_or_update", id, name="Rob")
    assert (again.id, again.name, again.about) == (id, "Rob", "")


async def test_users_are_listed_by_page_and_metadata(sdk: Sdk) -> None:
    made = [(await sdk("users.create", name=f"Bob {n}", metadata={"kind": n % 2})).id for n in range(4)]
    assert [user.id for user in await sdk.every("users.list", limit=3)] == made[::-1]
    assert [user.id for user in await sdk.every("users.list", metadata_filter={"kind": 1})] == [made[3], made[1]]
    assert await sdk.every("agents.list") == []


# --- tools ---


async def test_an_agents_tool_is_made_changed_and_deleted(sdk: Sdk) -> None:
    agent = await sdk.agent()
    made = await sdk("agents.tools.create", agent_id=agent, description="Tells the time", **CLOCK)
    assert (made.name, made.type, made.description) == ("clock", "function", "Tells the time")
    assert made.function.parameters == CLOCK["function"]["parameters"]
    updated = await sdk("agents.tools.update", made.id, agent_id=agent, name="watch")
    assert (updated.name, updated.description) == ("watch", "Tells the time")
    reset = await sdk("agents.tools.reset", made.id, agent_id=agent, **CLOCK)
    assert (reset.id, reset.name, reset.description) == (made.id, "clock", None)
    assert [tool.id for tool in await sdk.every("agents.tools.list", agent)] == [made.id]
    assert (await sdk("agents.tools.delete", made.id, agent_id=agent)).id == made.id
    assert await sdk.every("agents.tools.list", agent) == []
    with pytest.raises(julep.NotFoundError):
        await sdk("agents.tools.delete", made.id, agent_id=agent)


async def test_tools_are_listed_page_by_page(sdk: Sdk) -> None:
    agent = await sdk.agent()
    made = [(await sdk("agents.tools.create", agent_id=agent, **{**CLOCK, "name": f"clock{n}"})).id for n in range(3)]
    assert [tool.id for tool in await sdk.every("agents.tools.list", agent, limit=2)] == made[::-1]
    assert [tool.id for tool in await sdk.every("agents.tools.list", agent, limit=1, direction="asc")] == made


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("api_call", {"method": "GET", "url": "https://example.com"}),
        ("system", {"resource": "agent", "operation": "list"}),
        ("integration", {"provider": "wikipedia"}),
        ("bash_20241022", {"type": "bash_20241022", "name": "bash"}),
    ],
)
async def test_a_tool_of_any_kind_keeps_what_its_kind_asks_for(sdk: Sdk, kind: str, payload: dict[str, str]) -> None:
    agent = await sdk.agent()
    made = await sdk("agents.tools.create", agent_id=agent, name="it", type=kind, **{kind: payload})
    assert made.type == kind
    assert payload.items() <= made.to_dict()[kind].items()


async def test_a_tool_of_a_name_that_is_taken_is_a_conflict(sdk: Sdk) -> None:
    agent, other = await sdk.agent(), await sdk.agent()
    await sdk("agents.tools.create", agent_id=agent, **CLOCK)
    with pytest.raises(julep.ConflictError, match="clock"):
        await sdk("agents.tools.create", agent_id=agent, **CLOCK)
    assert await sdk.status("agents.tools.create", agent_id=other, **CLOCK) == 201


# --- statuses, and who sees what ---


async def test_statuses_are_julep_s(sdk: Sdk) -> None:
    agent = await sdk.agent()
    session = await sdk.session(agent)
    tool = (await sdk("agents.tools.create", agent_id=agent, **CLOCK)).id
    doc = (await sdk("agents.docs.create", agent_id=agent, title="T", content="tea")).id
    asked: list[tuple[str, tuple[str, ...], dict[str, Any], int]] = [
        ("agents.create", (), {"name": "Ada"}, 201),
        ("agents.list", (), {}, 200),
        ("agents.get", (agent,), {}, 200),
        ("agents.update", (agent,), {"about": "x"}, 200),
        ("agents.reset", (agent,), {"name": "Ada", "model": MODEL}, 200),
        ("agents.create_or_update", (agent,), {"name": "Ada", "model": MODEL}, 201),
        ("users.create", (), {}, 201),
        ("sessions.create_or_update", (session,), {}, 201),
        ("sessions.update", (session,), {"metadata": {}}, 200),
        ("sessions.reset", (session,), {}, 200),
        ("sessions.chat", (session,), {"messages": [{"role": "user", "content": "hi"}]}, 201),
        ("sessions.render", (session,), {"messages": [{"role": "user", "content": "hi"}]}, 200),
        ("sessions.history", (session,), {}, 200),
        ("agents.docs.search", (), {"agent_id": agent, "text": "tea"}, 200),
        ("docs.get", (doc,), {}, 200),
        ("agents.docs.delete", (doc,), {"agent_id": agent}, 202),
        ("agents.docs.bulk_delete", (), {"agent_id": agent, "delete_all": True}, 202),
        ("agents.tools.delete", (tool,), {"agent_id": agent}, 202),
        ("sessions.delete", (session,), {}, 202),
        ("agents.delete", (agent,), {}, 202),
    ]
    for method, args, given, status in asked:
        assert (method, await sdk.status(method, *args, **given)) == (method, status)


async def test_a_stranger_s_things_are_not_found(stage: Stage) -> None:
    up, proxied = await stage(echoes())
    stranger = replace(proxied, key=str(uuid.uuid4()))
    async with connected(up, proxied) as mine, connected(up, stranger) as theirs:
        agent = await mine.agent()
        session = await mine.session(agent)
        await theirs.agent("Eve")
        for method, id in (("agents.get", agent), ("sessions.get", session), ("sessions.history", session)):
            with pytest.raises(julep.NotFoundError) as foreign:
                await theirs(method, id)
            with pytest.raises(julep.NotFoundError) as unknown:
                await theirs(method, str(uuid.uuid4()))
            assert foreign.value.body == unknown.value.body
        assert [other.name for other in await theirs.every("agents.list")] == ["Eve"]
        assert await theirs.every("sessions.list") == []


@pytest.mark.parametrize("base", ["", "/api"])
async def test_the_server_s_health_is_told(echo: Talk, base: str) -> None:
    _, proxied = echo
    async with julep.AsyncJulep(api_key="any", base_url=root(proxied) + base, max_retries=0) as client:
        told: Any = await client.healthz.check()
    assert told["status"] == "ok"
