"""The julep SDK, unchanged: sessions made, changed, listed and deleted; what a chat sends for them; their history."""

import uuid
from typing import Any

import julep
import pytest

from tests.acceptance.asking import MODEL, received, result, system, user
from tests.acceptance.julep_client import Play, Sdk, root
from tests.scripted import calls, echoes, says

pytestmark = pytest.mark.anyio

CLOCK: Any = {"name": "clock", "type": "function", "function": {"parameters": {"type": "object", "properties": {}}}}
VECTOR = {
    "mode": "vector", "limit": 10, "lang": "en-US", "metadata_filter": {}, "num_search_messages": 4,
    "max_query_length": 1000, "include_embeddings": True, "confidence": 0.5, "mmr_strength": 0.5,
}  # fmt: skip


async def bob(sdk: Sdk, name: str = "Bob", **given: Any) -> str:
    """The id of a new user."""
    return (await sdk("users.create", name=name, **given)).id


async def test_a_session_is_made_and_read_with_all_that_was_set(sdk: Sdk) -> None:
    agent, customer = await sdk.agent(), await bob(sdk)
    given = {
        "situation": "refund",
        "system_template": "You are {{agent.name}}.",
        "render_templates": False,
        "token_budget": 4000,
        "context_overflow": "truncate",
        "auto_run_tools": True,
        "forward_tool_calls": True,
        "metadata": {"channel": "web"},
    }
    made = await sdk("sessions.create", agent=agent, user=customer, recall_options={"mode": "vector"}, **given)
    shown = made.to_dict()
    assert {key: shown[key] for key in given} == given
    assert shown["recall_options"] == VECTOR
    assert (shown["agent"], shown["agents"], shown["user"], shown["users"]) == (agent, [agent], customer, [customer])
    assert (shown["summary"], shown["kind"]) == (None, None)
    assert await sdk("sessions.get", made.id) == made


async def test_a_session_has_defaults_for_what_was_not_set(sdk: Sdk) -> None:
    shown = (await sdk("sessions.get", await sdk.session())).to_dict()
    assert (shown["render_templates"], shown["auto_run_tools"], shown["forward_tool_calls"]) == (True, False, False)
    assert (shown["situation"], shown["system_template"], shown["token_budget"]) == (None, None, None)
    assert (shown["metadata"], shown["recall_options"], shown["user"], shown["users"]) == ({}, None, None, [])
    assert shown["context_overflow"] == "adaptive"


async def test_several_agents_and_users_keep_their_order(sdk: Sdk) -> None:
    agents = [await sdk.agent(name) for name in ("Ada", "Eve", "Cy")][::-1]
    users = [await bob(sdk, name) for name in ("Bob", "Rob")][::-1]
    made = await sdk("sessions.create", agents=agents, users=users)
    shown = (await sdk("sessions.get", made.id)).to_dict()
    assert (shown["agents"], shown["users"]) == (agents, users)
    assert (shown["agent"], shown["user"]) == (agents[0], users[0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "At least one agent must be provided"),
        ({"agent": "A", "agents": []}, "Only one of 'agent' or 'agents' should be provided"),
        ({"agent": "?"}, "The specified participant ID is invalid for the given participant type during create"),
        ({"agent": "A", "user": "?"}, "participant ID is invalid"),
        ({"agent": "A", "situation": " "}, "situation is blank"),
        ({"agent": "A", "token_budget": 0}, "token_budget"),
        ({"agent": "A", "system_template": "{% if %}"}, "system_template"),
    ],
)
async def test_a_session_that_cannot_be_made_is_a_bad_request(sdk: Sdk, given: dict[str, Any], said: str) -> None:
    ids = {"A": await sdk.agent(), "?": str(uuid.uuid4())}
    given = {key: ids.get(str(value), value) for key, value in given.items()}
    with pytest.raises(julep.BadRequestError, match=said):
        await sdk("sessions.create", **given)
    assert await sdk.every("sessions.list") == []


async def test_updating_merges_and_keeps_everything_else(sdk: Sdk) -> None:
    session = await sdk.session(
        situation="refund", render_templates=False, forward_tool_calls=True, metadata={"a": 1, "deep": {"x": 1}},
        token_budget=500, context_overflow="truncate", recall_options={"mode": "text", "limit": 3},
    )  # fmt: skip
    before = (await sdk("sessions.get", session)).to_dict()
    after = (await sdk("sessions.update", session, metadata={"b": 2})).to_dict()
    assert after["metadata"] == {"a": 1, "deep": {"x": 1}, "b": 2}
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= {"metadata", "updated_at"}
    after = (await sdk("sessions.update", session, recall_options={"mode": "text", "num_search_messages": 2})).to_dict()
    assert (after["recall_options"]["limit"], after["recall_options"]["num_search_messages"]) == (3, 2)
    assert (await sdk("sessions.update", session, token_budget=900)).token_budget == 900


