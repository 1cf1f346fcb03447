"""Texts -> the pieces that are indexed, of about a paragraph. Pure."""

import re
from collections.abc import Iterator, Sequence

from proxy.recall import query

LARGEST = 1600
"""Characters of a piece: about 400 tokens, so that several fit the room that recalled text has."""

_BREAKS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?。！？])\s+"), re.compile(r"\s+"))
"""Where a text may be cut, the best places first: paragraphs, lines, sentences, words."""


def pieces(texts: Sequence[str], largest: int = LARGEST) -> list[str]:
    """Each text in pieces of at most 1,600 characters, cut where it reads best; blank ones are left out."""
    return [piece for text in texts for piece in _cut(text, 0, largest) if piece]


def indexed(title: str, texts: Sequence[str]) -> list[tuple[str, int]]:
    """What is indexed of a document: its pieces, each with how many words it and the title have."""
    words = len(query.every(title))
    return [(text, words + len(query.every(text))) for text in pieces(texts)]


def _cut(text: str, level: int, largest: int) -> Iterator[str]:
    """Neighbouring parts are joined again as far as they fit."""
    text = text.strip()
    if len(text) <= largest:
        yield text
        return
    if level == len(_BREAKS):
        yield from (text[at : at + largest] for at in range(0, len(text), largest))
        return
    start = end = 0
    for found in _BREAKS[level].finditer(text):
        if found.end() - start > largest and end > start:
            yield from _cut(text[start:end], level + 1, largest)
            start = end
        end = found.end()
    if len(text) - start > largest and end > start:
        yield from _cut(text[start:end], level + 1, largest)
        start = end
    yield from _cut(text[start:], level + 1, largest)
