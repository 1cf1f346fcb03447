"""Summaries of conversations, each of a line's entries from the first up to one, and how many calls they have cost.

A summary stands under the branch that owns the last entry it covers, so that forks share what they have in common.
None is ever changed or pruned: the cap on a session's calls bounds them, and a fork finds those before it began.
"""

from collections.abc import Sequence

import msgspec

from proxy.store import blobs
from proxy.store.database import Database, Tx
from proxy.store.entries import PAGE, Segment
from proxy.types import Entry, Scope

GAP = b"[...]"


class Summary(msgspec.Struct, frozen=True, gc=False):
    """What stands in for the entries up to `upto`. `tokens`: the raw price of the message that carries it."""

    branch: int
    upto: int
    tokens: int
    model: str
    created_at: int
    text: str


async def newest(
    db: Database, scope: Scope, session: int, line: Sequence[Segment], below: int | None = None
) -> Summary | None:
    """The summary on a line that covers the most, but ends before the seq `below`."""
    found = [place for place in await _places(db, scope, session, line) if below is None or place[1] < below]
    return await _at(db, scope, session, found)


async def around(
    db: Database, scope: Scope, session: int, line: Sequence[Segment], cut: int
) -> tuple[Summary | None, Summary | None]:
    """The newest summary of what stands before the seq `cut`, and the newest one that reaches to it or beyond."""
    found = await _places(db, scope, session, line)
    if not found:
        return None, None
    before = await _at(db, scope, session, [place for place in found if place[1] < cut])
    return before, await _at(db, scope, session, [place for place in found if place[1] >= cut])


async def _places(db: Database, scope: Scope, session: int, line: Sequence[Segment]) -> list[tuple[int, int]]:
    """(branch, upto) of the summaries on a line. All of the session are read, which are few: so many stretches cost
    no more than one."""
    rows = await db.all(
        "SELECT branch, upto FROM summaries INDEXED BY summaries_places WHERE tenant = ? AND session = ?",
        (scope.tenant, session),
    )
    spans = {branch: (first, last) for branch, first, last in line} if rows else {}
    return [(branch, upto) for branch, upto in rows if branch in spans and spans[branch][0] <= upto <= spans[branch][1]]


async def _at(db: Database, scope: Scope, session: int, places: Sequence[tuple[int, int]]) -> Summary | None:
    """The one of these that covers the most."""
    if not places:
        return None
    rows = await db.all(
        """SELECT branch, upto, tokens, model, created_at, text FROM summaries
           WHERE tenant = ? AND session = ? AND branch = ? AND upto = ?""",
        (scope.tenant, session, *max(places, key=lambda place: place[1])),
    )
    return Summary(*rows[0]) if rows else None


async def uncovered(db: Database, scope: Scope, session: int, line: Sequence[Segment], first: int) -> list[Entry]:
    """Up to 256 entries along a line from the seq `first` on, oldest first; they end where a branch does."""
    for branch, low, high in reversed(line):
        if high < first:
            continue
        rows = await db.all(
            """SELECT seq, role, raw, tokens, total, calls, turn, status FROM entries
               WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ?""",
            (scope.tenant, session, branch, max(low, first), high, PAGE),
        )
        return [Entry(seq, role, blobs.bare(raw, GAP), *rest) for seq, role, raw, *rest in rows]
    return []


async def add(db: Database, scope: Scope, session: int, turn: int, made: Summary) -> bool:
    """Stores a summary whose last entry belongs to `turn`. False when that entry is gone, with its session or in a
    conversation that was cleared meanwhile, or when the summary is there already."""
    return await db.transaction(lambda tx: _add(tx, scope, session, turn, made))


def _add(tx: Tx, scope: Scope, session: int, turn: int, made: Summary) -> bool:
    rows = tx.all(
        """INSERT INTO summaries (tenant, session, branch, upto, tokens, model, created_at, text)
           SELECT tenant, session, branch, seq, ?, ?, ?, ? FROM entries
           WHERE tenant = ? AND session = ? AND branch = ? AND seq = ? AND turn = ?
           ON CONFLICT DO NOTHING RETURNING upto""",
        (made.tokens, made.model, made.created_at, made.text,
         scope.tenant, session, made.branch, made.upto, turn),
    )  # fmt: skip
    return bool(rows)


async def take_call(db: Database, scope: Scope, session: int, most: int) -> bool:
    """Counts a call before it is made, so that no crash hides one. False when the session had `most`, or is gone."""
    if most < 1:
        return False
    return await db.transaction(lambda tx: _take_call(tx, scope, session, most))


def _take_call(tx: Tx, scope: Scope, session: int, most: int) -> bool:
    rows = tx.all(
        """INSERT INTO summary_calls (tenant, session, calls)
           SELECT tenant, id, 1 FROM sessions WHERE tenant = ? AND id = ?
           ON CONFLICT (session) DO UPDATE SET calls = calls + 1 WHERE calls < ? RETURNING calls""",
        (scope.tenant, session, most),
    )
    return bool(rows)


async def give_call_back(db: Database, scope: Scope, session: int) -> None:
    """Uncounts a call that no model answered."""
    await db.transaction(
        lambda tx: tx.all(
            "UPDATE summary_calls SET calls = calls - 1 WHERE tenant = ? AND session = ? AND calls >= 1",
            (scope.tenant, session),
        )
    )


async def summarized(db: Database, scope: Scope, sessions: Sequence[int]) -> set[int]:
    """Those of the sessions that have a summary on any branch."""
    rows = await db.all(
        """SELECT f.value FROM json_each(?) f
           WHERE EXISTS (SELECT 1 FROM summaries c WHERE c.tenant = ? AND c.session = f.value)""",
        (msgspec.json.encode(sessions).decode(), scope.tenant),
    )
    return {row[0] for row in rows}
