"""A tenant sees its own: every function of the store, asked for what is another's, answers as if it were not there."""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from proxy import store
from proxy.errors import Conflict, NotFound, Unavailable
from proxy.resources import Doc, Member, Owner, Page, Tool
from proxy.store import (
    archive,
    blobs,
    branches,
    choices,
    completions,
    docs,
    entries,
    facets,
    files,
    history,
    ledgers,
    members,
    owners,
    passages,
    sessions,
    settings,
    summaries,
    tools,
    turns,
)
from proxy.store.database import Database
from proxy.store.history import Told
from proxy.store.settings import Joining
from proxy.types import Branch, Entry, Instructions, Scope, Session
from tests.store import making
from tests.store.saying import mark, message, record, say, tenant

pytestmark = pytest.mark.anyio

LINE = [(1, 1, 3)]
NOWHERE = 999
PAGE = Page()
LOOK = message(f"look {'iVBO' * 2_000}", "assistant", calls=1)
BARE, RUNS = blobs.taken_out(LOOK.raw)
KEPT = Entry(1, "assistant", BARE, 3, 3, 1, 1)
FORKED = Branch(2, 1, 0, 0, 0, b"", "complete", 0, 0, "", None)
MODULES = tuple(
    importlib.import_module(f"{store.__name__}.{found.name}") for found in pkgutil.iter_modules(store.__path__)
)


def at(id: int) -> Owner:
    """The session of that number as one who has documents and tools."""
    return Owner("session", id, "")


def known(id: int, uuid: str) -> str:
    return "nowhere" if id == NOWHERE else uuid


def each_its_own(told: Sequence[Told]) -> list[passages.Passage]:
    """Every message as a passage of the one word "spoken"."""
    return [passages.Passage(one.branch, one.seq, one.seq, "spoken", 1) for one in told]


def summary(upto: int) -> summaries.Summary:
    return summaries.Summary(1, upto, 3, "m", 9, "They said hello.")


async def told(asked: Awaitable[Any]) -> Any:
    """What was found, or what is said where nothing was."""
    try:
        return await asked
    except (NotFound, Conflict, Unavailable) as exc:
        return exc.message, exc.code, exc.param


