"""Bytes -> the fields of a request, naming what is wrong. Only session requests are looked into."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.types import Receive

from proxy.edge.deliver import Connection
from proxy.errors import BadRequest, ProxyError, RequestTimeout, TooLarge
from proxy.types import INSTRUCTIONS, ROLES

Fields = dict[str, bytes]
"""The top level of a JSON object; the values are raw JSON."""

Said = tuple[bytes, dict[str, Any]]
"""A message: its raw JSON, and the same parsed."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_any = msgspec.json.Decoder().decode
_BROKEN = (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError)


class ClientLeft(Exception):
    """The client hung up before its request was whole; nobody is there to be told."""


class UnsupportedMedia(ProxyError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


async def read(connection: Connection, headers: dict[bytes, bytes], most: int | None = None) -> bytes:
    """The request's body. Raises TooLarge, RequestTimeout (the sweep ends the wait) or ClientLeft."""
    server = connection.config.server
    limit = min(server.max_body_mb << 20, most or server.max_body_mb << 20)
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    connection.last = time.monotonic()
    try:
        return await _whole(connection.receive, limit)
    except asyncio.CancelledError:
        if not connection.late:
            raise
        connection.task.uncancel()
        raise RequestTimeout(
            f"the request's body did not arrive within {server.body_timeout_s:g} s; send it faster or raise "
            "server.body_timeout_s",
            headers={"connection": "close"},
        ) from None
    finally:
        connection.reading = False


async def _whole(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limit >> 20} MB; send less, or raise server.max_body_mb where that is the limit",
        headers={"connection": "close"},
    )


def fields(raw: bytes) -> Fields:
    """The object's fields. Lone surrogates are let through here: a stateless request is not looked into."""
    try:
        return {key: bytes(value) for key, value in _fields(raw).items()}
    except _BROKEN as exc:
        problem = exc
    try:
        return {key: bytes(value) for key, value in _fields(_clean(raw, problem)).items()}
    except _BROKEN:
        raise BadRequest(f"the body is not JSON: {_words(problem)}; send one JSON object", param="body") from None


def joined(given: Fields) -> bytes:
    """The fields as one JSON object; their values keep their bytes."""
    return b"{" + b",".join(msgspec.json.encode(key) + b":" + value for key, value in given.items()) + b"}"


def cleaned(raw: bytes) -> bytes:
    """A JSON object with U+FFFD in place of lone surrogates. Raises BadRequest for what is no JSON object."""
    return _clean(raw, ValueError("it cannot be read"))


def _clean(raw: bytes, problem: Exception) -> bytes:
    """JSON that the strict decoder refuses for its lone surrogates, with U+FFFD in their place."""
    try:
        value = json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BadRequest(f"the body is not JSON: {_words(problem)}; send one JSON object", param="body") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object", param="body")
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        raise BadRequest("the body is nested too deeply", param="body") from None
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _words(problem: Exception) -> str:
    return "it is not UTF-8" if isinstance(problem, UnicodeDecodeError) else str(problem).rstrip(".")


def parsed(given: Fields, key: str) -> Any:
    """One field as a value; None when it is absent. Raises BadRequest naming it."""
    raw = given.get(key)
    if raw is None:
        return None
    try:
        return _any(raw)
    except _BROKEN as exc:
        raise BadRequest(f"{key} is not valid JSON: {_words(exc)}", param=key) from None


def check_media(headers: dict[bytes, bytes]) -> None:
    """A session request says that it is JSON, or says nothing."""
    given = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if given and given != b"application/json" and not given.endswith(b"+json"):
        raise UnsupportedMedia("send the body as content-type application/json", param="content-type")


def messages(given: Fields, most: int, nesting: int) -> list[Said]:
    """The request's messages, each as its raw JSON and parsed. Raises BadRequest naming the message and its field."""
    if "messages" not in given:
        raise BadRequest("messages is missing: send the newest message, or all of them", param="messages")
    try:
        raws = _items(given["messages"])
    except _BROKEN:
        raise BadRequest("messages must be a list of message objects", param="messages") from None
    if not raws:
        raise BadRequest("messages is empty: send the newest message, or all of them", param="messages")
    if len(raws) > most:
        raise BadRequest(
            f"messages holds {len(raws):,} messages, the limit is {most:,}; send only the new ones or raise "
            "limits.messages_per_request",
            param="messages",
        )
    out = []
    for n, item in enumerate(raws):
        raw = bytes(item)
        out.append((raw, _message(raw, f"messages[{n}]", nesting)))
    return out


def split(said: Sequence[Said]) -> tuple[tuple[bytes, ...] | None, Sequence[Said]]:
    """The leading instructions, None where there are none, and the messages that follow them."""
    lead = next((n for n, (_, value) in enumerate(said) if value["role"] not in INSTRUCTIONS), len(said))
    return tuple(raw for raw, _ in said[:lead]) if lead else None, said[lead:]


def _message(raw: bytes, where: str, nesting: int) -> dict[str, Any]:
    try:
        value = _any(raw)
    except _BROKEN as exc:
        raise BadRequest(f"{where} is not valid JSON: {_words(exc)}", param=where) from None
    if not isinstance(value, dict):
        raise BadRequest(f"{where} must be an object with a role", param=where)
    role = value.get("role")
    if role not in ROLES:
        raise BadRequest(f"{where}.role must be one of {', '.join(ROLES)}", param=f"{where}.role")
    if raw.count(b"[") + raw.count(b"{") > nesting and _deep(value, nesting):
        raise BadRequest(f"{where} is nested deeper than {nesting} levels", param=where)
    _content(value.get("content"), f"{where}.content")
    if role == "tool" and not isinstance(value.get("tool_call_id"), str):
        raise BadRequest(f"{where}.tool_call_id must name the call it answers", param=f"{where}.tool_call_id")
    if value.get("tool_calls") is not None:
        _calls(value["tool_calls"], f"{where}.tool_calls")
    return value


def _content(content: Any, where: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise BadRequest(f"{where} must be a string or a list of parts", param=where)
    for n, part in enumerate(content):
        if part.get("type") == "text" and not isinstance(part.get("text"), str):
            raise BadRequest(f"{where}[{n}].text must be a string", param=f"{where}[{n}].text")


def _calls(calls: Any, where: str) -> None:
    if not isinstance(calls, list):
        raise BadRequest(f"{where} must be a list of tool calls", param=where)
    for n, call in enumerate(calls):
        if not isinstance(call, dict) or not isinstance(call.get("id"), str):
            raise BadRequest(f"{where}[{n}] must be an object with an id", param=f"{where}[{n}].id")


def check_depth(raw: bytes, nesting: int) -> None:
    """Raises BadRequest for a body that nests deeper than `nesting` levels: what is stored must be read again."""
    if raw.count(b"[") + raw.count(b"{") <= nesting:
        return
    try:
        deep = _deep(_any(raw), nesting)
    except RecursionError:
        deep = True
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # whoever reads it says what is wrong
    if deep:
        raise BadRequest(f"the body is nested deeper than {nesting} levels", param="body")


def _deep(value: Any, levels: int) -> bool:
    """Whether a value nests deeper than `levels`; walks level by level, so that depth costs no stack."""
    layer = [value]
    for _ in range(levels):
        layer = [
            item
            for one in layer
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
        if not layer:
            return False
    return True
