"""Branches on demand: random turns, forks, undos, switches and deletions against a plain model of lines."""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy import branching, events, recollect
from proxy import turn as turns
from proxy.errors import BadRequest, Conflict, NotFound, ProxyError, UpstreamRefused
from proxy.preview import preview
from proxy.recollect import Left
from proxy.services import Services, Turn
from proxy.store import branches, sessions
from tests.inprocess import DEFAULT, Ask, Message, Model, begun, says, services, user
from tests.test_recollect import calls, lines_of, result

pytestmark = pytest.mark.anyio


def asked(svc: Services, ask: Ask, **options: Any) -> Turn:
    turn = ask.turn(svc)
    return msgspec.structs.replace(turn, options=msgspec.structs.replace(turn.options, **options))


async def run(svc: Services, ask: Ask, **options: Any) -> events.Begin:
    running = turns.run(svc, asked(svc, ask, **options), events.Client())
    first, *_ = [event async for event in running]
    assert isinstance(first, events.Begin)
    return first


async def at(svc: Services, ask: Ask, **options: Any) -> recollect.Found:
    """Where a turn would continue."""
    return await recollect.find(svc, asked(svc, ask, **options), await sessions.find(svc.db, DEFAULT, ask.name))


@dataclass(frozen=True)
class Held:
    """A message where it was said: on which branch, in which turn, under which instructions."""

    branch: int
    turn: int
    message: Message
    system: str | None


@dataclass
class Lines:
    """What a session is, written down plainly."""

    lines: dict[int, list[Held]] = field(default_factory=lambda: {1: []})
    parents: dict[int, int | None] = field(default_factory=lambda: {1: None})
    starts: dict[int, int | None] = field(default_factory=lambda: {1: None})
    sizes: dict[int, int] = field(default_factory=dict)
    current: int = 1
    made: int = 1
    turn: int = 0

    def upto(self, turn: int) -> list[Held]:
        """The line up to and with a turn: any that holds all of it."""
        for line in self.lines.values():
            own = [n for n, held in enumerate(line) if held.turn == turn]
            if own and len(own) == self.sizes[turn]:
                return line[: own[-1] + 1]
        return []

    def fork(self, line: list[Held]) -> int:
        self.made += 1
        self.lines[self.made] = list(line)
        self.parents[self.made] = line[-1].branch if line else 1
        self.starts[self.made] = line[-1].turn if line else 0
        return self.made

    def undone(self) -> list[Held]:
        line = self.lines[self.current]
        return [held for held in line if held.turn != line[-1].turn]

    def add(self, branch: int, said: list[Message], system: str | None) -> None:
        self.turn += 1
        self.sizes[self.turn] = len(said)
        self.lines[branch] += [Held(branch, self.turn, message, system) for message in said]
        self.current = branch

    def numbers(self) -> list[int]:
        """The turns that there are."""
        return sorted({held.turn for line in self.lines.values() for held in line})

    def made_on(self, branch: int) -> int:
        return len({held.turn for held in self.lines[branch] if held.branch == branch})