READS: dict[str, Callable[[Database, Scope, Session, int], Awaitable[Any]]] = {
    "sessions.find": lambda db, scope, session, _: sessions.find(db, scope, session.name or ""),
    "sessions.branches": lambda db, scope, _, id: sessions.branches(db, scope, id),
    "sessions.instructions": lambda db, scope, _, id: sessions.instructions(db, scope, id, 1),
    "sessions.same_instructions": lambda db, scope, _, id: sessions.same_instructions(db, scope, id, b"brief"),
    "branches.after": lambda db, scope, _, id: branches.after(db, scope, id, 1),
    "branches.at": lambda db, scope, _, id: branches.at(db, scope, id, 1, 2),
    "branches.start_of": lambda db, scope, _, id: branches.start_of(db, scope, id, 1),
    "branches.lineage": lambda db, scope, _, id: branches.lineage(db, scope, id, 1),
    "branches.chain": lambda db, scope, _, id: branches.chain(db, scope, id, FORKED),
    "branches.reaching": lambda db, scope, _, id: branches.reaching(db, scope, id, FORKED, mark("a", "assistant")),
    "branches.living": lambda db, scope, _, id: branches.living(db, scope, id),
    "branches.page": lambda db, scope, _, id: branches.page(db, scope, id, 9, 0),
    "ledgers.newest": lambda db, scope, _, id: ledgers.newest(db, scope, id, 9, 0),
    "ledgers.oldest": lambda db, scope, _, id: ledgers.oldest(db, scope, id, 9, 0),
    "ledgers.of_turn": lambda db, scope, _, id: told(ledgers.of_turn(db, scope, id, 1)),
    "entries.window": lambda db, scope, _, id: entries.window(db, scope, id, LINE, None),
    "entries.whole": lambda db, scope, *_: told(entries.whole(db, scope, [KEPT])),
    "entries.newest_user": lambda db, scope, _, id: entries.newest_user(db, scope, id, LINE),
    "entries.last_calls": lambda db, scope, _, id: entries.last_calls(db, scope, id, LINE),
    "entries.digests": lambda db, scope, _, id: entries.digests(db, scope, id, LINE),
    "entries.places": lambda db, scope, _, id: entries.places(db, scope, id, mark("q")),
    "entries.stored": lambda db, scope, _, id: entries.stored(db, scope, id, mark("q")),
    "entries.at": lambda db, scope, _, id: entries.at(db, scope, id, LINE, 1),
    "turns.answered": lambda db, scope, _, id: turns.answered(db, scope, id, "k", 1_000),
    "turns.recalled": lambda db, scope, _, id: turns.recalled(db, scope, id, 1),
    "turns.sent_in": lambda db, scope, _, id: turns.sent_in(db, scope, id, 1),
    "facets.page": lambda db, scope, _, id: facets.page(db, scope, "session", [("m:v", "1")], PAGE),
    "blobs.restored": lambda db, scope, *_: told(blobs.restored(db, scope, [blobs.taken_out(LOOK.raw)[0]])),
    "blobs.sizes": lambda db, scope, *_: blobs.sizes(db, scope, [blobs.taken_out(LOOK.raw)[0]]),
    "history.models_of": lambda db, scope, _, id: history.models_of(db, scope, id, [1]),
    "history.read": lambda db, scope, _, id: history.read(db, scope, id, LINE, 9),
    "passages.reach": lambda db, scope, _, id: passages.reach(db, scope, id, LINE),
    "passages.holding": lambda db, scope, _, id: told(passages.holding(db, scope, id, ["spoken"])),
    "passages.around": lambda db, scope, _, id: passages.around(db, scope, id, [id << 31 | 1 << 7], 1),
    "passages.told": lambda db, scope, _, id: passages.told(db, scope, id, LINE),
    "members.find": lambda db, scope, _, id: told(members.find(db, scope, "agent", known(id, "a"))),
    "members.page": lambda db, scope, *_: members.page(db, scope, "agent", [], PAGE),
    "members.taking_part": lambda db, scope, _, id: members.taking_part(db, scope, id),
    "settings.find": lambda db, scope, _, id: told(settings.find(db, scope, known(id, "s"))),
    "settings.fields": lambda db, scope, _, id: settings.fields(db, scope, id),
    "settings.page": lambda db, scope, *_: settings.page(db, scope, [("agent", "1")], PAGE),
    "docs.find": lambda db, scope, _, id: told(docs.find(db, scope, known(id, "d"))),
    "docs.page": lambda db, scope, _, id: docs.page(db, scope, at(id), [], PAGE),
    "docs.any_of": lambda db, scope, _, id: docs.any_of(db, scope, [at(id)]),
    "docs.size": lambda db, scope, _, id: docs.size(db, scope, [at(id)]),
    "docs.holding": lambda db, scope, _, id: docs.holding(db, scope, [at(id)], "ship"),
    "docs.hits": lambda db, scope, _, id: docs.hits(db, scope, [at(id)], [(1, 1.0)]),
    "files.find": lambda db, scope, _, id: told(files.find(db, scope, known(id, "f"))),
    "files.piece": lambda db, scope, _, id: told(files.piece(db, scope, id, 0)),
    "files.page": lambda db, scope, *_: files.page(db, scope, PAGE),
    "sessions.has_uuid": lambda db, scope, *_: db.transaction(lambda tx: sessions.has_uuid(tx, scope, UUID)),
    "summaries.newest": lambda db, scope, _, id: summaries.newest(db, scope, id, LINE),
    "summaries.around": lambda db, scope, _, id: summaries.around(db, scope, id, LINE, 1),
    "summaries.uncovered": lambda db, scope, _, id: summaries.uncovered(db, scope, id, LINE, 1),
    "summaries.summarized": lambda db, scope, _, id: summaries.summarized(db, scope, [id]),
    "tools.every": lambda db, scope, _, id: tools.every(db, scope, [at(id)]),
    "archive.listed": lambda db, scope, *_: archive.listed(db, scope),
    "archive.session": lambda db, scope, _, id: archive.session(db, scope, id),
    "archive.documents": lambda db, scope, _, id: archive.documents(db, scope, at(id)),
    "archive.instructions": lambda db, scope, _, id: archive.instructions(db, scope, id),
    "archive.entries": lambda db, scope, _, id: archive.entries(db, scope, id, 1, (1, 9)),
    "archive.turns": lambda db, scope, _, id: archive.turns(db, scope, id, [1]),
    "choices.of_turn": lambda db, scope, _, id: choices.of_turn(db, scope, id, 1),
    "choices.turns_with_any": lambda db, scope, _, id: choices.turns_with_any(db, scope, id, [1, 2]),
    "completions.find": lambda db, scope, _, id: told(completions.find(db, scope, known(id, "c"))),
    "completions.messages": lambda db, scope, _, id: told(completions.messages(db, scope, known(id, "c"))),
    "completions.place": lambda db, scope, _, id: told(completions.place(db, scope, known(id, "c"))),
    "completions.page": lambda db, scope, *_: completions.page(db, scope, [], PAGE),
}
CHANGES: dict[str, Callable[[Database, Scope, int], Awaitable[Any]]] = {
    "passages.extend": lambda db, scope, id: passages.extend(db, scope, id, (1, 3, 3), each_its_own),
    "branches.begin": lambda db, scope, id: told(branches.begin(db, scope, id, branches.Point(), 9)),
    "branches.delete": lambda db, scope, id: told(branches.delete(db, scope, id, 1, 9)),
    "history.clear": lambda db, scope, id: history.clear(db, scope, id, 9),
    "members.change": lambda db, scope, id: told(
        members.change(db, scope, "agent", known(id, "a"), making.body(name="x"), 9)
    ),
    "members.delete": lambda db, scope, id: told(members.delete(db, scope, "agent", known(id, "a"))),
    "settings.change": lambda db, scope, id: told(settings.change(db, scope, id, lambda old: old, Joining(), 9)),
    "docs.create": lambda db, scope, id: told(making.doc(db, at(id), "new", uuid="new", scope=scope)),
    "docs.delete": lambda db, scope, id: docs.delete(db, scope, at(id), ["d"]),
    "docs.delete_all": lambda db, scope, id: docs.delete_all(db, scope, at(id)),
    "files.delete": lambda db, scope, id: told(files.delete(db, scope, known(id, "f"))),
    "summaries.add": lambda db, scope, id: summaries.add(db, scope, id, 1, summary(2)),
    "summaries.take_call": lambda db, scope, id: summaries.take_call(db, scope, id, 9),
    "summaries.give_call_back": lambda db, scope, id: summaries.give_call_back(db, scope, id),
    "tools.create": lambda db, scope, id: told(tools.create(db, scope, at(id), making.tool("new"))),
    "tools.change": lambda db, scope, id: told(tools.change(db, scope, at(id), "t", lambda old: old, 9)),
    "tools.delete": lambda db, scope, id: told(tools.delete(db, scope, at(id), "t")),
    "tools.put": lambda db, scope, id: told(
        db.transaction(lambda tx: tools.put(tx, scope, at(id), [making.tool("look"), making.tool("new")]))
    ),
    "docs.put": lambda db, scope, id: told(
        db.transaction(lambda tx: docs.put(tx, scope, at(id), Doc(0, "new", 9, "", b"{}", b'["x"]'), [("x", 1)], []))
    ),
    "choices.put": lambda db, scope, id: db.transaction(lambda tx: choices.put(tx, scope, id, 2, b"[]")),
    "completions.change": lambda db, scope, id: told(completions.change(db, scope, known(id, "c"), {"v": "2"})),
    "completions.delete": lambda db, scope, id: told(completions.delete(db, scope, known(id, "c"), 9)),
    "owners.hold": lambda db, scope, id: told(db.transaction(lambda tx: owners.hold(tx, scope, at(id)))),
    "facets.touch": lambda db, scope, id: db.transaction(lambda tx: facets.touch(tx, scope, "session", id, 9)),
}
MAKES: dict[str, Callable[[Database, Scope, int], Awaitable[Any]]] = {
    "blobs.keep": lambda db, scope, id: db.transaction(lambda tx: blobs.keep(tx, scope, id, 1, RUNS)),
    "blobs.put": lambda db, scope, id: db.transaction(lambda tx: blobs.put(tx, scope, id, 1, LOOK.raw)),
    "facets.write": lambda db, scope, id: db.transaction(
        lambda tx: facets.write(tx, scope, "session", id, [facets.EVERY, ("m:v", "1")], (9, 9))
    ),
    "members.put": lambda db, scope, _: making.member(db, "a", scope=scope, now=9, name="x"),
    "settings.create": lambda db, scope, _: making.session(db, UUID, name="s", scope=scope, now=9),
    "completions.keep": lambda db, scope, _: completions.keep(db, scope, making.completion("c", request=b"r"), 0),
    "completions.put": lambda db, scope, _: db.transaction(
        lambda tx: completions.put(tx, scope, making.completion("c"), None)
    ),
    "files.create": lambda db, scope, _: making.file(db, "f", scope=scope, now=9),
    "archive.store": lambda db, scope, _: archive.store(db, scope, lambda: PARTS, 9),
}
"""What makes something of one's own, of the same name."""
ELSEWHERE = {"branches.made", "keys.owning", "sessions.delete", "turns.append", "sessions.begin"}
"""Tried below, or within what calls them and in tests of their own: `branches.made` in test_branches, `keys.owning` by
every write of a tenant, `sessions.begin` in settings.create and history.clear, which look for the session first."""
UUID = "12345678-1234-4234-8234-123456789012"
PARTS = [
    archive.SessionPart(UUID, "s", None, None, 1, 1, 0, 9, 9, b"{}", ("a",)),
    archive.DocPart(Doc(0, "d", 9, "", b"{}", b'["We ship"]'), (("We ship", 2),)),
    archive.MemberPart(Member(0, "agent", "a", 9, 9, b"{}")),
    archive.ToolPart(Tool(0, "t", "look", 9, 9, b"{}")),
    archive.BranchPart(1, None, 0, 0, 0, b"", "complete", 0, 0, "", None, 9),
]


