"""A client that is a bare socket: it sends what it likes, reads what it likes and hangs up when it likes."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio

from tests.acceptance.asking import MODEL, Proxied, Reply, user
from tests.scripted import WAIT_S


class Line:
    """One connection to a proxy. Every read fails after WAIT_S."""

    def __init__(
        self, plug: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str
    ) -> None:
        self._plug = plug
        self._key = key
        self._reader = reader
        self._writer = writer
        self.raw = b""
        """All that was read of the answer's body, chunk sizes included."""

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def post(self, body: bytes, headers: Mapping[str, str | None], path: str = "/v1/chat/completions") -> None:
        """A request; a header of None is left out."""
        own = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        own |= {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [
            f"POST {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in {**own, **headers}.items() if value is not None),
        ]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def ask(self, text: str, to: str, **fields: Any) -> None:
        body = {"model": MODEL, "messages": [user(text)], **fields}
        await self.post(json.dumps(body).encode(), {"X-Session-Id": to})

    async def head(self) -> tuple[int, dict[str, str]]:
        """The answer's status and headers."""
        with anyio.fail_after(WAIT_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1")[:-4].split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def event(self) -> None:
        """Reads on to the end of an event."""
        await self.until(b"\n\n")

    async def until(self, mark: bytes) -> None:
        """Reads on until these bytes have come."""
        with anyio.fail_after(WAIT_S):
            self.raw += await self._reader.readuntil(mark)

    async def rest(self, seconds: float = WAIT_S) -> bytes:
        """All that comes until the end of the connection."""
        with anyio.fail_after(seconds):
            self.raw += await self._reader.read()
        return self.raw

    async def reply(self) -> Reply:
        """A whole answer of known length, on a connection that stays open."""
        status, headers = await self.head()
        with anyio.fail_after(WAIT_S):
            return Reply(status, headers, await self._reader.readexactly(int(headers["content-length"])))

    @property
    def text(self) -> str:
        """What the events read so far say."""
        said = ""
        for part in self.raw.split(b"\n\n")[:-1]:
            payload = part[part.index(b"data: ") + 6 :]
            if payload != b"[DONE]":
                choices = json.loads(payload).get("choices") or [{"delta": {}}]
                said += choices[0]["delta"].get("content") or ""
        return said

    def hang_up(self) -> None:
        """A clean end (FIN)."""
        self._writer.close()

    def reset(self) -> None:
        """An abrupt one (RST)."""
        self._plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


@asynccontextmanager
async def dialled(proxied: Proxied, buffer: int | None = None) -> AsyncGenerator[Line]:
    """A connection to the proxy; `buffer`: bytes that the kernel may hold for this client."""
    port = urlsplit(proxied.url).port
    plug = socket.socket()
    if buffer is not None:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plug.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plug, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plug, limit=1 << 20 if buffer is None else buffer)
    try:
        yield Line(plug, reader, writer, proxied.key)
    finally:
        writer.transport.abort()
