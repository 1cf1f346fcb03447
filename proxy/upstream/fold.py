"""The whole answer as a fold over its chunks. Pure: chunks in, one chat.completion out; fold(split(x)) == x.

Unknown fields of a message survive: text grows by joining, lists whose items carry an `index` merge by it, names and
ids are set once. What the client sees is relayed as it came (wire.py); this is the copy for the store.
"""

import json
import math
from typing import Any

import msgspec

from proxy.errors import UpstreamBroken, UpstreamError, UpstreamRefused

SET_ONCE = frozenset({"role", "type", "id", "name", "signature", "index", "format", "object"})
"""Strings that a later chunk repeats or brings once; joining them would double them."""


DEEPEST = 64
"""Levels of JSON that a message may have."""


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    id: str | None = None
    model: str | None = None
    created: int | float | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Fold:
    """An answer so far. `add` chunks of a stream or `whole` one JSON answer, then read."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.created = 0
        self.usage: dict[str, Any] | None = None
        self._text: dict[int, list[str]] = {}
        self._rest: dict[int, dict[str, Any]] = {}
        self._finish: dict[int, str] = {}

    @property
    def finished(self) -> bool:
        """Whether the answer that becomes history (choice 0) is whole."""
        return 0 in self._finish

    @property
    def has_text(self) -> bool:
        return any(self._text.get(0, ()))

    def add(self, payload: bytes) -> bool:
        """Takes one chunk. True: it is nothing but the usage that the proxy asked for. Raises UpstreamBroken."""
        chunk = _parsed(payload)
        if chunk.error is not None and not chunk.choices:
            raise in_band(chunk.error)
        if self.id is None and chunk.id is not None:
            self.id, self.model, self.created = chunk.id, chunk.model, int(chunk.created or 0)
        if chunk.usage is not None:
            self.usage = chunk.usage
        for choice in chunk.choices or ():
            if choice.delta:
                self._grow(choice.index, choice.delta)
            if choice.finish_reason is not None:
                self._finish[choice.index] = choice.finish_reason
        return chunk.usage is not None and not chunk.choices

    def whole(self, body: bytes) -> None:
        """Takes a non-streamed answer. Raises UpstreamBroken when it is not a chat completion."""
        chunk = _parsed(body)
        if chunk.error is not None and not chunk.choices:
            raise in_band(chunk.error)
        if not chunk.choices or chunk.choices[0].message is None:
            raise UpstreamBroken("the upstream's answer is not a chat completion: it has no choices[0].message")
        self.id, self.model, self.created, self.usage = chunk.id, chunk.model, int(chunk.created or 0), chunk.usage
        for choice in chunk.choices:
            self._rest[choice.index] = dict(choice.message or {})
            self._finish[choice.index] = choice.finish_reason or "stop"

    def _grow(self, index: int, delta: dict[str, Any]) -> None:
        if len(delta) == 1 and isinstance(delta.get("content"), str):
            self._text.setdefault(index, []).append(delta["content"])
            return
        rest = dict(delta)
        text = rest.pop("content", None)
        if isinstance(text, str) and text:
            self._text.setdefault(index, []).append(text)
        elif isinstance(text, list):
            rest["content"] = text
        _merge(self._rest.setdefault(index, {}), rest)

    def message(self, index: int = 0) -> dict[str, Any]:
        """A choice's message: role, content, and whatever else the upstream sent. Raises UpstreamBroken when its types
        are wrong: what is stored is sent again, and must not spoil the session."""
        rest = self._rest.get(index, {})
        out: dict[str, Any] = {"role": "assistant"}  # whatever it calls itself: it is sent again as such
        text = "".join(self._text.get(index, ()))
        content = text if text or "content" not in rest else rest["content"]
        out["content"] = content if content or not rest.get("tool_calls") else None
        out.update((key, value) for key, value in rest.items() if key not in out and value not in (None, [], ""))
        for call in out.get("tool_calls") or ():
            if isinstance(call, dict):
                call.pop("index", None)
                call.setdefault("type", "function")
        _check(out)
        return _clean(out)

    def text_only(self) -> dict[str, Any]:
        """What a client saw of an answer that was cut short: its text, never a piece of a tool call."""
        return _clean({"role": "assistant", "content": "".join(self._text.get(0, ()))})

    def completion(self) -> dict[str, Any]:
        """The answer as a chat.completion object, all choices."""
        indexes = sorted({*self._text, *self._rest, *self._finish} or {0})
        choices = [
            {"index": n, "message": self.message(n), "logprobs": None, "finish_reason": self._finish.get(n)}
            for n in indexes
        ]
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": self.usage,
        }


def _parsed(payload: bytes) -> _Chunk:
    try:
        return _decode(payload)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        pass
    try:  # a lone surrogate, or half of a pair whose other half is in the next chunk
        return msgspec.convert(json.loads(payload, parse_constant=_refuse, parse_float=_finite), _Chunk)
    except (ValueError, RecursionError, msgspec.ValidationError) as exc:
        raise UpstreamBroken("the upstream sent something that is not a chat completion chunk") from exc


def _check(message: dict[str, Any]) -> None:
    content, calls = message["content"], message.get("tool_calls")
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    good = (content is None or isinstance(content, str | list)) and all(isinstance(text, str) for text in texts)
    if not (good and isinstance(calls, list | None) and all(_is_call(call) for call in calls or ())):
        raise UpstreamBroken("the upstream's message has a content or tool_calls of a wrong type")


def _is_call(call: Any) -> bool:
    if not isinstance(call, dict) or not isinstance(call.get("id", ""), str):
        return False
    made = call.get("function", call.get("custom", {}))
    return isinstance(made, dict) and all(isinstance(made.get(key, ""), str) for key in ("name", "arguments", "input"))


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def in_band(error: Any) -> UpstreamError:
    """The failure that an `error` object inside a 200 answer tells of."""
    given = error if isinstance(error, dict) else {"message": str(error)}
    message = str(given.get("message") or "the upstream reported an error in mid-answer")
    status = given.get("code") or given.get("status")
    if isinstance(status, int) and 400 <= status < 600:
        body = msgspec.json.encode({"error": _clean(given)})
        return UpstreamRefused(status, message, body=body, headers={})
    code = given.get("code")
    return UpstreamBroken(message, code=str(code) if code is not None else None)


def _merge(into: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        old = into.get(key)
        if old is None:
            into[key] = _indexed([], value) if isinstance(value, list) else value
        elif isinstance(value, str) and isinstance(old, str) and key not in SET_ONCE:
            into[key] = old + value
        elif isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value)
        elif isinstance(value, list) and isinstance(old, list):
            into[key] = _indexed(old, value)
        elif value not in (None, ""):
            into[key] = value


def _indexed(old: list[Any], new: list[Any]) -> list[Any]:
    """Items that carry an `index` merge with the one that carries the same; others are appended."""
    for item in new:
        place = item.get("index") if isinstance(item, dict) else None
        same = next((one for one in old if isinstance(one, dict) and one.get("index") == place), None)
        if place is None or same is None:
            old.append(item)
        else:
            _merge(same, item)
    return old


def _clean(value: Any, depth: int = 0) -> Any:
    """The value with lone surrogates replaced by U+FFFD; two halves that came in two chunks become one character.
    Raises UpstreamBroken for what is nested too deeply to be stored and sent again."""
    if depth > DEEPEST:
        raise UpstreamBroken(f"the upstream's message is nested deeper than {DEEPEST} levels")
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {_clean(key): _clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    return value
