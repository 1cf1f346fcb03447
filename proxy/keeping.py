"""Storing a turn: once, wholly, and to the end even when the task that asked for it is cancelled."""

import re

import msgspec

from proxy import budget, completion, recollect
from proxy.compose import Composed, priced, reprice
from proxy.context import calibrate, tokens
from proxy.context.transcript import call_ids
from proxy.errors import StoredUnsynced
from proxy.forwarded import Block
from proxy.ledger import ledger
from proxy.past import replayed
from proxy.recollect import Found
from proxy.reconcile import digest
from proxy.services import Services, Turn, epoch_ms
from proxy.settled import settled
from proxy.store import sessions, turns
from proxy.summarize import Wanted
from proxy.telemetry.metrics import Told
from proxy.types import Line, Message, Status
from proxy.upstream.fold import Fold

_encode = msgspec.json.encode

SPOKEN = b'"audio":'
"""In the JSON of an answer that was spoken; inside a text the quotes are escaped."""


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A turn on its way into the store: where it stands, what was composed, the session's UUID and the
    name its turns queue under, the turn's number. `taught`: what a refusal said of the model, to be stored."""

    at: Found
    composed: Composed
    uuid: str
    name: str
    number: int
    taught: bytes | None = None

    def key(self, turn: Turn) -> Line:
        return turn.scope.line(self.name)


async def keep(svc: Services, turn: Turn, kept: Kept, fold: Fold, body: bytes | None) -> int:
    """Stores the whole turn and returns its branch. `body`: the answer as it came, if it was one JSON object."""
    if not turn.options.save:
        return kept.at.branch_number
    reply = await _reply(svc, _signed(turn, fold.message()), "complete")
    answer = body if body is not None else _encode(fold.completion())
    return await _append(svc, turn, kept, reply, fold, answer)


async def keep_cut_short(svc: Services, turn: Turn, kept: Kept, fold: Fold) -> None:
    """Stores the new messages and the text that was sent before the answer broke off; nothing if there was none."""
    if turn.options.save and fold.has_text:
        reply = await _reply(svc, _signed(turn, fold.text_only()), "incomplete")
        await _append(svc, turn, kept, reply, fold, b"")


def speaker(turn: Turn) -> str | None:
    """In a session of several agents, the name of the one who answers, in the form that OpenAI's API takes: without
    white space, angle brackets, slashes and bars."""
    profile = turn.profile
    if profile is None or profile.active is None or len(profile.agents) < 2:
        return None
    return re.sub(r"[\s<|\\/>]+", "_", profile.active.fields.name)[:64]


def _signed(turn: Turn, value: dict[str, object]) -> dict[str, object]:
    name = speaker(turn)
    return value if name is None else {**value, "name": name}


async def _reply(svc: Services, value: dict[str, object], status: Status) -> Message:
    count = await svc.counter()
    raw = _encode(value)
    made = len(call_ids(raw)) if value.get("tool_calls") else 0
    price = await priced(len(raw), tokens.of_message, value, count)
    return Message("assistant", raw, digest(value), price, made, status)


async def _append(svc: Services, turn: Turn, kept: Kept, reply: Message, fold: Fold, answer: bytes) -> int:
    if turn.options.mode == "observe":
        return await settled(_append_observed(svc, turn, kept, reply, fold, answer))
    return await settled(_stored(svc, turn, kept, reply, fold, answer))


async def _stored(svc: Services, turn: Turn, kept: Kept, reply: Message, fold: Fold, answer: bytes) -> int:
    """The commit, and what follows from it in memory whether or not anybody still waits."""
    record = await _completed(turn, _record(svc, turn, kept, reply, fold, answer))
    key = kept.key(turn)
    try:
        session, branch = await turns.append(svc.db, turn.scope, record)
    except StoredUnsynced:
        svc.failed.clear(key)  # it is in the store: its retry gets it
        raise
    svc.failed.clear(key)
    other = turn.options.mode == "observe" or not turn.options.recall_tools  # what went up is not the history
    svc.forwarded.put(session, branch, None if other else _block(turn, kept, record, record.messages[-1]))
    svc.metrics.turn(_told(kept, record, fold.usage))
    for error in kept.composed.errors:
        svc.metrics.session_error(error.partition(":")[0])
    wanted = to_summarize(turn, kept)
    if wanted is not None:
        svc.summaries.start(wanted)
    return branch


async def _append_observed(svc: Services, turn: Turn, kept: Kept, reply: Message, fold: Fold, answer: bytes) -> int:
    """Observed turns run at once and reconcile here, in the queue. Their answer is delivered: they wait as long as any
    turn can run."""
    async with svc.queue.turn(kept.key(turn), turn.target.upstream.total_timeout_s):
        turn = await recollect.with_tenant(svc, turn)
        found = await sessions.find(svc.db, turn.scope, turn.name)
        earlier = None if found is None else await recollect.answered(svc, turn, found[0], kept.key(turn))
        if earlier is not None:
            return earlier.branch
        at = await recollect.find(svc, turn, found)
        kept = msgspec.structs.replace(kept, at=at, composed=await reprice(svc, turn, at, kept.composed))
        return await _stored(svc, turn, kept, reply, fold, answer)


