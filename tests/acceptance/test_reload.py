"""A server that reads its configuration again: real processes, real SIGHUPs, requests that run meanwhile."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from tests.acceptance.asking import Reply, user
from tests.processes import ROOT, Serving, environment, served, started, written
from tests.scripted import ScriptedUpstream, Step, echoes, gated, says, scripted_upstream

pytestmark = pytest.mark.anyio

WAIT_S = 20
KEY = "sk-very-secret"


@dataclass
class Stage:
    """A server, its file, and what it says on stderr."""

    serving: Serving
    folder: Path
    http: aiohttp.ClientSession

    async def ask(self, text: str = "hi", to: str | None = None, **fields: Any) -> Reply:
        body = {"model": "m", "messages": [user(text)], **fields}
        headers = {"X-Session-Id": to} if to else {}
        async with self.http.post(f"{self.serving.url}/chat/completions", json=body, headers=headers) as response:
            return Reply(response.status, response.headers, await response.read())

    async def models(self) -> list[str]:
        """As both APIs list them."""
        async with self.http.get(f"{self.serving.url}/models") as response:
            listed = [model["id"] for model in (await response.json())["data"]]
        async with self.http.get(f"{self.serving.url.removesuffix('/v1')}/agents/models") as response:
            assert [model["id"] for model in (await response.json())["models"]] == listed
        return listed

    def hang_up(self) -> None:
        self.serving.process.send_signal(signal.SIGHUP)

    async def said(self, event: str) -> dict[str, Any]:
        """The next line of the log that tells of this."""
        assert self.serving.process.stderr is not None
        with anyio.fail_after(WAIT_S):
            while True:
                raw = await self.serving.process.stderr.readline()
                assert raw, "the server has ended"
                assert KEY.encode() not in raw
                if raw.startswith(b"{") and json.loads(raw)["event"] == event:  # nohup has a line of its own
                    return json.loads(raw)

    async def reload(self, upstreams: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
        written(self.folder, upstreams=upstreams, **sections)
        self.hang_up()
        return await self.said("config_reloaded")


def upstream(up: ScriptedUpstream, name: str = "a", **keys: Any) -> dict[str, Any]:
    return {"name": name, "base_url": up.url, "retries": 0, "context_tokens": 100_000, **keys}


@asynccontextmanager
async def staged(folder: Path, upstreams: list[dict[str, Any]], *args: str, **sections: Any) -> AsyncGenerator[Stage]:
    config = written(folder, upstreams=upstreams, **sections)
    async with served(config, *args) as serving, aiohttp.ClientSession() as http:
        yield Stage(serving, folder, http)


@asynccontextmanager
async def two(a: Step, b: Step) -> AsyncGenerator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    models = [{"id": "m"}, {"id": "n"}]
    async with scripted_upstream(a, models) as first, scripted_upstream(b, models) as second:
        yield first, second


@asynccontextmanager
async def greeted(process: asyncio.subprocess.Process) -> AsyncGenerator[Serving]:
    """The server of a process, killed at the end if it still runs."""
    assert process.stdout is not None
    try:
        with anyio.fail_after(WAIT_S):
            greeting = (await process.stdout.readline()).decode()
        yield Serving(process, greeting, greeting.split()[2])
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def until(done: Callable[[], bool]) -> None:
    with anyio.fail_after(WAIT_S):
        while not done():
            await anyio.lowlevel.checkpoint()


# --- what runs, and what comes ---


@pytest.mark.parametrize("session", ["s", None])
async def test_a_stream_goes_on_to_its_end_while_new_requests_go_elsewhere(tmp_path: Path, session: str | None) -> None:
    async with two(gated("one two three"), echoes()) as (a, b), staged(tmp_path, [upstream(a, api_key="k")]) as stage:
        for _ in range(4):
            a.gate.release()
        undisturbed = await stage.ask(to="other" if session else None, stream=True)
        body = {"model": "m", "messages": [user("hi")], "stream": True}
        headers = {"X-Session-Id": session} if session else {}
        for _ in range(2):
            a.gate.release()
        async with stage.http.post(f"{stage.serving.url}/chat/completions", json=body, headers=headers) as response:
            read = await response.content.readuntil(b"one")
            said = await stage.reload([upstream(b, "b", api_key="j")])
            assert (said["changed"], said["ignored"]) == (["upstreams.a", "upstreams.b"], [])
            reply = await stage.ask("new", to="third")
            assert (reply.text, reply.headers["x-upstream"]) == ("echo: new", "b")
            assert a.open == 1, "the other connections to it are closed"
            for _ in range(2):
                a.gate.release()
            assert read + await response.read() == undisturbed.body
        await until(lambda: a.open == 0)
        assert [request.header("authorization") for request in (a.requests[-1], b.requests[-1])] == [
            "Bearer k",
            "Bearer j",
        ]
        if session:
            assert (await stage.ask("and now", to=session)).text == "echo: and now"
            assert [one["content"] for one in b.requests[-1].json["messages"]] == ["hi", "one two three", "and now"]


async def test_what_has_not_changed_keeps_its_connection(tmp_path: Path) -> None:
    async with two(says("a"), says("b")) as (a, b):
        given = [upstream(a, models=["m"]), upstream(b, "b")]
        async with staged(tmp_path, given) as stage:
            for model in ("m", "n", "m", "n"):
                await stage.ask(model=model)
            given[1]["idle_timeout_s"] = 5
            assert (await stage.reload(given))["changed"] == ["upstreams.b.idle_timeout_s"]
            await until(lambda: b.open == 0)
            assert [(await stage.ask(model=model)).text for model in ("m", "n")] == ["a", "b"]
            assert (a.connections, b.connections) == (1, 2)


async def test_routing_aliases_and_keys_follow_at_once(tmp_path: Path) -> None:
    async with two(says("a"), says("b")) as (a, b):
        given = [upstream(a, api_key="old", models=["m"])]
        async with staged(tmp_path, given, models={"fast": {"model": "m"}, "gone": {"model": "m"}}) as stage:
            assert await stage.models() == ["m", "fast", "gone"]
            for session in (None, "s"):
                assert (await stage.ask(model="gone", to=session)).status == 200
            given = [{**given[0], "api_key": "new"}, upstream(b, "b", models=["n"])]
            await stage.reload(given, models={"fast": {"model": "n"}})
            assert await stage.models() == ["m", "n", "fast"]
            for session in (None, "s"):
                refused = await stage.ask(model="gone", to=session)
                assert (refused.status, refused.error["code"]) == (404, "model_not_found")
                assert (await stage.ask(model="fast", to=session)).text == "b"
                await stage.ask(model="m", to=session)
            chats = [request for request in a.requests if request.path.endswith("/chat/completions")]
            assert [request.header("authorization") for request in chats] == ["Bearer old"] * 2 + ["Bearer new"] * 2
            assert {request.header("authorization") for request in b.requests} == {None}


async def test_limits_and_log_level_follow(tmp_path: Path) -> None:
    async with two(gated("one"), says("b")) as (a, b):
        given = [upstream(a, models=["m"]), upstream(b, "b")]
        async with staged(tmp_path, given) as stage, anyio.create_task_group() as group:
            group.start_soon(lambda: stage.ask(stream=True))
            await a.wait_requests(1)
            said = await stage.reload(
                given, limits={"concurrent_requests": 1, "choices": 1}, telemetry={"log_level": "info"}
            )
            assert set(said["changed"]) == {"limits.concurrent_requests", "limits.choices", "telemetry.log_level"}
            refused = await stage.ask(model="n")
            assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
            for _ in range(2):
                a.gate.release()
            line = await stage.said("request")
            assert (line["level"], line["outcome"]) == ("info", "ok")
            assert (await stage.ask(model="n", n=2, to="s")).error["param"] == "n"
            await stage.reload(given, telemetry={"log_level": "error"})
            assert (await stage.ask(model="n", n=2, to="s")).status == 200
            await stage.reload(given)
            stage.serving.process.terminate()
            assert (await stage.serving.ended()).err == ""


# --- what is refused ---


def refusals(given: dict[str, Any]) -> list[tuple[Callable[[Path], object], str]]:
    text = json.dumps({"upstreams": [given]})
    circle = {"upstreams": [given], "models": {"x": {"model": "y"}, "y": {"model": "x"}}}
    far = {"upstreams": [given, {"name": "far", "base_url": "http://127.0.0.2/v1"}], "auth": {"mode": "keys"}}
    return [
        (lambda file: file.write_text(text[:-3]), "is not YAML: expected"),
        (lambda file: file.write_text(text.replace("retries", "retires")), "unknown key upstreams[0].retires (line 1)"),
        (lambda file: file.write_text(text.replace('": "' + KEY, '": !!int "' + KEY)), "(line 1); put it in quotes"),
        (lambda file: file.write_text(text.replace("http:", "ftp:")), "must start with http:// or https://"),
        (lambda file: file.write_text(text.replace("/v1", "/v1?x=1")), "without user, query or fragment"),
        (lambda file: file.write_text(json.dumps(circle)), "x -> y -> x goes in a circle"),
        (lambda file: file.write_text(json.dumps(far)), "passthrough needs upstreams of one origin"),
        (lambda file: file.write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda file: file.write_text("# nothing\n"), "nothing stands in it"),
        (lambda file: file.unlink(), "cannot be read: [Errno 2]"),
        (lambda file: file.mkdir(), "it is a pipe or a directory"),
        (lambda file: (file.rmdir(), os.mkfifo(file)), "it is a pipe or a directory"),
    ]


async def test_a_file_that_cannot_be_used_is_refused_with_its_reason_and_nothing_changes(tmp_path: Path) -> None:
    async with two(says("a"), says("b")) as (a, b):
        given = [upstream(a, api_key=KEY)]
        async with staged(tmp_path, given, auth={"mode": "passthrough"}) as stage:
            stage.http.headers["Authorization"] = "Bearer mine"
            for spoil, reason in refusals(given[0]):
                spoil(tmp_path / "config.yaml")
                stage.hang_up()
                line = await stage.said("config_refused")
                assert reason in line["reason"]
                assert (await stage.ask(to="s")).text == "a"
            assert a.connections == 1
            (tmp_path / "config.yaml").unlink()
            await stage.reload([upstream(b)], auth={"mode": "passthrough"})
            assert (await stage.ask(to="s")).text == "b"


async def test_what_waits_for_a_restart_is_told_and_what_the_command_line_said_is_not(tmp_path: Path) -> None:
    async with scripted_upstream(says("a")) as up, staged(tmp_path, [upstream(up)], "--host", "localhost") as stage:
        assert (await stage.reload([upstream(up)]))["ignored"] == []
        said = await stage.reload(
            [upstream(up)], server={"port": 1, "watch_config": True}, storage={"url": "sqlite:///secret-name.db"}
        )
        assert (said["changed"], said["ignored"]) == ([], ["server.port", "server.watch_config", "storage.url"])
        assert "secret-name" not in json.dumps(said)
        assert (await stage.ask()).text == "a"


# --- signals at odd times ---


async def test_of_many_signals_the_last_state_wins(tmp_path: Path) -> None:
    async with two(says("a"), says("b")) as (a, b), staged(tmp_path, [upstream(a)]) as stage:
        for n in range(50):
            written(tmp_path, upstreams=[upstream(b if n % 2 else a, retries=n)])
            stage.hang_up()
        with anyio.fail_after(WAIT_S):
            while (await stage.ask()).text != "b":
                pass
        said = await stage.reload([upstream(b, retries=50)])
        while said["changed"] != []:
            stage.hang_up()
            said = await stage.said("config_reloaded")
        assert (await stage.ask()).text == "b"


async def test_a_signal_before_the_server_is_ready_is_not_lost(tmp_path: Path) -> None:
    """The start waits for its configuration, which is a pipe."""
    async with two(says("a"), says("b")) as (a, b), aiohttp.ClientSession() as http:
        text = written(tmp_path, upstreams=[upstream(a)]).read_text()
        pipe = tmp_path / "pipe.yaml"
        os.mkfifo(pipe)
        process = await started(["serve", "--config", str(pipe)])

        def give() -> None:
            """A pipe can be opened once somebody reads it; by then signals are heard."""
            with pipe.open("w") as end:
                end.write(text)
                written(tmp_path, upstreams=[upstream(b)]).rename(pipe)
                for _ in range(2):
                    process.send_signal(signal.SIGHUP)

        async with anyio.create_task_group() as group:
            group.start_soon(partial(anyio.to_thread.run_sync, abandon_on_cancel=True), give)
            async with greeted(process) as serving:
                stage = Stage(serving, tmp_path, http)
                assert (await stage.said("config_reloaded"))["changed"] == ["upstreams.a.base_url"]
                assert (await stage.ask()).text == "b"


async def test_signals_while_it_drains_are_harmless(tmp_path: Path) -> None:
    async with two(gated("one two"), says("b")) as (a, b), staged(tmp_path, [upstream(a)]) as stage:
        replies: list[Reply] = []

        async def hold() -> None:
            replies.append(await stage.ask(stream=True, to="s"))

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            await a.wait_requests(1)
            stage.serving.process.terminate()
            await stage.reload([upstream(b)])
            for _ in range(3):
                a.gate.release()
            while stage.serving.process.returncode is None:
                stage.hang_up()
                await anyio.lowlevel.checkpoint()
        done = await stage.serving.ended()
        assert (replies[0].text, replies[0].done, done.code) == ("one two", True, 0)


FROM_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@asynccontextmanager
async def in_a_terminal(config: Path, *before: str) -> AsyncGenerator[tuple[Serving, int]]:
    """A server whose terminal is held open by a descriptor; `before` stands before its command."""
    ours, theirs = pty.openpty()
    words = [*before, sys.executable, "-m", "proxy", "serve", "--config", str(config)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FROM_A_TERMINAL, *words,
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    os.close(theirs)
    async with greeted(process) as serving:
        yield serving, ours


@pytest.mark.parametrize("nohup", [False, True])
async def test_a_closed_terminal_ends_it_and_a_signal_does_not(tmp_path: Path, nohup: bool) -> None:
    async with scripted_upstream(says("a")) as up, aiohttp.ClientSession() as http:
        config = written(tmp_path, upstreams=[upstream(up)])
        async with in_a_terminal(config, *(["nohup"] if nohup else [])) as (serving, terminal):
            stage = Stage(serving, tmp_path, http)
            await stage.reload([upstream(up, retries=1)])
            written(tmp_path, upstreams=[upstream(up, retries=2)])
            os.close(terminal)
            if nohup:
                assert (await stage.said("config_reloaded"))["changed"] == ["upstreams.a.retries"]
                assert (await stage.ask()).text == "a"
                serving.process.terminate()
            assert (await serving.ended()).code == 0


async def test_a_changed_file_is_taken_without_a_signal_where_that_is_asked_for(tmp_path: Path) -> None:
    watching = {"port": 0, "watch_config": True}
    async with two(says("a"), says("b")) as (a, b), staged(tmp_path, [upstream(a)], server=watching) as stage:
        written(tmp_path, upstreams=[upstream(b)], server=watching)
        assert (await stage.said("config_reloaded"))["changed"] == ["upstreams.a.base_url"]
        assert (await stage.ask()).text == "b"


# --- under load ---


def handles(pid: int) -> int:
    """Open files and sockets of a process, where the system tells."""
    folder = Path(f"/proc/{pid}/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.parametrize("reloads", [20, pytest.param(100, marks=pytest.mark.slow)])
async def test_no_request_fails_while_it_reloads_and_nothing_is_left_open(tmp_path: Path, reloads: int) -> None:
    async with AsyncExitStack() as stack:
        ups = [await stack.enter_async_context(scripted_upstream(says("one two three"))) for _ in range(3)]
        stage = await stack.enter_async_context(staged(tmp_path, [upstream(ups[0])]))
        over, asked = asyncio.Event(), 0

        async def client(number: int) -> None:
            nonlocal asked
            while not over.is_set():
                reply = await stage.ask(to=f"s{number}" if number % 2 else None, stream=number % 3 == 0)
                assert (reply.status, reply.text) == (200, "one two three")
                assert number % 3 or reply.done
                asked += 1

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(client, number)
            for n in range(reloads):
                before = asked
                said = await stage.reload([upstream(ups[n % 3], retries=n % 7), upstream(ups[-1], "last")])
                assert said["changed"]
                await until(lambda before=before: asked >= before + 4)
            over.set()
        await until(lambda: sum(up.open for up in ups) <= 8)
        assert asked >= 4 * reloads
        assert handles(stage.serving.process.pid) < 60
