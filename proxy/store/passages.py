"""Exchanges that left the window of a long session, and the index of their words.

The index follows the log when a search asks for it, never a plain turn: some entries in the event loop, more apart from
it, and of a long backlog one part at a time, the newest first. What is left of it is a row of its own, without words.
Intentional: passages may overlap where lines part or a cut moves back, since none reaches beyond what it was made for.
"""

from collections.abc import Callable, Sequence

import msgspec

from proxy.store import blobs, matching
from proxy.store.database import Database, Row, Tx
from proxy.store.entries import Segment
from proxy.store.history import Told
from proxy.types import Scope

HERE = 32
HERE_BYTES = 32_768
"""Entries, and their bytes, that are indexed in the event loop: about 3 ms. More are indexed apart from it."""
MOST = 2_000
MOST_BYTES = 4_000_000
"""Entries, and their bytes, that are indexed at once: about 200 ms, for which other writers wait."""
WAITING = -1
"""The words of a row that stands for entries which are not indexed yet."""
LONGEST = 8
"""Entries of one passage, at the most: as far as the next one is looked for."""
MANY = 300
"""Passages that one word of a search finds at the most, the newest."""
COMMON = 2_000
"""Counting those with a word stops here: it tells little by then."""
COUNTED = 20_000
"""Counting the passages of a stretch stops here."""

_encode = msgspec.json.encode


class Passage(msgspec.Struct, frozen=True, gc=False):
    """Entries `first` to `last` of a branch's own rows. `text`: what is indexed of them, and its number of words."""

    branch: int
    first: int
    last: int
    text: str
    words: int


class Reach(msgspec.Struct, frozen=True, gc=False):
    """How far the index reaches along a line: how many passages it has, and the stretches without any, newest first."""

    size: int
    missing: Sequence[Segment]


class Place(msgspec.Struct, frozen=True, gc=False):
    """A passage that a word was found in."""

    id: int
    branch: int
    first: int
    last: int
    words: int


Cut = Callable[[Sequence[Told]], Sequence[Passage]]
"""Entries of one branch, oldest first -> the passages that they make."""


