"""The documents of some owners that fit a text, best first.

The score is BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009) with each word counted once
a chunk, and with how rare a word is taken from the owners' own documents: what other tenants store changes nothing.
"""

import asyncio
import heapq
import math
from collections.abc import Sequence

from proxy.recall import query
from proxy.resources import Hit, Owner
from proxy.store import docs
from proxy.store.database import Database
from proxy.store.facets import Facet
from proxy.types import Scope

SATURATION = 1.2
LENGTH = 0.75
"""BM25's k1 and b, at their usual values."""


async def text(
    db: Database, scope: Scope, owners: Sequence[Owner], said: str, limit: int, where: Sequence[Facet] = ()
) -> list[Hit]:
    """At most `limit` pieces of the owners' documents that have the metadata `where` and share a word with `said`."""
    wanted = query.words(said)
    if not wanted or not owners:
        return []
    size = await docs.size(db, scope, owners)
    found = []
    for word in wanted if size else ():
        found.append(await docs.holding(db, scope, owners, word, where))
        await asyncio.sleep(0)  # a common word of a large owner takes some milliseconds
    scores = scored(found, size)
    best = heapq.nsmallest(limit, scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return await docs.hits(db, scope, owners, best)


def scored(found: Sequence[Sequence[tuple[int, int]]], size: int) -> dict[int, float]:
    """The score of each chunk. `found`: for each word the chunks that hold it with their length in words; `size`: how
    many chunks there are."""
    lengths = {chunk: length for chunks in found for chunk, length in chunks}
    mean = sum(lengths.values()) / len(lengths) if lengths else 1.0
    scores: dict[int, float] = dict.fromkeys(lengths, 0.0)
    for chunks in found:
        worth = rarity(len(chunks), size)
        for chunk, length in chunks:
            scores[chunk] += worth * weight(length / max(mean, 1.0))
    return scores


def weight(length: float) -> float:
    """What a word counts in a text that is so many times as long as others."""
    return (SATURATION + 1) / (1 + SATURATION * (1 - LENGTH + LENGTH * length))


def rarity(having: int, size: int) -> float:
    """What a word counts that so many of all the chunks have."""
    return math.log(1 + (max(size, having) - having + 0.5) / (having + 0.5))


def distance(score: float) -> float:
    """The score as Julep's field of that name: 0 would be a perfect fit, 1 none."""
    return round(1 / (1 + score), 6)
