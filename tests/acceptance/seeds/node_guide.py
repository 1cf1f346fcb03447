"""S0, the sessions guide for Node, as its package sends it: `await, {` is the call that the text beside it tells.

Over plain HTTP.
"""

from typing import Any

from tests.acceptance.asking import received, user
from tests.acceptance.seeds.world import HELLO, World, said

CHECK_ORDER: dict[str, Any] = {
    "name": "check_order_status",
    "description": "Check the status of an order",
    "type": "function",
    "function": {
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string", "description": "The order ID to check"}},
            "required": ["order_id"],
        }
    },
}
ORDER = {
    "title": "Order Details",
    "content": "Order #12345: 2 items, shipping to...",
    "metadata": {"order_id": "12345", "type": "order_details"},
}
POLICY = {"title": "Policy", "content": "Our shipping policy: two days.", "metadata": {"type": "policy"}}


async def create(w: World) -> None:
    metadata = {"channel": "web", "language": "english"}
    given = {"agent_id": w.agent, "user_id": w.user, "metadata": metadata, "context_overflow": "adaptive"}
    made = await w.http(201, "POST", "/sessions", given)
    assert (made["agent"], made["user"]) == (w.agent, w.user)
    assert (made["metadata"], made["context_overflow"]) == (metadata, "adaptive")
    assert await w.http(200, "GET", f"/sessions/{made['id']}") == made
    await w.http(201, "POST", f"/sessions/{made['id']}/chat", HELLO)
    assert w.sent["messages"][0]["content"].startswith("You are Ada. About you: a support agent.")


async def create_without_a_user(w: World) -> None:
    made = await w.http(201, "POST", "/sessions", {"agent_id": w.agent})
    assert (made["agents"], made["user"], made["users"]) == ([w.agent], None, [])


async def chat(w: World) -> None:
    answer = await w.http(201, "POST", f"/sessions/{w.session}/chat", HELLO)
    assert answer["choices"][0]["message"]["content"] == f"echo: {HELLO['messages'][0]['content']}"


async def chat_again(w: World) -> None:
    await w.http(201, "POST", f"/sessions/{w.session}/chat", HELLO)
    await w.http(201, "POST", f"/sessions/{w.session}/chat", said(user("I need to change my shipping address.")))
    hello = HELLO["messages"][0]["content"]
    spoken = [f"user: {hello}", f"assistant: echo: {hello}", "user: I need to change my shipping address."]
    assert received(w.sdk.up.requests[-1])[1:] == spoken


async def update_context(w: World) -> None:
    await w.http(200, "PATCH", f"/sessions/{w.session}", {"metadata": {"channel": "web"}})
    added = {"order_id": "12345", "customer_tier": "premium"}
    changed = await w.http(200, "PATCH", f"/sessions/{w.session}", {"metadata": added})
    assert changed["metadata"] == {"channel": "web", **added}


async def history(w: World) -> None:
    told = await w.talk(6)
    read = await w.http(200, "GET", f"/sessions/{w.session}/history", limit="10", offset="0")
    lines = [f"{entry['role']}: {entry['content'][0]['text']}" for entry in read["entries"]]
    assert (len(told), lines) == (12, told[:10])
    rest = await w.http(200, "GET", f"/sessions/{w.session}/history", limit="10", offset="10")
    assert [entry["content"][0]["text"] for entry in rest["entries"]] == ["5", "echo: 5"]


async def create_tool(w: World) -> None:
    made = await w.http(201, "POST", f"/sessions/{w.session}/tools", CHECK_ORDER)
    assert CHECK_ORDER.items() <= made.items()
    assert (await w.http(200, "GET", f"/sessions/{w.session}/tools"))["items"] == [made]
    await w.sdk.say(w.session, "hi")
    (tool,) = w.sent["tools"]
    assert tool["function"] == {
        "name": "check_order_status",
        "description": "Check the status of an order",
        "parameters": CHECK_ORDER["function"]["parameters"],
    }
    await w.sdk.say(await w.sdk.session(w.agent), "hi")
    assert "tools" not in w.sent


