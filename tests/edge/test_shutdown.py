"""The end of a server's life, and silence in the middle of a stream."""

import json
import re
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from openai import AsyncOpenAI

from tests.acceptance.asking import Reply, connections, served, user
from tests.acceptance.sockets import dialled
from tests.edge.processes import command, configured, serving
from tests.scripted import WAIT_S, Exchange, ScriptedUpstream, echoes, gated, says, scripted_upstream

pytestmark = pytest.mark.anyio


COUNT: Any = {"model": "m", "stream": True, "messages": [user("count")]}


@pytest.fixture
async def http() -> AsyncGenerator[aiohttp.ClientSession]:
    async with connections() as session:
        yield session


async def ask(http: aiohttp.ClientSession, url: str, text: str, to: str | None = "s", **fields: Any) -> Reply:
    body = {"model": "m", "messages": [user(text)], **fields}
    headers = {"X-Session-Id": to} if to else {}
    async with http.post(url + "/chat/completions", json=body, headers=headers) as response:
        return Reply(response.status, response.headers, await response.read())


async def whole(exchange: Exchange) -> None:
    """An answer of one piece that waits for `up.gate.release()`."""
    await exchange.up.gate.acquire()
    await says("one two")(exchange)


async def refused(http: aiohttp.ClientSession, url: str) -> Reply:
    """The first answer of a server that has begun to stop."""
    with anyio.fail_after(WAIT_S):
        while (reply := await ask(http, url, "hi", to=None)).status == 200:
            pass
    return reply


@pytest.mark.parametrize("stream", [True, False])
async def test_a_running_turn_ends_before_the_server_does(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    script = [gated("one two") if stream else whole, says("ok")]
    async with scripted_upstream(script) as up, serving(configured(up.url, tmp_path)) as server:
        replies: list[Reply] = []

        async def hold() -> None:
            replies.append(await ask(http, server.url, "count", stream=stream))

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            await up.wait_requests(1)
            server.process.send_signal(signal.SIGTERM)
            reply = await refused(http, server.url)
            assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "shutting_down", "5")
            release(up, 3)
        assert replies[0].text == "one two"
        assert not stream or replies[0].done
        assert await server.exit_code() == 0
        assert server.stored() == ["complete"]


