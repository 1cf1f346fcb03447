"""A model server that plays a script: each request gets the next step, the last step repeats.

    async with scripted_upstream([calls("clock", {}), says("It is noon")]) as up:
        ...  # up.url, up.requests

HTTP is written by hand, so that every fault is possible; those are in `faults.py`. A step is an async function of an
`Exchange`; a new kind of answer is a function that returns one.
"""

import asyncio
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

WAIT_S = 10.0
"""The longest any test waits for an event before it fails."""


@dataclass
class Recorded:
    """A request as it came. `left` is set if the peer hung up before its answer was finished."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def stream(self) -> bool:
        return bool(self.body) and bool(self.json.get("stream"))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Exchange:
    """What a step writes its answer with. Every write raises ConnectionError once the peer has left."""

    def __init__(self, up: "ScriptedUpstream", request: Recorded, writer: asyncio.StreamWriter) -> None:
        self.up = up
        self.request = request
        self.keep_alive = (request.header("connection") or "").lower() != "close"
        self._writer = writer
        if writer.get_extra_info("sslcontext") is None:  # with TLS asyncio never ends a pause made by a limit of 0
            writer.transport.set_write_buffer_limits(0)  # a write returns when the kernel has it: no reset overtakes it

    async def write(self, data: bytes) -> None:
        """Bytes as they are: headers, framing and all."""
        if self._writer.is_closing():
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def start_stream(self, **headers: str) -> None:
        """The head of a chunked event stream."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **named})

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, value: object) -> None:
        await self.chunk(sse(value))

    async def end(self) -> None:
        await self.write(b"0\r\n\r\n")

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        await self.head(status, {"content-length": str(len(body)), **headers})
        await self.write(body)

    async def peer_leaves(self) -> None:
        """Never returns: the step is cancelled when the peer hangs up."""
        await asyncio.Event().wait()

    def hang_up(self) -> None:
        """A clean end of the connection (FIN)."""
        self.keep_alive = False
        self._writer.close()

    def reset(self) -> None:
        """An abrupt one (RST)."""
        self.keep_alive = False
        linger = struct.pack("ii", 1, 0)  # on, zero seconds: the kernel sends RST
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


Step = Callable[[Exchange], Awaitable[None]]


class ScriptedUpstream:
    """What a test sees of the server. `gate.release()` lets a `gated` step write its next chunk."""

    def __init__(self, script: Step | Sequence[Step], models: Sequence[Mapping[str, Any]]) -> None:
        self.lists = status(200, json={"object": "list", "data": list(models)})
        self.url = ""
        self.play(script)
        self.in_flight = 0
        self.connections = 0
        """How many were ever accepted."""
        self._news = asyncio.Condition()
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any]] = {}

    def play(self, script: Step | Sequence[Step]) -> None:
        """Another script, as if nothing had been asked before."""
        self._steps = iter(script if isinstance(script, Sequence) else [script])
        self._step: Step | None = None
        self.requests: list[Recorded] = []
        self.gate = asyncio.Semaphore(0)

    async def wait_requests(self, n: int) -> list[Recorded]:
        """Waits until `n` requests have come in all; fails after WAIT_S."""
        with anyio.fail_after(WAIT_S):
            async with self._news:
                await self._news.wait_for(lambda: len(self.requests) >= n)
        return self.requests

    async def wait_idle(self) -> None:
        """Waits until no request is being answered; fails after WAIT_S."""
        with anyio.fail_after(WAIT_S):
            async with self._news:
                await self._news.wait_for(lambda: self.in_flight == 0)

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def hang_up(self) -> None:
        """Closes all connections, also those resting in a client's pool."""
        for writer in list(self._open):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side has enough."""
        task = asyncio.current_task()
        assert task is not None
        self._open[writer] = task
        self.connections += 1
        peer = _Peer(reader)
        try:
            while (request := await peer.request()) is not None and await self._answer(request, peer, writer):
                pass
        finally:
            del self._open[writer]
            writer.close()

    async def close(self) -> None:
        tasks = list(self._open.values())
        self.hang_up()
        await asyncio.gather(*tasks)

    async def _answer(self, request: Recorded, peer: "_Peer", writer: asyncio.StreamWriter) -> bool:
        """Plays the next step; whether the connection may go on."""
        step = self._next(request)
        self.requests.append(request)
        self.in_flight += 1
        exchange = Exchange(self, request, writer)
        await self._tell()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_watch, peer, request, group.cancel_scope)
                try:
                    await step(exchange)
                except ConnectionError:
                    request.left.set()
                group.cancel_scope.cancel()
        finally:
            self.in_flight -= 1
            await self._tell()
        return exchange.keep_alive and not request.left.is_set()

    def _next(self, request: Recorded) -> Step:
        if request.method == "GET" and request.path.endswith("/models"):
            return self.lists
        self._step = next(self._steps, self._step)
        assert self._step is not None, "the script is empty"
        return self._step

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


@asynccontextmanager
async def scripted_upstream(
    script: Step | Sequence[Step], models: Sequence[Mapping[str, Any]] = (), tls: ssl.SSLContext | None = None
) -> AsyncGenerator[ScriptedUpstream]:
    """A server on a free port. GET .../models is answered from `models`, everything else by the script."""
    up = ScriptedUpstream(script, models)
    server = await asyncio.start_server(up.serve, "127.0.0.1", 0, ssl=tls)
    up.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield up
    finally:
        server.close()
        await up.close()


class _Peer:
    """The reading side of a connection."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._ahead = b""

    async def request(self) -> Recorded | None:
        """The next request; None when no whole one comes."""
        try:
            head, self._ahead = self._ahead + await self._reader.readuntil(b"\r\n\r\n"), b""
            first, *lines = head.decode("latin-1")[:-4].split("\r\n")
            method, path, _ = first.split(" ")
            headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            body = await self._reader.readexactly(int(dict(headers).get("content-length", "0")))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Recorded(method, path, headers, body)

    async def leaves(self) -> None:
        """Returns when the peer has hung up."""
        try:
            self._ahead = await self._reader.read(1)
        except ConnectionError:
            return
        if self._ahead:  # it has the whole answer and asks again before the step has returned
            await asyncio.Event().wait()


