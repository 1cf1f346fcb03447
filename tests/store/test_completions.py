"""Stored completions: ids, lists and their cursors, what a deletion leaves, what goes with a session."""

import random
from collections.abc import Sequence
from typing import Any, LiteralString

import msgspec
import pytest

from proxy.errors import NotFound
from proxy.resources import Page
from proxy.store import branches, completions, facets, history, keys, sessions, turns
from proxy.store.completions import KIND, PAGE_BYTES, PLACE_MS, of_model
from proxy.store.database import Database, Row, Value
from proxy.store.facets import Facet
from proxy.types import Scope
from tests.store import making
from tests.store.making import kept
from tests.store.saying import ME, find, message, record, say, tenant

pytestmark = pytest.mark.anyio


async def names(db: Database, where: Sequence[Facet] = (), scope: Scope = ME, **page: Any) -> list[str]:
    asked = msgspec.structs.replace(Page(direction="asc"), **page)
    found, _ = await completions.page(db, scope, list(where), asked)
    return [one.name for one in found]


async def rows(db: Database) -> list[Row]:
    return await db.all("SELECT name, length(body) > 0 FROM completions ORDER BY id")


async def shown(db: Database, name: str, scope: Scope = ME) -> Any:
    return msgspec.json.decode((await completions.find(db, scope, name)).shown())


# --- ids ---


async def test_a_completion_is_shown_with_its_id_and_its_metadata(db: Database) -> None:
    await kept(db, 'a"b', body=b'{"choices":[1.50],"usage":null}', metadata={"k": "v"})
    found = await completions.find(db, ME, 'a"b')
    assert found.shown() == b'{"id":"a\\"b","choices":[1.50],"usage":null,"metadata":{"k":"v"}}'


async def test_the_newest_owns_an_id_and_the_older_ones_get_their_numbers(db: Database) -> None:
    for n in range(3):
        await kept(db, "c", body=b'{"n":%d}' % n)
    assert await names(db) == ["c-1", "c-2", "c"]
    assert [(await shown(db, name))["n"] for name in ("c-1", "c-2", "c")] == [0, 1, 2]


async def test_an_id_that_looks_like_anothers_new_one_loses_nothing(db: Database) -> None:
    await kept(db, "c", body=b'{"n":0}')
    await kept(db, "c-1", body=b'{"n":1}')
    await kept(db, "c", body=b'{"n":2}')
    assert [(name, (await shown(db, name))["n"]) for name in await names(db)] == [("c-1-1", 0), ("c-1", 1), ("c", 2)]


async def test_two_tenants_may_have_the_same_id(db: Database) -> None:
    other = await tenant(db, "other")
    await kept(db, "c", body=b'{"n":0}')
    await kept(db, "c", body=b'{"n":1}', scope=other)
    assert ((await shown(db, "c"))["n"], (await shown(db, "c", other))["n"]) == (0, 1)
    assert await names(db) == await names(db, scope=other) == ["c"]


async def test_a_retry_takes_the_place_of_what_did_not_arrive(db: Database) -> None:
    await kept(db, "a", request=b"r", now=1_000)
    await kept(db, "b", request=b"other", now=1_000)
    await completions.keep(db, ME, making.completion("c", request=b"r", now=2_000), 500)
    assert await names(db) == ["b", "c"]
    await completions.keep(db, ME, making.completion("d", request=b"r", now=9_000), 8_000)
    assert await names(db) == ["b", "c", "d"], "the first one is too old to be the same request"
    await completions.keep(db, ME, making.completion("e", request=b"r", now=9_001), None)
    assert await names(db) == ["b", "c", "d", "e"], "no retry: somebody asked twice"


# --- lists ---


