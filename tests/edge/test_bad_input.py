"""Requests that are wrong: each gets a 4xx that names the field, stores nothing, reaches no model and harms nothing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.asking import asks_for, call, result, served, system, user
from tests.acceptance.sockets import dialled
from tests.acceptance.stage import Stage
from tests.scripted import WAIT_S, says, scripted_upstream

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True)
class Bad:
    """A request to session "s": its body (a dict is added to a good one), what the error's `param` is, the status."""

    body: bytes | dict[str, Any]
    param: str
    status: int = 400
    code: str | None = None
    headers: dict[str, str | None] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(HI | self.body).encode()


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [fields]}


def option(**fields: Any) -> dict[str, Any]:
    return {"session": {"id": "s", **fields}}


NESTED = b'{"messages":[{"role":"user","content":[{"type":"x","x":%b1%b}]}]}' % (b"[" * 100, b"]" * 100)

BODIES = {
    "empty": Bad(b"", "body"),
    "half": Bad(b'{"messages": [{"role": "user"', "body"),
    "trailing": Bad(b'{"messages": []} {}', "body"),
    "comment": Bad(b'{"messages": [] /* none */}', "body"),
    "single quotes": Bad(b"{'messages': []}", "body"),
    "raw newline": Bad(b'{"messages": [{"role": "user", "content": "a\nb"}]}', "body"),
    "list": Bad(b"[]", "body"),
    "text": Bad(b'"hi"', "body"),
    "null": Bad(b"null", "body"),
    "number": Bad(b"5", "body"),
    "nan": Bad(b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "body"),
    "infinity": Bad(b'{"messages": [{"role": "user", "content": "x"}], "temperature": -Infinity}', "body"),
    "latin-1": Bad(b'{"messages": [{"role": "user", "content": "caf\xe9"}]}', "body"),
    "utf-16": Bad(json.dumps(HI).encode("utf-16"), "body"),
    "gzip": Bad(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "body"),
    "open brackets": Bad(b'{"messages":' + b"[" * 100_000, "body"),
    "deep": Bad(b'{"messages": [], "x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body"),
    "deep message": Bad(NESTED, "messages[0]"),
    "plain text": Bad(HI, "content-type", 415, "unsupported_media_type", {"Content-Type": "text/plain"}),
    "form": Bad(HI, "content-type", 415, headers={"Content-Type": "multipart/form-data; boundary=x"}),
}

MESSAGES = {
    "missing": Bad(b'{"model": "m"}', "messages"),
    "null": Bad({"messages": None}, "messages"),
    "object": Bad({"messages": {"role": "user"}}, "messages"),
    "text": Bad({"messages": "hi"}, "messages"),
    "none": Bad({"messages": []}, "messages"),
    "null message": Bad({"messages": [None]}, "messages[0]"),
    "text message": Bad({"messages": [user("hi"), "ho"]}, "messages[1]"),
    "no role": Bad(message(content="hi"), "messages[0].role"),
    "null role": Bad(message(role=None, content="hi"), "messages[0].role"),
    "number role": Bad(message(role=5, content="hi"), "messages[0].role"),
    "list role": Bad(message(role=["user"], content="hi"), "messages[0].role"),
    "unknown role": Bad(message(role="robot", content="hi"), "messages[0].role"),
    "number content": Bad(message(role="user", content=5), "messages[0].content"),
    "object content": Bad(message(role="user", content={"type": "text"}), "messages[0].content"),
    "text part": Bad(message(role="user", content=["hi"]), "messages[0].content"),
    "part without text": Bad(message(role="user", content=[{"type": "text"}]), "messages[0].content[0].text"),
    "number text": Bad(message(role="user", content=[{"type": "text", "text": 5}]), "messages[0].content[0].text"),
    "result of nothing": Bad(message(role="tool", content="x"), "messages[0].tool_call_id"),
    "result of a number": Bad(message(role="tool", content="x", tool_call_id=5), "messages[0].tool_call_id"),
    "result of an unknown call": Bad({"messages": [result("x", "nope")]}, "messages[0].tool_call_id"),
    "result of another call": Bad(
        {"messages": [user("hi"), asks_for(call("clock", {})), result("x", "nope")]}, "messages[2].tool_call_id"
    ),
    "calls object": Bad(message(role="assistant", tool_calls={}), "messages[0].tool_calls"),
    "calls text": Bad(message(role="assistant", tool_calls="x"), "messages[0].tool_calls"),
    "call number": Bad(message(role="assistant", tool_calls=[5]), "messages[0].tool_calls[0].id"),
    "call without id": Bad(message(role="assistant", tool_calls=[{}]), "messages[0].tool_calls[0].id"),
    "call id number": Bad(message(role="assistant", tool_calls=[{"id": 5}]), "messages[0].tool_calls[0].id"),
    "too many": Bad({"messages": [user("hi")] * 2001}, "messages"),
}

FIELDS = {
    **{f"stream {v!r}": Bad({"stream": v}, "stream") for v in ("yes", 1, [])},
    **{f"n {v!r}": Bad({"n": v}, "n") for v in (0, -1, 9, "2", True, 1.5, [])},
    **{f"model {v!r}": Bad({"model": v}, "model") for v in (5, ["m"], {})},
    **{f"max_tokens {v!r}": Bad({"max_tokens": v}, "max_tokens") for v in (-1, "5", 1.5, True, [])},
    "max_completion_tokens": Bad({"max_completion_tokens": "many"}, "max_completion_tokens"),
    **{f"stream_options {v!r}": Bad({"stream": True, "stream_options": v}, "stream_options") for v in ([], "x", 5)},
    **{f"tools {v!r}": Bad({"tools": v}, "tools") for v in ({}, "x", 5)},
    "key": Bad(HI, "Idempotency-Key", headers={"Idempotency-Key": "k" * 256}),
}

NAMES = {
    "empty": Bad(HI, "X-Session-Id", headers={"X-Session-Id": ""}),
    "long": Bad(HI, "X-Session-Id", headers={"X-Session-Id": "x" * 257}),
    "accent": Bad(HI, "X-Session-Id", headers={"X-Session-Id": "caf\xe9"}),
    "emoji": Bad(HI, "X-Session-Id", headers={"X-Session-Id": "🎈".encode().decode("latin-1")}),
    "tab": Bad(HI, "X-Session-Id", headers={"X-Session-Id": "a\tb"}),
    "alias": Bad(HI, "x-conversation-id", headers={"X-Session-Id": None, "X-Conversation-Id": "x" * 257}),
}

OPTIONS = {
    **{f"mode {v!r}": Bad(option(mode=v), "session.mode") for v in ("x", 5, [])},
    **{f"save {v!r}": Bad(option(save=v), "session.save") for v in ("yes", 1, [])},
    **{f"recall {v!r}": Bad(option(recall=v), "session.recall") for v in ("yes", 1)},
    **{
        f"budget {v!r}": Bad(option(token_budget=v), "session.token_budget")
        for v in (-1, 0, "100", True, 1.5, [], 10**12, 10**30)
    },
    **{f"overflow {v!r}": Bad(option(context_overflow=v), "session.context_overflow") for v in ("x", 5, [])},
    "unknown": Bad(option(colour="red"), "session.colour"),
    "auto_run_tools": Bad(option(auto_run_tools=True), "session.auto_run_tools", code="unsupported_option"),
    **{f"fork {v!r}": Bad(option(fork=v), "session.fork") for v in (-1, "1", True, 1.5, [], {}, 10**30)},
    **{f"branch {v!r}": Bad(option(branch=v), "session.branch") for v in (-1, 0, "1", True, 1.5, [], 10**30)},
    **{f"fork header {v}": Bad(HI, "session.fork", headers={"X-Session-Fork": v}) for v in ("-1", "x", "1.5", "\xb2")},
    **{f"branch header {v}": Bad(HI, "session.branch", headers={"X-Session-Branch": v}) for v in ("0", "x", "9" * 30)},
    "fork at nothing": Bad(option(fork=1), "session.fork", code="turn_not_found"),
    "branch of nothing": Bad(option(branch=2), "session.branch", code="branch_not_found"),
    "fork and branch": Bad(option(fork=0, branch=1), "session.fork"),
    "header mode": Bad(HI, "session.mode", headers={"X-Session-Mode": "x"}),
    "header save": Bad(HI, "session.save", headers={"X-Session-Save": "maybe"}),
    **{
        f"header budget {v}": Bad(HI, "session.token_budget", headers={"X-Session-Token-Budget": v})
        for v in ("-1", "0", "abc", "1.5", "1e3", "true", "\xb2", "9" * 30)
    },
    "system over budget": Bad(
        {"messages": [system("word " * 100), user("hi")]} | option(token_budget=50), "token_budget",
        code="context_length_exceeded",
    ),
    "messages over budget": Bad(
        {"messages": [user("word " * 100)]} | option(token_budget=50), "messages", code="context_length_exceeded"
    ),
}  # fmt: skip

ALL = {
    f"{kind}: {name}": bad
    for kind, table in {"body": BODIES, "messages": MESSAGES, "field": FIELDS, "name": NAMES, "option": OPTIONS}.items()
    for name, bad in table.items()
}


@pytest.mark.parametrize("name", ALL)
async def test_a_bad_request_is_explained_and_harms_nothing(stage: Stage, name: str) -> None:
    bad = ALL[name]
    up, proxied = await stage(says("fine"))
    auth = {"Authorization": f"Bearer {proxied.key}"}
    async with dialled(proxied) as line:
        headers = {
            name: value for name, value in (auth | {"X-Session-Id": "s"} | bad.headers).items() if value != "DROP"
        }
        await line.post(bad.raw, headers)
        reply = await line.reply()
        assert (reply.status, reply.headers["content-type"]) == (bad.status, "application/json")
        assert reply.error["type"] == "invalid_request_error"
        assert reply.error["param"] == bad.param
        assert bad.param in reply.error["message"] or bad.param.rpartition(".")[0] in reply.error["message"]
        assert bad.code is None or reply.error["code"] == bad.code
        assert "Traceback" not in reply.error["message"]
        assert reply.headers["x-request-id"]
        assert up.requests == []
        assert proxied.sessions() == []
        await line.post(json.dumps(HI).encode(), auth | {"X-Session-Id": "s"})
        after = await line.reply()
        assert (after.text, after.headers["x-session-turn"]) == ("fine", "1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session", 5), ("session", ["s"]), ("session", {}), ("session", {"id": 5}), ("session", {"id": ""}),
        ("session", {"id": None}), ("session", "caf\xe9"), ("session", "a\nb"), ("session", "a\x00b"),
        ("session", "x" * 257), ("session", ""), ("conversation", 5), ("conversation", {"id": []}),
        ("conversation", {}), ("metadata", {"session_id": 5}), ("metadata", {"session_id": ""}),
    ],
)  # fmt: skip
async def test_a_name_in_the_body_that_is_none_is_explained(stage: Stage, name: str, value: object) -> None:
    up, proxied = await stage(says("fine"))
    reply = await proxied.post(json.dumps(HI | {name: value}).encode(), to=None)
    assert reply.status == 400
    assert reply.error["param"].startswith(name)
    assert reply.error["param"] in reply.error["message"]
    assert up.requests == []
    assert proxied.sessions() == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_another_method_is_not_possible(stage: Stage, method: str) -> None:
    up, proxied = await stage(says("fine"))
    reply = await proxied.call(method, "/chat/completions")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, POST")
    assert reply.error["code"] == "method_not_allowed"
    assert up.requests == []