async def test_a_stream_that_outlasts_the_drain_ends_with_an_error_event(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    step, settings, headers = gated("one two"), {"drain_timeout_s": 0.3}, {"X-Session-Id": "s"}
    async with scripted_upstream(step) as up, serving(configured(up.url, tmp_path, **settings)) as server:
        release(up, 2)
        async with http.post(server.url + "/chat/completions", json=COUNT, headers=headers) as response:
            read = await response.content.readuntil(b"one")
            server.process.send_signal(signal.SIGTERM)
            reply = Reply(response.status, response.headers, read + await response.read())
        assert (reply.text, reply.done, reply.error["code"]) == ("one", False, "shutting_down")
        assert await server.exit_code() == 0
        assert up.requests[0].left.is_set()
        assert server.stored() == []


async def test_a_turn_without_an_answer_yet_ends_the_drain_with_a_503(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with scripted_upstream(whole) as up, serving(configured(up.url, tmp_path, drain_timeout_s=0.3)) as server:
        replies: list[Reply] = []

        async def hold() -> None:
            replies.append(await ask(http, server.url, "count"))

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            await up.wait_requests(1)
            server.process.send_signal(signal.SIGTERM)
        assert (replies[0].status, replies[0].error["code"]) == (503, "shutting_down")
        assert replies[0].headers["retry-after"] == "5"
        assert await server.exit_code() == 0
        assert up.requests[0].left.is_set()
        assert server.stored() == []


def release(up: ScriptedUpstream, chunks: int) -> None:
    for _ in range(chunks):
        up.gate.release()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_server_ends_at_once_and_cleanly(
    tmp_path: Path, http: aiohttp.ClientSession, number: signal.Signals
) -> None:
    async with scripted_upstream(says("ok")) as up, serving(configured(up.url, tmp_path)) as server:
        assert (await ask(http, server.url, "hi")).text == "ok"  # and the connection stays open
        server.process.send_signal(number)
        assert await server.exit_code() == 0
        assert server.process.stderr is not None
        assert await server.process.stderr.read() == b""


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with scripted_upstream([says("one"), gated("two three")]) as up:
        config = configured(up.url, tmp_path)
        async with serving(config) as server:
            assert (await ask(http, server.url, "first", stream=True)).done
            release(up, 2)
            headers = {"X-Session-Id": "s"}
            async with http.post(server.url + "/chat/completions", json=COUNT, headers=headers) as response:
                await response.content.readuntil(b"two")
                server.process.kill()
                await server.exit_code()
        up.play(echoes())
        async with serving(config) as server:
            assert server.stored() == ["complete"]
            reply = await ask(http, server.url, "third")
            assert (reply.text, reply.headers["x-session-turn"]) == ("echo: third", "2")
            assert [message["content"] for message in up.requests[-1].json["messages"]] == ["first", "one", "third"]


async def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with scripted_upstream(says("ok")) as up, serving(configured(up.url, tmp_path)) as server:
        code, out, err = await command("serve", "--config", str(server.config))
        assert (code, out) == (2, "")
        assert "another session-proxy" in err
        assert "Traceback" not in err
        assert (await ask(http, server.url, "hi")).text == "ok"


async def test_a_port_that_is_taken_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with scripted_upstream(says("ok")) as up, serving(configured(up.url, tmp_path / "a")) as server:
        taken = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
        code, out, err = await command("serve", "--config", str(configured(up.url, tmp_path / "b", port=taken)))
        assert (code, out) == (1, "")
        assert "taken" in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("server: {prot: 1}", "server.prot"),
        ("server: {host: 0.0.0.0}", "auth.mode open"),
        ("server: [", "YAML"),
    ],
)
async def test_a_bad_configuration_stops_the_start_and_is_named(tmp_path: Path, text: str, named: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    code, out, err = await command("serve", "--config", str(config))
    assert (code, out) == (2, "")
    assert named in err
    assert "Traceback" not in err


# --- silence ---


async def test_a_silent_stream_is_kept_alive_by_comments_that_harm_no_client(tmp_path: Path) -> None:
    settings = {"keepalive_comment_s": 0.2}
    async with scripted_upstream(gated("one two")) as up, served(up, tmp_path, server=settings) as proxied:
        said: list[str] = []

        async def sdk() -> None:
            async with AsyncOpenAI(base_url=proxied.url, api_key="x", max_retries=0) as client:
                async for chunk in await client.chat.completions.create(**COUNT, extra_headers={"X-Session-Id": "a"}):
                    said.append(chunk.choices[0].delta.content or "")

        async with dialled(proxied) as line, anyio.create_task_group() as group:
            group.start_soon(sdk)
            await line.ask("count", "b", stream=True)
            await up.wait_requests(2)
            release(up, 2)
            await line.head()
            await line.event()
            for _ in range(2):
                await line.until(b": ping\n")
            release(up, 4)
            while not line.raw.endswith(b"data: [DONE]\n\n"):
                await line.event()
        assert "".join(said) == "one two"
        frames = [frame for frame in re.split(rb"\r\n[0-9a-f]+\r\n|^[0-9a-f]+\r\n", line.raw) if frame]
        assert frames.count(b": ping\n") >= 2
        assert all(frame == b": ping\n" or frame.endswith(b"\n\n") for frame in frames)
        assert proxied.messages("b")[1]["content"] == "one two"


async def test_before_the_first_event_nothing_is_sent_at_all(tmp_path: Path) -> None:
    settings = {"keepalive_comment_s": 0.1}
    async with (
        scripted_upstream(gated("one")) as up,
        served(up, tmp_path, server=settings) as proxied,
        dialled(proxied) as line,
    ):
        await line.ask("count", "s", stream=True)
        await up.wait_requests(1)
        with anyio.move_on_after(0.5):  # time for several comments
            await line.until(b"\n")
        assert line.raw == b""
        release(up, 2)
        assert (await line.head())[0] == 200
        await line.event()
        assert json.loads(line.raw[line.raw.index(b"{") :])["object"] == "chat.completion.chunk"
