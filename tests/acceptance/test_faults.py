"""Every way a model server can fail: the client is told plainly, nothing is stored, the session goes on.

Streams of sessions are read by the proxy and judged; without a session the bytes pass as they are.
"""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests import faults
from tests.acceptance.asking import Proxied, Reply, assistant, by_model, served
from tests.scripted import Exchange, ScriptedUpstream, Step, delta, dump, says, scripted_upstream, status

pytestmark = pytest.mark.anyio

HTML = "<html><h1>Bad gateway</h1><p>nginx at 127.0.0.1 behind inner.example.internal</p></html>"
ERROR = {"message": "Try less", "type": "invalid_request_error", "param": "temperature", "code": "too_hot"}
OK = b"HTTP/1.1 200 OK\r\n"


def answers(data: bytes, kind: str = "application/json", length: int | None = None) -> Step:
    """A 200 with this body; of another announced length it is cut off."""
    size = len(data) if length is None else length
    return faults.raw([OK + b"content-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind.encode(), size) + data])


def streams(*events: object) -> Step:
    """Two regular chunks, these events (bytes as they are), a regular end."""

    async def step(exchange: Exchange) -> None:
        await exchange.start_stream()
        for part in ({"role": "assistant", "content": ""}, {"content": "one"}):
            await exchange.event(delta(exchange.request, part))
        for event in events:
            await (exchange.chunk(event) if isinstance(event, bytes) else exchange.event(event))
        await exchange.event(delta(exchange.request, {}, "stop"))
        await exchange.event("[DONE]")
        await exchange.end()

    return step


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": None, **fields}]}


REFUSED: dict[str, tuple[Step, int, str | None]] = {
    "400": (status(400, json={"error": ERROR}), 400, "too_hot"),
    "401": (status(401, json={"error": ERROR}), 502, "upstream_auth_error"),
    "403": (status(403, json={"error": ERROR}), 502, "upstream_auth_error"),
    "404": (status(404, json={"error": {**ERROR, "code": "model_not_found"}}), 404, "model_not_found"),
    "400-html": (status(400, html=HTML), 400, None),
    "413-empty": (status(413), 413, None),
    "422-detail": (status(422, json={"detail": [{"loc": ["x"], "msg": "no"}]}), 422, None),
    "400-text": (status(400, json={"error": "Try less"}), 400, None),
    "400-message": (status(400, json={"object": "error", "message": "Try less", "code": 400}), 400, None),
    "429": (status(429, json={"error": ERROR}, headers={"retry-after": "7"}), 429, "too_hot"),
    "500": (status(500, json={"error": ERROR}), 500, "too_hot"),
    "502-html": (status(502, html=HTML), 502, None),
    "503-html": (status(503, html=HTML, headers={"retry-after": "9"}), 503, None),
    "529": (status(529, json={"error": ERROR}), 529, "too_hot"),
    "599-number": (status(599, json=5), 599, None),
    "reset": (faults.reset_before_headers(), 502, "upstream_unreachable"),
    "hang-up": (faults.hang_up_before_headers(), 502, "upstream_unreachable"),
    "not-http": (faults.raw([b"SSH-2.0-OpenSSH_9.2\r\n"]), 502, "upstream_unreachable"),
    "silence": (faults.silence(), 504, "upstream_timeout"),
}
"""Fault: what the upstream does, the status the client gets, the error's code. The same for streams and without."""

BROKEN: dict[str, tuple[Step, str, str | None]] = {
    "reset-mid": (faults.reset_mid_stream(3), "one two", "upstream_broken"),
    "cut-mid": (faults.cut_mid_stream(3), "one two", "upstream_broken"),
    "stall-mid": (faults.stalls(3), "one two", "upstream_timeout"),
    "huge": (faults.huge_event(5 << 20), "one", "upstream_broken"),
}
"""Streams that break, with and without a session: what the upstream does, the text that came, the error's code."""

GARBLED: dict[str, tuple[Step, str | None]] = {
    "no-finish": (faults.clean_end_without_finish(), "upstream_broken"),
    "not-json": (faults.broken_json_event(), "upstream_broken"),
    "error": (faults.error_event(), None),
    "error-code": (faults.error_event(code="overloaded"), "overloaded"),
    "error-status": (faults.error_event(code=429), None),
    "error-text": (streams({"error": "The model is overloaded"}), "upstream_broken"),
    "nan": (streams('{"choices": [{"index": 0, "delta": {"content": "x", "p": NaN}}]}'), "upstream_broken"),
    "choices": (streams({"choices": "x"}), "upstream_broken"),
    "list": (streams([1]), "upstream_broken"),
    "delta": (streams(choice(delta="x")), "upstream_broken"),
    "index": (streams(choice(delta={}, index="0")), "upstream_broken"),
    "finish": (streams(choice(delta={}, finish_reason={"x": 1})), "upstream_broken"),
    "usage": (streams({"choices": [], "usage": "many"}), "upstream_broken"),
}
"""Streams that a session does not take for an answer, and that pass as they are without one."""

UNREADABLE: dict[str, tuple[Step, int, str | None]] = {
    "whole-cut": (answers(b'{"choices": [', length=500), 502, "upstream_broken"),
    "whole-html": (answers(HTML.encode(), "text/html"), 502, "upstream_broken"),
    "whole-empty": (answers(b""), 502, "upstream_broken"),
    "whole-list": (answers(b"[]"), 502, "upstream_broken"),
    "whole-no-choices": (answers(b'{"choices": []}'), 502, "upstream_broken"),
    "whole-no-message": (answers(b'{"choices": [{"index": 0, "message": "hi"}]}'), 502, "upstream_broken"),
    "whole-error": (answers(dump({"error": {"message": "no", "code": "x"}})), 502, "x"),
    "whole-error-429": (answers(dump({"error": {"message": "slow down", "code": 429}})), 429, None),
    "whole-surrogate-half": (answers(b'{"choices": [{"message": {"content": "\\ud8'), 502, "upstream_broken"),
    "whole-stream": (streams(), 502, "upstream_broken"),
    "whole-204": (status(204), 502, "upstream_broken"),
    "redirect": (faults.redirect("http://inner.example.internal/v1"), 502, "upstream_redirected"),
}
"""Answers to a session's request that does not stream: the client's status and the error's code."""

FINE: dict[str, tuple[Step, str]] = {
    "no-done": (faults.finish_without_done(), faults.TEXT),
    "surrogate": (faults.lone_surrogate(), "onehalf \ufffd pair"),
    "bytes": (faults.one_byte_writes("naïve 🎈 text"), "naïve 🎈 text"),
    "crlf": (faults.crlf("one two"), "one two"),
    "cr": (faults.cr_only("one two"), "one two"),
    "gzip": (faults.gzip_stream("one two"), "one two"),
    "line-separators": (says("a\u2028b\u0085c\x0bd\x0ce"), "a\u2028b\u0085c\x0bd\x0ce"),
    "json": (answers(dump({"id": "x", "choices": [{"index": 0, "message": assistant("hi"), "finish_reason": "stop"}]})),
             "hi"),
    "comments": (streams(b": nothing\n\n: more\n\n"), "one"),
    "unknown-fields": (streams({**choice(delta={"content": " two", "x": 1}), "y": {"z": 2}}), "one two"),
    "pair-in-two": (streams('{"choices":[{"index":0,"delta":{"content":"\\ud83c"}}]}',
                            '{"choices":[{"index":0,"delta":{"content":"\\udf88"}}]}'), "one🎈"),
}  # fmt: skip
"""Streams that are odd but whole: what the upstream does, and the text that a session keeps."""

STEPS: dict[str, Step] = {
    name: row[0] for table in (REFUSED, BROKEN, GARBLED, UNREADABLE, FINE) for name, row in table.items()
}
"""The request's model names the fault; a session is named after its test's."""

World = tuple[ScriptedUpstream, Proxied]


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """One proxy for all tests of this file."""
    limits = {"first_byte_timeout_s": 1, "idle_timeout_s": 1}
    folder = tmp_path_factory.mktemp("faults")
    async with (
        scripted_upstream(by_model({**STEPS, "fine": says("fine")})) as up,
        served(up, folder, upstream=limits) as proxied,
    ):
        yield up, proxied


async def ask(world: World, fault: str, to: str | None, stream: bool) -> Reply:
    """Asks, then makes sure that nothing of the turn is left and that the session works."""
    up, proxied = world
    reply = await proxied.ask("now fail", to=to, model=fault, stream=stream)
    await up.wait_idle()
    assert not any(leak in reply.body for leak in (b"127.0.0.1", b"inner.example", b"<h", b"Traceback", b"/proxy/"))
    if to is not None:
        assert (proxied.stored(to), proxied.turns(to)) == ([], [])
        after = await proxied.ask("hello", to=to, model="fine", stream=stream)
        assert (after.text, after.headers["x-session-turn"]) == ("fine", "1")
        assert proxied.stored(to) == ["user: hello", "assistant: fine"]
    return reply


def session(fault: str, stream: bool, named: bool) -> str | None:
    return f"{fault} {stream}" if named else None


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", REFUSED)
async def test_a_failure_before_the_first_byte_is_an_error_response(
    world: World, fault: str, stream: bool, named: bool
) -> None:
    _, status, code = REFUSED[fault]
    reply = await ask(world, fault, session(fault, stream, named), stream)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    if code is not None:
        assert reply.error["code"] == code
    if code == "too_hot":
        assert reply.error == ERROR
    assert reply.headers.get("retry-after") == {"429": "7", "503-html": "9"}.get(fault)
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("fault", BROKEN)
async def test_a_stream_that_breaks_ends_with_an_error_event(world: World, fault: str, named: bool) -> None:
    _, text, code = BROKEN[fault]
    reply = await ask(world, fault, session(fault, True, named), stream=True)
    assert (reply.status, reply.text, reply.done) == (200, text, False)
    assert reply.error["code"] == code


@pytest.mark.parametrize("fault", GARBLED)
async def test_a_session_takes_no_garbled_stream_for_an_answer(world: World, fault: str) -> None:
    reply = await ask(world, fault, f"garbled {fault}", stream=True)
    if reply.status == 200:
        assert faults.TEXT.startswith(reply.text)
        assert not reply.done
    if fault.startswith("error"):
        assert reply.error["message"] == "The model is overloaded"
    code = GARBLED[fault][1]
    assert code is None or reply.error["code"] == code


@pytest.mark.parametrize("fault", [*GARBLED, "no-done", "surrogate", "crlf", "cr", "comments", "unknown-fields"])
async def test_without_a_session_a_stream_passes_as_it_is(world: World, fault: str) -> None:
    up, proxied = world
    body = {"model": fault, "stream": True, "messages": []}
    async with proxied.http.post(up.url + "/chat/completions", json=body) as direct:
        written = await direct.read()
    reply = await proxied.post(dump(body), to=None)
    assert (reply.status, reply.body) == (200, written)


@pytest.mark.parametrize("fault", UNREADABLE)
async def test_an_answer_that_cannot_be_read_is_a_502(world: World, fault: str) -> None:
    _, status, code = UNREADABLE[fault]
    reply = await ask(world, fault, f"whole {fault}", stream=False)
    assert reply.status == status
    assert code is None or reply.error["code"] == code
    assert reply.error["message"]


@pytest.mark.parametrize("fault", FINE)
async def test_an_odd_but_whole_stream_is_an_answer(world: World, fault: str) -> None:
    _, text = FINE[fault]
    proxied = world[1]
    to = f"fine {fault}"
    reply = await proxied.ask("say it", to=to, model=fault, stream=True)
    assert (reply.status, reply.done) == (200, True)
    assert proxied.messages(to)[1]["content"] == text
    if fault not in ("surrogate", "pair-in-two"):
        assert reply.text == text
    after = await proxied.ask("hello", to=to, model="fine", stream=True)
    assert after.text == "fine"