async def filled(db: Database, scope: Scope) -> tuple[Session, Branch]:
    """A session with something of everything."""
    await making.member(db, "a", scope=scope)
    made = await making.session(db, UUID, name="s", scope=scope, joining=Joining(["a"]), metadata={"v": 1})
    await making.doc(db, making.owner(made), "We ship", uuid="d", scope=scope)
    await tools.create(db, scope, making.owner(made), making.tool("look", "t"))
    await making.file(db, "f", scope=scope)
    found = await say(
        db, "s", "q", "a", scope=scope, instructions=Instructions(b"brief", 3), key="k", answer=b"{}", recalled=b"old",
        choices=b"[{}]",
    )  # fmt: skip
    await making.kept(db, "c", scope=scope, metadata={"v": "1"}, request=b"r")
    await summaries.take_call(db, scope, found[0].id, 9)
    await summaries.add(db, scope, found[0].id, 1, summary(1))
    await turns.append(db, scope, record("s", found, [LOOK]))
    await passages.extend(db, scope, found[0].id, (1, 1, 2), each_its_own)
    return found


def functions(module: ModuleType) -> set[str]:
    """The module's public functions that take a scope."""
    name = module.__name__.rpartition(".")[2]
    mine = {
        key: one for key, one in inspect.getmembers(module, inspect.isfunction) if one.__module__ == module.__name__
    }
    return {f"{name}.{key}" for key, one in mine.items()
            if not key.startswith("_") and "scope" in inspect.signature(one).parameters}  # fmt: skip