async def create_doc(w: World) -> None:
    made = await w.http(201, "POST", f"/sessions/{w.session}/docs", ORDER)
    assert {**ORDER, "content": [ORDER["content"]]}.items() <= made.items()
    answer = await w.http(201, "POST", f"/sessions/{w.session}/chat", said(user("Where is order #12345?")))
    (found,) = answer["docs"]
    assert (found["id"], found["owner"]) == (made["id"], {"id": w.session, "role": "session"})
    assert "2 items, shipping to..." in w.sent["messages"][-1]["content"]


async def search_docs(w: World) -> None:
    await w.http(201, "POST", f"/sessions/{w.session}/docs", ORDER)
    policy = await w.http(201, "POST", f"/sessions/{w.session}/docs", POLICY)
    asked = {"query": "shipping policy", "metadata": {"type": "policy"}}
    for path in ("search", "docs/search"):
        found = await w.http(200, "POST", f"/sessions/{w.session}/{path}", asked)
        assert [doc["id"] for doc in found["docs"]] == [policy["id"]]
    without = await w.http(200, "POST", f"/sessions/{w.session}/search", {"query": "shipping policy"})
    assert [doc["title"] for doc in without["docs"]] == ["Policy", "Order Details"]


async def get(w: World) -> None:
    read = await w.http(200, "GET", f"/sessions/{w.session}")
    assert (read["id"], read["agent"], read["user"]) == (w.session, w.agent, w.user)


async def list_of_an_agent(w: World) -> None:
    other = await w.sdk.session(await w.sdk.agent("Eve"))
    asked = {"limit": "10", "offset": "0"}
    every = await w.http(200, "GET", "/sessions", **asked)
    assert [one["id"] for one in every["items"]] == [other, w.session]
    listed = await w.http(200, "GET", "/sessions", **asked, agent_id=w.agent)
    assert [one["id"] for one in listed["items"]] == [w.session]


async def update_status(w: World) -> None:
    changed = await w.http(200, "PATCH", f"/sessions/{w.session}", {"metadata": {"status": "resolved"}})
    assert changed["metadata"] == {"status": "resolved"}
    listed = await w.http(200, "GET", "/sessions", **{"metadata_filter.status": "resolved"})
    assert listed["items"] == [changed]


async def delete(w: World) -> None:
    answer = await w.http(202, "DELETE", f"/sessions/{w.session}")
    assert (answer["id"], answer["jobs"], bool(answer["deleted_at"])) == (w.session, [], True)
    await w.http(404, "GET", f"/sessions/{w.session}")


async def chat_that_fails(w: World) -> None:
    """Its package throws an error with the answer's status and message."""
    await delete(w)
    answer = await w.http(404, "POST", f"/sessions/{w.session}/chat", said(user("Hello!")))
    assert set(answer["error"]) == {"message", "code", "type", "details"}
    assert "no such session" in answer["error"]["message"]


async def adaptive(w: World) -> None:
    await overflowing(w, "adaptive")


async def truncate(w: World) -> None:
    await overflowing(w, "truncate")


async def summarize(w: World) -> None:
    await overflowing(w, "summarize")


async def overflowing(w: World, strategy: str) -> None:
    """The strategy is kept, and a conversation over its budget goes on without its oldest turns."""
    made = await w.http(201, "POST", "/sessions", {"agent_id": w.agent, "context_overflow": strategy})
    assert made["context_overflow"] == strategy
    await w.http(200, "PATCH", f"/sessions/{made['id']}", {"token_budget": 40})
    told = await w.talk(12, made["id"])
    assert len(told) == 24
    spoken = received(w.sdk.up.requests[-1])
    assert spoken[0] == "system: You are Ada. About you: a support agent."
    assert "user: 0" not in spoken
    assert spoken[1:] == told[22 - len(spoken[2:]) : 23]
