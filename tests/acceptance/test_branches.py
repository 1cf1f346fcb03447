"""Branches over HTTP: begun, switched, taken back and deleted, through the OpenAI SDK and the Sessions API."""

import json
from typing import Any

import openai
import pytest

from tests.acceptance.asking import MODEL, Proxied, Reply, asks_for, assistant, call, received, result, system, user
from tests.acceptance.stage import Stage, Talk
from tests.scripted import says

pytestmark = pytest.mark.anyio


def sdk(proxied: Proxied) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=proxied.key, base_url=proxied.url, max_retries=0)


async def ask(client: openai.AsyncOpenAI, *texts: str, **headers: str) -> Any:
    """A turn of session "s"; `fork="1"` is the header X-Session-Fork."""
    named = {"X-Session-Id": "s"} | {f"X-Session-{key}": value for key, value in headers.items()}
    return await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": text} for text in texts], extra_headers=named
    )


async def api(proxied: Proxied, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    """The Sessions API, of session "s" where the path begins with a point."""
    path = path.replace(".", "/sessions/s", 1) if path.startswith(".") else path
    raw = b"" if body is None else json.dumps(body).encode()
    base = Proxied(proxied.running, proxied.http, proxied.key)
    async with base.http.request(
        method, proxied.url.removesuffix("/v1") + path, data=raw, headers={"Content-Type": "application/json"}
    ) as answer:
        value = await answer.json()
        assert answer.status == status, (answer.status, value)
        return value


async def listed(proxied: Proxied) -> list[tuple[Any, ...]]:
    items = (await api(proxied, "GET", "./branches"))["items"]
    assert all(item["created_at"] for item in items)
    return [tuple(item[key] for key in ("id", "parent", "forked_at", "turns", "current")) for item in items]


async def test_a_conversation_forks_switches_goes_back_and_forgets(echo: Talk) -> None:
    up, proxied = echo
    async with sdk(proxied) as client:
        for text in ("one", "two"):
            await ask(client, text)
        forked = await ask(client, "uno", Fork="1")
        assert (forked.headers["x-session-branch"], forked.headers["x-session-turn"]) == ("2", "3")
        assert received(up.requests[-1]) == ["user: one", "assistant: echo: one", "user: uno"]
        assert (await ask(client, "due")).headers["x-session-branch"] == "2"
        switched = await ask(client, "three", Branch="1")
        assert (switched.headers["x-session-branch"], switched.headers["x-session-turn"]) == ("1", "5")
        assert received(up.requests[-1])[2:] == ["user: two", "assistant: echo: two", "user: three"]
        assert await listed(proxied) == [(1, None, None, 3, True), (2, 1, 1, 2, False)]
        made = await api(proxied, "POST", "./fork", {"at": 3}, 201)
        assert [made[key] for key in ("id", "parent", "forked_at", "turns", "current")] == [3, 2, 3, 0, True]
        await ask(client, "tre")
        assert received(up.requests[-1])[2:] == ["user: uno", "assistant: echo: uno", "user: tre"]
        undone = await api(proxied, "POST", "./undo")
        assert [undone[key] for key in ("id", "parent", "forked_at", "turns", "current")] == [4, 2, 3, 0, True]
        await api(proxied, "DELETE", "./branches/4", status=409)
        await api(proxied, "DELETE", "./branches/2", status=409)
        gone = await api(proxied, "DELETE", "./branches/3", status=202)
        assert (gone["id"], gone["jobs"], bool(gone["deleted_at"])) == (3, [], True)
        last = await ask(client, "again")
        assert (last.headers["x-session-branch"], last.headers["x-session-turn"]) == ("4", "7")
        assert [item[0] for item in await listed(proxied)] == [1, 2, 4]
    assert proxied.stored("s", 1) == [
        "user: one", "assistant: echo: one", "user: two", "assistant: echo: two", "user: three",
        "assistant: echo: three",
    ]  # fmt: skip
    history = await api(proxied, "GET", "./messages")
    assert [item["content"] for item in history["items"]] == [
        "one",
        "echo: one",
        "uno",
        "echo: uno",
        "again",
        "echo: again",
    ]


async def test_a_fork_takes_the_whole_history_or_the_newest_message(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask(system("brief"), "one", to="s")
    await proxied.ask(system("long"), "two", to="s")
    whole = await proxied.ask("one", assistant("echo: one"), "uno", to="s", session={"id": "s", "fork": 1})
    assert whole.headers["x-session-branch"] == "2"
    assert received(up.requests[-1]) == ["system: brief", "user: one", "assistant: echo: one", "user: uno"]
    newest = await proxied.ask("uno", to="s", headers={"X-Session-Fork": "1"})
    assert (newest.status, newest.headers["x-session-branch"]) == (200, "3")
    assert received(up.requests[-1]) == ["system: brief", "user: one", "assistant: echo: one", "user: uno"]
    first = await proxied.ask("zero", to="s", headers={"X-Session-Fork": "0"})
    assert (first.headers["x-session-branch"], received(up.requests[-1])) == ("4", ["user: zero"])


async def test_what_is_not_stored_moves_nothing(echo: Talk) -> None:
    _, proxied = echo
    await proxied.ask("one", to="s")
    await proxied.ask("uno", to="s", headers={"X-Session-Fork": "0"})
    before = await listed(proxied)
    unsaved = await proxied.ask("x", to="s", headers={"X-Session-Branch": "1", "X-Session-Save": "false"})
    assert (unsaved.status, unsaved.headers["x-session-branch"]) == (200, "1")
    await proxied.ask("x", to="s", headers={"X-Session-Fork": "1", "X-Session-Save": "false"})
    body = {"messages": [user("x")], "model": MODEL, "session": {"branch": 1}}
    shown = await api(proxied, "POST", "./render", body)
    assert [message["content"] for message in shown["messages"]] == ["one", "echo: one", "x"]
    assert await listed(proxied) == before == [(1, None, None, 1, False), (2, 1, 0, 1, True)]


async def test_a_retry_of_a_fork_is_the_same_fork(echo: Talk) -> None:
    _, proxied = echo
    await proxied.ask("one", to="s")
    headers = {"X-Session-Fork": "0", "Idempotency-Key": "k"}
    first = await proxied.ask("uno", to="s", headers=headers)
    again = await proxied.ask("uno", to="s", headers=headers)
    assert (first.body, again.body) == (first.body, first.body)
    assert first.headers["x-session-branch"] == again.headers["x-session-branch"] == "2"
    assert proxied.branches("s") == 2


async def test_the_sessions_api_forks_and_switches_as_well(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask("one", to="s")
    for headers, said in (({"X-Session-Fork": "0"}, ["user: uno"]),
                          ({"X-Session-Branch": "1"}, ["user: one", "assistant: echo: one", "user: uno"])):  # fmt: skip
        base = Proxied(proxied.running, proxied.http, proxied.key)
        path = proxied.url.removesuffix("/v1") + "/sessions/s/chat"
        async with base.http.post(path, json={"messages": [user("uno")], "model": MODEL}, headers=headers) as answer:
            assert answer.status == 201
            assert received(up.requests[-1]) == said
    assert await listed(proxied) == [(1, None, None, 2, True), (2, 1, 0, 1, False)]


async def test_results_go_to_the_branch_that_is_named(stage: Stage) -> None:
    up, proxied = await stage(says("fine"))
    calling = asks_for(call("clock", {}))
    await proxied.ask("one", calling, result("noon"), to="s")
    await proxied.ask("uno", to="s", headers={"X-Session-Fork": "0"})
    refused = await proxied.ask(result("noon"), to="s")
    assert (refused.status, refused.error["param"]) == (400, "messages[0].tool_call_id")
    answer = await proxied.ask(result("midnight"), to="s", headers={"X-Session-Branch": "1"})
    assert (answer.status, answer.headers["x-session-branch"]) == (200, "1")
    assert len(up.requests) == 3


# --- turns and what they sent ---


async def test_turns_are_listed_with_what_they_cost(echo: Talk) -> None:
    _, proxied = echo
    await proxied.ask("one", to="s", headers={"X-Request-Id": "r-1"})
    await api(proxied, "POST", "./messages", {"role": "user", "content": "noted"}, 201)
    await proxied.ask("uno", to="s", headers={"X-Session-Fork": "1", "X-Session-Token-Budget": "500"})
    items = (await api(proxied, "GET", "./turns"))["items"]
    assert [(item["turn"], item["branch"], item["messages"]) for item in items] == [(3, 2, 2), (2, 1, 1), (1, 1, 2)]
    newest, noted, first = items
    assert (first["status"], first["model"], first["request_id"]) == ("complete", MODEL, "r-1")
    assert set(first["tokens"]) == {"total", "estimate", "budget", "prefix", "cached", "prompt", "completion"}
    assert newest["tokens"]["budget"] == 500
    assert newest["tokens"]["total"] > first["tokens"]["total"] > 0
    assert noted["model"] is None and set(noted["tokens"].values()) == {None} and noted["strategy"] is None
    assert (await api(proxied, "GET", "./turns?limit=1&offset=1"))["items"] == [noted]
    assert (await api(proxied, "GET", "./turns?direction=asc"))["items"] == items[::-1]
    await api(proxied, "GET", "./turns?limit=101", status=400)
    await api(proxied, "GET", "./turns?direction=up", status=422)


async def test_a_turns_context_is_its_ledger_as_it_was_stored(echo: Talk) -> None:
    _, proxied = echo
    answer = await proxied.ask("one", to="s")
    shown = await api(proxied, "GET", "./turns/1/context")
    ledger, usage = proxied.running.rows(
        "SELECT t.ledger, t.usage FROM turns t JOIN sessions s ON s.id = t.session JOIN tenants o ON o.id = s.tenant "
        "WHERE o.name = ?", proxied._tenant,
    )[0]  # fmt: skip
    assert {key: shown[key] for key in json.loads(ledger)} == json.loads(ledger)
    assert shown["usage"] == (None if usage is None else json.loads(usage))
    assert (shown["turn"], shown["branch"], shown["status"], shown["model"]) == (1, 1, "complete", MODEL)
    assert f"total={shown['total']};" in answer.headers["x-context-tokens"]
    assert sum(segment["tokens"] for segment in shown["segments"] if segment["kept"]) == shown["total"]
    assert shown["created_at"] and shown["recalled"] is None
    await api(proxied, "POST", "./messages", {"role": "user", "content": "noted"}, 201)
    noted = await api(proxied, "GET", "./turns/2/context")
    assert (noted["turn"], noted["branch"], noted["usage"], noted["model"]) == (2, 1, None, None)


# --- what there is not, and what is wrong ---


async def test_what_is_wrong_is_named_and_changes_nothing(echo: Talk) -> None:
    up, proxied = echo
    await proxied.ask("one", to="s")
    asked = len(up.requests)

    async def refused(param: str, headers: dict[str, str], **fields: Any) -> None:
        reply: Reply = await proxied.ask("x", to="s", headers=headers, **fields)
        assert (reply.status, reply.error["param"]) == (400, param), reply.body

    for value in ("2", "-1", "x", "1.0", "9" * 17, "9" * 40, "true"):
        await refused("session.fork", {"X-Session-Fork": value})
        await refused("session.branch", {"X-Session-Branch": value})
    await refused("session.fork", {"X-Session-Fork": "1", "X-Session-Branch": "1"})
    await refused("session.fork", {"X-Session-Branch": "1"}, session={"id": "s", "fork": 1})
    for at, status in ((2, 400), (10**30, 400), (-1, 422), ("1", 422), (None, 422), (1.5, 422), (True, 422)):
        await api(proxied, "POST", "./fork", {"at": at}, status)
    await api(proxied, "POST", "./fork", {}, 422)
    for path in (
        "./branches/2",
        "./branches/0",
        "./branches/x",
        "./branches/-1",
        f"./branches/{10**30}",
        "./branches/01",
    ):
        gone = await api(proxied, "DELETE", path, status=404)
        assert gone["error"]["code"] == "branch_not_found"
    for number in ("2", "0", "x", "1.0", "9" * 30):
        missing = await api(proxied, "GET", f"./turns/{number}/context", status=404)
        assert missing["error"]["code"] == "turn_not_found"
    for method, path, body in (
        ("GET", "branches", None), ("GET", "turns", None), ("GET", "turns/1/context", None),
        ("POST", "fork", {"at": 0}), ("POST", "undo", None), ("DELETE", "branches/1", None),
    ):  # fmt: skip
        await api(proxied, method, f"/sessions/nobody/{path}", body, 404)
    assert len(up.requests) == asked
    assert await listed(proxied) == [(1, None, None, 1, True)]


async def test_nothing_is_undone_where_nothing_was_said(echo: Talk) -> None:
    _, proxied = echo
    await proxied.ask("one", to="s")
    await api(proxied, "POST", "./undo")
    nothing = await api(proxied, "POST", "./undo", status=409)
    assert nothing["error"]["code"] == "nothing_to_undo"
    assert await listed(proxied) == [(1, None, None, 1, False), (2, 1, 0, 0, True)]


async def test_what_is_anothers_is_as_good_as_unknown(stage: Stage, echo: Talk) -> None:
    _, proxied = echo
    await proxied.ask("one", to="s")
    other = Proxied(proxied.running, proxied.http, "")
    uuid = (await api(proxied, "GET", "/sessions?name=s"))["items"][0]["id"]
    async with other.http.get(
        proxied.url.removesuffix("/v1") + f"/sessions/{uuid}/branches", headers={"Authorization": "Bearer another"}
    ) as answer:
        assert answer.status == 404


async def test_old_ledgers_and_odd_usage_are_listed(stage: Stage) -> None:
    _, proxied = await stage(says("fine", usage={"prompt_tokens": "many", "prompt_tokens_details": 5}))
    await proxied.ask("one", to="s")
    item = (await api(proxied, "GET", "./turns"))["items"][0]
    assert (item["tokens"]["prompt"], item["tokens"]["cached"]) == (None, None)


async def test_a_key_makes_a_fork_and_an_undo_once(echo: Talk) -> None:
    _, proxied = echo
    async with sdk(proxied) as client:
        await ask(client, "one")
        await ask(client, "two")
    for path, body in (("undo", None), ("fork", {"at": 1})):
        url = f"{proxied.running.url.removesuffix('/v1')}/sessions/s/{path}"
        seen = []
        for _ in range(2):
            headers = {"Authorization": f"Bearer {proxied.key}", "Idempotency-Key": path}
            async with proxied.http.post(url, json=body, headers=headers) as reply:
                seen.append((reply.status, (await reply.json())["id"]))
        assert seen[0] == seen[1]
        async with proxied.http.post(url, json={"at": 0}, headers=headers) as reply:
            assert reply.status == 422
    assert len(await listed(proxied)) == 3
