"""Conversations of others -> the lines of a session: OpenAI message lists and Julep histories. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from proxy.archive import lines
from proxy.archive.lines import AnyLine, embedded, shown
from proxy.context import tokens
from proxy.context.tokens import Count
from proxy.context.transcript import call_ids
from proxy.errors import BadRequest
from proxy.types import INSTRUCTIONS, Status

_encode = msgspec.json.encode

Read = tuple[bytes, dict[str, Any]]
Check = Callable[[bytes], Sequence[Read]]
"""A JSON list of messages -> each as its raw JSON and parsed. Raises BadRequest naming the message."""


class Making(msgspec.Struct, frozen=True, gc=False):
    """What a session is made with: its UUID and name, the time (epoch ms), the reader of messages, the counter."""

    uuid: str
    name: str | None
    now: int
    check: Check
    count: Count


class Said(msgspec.Struct, frozen=True):
    """A message with what its list tells beside it."""

    raw: bytes
    value: dict[str, Any]
    at: datetime | None = None
    status: Status = "complete"
    model: str = ""


def of_messages(raw: bytes, making: Making) -> Iterator[AnyLine]:
    """A session of a list of messages, given as JSON. Leading system and developer messages become its instructions.
    Raises BadRequest naming the message that is wrong."""
    return _session([Said(*one) for one in making.check(raw)], making)


def of_history(entries: Sequence[Any], making: Making) -> Iterator[AnyLine]:
    """A session of the entries of a Julep history: texts become strings, `created_at` stays."""
    if not all(isinstance(entry, dict) for entry in entries):
        raise BadRequest("entries must be a list of objects")
    read = making.check(_encode([_message(entry) for entry in entries]))
    said = [Said(*one, *_beside(n, entry)) for n, (one, entry) in enumerate(zip(read, entries, strict=True))]
    return _session(said, making)


def _message(entry: Mapping[str, Any]) -> dict[str, Any]:
    content = entry.get("content")
    if isinstance(content, list):
        content = [{"type": "text", **part} if _is_text(part) else part for part in content]
        if len(content) == 1 and _is_text(content[0]):
            content = content[0]["text"]
    message = {"role": entry.get("role"), "content": content or (None if entry.get("tool_calls") else "")}
    rest = {key: entry[key] for key in ("name", "tool_calls", "tool_call_id") if entry.get(key) is not None}
    return message | rest


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text"


def _beside(n: int, entry: Mapping[str, Any]) -> tuple[datetime | None, Status, str]:
    """When it was said, whether it is whole, and which model said it."""
    try:
        at = msgspec.convert(entry.get("created_at"), datetime | None)
    except msgspec.ValidationError:
        raise BadRequest(f"entries[{n}].created_at must be a time, as 2026-01-31T12:00:00Z") from None
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    short = entry.get("status") == "incomplete" and entry.get("role") == "assistant"
    model = entry.get("model")
    return at, "incomplete" if short else "complete", model if isinstance(model, str) else ""


def _session(said: Sequence[Said], making: Making) -> Iterator[AnyLine]:
    lead = next((n for n, one in enumerate(said) if one.value["role"] not in INSTRUCTIONS), len(said))
    standing = [one for one in said[:lead] if any(each.value.get("content") for each in said[:lead])]
    turns = _turns(_in_call_order(said[lead:]))
    now, instructions = shown(making.now), 1 if standing else None
    yield lines.SessionLine(
        version=lines.VERSION, uuid=making.uuid, name=making.name, created_at=now, updated_at=now, token_budget=None,
        overflow=None, branch=1, branches=1, turns=len(turns), agents=[], users=[], settings=lines.NULL,
    )  # fmt: skip
    if standing:
        raw = b"[" + b",".join(one.raw for one in standing) + b"]"
        price = sum(tokens.of_message(one.value, making.count) for one in standing)
        yield lines.InstructionsLine(1, price, embedded(raw))
    yield lines.BranchLine(1, None, 0, len(said) - lead, 0, "", instructions, now)
    seq = 0
    for number, turn in enumerate(turns, 1):
        model = next((one.model for one in turn if one.value["role"] == "assistant"), "")
        ledger = Raw(b"{}")
        yield lines.TurnLine(number, 1, turn[-1].status, model, instructions, "import", now, lines.NULL, ledger)
        for one in turn:
            seq += 1
            price = tokens.of_message(one.value, making.count)
            yield lines.EntryLine(number, seq, one.status, price, one.at, embedded(one.raw))
    yield lines.EndLine(making.uuid)


def _turns(said: Sequence[Said]) -> list[list[Said]]:
    """A turn begins where somebody speaks after another role did: the history is cut between turns later on."""
    turns: list[list[Said]] = []
    before = ""
    for one in said:
        role = one.value["role"]
        if not turns or (role == "user" and before != "user"):
            turns.append([])
        turns[-1].append(one)
        before = role
    return turns


def _in_call_order(said: Sequence[Said]) -> list[Said]:
    """The results of each group in the order of its calls, as turns store them. Raises BadRequest for one that answers
    none of the last group."""
    out: list[Said] = []
    run: list[Said] = []
    calls: tuple[str, ...] = ()
    for one in said:
        if one.value["role"] == "tool":
            if one.value["tool_call_id"] not in calls:
                raise BadRequest(
                    f"a result answers the tool call {one.value['tool_call_id'][:64]!r}, which the messages before it "
                    "do not make"
                )
            run.append(one)
            continue
        out += sorted(run, key=lambda result: calls.index(result.value["tool_call_id"]))
        run = []
        out.append(one)
        calls = (call_ids(one.raw) if one.value.get("tool_calls") else ()) or calls
    return out + sorted(run, key=lambda result: calls.index(result.value["tool_call_id"]))