async def test_resetting_replaces_everything_but_the_participants(sdk: Sdk) -> None:
    agent, customer = await sdk.agent(), await bob(sdk)
    session = await sdk.session(agent, user=customer, situation="refund", token_budget=500, metadata={"a": 1})
    shown = (await sdk("sessions.reset", session, metadata={"b": 2}, context_overflow="truncate")).to_dict()
    assert (shown["situation"], shown["token_budget"], shown["metadata"]) == (None, None, {"b": 2})
    assert (shown["context_overflow"], shown["agents"], shown["users"]) == ("truncate", [agent], [customer])


async def test_create_or_update_makes_a_session_of_that_id_or_changes_it_and_adds_participants(sdk: Sdk) -> None:
    id, ada, eve = str(uuid.uuid4()), await sdk.agent(), await sdk.agent("Eve")
    made = await sdk("sessions.create_or_update", id, agent=ada, situation="refund")
    assert (made.id, made.situation) == (id, "refund")
    await sdk.say(id, "hi")
    again = (await sdk("sessions.create_or_update", id, agent=eve, user=await bob(sdk))).to_dict()
    assert (again["id"], again["situation"], again["agents"]) == (id, None, [ada, eve])
    assert len(again["users"]) == 1
    assert await sdk.told(id) == ["user: hi", "assistant: echo: hi"]


async def test_sessions_are_listed_by_page_and_metadata(sdk: Sdk) -> None:
    agent = await sdk.agent()
    made = [await sdk.session(agent, metadata={"n": n, "tags": ["x", f"t{n}"]}) for n in range(5)]
    assert [one.id for one in await sdk.every("sessions.list", limit=2)] == made[::-1]
    assert [one.id for one in await sdk.every("sessions.list", limit=2, offset=3, direction="asc")] == made[3:]
    assert [one.id for one in await sdk.every("sessions.list", metadata_filter={"n": 2})] == made[2:3]
    assert [one.id for one in await sdk.every("sessions.list", metadata_filter={"tags": ["t3"]})] == made[3:4]
    by_update = await sdk("sessions.update", made[0], metadata={"late": True})
    first = (await sdk("sessions.list", sort_by="updated_at", limit=1)).items
    assert first == [by_update]


async def test_a_deleted_session_is_gone_with_its_history(sdk: Sdk) -> None:
    session = await sdk.session()
    await sdk.say(session, "hi")
    answer = await sdk("sessions.delete", session)
    assert (answer.id, answer.jobs) == (session, [])
    for method in ("sessions.get", "sessions.history", "sessions.delete"):
        with pytest.raises(julep.NotFoundError, match="No session found during get"):
            await sdk(method, session)
    with pytest.raises(julep.NotFoundError):
        await sdk.say(session, "hi")
    assert sdk.up.requests[-1].json["messages"][-1] == user("hi")


# --- render ---


async def test_render_shows_what_a_chat_would_send_and_stores_nothing(sdk: Sdk) -> None:
    agent = await sdk.agent(about="a guide", instructions=["Be brief."])
    doc = (await sdk("agents.docs.create", agent_id=agent, title="Tea", content="Tea is green.")).id
    await sdk("agents.tools.create", agent_id=agent, **CLOCK)
    session = await sdk.session(agent, user=await bob(sdk), situation="refund")
    await sdk.say(session, "hi")
    shown = await sdk("sessions.render", session, messages=[user("tea?")], tool_choice="auto")
    first, *rest = shown.messages
    assert first.role == "system"
    assert first.content == (
        "You are Ada. About you: a guide.\nYou are talking to a user and their name is Bob.\n\n"
        "Situation: refund\n\nInstructions:\n- Be brief."
    )
    assert [message.role for message in rest] == ["user", "assistant", "user"]
    assert (shown.tool_choice, [found.id for found in shown.docs]) == ("auto", [doc])
    assert sdk.up.requests[-1].json["messages"][-1] == user("hi")
    await sdk.say(session, "tea?", tool_choice="auto")
    assert sdk.up.requests[-1].json == shown.body
    assert sdk.up.requests[-1].json["tools"] == shown.to_dict()["tools"]
    assert len(await sdk.told(session)) == 4


