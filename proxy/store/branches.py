"""Branches: places where one can begin, the lines that a request may continue, listing, making and deleting them.

A branch is one row with a pointer to the branch that owns the entry after which it begins, so that a chain of forks is
as long as they are nested, not as they were made. The root, branch 1, is never deleted.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from proxy.errors import Conflict, NotFound
from proxy.store import facets, turns
from proxy.store.database import Database, Row, Tx
from proxy.store.entries import Segment
from proxy.store.sessions import branches
from proxy.store.settings import missing
from proxy.types import ROOT_BRANCH, Branch, Scope, Status

COUNTED = 1000
"""Turns that are counted before others get their turn."""

FEW = 6
"""Branches that are looked for one by one; a longer chain is read with all of the session's branches."""

MOST = 1000
"""Branches that a session may have by forks and undos: a fork costs one row, but every resent history is compared with
all of them, and a list of them is one page. Edits and regenerations, each of which is a turn, may go beyond."""

_LIVING = "SELECT count(*) FROM branches WHERE tenant = ? AND session = ?"
_FINAL = {"x-should-retry": "false"}


class Point(msgspec.Struct, frozen=True, gc=False):
    """A place after which a branch can begin: an entry, with what its turn left. `branch` owns the entry; at the
    beginning, turn and seq 0, it is the root."""

    turn: int = 0
    branch: int = ROOT_BRANCH
    seq: int = 0
    total: int = 0
    digest: bytes = b""
    status: Status = "complete"
    instructions: int | None = None
    cut: int = 0
    cut_key: str = ""
    carried: bytes = b""


class Listed(msgspec.Struct, frozen=True, gc=False):
    """A branch as it is listed. `forked_at`: the turn after which it begins, None for the root; `turns`: how many were
    made on it."""

    number: int
    parent: int | None
    forked_at: int | None
    turns: int
    current: bool
    created_at: int


def line_of(every: Mapping[int, Branch], branch: Branch) -> list[Segment]:
    """The stretches that a branch's line is made of, newest first. `every`: the branches that it goes through."""
    line: list[Segment] = []
    upto = branch.head
    while True:
        if upto > branch.forked_at:
            line.append((branch.number, branch.forked_at + 1, upto))
        upto = min(upto, branch.forked_at)
        if branch.parent is None or upto == 0:
            return line
        branch = every[branch.parent]


def until(line: Sequence[Segment], seq: int) -> list[Segment]:
    """The part of a line up to and with `seq`."""
    return [(branch, first, min(last, seq)) for branch, first, last in line if first <= seq]


def since(line: Sequence[Segment], seq: int) -> list[Segment]:
    """The part of a line from `seq` on."""
    return [(branch, max(first, seq), last) for branch, first, last in line if last >= seq]


async def after(db: Database, scope: Scope, session: int, turn: int) -> Point | None:
    """The end of a turn; for 0, the beginning. None when there is no such turn."""
    if turn == 0:
        rows = await db.all(
            "SELECT branch FROM branches WHERE tenant = ? AND session = ? AND parent IS NULL ORDER BY branch LIMIT 1",
            (scope.tenant, session),
        )
        return Point(branch=rows[0][0]) if rows else None
    rows = await db.all(
        """SELECT t.turn, t.branch, t.last_seq, e.total, e.digest, e.status, t.instructions, t.cut, t.cut_key, t.carried
           FROM turns t JOIN entries e ON e.tenant = t.tenant AND e.session = t.session AND e.branch = t.branch
                                      AND e.seq = t.last_seq
           WHERE t.tenant = ? AND t.session = ? AND t.turn = ?""",
        (scope.tenant, session, turn),
    )
    return Point(*rows[0]) if rows else None