class Play:
    """One session and its model."""

    def __init__(self, svc: Services, model: Model, seed: int) -> None:
        self.svc, self.model, self.name = svc, model, f"s{seed}"
        self.draw = random.Random(seed)
        self.plain = Lines()
        self.words = 0

    def text(self) -> str:
        self.words += 1
        return f"text {self.words}"

    async def step(self) -> None:
        steps = [self.turn] * 5
        if self.plain.turn:
            steps += [self.fork, self.undo, self.delete, self.delete, self.forked_turn, self.forked_turn, self.switch,
                      self.switch, self.again, self.nothing]  # fmt: skip
        await self.draw.choice(steps)()

    async def turn(self) -> None:
        await self.say(self.plain.current, self.plain.lines[self.plain.current])

    async def forked_turn(self) -> None:
        after = self.draw.choice([0, *self.plain.numbers()])
        await self.say(None, self.plain.upto(after), fork=after)

    async def switch(self) -> None:
        branch = self.draw.choice(list(self.plain.lines))
        await self.say(branch, self.plain.lines[branch], branch=branch)

    async def again(self) -> None:
        """A regeneration: the history without the last reply begins a branch before its last user message."""
        line = self.plain.lines[self.plain.current]
        roles = [held.message["role"] for held in line]
        if "assistant" not in roles[:-1] or roles[-1] == "user":
            return  # nothing shows that it is sent again
        users = [n for n, role in enumerate(roles) if role == "user"]
        self.model.says = reply = says(self.text())
        sent = [held.message for held in line[:-1]]
        begin = await run(self.svc, Ask(sent, self.name), branch=self.plain.current)
        branch = self.plain.fork(line[: users[-1]])
        assert (begin.branch, begin.number) == (branch, self.plain.turn + 1)
        self.plain.add(branch, [line[users[-1]].message, reply], line[users[-1] - 1].system)

    async def say(self, on: int | None, line: list[Held], **options: Any) -> None:
        """A turn after a line: it continues the branch `on`, or begins one."""
        new = [user(self.text()) for _ in range(self.draw.choice((1, 1, 2)))]
        history = [held.message for held in line]
        known = self.draw.choice((0, 0, len(history), self.draw.randint(0, len(history))))
        while known and history[-known]["role"] != "user":  # a window begins where somebody asks
            known -= 1
        system = self.draw.choice((None, None, None, self.text()))
        lead = [] if system is None else [{"role": "system", "content": system}]
        force = system or (line[-1].system if line else None)
        self.model.says = reply = says(self.text())
        save = self.draw.random() < 0.9
        sent = [*lead, *history[len(history) - known :], *new]
        begin = await run(self.svc, Ask(sent, self.name, save=save, stream=self.draw.random() < 0.5), **options)
        expected = [] if force is None else [{"role": "system", "content": force}]
        assert self.model.requests[-1]["messages"] == [*expected, *history, *new]
        if not save:
            return
        branch = self.plain.fork(line) if on is None else on
        assert (begin.number, begin.branch) == (self.plain.turn + 1, branch)
        self.plain.add(branch, [*new, reply], force)

    async def fork(self) -> None:
        after = self.draw.choice([0, *self.plain.numbers()])
        made = await branching.fork(self.svc, DEFAULT, self.name, after)
        self.plain.current = self.plain.fork(self.plain.upto(after))
        assert (made.number, made.forked_at, made.turns, made.current) == (self.plain.current, after, 0, True)

    async def undo(self) -> None:
        if not self.plain.lines[self.plain.current]:
            with pytest.raises(Conflict):
                await branching.undo(self.svc, DEFAULT, self.name)
            return
        made = await branching.undo(self.svc, DEFAULT, self.name)
        self.plain.current = self.plain.fork(self.plain.undone())
        assert made.number == self.plain.current

    async def delete(self) -> None:
        branch = self.draw.randint(1, self.plain.made + 1)
        gone = branching.delete(self.svc, DEFAULT, self.name, branch)
        if branch not in self.plain.lines:
            with pytest.raises(NotFound):
                await gone
        elif branch == self.plain.current or branch in self.plain.parents.values():
            with pytest.raises(Conflict):
                await gone
        else:
            await gone
            for table in (self.plain.lines, self.plain.parents, self.plain.starts):
                del table[branch]

    async def nothing(self) -> None:
        """What changes nothing: previews, refusals, wrong numbers."""
        branch, after = self.draw.choice(list(self.plain.lines)), self.draw.choice([0, *self.plain.numbers()])
        place: dict[str, Any] = self.draw.choice(({"branch": branch}, {"fork": after}))
        ask = Ask([user(self.text())], self.name)
        await preview(self.svc, asked(self.svc, ask, **place))
        self.model.says = UpstreamRefused(429, "slow down", body=None, headers={})
        with pytest.raises(UpstreamRefused):
            await run(self.svc, ask, **place)
        gone = [n for n in range(1, self.plain.turn + 2) if n not in self.plain.numbers()]
        with pytest.raises(BadRequest, match=r"session\.fork"):
            await run(self.svc, ask, fork=self.draw.choice(gone))
        with pytest.raises(BadRequest, match=r"session\.branch"):
            await run(self.svc, ask, branch=self.plain.made + 1)
        with pytest.raises(BadRequest, match="at:"):
            await branching.fork(self.svc, DEFAULT, self.name, self.draw.choice(gone))

    async def check(self) -> None:
        found = await sessions.find(self.svc.db, DEFAULT, self.name)
        assert found is not None
        session, _ = found
        assert (session.branch, session.branches, session.turns) == (
            self.plain.current, self.plain.made, self.plain.turn,
        )  # fmt: skip
        stored = await lines_of(self.svc, session.id)
        assert stored == {n: [held.message for held in line] for n, line in self.plain.lines.items()}
        listed = await branches.page(self.svc.db, DEFAULT, session.id, 1000, 0)
        assert [(one.number, one.parent, one.forked_at, one.turns, one.current) for one in listed] == [
            (n, self.plain.parents[n], self.plain.starts[n], self.plain.made_on(n), n == self.plain.current)
            for n in sorted(self.plain.lines)
        ]
        rows = await self.svc.db.all("SELECT turn FROM turns WHERE session = ? ORDER BY turn", (session.id,))
        assert [row[0] for row in rows] == self.plain.numbers()


