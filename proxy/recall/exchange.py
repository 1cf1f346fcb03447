"""Stored messages -> the passages that are indexed of them, and their excerpts. Touches nothing outside."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from proxy.context.summary import spoken
from proxy.recall import chunk, query
from proxy.reconcile import content_of
from proxy.store.history import Told
from proxy.store.passages import LONGEST, Passage
from proxy.types import INSTRUCTIONS

RESULT = 400
"""Characters of a tool's result that are indexed and shown."""
INDEXED = 32_000
"""Characters of one message that are indexed, the first ones."""


MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip


class Line(msgspec.Struct, frozen=True, gc=False):
    """What one message says: its place, when (epoch ms), whose role, the speaker's name ("" for none), and the text."""

    branch: int
    seq: int
    at: int
    role: str
    name: str
    text: str


def line(told: Told) -> Line:
    """The text of a message: a tool's result shortened, that of system messages left out."""
    if told.role in INSTRUCTIONS:
        return Line(told.branch, told.seq, told.at, told.role, "", "")
    value = msgspec.json.decode(told.raw)
    content = content_of(value)
    if isinstance(content, list):
        content = "\n".join(part[1] for part in content if part[0] == "text" and isinstance(part[1], str))
    content = content or spoken(value)
    longest = RESULT if told.role in ("tool", "function") else INDEXED
    name = value.get("name") if told.role in ("user", "assistant") else None
    return Line(told.branch, told.seq, told.at, told.role, name if isinstance(name, str) else "", content[:longest])


def day(at: int) -> str:
    """A time as it is shown and searched for: 7 May 2023, in UTC."""
    time = datetime.fromtimestamp(at / 1000, UTC)
    return f"{time.day} {MONTHS[time.month - 1]} {time.year}"


def cut(told: Sequence[Told]) -> list[Passage]:
    """Entries of one branch, oldest first, as passages that hold all of them: each a user message with what follows
    until the next one, long exchanges in several."""
    return [_passage(group) for group in _groups(told)]


def _groups(told: Sequence[Told]) -> Iterator[list[Line]]:
    group: list[Line] = []
    held, answered = 0, False
    for entry in map(line, told):
        full = held + len(entry.text) > chunk.LARGEST and (answered or held > chunk.LARGEST)
        if group and (full or len(group) >= LONGEST or (entry.role == "user" and answered)):
            yield group
            group, held, answered = [], 0, False
        group.append(entry)
        held += len(entry.text)
        answered = answered or entry.role != "user"
    if group:
        yield group


def _passage(group: Sequence[Line]) -> Passage:
    named = {*(entry.name for entry in group if entry.name), *(day(entry.at) for entry in group)}
    text = "\n".join([*sorted(named), *(entry.text for entry in group)])
    return Passage(group[0].branch, group[0].seq, group[-1].seq, text, len(query.every(text)))


def excerpt(lines: Sequence[Line], wanted: Sequence[str]) -> list[Line]:
    """The messages cut to about 1,600 characters together: long ones to the part that holds most of the words."""
    if sum(len(entry.text) for entry in lines) <= chunk.LARGEST:
        return list(lines)
    short = sum(len(entry.text) for entry in lines if len(entry.text) <= RESULT)
    long = sum(len(entry.text) > RESULT for entry in lines)
    room = max(RESULT, (chunk.LARGEST - short) // max(long, 1))
    return [msgspec.structs.replace(entry, text=_best(entry.text, wanted, room)) for entry in lines]


def _best(text: str, wanted: Sequence[str], room: int) -> str:
    if len(text) <= RESULT:
        return text
    parts = chunk.pieces([text], RESULT // 2)
    fits = [len(_stems(query.every(part.lower())) & _stems(wanted)) for part in parts]
    at = max(range(len(parts)), key=lambda n: (fits[n], -n))
    first, last, held = at, at + 1, len(parts[at])
    while last < len(parts) and held + len(parts[last]) < room:
        held += len(parts[last]) + 1
        last += 1
    while first > 0 and held + len(parts[first - 1]) < room:
        first -= 1
        held += len(parts[first]) + 1
    return ("… " if first else "") + "\n".join(parts[first:last]) + (" …" if last < len(parts) else "")


def _stems(words: Iterable[str]) -> set[str]:
    """About what the index takes for one word; it is only the excerpt that depends on it."""
    return {word[:5] for word in words}
