"""A stored answer again, for a retry. Pure: a chat.completion in, the bytes of a stream out."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.upstream import wire

_encode = msgspec.json.encode


def as_stream(completion: bytes, wants_usage: bool) -> bytes:
    """One chunk with what all choices say, one with their ends, usage if asked for; without [DONE]."""
    whole = _decoded(completion)
    head = {key: value for key, value in whole.items() if key not in ("choices", "usage") and value is not None}
    head["object"] = "chat.completion.chunk"
    choices = [choice for choice in whole.get("choices") or () if isinstance(choice, dict)]
    events = [head | {"choices": [_said(c) for c in choices]}, head | {"choices": [_end(c) for c in choices]}]
    if wants_usage and whole.get("usage") is not None:
        events.append(head | {"choices": [], "usage": whole["usage"]})
    return b"".join([wire.event(_encode(event)) for event in events])


def _decoded(completion: bytes) -> Any:
    try:
        return msgspec.json.decode(completion)
    except msgspec.DecodeError:  # half of a surrogate pair: U+FFFD in its place
        text = json.dumps(json.loads(completion), ensure_ascii=False)
        return msgspec.json.decode(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _said(choice: Mapping[str, Any]) -> dict[str, Any]:
    out = {"index": choice.get("index", 0), "delta": _delta(choice.get("message") or {}), "finish_reason": None}
    return out if choice.get("logprobs") is None else out | {"logprobs": choice["logprobs"]}


def _end(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever else stands beside the message comes with the end."""
    more = {key: value for key, value in choice.items() if key not in ("index", "message", "logprobs", "finish_reason")}
    return {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason")} | more


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    """The message as one delta. Its calls get the `index` that streams have."""
    calls = message.get("tool_calls")
    if not calls or not isinstance(calls, list):
        return message
    return message | {"tool_calls": [{**call, "index": n} for n, call in enumerate(calls) if isinstance(call, dict)]}
