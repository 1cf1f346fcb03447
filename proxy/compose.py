"""The request that goes upstream: prices the new messages, adds what the session knows, has the context assembled."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

import msgspec

from proxy import budget, past, remember
from proxy.budget import Scale, Weighed
from proxy.context import placement, prefix, tokens
from proxy.context.assemble import Limits, Material, Plan, assemble
from proxy.context.tokens import Count
from proxy.context.transcript import RESULTS, Piece, marker
from proxy.errors import ContextTooLong, Unavailable
from proxy.introduce import Introduction, introduced
from proxy.ledger import Weight
from proxy.past import Past, Ready
from proxy.recollect import Found
from proxy.remember import Recalled, Sought
from proxy.services import Services, Turn
from proxy.splice import as_sent, splice
from proxy.steering import sent_to
from proxy.store import sessions
from proxy.types import Carried, Instructions, Message, Placement, Sent

THREAD_BYTES = 100_000
"""Above this many bytes of text, counting (about 40 ms a megabyte) leaves the event loop."""

MEDIA = re.compile(rb'"(?:image_url|input_audio|video_url|file)"\s*:')
"""In the JSON of a message with parts that are no text; inside a text the quotes are escaped."""

_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Composed(msgspec.Struct, frozen=True, gc=False):
    """What goes up and what will be stored of it. `new`: the new messages with their tokens; `recalled`: what was found
    for them; `kept_text`: what the turn keeps of it for its tool loop. `scale`: what the upstream was expected to
    count; `carried`: what the turn leaves for the next one; `errors`: the parts that the turn had to do without."""

    body: bytes
    plan: Plan
    weight: Weight
    new: Sequence[Message]
    instructions: Instructions
    cut_key: str
    before_tokens: int
    limits: Limits
    scale: Scale
    recalled: Recalled = Recalled()
    kept_text: bytes | None = None
    carried: Carried = Carried()
    errors: Sequence[str] = ()


NO_PAST = Past((), 0, 0, False)
NOTHING = Recalled()


async def placed(svc: Services, turn: Turn, found: Found) -> tuple[Turn, Composed]:
    """The turn composed for the first of its upstreams whose context takes it. Raises the first's ContextTooLong."""
    try:
        return turn, await compose(svc, turn, found)
    except ContextTooLong as failure:
        for n, target in enumerate(turn.others, 1):
            elsewhere = sent_to(turn, target, turn.others[n:])
            with contextlib.suppress(ContextTooLong):
                return elsewhere, await compose(svc, elsewhere, found)
        raise failure


class _Given(msgspec.Struct, frozen=True, gc=False):
    """What a turn brings and what it is bound to, priced. `tokens`: of the new messages, with what opens the reply."""

    new: Sequence[Message]
    tokens: int
    instructions: Instructions
    tools_tokens: int
    limits: Limits
    scale: Scale
    last: Carried
    count: Count


class _Base(msgspec.Struct, frozen=True, gc=False):
    """What goes up whatever is recalled: the session's own system message, the documents that were found, the summaries
    that are ready, the history to choose from. `room`: what history and recalled text may have of the budget, in raw
    tokens (None: no limit)."""

    given: _Given
    introduction: Introduction
    docs: Sought
    summaries: Ready
    room: int | None
    past: Past = NO_PAST


async def compose(svc: Services, turn: Turn, found: Found, ceiling: int | None = None) -> Composed:
    """`ceiling`: the upstream's tokens that may go up at the most, where it has refused more. Raises ContextTooLong
    when what must be sent does not fit the budget."""
    given = await _given(svc, turn, found, ceiling)
    if turn.options.mode == "observe":
        return await _observed(svc, turn, found, given)
    base = await _base(svc, turn, found, given)
    limits = given.limits
    recalled = await _recalled(svc, turn, found, base, limits)
    base = msgspec.structs.replace(base, past=await _past(svc, turn, found, base, recalled))
    text = await past.resumed(svc, turn, found, base.past)
    if text:
        recalled = remember.again(text, given.count, placement.frame(svc.config.recall.placement))
    base, weighed = await _weighed(svc, turn, found, base, recalled)
    plan = weighed.plan
    if plan.cut > limits.cut and not text:  # what leaves now may be what the question is about
        limits = msgspec.structs.replace(limits, cut=plan.cut, cleared=plan.cleared)
        pieces = past.marked(base.past.pieces, plan.cleared, marker(given.count) if plan.cleared else 0)
        moved = msgspec.structs.replace(base.past, pieces=pieces)
        base = msgspec.structs.replace(base, past=moved, summaries=base.summaries.after(plan.cut))
        recalled = await _recalled(svc, turn, found, base, limits)
        weighed = _fitted(svc, turn, base, limits, recalled)
    return _composed(svc, turn, found, base, _Outcome(weighed, recalled, bool(text)))


