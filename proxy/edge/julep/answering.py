"""A turn's answer in OpenAI's form -> Julep's, or its chunks: without [DONE], at which Julep's SDK breaks."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, cast, get_args

import msgspec

from proxy.edge.julep import chat_shapes as shapes
from proxy.edge.julep.docs import references
from proxy.edge.julep.shapes import Finish
from proxy.edge.julep.times import derived, shown
from proxy.errors import UpstreamBroken
from proxy.events import Begin, Chunk, End, Event
from proxy.services import Turn
from proxy.upstream import wire

_encode = msgspec.json.encode
_SILENT: Sequence[dict[str, Any]] = ({},)
"""The choices of a chunk without any, as that of the usage: Julep's clients read choices[0] of every chunk."""
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What all parts of one answer share."""

    id: str
    created_at: datetime
    docs: list[Any]
    name: str | None


def frame(turn: Turn, begin: Begin) -> Frame:
    """`id` is derived from session and turn: a repeated answer has the id of the first one."""
    id = derived(begin.uuid, "answer", begin.number if begin.number is not None else turn.request_id)
    return Frame(id, shown(turn.now), references(begin.docs), begin.speaker)


async def translated(turn: Turn, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The same events with Julep's bytes in them."""
    common: Frame | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Begin):
                common = frame(turn, event)
                yield event
            elif common is None:
                raise UpstreamBroken("the answer began without its head")
            elif isinstance(event, Chunk):
                out = chunks(event.data, common)
                if out:
                    yield Chunk(out)
            else:
                yield End(chunks(event.data, common) if turn.stream else _encode(whole(event.data, common)))


def chunks(data: bytes, common: Frame) -> bytes:
    """Whole events in Julep's form."""
    out = []
    for raw in wire.payloads(data):
        if raw == b"[DONE]":
            continue
        value = msgspec.json.decode(raw)
        if isinstance(value, dict) and "choices" in value:
            out.append(wire.event(_encode(_chunk(value, common))))
    return b"".join(out)


def _chunk(value: dict[str, Any], common: Frame) -> shapes.ChatChunk:
    return shapes.ChatChunk(
        id=common.id,
        created_at=_made(value, common),
        docs=common.docs,
        jobs=[],
        choices=[_part(choice, common) for choice in _objects(value["choices"]) or _SILENT],
        usage=_usage(value.get("usage")) if value.get("usage") else None,
    )


def _part(choice: dict[str, Any], common: Frame) -> shapes.ChunkChoice:
    given = choice.get("delta")
    delta = given if isinstance(given, dict) else {}
    return shapes.ChunkChoice(
        index=_index(choice),
        delta=shapes.Delta(
            role=str(delta.get("role") or "assistant"),
            content=_content(delta.get("content")),
            name=common.name,
            tool_calls=[_piece(call) for call in _objects(delta.get("tool_calls"))] or None,
        ),
        finish_reason=_finish(choice.get("finish_reason")),
        logprobs=_object(choice.get("logprobs")),
    )


def _piece(call: dict[str, Any]) -> dict[str, Any]:
    """A part of a call, with a name, be it empty: Julep's clients take a function without one for something else."""
    function = _object(call.get("function"))
    if function is None or function.get("name") is not None:
        return call
    return {**call, "function": {**function, "name": ""}}


def whole(data: bytes, common: Frame) -> shapes.ChatResponse:
    """The whole answer in Julep's form."""
    value = msgspec.json.decode(data)
    return shapes.ChatResponse(
        id=common.id,
        created_at=_made(value, common),
        jobs=[],
        docs=common.docs,
        usage=_usage(value.get("usage")),
        choices=[_choice(choice, common, _made(value, common)) for choice in _objects(value.get("choices"))],
    )


def _choice(choice: dict[str, Any], common: Frame, made: datetime) -> shapes.Choice:
    message = _object(choice.get("message")) or {}
    calls = _objects(message.get("tool_calls")) or None
    return shapes.Choice(
        index=_index(choice),
        finish_reason=_finish(choice.get("finish_reason")) or "stop",
        logprobs=_object(choice.get("logprobs")),
        tool_calls=calls,
        message=shapes.ReplyMessage(
            id=derived(common.id, _index(choice)),
            created_at=made,
            role=str(message.get("role") or "assistant"),
            content=_content(message.get("content")),
            name=common.name,
            tool_call_id=None,
            tool_calls=calls,
        ),
    )


def _made(value: dict[str, Any], common: Frame) -> datetime:
    """When the model answered, where it says so: a repeated answer then shows the time of the first one."""
    created = value.get("created")
    return shown(created * 1000) if isinstance(created, int) and 0 < created < 1 << 32 else common.created_at


def _usage(given: Any) -> shapes.Usage:
    counts = given if isinstance(given, dict) else {}
    return shapes.Usage(**{key: counts[key] for key in _USAGE if isinstance(counts.get(key), int)})


def _finish(given: Any) -> Finish | None:
    """Julep knows four reasons; what a vendor made up beside them is an end like any other."""
    if given is None:
        return None
    if given == "function_call":
        return "tool_calls"
    return cast(Finish, given) if given in get_args(Finish) else "stop"


def _content(given: Any) -> str | list[Any] | None:
    return given if given is None or isinstance(given, str | list) else str(given)


def _object(given: Any) -> dict[str, Any] | None:
    return given if isinstance(given, dict) else None


def _objects(given: Any) -> list[dict[str, Any]]:
    return [item for item in given if isinstance(item, dict)] if isinstance(given, Sequence) else []


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0