@pytest.mark.parametrize("path", ["/nothing", "/chat/completions/", "/chat", "/files", "/organization/users", "/../v1"])
async def test_an_unknown_path_is_a_404_with_the_envelope(tmp_path: Path, path: str) -> None:
    async with scripted_upstream(says("no")) as up, served(up, tmp_path) as proxied:
        for method in ("GET", "POST"):
            reply = await proxied.call(method, path)
            assert (reply.status, reply.error["code"]) == (404, "unknown_url")
        assert up.requests == []


@pytest.mark.parametrize("to", ["s", None])
async def test_a_body_over_the_limit_is_a_413(stage: Stage, to: str | None) -> None:
    up, proxied = await stage(says("fine"), server={"max_body_mb": 1})
    for announced in (True, False):
        async with dialled(proxied) as line:
            named = {"X-Session-Id": to}
            if announced:
                await line.post(b"", {**named, "Content-Length": str(2 << 20)})
            else:
                await line.post(b"", {**named, "Transfer-Encoding": "chunked", "Content-Length": None})
                await line.send(b"100001\r\n" + b" " * 0x100001 + b"\r\n")
            reply = await line.reply()
            assert (reply.status, reply.error["code"]) == (413, "request_too_large")
            assert "max_body_mb" in reply.error["message"]
            assert await line.rest() == b""
    assert up.requests == []
    assert (await proxied.ask("hi", to=to)).text == "fine"


