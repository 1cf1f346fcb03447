"""What the Sessions API makes of odd requests: an error that says what is wrong, and nothing is kept that cannot be
read again. Most of it was found by schemathesis."""

import json
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from tests.acceptance.asking import Proxied, served
from tests.acceptance.sockets import dialled
from tests.scripted import ScriptedUpstream, says, scripted_upstream

pytestmark = pytest.mark.anyio

NOBODY = "0199d7a2-5c1e-7c3a-9d0b-3f6f6a1f2b4c"
SAYS: dict[str, Any] = {"role": "user", "content": "x"}
CALL: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


class Api:
    """A session of an agent, each with a tool, on a served proxy."""

    def __init__(self, http: aiohttp.ClientSession, up: ScriptedUpstream, proxied: Proxied) -> None:
        self.http, self.up, self.proxied = http, up, proxied
        self.agent = self.session = self.tool = ""

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """`body` is sent as JSON, bytes as they are; {agent} and so on stand for the ids."""
        for name in ("agent", "session", "tool"):
            path = path.replace("{" + name + "}", getattr(self, name))
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **headers} if data is not None else headers
        async with self.http.request(method, path, data=data, headers=given) as answer:
            raw = await answer.read()
            return answer.status, json.loads(raw) if raw else None

    async def make(self, path: str, **body: Any) -> str:
        status, made = await self.ask("POST", path, body)
        assert status == 201, made
        return made["id"]


@pytest.fixture(scope="module")
async def served_api(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Api]:
    async with (
        scripted_upstream(says("ok")) as up,
        served(up, tmp_path_factory.mktemp("api"), models={"default": {"model": "m"}}) as proxied,
        aiohttp.ClientSession(proxied.running.url.removesuffix("/v1")) as http,
    ):
        yield Api(http, up, proxied)


@pytest.fixture
async def api(served_api: Api) -> Api:
    served_api.agent = await served_api.make("/agents", name="Ada")
    served_api.session = await served_api.make("/sessions", agent=served_api.agent)
    served_api.tool = await served_api.make("/agents/{agent}/tools", name="clock")
    return served_api


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("PATCH", "/agents/{agent}/tools/{tool}", {"type": "hammer"}, 422, "type"),
    ("PUT", "/agents/{agent}/tools/{tool}", {"type": ""}, 422, "type"),
    ("PATCH", "/agents/{agent}/tools/{tool}", {"name": "two words"}, 422, "name"),
    ("POST", "/sessions/{session}/messages", {"role": "user", "content": [{}]}, 400, "content"),
    ("POST", "/sessions/{session}/messages", {"role": "user", "content": [{"text": 5}]}, 400, "content"),
    ("POST", "/sessions/{session}/messages", {"role": "user", "content": [{"type": "tool_result", "content": 5}]}, 400,
     "content"),
    ("POST", "/sessions/{session}/messages", {**SAYS, "created_at": "0001-01-01T00:00:00+23:59"},
     400, "created_at"),
    ("POST", "/sessions/{session}/messages", {**SAYS, "created_at": "9999-12-31T23:59:59-01:00"},
     400, "created_at"),
    ("POST", "/sessions/{session}/chat", {**CALL, "token_budget": 10**80}, 422, "token_budget"),
    ("POST", "/sessions/{session}/chat", {**CALL, "max_tokens": 1.5}, 422, "max_tokens"),
    ("POST", "/sessions/{session}/chat", {**CALL, "tools": [{}]}, 400, "tools[0]"),
    ("POST", "/sessions/{session}/chat", b'{"messages": [], "seed": 1e999}', 422, "messages"),
    ("PATCH", "/sessions/{session}", {"token_budget": 10**30}, 400, "token_budget"),
    ("PATCH", "/sessions/{session}", b"[" * 100_000, 400, "body"),
    ("PATCH", "/sessions/{session}", b'{"metadata": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, 400, "body"),
    ("PATCH", "/sessions/{session}", b"\xff", 400, "body"),
    ("PATCH", "/sessions/{session}", b"5", 422, "body"),
    ("GET", "/agents?limit=--5", None, 422, "limit"),
    ("GET", "/agents?limit=101", None, 400, "Limit"),
    ("GET", "/agents?limit=0", None, 400, "Limit"),
    ("GET", f"/agents?limit={'9' * 5000}", None, 422, "limit"),
    ("GET", "/agents?offset=9223372036854775808", None, 400, "Offset"),
    ("GET", "/agents?metadata_filter=[]", None, 400, "metadata_filter"),
    ("GET", "/sessions/{session}/history?limit=null", None, 422, "limit"),
    ("GET", "/sessions/{session}/history?before=0.5", None, 422, "before"),
    ("GET", "/sessions/{session}/history?before=null", None, 422, "before"),
    ("GET", "/sessions/{session}/history?before=0001-01-01T00:00:00%2B23:59", None, 400, "before"),
    ("POST", "/agents/nobody", {"name": "Ada"}, 422, "id"),
    ("GET", "/docs/search", None, 404, "doc"),
    ("POST", "/files", {"name": "f", "content": "no!"}, 400, "content"),
    ("POST", "/files", {"name": "f"}, 422, "content"),
    ("POST", "/files", b"", 422, "name"),
    ("GET", "/files?limit=1001", None, 400, "Limit"),
    ("GET", "/files?offset=-1", None, 400, "Offset"),
    ("POST", "/embed", {"text": [" "]}, 400, "text[0]"),
    ("POST", "/embed", {"text": {"a": 1}}, 422, "text"),
    ("POST", "/embed", {"text": "a", "embed_instruction": "x" * 10_001}, 422, "embed_instruction"),
]  # fmt: skip


