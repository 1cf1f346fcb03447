"""Kill -9 under load: what was acknowledged is stored, once and whole, in the order it was said.

Five sessions with a client each and one that three clients share, 70 % streams, before a model that answers with the
question. The server is killed at random moments and started again on the same file; each client repeats what was not
acknowledged under the same Idempotency-Key. Then everything is read and judged by the columns of `Verdict`.
"""

import asyncio
import json
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import anyio
import apsw
import pytest

from tests.processes import Serving, serve, written
from tests.scripted import Exchange, delta, envelope, scripted_upstream, sse

pytestmark = pytest.mark.anyio

OWN, SHARED = 5, 3
KILLS_A_SESSION = 5
"""Then the clients start new sessions: a history of hundreds of turns would only slow the test down."""


@dataclass
class Asked:
    """A question and what became of it."""

    session: str
    client: str
    text: str
    stream: bool
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    attempts: int = 0
    acknowledged: bool = False
    replayed: bool = False


class Moments:
    """Counts what happens, and sets `now` when the moment to kill has come."""

    def __init__(self) -> None:
        self.left = 0
        self.now = asyncio.Event()

    def arm(self, after: int) -> None:
        self.left = after
        self.now.clear()

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.now.set()


@dataclass
class Heard:
    """A request as the model got it: the question, and the texts before it."""

    question: str
    before: list[str]


class World:
    """The server, the model, the clients and what they know of each other."""

    def __init__(self, draw: Random, config: Path) -> None:
        self.draw = draw
        self.config = config
        self.moments = Moments()
        self.up = asyncio.Event()
        self.serving: Serving | None = None
        self.url = ""
        self.stopping = False
        self.generation = 0
        self.asked: list[Asked] = []
        self.heard: list[Heard] = []
        self.slowest_start = 0.0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        self.serving = await serve(self.config)
        self.slowest_start = max(self.slowest_start, loop.time() - before)
        self.url = self.serving.url
        self.up.set()

    async def stop(self) -> None:
        """kill -9."""
        self.up.clear()
        if self.serving is not None:
            await self.serving.kill()
            self.serving = None

    # --- the model ---

    async def answers(self, exchange: Exchange) -> None:
        """Says the question again, in pieces, at a pace of its own."""
        asked = exchange.request.json
        texts = [message["content"] for message in asked["messages"]]
        self.heard.append(Heard(texts[-1], texts[:-1]))
        reply = f"echo: {texts[-1]}"
        self.moments.tick()
        if not asked.get("stream"):
            await self._pace()
            choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
            body = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "choices": [choice]}).encode()
            await exchange.whole(200, body, {"content-type": "application/json"})
        else:
            await self._streams(exchange, reply)
        self.moments.tick()

    async def _streams(self, exchange: Exchange, reply: str) -> None:
        await exchange.start_stream()
        for at in range(0, len(reply), 6):
            await exchange.event(delta(exchange.request, {"content": reply[at : at + 6]}))
            self.moments.tick()
            await self._pace()
        await exchange.event(delta(exchange.request, {}, "stop"))
        await exchange.chunk(sse(envelope(exchange.request, "chat.completion.chunk", [], usage={"prompt_tokens": 1})))
        await exchange.event("[DONE]")
        await exchange.end()

    async def _pace(self) -> None:
        for _ in range(self.draw.randrange(4)):
            await asyncio.sleep(0)

    # --- the clients ---

    async def client(self, name: str, shared: bool) -> None:
        """Asks one question after the other; repeats what was not acknowledged until it is."""
        number = 0
        while not self.stopping:
            number += 1
            who = "shared" if shared else name
            stream = self.draw.random() < 0.7
            asked = Asked(f"{who}-{self.generation}", name, f"{name} question {number}", stream)
            self.asked.append(asked)
            while not asked.acknowledged:
                await self.up.wait()
                asked.attempts += 1
                try:
                    await self._ask(asked)
                except (aiohttp.ClientError, ConnectionError):
                    await asyncio.sleep(0)  # the server was killed: once more

    async def _ask(self, asked: Asked) -> None:
        headers = {"X-Session-Id": asked.session, "Idempotency-Key": asked.key}
        body = {"model": "m", "stream": asked.stream, "messages": [{"role": "user", "content": asked.text}]}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}/chat/completions", json=body, headers=headers) as response,
        ):
            got = await response.read()
            if response.status in (409, 503):
                return
            assert response.status == 200, got
            assert not asked.stream or got.endswith(b"data: [DONE]\n\n"), got
            asked.acknowledged = True
            asked.replayed = "Idempotent-Replayed" in response.headers
            assert _said(got, asked.stream) == f"echo: {asked.text}"
            self.moments.tick()

    # --- the killer ---

    async def kill(self, times: int) -> None:
        """Kills the server so often, each time at another moment of the work, and starts it again."""
        for n in range(times):
            self.moments.arm(self.draw.randint(20, 400))
            await self.moments.now.wait()
            for _ in range(self.draw.randrange(30)):
                await asyncio.sleep(0)
            await self.stop()
            self.generation = (n + 1) // KILLS_A_SESSION
            await self.start()


