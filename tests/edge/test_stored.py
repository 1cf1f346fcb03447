"""Stored completions over HTTP: what is refused and how, odd ids, whose they are."""

import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from proxy.store import keys
from tests import stored_schema as schema
from tests.acceptance.asking import Proxied, Reply, served, user
from tests.acceptance.stage import Stage
from tests.scripted import echoes, says, scripted_upstream

pytestmark = pytest.mark.anyio

PATH = "/chat/completions"
JSON = {"Content-Type": "application/json"}


async def keep(proxied: Proxied, text: str = "hi", /, **fields: Any) -> Reply:
    reply = await proxied.ask(text, to="s", store=True, **fields)
    assert reply.status == 200, reply.body
    return reply


async def listed(proxied: Proxied, query: str = "") -> Any:
    reply = await proxied.call("GET", PATH + query)
    assert reply.status == 200, reply.body
    schema.check(schema.COMPLETIONS, reply.json)
    return reply.json


async def ids(proxied: Proxied, query: str = "") -> list[str]:
    return [one["id"] for one in (await listed(proxied, query))["data"]]


# --- what is refused before a model is asked ---

MANY = {str(n): "x" for n in range(17)}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "store text": ({"store": "true"}, "store"),
    "store number": ({"store": 1}, "store"),
    "store object": ({"store": {}}, "store"),
    "17 pairs": ({"store": True, "metadata": MANY}, "metadata"),
    "long key": ({"store": True, "metadata": {"k" * 65: "x"}}, "metadata"),
    "long value": ({"store": True, "metadata": {"k": "x" * 513}}, "metadata"),
    "number": ({"store": True, "metadata": {"k": 5}}, "metadata"),
    "nested": ({"store": True, "metadata": {"k": {"a": "b"}}}, "metadata"),
    "null value": ({"store": True, "metadata": {"k": None}}, "metadata"),
    "list": ({"store": True, "metadata": ["k"]}, "metadata"),
    "text": ({"store": True, "metadata": "k"}, "metadata"),
    "unsaved": ({"store": True, "session": {"id": "s", "save": False}}, "store"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_wrong_request_is_refused_naming_the_field(stage: Stage, name: str) -> None:
    up, proxied = await stage(says("fine"))
    fields, param = BAD[name]
    reply = await proxied.ask("hi", to="s", **fields)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert param in reply.error["message"]
    assert up.requests == []
    assert proxied.sessions() == []


async def test_keeping_the_answer_and_nothing_of_the_turn_is_refused_by_both_names(stage: Stage) -> None:
    _, proxied = await stage(says("fine"))
    reply = await proxied.ask("hi", to="s", store=True, headers={"X-Session-Save": "false"})
    assert reply.status == 400
    assert "store" in reply.error["message"] and "save" in reply.error["message"]


@pytest.mark.parametrize("store", [None, False])
async def test_metadata_of_what_is_not_stored_is_nobodys_business(stage: Stage, store: bool | None) -> None:
    up, proxied = await stage(says("fine"))
    assert (await proxied.ask("hi", to="s", store=store, metadata={"k": 5})).status == 200
    assert up.requests[0].json["metadata"] == {"k": 5}
    assert await ids(proxied) == []


async def test_limits_are_those_of_openai(stage: Stage) -> None:
    _, proxied = await stage(says("fine"))
    most = {"k" * 62 + f"{n:02}": "é" * 512 for n in range(16)}
    await keep(proxied, metadata=most)
    assert (await listed(proxied))["data"][0]["metadata"] == most
    key = urllib.parse.quote("k" * 62 + "07")
    assert len(await ids(proxied, f"?metadata[{key}]={urllib.parse.quote('é' * 512)}")) == 1


# --- lists ---

QUERIES = {
    **{f"limit={value}": "limit" for value in ("0", "101", "-1", "1.5", "x", "", "%C2%B2", "9" * 30)},
    **{f"order={value}": "order" for value in ("up", "", "ASC")},
    "metadata=x": "metadata",
    f"metadata[{'k' * 65}]=x": "metadata",
    "&".join(f"metadata[{n}]=x" for n in range(17)): "metadata",
    "metadata[k]=" + "x" * 513: "metadata",
}


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[:30])
async def test_a_wrong_query_is_refused_naming_the_parameter(stage: Stage, query: str) -> None:
    _, proxied = await stage(says("fine"))
    reply = await proxied.call("GET", f"{PATH}?{query}")
    assert (reply.status, reply.error["param"]) == (400, QUERIES[query])


