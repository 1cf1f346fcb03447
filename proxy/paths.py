"""What is stored along the lines that a request may continue, compared with its messages.

Lines share most of what they hold: each entry is read once and compared once, however many branches go through it, and
others get their turn between lines.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from proxy.reconcile import Path, Reached, content_of, fallbacks, heads, reached, resolved
from proxy.services import Services, Turn
from proxy.store import entries
from proxy.store.branches import since, until
from proxy.store.entries import Segment
from proxy.types import Branch, Scope, Sent, Session

Lines = dict[int, tuple[Branch, list[Segment]]]
"""The branches that a request may continue, the current one first, each with its line."""

BETWEEN = 8
"""Lines that are worked on before others get their turn."""
PIECE = 4096
"""Digests in one read where there are several lines."""


class _Stretch(msgspec.Struct, frozen=True, gc=False):
    """What a branch's own entries from `first` on hold. `short`: by seq, the texts of replies that were cut short."""

    first: int
    marks: list[bytes]
    short: Mapping[int, str]


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """A line that others begin on: its digests from `first` on, and the heads of the request that end there."""

    first: int
    digests: Sequence[bytes]
    heads: Sequence[int]


async def along(
    svc: Services, scope: Scope, session: Session, number: int, part: tuple[Sequence[Segment], int]
) -> Path:
    """A line from a seq on. `part`: the line, the seq."""
    line, first = part
    marks, short = await entries.digests(svc.db, scope, session.id, since(line, first))
    return Path(number, first, marks, {n: _text_of(raw) for n, raw in short.items()})


async def compared(svc: Services, turn: Turn, session: Session, lines: Lines, sent: Sequence[Sent]) -> list[Reached]:
    """How far the request reaches along each line, of which equal ones count once: as the first of them."""
    starts: dict[int, list[int]] = {}
    for branch, seq in await entries.places(svc.db, turn.scope, session.id, sent[0].digest):
        starts.setdefault(branch, []).append(seq)
    if len(lines) == 1:
        (number, (branch, line)), *_ = lines.items()
        path = await along(svc, turn.scope, session, number, _part(turn, branch, line, sent, starts))
        return [reached(path, heads(path, sent))]
    parts: dict[int, tuple[Sequence[Segment], int]] = {}
    told: dict[tuple[int, int], int] = {}
    for n, (number, (branch, line)) in enumerate(lines.items()):
        if told.setdefault(_end(line), number) == number:
            part, first = _part(turn, branch, line, sent, starts)
            parts[number] = since(part, first), first
        await pause(n)
    read = await _read(svc, turn.scope, session, [part for part, _ in parts.values()])
    found = await _compared(lines, parts, told, read, sent)
    return [found[number] for number in parts]


def _end(line: Sequence[Segment]) -> tuple[int, int]:
    """Where a line ends; equal lines end at one place."""
    return (line[0][0], line[0][2]) if line else (0, 0)


def _part(
    turn: Turn, branch: Branch, line: Sequence[Segment], sent: Sequence[Sent], starts: Mapping[int, Sequence[int]]
) -> tuple[Sequence[Segment], int]:
    """What is compared of a line, and the seq from which on: where the request's first message stands (the root for
    `resend`), or the tail."""
    if turn.options.mode == "resend":
        return until(line, len(sent) + 1), 1
    return line, min([max(1, branch.head - len(sent) + 1), *_standing(line, starts)])


def _standing(line: Sequence[Segment], starts: Mapping[int, Sequence[int]]) -> list[int]:
    """The earliest place of the first message on each stretch of a line."""
    found = []
    for branch, first, last in line:
        places = [seq for seq in starts.get(branch, ()) if first <= seq <= last]
        found.extend(places[:1])
    return found


