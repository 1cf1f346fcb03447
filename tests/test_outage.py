"""An outage under load, with real processes: the first of two model servers is killed while clients ask, and comes
back. No client sees an error that the second could have served."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import anyio
import pytest

from tests.processes import ROOT, WAIT_S, Serving, environment, served, written

pytestmark = pytest.mark.anyio

CLIENTS = 16
WORDS, PACE_MS = 6, 2


@asynccontextmanager
async def model(port: int = 0) -> AsyncGenerator[tuple[asyncio.subprocess.Process, int]]:
    """A model server; its process and port."""
    pipe = asyncio.subprocess.PIPE
    args = [sys.executable, "-m", "tests.model_process", str(port), str(WORDS), str(PACE_MS)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = await asyncio.create_subprocess_exec(
        *args, stdin=pipe, stdout=pipe, cwd=ROOT, env=environment(PYTHONPATH=path)
    )
    try:
        assert process.stdout is not None
        with anyio.fail_after(WAIT_S):
            yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass
class Seen:
    """What became of the requests, by who served them; `broken`: streams that had begun; `wrong`: what must not be."""

    served: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    wrong: list[str] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def tell(self) -> None:
        async with self.news:
            self.news.notify_all()

    async def wait(self, name: str, more: int) -> None:
        """Until `name` has served so many more."""
        want = self.served[name] + more
        with anyio.fail_after(WAIT_S):
            async with self.news:
                await self.news.wait_for(lambda: self.served[name] >= want or bool(self.wrong))


async def client(number: int, url: str, seen: Seen, over: asyncio.Event) -> None:
    """Asks on and on: every third client streams, every second has a session."""
    asked = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as http:
        while not over.is_set():
            asked += 1
            text = f"w{number}x{asked}"
            headers = {"X-Session-Id": f"c{number}-{asked // 20}"} if number % 2 else {}
            body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": number % 3 == 0}
            async with http.post(url + "/chat/completions", json=body, headers=headers) as reply:
                judge(text, reply.status, reply.headers.get("x-upstream", "nobody"), await reply.read(), seen)
            await seen.tell()


def judge(text: str, status: int, name: str, answer: bytes, seen: Seen) -> None:
    if status != 200:
        seen.wrong.append(f"{status} {answer[:200]!r}")
    elif answer.count(text.encode()) == WORDS and (answer.startswith(b"{") or answer.endswith(b"data: [DONE]\n\n")):
        seen.served[name] += 1
    elif name == "one" and b'"delta"' in answer and b'{"error"' in answer and b"[DONE]" not in answer:
        seen.broken += 1  # the client had its first words by then
    else:
        seen.wrong.append(f"{name} {answer[-300:]!r}")


async def test_no_client_sees_an_error_that_the_second_could_have_served(tmp_path: Path) -> None:
    async with model() as (first, port), model() as (_, other):
        limits = {"connect_timeout_s": 2, "first_byte_timeout_s": 5, "breaker_failures": 3, "breaker_pause_s": 0.2}
        upstreams = [
            {"name": name, "base_url": f"http://127.0.0.1:{at}/v1", **limits}
            for name, at in (("one", port), ("two", other))
        ]
        async with served(written(tmp_path, upstreams=upstreams)) as proxy:
            seen, over = Seen(), asyncio.Event()
            async with anyio.create_task_group() as group:
                for number in range(CLIENTS):
                    group.start_soon(client, number, proxy.url, seen, over)
                await seen.wait("one", 60)
                first.kill()
                await seen.wait("two", 200)
                async with model(port):
                    await seen.wait("one", 60)
                    over.set()
            assert seen.wrong == []
            assert seen.broken <= CLIENTS
            await stored_once(proxy)


async def stored_once(proxy: Serving) -> None:
    """Each session's history is questions and their whole answers, one after the other."""
    base = proxy.url.removesuffix("/v1")
    async with aiohttp.ClientSession() as http, http.get(base + "/sessions") as reply:
        sessions = json.loads(await reply.read())["items"]
    assert sessions
    async with aiohttp.ClientSession() as http:
        for session in sessions:
            async with http.get(f"{base}/sessions/{session['id']}/messages") as reply:
                said = [message["content"] for message in json.loads(await reply.read())["items"]]
            assert said[1::2] == [" ".join([text] * WORDS) for text in said[0::2]]
            assert len(set(said)) == len(said)