async def at(db: Database, scope: Scope, session: int, branch: int, seq: int) -> Point | None:
    """A branch's own entry as a place; it may stand within its turn."""
    rows = await db.all(
        """SELECT t.turn, e.branch, e.seq, e.total, e.digest, e.status, t.instructions, t.cut, t.cut_key, t.carried
           FROM entries e JOIN turns t ON t.tenant = e.tenant AND t.session = e.session AND t.turn = e.turn
           WHERE e.tenant = ? AND e.session = ? AND e.branch = ? AND e.seq = ?""",
        (scope.tenant, session, branch, seq),
    )
    return Point(*rows[0]) if rows else None


async def start_of(db: Database, scope: Scope, session: int, turn: int) -> int | None:
    """The seq of a turn's first entry."""
    rows = await db.all(
        "SELECT first_seq FROM turns WHERE tenant = ? AND session = ? AND turn = ?",
        (scope.tenant, session, turn),
    )
    return rows[0][0] if rows else None


async def lineage(db: Database, scope: Scope, session: int, branch: int) -> dict[int, Branch]:
    """A branch and those that its line goes through, by number; nothing where there is no such branch."""
    found = await _one(db, scope, session, branch)
    return await _with_parents(db, scope, session, found)


async def chain(db: Database, scope: Scope, session: int, branch: Branch) -> Mapping[int, Branch]:
    """`lineage` of a branch that was read already."""
    return await _with_parents(db, scope, session, {branch.number: branch})


async def reaching(db: Database, scope: Scope, session: int, current: Branch, digest: bytes) -> dict[int, Branch]:
    """The current branch and those that end with this message, and all that their lines go through, by number."""
    rows = await db.all(
        """SELECT branch, parent, forked_at, head, total, end_digest, end_status, last_turn, cut, cut_key, instructions,
                  carried
           FROM branches WHERE tenant = ? AND session = ? AND end_digest = ?""",
        (scope.tenant, session, digest),
    )
    found = {row[0]: Branch(*row) for row in rows} | {current.number: current}
    return await _with_parents(db, scope, session, found)


async def _with_parents(db: Database, scope: Scope, session: int, found: dict[int, Branch]) -> dict[int, Branch]:
    """The branches with all above them: the first few one by one, then the session's other branches at once.

    Intentional: not one recursive statement, whose temporary table alone costs more than ten of these."""
    looked_up = 0
    waiting = list(found.values())
    while waiting:
        above = waiting.pop().parent
        if above is None or above in found:
            continue
        looked_up += 1
        more = await (_one(db, scope, session, above) if looked_up <= FEW else branches(db, scope, session))
        waiting += [more[above]] if above in more else []
        found = more | found
    return found


async def _one(db: Database, scope: Scope, session: int, branch: int) -> dict[int, Branch]:
    rows = await db.all(
        """SELECT branch, parent, forked_at, head, total, end_digest, end_status, last_turn, cut, cut_key, instructions,
                  carried
           FROM branches WHERE tenant = ? AND session = ? AND branch = ?""",
        (scope.tenant, session, branch),
    )
    return {row[0]: Branch(*row) for row in rows}


async def page(db: Database, scope: Scope, session: int, limit: int, offset: int) -> list[Listed]:
    """Branches in the order in which they were made."""
    rows = await db.all(
        """SELECT b.branch, b.parent, b.forked_at, e.turn, s.branch, b.created_at
           FROM branches b
           JOIN sessions s ON s.id = b.session
           LEFT JOIN entries e ON e.tenant = b.tenant AND e.session = b.session AND e.branch = b.parent
                               AND e.seq = b.forked_at
           WHERE b.tenant = ? AND b.session = ? ORDER BY b.branch LIMIT ? OFFSET ?""",
        (scope.tenant, session, limit, offset),
    )
    made = await _made(db, scope, session)
    found = []
    for branch, parent, seq, turn, current, created_at in rows:
        forked_at = None if parent is None else turn or 0
        if parent is not None and seq and turn is None:  # made before branches pointed to the owner of their start
            forked_at = await _turn_at(db, scope, session, parent, seq)
        found.append(Listed(branch, parent, forked_at, made[branch], branch == current, created_at))
    return found


