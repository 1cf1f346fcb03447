"""Old exchanges of a session that a new message asks for, best first.

The score, 0 to 1, is what admits them. Of the words of the message, weighed by how rare they are in what was said
before, it is the share that the best exchange holds, of which the others have a part by BM25; an exchange lends some of
its own to its neighbours, since a question is often answered one exchange later. Small talk has no words that count,
what tells rather than asks scores half, and words that tell little leave the score low however many fit.
"""

import asyncio
import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from proxy.recall import exchange, query, search
from proxy.recall.exchange import Line
from proxy.store import passages
from proxy.store.database import Database
from proxy.store.entries import Segment
from proxy.store.passages import Place, Reach
from proxy.types import Scope

DOUBT = 2.0
"""What the words of a message must weigh together before the share of them says much."""
EVERYWHERE = 0.05
"""A word that counts less than this part of what the rarest one does is left aside: about everything holds it."""
UNKNOWN = 0.5
"""What a word counts that was never said: a question may use another word than its answer."""
STATED = 0.5
"""What a message counts that asks nothing."""
NEXT, PREVIOUS = 0.5, 0.3
"""What an exchange lends to its neighbours."""
LENDING = 24
"""Exchanges that lend: the best."""
CANDIDATES = 48
"""Exchanges that are looked at closely, at the most: those that fit best. More where many of them lie elsewhere."""
AT_ONCE = 8
"""Words that one statement looks for: about a millisecond in a long session, then others have their turn."""
SOME = 64
"""Passages made in one search, after which it indexes no further stretch."""


