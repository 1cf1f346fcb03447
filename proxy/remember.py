"""What a turn's question needs beside the history: documents, and old exchanges that left the window; as many of them
as their share of the budget holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from proxy import recollect
from proxy.context import placement
from proxy.context.tokens import Count
from proxy.errors import BadRequest, ProxyError
from proxy.recall import exchange, query, search, turns
from proxy.recall.turns import Old
from proxy.recollect import Found
from proxy.resources import Hit, Profile
from proxy.services import Services, Turn
from proxy.store import docs, entries, facets
from proxy.telemetry.log import defect

SPEAKERS = ("user", "assistant")
MOST = 40
"""Old exchanges that one search gives."""
SHORTENED = 200
"""Words of an old exchange that count when it is estimated how many fit: long ones are shown as excerpts."""
TOKENS_A_WORD = 1.4
"""What a word of an old exchange that is not read is taken to cost."""
MISSES = 10
"""Those that are not sent and stand in the ledger, at the most."""


class Sought(msgspec.Struct, frozen=True, gc=False):
    """What searches found, best first. Of the old exchanges `turns` those have their texts that there may be room for.
    `misses`: those that fit too little; `error`: what failed, None where nothing did."""

    docs: Sequence[Hit] = ()
    turns: Sequence[Old] = ()
    misses: Sequence[Old] = ()
    error: str | None = None


NOTHING = Sought()


class Recalled(msgspec.Struct, frozen=True, gc=False):
    """What goes up of it. `hits`: the documents in `text`, the block that goes up, "" for none; `turns`: how many old
    exchanges are in it; `tokens`: its raw tokens; `segments`: its part of the ledger; `error`: what failed."""

    hits: Sequence[Hit] = ()
    text: str = ""
    tokens: int = 0
    segments: Sequence[dict[str, Any]] = ()
    turns: int = 0
    error: str | None = None


async def documents(svc: Services, turn: Turn, found: Found) -> Sought:
    """The pieces of documents that fit what was said last; a search that fails gives none, and says so."""
    if turn.profile is None:
        return NOTHING
    try:
        return Sought(docs=await searched(svc, turn, found, turn.profile))
    except Exception as exc:  # noqa: BLE001 - a defect of a search is no reason to refuse a turn; it is told
        return _without(svc, exc)


async def exchanges(
    svc: Services, turn: Turn, found: Found, strategy: str, cut: int, room: int | None = None
) -> Sought:
    """The exchanges before the seq `cut` that the newest user message asks for; as `documents` where that fails.
    `room`: the tokens that recalled text may have, where they are known."""
    asked = next((message for message in reversed(found.new) if message.role == "user"), None)
    settings = svc.config.recall
    if strategy != "adaptive" or cut <= 1 or asked is None or found.session is None or not found.line:
        return NOTHING
    if not (settings.history and _wanted(svc, turn)):
        return NOTHING
    line = entries.within(found.line, 1, cut - 1)[::-1]
    said = _text(asked.value)[-settings.max_query_length :]
    most = svc.config.context.recall_max_tokens
    room = most if room is None else min(room, most)
    session = found.session.id
    try:
        wanted = turns.Wanted(settings.min_score, MOST, MISSES)
        old = await turns.find(svc.db, turn.scope, session, line, said, wanted)
        fit = [one for one in old if one.score >= settings.min_score]
        near = _near(fit, room)
        full = await turns.read(svc.db, turn.scope, session, fit[:near], said)
    except Exception as exc:  # noqa: BLE001 - as above
        return _without(svc, exc)
    return Sought(turns=[*full, *fit[near:]], misses=old[len(fit) :][:MISSES])


def _near(fit: Sequence[Old], room: int) -> int:
    """How many of the best must be read to fill the room: a word costs a token at the least."""
    held = 0
    for n, one in enumerate(fit):
        if held > room:
            return n
        held += min(one.words, SHORTENED)
    return len(fit) if room > 0 else 0


def _without(svc: Services, exc: Exception) -> Sought:
    """The turn goes on without what could not be found, unless the configuration forbids it, or its client can mend
    it."""
    if svc.config.sessions.fail_closed or isinstance(exc, BadRequest):
        raise exc
    if isinstance(exc, ProxyError):
        return Sought(error=f"recall: {exc.code or exc.type}")
    defect(svc.log, exc)
    return Sought(error="recall: internal")


def _wanted(svc: Services, turn: Turn) -> bool:
    wanted = turn.options.recall
    if wanted is None:
        wanted = turn.profile is None or turn.profile.fields.recall
    return wanted and svc.config.recall.enabled


async def searched(svc: Services, turn: Turn, found: Found, profile: Profile) -> list[Hit]:
    """The pieces of documents that fit what was said last; none where recall is off or the new messages hold no
    question."""
    if not (_wanted(svc, turn) and any(message.role == "user" for message in found.new)):
        return []
    if not await docs.any_of(svc.db, turn.scope, profile.owners):
        return []
    options = profile.fields.recall_options or {}
    defaults = svc.config.recall
    said = await _said(svc, turn, found, options.get("num_search_messages", defaults.num_search_messages))
    text = query.joined(said, options.get("max_query_length", defaults.max_query_length))
    where = facets.of_metadata(options.get("metadata_filter") or {})
    return await search.text(svc.db, turn.scope, profile.owners, text, options.get("limit", defaults.limit), where)


async def _said(svc: Services, turn: Turn, found: Found, most: int) -> list[str]:
    """The texts of the last messages of the conversation, oldest first."""
    values = [message.value for message in found.new]
    if len(values) < most:
        values = [*await recollect.tail(svc, turn, found, most - len(values)), *values]
    return [_text(value) for value in values[-most:] if value["role"] in SPEAKERS]


def _text(value: Mapping[str, Any]) -> str:
    content = value.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def fitting(hits: Sequence[Hit], room: int, count: Count, old: Sought = NOTHING, frame: int = 0) -> Recalled:
    """The best of the documents and of the old exchanges that hold no more than `room` tokens together with what
    encloses them. `frame`: what the text costs beside its own tokens."""
    block = _Block(count, room - frame)
    for one in _in_turn(old.turns, hits):
        block.add_turn(one) if isinstance(one, Old) else block.add_doc(one)
    text = block.text()
    while text and count(text) > room - frame:  # as one text it may cost a little more than its parts
        block.drop_last()
        text = block.text()
    segments = block.segments(old.misses)
    total = count(text) + frame if text else 0
    first = next((segment for segment in segments if segment["kept"]), None)
    if first is not None:
        first["tokens"] += total - sum(segment["tokens"] for segment in segments if segment["kept"])
    return Recalled(block.hits, text, total, segments, len(block.turns), old.error)


def _in_turn(old: Sequence[Old], hits: Sequence[Hit]) -> Iterator[Old | Hit]:
    """The best of both, then the second best: scores of the two kinds cannot be compared."""
    for n in range(max(len(old), len(hits))):
        yield from old[n : n + 1]
        yield from hits[n : n + 1]


class _Block:
    """The text while it is put together: what is in it, and what there was no room for."""

    def __init__(self, count: Count, room: int) -> None:
        self._count = count
        self._room = room
        self._used = count(placement.OPENING + placement.CLOSING)
        self._kept: list[Old | Hit] = []
        self._prices: list[tuple[Old | Hit, int, bool]] = []
        self._days: set[str] = set()

    @property
    def hits(self) -> list[Hit]:
        return [one for one in self._kept if isinstance(one, Hit)]

    @property
    def turns(self) -> list[Old]:
        return sorted((one for one in self._kept if isinstance(one, Old)), key=lambda one: one.first)

    def add_doc(self, hit: Hit) -> None:
        self._add(hit, self._count(placement.one(hit, len(self.hits) + 1)), 0)

    def add_turn(self, old: Old) -> None:
        if not old.lines:  # there is no room for it
            self._prices.append((old, _guessed(old), False))
            return
        day = exchange.day(old.lines[0].at)
        heading = 0 if day in self._days else self._count(placement.dated(day))
        heading += 0 if self._days else self._count(placement.EARLIER)
        if self._add(old, self._count(_shown(old)), heading):
            self._days.add(day)

    def _add(self, one: Old | Hit, price: int, heading: int) -> bool:
        fits = self._used + heading + price <= self._room
        if fits:
            self._used += heading + price
            self._kept.append(one)
        self._prices.append((one, price + heading if fits else price, fits))
        return fits

    def drop_last(self) -> None:
        gone = self._kept.pop()
        self._prices = [(one, price, kept and one is not gone) for one, price, kept in self._prices]

    def text(self) -> str:
        """Old exchanges in the order of time, each day once, then the documents."""
        if not self._kept:
            return ""
        earlier, last = "", ""
        for old in self.turns:
            day = exchange.day(old.lines[0].at)
            earlier += (placement.dated(day) if day != last else "") + _shown(old)
            last = day
        return placement.fenced([placement.one(hit, n) for n, hit in enumerate(self.hits, 1)], earlier)

    def segments(self, misses: Sequence[Old]) -> list[dict[str, Any]]:
        """The ledger: what is in the text, and some of what is not. The tokens of old exchanges that were not read are
        about what they would cost."""
        over = "over the share of recall"
        out = [_segment(one, price, kept, "fits" if kept else over) for one, price, kept in self._prices]
        left = [segment for segment in out if not segment["kept"] and segment["source"] == "recall_history"]
        low = [_segment(one, _guessed(one), False, "below recall.min_score") for one in misses]
        shown = [*left, *low][:MISSES]
        return [one for one in out if one["kept"] or one["source"] == "recall_doc" or one in shown] + [
            one for one in low if one in shown
        ]


def _guessed(old: Old) -> int:
    return round(min(old.words, SHORTENED) * TOKENS_A_WORD)


def _shown(old: Old) -> str:
    return placement.exchange([(placement.speaker(line.role, line.name), line.text) for line in old.lines])


def shown(hits: Sequence[Hit]) -> Recalled:
    """What the session's own template shows: it counts as part of the system message."""
    segments = [_segment(hit, 0, True, "shown by the template") for hit in hits]
    return Recalled(hits, "", 0, segments)


def again(text: str, count: Count, frame: int = 0) -> Recalled:
    """What the question was first sent with, for the rest of its tool loop."""
    total = count(text) + frame
    segment = {"source": "recall_history", "tokens": total, "kept": True, "reason": "sent with the question before"}
    return Recalled(text=text, tokens=total, segments=[segment])


def crowded_out(recalled: Recalled) -> Recalled:
    """The same where the new messages leave no room for it."""
    segments = [one | {"kept": False, "reason": "over budget"} for one in recalled.segments]
    return Recalled(segments=segments, error=recalled.error)


def _segment(one: Old | Hit, price: int, kept: bool, reason: str) -> dict[str, Any]:
    rest = {"tokens": price, "kept": kept, "reason": reason, "score": round(one.score, 4)}
    if isinstance(one, Hit):
        return {"source": "recall_doc", "id": one.doc, **rest}
    return {"source": "recall_history", "id": one.turn, "from": one.first, "to": one.last, **rest}
