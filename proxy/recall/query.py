"""What was said last -> the words to search for. Pure."""

import re
from collections.abc import Iterable

MOST = 32
"""Words of one query; the last ones of a long text are what it asks."""

_WORD = re.compile(r"\w+", re.UNICODE)

_STOP = (
    "a about above after again all also am an and any are as at be because been before being below between both "
    "but by can could did do does doing down during each few for from further get give go had has have having he "
    "her here hers him his how i if in into is it its just know let like make me more most my no nor not now of "
    "off ok okay on once only or other our ours out over own please same she should so some such tell than thank "
    "thanks that the their them then there these they this those through to too under until up us very want was "
    "we were what when where which while who whom why will with would yes you your yours"
)
STOP = frozenset(_STOP.split())
"""Words that tell nothing about what is asked."""


def every(text: str) -> list[str]:
    """All words of a text, in order."""
    return _WORD.findall(text)


def words(text: str) -> list[str]:
    """The different words that carry meaning, lower case, at most 32: the last ones."""
    found = dict.fromkeys(word for word in _WORD.findall(text.lower()) if word not in STOP and len(word) <= 100)
    return list(found)[-MOST:]


def joined(said: Iterable[str], longest: int) -> str:
    """The last `longest` characters of what was said, oldest first."""
    return "\n".join(part for part in said if part)[-longest:]