async def test_headers_over_the_limit_are_a_431(stage: Stage) -> None:
    up, proxied = await stage(says("fine"))
    async with dialled(proxied) as line:
        await line.post(b"{}", {f"X-Filler-{n}": "x" * 8000 for n in range(9)})
        reply = await line.reply()
        assert (reply.status, reply.error["code"]) == (431, "headers_too_large")
        assert await line.rest() == b""
    assert up.requests == []


async def test_a_body_that_does_not_come_is_a_408(stage: Stage) -> None:
    settings = {"body_timeout_s": 0.3}
    up, proxied = await stage(says("fine"), server=settings)
    async with dialled(proxied) as line:
        await line.post(b'{"messages": [', {"X-Session-Id": "s", "Content-Length": "1000"})
        reply = await line.reply()
        assert (reply.status, reply.error["code"]) == (408, "request_timeout")
        assert "body_timeout_s" in reply.error["message"]
        assert await line.rest() == b""
    assert up.requests == []
    assert (await proxied.ask("hi", to="s")).text == "fine"


@pytest.mark.slow
async def test_headers_that_do_not_come_end_the_connection(stage: Stage) -> None:
    _, proxied = await stage(says("fine"))
    async with dialled(proxied) as line:
        await line.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")
        assert await line.rest(seconds=2 * WAIT_S) == b""
