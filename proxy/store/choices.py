"""What a turn's answer has beside its place in the history: its other choices, its logprobs, how it ended.

A row stands only where the history does not tell all of that, so that a plain turn writes none.
"""

from collections.abc import Iterable

import msgspec

from proxy.store import blobs
from proxy.store.database import Database, Tx
from proxy.types import Scope


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a turn answered: the message that became history, None where the last one is no answer, and the JSON list of
    the choices, the first of them without that message; None where the message tells all."""

    message: bytes | None
    choices: bytes | None


def put(tx: Tx, scope: Scope, session: int, turn: int, body: bytes) -> None:
    """Stores the choices of a turn that was just made; nothing for one that is not there."""
    tx.all(
        """INSERT INTO choices (tenant, session, turn, body)
           SELECT tenant, session, turn, ? FROM turns WHERE tenant = ? AND session = ? AND turn = ?""",
        (body, scope.tenant, session, turn),
    )


async def of_turn(db: Database, scope: Scope, session: int, turn: int) -> Answer:
    """What a turn answered; nothing for one that is not there."""
    rows = await db.all(
        """SELECT e.raw, c.body FROM turns t
           LEFT JOIN entries e ON e.tenant = t.tenant AND e.session = t.session AND e.branch = t.branch
                              AND e.seq = t.last_seq AND e.role = 'assistant'
           LEFT JOIN choices c ON c.tenant = t.tenant AND c.session = t.session AND c.turn = t.turn
           WHERE t.tenant = ? AND t.session = ? AND t.turn = ?""",
        (scope.tenant, session, turn),
    )
    if not rows:
        return Answer(None, None)
    raw, body = rows[0]
    return Answer(None if raw is None else (await blobs.restored(db, scope, [raw]))[0], body)


async def turns_with_any(db: Database, scope: Scope, session: int, turns: Iterable[int]) -> frozenset[int]:
    """Those of the turns that have choices of their own."""
    rows = await db.all(
        "SELECT turn FROM choices WHERE tenant = ? AND session = ? AND turn IN (SELECT value FROM json_each(?))",
        (scope.tenant, session, msgspec.json.encode(list(turns)).decode()),
    )
    return frozenset([row[0] for row in rows])
