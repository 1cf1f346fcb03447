"""A stored answer again, for a retry. Pure: a chat.completion in, the bytes of a stream out."""

import json
from typing import Any

import msgspec

from proxy.upstream import wire

_encode = msgspec.json.encode


def as_stream(completion: bytes, wants_usage: bool) -> bytes:
    """One content chunk, the finish, usage if asked for; without [DONE]."""
    whole = _decoded(completion)
    head = {
        key: whole.get(key) for key in ("id", "created", "model", "system_fingerprint") if whole.get(key) is not None
    }
    head["object"] = "chat.completion.chunk"
    choices = whole.get("choices") or []
    said = [
        {"index": c.get("index", 0), "delta": _delta(c.get("message") or {}), "finish_reason": None} for c in choices
    ]
    ends = [{"index": c.get("index", 0), "delta": {}, "finish_reason": c.get("finish_reason")} for c in choices]
    events = [head | {"choices": said}, head | {"choices": ends}]
    if wants_usage and whole.get("usage") is not None:
        events.append(head | {"choices": [], "usage": whole["usage"]})
    return b"".join(wire.event(_encode(event)) for event in events)


def _decoded(completion: bytes) -> Any:
    try:
        return msgspec.json.decode(completion)
    except msgspec.DecodeError:  # half of a surrogate pair: U+FFFD in its place
        text = json.dumps(json.loads(completion), ensure_ascii=False)
        return msgspec.json.decode(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    return message | {"tool_calls": [{"index": n, **call} for n, call in enumerate(calls)]}
