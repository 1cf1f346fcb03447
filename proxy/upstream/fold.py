"""The whole answer as a fold over its chunks. Pure: chunks in, one chat.completion out; fold(split(x)) == x.

Each choice is folded by itself; choice 0 becomes history. Unknown fields survive, of the answer, of a choice and of its
message (merge.py). What the client sees is relayed as it came (wire.py); this is the copy for the store.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from proxy.errors import UpstreamBroken, UpstreamError, UpstreamRefused
from proxy.upstream import merge

INSTEAD = ("tool_calls", "function_call", "refusal", "audio")
"""What an assistant may say in place of a content."""


class _Choice(msgspec.Struct, frozen=True, gc=False):
    index: int = 0
    delta: dict[str, Any] | None = None
    logprobs: Any = None
    finish_reason: str | None = None
    message: dict[str, Any] | None = None


class _Chunk(msgspec.Struct, frozen=True, gc=False):
    id: str | None = None
    object: Any = None
    created: int | float | None = None
    model: str | None = None
    service_tier: Any = None
    system_fingerprint: Any = None
    choices: Sequence[_Choice] | None = None
    usage: dict[str, Any] | None = None
    obfuscation: Any = None
    error: Any = None


_OF_CHUNK, _OF_CHOICE = frozenset(_Chunk.__struct_fields__), frozenset(_Choice.__struct_fields__)


class _KnownChoice(_Choice, frozen=True, forbid_unknown_fields=True, gc=False):
    """A choice without fields of its vendor, but for those that are null in most of their chunks."""

    matched_stop: None = None
    native_finish_reason: None = None
    stop_reason: None = None
    token_ids: None = None


class _Known(_Chunk, frozen=True, forbid_unknown_fields=True, gc=False):
    """A chunk of which nothing is lost when it is read so."""

    choices: Sequence[_KnownChoice] | None = None


_decode = msgspec.json.Decoder(_Known).decode
_any = msgspec.json.Decoder().decode
_UNREADABLE = (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError)


class _Said:
    """A choice so far: its text in pieces, the other fields of its message, and those of the choice itself."""

    __slots__ = ("finish", "logprobs", "more", "rest", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.rest: dict[str, Any] = {}
        self.finish: str | None = None
        self.logprobs: Any = None
        self.more: dict[str, Any] = {}

    def take(self, choice: _Choice) -> None:
        """One chunk's part of the choice."""
        for key, value in (choice.delta or {}).items():
            if key == "content" and (value is None or isinstance(value, str)):
                self.text.append(value or "")
            elif key not in ("role", "obfuscation"):
                merge.put(self.rest, key, value)
        if choice.finish_reason is not None:
            self.finish = choice.finish_reason
        if choice.logprobs is not None:
            self.logprobs = merge.noted(self.logprobs, choice.logprobs, grows=True)