async def reach(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> Reach:
    """What is indexed of a line. Of each of its stretches one part that is missing is named, the newest."""
    rows = await db.all(
        """SELECT f.value ->> 0, f.value ->> 1, f.value ->> 2,
                  (SELECT p.last FROM passages p WHERE p.session = ? AND p.branch = f.value ->> 0 AND p.tenant = ?
                   AND p.last BETWEEN f.value ->> 1 AND f.value ->> 2 ORDER BY p.last DESC LIMIT 1),
                  (SELECT count(*) FROM (SELECT 1 FROM passages p
                   WHERE p.session = ? AND p.branch = f.value ->> 0 AND p.tenant = ?
                   AND p.last BETWEEN f.value ->> 1 AND f.value ->> 2 LIMIT ?)),
                  (SELECT json_array(p.first, p.last) FROM passages p INDEXED BY passages_waiting
                   WHERE p.session = ? AND p.branch = f.value ->> 0 AND p.tenant = ? AND p.words < 0
                   AND p.last BETWEEN f.value ->> 1 AND f.value ->> 2 ORDER BY p.last DESC LIMIT 1)
           FROM json_each(?) f""",
        (session, scope.tenant, session, scope.tenant, COUNTED, session, scope.tenant, _encode(line).decode()),
    )
    missing: list[Segment] = []
    for branch, first, last, upto, _, waiting in rows:
        if (upto or 0) < last:
            missing.append((branch, max(first, (upto or 0) + 1), last))
        elif waiting is not None:
            low, high = msgspec.json.decode(waiting)
            missing.append((branch, low, high))
    return Reach(sum(row[4] for row in rows), missing)


async def extend(db: Database, scope: Scope, session: int, stretch: Segment, cut: Cut) -> int:
    """Indexes the newest part of a stretch that `reach` named missing, and gives how many passages that made."""
    branch, first, last = stretch
    rows = await db.all(
        """SELECT seq, length(raw) FROM entries WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ?
           ORDER BY seq DESC LIMIT ?""",
        (scope.tenant, session, branch, first, last, MOST),
    )
    if not rows:
        return 0
    start, held = rows[0][0], 0
    for seq, size in rows:
        held += size
        if held > MOST_BYTES:
            break
        start = seq
    few = last - start < HERE and held <= HERE_BYTES
    write = db.transaction if few else db.apart
    return await write(lambda tx: _extend(tx, scope, session, stretch, start, cut))


def _extend(tx: Tx, scope: Scope, session: int, stretch: Segment, start: int, cut: Cut) -> int:
    branch, first, last = stretch
    rows = tx.all(
        """SELECT e.branch, e.seq, e.role, e.raw, e.tokens, e.calls, e.status, coalesce(e.said_at, t.created_at),
                  t.model
           FROM entries e JOIN turns t ON t.session = e.session AND t.turn = e.turn
           WHERE e.tenant = ? AND e.session = ? AND e.branch = ? AND e.seq BETWEEN ? AND ? ORDER BY e.seq""",
        (scope.tenant, session, branch, start, last),
    )
    told = [Told(row[0], row[1], row[2], blobs.bare(row[3]), *row[4:]) for row in rows]
    if start > first:  # the part begins with a question, so that no exchange is torn
        begin = next((n for n, one in enumerate(told) if one.role == "user"), 0)
        told = told[begin:]
    if not told:
        return 0
    tx.all(
        "DELETE FROM passages WHERE tenant = ? AND session = ? AND branch = ? AND last = ? AND words < 0",
        (scope.tenant, session, branch, last),
    )
    made = cut(told)
    added = sum([_put(tx, scope, session, passage) for passage in made])
    if told[0].seq > first:
        _put(tx, scope, session, Passage(branch, first, told[0].seq - 1, "", WAITING))
    return added


def _put(tx: Tx, scope: Scope, session: int, passage: Passage) -> int:
    rows = tx.all(
        """INSERT INTO passages (tenant, session, branch, first, last, words) VALUES (?, ?, ?, ?, ?, ?)
           ON CONFLICT DO NOTHING RETURNING id""",
        (scope.tenant, session, passage.branch, passage.first, passage.last, passage.words),
    )
    if rows and passage.words > 0:
        tx.all("INSERT INTO spoken (rowid, owner, text) VALUES (?, ?, ?)", (rows[0][0], f"s{session}", passage.text))
    return len(rows)


async def holding(
    db: Database, scope: Scope, session: int, line: Sequence[Segment], word: str
) -> tuple[list[Place], int]:
    """The newest passages that lie wholly on a line and hold a word (or another form of it), and how many there are
    about. Of a word that is made of several, those that hold all of them; any text will do."""
    found = matching.all_of(word)
    if not found:
        return [], 0
    wanted = f'owner : "s{session}" AND text : ({found})'
    rows = await db.all(
        """WITH h (branch, low, high) AS MATERIALIZED (
               SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?))
           SELECT p.id, p.branch, p.first, p.last, p.words FROM spoken w CROSS JOIN passages p ON p.id = w.rowid
           WHERE w.spoken MATCH ? AND p.tenant = ? AND p.session = ? AND EXISTS (
               SELECT 1 FROM h WHERE p.branch = h.branch AND p.first >= h.low AND p.last <= h.high)
           ORDER BY w.rowid DESC LIMIT ?""",
        (_encode(line).decode(), wanted, scope.tenant, session, MANY),
    )
    places = [Place(*row) for row in rows]
    if len(places) < MANY:
        return places, len(places)
    rows = await db.all(
        """SELECT count(*) FROM (SELECT 1 FROM spoken w WHERE w.spoken MATCH ?
               AND EXISTS (SELECT 1 FROM sessions WHERE tenant = ? AND id = ?) LIMIT ?)""",
        (wanted, scope.tenant, session, COMMON),
    )
    return places, rows[0][0]


async def beside(
    db: Database, scope: Scope, session: int, places: Sequence[Place]
) -> list[tuple[int, Place | None, Place | None]]:
    """For each of the passages, by its number, the one before and the one after it on its branch."""
    near = [(place.id, place.branch, place.first, place.last) for place in places]
    rows = await db.all(
        """SELECT f.value ->> 0, p.id, p.branch, p.first, p.last, p.words FROM json_each(?) f CROSS JOIN passages p
           WHERE p.session = ? AND p.branch = f.value ->> 1 AND p.tenant = ? AND p.last = (f.value ->> 2) - 1
           AND p.words > 0
           UNION ALL
           SELECT f.value ->> 0, p.id, p.branch, p.first, p.last, p.words FROM json_each(?) f CROSS JOIN passages p
           WHERE p.session = ? AND p.branch = f.value ->> 1 AND p.tenant = ? AND p.first = (f.value ->> 3) + 1
           AND p.last BETWEEN (f.value ->> 3) + 1 AND (f.value ->> 3) + ? AND p.words > 0""",
        (_encode(near).decode(), session, scope.tenant, _encode(near).decode(), session, scope.tenant,
         LONGEST),
    )  # fmt: skip
    lasts = {place.id: place.last for place in places}
    before = {row[0]: Place(*row[1:]) for row in rows if row[4] < lasts[row[0]]}
    after = {row[0]: Place(*row[1:]) for row in rows if row[3] > lasts[row[0]]}
    return [(place.id, before.get(place.id), after.get(place.id)) for place in places]


async def told(db: Database, scope: Scope, session: int, spans: Sequence[Segment]) -> list[tuple[Told, int]]:
    """The entries of some stretches with the numbers of their turns, each once, in the order of the log."""
    rows = await db.all(
        """SELECT e.branch, e.seq, e.role, e.raw, e.tokens, e.calls, e.status, coalesce(e.said_at, t.created_at),
                  t.model, e.turn
           FROM json_each(?) f CROSS JOIN entries e JOIN turns t ON t.session = e.session AND t.turn = e.turn
           WHERE e.tenant = ? AND e.session = ? AND e.branch = f.value ->> 0
           AND e.seq BETWEEN f.value ->> 1 AND f.value ->> 2""",
        (_encode(spans).decode(), scope.tenant, session),
    )
    found = {(row[1], row[0]): (Told(row[0], row[1], row[2], blobs.bare(row[3]), *row[4:9]), row[9]) for row in rows}
    return [found[place] for place in sorted(found)]


def _told(row: Row) -> Told:
    """A row as a message, without the large base64 of its images and files: nothing is looked for in that."""
    branch, seq, role, raw, *rest = row
    if raw[:1] == bytes((blobs.TAKEN,)):
        raw = b"".join(raw[1:].split(b"\x00")[::2])
    return Told(branch, seq, role, raw, *rest)
