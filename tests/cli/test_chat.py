"""session-proxy chat: what the command line takes, and what it says where no proxy is."""

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.chatting import problems
from proxy.cli.chatting.client import Failed, Proxy
from proxy.services import epoch_ms
from proxy.store import keys
from tests.faults import nobody_listens
from tests.processes import ROOT, command, environment
from tests.scripted import echoes, scripted_upstream, status
from tests.serving import proxy

pytestmark = pytest.mark.anyio


async def test_without_a_proxy_it_says_what_to_do() -> None:
    done = await command(["chat", "--url", nobody_listens()])
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("session-proxy: no proxy answers at http://127.0.0.1:")
    assert done.err.endswith("; start one with `session-proxy serve`, or name another with --url\n")
    assert done.err.count("\n") == 1


async def test_what_is_no_proxy_is_said() -> None:
    async with scripted_upstream(status(404, json={"detail": "Not Found"})) as up:
        done = await command(["chat", "--url", up.url])
    assert (done.code, done.out) == (1, "")
    assert "is no session-proxy; start one with" in done.err


async def test_the_key_of_the_environment_opens_a_proxy_that_asks_for_one(tmp_path: Path) -> None:
    """Which one is chosen: chatting/test_address.py."""
    async with (
        scripted_upstream(echoes(), [{"id": "m"}]) as up,
        proxy(up.url, tmp_path, auth={"mode": "keys"}) as running,
    ):
        await keys.create(running.edge.svc.db, "acme", "user", b"sp-key", epoch_ms())
        args = ["chat", "--url", running.url]
        done = await command(args, given="hi\n", SESSION_PROXY_API_KEY="sp-key", OPENAI_API_KEY="sk-other")
    assert (done.code, done.out) == (0, "echo: hi\n")


async def test_a_wrong_key_is_told(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, proxy(up.url, tmp_path, auth={"mode": "keys"}) as running:
        client = Proxy(running.url, "sk-other")
        with pytest.raises(Failed) as raised:
            await client.get("/sessions")
        await client.aclose()
    told = problems.line(raised.value)
    assert told.startswith("the key is missing, or not accepted; start the chat with the right one")


@pytest.mark.parametrize(("args", "told"), [(["--url", "ftp://x"], "--url"), (["--session", ""], "--session")])
async def test_bad_usage_is_refused(args: list[str], told: str) -> None:
    done = await command(["chat", *args])
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def test_the_other_commands_do_not_load_what_it_needs() -> None:
    code = "import sys, proxy.cli.main; print([name for name in ('rich', 'markdown_it') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment()
    )
    assert done.stdout == "[]\n"
