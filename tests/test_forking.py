"""Where a request says that its turn stands, and how many branches it may ask for."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy import branching, forking
from proxy.errors import BadRequest, Conflict
from proxy.services import Services, Turn
from proxy.store import branches, sessions
from proxy.store.branches import Point
from proxy.types import Session
from tests.inprocess import DEFAULT, Ask, Model, begun, run, services, user

pytestmark = pytest.mark.anyio


def asked(svc: Services, **options: Any) -> Turn:
    turn = Ask([user("x")]).turn(svc)
    return msgspec.structs.replace(turn, options=msgspec.structs.replace(turn.options, **options))


async def session_of(svc: Services) -> Session:
    found = await sessions.find(svc.db, DEFAULT, "s")
    assert found is not None
    return found[0]


async def crowd(svc: Services) -> Session:
    """The session with as many branches as forks may make."""
    await begun(svc, Ask([user("one")]))
    session = await session_of(svc)
    for _ in range(branches.MOST - 1):
        await branches.begin(svc.db, DEFAULT, session.id, Point(), 5)
    return await session_of(svc)


async def test_a_place_is_the_end_of_a_turn_on_the_line_of_its_owner(tmp_path: Path) -> None:
    async with services(tmp_path, Model()) as svc:
        await begun(svc, Ask([user("one")]))
        await branching.fork(svc, DEFAULT, "s", 1)
        await begun(svc, Ask([user("two")]))
        session = await session_of(svc)
        found = await forking.after(svc, asked(svc), session, 2)
        assert (found.point.branch, found.point.seq, found.owner.number) == (2, 4, 2)
        assert list(found.line) == [(2, 3, 4), (1, 1, 2)]
        assert list((await forking.after(svc, asked(svc), session, 0)).line) == []
        assert (await forking.named(svc, asked(svc), session, 1)).number == 1
        with pytest.raises(BadRequest, match=r"session\.fork"):
            await forking.after(svc, asked(svc), session, 3)
        with pytest.raises(BadRequest, match=r"session\.branch"):
            await forking.named(svc, asked(svc), session, 3)


async def test_a_session_of_many_branches_takes_no_fork_but_every_edit(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        session = await crowd(svc)
        for refused in (forking.after(svc, asked(svc), session, 1), branching.fork(svc, DEFAULT, "s", 1)):
            with pytest.raises(Conflict, match="DELETE") as caught:
                await refused
            assert caught.value.code == "too_many_branches"
        assert (await forking.after(svc, asked(svc, save=False), session, 1)).point.turn == 1
        sent = [user("one"), {"role": "assistant", "content": "hello"}, user("two")]
        await run(svc, Ask(sent))
        await run(svc, Ask([*sent[:2], user("edited")]))
        await run(svc, Ask([*sent[:2], user("edited again")]))
        assert model.requests[-1]["messages"] == [*sent[:2], user("edited again")]
        assert (await session_of(svc)).branches > branches.MOST
        with pytest.raises(Conflict, match="DELETE"):
            await branching.undo(svc, DEFAULT, "s")
        await branching.delete(svc, DEFAULT, "s", 2)