async def _given(svc: Services, turn: Turn, found: Found, ceiling: int | None) -> _Given:
    count = await svc.counter()
    new = await _priced(found.new, count)
    last = budget.last(found)
    scale = budget.scale(svc, turn, last)
    return _Given(
        new=new,
        tokens=sum([message.tokens for message in new]) + tokens.REPLY,
        instructions=await _instructions(svc, turn, found, count),
        tools_tokens=await _tools(turn, count),
        limits=await budget.limits(svc, turn, found, ceiling, scale),
        scale=scale,
        last=last,
        count=count,
    )


async def _base(svc: Services, turn: Turn, found: Found, given: _Given) -> _Base:
    docs = await remember.documents(svc, turn, found)
    introduction = Introduction()
    if turn.profile is not None:
        introduction = await introduced(svc, turn, turn.profile, docs.docs, given.count)
    room = given.limits.raw
    if room is not None:
        room -= given.instructions.tokens + given.tools_tokens + given.tokens + introduction.tokens
    return _Base(given, introduction, docs, await past.summarized(svc, turn, found, given.limits), room)


async def _recalled(svc: Services, turn: Turn, found: Found, base: _Base, limits: Limits) -> Recalled:
    """What the new messages call for, within its share of the room."""
    context = svc.config.context
    room = base.room
    if room is not None and limits.strategy == "null" and found.branch is not None:  # history takes what it needs
        room -= found.branch.total if found.fork_at is None else found.fork_total
    share = (
        context.recall_max_tokens if room is None else min(context.recall_max_tokens, int(context.recall_share * room))
    )
    old = await remember.exchanges(svc, turn, found, limits.strategy, limits.cut, share)
    shown = base.docs.docs if base.introduction.shows_docs else ()
    docs = () if shown else base.docs.docs
    recalled = NOTHING
    if docs or old.turns or old.misses:
        frame = placement.frame(svc.config.recall.placement)
        recalled = remember.fitting(docs, share, base.given.count, old, frame)
    return msgspec.structs.replace(
        recalled,
        hits=[*shown, *recalled.hits],
        segments=[*remember.shown(shown).segments, *recalled.segments],
        error=old.error or base.docs.error,
    )


async def _past(svc: Services, turn: Turn, found: Found, base: _Base, recalled: Recalled) -> Past:
    """The history to choose from: as the last turn sent it, else from the store."""
    limits, current = base.given.limits, base.summaries.current
    if turn.options.recall_tools:
        room = base.room
        if room is not None:
            room -= recalled.tokens + (current.tokens if current is not None else 0)
        kept = past.joined(svc, found, budget.cut_key(turn, limits), room, limits)
        if kept is not None:
            return kept
    return await past.read(svc, turn, found, limits, base.given.count)


async def _weighed(svc: Services, turn: Turn, found: Found, base: _Base, recalled: Recalled) -> tuple[_Base, Weighed]:
    """The plan within its budget. A joined history that turns out too large is read, or all of it would leave."""
    limits = base.given.limits
    weighed = _fitted(svc, turn, base, limits, recalled)
    if weighed.plan.cut > limits.cut and any(piece.role == "block" for piece in base.past.pieces):
        read = await past.read(svc, turn, found, limits, base.given.count)
        base = msgspec.structs.replace(base, past=read)
        weighed = _fitted(svc, turn, base, limits, recalled)
    return base, weighed