async def test_lists_are_filtered_and_paged(stage: Stage) -> None:
    _, proxied = await stage(*[says("x", id=f"c{n}", created=1_000 + n // 2) for n in range(6)])
    for n in range(6):
        await keep(proxied, metadata={"n": str(n % 2), "a b[": "é&="}, model="even" if n % 2 == 0 else "odd")
    every = await listed(proxied)
    assert [one["id"] for one in every["data"]] == [f"c{n}" for n in range(6)]
    assert (every["first_id"], every["last_id"], every["has_more"]) == ("c0", "c5", False)
    part = await listed(proxied, "?limit=2&after=c1&order=asc")
    assert [part[key] for key in ("first_id", "last_id", "has_more")] == ["c2", "c3", True]
    assert await ids(proxied, "?order=desc&limit=3&after=c5") == ["c4", "c3", "c2"]
    assert await ids(proxied, "?model=odd&metadata[n]=1&limit=100") == ["c1", "c3", "c5"]
    assert await ids(proxied, "?metadata%5Ba%20b%5B%5D=%C3%A9%26%3D&limit=1&after=c4") == ["c5"]
    assert await ids(proxied, "?model=odd&metadata[n]=0") == []
    assert await ids(proxied, "?unknown=1&limit=1") == ["c0"]


async def test_a_list_of_nothing(stage: Stage) -> None:
    _, proxied = await stage(says("x"))
    nothing = {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
    assert await listed(proxied) == nothing
    reply = await proxied.call("GET", f"{PATH}?after=nope")
    assert (reply.status, reply.error["param"], reply.error["code"]) == (404, "after", "completion_not_found")


async def test_the_messages_are_listed_and_paged(stage: Stage) -> None:
    _, proxied = await stage(says("x", id="c"))
    sent = [{"role": "system", "content": "be brief"}, user("one"), {"role": "assistant", "content": "1"},
            user("", name="bob", content=[{"type": "text", "text": "look"}])]  # fmt: skip
    await proxied.ask(*sent, to="s", store=True)

    async def page(query: str) -> Any:
        reply = await proxied.call("GET", f"{PATH}/c/messages{query}")
        assert reply.status == 200, reply.body
        schema.check(schema.MESSAGES, reply.json)
        return reply.json

    every = await page("")
    assert [one["role"] for one in every["data"]] == ["system", "user", "assistant", "user"]
    assert [one["id"] for one in every["data"]] == ["c-0", "c-1", "c-2", "c-3"]
    assert every["data"][3]["content_parts"] == [{"type": "text", "text": "look"}]
    assert (every["data"][3]["content"], every["data"][3]["name"]) == (None, "bob")
    part = await page("?limit=2&after=c-0")
    assert [part[key] for key in ("first_id", "last_id", "has_more")] == ["c-1", "c-2", True]
    assert [one["id"] for one in (await page("?order=desc&after=c-2"))["data"]] == ["c-1", "c-0"]
    assert (await page("?after=c-3"))["data"] == []
    for after in ("c-4", "c-x", "c-01", "c", "d-1", "1", "", "c--1", "c-%C2%B2"):
        reply = await proxied.call("GET", f"{PATH}/c/messages?after={after}")
        assert (reply.status, reply.error["param"]) == (404, "after"), after
    assert (await proxied.call("GET", f"{PATH}/c/messages?limit=0")).status == 400


# --- paths ---


async def test_unknown_and_foreign_ids_get_the_same_bytes(stage: Stage) -> None:
    up, ann = await stage(says("x", id="c"))
    await keep(ann)
    bob = Proxied(ann.running, ann.http, "sk-bob")
    named = {"Authorization": "Bearer sk-bob"}
    for method, below in (("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/messages")):
        body = b'{"metadata": {}}' if method == "POST" else b""
        foreign = await bob.call(method, f"{PATH}/c{below}", body, {**JSON, **named})
        unknown = await bob.call(method, f"{PATH}/d{below}", body, {**JSON, **named})
        assert (foreign.status, foreign.body) == (unknown.status, unknown.body)
        assert (foreign.status, foreign.error["code"]) == (404, "completion_not_found")
        assert "store: true" in foreign.error["message"]
    after = [await bob.call("GET", f"{PATH}?after={id}", headers=named) for id in "cd"]
    assert after[0].body == after[1].body and after[0].status == 404
    assert await ids(ann) == ["c"]
    assert len(up.requests) == 1, "no model is asked"


async def test_a_key_that_owns_nothing_lists_nothing_and_leaves_nothing(stage: Stage) -> None:
    _, proxied = await stage(says("x"))
    before = proxied.running.rows("SELECT count(*) FROM tenants")
    reply = await proxied.call("GET", PATH, headers={"Authorization": "Bearer sk-never-seen"})
    assert reply.json["data"] == []
    assert proxied.running.rows("SELECT count(*) FROM tenants") == before


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [("/c", "PUT", "DELETE, GET, HEAD, POST"), ("/c", "PATCH", "DELETE, GET, HEAD, POST"),
     ("/c/messages", "POST", "GET, HEAD"), ("/c/messages", "DELETE", "GET, HEAD")],
)  # fmt: skip
async def test_another_method_is_not_possible(stage: Stage, path: str, method: str, allow: str) -> None:
    _, proxied = await stage(says("x"))
    reply = await proxied.call(method, PATH + path)
    assert (reply.status, reply.headers["allow"], reply.error["code"]) == (405, allow, "method_not_allowed")


@pytest.mark.parametrize("path", ["/", "//", "/c/", "/c/x", "/c/messages/", "/c/messages/0", "/c%2Fmessages/x", "%2Fc"])
async def test_another_path_is_unknown(stage: Stage, path: str) -> None:
    up, proxied = await stage(says("x"))
    for method in ("GET", "POST"):
        reply = await proxied.call(method, PATH + path)
        assert (reply.status, reply.error["code"]) == (404, "unknown_url")
    assert up.requests == []


async def test_head_is_get_without_its_body(stage: Stage) -> None:
    _, proxied = await stage(says("x", id="c"))
    await keep(proxied)
    for path in ("", "/c", "/c/messages"):
        whole = await proxied.call("GET", PATH + path)
        head = await proxied.call("HEAD", PATH + path)
        assert (head.status, head.headers["content-length"], head.body) == (200, str(len(whole.body)), b"")
        assert head.headers["content-type"] == "application/json"
        assert head.headers["x-request-id"]
    assert (await proxied.call("HEAD", PATH + "/d")).status == 404


@pytest.mark.parametrize("id", ["gen/1", "a b?c#d", "é🙂", "messages", "%2F", "c-1", '"'])
async def test_an_odd_id_is_an_id(stage: Stage, id: str) -> None:
    _, proxied = await stage(says("x", id=id))
    await keep(proxied)
    path = f"{PATH}/{urllib.parse.quote(id, safe='')}"
    read = await proxied.call("GET", path)
    assert (read.status, read.json["id"]) == (200, id)
    messages = (await proxied.call("GET", path + "/messages")).json
    assert messages["first_id"] == f"{id}-0"
    gone = await proxied.call("DELETE", path)
    assert gone.json == {"object": "chat.completion.deleted", "id": id, "deleted": True}
    assert await ids(proxied) == []


# --- changing ---


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [(b"{}", "metadata", 400), (b"", "body", 400), (b"[]", "body", 400), (b"{", "body", 400),
     (b'{"metadata": 5}', "metadata", 400), (b'{"metadata": {"k": 5}}', "metadata", 400),
     (json.dumps({"metadata": MANY}).encode(), "metadata", 400), (b'{"metadata": "' + b"x" * (1 << 20), None, 413)],
    ids=["missing", "empty", "list", "half", "number", "number value", "17 pairs", "too large"],
)  # fmt: skip
async def test_a_wrong_change_is_refused(stage: Stage, body: bytes, param: str | None, status: int) -> None:
    _, proxied = await stage(says("x", id="c"))
    await keep(proxied, metadata={"a": "1"})
    reply = await proxied.call("POST", PATH + "/c", body, JSON)
    assert (reply.status, reply.error["param"]) == (status, param)
    assert (await proxied.call("GET", PATH + "/c")).json["metadata"] == {"a": "1"}


async def test_a_change_replaces_the_metadata_and_gives_the_completion(stage: Stage) -> None:
    _, proxied = await stage(says("x", id="c"))
    await keep(proxied, metadata={"a": "1", "b": "2"})
    for given, now in (({"b": "3"}, {"b": "3"}), (None, {}), ({}, {})):
        reply = await proxied.call("POST", PATH + "/c", json.dumps({"metadata": given}).encode(), JSON)
        assert reply.status == 200
        schema.check(schema.COMPLETION, reply.json)
        assert reply.json["metadata"] == now
        assert reply.body == (await proxied.call("GET", PATH + "/c")).body
    reply = await proxied.call("POST", PATH + "/c", b'{"metadata": {}}', {"Content-Type": "text/plain"})
    assert reply.status == 415


# --- who ---


async def test_each_key_sees_its_own(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, auth={"mode": "keys"}) as proxied:
        who = {}
        for name in ("ann", "bob"):
            await keys.create(proxied.running.edge.svc.db, name, "user", f"sp-{name}".encode(), 0)
            who[name] = {"Authorization": f"Bearer sp-{name}"}
            reply = await proxied.ask(f"I am {name}", to="s", headers=who[name], store=True)
            assert reply.status == 200
        for name in who:
            found = (await proxied.call("GET", PATH, headers=who[name])).json["data"]
            assert [one["choices"][0]["message"]["content"] for one in found] == [f"echo: I am {name}"]
        for path in (PATH, PATH + "/chatcmpl-1", PATH + "/chatcmpl-1/messages"):
            for headers in ({}, {"Authorization": "Bearer sp-nobody"}):
                reply = await proxied.call("GET", path, headers=headers)
                assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        reply = await proxied.call("DELETE", PATH + "/chatcmpl-1", headers=who["ann"])
        assert reply.status == 200
        assert (await proxied.call("GET", PATH + "/chatcmpl-1", headers=who["bob"])).status == 200


async def test_an_open_proxy_refuses_foreign_names(tmp_path: Path) -> None:
    async with scripted_upstream(says("x")) as up, served(up, tmp_path) as proxied:
        reply = await proxied.call("GET", PATH, headers={"Host": "evil.example"})
        assert (reply.status, reply.error["param"]) == (403, "Host")