def test_every_function_of_the_store_is_tried() -> None:
    every = set().union(*(functions(module) for module in MODULES))
    assert every == set(READS) | set(CHANGES) | set(MAKES) | ELSEWHERE


@pytest.mark.parametrize("name", READS)
async def test_what_is_anothers_reads_like_what_is_nowhere(db: Database, name: str) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, _ = await filled(db, mine)
    own = await READS[name](db, mine, session, session.id)
    foreign = await READS[name](db, other, session, session.id)
    unknown = await READS[name](db, other, session, NOWHERE)
    assert own != foreign
    assert foreign == unknown


@pytest.mark.parametrize("name", READS)
async def test_the_latest_answer_and_all_else_are_ones_own_when_both_have_a_session(db: Database, name: str) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, _ = await filled(db, mine)
    theirs, _ = await say(db, "t", "their question", "their answer", scope=other)
    before = await READS[name](db, mine, session, session.id)
    await say(db, "t", "more", "still more", scope=other)
    assert await READS[name](db, mine, session, session.id) == before
    assert session.id != theirs.id


async def test_the_latest_answer_of_a_foreign_session_is_not_given_out(db: Database) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, _ = await say(db, "s", "q", "a", scope=mine, request=b"r", answer=b"secret")
    assert await turns.answered(db, mine, session.id, "", 1_000) is not None
    assert await turns.answered(db, other, session.id, "", 1_000) is None