def _fitted(svc: Services, turn: Turn, base: _Base, limits: Limits, recalled: Recalled) -> Weighed:
    """The plan within its budget, without the recalled text where that does not fit beside what must be sent. What one
    prompt of the conversation taught may make it smaller, but is no reason to refuse it."""
    material, scale, count = _material(svc, turn, base, recalled), base.given.scale, base.given.count
    try:
        return budget.fitted(material, limits, scale.estimate, count)
    except ContextTooLong:
        if not recalled.tokens and scale.drift <= 1.0:
            raise
    material = _material(svc, turn, base, remember.crowded_out(recalled))
    calm = budget.without_drift(scale)
    limits = msgspec.structs.replace(limits, factor=min(limits.factor, calm.least))
    return budget.fitted(material, limits, calm.estimate, count)


def _material(svc: Services, turn: Turn, base: _Base, recalled: Recalled) -> Material:
    given, intro = base.given, base.introduction
    pieces = list(base.past.pieces)
    strip = turn.target.upstream.strip_fields
    raws = [past.replayed(turn, m.raw) if strip else m.raw for m in given.new]
    new = [Piece(m.role, raw, m.tokens, calls=m.calls) for m, raw in zip(given.new, raws, strict=True)]
    where = svc.config.recall.placement
    if recalled.text and where != "system":
        _place([pieces, new], recalled.text, where)
    return Material(
        instructions=b",".join([raw for raw in (intro.raw, given.instructions.raw) if raw]),
        instructions_tokens=intro.tokens + given.instructions.tokens,
        tools_tokens=given.tools_tokens,
        history=pieces,
        before=base.past.before,
        before_tokens=base.past.before_tokens,
        new=new,
        new_tokens=given.tokens,
        detached=base.past.detached,
        recalled_tokens=recalled.tokens,
        recalled=recalled.segments,
        recalled_first=placement.message(recalled.text) if recalled.text and where == "system" else b"",
        current=base.summaries.current,
        prepared=base.summaries.prepared,
    )


def _place(lists: Sequence[list[Piece]], text: str, where: Placement) -> None:
    """Puts the text to the newest user message, wherever that stands."""
    for pieces in reversed(lists):
        for n in reversed(range(len(pieces))):
            if pieces[n].role == "user":
                pieces[n] = msgspec.structs.replace(pieces[n], raw=placement.placed(pieces[n].raw, text, where))
                return


class _Outcome(msgspec.Struct, frozen=True, gc=False):
    """The plan, and the recalled text in it; `resumed`: its user message went up with it before."""

    weighed: Weighed
    recalled: Recalled
    resumed: bool


def _composed(svc: Services, turn: Turn, found: Found, base: _Base, outcome: _Outcome) -> Composed:
    given, plan, recalled = base.given, outcome.weighed.plan, outcome.recalled
    if recalled.tokens and not plan.recall:
        recalled = remember.crowded_out(recalled)
    cut_key = budget.cut_key(turn, given.limits)
    model = turn.target.model or ""
    parts = (turn.fields.get("tools", b""), base.introduction.raw, given.instructions.raw)
    head = prefix.head_key(model, parts)
    history = prefix.history_key(cut_key, plan)
    reused = prefix.reusable(given.last, head, history, outcome.resumed and plan.recall > 0)
    if plan.recall and not outcome.resumed and svc.config.recall.placement == "system":
        reused = min(reused, plan.system + plan.tools + plan.summary)  # all that stands before the text
    answers = bool(given.new) and given.new[0].role in RESULTS
    lasts = not answers or (turn.options.recall_tools and (plan.recall > 0 or not outcome.resumed))
    session = found.session
    return Composed(
        body=splice(turn, plan.messages, turn.name if session is None else session.name or session.uuid),
        plan=plan,
        weight=Weight(outcome.weighed.estimate, min(reused, plan.total)),
        new=given.new,
        instructions=given.instructions,
        cut_key=cut_key,
        before_tokens=base.past.before_tokens,
        limits=given.limits,
        scale=given.scale,
        recalled=recalled,
        kept_text=recalled.text.encode() if recalled.text and not outcome.resumed else None,
        carried=_carried(base, prefix.carried(plan, head, history, model, lasts), found, outcome.weighed),
        errors=_errors(svc, found, plan, recalled),
    )


