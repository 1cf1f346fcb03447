"""Turns as they are shown."""

import pytest

from proxy.errors import NotFound
from proxy.store import branches, ledgers
from proxy.store.database import Database
from proxy.store.ledgers import Told
from tests.store.saying import ME, say, tenant

pytestmark = pytest.mark.anyio


async def test_turns_of_all_branches_are_listed_newest_first_and_oldest_first(db: Database) -> None:
    await say(db, "s", "one", "two", "three", ledger=b'{"total":1}', usage=b'{"prompt_tokens":2}', now=7)
    session, _ = await say(db, "s", "four", model="", request_id="x", recalled=b"old")
    await branches.begin(db, ME, session.id, branches.Point(), 5)
    await say(db, "s", "five")
    every = await ledgers.newest(db, ME, session.id, 9, 0)
    assert [(one.turn, one.branch) for one in every] == [(3, 2), (2, 1), (1, 1)]
    assert every[2] == Told(1, 1, "complete", "m", "r", 7, 3, b'{"total":1}', b'{"prompt_tokens":2}')
    assert (every[1].messages, every[1].model, every[1].request_id, every[1].usage) == (1, "", "x", None)
    assert await ledgers.oldest(db, ME, session.id, 9, 0) == every[::-1]
    assert await ledgers.newest(db, ME, session.id, 1, 1) == every[1:2]
    assert await ledgers.oldest(db, ME, session.id, 2, 2) == every[:1]
    assert await ledgers.newest(db, ME, session.id, 9, 3) == []


async def test_one_turn_is_read_with_what_was_recalled_for_it(db: Database) -> None:
    session, _ = await say(db, "s", "one", recalled="früher".encode())
    assert (await ledgers.of_turn(db, ME, session.id, 1)).recalled == "früher".encode()
    for scope, turn in ((ME, 2), (ME, 0), (await tenant(db, "other"), 1)):
        with pytest.raises(NotFound):
            await ledgers.of_turn(db, scope, session.id, turn)
