"""The proxy as the chat sees it: what does not answer, or not as a proxy does, is said in words."""

from pathlib import Path

import pytest

from proxy.cli.chatting.client import Failed, Proxy, header, session_path
from proxy.errors import BadConfig
from tests.faults import nobody_listens, redirect, reset_before_headers
from tests.scripted import Step, echoes, scripted_upstream, status
from tests.serving import proxy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://me:pw@x", "http://x?y", "http://x:99999"])
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(BadConfig, match="--url"):
        Proxy(url, None)


async def test_json_goes_in_and_out(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, proxy(up.url, tmp_path) as running:
        client = Proxy(running.url, "any")
        assert (await client.get("/healthz"))["status"] == "ok"
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with client.stream("/v1/chat/completions", body, {"X-Session-Id": "s"}) as answer:
            payloads = [one async for found in client.events(answer) for one in found]
        assert header(answer, "x-session-turn") == "1"
        assert header(answer, "x-nothing") is None
        assert payloads[-1] == b"[DONE]"
        assert (await client.get("/sessions", limit=1, offset=None))["items"][0]["name"] == "s"
        assert (await client.post("/sessions/s/undo", {}))["parent"] == 1
        assert [line["type"] for line in await client.lines("/sessions/s/export")][-1] == "end"
        with pytest.raises(Failed) as raised:
            await client.get("/sessions/none")
        assert (raised.value.status, raised.value.code) == (404, "session_not_found")
        await client.aclose()


FAULTS: list[tuple[str, Step, str]] = [
    ("no JSON", status(200, html="<h1>It works</h1>"), "is no session-proxy"),
    ("HTML", status(502, html="<h1>Bad gateway</h1>"), "answers 502, not as a session-proxy does"),
    ("a redirect", redirect("https://a.example"), "answers 30., not as a session-proxy does"),
    ("a reset", reset_before_headers(), "no proxy answers at"),
]


@pytest.mark.parametrize(("step", "told"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
async def test_what_is_no_proxy_is_told(step: Step, told: str) -> None:
    async with scripted_upstream(step) as up:
        client = Proxy(up.url, None)
        with pytest.raises(Failed, match=told):
            await client.get("/healthz")
        await client.aclose()


async def test_an_answer_without_an_end_is_not_read_on() -> None:
    async with scripted_upstream(status(200, json={"status": "o" * 2000})) as up:
        client = Proxy(up.url, None, longest=1000)
        with pytest.raises(Failed, match="longer than 1,000 bytes"):
            await client.get("/healthz")
        await client.aclose()
    async with scripted_upstream(status(502, json={"error": {"message": "long", "more": "o" * (1 << 20)}})) as up:
        client = Proxy(up.url, None)
        with pytest.raises(Failed, match="answers 502, not as a session-proxy does"):
            await client.get("/healthz")
        await client.aclose()


async def test_nobody_there_is_told() -> None:
    client = Proxy(nobody_listens(), None)
    with pytest.raises(Failed, match="no proxy answers at http://127"):
        await client.get("/healthz")
    await client.aclose()


async def test_a_name_or_a_key_cannot_make_a_header_of_its_own() -> None:
    with pytest.raises(Failed, match="the key may hold printable ASCII characters only"):
        Proxy("http://127.0.0.1:1", "a\r\nX-Other: b")
    client = Proxy("http://127.0.0.1:1", None)
    with pytest.raises(Failed, match="X-Session-Id may hold"):
        await client.post("/v1/chat/completions", {}, {"X-Session-Id": "a\nb"})
    assert session_path("a/b ?é") == "/sessions/a%2Fb%20%3F%C3%A9"