class Model:
    """A tenant's completions as a list, beside the store that holds the same."""

    def __init__(self, db: Database, dice: random.Random) -> None:
        self.db = db
        self.dice = dice
        self.every: list[tuple[int, int, str, set[Facet]]] = []

    async def add(self, n: int) -> None:
        models, metadata = self.dice.choice([("m",), ("n",), ("m", "n")]), {"k": str(self.dice.randrange(2))}
        created = self.dice.randrange(3)
        await kept(self.db, f"c{n}", created, models=models, metadata=metadata)
        found = {*map(of_model, models), *facets.of_metadata(metadata)}
        self.every.append((created, n, f"c{n}", found))

    async def change(self) -> None:
        n = self.dice.randrange(len(self.every))
        created, number, name, found = self.every[n]
        metadata = {"k": str(self.dice.randrange(2)), "new.key": "x"}
        await completions.change(self.db, ME, name, metadata)
        models = {facet for facet in found if facet[0] == "model"}
        self.every[n] = (created, number, name, models | {*facets.of_metadata(metadata)})

    async def delete(self, name: str) -> None:
        await completions.delete(self.db, ME, name, 1_000)
        self.every = [one for one in self.every if one[2] != name]

    def names(self, where: Sequence[Facet], direction: str) -> list[str]:
        fitting = sorted(one[:3] for one in self.every if {*where} <= one[3])
        return [name for _, _, name in (fitting if direction == "asc" else reversed(fitting))]


WHERE: list[list[Facet]] = [
    [], [of_model("m")], [("m:k", "1")], [of_model("n"), ("m:k", "0")], [("m:new.key", "x"), of_model("m")],
    [of_model("nobody")],
]  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
async def test_pages_follow_each_other_without_a_gap(db: Database, seed: int) -> None:
    """Whatever was made, changed and deleted, also the very one that the cursor names, among many of one second."""
    dice = random.Random(seed)
    model = Model(db, dice)
    for n in range(dice.randrange(5, 40)):
        await model.add(n)
        if dice.random() < 0.3:
            await model.change()
        if dice.random() < 0.2:
            await model.delete(dice.choice(model.every)[2])
    for where in WHERE:
        for direction in ("asc", "desc"):
            wanted, found = model.names(where, direction), []
            page = Page(dice.randrange(1, 6), direction="asc" if direction == "asc" else "desc")
            while True:
                part, more = await completions.page(db, ME, where, page)
                found += [one.name for one in part]
                assert more == (len(found) < len(wanted))
                if not more:
                    break
                if dice.random() < 0.1:
                    await model.delete(found[-1])
                page = msgspec.structs.replace(page, after=await completions.place(db, ME, found[-1]))
            assert found == wanted