class Old(msgspec.Struct, frozen=True, gc=False):
    """Messages `first` to `last` of a line, the turn of the first one, how well they fit, and what they say: nothing
    where that was not read. `words`: how many they have; `branch`: whose rows they are."""

    turn: int
    first: int
    last: int
    score: float
    lines: Sequence[Line] = ()
    words: int = 0
    branch: int = 0


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What a search is for: at most `most` exchanges, those that score `floor` or more and some `misses` beside."""

    floor: float
    most: int
    misses: int


async def find(
    db: Database, scope: Scope, session: int, line: Sequence[Segment], said: str, wanted: Wanted
) -> list[Old]:
    """Exchanges that lie on the line, without their texts; what is not indexed yet is first, a bounded part of it."""
    weights, asks = query.asked(said)
    if not weights or not line:
        return []
    reach = await _indexed(db, scope, session, line)
    full, held = shares(weights, await _holding(db, scope, session, list(weights), reach), reach.size)
    if not held:
        return []
    fit = fitting(full)
    part = 1.0 if asks else STATED
    need, lending = _need(fit, wanted, part * max(held.values()), reach.mixed)
    while True:
        ids = list(dict.fromkeys([*_top(fit, need), *_top(held, need // 8)]))
        near = await passages.around(db, scope, session, ids, lending)
        places = [place for place in near if _lies_on(place, line)]
        if len(places) >= need // 2 or need >= len(fit):
            break
        need, lending = 4 * need, 4 * lending
    best = max([held.get(place.id, 0.0) for place in places], default=0.0)
    scores = spread(lent(fit, places, lending), part * best)
    places = [place for place in places if scores.get(place.id, 0.0) > 0]
    places.sort(key=lambda place: (-scores[place.id], -place.id))
    return [
        Old(place.turn, place.first, place.last, scores[place.id], (), place.words, place.branch)
        for place in _apart(places, wanted.most)
    ]


async def read(db: Database, scope: Scope, session: int, found: Sequence[Old], said: str) -> list[Old]:
    """The same with what they say, without those that say nothing."""
    if not found:
        return []
    told = await passages.told(db, scope, session, [(old.branch, old.first, old.last) for old in found])
    lines = {one.seq: exchange.line(one) for one in told}
    wanted = query.words(said)
    full = [msgspec.structs.replace(old, lines=_said(old, lines, wanted)) for old in found]
    return [old for old in full if old.lines]


async def _indexed(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> Reach:
    """What is indexed of the line, after some that is missing was."""
    reach = await passages.reach(db, scope, session, line)
    if not reach.missing:
        return reach
    made = 0
    for stretch in reach.missing:
        made += await passages.extend(db, scope, session, stretch, exchange.cut)
        if made >= SOME:
            break
    return await passages.reach(db, scope, session, line)


async def _holding(
    db: Database, scope: Scope, session: int, words: Sequence[str], reach: Reach
) -> dict[str, tuple[list[int], int]]:
    most = passages.WIDE if reach.mixed else passages.MANY
    found: dict[str, tuple[list[int], int]] = {}
    for at in range(0, len(words) if reach.size else 0, AT_ONCE):
        part = words[at : at + AT_ONCE]
        found.update(zip(part, await passages.holding(db, scope, session, part, most), strict=True))
        if at + AT_ONCE < len(words):
            await asyncio.sleep(0)
    return found


def shares(
    weights: Mapping[str, float], found: Mapping[str, tuple[Sequence[int], int]], size: int
) -> tuple[dict[int, float], dict[int, float]]:
    """What the words that each passage holds are worth by how rare they are, and which part of the message that is, its
    weights counted. `found`: passages that hold each word, and how many do."""
    worths = {word: search.rarity(having, size) for word, (_, having) in found.items()}
    total = DOUBT + sum(
        [worth * weights[word] * (1.0 if found[word][0] else UNKNOWN) for word, worth in worths.items()]
    )
    bound = EVERYWHERE * max([worth for word, worth in worths.items() if found[word][0]], default=0.0)
    full: defaultdict[int, float] = defaultdict(float)
    held: defaultdict[int, float] = defaultdict(float)
    for word, (ids, _) in found.items():
        worth, part = worths[word], weights[word] * worths[word] / total
        for id in ids if worth >= bound else ():
            full[id] += worth
            held[id] += part
    return full, held


def fitting(full: Mapping[int, float]) -> dict[int, float]:
    """How well each passage fits by BM25: the same words tell more in a short one."""
    classes = [id % passages.LENGTHS for id in full]
    mean = sum(classes) / len(classes) + 0.5
    parts = {one: search.weight((one + 0.5) / mean) for one in set(classes)}
    return {id: worth * parts[one] for (id, worth), one in zip(full.items(), classes, strict=True)}


def _need(fit: Mapping[int, float], wanted: Wanted, best: float, mixed: bool) -> tuple[int, int]:
    """How many of the passages can have a part in the result, those that fit best, and how many of these lend."""
    if best < wanted.floor:
        return wanted.misses, 0
    if mixed:
        return CANDIDATES, LENDING
    bound = max(fit.values()) * (wanted.floor / best) ** 2
    enough = wanted.misses + sum([value >= bound for value in fit.values()])
    return min(CANDIDATES, max(LENDING, enough)), LENDING


def lent(fit: Mapping[int, float], places: Sequence[Place], lending: int) -> dict[int, float]:
    """How well the places fit with what the best of them lend to those before and after them."""
    before = {(place.branch, place.last): place.id for place in places}
    after = {(place.branch, place.first): place.id for place in places}
    full = {place.id: fit.get(place.id, 0.0) for place in places}
    best = heapq.nlargest(lending, places, key=lambda place: (fit.get(place.id, 0.0), place.id))
    for place in best:
        own = fit.get(place.id, 0.0)
        for near, part in ((before.get((place.branch, place.first - 1)), PREVIOUS),
                           (after.get((place.branch, place.last + 1)), NEXT)):  # fmt: skip
            if near is not None:
                full[near] += part * own
    return full


def spread(fit: Mapping[int, float], best: float) -> dict[int, float]:
    """The score of each passage: `best` for the one that fits best, less for the others."""
    top = max(fit.values(), default=0.0)
    return {id: best * math.sqrt(value / top) for id, value in fit.items()} if top > 0 else {}


def _top(scores: Mapping[int, float], most: int) -> list[int]:
    """The best, of those that are equal the newest."""
    return [id for _, id in heapq.nlargest(most, zip(scores.values(), scores, strict=True))]


def _lies_on(place: Place, line: Sequence[Segment]) -> bool:
    return any(place.branch == branch and first <= place.first and place.last <= last for branch, first, last in line)


def _apart(places: Sequence[Place], limit: int) -> list[Place]:
    """The first of the places, without those that overlap a better one."""
    kept: list[Place] = []
    taken: set[int] = set()
    for place in places:
        here = range(place.first, place.last + 1)
        if taken.isdisjoint(here):
            taken.update(here)
            kept.append(place)
            if len(kept) == limit:
                break
    return kept


def _said(old: Old, lines: Mapping[int, Line], wanted: Sequence[str]) -> list[Line]:
    """What was said at a place; messages without text are left out."""
    here = [lines[seq] for seq in range(old.first, old.last + 1) if seq in lines]
    return exchange.excerpt([line for line in here if line.text], wanted)
