"""Deltas -> the value that they make up. Pure, and linear in their size: what grows is kept in pieces until it is read.

Unknown fields survive: text grows by joining, lists whose items carry an `index` merge by it, names and ids are set
once.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any

from proxy.errors import UpstreamBroken

SET_ONCE = frozenset({"role", "type", "id", "name", "signature", "index", "format", "object"})
"""Strings that a later chunk repeats or brings once; joining them would double them."""

DEEPEST = 64
"""Levels of JSON that a message may have."""

_PADDED = re.compile("[^=]+=*")


class Text(list[str]):
    """A string that grows: its pieces."""


class Items(list[Any]):
    """A list that grows. `places`: where the item of an `index` stands."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[int | str, Any] = {}

    def take(self, new: Iterable[Any], depth: int) -> None:
        """Items that carry an `index` merge with the one that carries the same; others are appended."""
        for item in new:
            place = item.get("index") if isinstance(item, dict) else None
            if not isinstance(place, int | str):
                self.append(item)
                continue
            same = self.places.setdefault(place, item)
            if same is item:
                self.append(item)
            else:
                merge(same, item, depth + 1)


def merge(into: dict[str, Any], delta: Mapping[str, Any], depth: int = 0) -> None:
    """Adds a delta to what came before it. Raises UpstreamBroken for one that is nested too deeply to be stored."""
    for key, value in delta.items():
        put(into, key, value, depth)


def put(into: dict[str, Any], key: str, value: Any, depth: int = 0) -> None:
    """One field of a delta."""
    old = into.get(key)
    if isinstance(value, str) and key not in SET_ONCE and isinstance(old, str | Text):
        if isinstance(old, str):
            into[key] = Text((old, value))
        else:
            old.append(value)
    elif isinstance(value, dict) and isinstance(old, dict):
        _check(depth)
        merge(old, value, depth + 1)
    elif isinstance(value, list) and (old is None or isinstance(old, list)):
        _check(depth)
        into[key] = _items(old or (), depth)
        into[key].take(value, depth)
    elif old is None or value not in (None, ""):
        into[key] = value


def _items(old: Iterable[Any], depth: int) -> Items:
    if isinstance(old, Items):
        return old
    made = Items()
    made.take(old, depth)
    return made


def noted(old: Any, value: Any, grows: bool, depth: int = 0) -> Any:
    """What stands beside the deltas, with what another chunk says of it: the latest that is not null, objects field by
    field. `grows`: each chunk brings another part of its lists."""
    if isinstance(value, dict) and isinstance(old, dict):
        _check(depth)
        for key, item in value.items():
            old[key] = noted(old.get(key), item, grows, depth + 1)
        return old
    if grows and isinstance(value, list) and isinstance(old, list):
        old.extend(value)
        return old
    return old if value is None else value


def _check(depth: int) -> None:
    if depth > DEEPEST:
        raise UpstreamBroken(f"the upstream's message is nested deeper than {DEEPEST} levels")


def settled(value: Any, torn: bool, depth: int = 0) -> Any:
    """A copy of what deltas made up, its texts joined. `torn`: with lone surrogates replaced by U+FFFD; two halves that
    came in two chunks become one character. Raises UpstreamBroken for what is nested too deeply to be stored and sent
    again."""
    _check(depth)
    if isinstance(value, Text):
        value = "".join(value)
    if isinstance(value, str):
        return mended(value) if torn else value
    if isinstance(value, dict):
        return {mended(key) if torn else key: settled(item, torn, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [settled(item, torn, depth + 1) for item in value]
    return value


def mended(text: str) -> str:
    """The text as UTF-8 can carry it."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def sound(data: str) -> str:
    """Base64 that was joined of pieces, each encoded by itself, as one text: padding may stand in its middle. What is
    no base64 stays as it is."""
    if "=" not in data[:-2] or data.startswith("="):
        return data
    try:
        pieces = [base64.b64decode(piece, validate=True) for piece in _PADDED.findall(data)]
    except (binascii.Error, ValueError):
        return data
    return base64.b64encode(b"".join(pieces)).decode()
