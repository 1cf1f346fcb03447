"""Asking a served proxy over HTTP: what the tests of this package and of tests/edge share.

async with scripted_upstream(echoes()) as up, served(up, tmp_path) as proxied:
    reply = await proxied.ask("hello", to="s")
    assert proxied.stored("s") == ["user: hello", "assistant: echo: hello"]
"""

import io
import json
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import apsw

from proxy.store import keys
from tests.scripted import WAIT_S, Exchange, Recorded, ScriptedUpstream, Step, text_of
from tests.serving import Running, proxy

MODEL = "scripted"


@dataclass(frozen=True)
class Reply:
    """A whole answer. Of a broken one `body` is what came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def payloads(self) -> list[bytes]:
        """What the events of a stream carry."""
        events = self.body.split(b"\n\n")
        assert events.pop() == b"", "the stream ends in the middle of an event"
        assert all(event.startswith(b"data: ") and b"\n" not in event for event in events), events
        return [event.removeprefix(b"data: ") for event in events]

    @property
    def chunks(self) -> list[Any]:
        return [json.loads(payload) for payload in self.payloads if payload != b"[DONE]"]

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def done(self) -> bool:
        """Whether a stream ends with [DONE], which stands nowhere else."""
        assert b"[DONE]" not in self.payloads[:-1]
        return self.payloads[-1:] == [b"[DONE]"]

    @property
    def text(self) -> str:
        """What choice 0 says."""
        if not self.streamed:
            return self.json["choices"][0]["message"]["content"]
        first = [choice for chunk in self.chunks for choice in chunk.get("choices", [])[:1] if choice["index"] == 0]
        return "".join(choice["delta"].get("content") or "" for choice in first)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an answer that is nothing else, or of a broken stream's last event. Always the four keys."""
        last = self.chunks[-1] if self.streamed else self.json
        error = last["error"]
        assert set(error) >= {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str), error
        assert error["message"], error
        return error