@pytest.mark.parametrize("asked", REFUSED, ids=lambda one: f"{one[0]} {one[1][:60]} {str(one[2])[:60]}")
async def test_what_cannot_be_is_refused_by_name(api: Api, asked: tuple[str, str, Any, int, str]) -> None:
    method, path, body, expected, named = asked
    status, told = await api.ask(method, path, body)
    assert (status, set(told["error"])) == (expected, {"message", "code", "type", "details"})
    assert named in told["error"]["message"]
    assert ("detail" in told) == (status == 422)
    for kept in ("/agents/{agent}/tools", "/sessions/{session}/history", "/sessions/{session}/messages", "/sessions"):
        assert (await api.ask("GET", kept))[0] == 200


ODD: list[tuple[str, str, Any, int]] = [
    ("PATCH", "/agents/{agent}", {"name": "\ud800 \0 \U0001f600"}, 200),
    ("PATCH", "/agents/{agent}", {"metadata": {"": None, "\0": "\udfff", "n": 2**80, "x": -0.0, "a.b": [1e308]}}, 200),
    ("PATCH", "/agents/{agent}", {"default_settings": {"max_tokens": 2**70, "temperature": 5}}, 200),
    ("PATCH", "/agents/{agent}", {"default_settings": {"max_tokens": 200.0}, "unknown": {}}, 200),
    ("PATCH", "/sessions/{session}", {"token_budget": 8000.0, "metadata": {"rate": 0.5}}, 200),
    ("POST", "/sessions/{session}/chat", {**CALL, "max_tokens": 200.0, "seed": 5.0}, 201),
    ("POST", "/sessions/{session}/chat", {**CALL, "tools": [{"name": "clock"}, {"name": "clock"}]}, 201),
    ("POST", "/sessions/{session}/chat", {**CALL, "tools": [{"name": "f", "function": {"parameters": {}}}]}, 201),
    ("POST", "/sessions/{session}/chat", {"messages": [{"role": "user", "content": ["a\0", {"text": "\ud800"}]}]}, 201),
    ("POST", "/sessions/{session}/messages", {**SAYS, "created_at": "0001-01-01T00:00:00Z"}, 201),
    ("POST", "/sessions/{session}/docs", {"title": "\0", "content": "\0 \ud800 word"}, 201),
    ("POST", "/sessions/{session}/search", {"text": "\0\"*:^(NEAR) \ud800"}, 200),
    ("POST", "/sessions/{session}/docs/search", {"text": "word"}, 200),
    ("DELETE", "/sessions/{session}/docs", None, 202),
    ("GET", '/agents?metadata_filter={"n":1}&metadata_filter.n=2&metadata_filter.=x&limit=5&limit=6', None, 200),
    ("GET", "/agents?offset=9223372036854775807&zz=1", None, 200),
    ("GET", "/sessions?name=null&agent_id=%00", None, 200),
    ("POST", "/files", {"name": "\0 \ud800", "content": "AA==\n", "mime_type": "\0", "size": "x"}, 201),
    ("POST", "/embed", {"text": ["\0 \ud800", "<|endoftext|>"], "embed_instruction": "\0"}, 200),
]  # fmt: skip


