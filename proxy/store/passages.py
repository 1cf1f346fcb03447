"""Exchanges that left the window of a long session, and the index of their words.

The number of a passage says which session it is of, in which order it was made, and about how many words it has: the
index of words then finds those of one session as a range of numbers, and a search reads no more than that of most.

The index follows the log when a search asks for it, never a plain turn: some entries in the event loop, more apart from
it, and of a long backlog one part at a time, the newest first. What is left of it is a row of its own, without words.
Intentional: passages may overlap where lines part or a cut moves back, since none reaches beyond what it was made for.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from proxy.store import blobs, matching
from proxy.store.database import Database, Tx
from proxy.store.entries import Segment
from proxy.store.history import Told
from proxy.types import ROOT_BRANCH, Scope

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
WIDE = 3_000
"""The same where the session has newer passages that do not lie on the line."""

STEP = 8
"""Words that the length of a passage is told in, within its number."""
_LENGTH, _ORDER = 7, 24
"""Bits of a passage's number for its length and for its place among those of its session, which stands above them."""
LENGTHS = 1 << _LENGTH
"""The remainder by this is a passage's length, in steps."""
_LAST = (1 << _ORDER) - 1

_encode = msgspec.json.encode
_ids = msgspec.json.Decoder(list[int]).decode


class Passage(msgspec.Struct, frozen=True, gc=False):
    """Entries `first` to `last` of a branch's own rows. `text`: what is indexed of them, and its number of words."""

    branch: int
    first: int
    last: int
    text: str
    words: int


class Reach(msgspec.Struct, frozen=True, gc=False):
    """How far the index reaches along a line: how many passages the session has, the stretches without any, newest
    first, and whether there may be newer passages that do not lie on the line."""

    size: int
    missing: Sequence[Segment]
    mixed: bool


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a passage stands; `turn`: the one of its first entry."""

    id: int
    branch: int
    first: int
    last: int
    words: int
    turn: int


Cut = Callable[[Sequence[Told]], Sequence[Passage]]
"""Entries of one branch, oldest first -> the passages that they make."""


def _number(session: int, order: int, words: int) -> int:
    return ((session << _ORDER | order) << _LENGTH) + min(max(words, 0) // STEP, LENGTHS - 1)


def _order(id: int) -> int:
    return id >> _LENGTH & _LAST


def _range(session: int) -> tuple[int, int]:
    return _number(session, 0, 0), _number(session + 1, 0, 0) - 1


async def reach(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> Reach:
    """What is indexed of a line. Of each of its stretches one part that is missing is named, the newest."""
    rows = await db.all(
        """SELECT f.value ->> 0, f.value ->> 1, f.value ->> 2,
                  (SELECT p.last FROM passages p WHERE p.session = ? AND p.branch = f.value ->> 0 AND p.tenant = ?
                   AND p.last BETWEEN f.value ->> 1 AND f.value ->> 2 ORDER BY p.last DESC LIMIT 1),
                  (SELECT json_array(p.first, p.last) FROM passages p INDEXED BY passages_waiting
                   WHERE p.session = ? AND p.branch = f.value ->> 0 AND p.tenant = ? AND p.words < 0
                   AND p.last BETWEEN f.value ->> 1 AND f.value ->> 2 ORDER BY p.last DESC LIMIT 1),
                  (SELECT p.id FROM passages p WHERE p.id BETWEEN ? AND ? AND p.tenant = ? ORDER BY p.id DESC LIMIT 1),
                  EXISTS (SELECT 1 FROM passages p WHERE p.session = ? AND p.branch = f.value ->> 0 AND p.tenant = ?
                          AND p.last > f.value ->> 2)
                  OR EXISTS (SELECT 1 FROM passages p WHERE p.session = ? AND p.branch > f.value ->> 0 AND p.tenant = ?)
           FROM json_each(?) f""",
        (session, scope.tenant, session, scope.tenant, *_range(session), scope.tenant, session, scope.tenant,
         session, scope.tenant, _encode(line).decode()),
    )  # fmt: skip
    missing: list[Segment] = []
    for branch, first, last, upto, waiting, *_ in rows:
        if (upto or 0) < last:
            missing.append((branch, max(first, (upto or 0) + 1), last))
        elif waiting is not None:
            low, high = msgspec.json.decode(waiting)
            missing.append((branch, low, high))
    newest = rows[0][5] if rows else None
    return Reach(_order(newest or 0), missing, any(row[6] or row[0] > ROOT_BRANCH for row in rows))


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
                  t.model, e.turn
           FROM entries e JOIN turns t ON t.session = e.session AND t.turn = e.turn
           WHERE e.tenant = ? AND e.session = ? AND e.branch = ? AND e.seq BETWEEN ? AND ? ORDER BY e.seq""",
        (scope.tenant, session, branch, start, last),
    )
    told = [Told(row[0], row[1], row[2], blobs.bare(row[3]), *row[4:9]) for row in rows]
    if start > first:  # the part begins with a question, so that no exchange is torn
        begin = next((n for n, one in enumerate(told) if one.role == "user"), 0)
        told = told[begin:]
    if not told:
        return 0
    tx.all(
        "DELETE FROM passages WHERE tenant = ? AND session = ? AND branch = ? AND last = ? AND words < 0",
        (scope.tenant, session, branch, last),
    )
    turns = {row[1]: row[9] for row in rows}
    rest = [Passage(branch, first, told[0].seq - 1, "", WAITING)] if told[0].seq > first else []
    return _put(tx, scope, session, [*rest, *cut(told)], turns)