async def test_what_is_anothers_cannot_be_changed(db: Database) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, branch = await filled(db, mine)
    before = await making.everything(db)
    assert not await sessions.delete(db, other, session.id)
    assert not await sessions.delete(db, other, NOWHERE)
    for fork in (None, 0, 1):
        with pytest.raises(Conflict):
            await turns.append(db, other, record("s", (session, branch), [message("x")], fork_at=fork))
    assert await making.everything(db) == before


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_of_what_is_anothers_ends_like_one_of_what_is_nowhere(db: Database, name: str) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, _ = await filled(db, mine)
    before = await making.everything(db)
    foreign = await CHANGES[name](db, other, session.id)
    assert foreign == await CHANGES[name](db, other, NOWHERE)
    assert await making.everything(db) == before
    assert await CHANGES[name](db, mine, session.id) != foreign or await making.everything(db) != before


@pytest.mark.parametrize("name", MAKES)
async def test_what_is_made_under_anothers_name_is_ones_own(db: Database, name: str) -> None:
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    session, _ = await filled(db, mine)
    before = await making.everything(db)
    reads = {read: await READS[read](db, mine, session, session.id) for read in READS}
    await MAKES[name](db, other, session.id)
    after = await making.everything(db)
    assert all(row in after[table] for table, rows in before.items() for row in rows)
    assert {read: await READS[read](db, mine, session, session.id) for read in READS} == reads


async def test_instructions_of_another_session_are_not_taken_over(db: Database) -> None:
    """The same text in a session of one's own is a row of one's own."""
    mine, other = await tenant(db, "mine"), await tenant(db, "other")
    await filled(db, mine)
    theirs, _ = await say(db, "s", "q", "a", scope=other, instructions=Instructions(b"brief", 3))
    found = await sessions.same_instructions(db, other, theirs.id, b"brief")
    assert found is not None
    assert await db.all("SELECT tenant FROM instructions WHERE id = ?", (found.id,)) == [(other.tenant,)]
