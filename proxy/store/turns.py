"""Turns: the one write of the hot path, and the answers kept for retries."""

import hashlib
from collections.abc import Sequence

import msgspec

from proxy.errors import Conflict, Unavailable, Unprocessable
from proxy.store import blobs, calibrations, choices, completions, facets, keys, sessions
from proxy.store.database import Database, Tx, Value
from proxy.types import Branch, Instructions, Message, Scope, Session, Status

KEY_HOURS = 24
PRUNE = 20
"""Old keys that one commit removes at the most, so that no turn pays for a backlog."""


class Calibrated(msgspec.Struct, frozen=True, gc=False):
    """What an upstream taught about a model by now, as it is kept."""

    upstream: str
    model: str
    state: bytes


class Record(msgspec.Struct, frozen=True, gc=False):
    """All that one turn stores.

    `session` None: the session is made, as `name`. `branch` None with it. `fork_at`: a new branch starts after that
    seq of `branch`, whose running total there is `fork_total`. `number`: the turn's number. `answer` b"": kept for no
    retry. `request`: the hash that a retry must share. `carried`: JSON of types.Carried. `recalled`: the text
    that went up with the turn's user message. `choices`: what the history does not tell of the answer (choices.py).
    Times are epoch milliseconds.
    """

    uuid: str
    name: str
    session: Session | None
    branch: Branch | None
    fork_at: int | None
    fork_total: int
    number: int
    messages: Sequence[Message]
    instructions: Instructions
    cut: int
    cut_key: str
    status: Status
    model: str
    request_id: str
    ledger: bytes
    usage: bytes | None
    key: str
    request: bytes
    answer: bytes
    now: int
    carried: bytes = b""
    recalled: bytes | None = None
    learnt: Calibrated | None = None
    completion: completions.New | None = None
    choices: bytes | None = None


class Answered(msgspec.Struct, frozen=True, gc=False):
    """The stored answer of an earlier request: its turn and branch, its hash, the answer, and when (epoch ms)."""

    turn: int
    branch: int
    request: bytes
    answer: bytes
    at: int


async def answered(db: Database, scope: Scope, session: int, key: str, now: int) -> Answered | None:
    """What was answered under an Idempotency-Key in the last 24 hours; the latest turn's answer for an empty key."""
    if key:
        rows = await db.all(
            """SELECT r.turn, t.branch, r.request, r.answer, r.created_at
               FROM replays r JOIN turns t ON t.tenant = r.tenant AND t.session = r.session AND t.turn = r.turn
               WHERE r.tenant = ? AND r.session = ? AND r.key = ? AND r.created_at >= ?""",
            (scope.tenant, session, key, now - KEY_HOURS * 3_600_000),
        )
    else:
        rows = await db.all(
            """SELECT s.answered, t.branch, s.request, s.answer, s.updated_at
               FROM sessions s JOIN turns t ON t.tenant = s.tenant AND t.session = s.id AND t.turn = s.answered
               WHERE s.tenant = ? AND s.id = ? AND s.answer IS NOT NULL""",
            (scope.tenant, session),
        )
    return Answered(*rows[0]) if rows else None


def key_reused() -> Unprocessable:
    """For an Idempotency-Key that was used for another request."""
    return Unprocessable(
        "this Idempotency-Key was used for another request of this session; use a new key",
        param="Idempotency-Key",
        code="idempotency_key_reused",
        headers={"x-should-retry": "false"},
    )


async def recalled(db: Database, scope: Scope, session: int, turn: int) -> str:
    """The text that was recalled for a turn's user message; empty for none."""
    rows = await db.all(
        "SELECT recalled FROM turns WHERE tenant = ? AND session = ? AND turn = ?", (scope.tenant, session, turn)
    )
    return rows[0][0].decode() if rows and rows[0][0] is not None else ""


async def sent_in(db: Database, scope: Scope, session: int, turn: int) -> tuple[int, list[bytes]]:
    """The first seq of a turn and the digests of its new messages, without the reply."""
    rows = await db.all(
        """SELECT e.seq, e.digest, e.status FROM turns t
           JOIN entries e ON e.tenant = t.tenant AND e.session = t.session AND e.branch = t.branch
                         AND e.seq BETWEEN t.first_seq AND t.last_seq
           WHERE t.tenant = ? AND t.session = ? AND t.turn = ? ORDER BY e.seq""",
        (scope.tenant, session, turn),
    )
    return (rows[0][0], [digest for _, digest, status in rows if status == "complete"]) if rows else (0, [])


