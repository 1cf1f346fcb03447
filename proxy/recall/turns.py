"""Old exchanges of a session that a new message asks for, best first.

The score, 0 to 1, is what admits them. Of the words of the message, weighed by how rare they are in what was said
before, it is the share that the best exchange holds, of which the others have a part by BM25; an exchange lends some of
its own to its neighbours, since a question is often answered one exchange later. Small talk has no words that count,
what tells rather than asks scores half, and words that tell little leave the score low however many fit.
"""

import asyncio
import heapq
import math
from collections.abc import Mapping, Sequence

import msgspec

from proxy.recall import exchange, query, search
from proxy.recall.exchange import Line
from proxy.store import passages
from proxy.store.database import Database
from proxy.store.entries import Segment
from proxy.store.passages import Place
from proxy.types import Scope

DOUBT = 2.0
"""What the words of a message must weigh together before the share of them says much."""
UNKNOWN = 0.5
"""What a word counts that was never said: a question may use another word than its answer."""
STATED = 0.5
"""What a message counts that asks nothing."""
NEXT, PREVIOUS = 0.5, 0.3
"""What an exchange lends to its neighbours."""
LENDING = 24
"""Exchanges that lend: the best."""
SOME = 64
"""Passages made in one search, after which it indexes no further stretch."""


class Old(msgspec.Struct, frozen=True, gc=False):
    """Messages `first` to `last` of a line, the turn of the first one, how well they fit, and what they say."""

    turn: int
    first: int
    last: int
    score: float
    lines: Sequence[Line]


async def text(db: Database, scope: Scope, session: int, line: Sequence[Segment], said: str, limit: int) -> list[Old]:
    """At most `limit` exchanges that lie on the line; what is not indexed yet is first, a bounded part of it."""
    weights, asks = query.asked(said)
    if not weights or not line:
        return []
    size = await _indexed(db, scope, session, line)
    found: dict[str, tuple[list[Place], int]] = {}
    for word in weights if size else ():
        found[word] = await passages.holding(db, scope, session, line, word)
        await asyncio.sleep(0)  # a common word of a long session takes some milliseconds
    places = {place.id: place for every, _ in found.values() for place in every}
    if not places:
        return []
    lengths = [[(place.id, place.words) for place in every] for every, _ in found.values()]
    fit = search.scored(lengths, size, [having for _, having in found.values()])
    best = share(weights, {word: ([place.id for place in every], n) for word, (every, n) in found.items()}, size)
    nearby = await passages.beside(db, scope, session, [places[id] for id in _top(fit, LENDING)])
    lent = dict(fit)
    for id, before, after in nearby:
        for near, part in ((before, PREVIOUS), (after, NEXT)):
            if near is not None and _lies_on(near, line):
                places[near.id] = near
                lent[near.id] = lent.get(near.id, 0.0) + part * fit[id]
    scores = spread(lent, best if asks else best * STATED)
    chosen = _apart([places[id] for id in _top(scores, 2 * limit)])[:limit]
    told = await passages.told(db, scope, session, [(place.branch, place.first, place.last) for place in chosen])
    by_seq = {one.seq: (exchange.line(one), turn) for one, turn in told}
    return [old for old in (_old(place, by_seq, scores[place.id], list(weights)) for place in chosen) if old.lines]


async def _indexed(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> int:
    """How many passages the line has, after some that are missing were made."""
    reach = await passages.reach(db, scope, session, line)
    made = 0
    for stretch in reach.missing:
        made += await passages.extend(db, scope, session, stretch, exchange.cut)
        if made >= SOME:
            break
    return reach.size + made


def share(weights: Mapping[str, float], found: Mapping[str, tuple[Sequence[int], int]], size: int) -> float:
    """The largest part of a message's words that one passage holds. `found`: passages that hold each word, and how many
    do."""
    held: dict[int, float] = {}
    total = DOUBT
    for word, weight in weights.items():
        ids, having = found[word]
        worth = weight * search.rarity(having, size) * (1.0 if ids else UNKNOWN)
        total += worth
        for id in ids:
            held[id] = held.get(id, 0.0) + worth
    return max(held.values(), default=0.0) / total


def spread(fit: Mapping[int, float], best: float) -> dict[int, float]:
    """The score of each passage: `best` for the one that fits best, less for the others."""
    top = max(fit.values(), default=0.0)
    return {id: best * math.sqrt(value / top) for id, value in fit.items()} if top > 0 else {}


def _top(scores: Mapping[int, float], most: int) -> list[int]:
    return heapq.nsmallest(most, scores, key=lambda id: (-scores[id], -id))


def _lies_on(place: Place, line: Sequence[Segment]) -> bool:
    return any(place.branch == branch and first <= place.first and place.last <= last for branch, first, last in line)


def _apart(places: Sequence[Place]) -> list[Place]:
    """The places without those that overlap a better one."""
    kept: list[Place] = []
    taken: set[int] = set()
    for place in places:
        here = range(place.first, place.last + 1)
        if taken.isdisjoint(here):
            taken.update(here)
            kept.append(place)
    return kept


def _old(place: Place, told: Mapping[int, tuple[Line, int]], score: float, wanted: Sequence[str]) -> Old:
    """What was said at a place; messages without text are left out."""
    here = [told[seq] for seq in range(place.first, place.last + 1) if seq in told]
    lines = exchange.excerpt([line for line, _ in here if line.text], wanted)
    return Old(here[0][1] if here else 0, place.first, place.last, score, lines)