def _carried(base: _Base, left: Carried, found: Found, weighed: Weighed) -> Carried:
    """What the turn leaves, with what it goes on from the one before."""
    plan = weighed.plan
    last = base.given.last
    media = last.media or any(MEDIA.search(message.raw) for message in base.given.new)
    if not (media or found.left.carried):
        media = MEDIA.search(plan.messages) is not None  # an imported history, or one of before
    ceiling = last.ceiling if last.model == left.model else 0
    return msgspec.structs.replace(left, media=media, ceiling=ceiling, factor=weighed.estimate / plan.total)


def _errors(svc: Services, found: Found, plan: Plan, recalled: Recalled) -> list[str]:
    """The parts that failed, of which the turn does without. Raises Unavailable where that is not wanted: a summary is
    then tried again by the first turn after its pause."""
    errors = [recalled.error] if recalled.error is not None else []
    failed = None
    if plan.to_summarize is not None and found.session is not None:
        failed = svc.summaries.failure(found.session.id)
    if failed is not None:
        if svc.config.sessions.fail_closed:
            raise Unavailable(
                f"the summary of what this session left out could not be made ({failed}), and sessions.fail_closed is "
                "on; send it again, or use context_overflow truncate",
                code="summary_failed",
                headers={"Retry-After": "5"},
            )
        errors.append(f"summary: {failed}")
    return errors


async def _observed(svc: Services, turn: Turn, found: Found, given: _Given) -> Composed:
    """Forwarded as sent: no budget applies, nothing is left out, and the plan tells what goes up."""
    material = Material(
        instructions=given.instructions.raw if turn.system is not None else b"",
        instructions_tokens=given.instructions.tokens if turn.system is not None else 0,
        tools_tokens=given.tools_tokens,
        history=await past.price_of(svc, turn, found),
        before=0,
        before_tokens=0,
        new=(),
        new_tokens=given.tokens,
    )
    limits = Limits(None, "observe", 0, 1.0)
    plan = assemble(material, limits, given.count)
    weight = Weight(given.scale.estimate(plan), 0)
    body = splice(turn, as_sent(turn))
    return Composed(body, plan, weight, given.new, given.instructions, "", 0, limits, given.scale)


async def reprice(svc: Services, turn: Turn, found: Found, composed: Composed) -> Composed:
    """The same turn after others were stored meanwhile: what is new in it by now."""
    count = await svc.counter()
    known = await _instructions(svc, turn, found, count)
    return msgspec.structs.replace(composed, new=await _priced(found.new, count), instructions=known)


P = ParamSpec("P")
R = TypeVar("R")


async def priced(size: int, price: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `price`, which costs in proportion to `size` bytes, gives; in a thread where that is much."""
    if size > THREAD_BYTES:
        return await asyncio.to_thread(price, *args, **kwargs)
    return price(*args, **kwargs)


async def _priced(new: Sequence[Sent], count: Count) -> list[Message]:
    return await priced(sum([len(message.raw) for message in new]), _price, new, count)


async def _tools(turn: Turn, count: Count) -> int:
    """The raw tokens of the request's tools."""
    given = turn.fields.get("tools", b"null")
    if given == b"null":
        return 0
    return await priced(len(given), tokens.of_tools, [bytes(item) for item in _items(given)], count)


def _price(new: Iterable[Sent], count: Count) -> list[Message]:
    return [Message(m.role, m.raw, m.digest, tokens.of_message(m.value, count), len(m.calls)) for m in new]


async def _instructions(svc: Services, turn: Turn, found: Found, count: Count) -> Instructions:
    """The request's own instructions, else those in force; an empty message clears them."""
    if turn.system is None:
        return found.instructions
    values = [msgspec.json.decode(raw) for raw in turn.system]
    if not any(value.get("content") for value in values):
        return Instructions()
    raw = b",".join(turn.system)
    if found.session is not None:
        known = await sessions.same_instructions(svc.db, turn.scope, found.session.id, raw)
        if known is not None:
            return known
    return Instructions(raw, sum(tokens.of_message(value, count) for value in values))