async def _read(
    svc: Services, scope: Scope, session: Session, parts: Iterable[Sequence[Segment]]
) -> dict[int, list[_Stretch]]:
    """The stretches that these lines are made of, by the branch that owns them, each entry once."""
    wanted: set[Segment] = set()
    for n, part in enumerate(parts):
        wanted.update(part)
        await pause(n)
    spans: list[Segment] = []
    for owner, first, last in sorted(wanted):
        if spans and spans[-1][0] == owner and first <= spans[-1][2] + 1:
            spans[-1] = owner, spans[-1][1], max(spans[-1][2], last)
        else:
            spans.append((owner, first, last))
    found: dict[int, list[_Stretch]] = {}
    for n, (owner, first, last) in enumerate(spans):
        marks: list[bytes] = []
        short: dict[int, str] = {}
        for at in range(first, last + 1, PIECE):
            if marks:
                await asyncio.sleep(0)
            here = [(owner, at, min(last, at + PIECE - 1))]
            more, raws = await entries.digests(svc.db, scope, session.id, here)
            marks += more
            short |= {at + index: _text_of(raw) for index, raw in raws.items()}
        found.setdefault(owner, []).append(_Stretch(first, marks, short))
        await pause(n)
    return found


async def _compared(
    lines: Lines,
    parts: Mapping[int, tuple[Sequence[Segment], int]],
    told: Mapping[tuple[int, int], int],
    read: Mapping[int, Sequence[_Stretch]],
    sent: Sequence[Sent],
) -> dict[int, Reached]:
    """By the number of the line. Older branches come first: a line goes on with what its parent's reached."""
    fall = fallbacks(sent)
    parents = {branch.parent for branch, _ in lines.values()}
    begun_on = {told[_end(line)] for number, (_, line) in lines.items() if number in parents}
    oldest: dict[int, Branch] = {}
    for number in sorted(lines):
        branch, line = lines[number]
        oldest.setdefault(told[_end(line)], branch)
    kept: dict[int, _Kept] = {}
    found: dict[int, Reached] = {}
    for n, (number, branch) in enumerate(oldest.items()):
        part, first = parts[number]
        parent = lines.get(branch.parent or 0)
        shared = _shared(kept.get(told[_end(parent[1])]) if parent is not None else None, branch, part, first)
        size = len(shared.digests)
        marks, short = _held(read, since(part, first + size), size)
        path = Path(number, first, [*shared.digests, *marks], short)
        path = Path(number, first, resolved(path, sent))
        lengths = heads(path, sent, fall, shared.heads)
        found[number] = reached(path, lengths)
        if number in begun_on:
            kept[number] = _Kept(first, path.digests, lengths)
        await pause(n)
    return found


def _shared(parent: _Kept | None, branch: Branch, part: Sequence[Segment], first: int) -> _Kept:
    """What a branch's part has from its parent, where both are looked at from the same seq on."""
    if parent is None or parent.first != first or not part:
        return _Kept(first, (), ())
    size = max(0, min(branch.forked_at, part[0][2]) - first + 1)
    return _Kept(first, parent.digests[:size], parent.heads[:size])


def _held(
    read: Mapping[int, Sequence[_Stretch]], part: Sequence[Segment], index: int
) -> tuple[list[bytes], dict[int, str]]:
    """The digests along a part of a line, oldest first, and its replies that were cut short, by index from `index`
    on."""
    marks: list[bytes] = []
    short: dict[int, str] = {}
    for owner, first, last in reversed(part):
        stretch = next(one for one in reversed(read[owner]) if one.first <= first)
        short |= {index + len(marks) + seq - first: text for seq, text in stretch.short.items() if first <= seq <= last}
        marks += stretch.marks[first - stretch.first : last - stretch.first + 1]
    return marks, short


async def pause(n: int) -> None:
    """Others get their turn after every few lines."""
    if n % BETWEEN == BETWEEN - 1:
        await asyncio.sleep(0)


def _text_of(raw: bytes) -> str:
    text = content_of(msgspec.json.decode(raw))
    return text if isinstance(text, str) else ""
