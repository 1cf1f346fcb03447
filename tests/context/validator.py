"""OpenAI's rules for the messages of a chat request, as strict as its API checks them. Knows nothing of the product."""

from collections.abc import Iterator, Sequence
from typing import Any

Message = dict[str, Any]

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
PARTS = {
    "system": {"text"},
    "developer": {"text"},
    "tool": {"text"},
    "user": {"text", "image_url", "input_audio", "file"},
    "assistant": {"text", "refusal"},
}
CALLS = {"function": ("name", "arguments"), "custom": ("name", "input")}


def problems(sent: Sequence[Message]) -> list[str]:
    """What an upstream would refuse, each with its place; empty for a list that is valid."""
    out = [] if sent else ["messages: is empty"]
    for n, message in enumerate(sent):
        out += [f"messages[{n}]: {problem}" for problem in _of_one(message)]
    return out + [f"messages[{n}]: {problem}" for n, problem in _of_pairs(sent)]


def _of_one(message: Message) -> Iterator[str]:
    role = message.get("role")
    if role not in ROLES:
        yield f"no role {role!r}"
        return
    calls = message.get("tool_calls")
    yield from _of_content(role, message)
    if role == "tool" and not _text(message.get("tool_call_id")):
        yield "a tool message without tool_call_id"
    if role == "function" and not _text(message.get("name")):
        yield "a function message without a name"
    if role != "assistant" and "tool_calls" in message:
        yield f"tool_calls in a message of {role}"
    if role == "assistant" and "tool_calls" in message:
        yield from _of_calls(calls)


def _of_content(role: str, message: Message) -> Iterator[str]:
    content = message.get("content")
    if content is None:
        others = ("tool_calls", "function_call", "refusal", "audio")
        if role != "assistant" or not any(message.get(key) for key in others):
            yield f"a message of {role} without content"
    elif isinstance(content, list):
        if not content:
            yield "content without parts"
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in PARTS.get(role, set()):
                yield f"a part of type {kind!r} in a message of {role}"
            elif not (isinstance(part.get(kind), str) if kind in ("text", "refusal") else part.get(kind)):
                yield f"a part of type {kind} without {kind}"
    elif not isinstance(content, str):
        yield f"content of type {type(content).__name__}"


def _of_calls(calls: Any) -> Iterator[str]:
    if not isinstance(calls, list) or not calls:
        yield "tool_calls that is no list of calls"
        return
    ids = [call.get("id") for call in calls]
    if not all(map(_text, ids)):
        yield "a call without an id"
    elif len(set(ids)) < len(ids):
        yield "two calls with one id"
    for call in calls:
        kind = call.get("type")
        made = call.get(kind) if kind in CALLS else None
        if not isinstance(made, dict):
            yield f"a call of type {kind!r}"
        elif not all(isinstance(made.get(key), str) for key in CALLS[kind]):
            yield f"a call of type {kind} that lacks one of {CALLS[kind]}"


def _of_pairs(sent: Sequence[Message]) -> Iterator[tuple[int, str]]:
    """Each message with calls is followed at once by one result for each; no result stands anywhere else."""
    owed: set[str] = set()
    answered: set[str] = set()
    for n, message in enumerate(sent):
        if message.get("role") == "tool":
            call = message.get("tool_call_id")
            if call in owed:
                owed.remove(call)
                answered.add(call)
            else:
                yield n, f"a second result for {call!r}" if call in answered else f"a result for {call!r}, no open call"
            continue
        if owed:
            yield n, f"the calls {sorted(owed)} before it have no result"
        if message.get("role") == "function" and not (n and sent[n - 1].get("function_call")):
            yield n, "a function's result that no function_call stands before"
        calls = message.get("tool_calls")
        owed = {call.get("id") for call in calls if isinstance(call, dict)} if isinstance(calls, list) else set()
        answered = set()
    if owed:
        yield len(sent), f"the calls {sorted(owed)} have no result"


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
