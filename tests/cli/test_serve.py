"""session-proxy serve: how it starts, what it says, how it ends."""

import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from proxy.cli.main import main
from tests.processes import command, serve, served, written

pytestmark = pytest.mark.anyio


async def test_the_greeting_tells_address_upstream_storage_and_mode(tmp_path: Path) -> None:
    config = written(tmp_path, "http://127.0.0.1:9/v1")
    async with served(config) as serving:
        assert serving.greeting == (
            f"session-proxy on {serving.url} -> http://127.0.0.1:9/v1 | storage sqlite:///{tmp_path / 'sessions.db'} "
            f"(full) | auth open | pid {serving.process.pid}"
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


async def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path) -> None:
    config = written(tmp_path)
    async with served(config):
        done = await command(["serve", "--config", str(config)])
    assert (done.code, done.out) == (2, "")
    assert "another session-proxy serves sessions.db; stop it first" in done.err
    again = await serve(config)
    await again.kill()


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