async def _made(db: Database, scope: Scope, session: int) -> Counter[int]:
    """How many turns were made on each branch."""
    found: Counter[int] = Counter()
    last = 0
    while True:
        rows = await db.all(
            "SELECT turn, branch FROM turns WHERE tenant = ? AND session = ? AND turn > ? ORDER BY turn LIMIT ?",
            (scope.tenant, session, last, COUNTED),
        )
        found.update([row[1] for row in rows])
        if len(rows) < COUNTED:
            return found
        last = rows[-1][0]
        await asyncio.sleep(0)  # others get their turn


async def _turn_at(db: Database, scope: Scope, session: int, branch: int, seq: int) -> int:
    """The turn of the entry that stands at a place of a branch's line."""
    every = await lineage(db, scope, session, branch)
    place = await at(db, scope, session, *_end(until(line_of(every, every[branch]), seq)))
    return 0 if place is None else place.turn


def _end(line: Sequence[Segment]) -> tuple[int, int]:
    return (line[0][0], line[0][2]) if line else (0, 0)


class Once(msgspec.Struct, frozen=True, gc=False):
    """An Idempotency-Key, and the hash that a retry must share with the request it came with."""

    key: str
    request: bytes


class Why(msgspec.Struct, frozen=True, gc=False):
    """`undone`: the turn that a branch takes back, whose answer is given to no retry any more; 0 for a fork. `once`:
    under which key it is made."""

    undone: int = 0
    once: Once | None = None


FORKED = Why()


async def made(db: Database, scope: Scope, session: int, once: Once, now: int) -> Listed | None:
    """The branch that was made under a key in the last 24 hours. Raises Unprocessable for a key of something else."""
    rows = await db.all(
        "SELECT request, answer FROM replays WHERE tenant = ? AND session = ? AND key = ? AND created_at >= ?",
        (scope.tenant, session, once.key, now - turns.KEY_HOURS * 3_600_000),
    )
    if rows and rows[0][0] != once.request:
        raise turns.key_reused()
    return msgspec.json.decode(rows[0][1], type=Listed) if rows else None