async def test_render_of_an_unknown_session_is_not_found(sdk: Sdk) -> None:
    with pytest.raises(julep.NotFoundError):
        await sdk("sessions.render", str(uuid.uuid4()), messages=[user("hi")])


# --- history ---


async def test_history_holds_everything_in_order_with_its_source(play: Play) -> None:
    sdk = await play(calls("clock", {"zone": "utc"}), says("noon"))
    session = await sdk.session()
    await sdk.say(session, system("Be brief."), "time?", tools=[CLOCK])
    await sdk.say(session, result("12:00"), tools=[CLOCK])
    history = await sdk("sessions.history", session)
    assert history.session_id == session
    assert history.relations == []
    assert [(entry.role, entry.source) for entry in history.entries] == [
        ("user", "api_request"),
        ("assistant", "tool_request"),
        ("tool", "tool_response"),
        ("assistant", "api_response"),
    ]
    asked, called, answered, said = history.entries
    assert asked.content[0].text == "time?"
    assert (called.tool_calls[0].id, called.tool_calls[0].function.arguments) == ("call_1", '{"zone": "utc"}')
    assert answered.tool_call_id == "call_1"
    assert (said.content[0].text, said.model, said.tokenizer) == ("noon", MODEL, "o200k_base")
    assert said.token_count > 0
    assert len({entry.id for entry in history.entries}) == 4
    times = [entry.created_at for entry in history.entries]
    assert times == sorted(times)
    assert history == (await sdk("sessions.history", session)).model_copy(update={"created_at": history.created_at})


async def test_a_long_history_is_whole(sdk: Sdk) -> None:
    session = await sdk.session()
    many = [user(f"{n}") for n in range(450)]
    await sdk("sessions.chat", session, messages=many)
    await sdk.say(session, "last")
    told = await sdk.told(session)
    assert told == [*(f"user: {n}" for n in range(450)), "assistant: echo: 449", "user: last", "assistant: echo: last"]


async def test_history_keeps_names_and_parts(sdk: Sdk) -> None:
    session = await sdk.session()
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    await sdk.say(session, user("hi", name="Bob"), {"role": "user", "content": parts})
    first, second, _ = (await sdk("sessions.history", session)).entries
    assert (first.name, first.content[0].text) == ("Bob", "hi")
    assert second.to_dict()["content"] == parts
    assert sdk.up.requests[-1].json["messages"][-2:] == [user("hi", name="Bob"), {"role": "user", "content": parts}]


async def test_a_list_of_texts_is_a_list_of_parts(sdk: Sdk) -> None:
    session = await sdk.session()
    await sdk.say(session, {"role": "user", "content": ["one", {"type": "text", "text": "two"}]})
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert sdk.up.requests[-1].json["messages"][-1] == {"role": "user", "content": parts}
    assert (await sdk("sessions.history", session)).entries[0].to_dict()["content"] == parts
    stored = {"role": "user", "content": ["three", "four"]}
    url = f"{root(sdk.proxied)}/sessions/{session}/messages"
    async with sdk.proxied.http.post(url, json=stored) as answer:
        assert (answer.status, [part["text"] for part in (await answer.json())["content"]]) == (201, ["three", "four"])


# --- one session, two doors ---


async def test_a_session_of_the_sdk_is_used_by_its_id_through_v1(sdk: Sdk) -> None:
    agent = await sdk.agent(about="a guide")
    session = await sdk.session(agent)
    await sdk.say(session, "one")
    reply = await sdk.proxied.ask("two", to=session)
    assert reply.headers["x-session-uuid"] == session
    first, *rest = received(sdk.up.requests[-1])
    assert first == "system: You are Ada. About you: a guide."
    assert rest == ["user: one", "assistant: echo: one", "user: two"]
    assert await sdk.told(session) == ["user: one", "assistant: echo: one", "user: two", "assistant: echo: two"]


async def test_a_session_of_v1_is_used_by_its_name_through_the_sdk(play: Play) -> None:
    sdk = await play(echoes())
    await sdk.proxied.ask("one", to="my talk")
    shown = await sdk("sessions.get", "my talk")
    assert (shown.to_dict()["name"], shown.to_dict()["agents"]) == ("my talk", [])
    await sdk.say("my talk", "two", model=MODEL)
    assert received(sdk.up.requests[-1]) == ["user: one", "assistant: echo: one", "user: two"]
    assert len(await sdk.told(shown.id)) == len(await sdk.told("my talk")) == 4
    await sdk("sessions.create_or_update", "my talk", agent=await sdk.agent(about="a guide"))
    await sdk.say("my talk", "three")
    assert received(sdk.up.requests[-1])[0] == "system: You are Ada. About you: a guide."
