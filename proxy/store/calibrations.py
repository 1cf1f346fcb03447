"""What upstreams taught about their models, kept over restarts: a row for each upstream and model, for all tenants."""

from proxy.store.database import Database, Tx

MOST = 1000
"""Rows that are kept: a client may name any model where the configuration lets it."""


async def every(db: Database) -> list[tuple[str, str, bytes]]:
    """(upstream, model, state) of every row, the one that was written last at the end."""
    rows = await db.all("SELECT upstream, model, state FROM calibrations ORDER BY updated_at, upstream, model")
    return [(upstream, model, bytes(state)) for upstream, model, state in rows]


def put(tx: Tx, upstream: str, model: str, state: bytes, now: int) -> None:
    """Keeps a state in the place of the one before. Beyond `MOST` rows the oldest ones go."""
    known = tx.all(
        "UPDATE calibrations SET state = ?, updated_at = ? WHERE upstream = ? AND model = ? RETURNING 1",
        (state, now, upstream, model),
    )
    if known:
        return
    tx.all(
        "INSERT INTO calibrations (upstream, model, state, updated_at) VALUES (?, ?, ?, ?)",
        (upstream, model, state, now),
    )
    tx.all(
        """DELETE FROM calibrations WHERE (upstream, model) IN (
               SELECT upstream, model FROM calibrations
               WHERE NOT (upstream = ? AND model = ?) ORDER BY updated_at DESC LIMIT -1 OFFSET ?)""",
        (upstream, model, MOST - 1),
    )
