"""A session's turns: the list of them, what each one answered, and what it sent and why."""

from typing import Any

import msgspec

from proxy.edge import body
from proxy.edge.julep import branch_shapes as shapes
from proxy.edge.julep.branches import number_of
from proxy.edge.julep.times import shown
from proxy.edge.operation import Ask
from proxy.store import choices, ledgers, sessions
from proxy.store.choices import Answer
from proxy.store.ledgers import Told
from proxy.store.settings import missing
from proxy.upstream.fold import reason

_encode = msgspec.json.encode
_list = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


class _Ledger(msgspec.Struct, frozen=True, gc=False):
    """What the list tells of a ledger; its segments are not read. An imported or an old one may lack any of it."""

    strategy: Any = None
    total: Any = None
    estimate: Any = None
    budget: Any = None
    prefix: Any = None


class _Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    prompt_tokens_details: Any = None


async def page(ask: Ask) -> shapes.Turns:
    """List the turns of all branches, the newest first."""
    session = await _session(ask)
    read = ledgers.newest if ask.query.direction == "desc" else ledgers.oldest
    found = await read(ask.svc.db, ask.who, session, ask.query.limit, ask.query.offset)
    return shapes.Turns(items=[_item(told) for told in found])


async def get(ask: Ask) -> bytes:
    """Show a turn with all choices of its answer. Choice 0 is the one that became history."""
    session = await _session(ask)
    told = await ledgers.of_turn(ask.svc.db, ask.who, session, number_of(ask.path["turn"], ledgers.unknown))
    answer = await choices.of_turn(ask.svc.db, ask.who, session, told.turn)
    return body.joined(body.fields(_encode(_item(told))) | {"choices": _encode(_choices(told, answer))})


def _choices(told: Told, answer: Answer) -> list[dict[str, Any]]:
    """As they came; where only the message is kept, as it tells."""
    if answer.message is None:
        return []
    first = {"index": 0, "message": msgspec.Raw(answer.message)}
    if answer.choices is not None:
        kept, *others = _list(answer.choices)
        return [first | kept, *others]
    ended = None if told.status == "incomplete" else reason(msgspec.json.decode(answer.message))
    return [first | {"logprobs": None, "finish_reason": ended}]


async def context(ask: Ask) -> bytes:
    """Show what a turn sent and why: its ledger as it was stored, the model server's usage, the recalled text."""
    session = await _session(ask)
    told = await ledgers.of_turn(ask.svc.db, ask.who, session, number_of(ask.path["turn"], ledgers.unknown))
    ours = {
        "status": told.status,
        "model": told.model or None,
        "created_at": shown(told.created_at),
        "recalled": None if told.recalled is None else told.recalled.decode("utf-8", "replace"),
    }
    fields = {"turn": _encode(told.turn), "branch": _encode(told.branch), **body.fields(told.ledger)}
    fields |= {key: _encode(value) for key, value in ours.items()}
    return body.joined(fields | {"usage": told.usage or b"null"})


async def _session(ask: Ask) -> int:
    """The session's number. Raises NotFound."""
    found = await sessions.find(ask.svc.db, ask.who, ask.path["id"])
    if found is None:
        raise missing()
    return found[0].id


def _item(told: Told) -> shapes.TurnItem:
    ledger = msgspec.json.decode(told.ledger, type=_Ledger)
    usage = _usage(told.usage)
    details = usage.prompt_tokens_details
    return shapes.TurnItem(
        turn=told.turn,
        branch=told.branch,
        status=told.status,
        model=told.model or None,
        request_id=told.request_id,
        created_at=shown(told.created_at),
        messages=told.messages,
        tokens=shapes.TurnTokens(
            total=_count(ledger.total),
            estimate=_count(ledger.estimate),
            budget=_count(ledger.budget),
            prefix=_count(ledger.prefix),
            cached=_count(details.get("cached_tokens")) if isinstance(details, dict) else None,
            prompt=_count(usage.prompt_tokens),
            completion=_count(usage.completion_tokens),
        ),
        strategy=ledger.strategy if isinstance(ledger.strategy, str) else None,
    )


def _usage(raw: bytes | None) -> _Usage:
    """The upstream's usage, which may be anything."""
    try:
        return _Usage() if raw is None else msgspec.json.decode(raw, type=_Usage)
    except msgspec.ValidationError:
        return _Usage()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
