"""session-proxy serve: how it starts, what it says, how it ends."""

import signal
import socket
from pathlib import Path

import aiohttp
import anyio
import pytest

from proxy.cli.main import main
from tests.processes import WAIT_S, command, serve, served, written
from tests.scripted import gated, says, scripted_upstream

pytestmark = pytest.mark.anyio

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def test_the_greeting_tells_address_upstream_storage_and_mode(tmp_path: Path) -> None:
    config = written(tmp_path, "http://127.0.0.1:9/v1")
    async with served(config) as serving:
        assert serving.greeting == (
            f"session-proxy on {serving.url} -> http://127.0.0.1:9/v1 | storage sqlite:///{tmp_path / 'sessions.db'} "
            "(full) | auth open"
        )
        async with aiohttp.ClientSession() as http, http.get(serving.url.replace("/v1", "/healthz")) as response:
            assert response.status == 200


async def test_the_greeting_holds_no_key(tmp_path: Path) -> None:
    upstreams = [{"name": "a", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-secret"}]
    async with served(written(tmp_path, upstreams=upstreams)) as serving:
        assert "sk-secret" not in serving.greeting
        serving.process.terminate()
        done = await serving.ended()
        assert "sk-secret" not in done.out + done.err


async def test_the_command_line_says_where(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with served(written(tmp_path), "--host", "localhost", "--port", str(port)) as serving:
        assert serving.url == f"http://localhost:{port}/v1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    async with served(written(tmp_path)) as serving:
        serving.process.send_signal(number)
        done = await serving.ended()
    assert (done.code, done.err) == (0, "")
    assert not (tmp_path / "sessions.db-wal").exists(), "the store was closed"


async def test_a_running_turn_is_finished_before_the_end(tmp_path: Path) -> None:
    async with scripted_upstream([gated("one two"), says("late")]) as up:
        config = written(tmp_path, up.url)
        async with served(config) as serving, aiohttp.ClientSession(headers={"X-Session-Id": "s"}) as http:
            up.gate.release()
            up.gate.release()
            async with http.post(f"{serving.url}/chat/completions", json=ASKED) as response:
                assert b"one" in await response.content.readuntil(b"one")
                serving.process.send_signal(signal.SIGTERM)
                with anyio.fail_after(WAIT_S):
                    while True:  # from now on new requests are turned away, the running one goes on
                        async with http.post(f"{serving.url}/chat/completions", json=ASKED) as other:
                            if other.status == 503:
                                break
                for _ in range(10):
                    up.gate.release()
                assert (await response.read()).endswith(b"data: [DONE]\n\n")
            done = await serving.ended()
    assert done.code == 0


async def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path) -> None:
    config = written(tmp_path)
    async with served(config):
        done = await command(["serve", "--config", str(config)])
    assert (done.code, done.out) == (2, "")
    assert "another session-proxy serves sessions.db; stop it first" in done.err
    again = await serve(config)
    await again.kill()


async def test_a_taken_address_is_a_failure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = await command(["serve", "--config", str(written(tmp_path)), "--port", str(taken.getsockname()[1])])
    assert (done.code, done.out) == (1, "")
    assert "session-proxy: 127.0.0.1:" in done.err
    assert "taken or not allowed" in done.err
    assert "Traceback" not in done.err


REFUSED = [
    (["--host", "0.0.0.0"], "auth.mode open listens on loopback only"),
    (["--workers", "2"], "server.workers above 1"),
    (["--port", "70000"], "server.port must be from 0 to 65535"),
    (["--port", "-1"], "server.port must be from 0 to 65535"),
]


@pytest.mark.parametrize(("args", "told"), REFUSED, ids=[" ".join(args) for args, _ in REFUSED])
def test_what_cannot_be_served_is_refused(
    tmp_path: Path, args: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--config", str(written(tmp_path)), *args]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "sessions.db").exists()