async def play(folder: Path, sequences: int) -> None:
    seed = random.randrange(2**32)
    model = Model()
    async with services(folder, model) as svc:
        for n in range(seed, seed + sequences):
            one = Play(svc, model, n)
            await one.turn()
            while not one.plain.turn:
                await one.turn()
            for step in range(one.draw.randint(3, 25)):
                try:
                    await one.step()
                    await one.check()
                except Exception as exc:
                    raise AssertionError(f"seed {n}, step {step}") from exc


async def test_any_sequence_of_turns_forks_undos_switches_and_deletions_keeps_every_line(tmp_path: Path) -> None:
    await play(tmp_path, 60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_three_thousand_sequences_keep_every_line(tmp_path: Path) -> None:
    await play(tmp_path, 3000)


# --- one by one ---


async def test_a_fork_waits_for_the_turn_that_runs(tmp_path: Path) -> None:
    asked_for, answer = asyncio.Event(), asyncio.Event()

    async def before() -> None:
        asked_for.set()
        await answer.wait()

    model = Model()
    async with services(tmp_path, model) as svc:
        await begun(svc, Ask([user("one")]))
        model.before = before
        running = asyncio.ensure_future(run(svc, Ask([user("two")])))
        await asked_for.wait()
        forking = asyncio.ensure_future(branching.fork(svc, DEFAULT, "s", 2))
        answer.set()
        assert (await running).number == 2
        assert (await forking).forked_at == 2


async def test_a_deletion_that_nobody_waits_for_is_finished_before_the_next_turn(tmp_path: Path) -> None:
    async with services(tmp_path, Model()) as svc:
        await begun(svc, Ask([user("one")]))
        await run(svc, Ask([user("two")]), fork=1)
        await run(svc, Ask([user("three")]), branch=1)
        deleting = asyncio.ensure_future(branching.delete(svc, DEFAULT, "s", 2))
        for _ in range(3):
            await asyncio.sleep(0)
        deleting.cancel()
        await asyncio.sleep(0)
        deleting.cancel()
        await deleting
        with pytest.raises(BadRequest, match=r"session\.branch"):
            await run(svc, Ask([user("four")]), branch=2)


async def test_history_that_does_not_end_at_the_fork_is_new(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        for text in ("one", "two"):
            model.says = says(f"re {text}")
            await begun(svc, Ask([user(text)]))
        there = [user("one"), says("re one")]
        for sent, new in (
            ([*there, user("two"), says("re two"), user("x")], [user("two"), says("re two"), user("x")]),
            ([says("re one"), user("x")], [user("x")]),
            ([user("zero"), says("re one"), user("x")], [user("zero"), says("re one"), user("x")]),
            ([user("two"), says("re two"), user("x")], [user("two"), says("re two"), user("x")]),
            ([user("one")], [user("one")]),
        ):
            await run(svc, Ask(sent), fork=1)
            assert model.requests[-1]["messages"] == [*there, *new]
        assert (await run(svc, Ask([*there, user("x")], mode="append"), fork=1)).branch == 7
        assert model.requests[-1]["messages"] == [*there, *there, user("x")]


async def test_results_answer_the_calls_of_the_line_that_is_named(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        model.says = calls("c1")
        await begun(svc, Ask([user("one")]))
        model.says = says("never mind")
        await run(svc, Ask([user("two")]), fork=0)
        with pytest.raises(BadRequest, match="c1"):
            await run(svc, Ask([result("c1", "42")]))
        assert (await run(svc, Ask([result("c1", "42")]), branch=1)).branch == 1
        assert model.requests[-1]["messages"] == [user("one"), calls("c1"), result("c1", "42")]
        assert (await run(svc, Ask([result("c1", "43")]), fork=1)).branch == 3


@pytest.mark.parametrize("mode", ["auto", "continue"])
async def test_a_branch_that_is_named_is_the_only_one_that_is_looked_at(tmp_path: Path, mode: Any) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        model.says = says("re one")
        await begun(svc, Ask([user("one")]))
        await branching.fork(svc, DEFAULT, "s", 1)
        sent = [user("one"), says("re one"), user("two")]
        assert (await run(svc, Ask(sent, mode=mode), branch=1)).branch == 1
        assert len(model.requests[-1]["messages"]) == 3


async def test_a_branch_is_begun_with_what_the_turn_before_it_left(tmp_path: Path) -> None:
    """Every way of forking finds the same cut, and sends the same head."""
    model = Model()
    async with services(tmp_path, model) as svc:
        history: list[Message] = []
        for n in range(8):
            model.says = says(f"answer {n} " * 4)
            await begun(svc, Ask([user(f"question {n} " * 4)], budget=60))
            history += [user(f"question {n} " * 4), model.says]
        rows = await svc.db.all("SELECT cut, cut_key, carried FROM turns ORDER BY turn")
        assert rows[6][0] > 1
        found = [
            await at(svc, Ask([user("x")], budget=60), fork=7),
            await at(svc, Ask([*history[:14], user("x")], budget=60)),
            await at(svc, Ask(history[:15], budget=60)),
        ]
        assert [one.left for one in found] == [Left(*rows[6])] * 3
        assert [(one.fork_at, one.branch and one.branch.number) for one in found] == [(14, 1)] * 3
        assert (await at(svc, Ask([user("x")], budget=60))).left == Left(*rows[7])
        assert (await at(svc, Ask([user("x")], budget=60), fork=0)).left == Left()
        await run(svc, Ask([user("x")], budget=60), branch=1)
        before = model.requests[-1]["messages"]
        await branching.fork(svc, DEFAULT, "s", 8)
        assert (await at(svc, Ask([user("x")], budget=60))).left == Left(*rows[7])
        await begun(svc, Ask([user("x")], budget=60))
        assert model.requests[-1]["messages"] == before


async def test_an_undone_turn_takes_its_answer_and_its_instructions_along(tmp_path: Path) -> None:
    model = Model()
    async with services(tmp_path, model) as svc:
        await begun(svc, Ask([{"role": "system", "content": "A"}, user("one")]))
        await begun(svc, Ask([{"role": "system", "content": "B"}, user("two")]))
        await branching.undo(svc, DEFAULT, "s")
        await begun(svc, Ask([user("two")], retried=True))
        assert model.requests[-1]["messages"][0]["content"] == "A"
        assert len(model.requests) == 3


async def test_what_there_is_not_cannot_be_branched(tmp_path: Path) -> None:
    async with services(tmp_path, Model()) as svc:
        for change in (branching.fork(svc, DEFAULT, "s", 0), branching.undo(svc, DEFAULT, "s"),
                       branching.delete(svc, DEFAULT, "s", 1)):  # fmt: skip
            with pytest.raises(NotFound):
                await change
        with pytest.raises(ProxyError, match=r"session\.fork"):
            await run(svc, Ask([user("one")]), fork=1)
        with pytest.raises(ProxyError, match=r"session\.branch"):
            await run(svc, Ask([user("one")]), branch=2)
        assert (await run(svc, Ask([user("one")]), fork=0)).branch == 1
        assert (await run(svc, Ask([user("two")], "t"), branch=1)).branch == 1
