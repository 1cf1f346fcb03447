"""A message stored without a model's answer: a turn of its own, in the session's queue."""

from typing import Any

import msgspec

from proxy.compose import priced
from proxy.context import tokens
from proxy.context.transcript import call_ids
from proxy.errors import BadRequest
from proxy.reconcile import digest
from proxy.services import Services, epoch_ms
from proxy.store import entries, sessions, turns
from proxy.store.branches import chain, line_of
from proxy.store.history import Told
from proxy.store.settings import missing
from proxy.types import Instructions, Message, Scope


class Given(msgspec.Struct, frozen=True, gc=False):
    """The message as JSON and parsed, when it was said (epoch ms; None: now), and the id of the request."""

    raw: bytes
    value: dict[str, Any]
    said_at: int | None
    request_id: str


async def add(svc: Services, scope: Scope, name: str, given: Given) -> tuple[str, Told]:
    """Appends it to the current branch; gives the session's UUID and the message as stored. Raises NotFound, or
    BadRequest for a result that answers no known call."""
    named = await sessions.find(svc.db, scope, name)
    if named is None:
        raise missing()
    key = scope.line(named[0].name or named[0].uuid)
    async with svc.queue.turn(key):
        found = await sessions.find(svc.db, scope, named[0].uuid)
        if found is None:
            raise missing()
        number = svc.numbers.promise(key, found[0].turns)
        try:
            return found[0].uuid, await _append(svc, scope, found, given, number)
        finally:
            svc.numbers.release(key, number)


async def _append(svc: Services, scope: Scope, found: sessions.Found, given: Given, number: int) -> Told:
    session, branch = found
    count = await svc.counter()
    price = await priced(len(given.raw), tokens.of_message, given.value, count)
    mark = digest(given.value, await _position(svc, scope, found, given.value))
    made = len(call_ids(given.raw)) if given.value.get("tool_calls") else 0
    message = Message(given.value["role"], given.raw, mark, price, made, said_at=given.said_at)
    now = epoch_ms()
    record = turns.Record(
        uuid=session.uuid,
        name=session.name or session.uuid,
        session=session,
        branch=branch,
        fork_at=None,
        fork_total=0,
        number=number,
        messages=[message],
        instructions=Instructions(id=branch.instructions),
        cut=branch.cut,
        cut_key=branch.cut_key,
        carried=branch.carried,
        status="complete",
        model="",
        request_id=given.request_id,
        ledger=b"{}",
        usage=None,
        key="",
        request=b"",
        answer=b"",
        now=now,
    )
    await turns.append(svc.db, scope, record)
    at = now if given.said_at is None else given.said_at
    return Told(branch.number, branch.head + 1, message.role, given.raw, price, made, "complete", at, "")


async def _position(svc: Services, scope: Scope, found: sessions.Found, value: dict[str, Any]) -> int:
    """Which call of the last stored group a result answers."""
    if value["role"] != "tool":
        return 0
    session, branch = found
    every = await chain(svc.db, scope, session.id, branch)
    last = await entries.last_calls(svc.db, scope, session.id, line_of(every, branch))
    calls = call_ids(last.raw) if last is not None else ()
    if value["tool_call_id"] not in calls:
        raise BadRequest(
            "tool_call_id names no call of the last stored group; store the assistant message with the call first",
            param="tool_call_id",
        )
    return calls.index(value["tool_call_id"])