@dataclass(frozen=True)
class Proxied:
    """A served proxy, a client's connections to it, and a view into its store."""

    running: Running
    http: aiohttp.ClientSession
    key: str = ""
    """Of the tenant whose sessions are meant, in auth.mode passthrough."""

    @property
    def url(self) -> str:
        return self.running.url

    async def ask(
        self,
        *messages: str | dict[str, Any],
        to: str | None,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Reply:
        """A chat request; a text stands for a user message."""
        body = {"model": MODEL, "messages": [user(m) if isinstance(m, str) else m for m in messages], **fields}
        return await self.post(json.dumps(body).encode(), to=to, headers=headers)

    async def post(
        self,
        body: bytes,
        *,
        to: str | None,
        headers: Mapping[str, str] | None = None,
        path: str = "/chat/completions",
    ) -> Reply:
        named = {"X-Session-Id": to} if to is not None else {}
        return await self.call("POST", path, body, {"Content-Type": "application/json", **named, **(headers or {})})

    async def call(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        async with self.http.request(
            method, self.url + path, data=io.BytesIO(body), headers=headers, allow_redirects=False
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    @contextmanager
    def locked(self) -> Generator[None]:
        """Nobody else can write into the store meanwhile."""
        other = apsw.Connection(str(self.running.path))
        try:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        finally:
            other.close()

    def stored(self, session: str, branch: int | None = None) -> list[str]:
        """A line of the conversation, of the current branch if no other is named; [] for an unknown session."""
        found = self._session(session)
        return [_line(*row) for row in self._rows(found[0], branch or found[1], None)] if found else []

    def messages(self, session: str) -> list[Any]:
        """The raw messages of the current branch."""
        found = self._session(session)
        return [json.loads(raw) for raw, _ in self._rows(*found, None)] if found else []

    def _rows(self, session: int, branch: int, upto: int | None) -> list[tuple[bytes, str]]:
        rows = self.running.rows(
            "SELECT parent, forked_at, head FROM branches WHERE session = ? AND branch = ?", session, branch
        )
        parent, forked_at, head = rows[0]
        last = head if upto is None else min(upto, head)
        before = [] if parent is None else self._rows(session, parent, min(forked_at, last))
        own = self.running.rows(
            "SELECT raw, status FROM entries WHERE session = ? AND branch = ? AND seq <= ? ORDER BY seq",
            session, branch, last,
        )  # fmt: skip
        return [*before, *((self._whole(raw), status) for raw, status in own)]

    def _whole(self, raw: bytes) -> bytes:
        """A message with the large base64 that stands apart."""
        if raw[:1] != b"\x01":
            return raw
        parts = raw[1:].split(b"\x00")
        for n in range(1, len(parts), 2):
            name = bytes.fromhex(parts[n].decode())
            parts[n] = self.running.rows("SELECT data FROM blobs WHERE hash = ?", name)[0][0]
        return b"".join(parts)

    def branches(self, session: str) -> int:
        return len(self._of(session, "SELECT 1 FROM branches WHERE session = ?"))

    def turns(self, session: str) -> list[str]:
        """The status of each stored turn."""
        return [row[0] for row in self._of(session, "SELECT status FROM turns WHERE session = ? ORDER BY turn")]

    def sessions(self) -> list[str]:
        """The names of all the tenant's sessions."""
        sql = "SELECT s.name FROM sessions s JOIN tenants t ON t.id = s.tenant WHERE t.name = ? ORDER BY s.id"
        return [row[0] for row in self.running.rows(sql, self._tenant)]

    @property
    def _tenant(self) -> str:
        return keys.passthrough_name(self.key.encode()) if self.key else "default"

    def _of(self, session: str, sql: str) -> list[tuple[Any, ...]]:
        found = self._session(session)
        return self.running.rows(sql, found[0]) if found else []

    def _session(self, name: str) -> tuple[int, int] | None:
        """The number of a session and of its current branch."""
        rows = self.running.rows(
            "SELECT s.id, s.branch FROM sessions s JOIN tenants t ON t.id = s.tenant WHERE t.name = ? AND s.name = ?",
            self._tenant, name,
        )  # fmt: skip
        return rows[0] if rows else None


def _line(raw: bytes, status: str) -> str:
    return spoken(json.loads(raw)) + ("" if status == "complete" else " [incomplete]")


@asynccontextmanager
async def served(before: ScriptedUpstream | str, folder: Path, /, **sections: Any) -> AsyncGenerator[Proxied]:
    """A proxy `before` a model server, whose model has room for everything unless a section says otherwise."""
    url = before if isinstance(before, str) else before.url
    sections["upstream"] = {"context_tokens": 10_000_000, **sections.get("upstream", {})}
    async with proxy(url, folder, **sections) as running, connections() as http:
        yield Proxied(running, http)


def connections(**headers: str) -> aiohttp.ClientSession:
    """A client's connections; `headers` go with every request."""
    limit = aiohttp.ClientTimeout(total=2 * WAIT_S)
    return aiohttp.ClientSession(timeout=limit, auto_decompress=False, headers=headers)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the event loop turn until something is so; fails after WAIT_S."""
    with anyio.fail_after(WAIT_S):
        while not condition():
            await anyio.lowlevel.checkpoint()


def by_model(steps: Mapping[str, Step]) -> Step:
    """A step for each model's name, so that many tests can share one proxy."""

    async def step(exchange: Exchange) -> None:
        await steps[exchange.request.json["model"]](exchange)

    return step


# --- messages, and how tests write them down ---


def user(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **fields}


def assistant(text: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def call(name: str, arguments: Mapping[str, Any], id: str = "call_1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def asks_for(*calls: dict[str, Any]) -> dict[str, Any]:
    return assistant(None, tool_calls=list(calls))


def result(text: str, id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": text}


def spoken(message: Mapping[str, Any]) -> str:
    """A message in one line: "user: hi", "assistant: clock({})", "tool call_1: noon"."""
    role = f"tool {message['tool_call_id']}" if message["role"] == "tool" else message["role"]
    calls = [f"{c['function']['name']}({c['function']['arguments']})" for c in message.get("tool_calls") or ()]
    return f"{role}: {' '.join([*filter(None, [text_of(message)]), *calls])}"


def received(request: Recorded) -> list[str]:
    """The messages that a model server got."""
    return [spoken(message) for message in request.json["messages"]]