class Fold:
    """An answer so far. `add` chunks of a stream or `whole` one JSON answer, then read."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.created = 0
        self.usage: dict[str, Any] | None = None
        self._choices: dict[int, _Said] = {}
        self._tier: Any = None
        self._fingerprint: Any = None
        self._more: dict[str, Any] = {}
        self._odd = False  # whether the last chunk had fields of its vendor
        self._torn = False  # whether a text may hold half of a character

    @property
    def begun(self) -> bool:
        """Whether anything was said of the answer that becomes history (choice 0)."""
        return 0 in self._choices

    @property
    def finished(self) -> bool:
        """Whether every choice that was seen is whole, choice 0, which becomes history, among them."""
        return self.begun and all(said.finish is not None for said in self._choices.values())

    @property
    def has_text(self) -> bool:
        return 0 in self._choices and any(self._choices[0].text)

    def add(self, payload: bytes) -> bool:
        """Takes one chunk. True: it is nothing but the usage that the proxy asked for. Raises UpstreamBroken."""
        chunk = self._read(payload)
        for choice in chunk.choices or ():
            said = self._choices.get(choice.index) or self._begun(choice.index)
            delta = choice.delta
            plain = delta and len(delta) == 1 and choice.finish_reason is None and choice.logprobs is None
            if plain and type(text := delta.get("content")) is str:
                said.text.append(text)  # most chunks: this is what the hot path costs
            else:
                said.take(choice)
        return chunk.usage is not None and not chunk.choices

    def whole(self, body: bytes) -> None:
        """Takes a non-streamed answer. Raises UpstreamBroken when it is not a chat completion."""
        choices = self._read(body).choices
        if not choices or choices[0].message is None:
            raise UpstreamBroken("the upstream's answer is not a chat completion: it has no choices[0].message")
        given = [choice.index for choice in choices]
        places = given if 0 in given and len(set(given)) == len(given) else range(len(given))  # some do not count them
        for place, choice in zip(places, choices, strict=True):
            said = self._choices.get(place) or self._begun(place)
            said.take(choice)
            said.rest = dict(choice.message or {})

    def _read(self, payload: bytes) -> _Chunk:
        """A chunk or an answer; what stands beside its choices is taken up."""
        try:
            chunk = self._loosely(payload) if self._odd else _decode(payload)
        except _UNREADABLE:
            chunk = self._loosely(payload)
        if chunk.error is not None and all(choice.finish_reason == "error" for choice in chunk.choices or ()):
            raise in_band(chunk.error, payload)
        if not self.id:
            self._name(chunk)
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.service_tier is not None:
            self._tier = chunk.service_tier
        if chunk.system_fingerprint is not None:
            self._fingerprint = chunk.system_fingerprint
        return chunk

    def _name(self, chunk: _Chunk) -> None:
        """Takes up whose answer it is. Some servers begin with a chunk that does not say it."""
        self.id = chunk.id or self.id
        self.model = self.model or chunk.model
        self.created = self.created or int(chunk.created or 0)

    def _begun(self, index: int) -> _Said:
        said = self._choices[index] = _Said()
        return said

    def _loosely(self, payload: bytes) -> _Chunk:
        """What has fields of its vendor, as the next chunk will have, or halves of characters."""
        value = self._value(payload)
        try:
            chunk = msgspec.convert(value, _Chunk)
        except msgspec.ValidationError as exc:
            raise _broken() from exc
        more = _beside(value, _OF_CHUNK)
        self._odd = bool(more)
        self._more = merge.noted(self._more, more, grows=False)
        for choice, given in zip(chunk.choices or (), value.get("choices") or (), strict=True):
            more = _beside(given, _OF_CHOICE)
            if more:
                said = self._choices.get(choice.index) or self._begun(choice.index)
                said.more = merge.noted(said.more, more, grows=True)
                self._odd = True
        return chunk

    def _value(self, payload: bytes) -> Any:
        try:
            return _any(payload)
        except _UNREADABLE:
            pass
        try:  # a lone surrogate, or half of a pair whose other half is in the next chunk
            value = json.loads(payload, parse_constant=_refuse, parse_float=_finite)
        except (ValueError, RecursionError) as exc:
            raise _broken() from exc
        self._torn = True
        return value

    def message(self) -> dict[str, Any]:
        """Choice 0's message, as it becomes history: role, content, and whatever else the upstream sent. Raises
        UpstreamBroken when its types are wrong: what is stored is sent again, and must not spoil the session."""
        out = self._message(self._choices.get(0) or _Said())
        _check(out)
        return {key: value for key, value in out.items() if key in ("role", "content") or value not in (None, [], "")}

    def text_only(self) -> dict[str, Any]:
        """What a client saw of an answer that was cut short: its text, never a piece of a tool call."""
        said = self._choices.get(0) or _Said()
        return {"role": "assistant", "content": merge.settled(merge.Text(said.text), self._torn)}

    def completion(self) -> dict[str, Any]:
        """The answer as a chat.completion object, all choices. What the upstream does not say stands there only where
        the format asks for it."""
        out: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self._choice(n) for n in sorted(self._choices) or (0,)],
        }
        more = {"usage": self.usage, "service_tier": self._tier, "system_fingerprint": self._fingerprint}
        out |= {key: value for key, value in more.items() if value is not None}
        return out | merge.settled(self._more, self._torn)

    def untold(self) -> list[dict[str, Any]]:
        """The choices where the history does not tell all of them: it holds the message of choice 0, which is left out
        here. Empty for one that ended as its message shows and has no logprobs."""
        said = self._choices.get(0) or _Said()
        ended = reason(said.rest)
        if len(self._choices) < 2 and said.logprobs is None and (said.finish or ended) == ended:
            return []
        first = self._choice(0)
        del first["message"]
        return [first, *[self._choice(n) for n in sorted(self._choices) if n]]

    def _choice(self, index: int) -> dict[str, Any]:
        said = self._choices.get(index) or _Said()
        return {
            "index": index,
            "message": self._message(said),
            "logprobs": merge.settled(said.logprobs, torn=True) if self._torn else said.logprobs,
            "finish_reason": said.finish or reason(said.rest),
            **merge.settled(said.more, self._torn),
        }

    def _message(self, said: _Said) -> dict[str, Any]:
        rest = merge.settled(said.rest, self._torn)
        rest.pop("role", None)  # whatever it calls itself: it is sent again as an assistant's
        text = merge.settled(merge.Text(said.text), self._torn)
        given = rest.pop("content", None)
        content = [*given, {"type": "text", "text": text}] if text and isinstance(given, list) else given or text
        calls = rest.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                call.pop("index", None)
                call["type"] = call.get("type") or ("function" if "custom" not in call else "custom")
        audio = rest.get("audio")
        if isinstance(audio, dict) and isinstance(audio.get("data"), str):
            audio["data"] = merge.sound(audio["data"])
        if not content:
            content = None if any(rest.get(key) for key in INSTEAD) else ""
        return {"role": "assistant", "content": content, **rest}


def reason(message: Mapping[str, Any]) -> str:
    """Why an answer ended, as far as its message shows."""
    if message.get("tool_calls"):
        return "tool_calls"
    return "function_call" if message.get("function_call") else "stop"


def _broken() -> UpstreamBroken:
    return UpstreamBroken("the upstream sent something that is not a chat completion chunk")


def _beside(value: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The fields that only the vendor knows. Null says nothing."""
    return {key: item for key, item in value.items() if key not in known and item is not None}


