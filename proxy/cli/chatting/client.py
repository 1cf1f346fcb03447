"""The proxy as the chat sees it: its own HTTP client, JSON in and out, failures in words for who sits before it."""

import urllib.parse
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from proxy.cli.chatting.address import DEFAULT_URL, root_of
from proxy.cli.chatting.said import message_of
from proxy.errors import BadConfig, ProxyError, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.client import HttpUpstream
from proxy.upstream.exchange import ERROR_BODY, read
from proxy.upstream.protocol import Answer, Call, Timeouts
from proxy.upstream.wire import Splitter, payload

PATIENT = Timeouts(connect=5.0, first_byte=900.0, idle=900.0, total=86_400.0)
"""The proxy has time limits of its own, and says which one passed: these only end a connection that died unnoticed."""
LONGEST = 256 << 20
"""Bytes of an answer that is no stream; the longest is the export of a session."""


class Failed(ProxyError):
    """What the proxy refused, or that it is not there. `status` 0: no answer came."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status


class Proxy:
    """A running proxy. Every call raises Failed. `root`: its address; `longest`: the bytes that are read of an answer
    that is no stream."""

    def __init__(self, url: str, key: str | None, longest: int = LONGEST) -> None:
        self.root = root_of(url)
        self._longest = longest
        try:
            self._http = HttpUpstream(self.root, timeouts=PATIENT, max_connections=4)
        except BadConfig as exc:
            raise BadConfig(f"--url cannot be used; write it like {DEFAULT_URL}, without user or query") from exc
        self._headers = [(b"content-type", b"application/json")]
        if key:
            self._headers.append((b"authorization", b"Bearer " + _as_bytes("the key", key)))

    async def get(self, path: str, /, **query: object) -> Any:
        """What a GET answers."""
        asked = urllib.parse.urlencode({name: value for name, value in query.items() if value is not None})
        return _decoded(await self._whole("GET", f"{path}?{asked}" if asked else path, b""), self.root)

    async def lines(self, path: str) -> list[Any]:
        """What a GET answers in JSON Lines."""
        return [_decoded(line, self.root) for line in (await self._whole("GET", path, b"")).split(b"\n") if line]

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Any:
        """What a POST answers."""
        return _decoded(await self._whole("POST", path, msgspec.json.encode(body), headers), self.root)

    @asynccontextmanager
    async def stream(self, path: str, body: object, headers: Mapping[str, str]) -> AsyncGenerator[Answer]:
        """The answer to a POST, whose events `events` reads. Leaving the block closes the connection, which tells the
        proxy to stop."""
        answer = await self._sent("POST", path, msgspec.json.encode(body), headers)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def events(self, answer: Answer) -> AsyncGenerator[list[bytes]]:
        """The payloads of a stream's events, as many at a time as have come."""
        splitter = Splitter()
        try:
            async for data in answer:
                found = [said for said in map(payload, splitter.feed(data)) if said]
                if found:
                    yield found
        except UpstreamError as exc:
            raise self._failure(exc) from exc

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _whole(self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        answer = await self._sent(method, path, body, headers or {})
        try:
            return await read(answer, self._longest)
        except UpstreamError as exc:
            raise self._failure(exc) from exc
        finally:
            await answer.aclose()

    async def _sent(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        named = [(name.lower().encode(), _as_bytes(name, value)) for name, value in headers.items()]
        try:
            answer = await self._http.send(Call(method, path, body, tuple(self._headers + named)))
        except UpstreamError as exc:
            raise self._failure(exc) from exc
        if answer.status >= 300:  # a redirect is not followed either
            raise await self._refused(answer)
        return answer

    async def _refused(self, answer: Answer) -> Failed:
        try:
            said = msgspec.json.decode(await read(answer, ERROR_BODY))
        except (UpstreamError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = None
        finally:
            await answer.aclose()
        error = said.get("error") if isinstance(said, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        message = message_of(said) or f"{self.root} answers {answer.status}, not as a session-proxy does"
        return Failed(answer.status, message, code if isinstance(code, str) else None)

    def _failure(self, exc: UpstreamError) -> Failed:
        """The client speaks of an upstream; here that is the proxy."""
        if isinstance(exc, UpstreamUnreachable):
            return Failed(0, f"no proxy answers at {self.root}", "no_proxy")
        if isinstance(exc, UpstreamTimeout):
            return Failed(0, f"the proxy at {self.root} did not answer in time", "no_proxy")
        if isinstance(exc, UpstreamRefused):
            return Failed(exc.status, exc.message)
        if exc.code == "answer_too_large":
            return Failed(0, f"the answer of {self.root} is longer than {self._longest:,} bytes; it was not read on")
        return Failed(0, f"the connection to the proxy at {self.root} broke off", "broke_off")


def header(answer: Answer, name: str) -> str | None:
    """A header of an answer; `name` in lower case."""
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in answer.headers if key == wanted), None)


def session_path(name: str) -> str:
    """Where the Sessions API has a session."""
    return "/sessions/" + urllib.parse.quote(name, safe="")


def _as_bytes(what: str, value: str) -> bytes:
    if not (value.isascii() and value.isprintable()):
        raise Failed(0, f"{what} may hold printable ASCII characters only")
    return value.encode()


def _decoded(data: bytes, root: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Failed(0, f"what answers at {root} is no session-proxy", "no_proxy") from exc