@pytest.mark.parametrize("asked", ODD, ids=lambda one: f"{one[0]} {one[1][:60]} {str(one[2])[:60]!r}")
async def test_what_is_odd_but_possible_is_kept_and_can_be_read(api: Api, asked: tuple[str, str, Any, int]) -> None:
    method, path, body, expected = asked
    status, told = await api.ask(method, path, body)
    assert status == expected, told
    kept_too = ("/sessions/{session}/docs", "/sessions/{session}/history", "/files")
    for kept in ("/agents/{agent}", "/sessions/{session}", *kept_too):
        assert (await api.ask("GET", kept))[0] == 200


WEIRD = ["..", "%2e%2e", "%2F", "%00", "%ff", "%1f", "x" * 300, "%F0%9F%98%80", "%20", "null", "*"]


@pytest.mark.parametrize("id", WEIRD)
@pytest.mark.parametrize(
    "path",
    ["/agents/ID", "/sessions/ID", "/docs/ID", "/files/ID", "/jobs/ID", "/agents/ID/docs", "/sessions/ID/history"],
)
async def test_no_id_is_too_weird_to_be_missing(api: Api, path: str, id: str) -> None:
    async with dialled(api.proxied) as line:
        await line.send(f"GET {path.replace('ID', id)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        reply = await line.reply()
        assert (reply.status, set(reply.json["error"])) == (404, {"message", "code", "type", "details"})


@pytest.mark.parametrize(
    "name", ["plain", "UPPER", "z" * 8 + "-zzzz-zzzz-zzzz-" + "z" * 12, "0199d7a25c1e7c3a9d0b3f6f6a1f2b4d"]
)
async def test_a_session_that_is_put_under_a_name_gets_an_id_of_its_own(api: Api, name: str) -> None:
    status, made = await api.ask("POST", f"/sessions/{name}", {"agent": api.agent})
    assert (status, made["name"]) == (201, name)
    assert str(uuid.UUID(made["id"])) == made["id"] and made["id"] != name


async def test_a_session_that_is_put_under_an_id_has_it(api: Api) -> None:
    own = str(uuid.uuid4())
    status, made = await api.ask("POST", f"/sessions/{own.upper()}", {"agent": api.agent})
    assert (status, made["id"], made["name"]) == (201, own, None)


async def test_an_agent_is_put_twice_with_its_tools(api: Api) -> None:
    for description in ("old", "new"):
        tools = [{"name": "clock", "description": description}, {"name": "bell"}]
        assert (await api.ask("POST", "/agents/{agent}", {"name": "Ada", "tools": tools}))[0] == 201
    _, listed = await api.ask("GET", "/agents/{agent}/tools?direction=asc")
    assert [(tool["name"], tool["description"]) for tool in listed["items"]] == [("clock", "new"), ("bell", None)]


async def test_a_tool_without_a_type_is_a_function(api: Api) -> None:
    body = {**CALL, "tools": [{"name": "f", "description": "d", "function": {"parameters": {"type": "object"}}}]}
    assert (await api.ask("POST", "/sessions/{session}/chat", body))[0] == 201
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert {"type": "function", "function": function} in api.up.requests[-1].json["tools"]


@pytest.mark.parametrize(
    "path", ["/agents", "/agents/{agent}", "/sessions/{session}/history", "/files", "/openapi.json", "/healthz"]
)
async def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    path = path.replace("{agent}", api.agent).replace("{session}", api.session)
    async with api.http.get(path) as whole, api.http.head(path) as head:
        assert (head.status, await head.read()) == (200, b"")
        assert head.headers.get("Content-Length") == whole.headers.get("Content-Length")


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/agents/{agent}", "DELETE, GET, HEAD, PATCH, POST, PUT"),
        ("/sessions/{session}/docs/search", "POST"),
        ("/healthz", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
    ],
)
async def test_another_method_is_told_which_there_are(api: Api, method: str, path: str, allowed: str) -> None:
    path = path.replace("{agent}", api.agent).replace("{session}", api.session)
    async with api.http.request(method, path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_what_is_no_http_gets_an_envelope_too(api: Api) -> None:
    async with dialled(api.proxied) as line:
        await line.send(b"GET /agents?a= b HTTP/1.1\r\nhost: localhost\r\n\r\n")
        reply = await line.reply()
        assert (reply.status, reply.error["code"]) == (400, "invalid_http")
