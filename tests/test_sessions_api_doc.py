"""docs/sessions-api.md: every block in it works, and prints what it says it prints."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.scripted import Exchange, calls, echoes, says, scripted_upstream
from tests.serving import Running, proxy

ROOT = Path(__file__).parent.parent
DOC = ROOT / "docs" / "sessions-api.md"
TEXT = DOC.read_text()
BLOCKS = [(found[1], found[2]) for found in re.finditer(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)]
DEFAULT_URL = "http://127.0.0.1:8080"
LIMIT_S = 20
NOTES = 1
"""Comments behind a call that tell something else than what it prints."""

pytestmark = pytest.mark.anyio


async def model(exchange: Exchange) -> None:
    """Calls the last tool when it is asked about an order, answers in JSON when it is asked to, and echoes else."""
    body = exchange.request.json
    last = body["messages"][-1]
    if body.get("tools") and last["role"] == "user" and "order 12345?" in str(last["content"]):
        await calls(body["tools"][-1]["function"]["name"], {"order_id": "12345"})(exchange)
    elif body.get("response_format"):
        await says('{"sentiment": "positive"}')(exchange)
    else:
        await echoes()(exchange)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Running]:
    async with scripted_upstream(model) as up, proxy(up.url, tmp_path) as served:
        yield served


async def test_every_block_runs_and_prints_what_it_says(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    known: dict[str, Any] = {}
    url = running.url.removesuffix("/v1")
    for language, block in BLOCKS:
        code = block.replace(DEFAULT_URL, url)
        if language == "python":
            await anyio.to_thread.run_sync(run, code, known)
            printed = capfd.readouterr().out.splitlines()
            assert [line for line in promised(block) if line not in printed] == []
        else:
            await shell(code, known)
    known["client"].close()


def run(code: str, known: dict[str, Any]) -> None:
    """The blocks share their names, as in one program."""
    exec(compile(code, DOC.name, "exec"), known)


def promised(block: str) -> Iterator[str]:
    """What the comments behind `print` say."""
    return (found[1] for found in re.finditer(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE))


async def shell(code: str, known: dict[str, Any]) -> None:
    """The block with a curl that fails at an error's status."""
    names = {"AGENT": "agent", "CUSTOMER": "customer", "SESSION": "session"}
    ids = {name: known[of].id for name, of in names.items()}
    strict = 'curl() { command curl -sS --fail-with-body "$@"; }\nset -euo pipefail\n'
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", strict + code, env={**os.environ, **ids, "DOC": await doc_of(ids["SESSION"], known)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    answer, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == 0, (code, answer.decode())


async def doc_of(session: str, known: dict[str, Any]) -> str:
    """A document of the session that a block may delete."""
    body = {"title": f"Draft {len(known)}", "content": os.urandom(8).hex()}
    post = known["client"].post
    made = await anyio.to_thread.run_sync(lambda: post(f"/sessions/{session}/docs", cast_to=object, body=body))
    return made["id"]


def test_its_blocks_are_python_and_shell_and_say_what_they_print() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
    assert len([line for _, block in BLOCKS for line in promised(block)]) == TEXT.count(")  # ") - NOTES


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", TEXT)
    assert targets
    assert [target for target in targets if not (DOC.parent / target).exists()] == []