async def test_a_page_holds_so_many_bytes_and_says_that_there_are_more(db: Database) -> None:
    body = b'{"text":"%b"}' % (b"x" * (PAGE_BYTES // 2 + 1))
    for n in range(3):
        await kept(db, f"c{n}", body=body)
    found, more = await completions.page(db, ME, [], Page(100, direction="asc"))
    assert ([one.name for one in found], more) == (["c0"], True)
    page = Page(100, direction="asc", after=await completions.place(db, ME, "c1"))
    found, more = await completions.page(db, ME, [], page)
    assert ([one.name for one in found], more) == (["c2"], False)


class Weighed:
    """A store that weighs what it gave."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.bytes = 0

    async def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        found = await self.db.all(sql, args)
        self.bytes += sum(len(value) for row in found for value in row if isinstance(value, str | bytes))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


async def test_a_list_reads_what_it_gives_and_no_other(db: Database) -> None:
    for n in range(9):
        await kept(db, f"c{n}", body=b'{"text":"%b"}' % (b"x" * 100_000), messages=b'["%b"]' % (b"y" * 100_000))
    weighed: Any = Weighed(db)
    await completions.page(weighed, ME, [], Page(2))
    assert 200_000 < weighed.bytes < 210_000


async def test_a_long_models_name_is_found(db: Database) -> None:
    await kept(db, "c", models=("m" * 500,))
    assert await names(db, [of_model("m" * 500)]) == ["c"]


# --- changing, deleting ---


async def test_metadata_is_replaced(db: Database) -> None:
    await kept(db, "c", metadata={"a": "1", "b": "2"})
    changed = await completions.change(db, ME, "c", {"b": "3"})
    assert changed == await completions.find(db, ME, "c")
    assert (await shown(db, "c"))["metadata"] == {"b": "3"}
    assert [await names(db, [where]) for where in (("m:a", "1"), ("m:b", "2"), ("m:b", "3"))] == [[], [], ["c"]]
    assert await names(db, [of_model("m")]) == ["c"]


async def test_a_deleted_one_is_gone_and_keeps_its_place_for_a_day(db: Database) -> None:
    await kept(db, "c", messages=b'[{"role":"user","content":"secret"}]', body=b'{"said":"secret"}')
    await kept(db, "d")
    place = await completions.place(db, ME, "c")
    await completions.delete(db, ME, "c", 5)
    for asked in (completions.find, completions.messages):
        with pytest.raises(NotFound):
            await asked(db, ME, "c")
    for gone in (completions.change(db, ME, "c", {}), completions.delete(db, ME, "c", 6)):
        with pytest.raises(NotFound):
            await gone
    assert await names(db) == ["d"]
    assert await completions.place(db, ME, "c") == place
    assert "secret" not in repr(await making.everything(db))
    await completions.delete(db, ME, "d", 6 + PLACE_MS)
    with pytest.raises(NotFound):
        await completions.place(db, ME, "c")
    assert await rows(db) == [("d", 0)]
    assert await db.all("SELECT 1 FROM facets WHERE kind = ?", (KIND,)) == []


async def test_an_id_that_was_deleted_may_be_given_out_again(db: Database) -> None:
    await kept(db, "c", body=b'{"n":0}')
    await completions.delete(db, ME, "c", 5)
    await kept(db, "c", body=b'{"n":1}')
    assert await names(db) == ["c"]
    assert (await shown(db, "c"))["n"] == 1


# --- a session's ---


async def talked(db: Database) -> sessions.Found:
    """A session of two turns on a branch and one on another, each with a completion."""
    for n in range(2):
        await say(db, "s", f"q{n}", f"a{n}", completion=making.completion(f"c{n}"))
    found = await find(db, "s")
    fork = record(
        "s", found, [message("q2"), message("a2", "assistant")], fork_at=2, completion=making.completion("c2")
    )
    await turns.append(db, ME, fork)
    assert await names(db) == ["c0", "c1", "c2"]
    return await find(db, "s")


async def test_a_deleted_completion_leaves_its_turn(db: Database) -> None:
    session, _ = await talked(db)
    await completions.delete(db, ME, "c1", 5)
    count = await db.all("SELECT count(*) FROM turns WHERE tenant = 1 AND session = ?", (session.id,))
    assert count == [(3,)]


async def test_a_sessions_completions_go_with_it(db: Database) -> None:
    session, _ = await talked(db)
    await kept(db, "own")
    assert await sessions.delete(db, ME, session.id)
    assert await rows(db) == [("own", 1)]
    assert await db.all("SELECT DISTINCT owner FROM facets WHERE kind = ?", (KIND,)) == [(4,)]


async def test_they_go_with_the_conversation_when_it_is_cleared(db: Database) -> None:
    session, _ = await talked(db)
    assert await history.clear(db, ME, session.id, 5)
    assert await rows(db) == []


async def test_they_go_with_their_branch(db: Database) -> None:
    session, _ = await talked(db)
    point = await branches.after(db, ME, session.id, 1)
    assert point is not None
    await branches.begin(db, ME, session.id, point, 5)
    await branches.delete(db, ME, session.id, 2, 6)
    assert await names(db) == ["c0", "c1"]


async def test_a_turn_that_cannot_be_stored_leaves_no_completion(db: Database) -> None:
    found = await say(db, "s", "q", "a")
    await say(db, "s", "q2", "a2")
    late = record("s", found, [message("x"), message("y", "assistant")], completion=making.completion("c"))
    with pytest.raises(Exception, match="changed this session"):
        await turns.append(db, ME, late)
    assert await rows(db) == []


# --- tenants ---


async def test_a_key_that_owns_nothing_lists_nothing_and_gets_a_tenant_with_its_first_completion(db: Database) -> None:
    new = await keys.passthrough_scope(db, b"sk-new")
    assert new.tenant < 0
    before = await making.everything(db)
    assert await names(db, scope=new) == []
    with pytest.raises(NotFound):
        await completions.find(db, new, "c")
    assert await making.everything(db) == before
    await kept(db, "c", scope=new)
    known = await keys.passthrough_scope(db, b"sk-new")
    assert known.tenant > 0
    assert await names(db, scope=known) == ["c"]
    assert await names(db) == []


async def test_a_large_one_is_stored_like_a_small_one(db: Database) -> None:
    messages = b'["%b"]' % (b"x" * 2_000_000)
    await kept(db, "c", messages=messages)
    assert await completions.messages(db, ME, "c") == messages