def _said(body: bytes, stream: bool) -> str:
    if not stream:
        return json.loads(body)["choices"][0]["message"]["content"]
    payloads = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event not in (b"", b"data: [DONE]")]
    deltas = [choice["delta"] for payload in payloads for choice in json.loads(payload)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


# --- the judge ---


@dataclass
class Verdict:
    """How often it went wrong. `lost`: acknowledged, not stored. `twice`: stored more than once. `half`: a question
    without its reply, the reverse, or another's. `order`: stored in another order than asked. `context`: the model was
    not shown exactly what was stored before."""

    lost: int = 0
    twice: int = 0
    half: int = 0
    order: int = 0
    context: int = 0


@dataclass
class Stored:
    """A session's line: (turn, role, text, status) of each entry."""

    entries: list[tuple[int, str, str, str]]
    turns: list[int]

    @property
    def texts(self) -> list[str]:
        return [entry[2] for entry in self.entries]


def read(path: Path) -> dict[str, Stored]:
    """Every session's rows, read behind the server's back, after a check of the whole file."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        assert connection.pragma("integrity_check") == "ok"
        assert not list(connection.execute("PRAGMA foreign_key_check"))
        return {
            name: _line(connection, session) for session, name in connection.execute("SELECT id, name FROM sessions")
        }
    finally:
        connection.close()


def _line(connection: apsw.Connection, session: int) -> Stored:
    rows: Any = connection.execute(
        "SELECT turn, role, raw, status FROM entries WHERE session = ? ORDER BY branch, seq", (session,)
    )
    entries = [(turn, role, json.loads(raw)["content"], status) for turn, role, raw, status in rows]
    numbers = connection.execute("SELECT turn FROM turns WHERE session = ? ORDER BY turn", (session,))
    return Stored(entries, [number for (number,) in numbers])


def judge(asked: Sequence[Asked], heard: Sequence[Heard], stored: dict[str, Stored]) -> Verdict:
    found = Verdict()
    times = Counter(text for line in stored.values() for _, role, text, _ in line.entries if role == "user")
    found.lost = sum(1 for one in asked if one.acknowledged and not times[one.text])
    found.twice = sum(1 for count in times.values() if count > 1)
    requests: dict[str, list[Heard]] = defaultdict(list)
    for one in heard:
        requests[one.question].append(one)
    for name, line in stored.items():
        found.half += _halves(line)
        found.order += _disorder([one for one in asked if one.session == name], line)
        found.context += _wrong_contexts(requests, line)
    return found


def _halves(line: Stored) -> int:
    """Turns that are not one question and its echo, whole."""
    by_turn: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
    for turn, role, text, status in line.entries:
        by_turn[turn].append((role, text, status))
    wrong = set(by_turn) ^ set(line.turns)
    for turn, entries in by_turn.items():
        question = entries[0][1]
        whole = [("user", question, "complete"), ("assistant", f"echo: {question}", "complete")]
        wrong |= {turn} if entries != whole else set()
    return len(wrong)


def _disorder(asked: Sequence[Asked], line: Stored) -> int:
    """Places where a client's next stored question is not the next it asked, and turns that do not count on."""
    place = {one.text: n for n, one in enumerate(asked)}
    wrong = sum(1 for n, turn in enumerate(line.turns, 1) if turn != n)
    wrong += sum(1 for one, other in zip(line.entries, line.entries[1:], strict=False) if other[0] < one[0])
    last: dict[str, int] = {}
    for text in line.texts:
        if text in place:
            client = asked[place[text]].client
            wrong += place[text] < last.get(client, -1)
            last[client] = place[text]
    return wrong


def _wrong_contexts(requests: dict[str, list[Heard]], line: Stored) -> int:
    """Each request shows a beginning of the line; the one whose answer is stored shows all that stands before."""
    wrong = 0
    for n, (_, role, text, _) in enumerate(line.entries):
        if role == "user":
            wrong += sum(1 for one in requests[text] if one.before != line.texts[: len(one.before)])
            wrong += not requests[text] or requests[text][-1].before != line.texts[:n]
    return wrong


# --- the trials ---


async def trial(folder: Path, kills: int) -> None:
    seed = random.randrange(2**32)
    world = World(Random(seed), folder / "config.yaml")
    async with scripted_upstream(world.answers) as up:
        written(folder, up.url)
        await world.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                for n in range(OWN):
                    tasks.create_task(world.client(f"own{n}", shared=False))
                for n in range(SHARED):
                    tasks.create_task(world.client(f"guest{n}", shared=True))
                await world.kill(kills)
                world.stopping = True
        finally:
            await world.stop()
    stored = read(folder / "sessions.db")
    verdict = judge(world.asked, world.heard, stored)
    repeated = sum(1 for one in world.asked if one.attempts > 1)
    replayed = sum(1 for one in world.asked if one.replayed)
    columns = ", ".join(f"{one.name} {getattr(verdict, one.name)}" for one in fields(verdict))
    print(
        f"\nseed {seed}: {kills} kills, {len(world.asked)} turns, {repeated} repeated, {replayed} of them stored before"
    )
    print(f"{columns}; {len(world.heard)} calls of the model; slowest start {world.slowest_start:.2f} s")
    assert verdict == Verdict(), f"seed {seed}"
    assert all(one.acknowledged for one in world.asked)
    assert sum(len(line.turns) for line in stored.values()) == len(world.asked)


@pytest.mark.timeout(120)
async def test_five_kills_lose_nothing_and_store_nothing_twice(tmp_path: Path) -> None:
    with anyio.fail_after(100):
        await trial(tmp_path, 5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_a_hundred_kills_lose_nothing_and_store_nothing_twice(tmp_path: Path) -> None:
    await trial(tmp_path, 100)
