"""A request beside many lines: what they share is read and compared once, and the outcome is that of each by itself."""

import random
from pathlib import Path
from typing import Any

import pytest

from proxy import paths
from proxy.reconcile import Reached, heads, reached
from proxy.services import Services
from proxy.store import branches, sessions, turns
from proxy.store.branches import line_of
from proxy.types import Branch, Message, Mode, Sent, Session
from tests.inprocess import DEFAULT, Ask, Model, services, user
from tests.store.saying import find, mark, message, record

pytestmark = pytest.mark.anyio

WORDS = ("a", "b", "c")


def said(draw: random.Random) -> Message:
    text = draw.choice(WORDS)
    role = draw.choice(("user", "assistant"))
    return (
        message(text, role, status="incomplete") if role == "assistant" and draw.random() < 0.2 else message(text, role)
    )


def sent(draw: random.Random, most: int) -> list[Sent]:
    found = []
    for _ in range(draw.randint(1, most)):
        role, text = draw.choice(("user", "assistant")), draw.choice(WORDS)
        found.append(Sent(role, b"", {"role": role, "content": text}, mark(text, role)))
    return found


async def tree(svc: Services, draw: random.Random, name: str) -> Session:
    """A session of branches that part anywhere, some of which have nothing of their own."""
    for _ in range(draw.randint(2, 20)):
        found = await sessions.find(svc.db, DEFAULT, name)
        if found is not None and draw.random() < 0.5:
            every = await sessions.branches(svc.db, DEFAULT, found[0].id)
            owner = draw.choice(list(every.values()))
            if draw.random() < 0.5:
                point = await branches.after(svc.db, DEFAULT, found[0].id, draw.randint(0, found[0].turns))
                assert point is not None
                await branches.begin(svc.db, DEFAULT, found[0].id, point, 5)
                continue
            fork: dict[str, Any] = {"fork_at": draw.randint(0, owner.head)}
            found = found[0], owner
        else:
            fork = {}
        new = [said(draw) for _ in range(draw.randint(1, 4))]
        await turns.append(svc.db, DEFAULT, record(name, found, new, **fork))
    return (await find(svc.db, name, DEFAULT))[0]


async def by_itself(svc: Services, ask: Any, session: Session, line: Any, of: list[Sent]) -> Reached:
    number, branch, segments = line
    one: dict[int, tuple[Branch, Any]] = {number: (branch, segments)}
    return (await paths.compared(svc, ask, session, one, of))[0]


async def test_many_lines_come_out_as_each_by_itself(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    async with services(tmp_path, Model()) as svc:
        for n in range(seed, seed + 60):
            draw = random.Random(n)
            session = await tree(svc, draw, f"s{n}")
            every = await sessions.branches(svc.db, DEFAULT, session.id)
            order = draw.sample(list(every), len(every))
            lines = {number: (every[number], line_of(every, every[number])) for number in order}
            for _ in range(6):
                mode: Mode = draw.choice(("auto", "resend"))
                of, ask = sent(draw, 12), Ask([user("x")], mode=mode).turn(svc)
                alone = {number: await by_itself(svc, ask, session, (number, *lines[number]), of) for number in order}
                together = await paths.compared(svc, ask, session, lines, of)
                ends: dict[Any, int] = {}
                for number in order:
                    ends.setdefault(str(lines[number][1]), number)
                assert together == [alone[number] for number in ends.values()], n


async def test_what_a_line_begins_with_is_compared_once(tmp_path: Path) -> None:
    """Equal lines are one, as the first of them."""
    async with services(tmp_path, Model()) as svc:
        await turns.append(svc.db, DEFAULT, record("s", None, [message("a"), message("b", "assistant")]))
        session, _ = await find(svc.db, "s", DEFAULT)
        for turn in (1, 1, 0):
            point = await branches.after(svc.db, DEFAULT, session.id, turn)
            assert point is not None
            await branches.begin(svc.db, DEFAULT, session.id, point, 5)
        every = await sessions.branches(svc.db, DEFAULT, session.id)
        lines = {number: (every[number], line_of(every, every[number])) for number in (4, 3, 2, 1)}
        of = [Sent("user", b"", {"role": "user", "content": "a"}, mark("a"))]
        found = await paths.compared(svc, Ask([user("a")]).turn(svc), session, lines, of)
        assert found == [Reached(4, 1, 0, 0, 0, 0, 0), Reached(3, 1, 2, 0, 1, 0, 1)]
        path = await paths.along(svc, DEFAULT, session, 1, (lines[1][1], 1))
        assert reached(path, heads(path, of)) == Reached(1, 1, 2, 0, 1, 0, 1)