async def append(db: Database, scope: Scope, record: Record) -> tuple[int, int]:
    """Stores a turn in one transaction and gives its (session, branch). Raises Conflict when the session is gone,
    Unavailable when it has moved on or the storage cannot commit."""
    kept = await blobs.prepared([message.raw for message in record.messages])
    return await db.transaction(lambda tx: _append(tx, scope, record, kept))


def _append(tx: Tx, scope: Scope, record: Record, kept: Sequence[blobs.Taken]) -> tuple[int, int]:
    scope = keys.owning(tx, scope, record.now)
    session = _session(tx, scope, record)
    instructions = _instructions(tx, scope, session, record)
    branch, head, total = _place(tx, scope, session, record)
    rows = record.messages
    end = rows[-1]
    moved = tx.all(
        """UPDATE branches SET head = ?, total = ?, end_digest = ?, end_status = ?, last_turn = ?, cut = ?, cut_key = ?,
                  instructions = ?, carried = ?
           WHERE tenant = ? AND session = ? AND branch = ? AND head = ? RETURNING branch""",
        (head + len(rows), total + sum([row.tokens for row in rows]), end.digest, end.status, record.number, record.cut,
         record.cut_key, instructions, record.carried, scope.tenant, session, branch, head),
    )  # fmt: skip
    if not moved:
        raise _moved_on()
    values: list[Value] = []
    for n, (message, (raw, runs)) in enumerate(zip(rows, kept, strict=True), 1):
        total += message.tokens
        blobs.keep(tx, scope, session, branch, runs)
        values += (scope.tenant, session, branch, head + n, record.number, message.role, message.tokens, total,
                   message.calls, message.status, message.digest, raw)  # fmt: skip
    _insert(tx, values)
    _date(tx, scope, (session, branch, head), rows)
    tx.all(
        """INSERT INTO turns (tenant, session, turn, branch, first_seq, last_seq, status, model, instructions,
                              request_id, ledger, usage, created_at, cut, cut_key, carried, recalled)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (scope.tenant, session, record.number, branch, head + 1, head + len(rows), record.status, record.model,
         instructions, record.request_id, record.ledger, record.usage, record.now,
         record.cut, record.cut_key, record.carried, record.recalled),
    )  # fmt: skip
    _keep_answer(tx, scope, session, record)
    if record.choices is not None:
        choices.put(tx, scope, session, record.number, record.choices)
    if record.completion is not None:
        completions.put(tx, scope, record.completion, (session, record.number))
    if record.learnt is not None:
        calibrations.put(tx, record.learnt.upstream, record.learnt.model, record.learnt.state, record.now)
    return session, branch


COLUMNS = 12


def _insert(tx: Tx, values: list[Value]) -> None:
    """The entries, in pairs where it goes: a question and its answer are one statement."""
    pair = 2 * COLUMNS
    for at in range(0, len(values), pair):
        row = values[at : at + pair]
        if len(row) == pair:
            tx.all(
                """INSERT INTO entries (tenant, session, branch, seq, turn, role, tokens, total, calls, status, digest,
                                        raw)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                row,
            )
        else:
            tx.all(
                """INSERT INTO entries (tenant, session, branch, seq, turn, role, tokens, total, calls, status, digest,
                                        raw)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                row,
            )


def _date(tx: Tx, scope: Scope, place: tuple[int, int, int], rows: Sequence[Message]) -> None:
    """Marks the messages that were said at another time than now. `place`: session, branch, and the seq before them."""
    session, branch, head = place
    for n, message in enumerate(rows, 1):
        if message.said_at is not None:
            tx.all(
                "UPDATE entries SET said_at = ? WHERE tenant = ? AND session = ? AND branch = ? AND seq = ?",
                (message.said_at, scope.tenant, session, branch, head + n),
            )


def _session(tx: Tx, scope: Scope, record: Record) -> int:
    """The session's number; made here for a first turn, so that a failed one leaves nothing."""
    if record.session is None:
        if sessions.is_uuid(record.name) and sessions.has_uuid(tx, scope, record.name):
            raise _moved_on()  # made since the turn began
        rows = tx.all(
            """INSERT INTO sessions (tenant, uuid, name, branch, branches, turns, created_at, updated_at, answered,
                                     request, answer)
               VALUES (?, ?, ?, 1, 1, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id""",
            (scope.tenant, record.uuid, record.name, record.number, record.now, record.now, *_latest(record)),
        )
        if not rows:
            raise _moved_on()
        facets.write(tx, scope, "session", rows[0][0], [facets.EVERY], (record.now, record.now))
        return rows[0][0]
    rows = tx.all(
        """UPDATE sessions SET turns = max(turns, ?), branch = ?, branches = branches + ?, updated_at = ?,
                  answered = ?, request = ?, answer = ?
           WHERE tenant = ? AND id = ? RETURNING id""",
        (record.number, _number_of(record), int(record.fork_at is not None), record.now, *_latest(record),
         scope.tenant, record.session.id),
    )  # fmt: skip
    if not rows:
        raise Conflict(
            "this session was deleted while its turn ran; nothing was stored, start a new session",
            code="session_deleted",
            headers={"x-should-retry": "false"},
        )
    facets.touch(tx, scope, "session", record.session.id, record.now)
    return record.session.id


def _number_of(record: Record) -> int:
    """The number of the branch that the turn stands on."""
    if record.session is None or record.branch is None:
        return 1
    return record.branch.number if record.fork_at is None else record.session.branches + 1


def _place(tx: Tx, scope: Scope, session: int, record: Record) -> tuple[int, int, int]:
    """(branch, head, running total) to append after; makes the branch where it is new. A branch whose head is another
    by now is refused by the update that follows."""
    number = _number_of(record)
    old = record.branch
    if old is not None and record.fork_at is None:
        return number, old.head, old.total
    head, total, parent = record.fork_at or 0, record.fork_total, None if old is None else old.number
    rows = tx.all(
        """INSERT INTO branches (tenant, session, branch, parent, forked_at, head, total, end_digest, end_status,
                                 last_turn, cut, cut_key, instructions, created_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, x'', 'complete', 0, 0, '', NULL, ?) ON CONFLICT DO NOTHING RETURNING branch""",
        (scope.tenant, session, number, parent, head, head, total, record.now),
    )
    if not rows:
        raise _moved_on()
    return number, head, total


def _moved_on() -> Unavailable:
    return Unavailable(
        "another request changed this session while the turn ran; nothing was stored, send it again",
        code="session_moved_on",
        headers={"Retry-After": "0"},
    )


def _instructions(tx: Tx, scope: Scope, session: int, record: Record) -> int | None:
    """The number of the turn's instructions; each text is stored once in a session."""
    given = record.instructions
    if not given.raw or given.id is not None:
        return given.id
    mark = hashlib.blake2b(given.raw, digest_size=16).digest()
    rows = tx.all(
        """INSERT INTO instructions (tenant, session, digest, tokens, raw) VALUES (?, ?, ?, ?, ?)
           ON CONFLICT (session, digest) DO UPDATE SET tokens = excluded.tokens RETURNING id""",
        (scope.tenant, session, mark, given.tokens, given.raw),
    )
    return rows[0][0]


def _latest(record: Record) -> tuple[int, bytes | None, bytes | None]:
    """Turn, request and answer for the session's row; a turn with a key keeps them under that."""
    kept = record.answer and not record.key
    return (record.number, record.request, record.answer) if kept else (record.number, None, None)


def _keep_answer(tx: Tx, scope: Scope, session: int, record: Record) -> None:
    """Under the Idempotency-Key, after a few old ones are removed. A key that is taken is an error; nothing is kept."""
    if not (record.key and record.answer):
        return
    old = record.now - KEY_HOURS * 3_600_000
    tx.all(
        "DELETE FROM replays WHERE tenant = ? AND session = ? AND key = ? AND created_at < ?",
        (scope.tenant, session, record.key, old),
    )
    tx.all(
        """DELETE FROM replays WHERE (session, key) IN (
               SELECT session, key FROM replays WHERE tenant = ? AND created_at < ? ORDER BY created_at LIMIT ?)""",
        (scope.tenant, old, PRUNE),
    )
    tx.all(
        """INSERT INTO replays (tenant, session, key, turn, request, answer, created_at)
           VALUES (?, ?, ?, ?, ?, ?, ?)""",
        (scope.tenant, session, record.key, record.number, record.request, record.answer, record.now),
    )
