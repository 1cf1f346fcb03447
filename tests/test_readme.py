"""The README: short, and every block in it works."""

import asyncio
import re
import shlex
from pathlib import Path

import anyio
import pytest

from proxy import config
from proxy.cli.main import main
from tests.scripted import echoes, scripted_upstream
from tests.serving import proxy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DEFAULT_URL = "http://127.0.0.1:8080/v1"

pytestmark = pytest.mark.anyio


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_it_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


def test_it_names_the_two_commands_of_a_fresh_clone() -> None:
    assert 'pip install ".[local]" && session-proxy demo\n' in blocks("bash")
    assert 'pip install -e ".[dev]" && pytest\n' in blocks("bash")


def test_its_configuration_loads() -> None:
    (block,) = blocks("yaml")
    loaded = config.load(block, {})
    assert [upstream.name for upstream in loaded.upstreams] == ["local", "openai"]
    assert loaded.context.token_budget == 8000


def test_its_commands_exist() -> None:
    lines = [line for block in blocks("bash") for line in re.split(r"\n|&&", block)]
    calls = [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("session-proxy")]
    assert {call[0] for call in calls} == {"demo", "serve", "chat", "doctor", "keys", "migrate", "bench"}
    for call in calls:
        with pytest.raises(SystemExit) as ended:
            main([*call, "--help"])
        assert ended.value.code == 0


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


async def test_its_python_remembers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    block, _ = blocks("python")
    async with scripted_upstream(echoes()) as up, proxy(up.url, tmp_path) as running:
        code = block.replace(DEFAULT_URL, running.url)
        await anyio.to_thread.run_sync(lambda: exec(compile(code, "README.md", "exec"), {}))
        sent = [message["content"] for message in up.requests[-1].json["messages"]]
    assert sent == ["My name is Ada.", "echo: My name is Ada.", "What is my name?"]
    assert "echo: What is my name?" in capfd.readouterr().out


async def test_its_sessions_api_answers_with_the_document(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, block = blocks("python")
    async with scripted_upstream(echoes()) as up, proxy(up.url, tmp_path) as running:
        code = block.replace(DEFAULT_URL.removesuffix("/v1"), running.url.removesuffix("/v1"))
        await anyio.to_thread.run_sync(lambda: exec(compile(code, "README.md", "exec"), {}))
        introduction, question = [message["content"] for message in up.requests[-1].json["messages"]]
    assert introduction.startswith("You are Ada.")
    assert "We ship to France on Mondays." in question
    assert "['Shipping']" in capfd.readouterr().out


async def test_its_curl_call_is_answered_with_the_headers_it_shows(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("bash") if block.startswith("curl")]
    async with scripted_upstream(echoes()) as up, proxy(up.url, tmp_path) as running:
        words = shlex.split(block.replace(DEFAULT_URL, running.url))
        process = await asyncio.create_subprocess_exec(*words, "-s", stdout=asyncio.subprocess.PIPE)
        answer, _ = await asyncio.wait_for(process.communicate(), 20)
    text = answer.decode().lower()
    assert "200 ok" in text
    for shown in re.findall(r"`(X-[A-Za-z-]+): ", README):
        assert shown == "X-Session-Id" or f"{shown.lower()}: " in text
