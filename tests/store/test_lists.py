"""Every list of sessions is what a plain model of them says, whatever was made, changed, said and deleted before."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from proxy.resources import Page
from proxy.store import history, members, sessions, settings, sqlite, turns
from proxy.store.database import Database
from proxy.store.facets import Facet
from proxy.store.settings import Joining
from proxy.types import Scope
from tests.store.making import member, new, uuids
from tests.store.saying import find, message, record, tenant

AGENTS = ("ada", "bob")
SORTS: list[Literal["created_at", "updated_at"]] = ["created_at", "updated_at"]
DIRECTIONS: list[Literal["asc", "desc"]] = ["asc", "desc"]
PAGES = [(100, 0), (2, 1), (1, 0), (3, 2), (1, 100), (5, 2**62)]

SCALARS = st.sampled_from([1, 1.0, "1", "1.0", True, "true", None, "null", "", "x", "'", '"]', "é", "x\0", "$.a"])
METADATA = st.dictionaries(
    st.sampled_from(["a", "b", "a.b", "agent", "*"]),
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from(["b", "c"]), SCALARS, max_size=2),
    max_size=3,
)
TIMES = st.integers(0, 3)
WHICH = st.integers(0, 9)
JOINED = st.lists(st.sampled_from(AGENTS), max_size=2)
STEPS = st.one_of(
    st.tuples(st.just("create"), METADATA, JOINED, TIMES),
    st.tuples(st.just("create"), METADATA, JOINED, TIMES),
    st.tuples(st.just("begin"), TIMES),
    st.tuples(st.just("change"), WHICH, METADATA, JOINED, TIMES),
    st.tuples(st.just("say"), WHICH, TIMES),
    st.tuples(st.just("clear"), WHICH, TIMES),
    st.tuples(st.just("delete"), WHICH),
    st.tuples(st.just("part"), st.sampled_from(AGENTS)),
)


class Known(msgspec.Struct):
    """What the model knows of a session."""

    uuid: str
    number: int
    created_at: int
    updated_at: int
    metadata: dict[str, Any]
    agents: list[str]


class Model:
    """A tenant's sessions as a list, beside the store that holds the same."""

    def __init__(self, db: Database, scope: Scope) -> None:
        self.db = db
        self.scope = scope
        self.every: list[Known] = []
        self.agents: dict[str, int] = {}
        self.made = 0

    def _name(self) -> str:
        self.made += 1
        return f"{self.scope.tenant:08}-0000-4000-8000-{self.made:012}"

    async def _participants(self, wanted: Sequence[str]) -> Joining:
        for name in wanted:
            if name not in self.agents:
                self.agents[name] = (await member(self.db, name, scope=self.scope)).id
        return Joining(wanted)

    async def create(self, metadata: dict[str, Any], agents: list[str], now: int) -> None:
        joining = await self._participants(agents)
        given = new(self._name(), now, metadata=metadata)
        made = await settings.create(self.db, self.scope, given, joining)
        self.every.append(Known(made.uuid, made.id, now, now, metadata, list(dict.fromkeys(agents))))

    async def begin(self, now: int) -> None:
        name = self._name()
        turn = record(name, None, [message("q")], uuid=name, now=now)
        number, _ = await turns.append(self.db, self.scope, turn)
        self.every.append(Known(name, number, now, now, {}, []))

    async def change(self, one: Known, metadata: dict[str, Any], agents: list[str], now: int) -> None:
        joining = await self._participants(agents)

        def change(old: Any) -> Any:
            return msgspec.structs.replace(old, fields=msgspec.structs.replace(old.fields, metadata=metadata))

        await settings.change(self.db, self.scope, one.number, change, joining, now)
        one.metadata, one.updated_at, one.agents = metadata, now, list(dict.fromkeys([*one.agents, *agents]))

    async def say(self, one: Known, now: int) -> None:
        found = await find(self.db, one.uuid, self.scope)
        await turns.append(self.db, self.scope, record("", found, [message("q")], now=now))
        one.updated_at = now

    async def clear(self, one: Known, now: int) -> None:
        assert await history.clear(self.db, self.scope, one.number, now)
        one.updated_at = now

    async def delete(self, one: Known) -> None:
        assert await sessions.delete(self.db, self.scope, one.number)
        self.every.remove(one)

    async def part(self, agent: str) -> None:
        if self.agents.pop(agent, None) is not None:
            await members.delete(self.db, self.scope, "agent", agent)
            for one in self.every:
                one.agents = [name for name in one.agents if name != agent]

    async def do(self, step: Sequence[Any]) -> None:
        name, *given = step
        if name in ("change", "say", "clear", "delete"):
            if not self.every:
                return
            given[0] = self.every[given[0] % len(self.every)]
        await getattr(self, name)(*given)

    def has(self, one: Known, facet: Facet) -> bool:
        """Whether a session is listed under a facet, told without the store's help."""
        key, value = facet
        if key == "agent":
            return value in [str(self.agents[name]) for name in one.agents]
        return (key.removeprefix("m:"), value) in flat(one.metadata)

    def facets(self) -> list[Facet]:
        """All that lists may be filtered by, and what nothing has."""
        held = {("m:" + path, value) for one in self.every for path, value in flat(one.metadata)}
        return [*sorted(held), *(("agent", str(id)) for id in self.agents.values()), ("m:a", "none"), ("agent", "0")]

    async def check(self) -> None:
        """All lists without a filter, with each filter, and with pairs of them."""
        every = self.facets()
        for where in [(), *((facet,) for facet in every), *itertools.islice(itertools.permutations(every, 2), 8)]:
            kept = [one for one in self.every if all(self.has(one, facet) for facet in where)]
            for sort_by, direction in itertools.product(SORTS, DIRECTIONS):
                order = sorted(kept, key=lambda one: (getattr(one, sort_by), one.number), reverse=direction == "desc")
                for limit, offset in PAGES if not where else PAGES[:2]:
                    page = Page(limit, offset, sort_by, direction)
                    found = await settings.page(self.db, self.scope, where, page)
                    wanted = order[offset : offset + limit]
                    assert uuids(found) == [one.uuid for one in wanted], (where, page)
                    assert [(one.updated_at, list(one.agents), one.fields.metadata) for one in found] == [
                        (one.updated_at, one.agents, one.metadata) for one in wanted
                    ]


def flat(value: Any, path: str = "") -> set[tuple[str, str]]:
    """(path, text) of each value of small metadata."""
    if isinstance(value, dict):
        return {pair for key, item in value.items() for pair in flat(item, f"{path}.{key}" if path else key)}
    if isinstance(value, list):
        return {pair for item in value for pair in flat(item, path)}
    texts = {None: "null", True: "true"} if value is None or value is True else {1: "1"}
    return {(path, value if isinstance(value, str) else texts[value])}


def test_every_list_equals_the_model(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        db = runner.run(opened(tmp_path))
        tenants = itertools.count()

        @example_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(STEPS, min_size=1, max_size=14))
        def holds(steps: list[Any]) -> None:
            runner.run(played(steps))

        async def played(steps: list[Any]) -> None:
            model = Model(db, await tenant(db, f"tenant {next(tenants)}"))
            for step in steps:
                await model.do(step)
            await model.check()

        holds()
        runner.run(db.close())


async def opened(folder: Path) -> sqlite.Sqlite:
    return sqlite.opened(f"sqlite:///{folder / 'store.db'}", synchronous="normal")
