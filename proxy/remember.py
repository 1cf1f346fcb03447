"""The documents that a turn's question needs: searched for, and as many of them as their share of the budget holds."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from proxy import recollect
from proxy.context import placement
from proxy.context.tokens import Count
from proxy.recall import query, search
from proxy.recollect import Found
from proxy.resources import Hit, Profile
from proxy.services import Services, Turn
from proxy.store import docs, facets

SPEAKERS = ("user", "assistant")


class Recalled(msgspec.Struct, frozen=True, gc=False):
    """What a search found. `text`: the block that goes up, "" for none, and its raw tokens; `segments`: its part of the
    ledger."""

    hits: Sequence[Hit] = ()
    text: str = ""
    tokens: int = 0
    segments: Sequence[dict[str, Any]] = ()


async def searched(svc: Services, turn: Turn, found: Found, profile: Profile) -> list[Hit]:
    """The pieces of documents that fit what was said last; none where recall is off or the new messages hold no
    question."""
    wanted = turn.options.recall if turn.options.recall is not None else profile.fields.recall
    if not (wanted and svc.config.recall.enabled and any(message.role == "user" for message in found.new)):
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


def fitting(hits: Sequence[Hit], room: int, count: Count) -> Recalled:
    """The best of the hits that hold no more than `room` tokens together with their frame."""
    used = count(placement.OPENING + placement.CLOSING)
    kept: list[str] = []
    segments = []
    for hit in hits:
        excerpt = placement.one(hit, len(kept) + 1)
        price = count(excerpt)
        fits = used + price <= room
        segments.append(_segment(hit, price, fits, "fits" if fits else "over the share of recall"))
        if fits:
            used += price
            kept.append(excerpt)
    if not kept:
        return Recalled(segments=segments)
    text = placement.fenced(kept)
    total = count(text)
    segments[0]["tokens"] += total - sum(segment["tokens"] for segment in segments if segment["kept"])  # the frame
    return Recalled([hit for hit, one in zip(hits, segments, strict=True) if one["kept"]], text, total, segments)


def shown(hits: Sequence[Hit]) -> Recalled:
    """What the session's own template shows: it counts as part of the system message."""
    segments = [_segment(hit, 0, True, "shown by the template") for hit in hits]
    return Recalled(hits, "", 0, segments)


def _segment(hit: Hit, price: int, kept: bool, reason: str) -> dict[str, Any]:
    score = round(hit.score, 4)
    return {"source": "recall_doc", "id": hit.doc, "tokens": price, "kept": kept, "reason": reason, "score": score}
