"""S2, the reference of the session endpoints, over plain HTTP."""

from tests.acceptance.asking import received
from tests.acceptance.seeds.node_guide import CHECK_ORDER
from tests.acceptance.seeds.world import World


async def list_sessions(w: World) -> None:
    made = [w.session, *[await w.sdk.session(w.agent) for _ in range(3)]][::-1]
    for query, found in (({}, made), ({"limit": "2"}, made[:2]), ({"limit": "2", "offset": "1"}, made[1:3])):
        listed = await w.http(200, "GET", "/sessions", **query)
        assert [one["id"] for one in listed["items"]] == found


async def create_session(w: World) -> None:
    given = {"situation": "a refund", "token_budget": 4000, "context_overflow": "truncate"}
    made = await w.http(201, "POST", "/sessions", {"agent_id": w.agent, "user_id": w.user, **given})
    assert {**given, "agent": w.agent, "user": w.user}.items() <= made.items()
    await w.sdk.say(made["id"], "hi")
    assert "Situation: a refund" in w.sent["messages"][0]["content"]


async def get_session(w: World) -> None:
    assert (await w.http(200, "GET", f"/sessions/{w.session}"))["id"] == w.session
    await w.http(404, "GET", "/sessions/nobody")


async def update_session(w: World) -> None:
    """PUT takes a part of a session: what is not given goes back to its default, the participants stay."""
    await w.http(200, "PUT", f"/sessions/{w.session}", {"situation": "a refund", "metadata": {"a": 1}})
    changed = await w.http(200, "PUT", f"/sessions/{w.session}", {"token_budget": 4000})
    assert (changed["token_budget"], changed["situation"], changed["metadata"]) == (4000, None, {})
    assert (changed["agents"], changed["users"]) == ([w.agent], [w.user])
    assert await w.http(200, "GET", f"/sessions/{w.session}") == changed


async def delete_session(w: World) -> None:
    assert (await w.http(202, "DELETE", f"/sessions/{w.session}"))["id"] == w.session
    await w.http(404, "DELETE", f"/sessions/{w.session}")


async def get_messages(w: World) -> None:
    await w.talk(2)
    items = (await w.http(200, "GET", f"/sessions/{w.session}/messages"))["items"]
    assert [(one["role"], one["content"]) for one in items] == [
        ("user", "0"), ("assistant", "echo: 0"), ("user", "1"), ("assistant", "echo: 1"),
    ]  # fmt: skip
    assert {one["status"] for one in items} == {"complete"}
    assert len({one["id"] for one in items}) == 4
    part = await w.http(200, "GET", f"/sessions/{w.session}/messages", limit="2", offset="1")
    assert part["items"] == items[1:3]


async def create_message(w: World) -> None:
    asked = len(w.sdk.up.requests)
    made = await w.http(201, "POST", f"/sessions/{w.session}/messages", {"role": "user", "content": "My name is Bob."})
    assert (made["role"], made["content"], made["status"]) == ("user", "My name is Bob.", "complete")
    assert len(w.sdk.up.requests) == asked
    assert (await w.http(200, "GET", f"/sessions/{w.session}/messages"))["items"] == [made]
    await w.sdk.say(w.session, "What is it?")
    assert received(w.sdk.up.requests[-1])[1:] == ["user: My name is Bob.", "user: What is it?"]


async def get_tools(w: World) -> None:
    assert await w.http(200, "GET", f"/sessions/{w.session}/tools") == {"items": []}
    made = await w.http(201, "POST", f"/sessions/{w.session}/tools", CHECK_ORDER)
    assert await w.http(200, "GET", f"/sessions/{w.session}/tools") == {"items": [made]}


async def chat(w: World) -> None:
    body = {"messages": [{"role": "user", "content": "string"}], "stream": False, "max_tokens": 150}
    answer = await w.http(201, "POST", f"/sessions/{w.session}/chat", body)
    assert answer["choices"][0]["message"]["content"] == "echo: string"
    assert w.sent["max_tokens"] == 150
    assert w.sent.get("stream") in (None, False)
