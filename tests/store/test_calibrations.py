"""What upstreams taught about their models, kept over restarts."""

import pytest

from proxy.store import calibrations
from proxy.store.database import Database, Tx

pytestmark = pytest.mark.anyio


async def put(db: Database, upstream: str, model: str, state: bytes, now: int) -> None:
    await db.transaction(lambda tx: calibrations.put(tx, upstream, model, state, now))


async def test_a_state_replaces_the_one_before(db: Database) -> None:
    assert await calibrations.every(db) == []
    await put(db, "local", "m", b"one", 5)
    await put(db, "local", "m", b"two", 6)
    assert await calibrations.every(db) == [("local", "m", b"two")]


async def test_upstreams_and_models_are_told_apart_and_the_newest_stands_last(db: Database) -> None:
    await put(db, "b", "m", b"1", 5)
    await put(db, "a", "m", b"2", 6)
    await put(db, "a", "n", b"3", 7)
    await put(db, "b", "m", b"4", 8)
    assert await calibrations.every(db) == [("a", "m", b"2"), ("a", "n", b"3"), ("b", "m", b"4")]


async def test_the_oldest_rows_make_room(db: Database) -> None:
    def fill(tx: Tx) -> None:
        for n in range(calibrations.MOST):
            calibrations.put(tx, "u", f"m{n}", b"", n)

    await db.transaction(fill)
    await put(db, "u", "m0", b"again", 5000)
    await put(db, "u", "more", b"", 1)  # a clock that was set back does not make it go at once
    kept = [model for _, model, _ in await calibrations.every(db)]
    assert len(kept) == calibrations.MOST
    assert "m1" not in kept
    assert {"m0", "m2", "more"} <= set(kept)


async def test_a_state_is_undone_with_its_transaction(db: Database) -> None:
    def fails(tx: Tx) -> None:
        calibrations.put(tx, "u", "m", b"state", 1)
        raise LookupError

    with pytest.raises(LookupError):
        await db.transaction(fails)
    assert await calibrations.every(db) == []