def to_summarize(turn: Turn, kept: Kept) -> Wanted | None:
    """The summary that the turn asks for; None when it needs none."""
    upto, session = kept.composed.plan.to_summarize, kept.at.session
    if upto is None or session is None:
        return None
    return Wanted(
        scope=turn.scope,
        target=turn.target,
        client=turn.client,
        session=session.id,
        line=kept.at.line,
        upto=upto,
        budget=kept.composed.limits.raw,
        request_id=turn.request_id,
    )


def _told(kept: Kept, record: turns.Record, usage: dict[str, object] | None) -> Told:
    """What /metrics counts of a stored turn."""
    composed = kept.composed
    plan, recalled = composed.plan, composed.recalled
    return Told(
        strategy=plan.strategy,
        complete=record.status == "complete",
        system=plan.system,
        tools=plan.tools,
        summary=plan.summary,
        history=plan.history,
        recall=plan.recall,
        new=plan.new,
        prefix=composed.weight.reused,
        dropped=plan.dropped,
        cleared=plan.markers,
        recalled_docs=len(recalled.hits),
        recalled_turns=recalled.turns,
        estimate=composed.weight.estimate,
        usage=usage,
    )


def _block(turn: Turn, kept: Kept, record: turns.Record, reply: Message) -> Block | None:
    """The history that the next turn of this branch can send as it is; None while a call waits for its result."""
    plan, new = kept.composed.plan, kept.composed.new
    if plan.open_ended or reply.calls or any(message.calls or message.role == "tool" for message in new):
        return None
    head = kept.at.fork_at if kept.at.fork_at is not None else kept.at.branch.head if kept.at.branch else 0
    first = plan.cut or 1
    raws = [plan.past, *[replayed(turn, message.raw) for message in (*new, reply)]]
    if any(SPOKEN in raw for raw in raws):
        return None  # it is replaced by its transcript one day
    return Block(
        last_turn=record.number,
        cut_key=record.cut_key,
        first=first,
        count=head + len(new) + 1 - first + 1,
        tokens=plan.history + sum([message.tokens for message in new]) + reply.tokens,
        before_tokens=kept.composed.before_tokens + plan.left_tokens,
        has_user=plan.has_user or any(message.role == "user" for message in new),
        raw=b",".join([part for part in raws if part]),
        cleared=plan.markers,
        saved=plan.saved,
    )


def _record(svc: Services, turn: Turn, kept: Kept, reply: Message, fold: Fold, answer: bytes) -> turns.Record:
    at, composed = kept.at, kept.composed
    plan = composed.plan
    learnt, drift = _learnt(svc, turn, kept, fold)
    return turns.Record(
        uuid=kept.uuid,
        name=turn.name,
        session=at.session,
        branch=at.branch,
        fork_at=at.fork_at,
        fork_total=at.fork_total,
        number=kept.number,
        messages=[*composed.new, reply],
        instructions=composed.instructions,
        cut=plan.cut,
        cut_key=composed.cut_key,
        status=reply.status,
        model=turn.target.model or "",
        request_id=turn.request_id,
        ledger=_encode(ledger(kept.number, at.branch_number, plan, composed.weight)),
        usage=None if fold.usage is None else _encode(fold.usage),
        key=turn.key,
        request=turn.request,
        answer=answer,
        now=epoch_ms(),
        carried=_encode(msgspec.structs.replace(composed.carried, drift=drift)),
        recalled=composed.kept_text,
        learnt=learnt,
        choices=_choices(fold) if reply.status == "complete" else None,
    )


async def _completed(turn: Turn, record: turns.Record) -> turns.Record:
    """The record with the whole answer as a stored completion, where the request asks for one."""
    if turn.storing is None or not record.answer:
        return record
    given = completion.Given(turn.fields, turn.storing, turn.request_id, epoch_ms(), turn.target.model or "")
    size = len(record.answer) + len(turn.fields["messages"])
    return msgspec.structs.replace(record, completion=await priced(size, completion.made, given, record.answer))


def _choices(fold: Fold) -> bytes | None:
    untold = fold.untold()
    return _encode(untold) if untold else None


def _learnt(svc: Services, turn: Turn, kept: Kept, fold: Fold) -> tuple[turns.Calibrated | None, float]:
    """What the upstream's count teaches about the model, where that is to be stored, and about this conversation."""
    scale = kept.composed.scale
    upstream, model = turn.target.upstream.name, turn.target.model or ""
    state, drift = kept.taught, scale.drift
    counted = fold.usage.get("prompt_tokens") if fold.usage is not None else None
    if type(counted) is int and counted > 0:
        seen = budget.sample(kept.composed.plan)
        if not kept.composed.carried.media:  # their prices are guesses, and no fault of the model's way of counting
            state = svc.calibration.learn(upstream, model, seen, counted) or state
        drift = calibrate.drift(svc.calibration.of(upstream, model), seen, counted)
    return None if state is None else turns.Calibrated(upstream, model, state), drift
