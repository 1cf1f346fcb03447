"""S1, the sessions guide for Python: with the julep package; with its extra_body and extra_query, or over plain HTTP,
where its own methods do not take what the guide writes."""

from datetime import UTC, datetime, timedelta

import julep
import pytest

from tests.acceptance.asking import user
from tests.acceptance.seeds.node_guide import overflowing
from tests.acceptance.seeds.world import World

NOTES = {"title": "Research Notes", "content": "Notes about quantum computing...", "metadata": {"type": "notes"}}


async def create(w: World) -> None:
    participants = {"agent_id": w.agent, "user_id": w.user}
    metadata = {"channel": "web", "language": "english"}
    given = {"context_overflow": "adaptive", "metadata": metadata, "extra_body": participants}
    assert await w.sdk.status("sessions.create", **given) == 201
    made = (await w.sdk("sessions.create", **given)).to_dict()
    assert (made["agent"], made["user"], made["metadata"]) == (w.agent, w.user, metadata)


async def chat(w: World) -> None:
    given = {"session_id": w.session, "messages": [user("What can you help me with?")]}
    assert await w.sdk.status("sessions.chat", **given) == 201
    answer = await w.sdk("sessions.chat", **given)
    assert answer.choices[0].message.content == "echo: What can you help me with?"


async def chat_with_several_messages(w: World) -> None:
    told = [
        user("I need help with research"),
        {"role": "assistant", "content": "I can help you with that. What topic would you like to research?"},
        user("Let's research quantum computing"),
    ]
    await w.sdk("sessions.chat", session_id=w.session, messages=told)
    assert w.sent["messages"][1:] == told
    lines = [f"{message['role']}: {message['content']}" for message in told]
    assert await w.sdk.told(w.session) == [*lines, "assistant: echo: Let's research quantum computing"]


async def history(w: World) -> None:
    """`before` without a zone is UTC."""
    told = await w.talk(7)
    now = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=1)  # as the guide writes it: without a zone
    given = {"session_id": w.session, "extra_query": {"limit": 10, "before": now}}
    assert await w.sdk.status("sessions.history", **given) == 200
    entries = (await w.sdk("sessions.history", **given)).entries
    assert [entry.content[0].text for entry in entries] == [line.partition(": ")[2] for line in told[-10:]]
    sixth = entries[-4].created_at
    older = (await w.sdk("sessions.history", w.session, extra_query={"limit": 3, "before": sixth})).entries
    assert len(older) == 3
    assert all(entry.created_at < sixth for entry in older)


async def update(w: World) -> None:
    changed = await w.sdk("sessions.update", session_id=w.session, metadata={"topic": "quantum computing"})
    assert changed.metadata == {"topic": "quantum computing"}
    assert (await w.sdk("sessions.get", w.session)).metadata == {"topic": "quantum computing"}


async def clear(w: World) -> None:
    await w.sdk("sessions.update", session_id=w.session, metadata={"a": 1})
    assert len(await w.talk(2)) == 4
    answer = await w.http(202, "DELETE", f"/sessions/{w.session}/history")
    assert answer["id"] == w.session
    assert await w.sdk.told(w.session) == []
    assert (await w.sdk("sessions.get", w.session)).metadata == {"a": 1}
    await w.sdk.say(w.session, "new")
    assert w.sent["messages"][1:] == [user("new")]


async def create_doc(w: World) -> None:
    made = await w.http(201, "POST", f"/sessions/{w.session}/docs", NOTES)
    assert (await w.sdk("docs.get", made["id"])).content == [NOTES["content"]]
    answer = await w.sdk.say(w.session, "Tell me about quantum computing")
    assert [doc.id for doc in answer.docs] == [made["id"]]


async def search_docs(w: World) -> None:
    made = await w.http(201, "POST", f"/sessions/{w.session}/docs", NOTES)
    await w.http(201, "POST", f"/sessions/{w.session}/docs", {"title": "Other", "content": "quantum leaps"})
    asked = {"text": "quantum", "metadata_filter": {"type": "notes"}}
    found = await w.http(200, "POST", f"/sessions/{w.session}/search", asked)
    assert [(doc["id"], doc["title"]) for doc in found["docs"]] == [(made["id"], "Research Notes")]
    assert found["time"] > 0


async def delete_doc(w: World) -> None:
    made = await w.http(201, "POST", f"/sessions/{w.session}/docs", NOTES)
    assert (await w.http(202, "DELETE", f"/sessions/{w.session}/docs/{made['id']}"))["id"] == made["id"]
    assert (await w.http(200, "GET", f"/sessions/{w.session}/docs"))["items"] == []
    await w.http(404, "DELETE", f"/sessions/{w.session}/docs/{made['id']}")
    assert (await w.sdk.say(w.session, "quantum?")).docs == []


async def list_of_an_agent_and_a_user(w: World) -> None:
    await w.sdk.session(w.agent)
    await w.sdk.session(user=w.user)
    given = {"limit": 10, "offset": 0, "extra_query": {"agent_id": w.agent, "user_id": w.user}}
    assert [one.id for one in (await w.sdk("sessions.list", **given)).items] == [w.session]
    assert [one.id for one in await w.sdk.every("sessions.list", **given)] == [w.session]


async def get(w: World) -> None:
    assert (await w.sdk("sessions.get", session_id=w.session)).id == w.session


async def delete(w: World) -> None:
    assert await w.sdk.status("sessions.delete", session_id=w.session) == 202
    with pytest.raises(julep.NotFoundError):
        await w.sdk("sessions.get", session_id=w.session)


async def get_an_unknown_one(w: World) -> None:
    """The guide's SessionNotFoundError never existed; the package raises NotFoundError, which is a JulepError."""
    with pytest.raises(julep.JulepError) as caught:
        await w.sdk("sessions.get", "nonexistent_id")
    assert isinstance(caught.value, julep.NotFoundError)
    assert "No session found" in str(caught.value)


async def adaptive(w: World) -> None:
    await overflowing(w, "adaptive")


async def truncate(w: World) -> None:
    await overflowing(w, "truncate")


async def summarize(w: World) -> None:
    await overflowing(w, "summarize")