async def begin(db: Database, scope: Scope, session: int, point: Point, now: int, why: Why = FORKED) -> Listed:
    """Makes a branch after the point, and the current one. Raises NotFound when the session is gone, Conflict when it
    has `MOST` branches."""

    def work(tx: Tx) -> Listed:
        rows = tx.all(
            """UPDATE sessions SET branches = branches + 1, branch = branches + 1, updated_at = ?
               WHERE tenant = ? AND id = ? RETURNING branch""",
            (now, scope.tenant, session),
        )
        if not rows:
            raise missing()
        number = rows[0][0]
        if number > MOST and tx.all(_LIVING, (scope.tenant, session))[0][0] >= MOST:
            raise too_many()
        tx.all(
            """INSERT INTO branches (tenant, session, branch, parent, forked_at, head, total, end_digest, end_status,
                                     last_turn, cut, cut_key, instructions, carried, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (scope.tenant, session, number, point.branch, point.seq, point.seq, point.total, point.digest, point.status,
             point.turn, point.cut, point.cut_key, point.instructions, point.carried, now),
        )  # fmt: skip
        if why.undone:
            _forget_answer(tx, scope, session, why.undone)
        facets.touch(tx, scope, "session", session, now)
        listed = Listed(number, point.branch, point.turn, 0, True, now)
        if why.once is not None:
            tx.all(
                """INSERT INTO replays (tenant, session, key, turn, request, answer, created_at)
                   VALUES (?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT (session, key) DO UPDATE SET turn = excluded.turn, request = excluded.request,
                       answer = excluded.answer, created_at = excluded.created_at""",
                (scope.tenant, session, why.once.key, 0, why.once.request, msgspec.json.encode(listed), now),
            )
        return listed

    return await db.transaction(work)


def _forget_answer(tx: Tx, scope: Scope, session: int, turn: int) -> None:
    where = (scope.tenant, session)
    tx.all("UPDATE sessions SET answered = NULL, request = NULL, answer = NULL WHERE tenant = ? AND id = ?", where)
    tx.all("DELETE FROM replays WHERE tenant = ? AND session = ? AND turn = ?", (*where, turn))


async def living(db: Database, scope: Scope, session: int) -> int:
    """How many branches a session has."""
    rows = await db.all(_LIVING, (scope.tenant, session))
    return rows[0][0]


def too_many(param: str | None = None) -> Conflict:
    """For a fork or an undo of a session that has `MOST` branches."""
    return Conflict(
        f"this session has {MOST:,} branches, the most that forks may make; delete some with "
        "DELETE /sessions/{id}/branches/{n}",
        param=param,
        code="too_many_branches",
        headers=_FINAL,
    )


async def delete(db: Database, scope: Scope, session: int, branch: int, now: int) -> None:
    """Removes a branch with its own turns, and the instructions and large base64 that only those needed. Raises
    NotFound, and Conflict for the current one and one that others begin on."""
    await db.apart(lambda tx: _delete(tx, scope, session, branch, now))


def _delete(tx: Tx, scope: Scope, session: int, branch: int, now: int) -> None:
    where = (scope.tenant, session, branch)
    rows: list[Row] = tx.all(
        """SELECT s.branch FROM sessions s JOIN branches b ON b.tenant = s.tenant AND b.session = s.id
           WHERE s.tenant = ? AND s.id = ? AND b.branch = ?""",
        where,
    )
    if not rows:
        raise unknown()
    if rows[0][0] == branch:
        raise Conflict(
            f"branch {branch} is the current one; continue another one first",
            param="branch",
            code="branch_current",
            headers=_FINAL,
        )
    children = tx.all(
        "SELECT branch FROM branches WHERE tenant = ? AND session = ? AND parent = ? ORDER BY branch LIMIT 1", where
    )
    if children:
        raise Conflict(
            f"branch {children[0][0]} begins on branch {branch}; delete that one first",
            param="branch",
            code="branch_has_children",
            headers=_FINAL,
        )
    _remove(tx, scope, session, branch, now)
    facets.touch(tx, scope, "session", session, now)


def _remove(tx: Tx, scope: Scope, session: int, branch: int, now: int) -> None:
    """The branch's rows, and what nothing else of the session needs any more."""
    where = (scope.tenant, session, branch)
    tx.all(
        """UPDATE sessions SET updated_at = ?, answered = NULL, request = NULL, answer = NULL
           WHERE tenant = ? AND id = ? AND answered IN (
               SELECT turn FROM turns WHERE tenant = ? AND session = ? AND branch = ?)""",
        (now, scope.tenant, session, *where),
    )
    tx.all(
        """DELETE FROM replays WHERE tenant = ? AND session = ? AND turn IN (
               SELECT turn FROM turns WHERE tenant = ? AND session = ? AND branch = ?)""",
        (scope.tenant, session, *where),
    )
    tx.all("DELETE FROM entries WHERE tenant = ? AND session = ? AND branch = ?", where)
    tx.all("DELETE FROM turns WHERE tenant = ? AND session = ? AND branch = ?", where)
    tx.all("DELETE FROM summaries WHERE tenant = ? AND session = ? AND branch = ?", where)
    tx.all("DELETE FROM passages WHERE tenant = ? AND session = ? AND branch = ?", where)
    tx.all("DELETE FROM blob_uses WHERE tenant = ? AND session = ? AND branch = ?", where)
    tx.all("DELETE FROM branches WHERE tenant = ? AND session = ? AND branch = ?", where)
    tx.all(
        """DELETE FROM instructions WHERE tenant = ? AND session = ?
             AND id NOT IN (SELECT instructions FROM turns
                            WHERE tenant = ? AND session = ? AND instructions IS NOT NULL)
             AND id NOT IN (SELECT instructions FROM branches
                            WHERE tenant = ? AND session = ? AND instructions IS NOT NULL)""",
        (scope.tenant, session) * 3,
    )


def unknown() -> NotFound:
    """For a branch that is not there."""
    return NotFound("there is no such branch; GET /sessions/{id}/branches lists them", code="branch_not_found")
