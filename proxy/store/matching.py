"""A word of a text -> what FTS5 is asked for. Any text will do. Pure."""

import re
import unicodedata

PIECES = 8
"""Pieces of one word that are looked for, as of foo-bar."""

_PIECE = re.compile(r"[^\W_\u19b0-\u19c0\u19c8\u19c9\u1cf2\u1cf3]+")
"""Between what FTS5 parts words by, too: it knows an older Unicode, where these vowels were no letters. A piece that it
parts further is a phrase to it, and an error, since the index holds no places."""


def all_of(word: str) -> str:
    """The expression that finds the word (or another form of it); of one that is made of several, all of them. Empty
    where nothing can be found."""
    pieces = _PIECE.findall(unicodedata.normalize("NFC", word))[:PIECES]
    return " AND ".join(f'"{piece}"' for piece in pieces)