def _put(tx: Tx, scope: Scope, session: int, made: Sequence[Passage], turns: Mapping[int, int]) -> int:
    """How many of the passages are new and indexed. No session has more of them than there are numbers."""
    rows = tx.all(
        "SELECT id FROM passages WHERE id BETWEEN ? AND ? AND tenant = ? ORDER BY id DESC LIMIT 1",
        (*_range(session), scope.tenant),
    )
    order = _order(rows[0][0]) if rows else 0
    added = 0
    for passage in made[: _LAST - order]:
        id = _number(session, order + 1, passage.words)
        rows = tx.all(
            """INSERT INTO passages (tenant, id, session, branch, first, last, words, turn)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id""",
            (scope.tenant, id, session, passage.branch, passage.first, passage.last, passage.words,
             turns.get(passage.first, 0)),
        )  # fmt: skip
        order += len(rows)
        if rows and passage.words > 0:
            tx.all("INSERT INTO spoken (rowid, text) VALUES (?, ?)", (id, passage.text))
            added += 1
    return added


async def holding(
    db: Database, scope: Scope, session: int, words: Sequence[str], most: int = MANY
) -> list[tuple[list[int], int]]:
    """For each word the newest passages of the session that hold it (or another form of it), newest first, and how many
    there are about. Of a word that is made of several, those that hold all of them; any text will do."""
    wanted = [matching.all_of(word) for word in words]
    rows = await db.all(
        """SELECT f.key, (SELECT json_group_array(h.rowid) FROM (
               SELECT w.rowid FROM spoken w WHERE w.spoken MATCH f.value AND w.rowid BETWEEN ? AND ?
               ORDER BY w.rowid DESC LIMIT ?) h)
           FROM json_each(?) f WHERE f.value <> '' AND EXISTS (SELECT 1 FROM sessions WHERE tenant = ? AND id = ?)""",
        (*_range(session), most, _encode(wanted).decode(), scope.tenant, session),
    )
    found = {row[0]: _ids(row[1]) for row in rows}
    lists = [found.get(n, []) for n in range(len(wanted))]
    top = max([_order(ids[0]) for ids in lists if ids], default=0)
    return [(ids, _about(ids, top) if len(ids) == most else len(ids)) for ids in lists]


def _about(ids: Sequence[int], top: int) -> int:
    """How many passages hold a word: among all as often as among the newest, down to the last of `ids`."""
    return len(ids) * top // (top - _order(ids[-1]) + 1)


async def around(db: Database, scope: Scope, session: int, ids: Sequence[int], lending: int) -> list[Place]:
    """Where these passages stand, and of the first `lending` those before and after them on their branches."""
    where = (scope.tenant, session)
    if not lending:
        rows = await db.all(_THESE, (_encode(ids).decode(), *where))
    else:
        first = _encode(ids[:lending]).decode()
        rows = await db.all(_BESIDE, (_encode(ids).decode(), *where, first, *where, first, *where, LONGEST))
    return [Place(*row) for row in {row[0]: row for row in rows}.values()]


_THESE = """SELECT p.id, p.branch, p.first, p.last, p.words, p.turn FROM json_each(?) f CROSS JOIN passages p
            WHERE p.id = f.value AND p.tenant = ? AND p.session = ?"""
_BESIDE = """SELECT p.id, p.branch, p.first, p.last, p.words, p.turn FROM json_each(?) f CROSS JOIN passages p
             WHERE p.id = f.value AND p.tenant = ? AND p.session = ?
             UNION ALL
             SELECT p.id, p.branch, p.first, p.last, p.words, p.turn
             FROM json_each(?) f CROSS JOIN passages c CROSS JOIN passages p
             WHERE c.id = f.value AND c.tenant = ? AND c.session = ? AND p.session = c.session AND p.branch = c.branch
             AND p.tenant = c.tenant AND p.last = c.first - 1 AND p.words > 0
             UNION ALL
             SELECT p.id, p.branch, p.first, p.last, p.words, p.turn
             FROM json_each(?) f CROSS JOIN passages c CROSS JOIN passages p
             WHERE c.id = f.value AND c.tenant = ? AND c.session = ? AND p.session = c.session AND p.branch = c.branch
             AND p.tenant = c.tenant AND p.last BETWEEN c.last + 1 AND c.last + ? AND p.first = c.last + 1
             AND p.words > 0"""


async def told(db: Database, scope: Scope, session: int, spans: Sequence[Segment]) -> list[Told]:
    """The entries of some stretches, each once, in the order of the log."""
    rows = await db.all(
        """SELECT e.branch, e.seq, e.role, e.raw, e.tokens, e.calls, e.status, coalesce(e.said_at, t.created_at),
                  t.model
           FROM json_each(?) f CROSS JOIN entries e JOIN turns t ON t.session = e.session AND t.turn = e.turn
           WHERE e.tenant = ? AND e.session = ? AND e.branch = f.value ->> 0
           AND e.seq BETWEEN f.value ->> 1 AND f.value ->> 2""",
        (_encode(spans).decode(), scope.tenant, session),
    )
    found = {(row[1], row[0]): row for row in rows}
    return [Told(row[0], row[1], row[2], blobs.bare(row[3]), *row[4:]) for _, row in sorted(found.items())]