def _check(message: Mapping[str, Any]) -> None:
    content, calls, called = message["content"], message.get("tool_calls"), message.get("function_call")
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    good = (content is None or isinstance(content, str | list)) and all(isinstance(text, str) for text in texts)
    made = [*(calls or ()), *([{"function": called}] if called else ())] if isinstance(calls, list | None) else [None]
    if not (good and all(map(_is_call, made))):
        raise UpstreamBroken("the upstream's message has a content, tool_calls or function_call of a wrong type")


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


def in_band(error: Any, payload: bytes) -> UpstreamError:
    """The failure that an `error` inside a 200 answer tells of; an object goes on to the client as it came. The code is
    ours: logs tell it, and what an upstream says there may be anybody's words."""
    given = error if isinstance(error, dict) else {"message": str(error)}
    message = str(given.get("message") or "the upstream reported an error in mid-answer")
    body = _readable(payload, given) if given is error else None
    status = given.get("code") or given.get("status")
    if isinstance(status, int) and 400 <= status < 600:
        return UpstreamRefused(status, message, body=body, headers={})
    failure = UpstreamBroken(message)
    failure.body = body
    return failure


def _readable(payload: bytes, error: Any) -> bytes:
    """The payload; what cannot be read again, for its halves of characters, as no more than the error."""
    try:
        _any(payload)
    except _UNREADABLE:
        return msgspec.json.encode({"error": merge.settled(error, torn=True)})
    return payload