async def _watch(peer: _Peer, request: Recorded, scope: anyio.CancelScope) -> None:
    """Ends the step when the peer hangs up while it runs."""
    await peer.leaves()
    request.left.set()
    scope.cancel()


# --- what models say ---


def sse(value: object) -> bytes:
    """One event; a str goes out as it is, e.g. "[DONE]"."""
    return b"data: %b\n\n" % (value.encode() if isinstance(value, str) else dump(value))


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def words(text: str) -> list[str]:
    """The text in pieces that join to it again."""
    return re.findall(r"\s*\S+\s*?(?=\s|$)|\s+", text)


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def usage(request: Recorded, answer: str) -> dict[str, int]:
    prompt = sum(len(text_of(message).split()) for message in request.json.get("messages", []))
    completion = len(answer.split())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def envelope(request: Recorded, kind: str, choices: list[Any], **fields: Any) -> dict[str, Any]:
    model = request.json.get("model", "scripted")
    return {
        "id": "chatcmpl-1",
        "object": kind,
        "created": 1_700_000_000,
        "model": model,
        "choices": choices,
        **fields,
    }


def delta(request: Recorded, part: Mapping[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": part, "logprobs": None, "finish_reason": finish}
    return envelope(request, "chat.completion.chunk", [choice], **fields)


def text_deltas(request: Recorded, text: str, **fields: Any) -> list[dict[str, Any]]:
    """The role, then a chunk for each word; no finish."""
    return [delta(request, part, **fields) for part in _parts(text)]


def _parts(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": ""}, *({"content": word} for word in words(text))]


async def _send(
    exchange: Exchange, message: dict[str, Any], parts: list[dict[str, Any]], finish: str, **fields: Any
) -> None:
    """A message: as `parts` to a request that streams, else whole."""
    request = exchange.request
    counts = usage(request, message.get("content") or "")
    if not request.stream:
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        body = envelope(request, "chat.completion", [choice], **{"usage": counts, **fields})
        await exchange.whole(200, dump(body), {"content-type": "application/json"})
        return
    await exchange.start_stream()
    for part in parts:
        await exchange.event(delta(request, part, **fields))
    await exchange.event(delta(request, {}, finish, **fields))
    if (request.json.get("stream_options") or {}).get("include_usage"):
        await exchange.event(envelope(request, "chat.completion.chunk", [], usage=counts, **fields))
    await exchange.event("[DONE]")
    await exchange.end()


def says(text: str, *, finish: str = "stop", **fields: Any) -> Step:
    """A text; `fields` go to the top level of the answer and of each chunk."""

    async def step(exchange: Exchange) -> None:
        message = {"role": "assistant", "content": text, "refusal": None}
        await _send(exchange, message, _parts(text), finish, **fields)

    return step


def echoes() -> Step:
    """Says "echo: " and the last user message's text."""

    async def step(exchange: Exchange) -> None:
        asked = [text_of(m) for m in exchange.request.json["messages"] if m["role"] == "user"]
        await says(f"echo: {asked[-1]}")(exchange)

    return step


def calls(name: str, arguments: Mapping[str, Any], id: str = "call_1") -> Step:
    return calls_many([(name, arguments, id)])


def calls_many(wanted: Sequence[tuple[str, Mapping[str, Any], str]]) -> Step:
    """Tool calls as (name, arguments, id); a stream brings each one's arguments in pieces of 8 characters."""

    async def step(exchange: Exchange) -> None:
        full: list[dict[str, Any]] = []
        parts: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
        for index, (name, arguments, id) in enumerate(wanted):
            text = json.dumps(arguments)
            call = {"id": id, "type": "function", "function": {"name": name, "arguments": text}}
            full.append(call)
            first = {"index": index, **call, "function": {"name": name, "arguments": ""}}
            parts.append({"tool_calls": [first]})
            for at in range(0, len(text), 8):
                piece = {"index": index, "function": {"arguments": text[at : at + 8]}}
                parts.append({"tool_calls": [piece]})
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": full}
        await _send(exchange, message, parts, "tool_calls")

    return step


def gated(text: str) -> Step:
    """Like `says` with a stream, but each chunk waits for `up.gate.release()`; the finish does not."""

    async def step(exchange: Exchange) -> None:
        await exchange.start_stream()
        for chunk in text_deltas(exchange.request, text):
            await exchange.up.gate.acquire()
            await exchange.event(chunk)
        await exchange.event(delta(exchange.request, {}, "stop"))
        await exchange.event("[DONE]")
        await exchange.end()

    return step


def status(
    code: int, *, json: object = None, html: str | None = None, headers: Mapping[str, str] | None = None
) -> Step:
    """An answer of any status, with a JSON or an HTML body, or an empty one."""

    async def step(exchange: Exchange) -> None:
        kind = "application/json" if html is None else "text/html"
        body = html.encode() if html is not None else dump(json) if json is not None else b""
        await exchange.whole(code, body, {"content-type": kind, **(headers or {})})

    return step
