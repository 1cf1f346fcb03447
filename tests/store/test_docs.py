"""Documents, and the index of their words."""

import re
from typing import Any

import msgspec
import pytest

from proxy.errors import BadRequest, Conflict, NotFound
from proxy.resources import Doc, Hit, Owner, Page
from proxy.store import docs, facets, matching, members, sessions
from proxy.store.database import Database
from proxy.types import Scope
from tests.store.making import doc, everything, member, owner, session, uuids
from tests.store.saying import ME, find, say, tenant

pytestmark = pytest.mark.anyio

ODD = [
    "", " ", '"', '""', "'", "*", "ship*", "^ship", "ship +France", "NEAR", "NEAR(ship France)", "AND", "OR", "NOT",
    "owner:", "owner : a1", "text:ship", "{title} : ship", "-ship", "(", ")", "ship)", '") OR ("ship', "a1", '"a1"',
    "\0", "sh\0ip", "ship\0", "🙂", "ship🙂", "!", "--", "; DROP TABLE words", "\ud800", "sh\ud800ip", "%", "_", "a_b",
    "foo-bar", "it's", "e.g.", "हिन्दी", "ภาษาไทย", "日本語", "\u19b0", "ab\u19b0cd", "\u1cf2x", "e\u0301", "\u0301",
    "x" * 100_000, "a b " * 50_000, '"' * 50_000,
]  # fmt: skip


@pytest.fixture
async def of(db: Database) -> Owner:
    return owner(await member(db, "ada"))


async def holding(db: Database, word: str, *owners: Owner, scope: Scope = ME) -> list[str]:
    """The texts of the chunks that hold a word."""
    found = await docs.holding(db, scope, owners, word)
    every = {row[0]: row[1] for row in await db.all("SELECT id, text FROM chunks")}
    return [every[id] for id, _ in sorted(found)]


async def listed(db: Database, of: Owner, *, scope: Scope = ME, **metadata: object) -> list[str]:
    return uuids(await docs.page(db, scope, of, facets.of_metadata(metadata), Page()))


# --- made, listed, deleted ---


async def test_a_document_is_found_as_it_was_made(db: Database, of: Owner) -> None:
    given = Doc(0, "d", 5, "Shipping", b'{"lang":"en"}', b'["one","two"]')
    made = await docs.create(db, ME, of, given, [("one", 2), ("two", 2)])
    assert made == msgspec.structs.replace(given, id=made.id) == await docs.find(db, ME, "d")
    assert await docs.page(db, ME, of, [], Page()) == [made]
    assert await docs.size(db, ME, [of]) == 2


async def test_documents_are_listed_by_owner_and_metadata(db: Database, of: Owner) -> None:
    other, chat = owner(await member(db, "u", "user")), owner(await session(db, "s"))
    for n, whose in enumerate([of, other, of, chat, of]):
        await doc(db, whose, f"text {n}", uuid=f"d{n}", now=n // 2, n=n, odd=bool(n % 2))
    assert await listed(db, of) == ["d4", "d2", "d0"]
    assert await listed(db, of, odd=False, n=2) == ["d2"]
    assert (await listed(db, other), await listed(db, chat)) == (["d1"], ["d3"])
    assert uuids(await docs.page(db, ME, of, [], Page(1, 1, "updated_at", "asc"))) == ["d2"]


async def test_the_same_content_is_kept_once_for_an_owner(db: Database, of: Owner) -> None:
    await doc(db, of, "one", "two", uuid="d1", title="T")
    before = await everything(db)
    with pytest.raises(Conflict) as caught:
        await doc(db, of, "one", "two", uuid="d2", title="T", lang="en")
    assert (caught.value.code, caught.value.headers) == ("doc_exists", {"x-should-retry": "false"})
    assert await everything(db) == before
    for n, (texts, title) in enumerate([(["one", "two"], "U"), (["one two"], "T"), (["two", "one"], "T")]):
        await doc(db, of, *texts, uuid=f"other {n}", title=title)
    for n, whose in enumerate([await member(db, "bob"), await member(db, "u", "user"), await session(db, "s")]):
        await doc(db, owner(whose), "one", "two", uuid=f"same {n}", title="T")
    await docs.delete(db, ME, of, ["d1"])
    await doc(db, of, "one", "two", uuid="d1", title="T")


async def test_metadata_that_holds_too_much_is_refused(db: Database, of: Owner) -> None:
    before = await everything(db)
    large: dict[str, Any] = {f"k{n}": n for n in range(257)}
    with pytest.raises(BadRequest, match="256"):
        await doc(db, of, "one", **large)
    assert await everything(db) == before


async def test_what_is_deleted_leaves_nothing(db: Database, of: Owner) -> None:
    await doc(db, of, "We ship to France", uuid="kept")
    before = await everything(db)
    await doc(db, of, "We ship to France", "We ship to Spain", uuid="gone", title="x", v=[1, 2])
    await doc(db, of, "", uuid="empty")
    found = await docs.delete(db, ME, of, ["gone", "nowhere", "empty", "gone", "' OR 1=1 --"])
    assert sorted(found) == ["empty", "gone"]
    assert await everything(db) == before
    assert await docs.delete(db, ME, of, ["gone"]) == await docs.delete(db, ME, of, []) == []


async def test_only_the_owners_own_are_deleted(db: Database, of: Owner) -> None:
    """An agent and a session may have the same number."""
    chat = owner(await session(db, "s"))
    assert chat.id == of.id
    await doc(db, of, "one", uuid="d")
    assert await docs.delete(db, ME, chat, ["d"]) == []
    assert await listed(db, of) == ["d"]


async def test_an_unknown_document_and_a_foreign_one_are_not_found_alike(db: Database) -> None:
    other = await tenant(db, "other")
    theirs = owner(await member(db, "a", scope=other))
    await doc(db, theirs, "secret", uuid="d", scope=other)
    told = set()
    for uuid in ("d", "nowhere", ""):
        with pytest.raises(NotFound) as caught:
            await docs.find(db, ME, uuid)
        told.add((caught.value.message, caught.value.code))
    assert len(told) == 1
    assert await docs.delete(db, ME, theirs, ["d"]) == await listed(db, theirs) == []
    assert (await docs.size(db, ME, [theirs]), await docs.any_of(db, ME, [theirs])) == (0, False)
    assert await holding(db, "secret", theirs) == await docs.hits(db, ME, [theirs], [(1, 1.0)]) == []
    assert await listed(db, theirs, scope=other) == ["d"]


async def test_nothing_is_given_to_an_owner_who_is_gone_or_anothers(db: Database) -> None:
    other = await tenant(db, "other")
    agent, chat = await member(db, "a"), await session(db, "s")
    await members.delete(db, ME, "agent", "a")
    await sessions.delete(db, ME, chat.id)
    theirs = [await member(db, "a", scope=other), await session(db, "s", scope=other)]
    before = await everything(db)
    for whose in (agent, chat, *theirs):
        with pytest.raises(NotFound) as caught:
            await doc(db, owner(whose), "one")
        assert caught.value.code == f"{owner(whose).kind}_not_found"
    assert await everything(db) == before


async def test_a_sessions_document_dresses_it(db: Database, of: Owner) -> None:
    said, _ = await say(db, "chat", "q", "a")
    await doc(db, of, "one")
    assert not (await find(db, "chat"))[0].dressed
    await doc(db, Owner("session", said.id, said.uuid), "one")
    assert (await find(db, "chat"))[0].dressed


async def test_owners_are_told_how_much_they_have(db: Database, of: Owner) -> None:
    bob = owner(await member(db, "bob"))
    assert (await docs.any_of(db, ME, [of, bob]), await docs.size(db, ME, [of, bob])) == (False, 0)
    await doc(db, bob, "one", "two")
    await doc(db, of, "three")
    assert (await docs.any_of(db, ME, [bob]), await docs.any_of(db, ME, [])) == (True, False)
    assert (await docs.size(db, ME, [of, bob]), await docs.size(db, ME, [of]), await docs.size(db, ME, [])) == (3, 1, 0)


# --- words ---


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("ship", True), ("shipped", True), ("SHIPS", True), ("shipping", True), ("france", True), ("cafe", True),
        ("café", True), ("cafe\u0301", True), ("naïve", False), ("shi", False), ("hip", False), ("prices", True),
        ("re-ship", False), ("we-ship", True), ("we're", False), ("a_café", True), ("2024", True), ("202", False),
    ],
)  # fmt: skip
async def test_a_word_is_found_in_its_other_forms(db: Database, of: Owner, word: str, found: bool) -> None:
    text = "We ship to a Café in France since 2024"
    await doc(db, of, text, title="Prices")
    assert await holding(db, word, of) == [text] * found


async def test_the_length_of_a_chunk_is_told(db: Database, of: Owner) -> None:
    await doc(db, of, "We ship", "to France we ship", title="Prices")
    assert [words for _, words in await docs.holding(db, ME, [of], "shipped")] == [5, 3]
    assert [words for _, words in await docs.holding(db, ME, [of], "price")] == [5, 3]


@pytest.mark.parametrize("word", ODD, ids=lambda word: ascii(word[:20]))
async def test_any_text_can_be_looked_for(db: Database, of: Owner, word: str) -> None:
    """And nothing is found by what only looks like a search."""
    bob = owner(await member(db, "bob"))
    await doc(db, bob, "we ship to France a b", word.replace("\ud800", ""), title="bob")
    await doc(db, of, "nothing here")
    assert await holding(db, word, of) == []
    assert await holding(db, word, bob, of) == await holding(db, word, bob)


async def test_every_letter_there_is_can_be_looked_for(db: Database, of: Owner) -> None:
    """Where this version of Python and FTS5 part words differently, a search would end in an error."""
    await doc(db, of, "one")
    letters = re.findall(r"[^\W_]", "".join(map(chr, range(0x110000))))
    assert len(letters) > 100_000
    for at in range(0, len(letters), matching.PIECES):
        word = "-".join(f"a{letter}b" for letter in letters[at : at + matching.PIECES])
        assert await docs.holding(db, ME, [of], word) == []


async def test_a_word_made_of_several_is_found_where_all_of_them_are(db: Database, of: Owner) -> None:
    await doc(db, of, "foo bar", "bar foo", "foo", "foo-bar", title="x")
    await doc(db, of, "bar", title="foo")
    assert await holding(db, "foo-bar", of) == ["foo bar", "bar foo", "foo-bar", "bar"]


async def test_one_owner_never_finds_what_is_anothers(db: Database) -> None:
    """Not by a number that begins alike or is the same, and not by a text that names the owner."""
    agents = [owner(await member(db, f"a{n}")) for n in range(12)]
    chat = owner(await session(db, "s"))
    user = owner(await member(db, "u", "user"))
    assert chat.id == agents[0].id
    every = [*agents, chat, user]
    names = " ".join(f"{one.word} {one.uuid}" for one in every)
    for one in every:
        await doc(db, one, f"ship {names} {one.kind} {one.uuid}", title=names)
    for one in every:
        for word in ("ship", one.word, "a1", "s1", "agent"):
            found = await holding(db, word, one)
            assert len(found) <= 1
            assert all(text.endswith(f"{one.kind} {one.uuid}") for text in found)
    assert len(await holding(db, "ship", agents[3], chat)) == 2
    assert await holding(db, "ship") == []


async def test_another_tenant_finds_nothing(db: Database, of: Owner) -> None:
    other = await tenant(db, "other")
    theirs = owner(await member(db, "a", scope=other))
    await doc(db, of, "We ship")
    assert await holding(db, "ship", of, theirs, scope=other) == []
    assert await holding(db, "ship", of, theirs) == ["We ship"]


# --- hits ---


async def test_hits_come_with_their_document_best_first(db: Database, of: Owner) -> None:
    bob, eve = owner(await member(db, "bob")), owner(await member(db, "eve"))
    await doc(db, of, "one", "two", uuid="d1", title="T", lang="en", tags=["x", "y"])
    await doc(db, bob, "three", uuid="d2", title="U", lang="en")
    await doc(db, eve, "four", uuid="d3", lang="en")
    scores = [(1, 0.5), (2, 2.0), (3, 2.0), (4, 9.0), (999, 3.0)]
    en = b'{"lang":"en","tags":["x","y"]}'
    assert await docs.hits(db, ME, [of, bob], scores) == [
        Hit("d1", "T", of, en, 1, "two", 2.0), Hit("d2", "U", bob, b'{"lang":"en"}', 0, "three", 2.0),
        Hit("d1", "T", of, en, 0, "one", 0.5),
    ]  # fmt: skip
    assert await docs.hits(db, ME, [of], []) == await docs.hits(db, ME, [], scores) == []


async def test_only_documents_with_all_of_the_metadata_are_found(db: Database, of: Owner) -> None:
    await doc(db, of, "ship one", uuid="d1", lang="en", tags=["x", "y"])
    await doc(db, of, "ship two", uuid="d2", lang="en")
    for where, found in (
        ({}, [2, 1]), ({"lang": "en"}, [2, 1]), ({"tags": ["y"], "lang": "en"}, [1]), ({"lang": "de"}, []),
        ({"tags": "' OR 1=1 --"}, []), ({"lang": "en\0"}, []), ({"$.lang": "en"}, []),
    ):  # fmt: skip
        held = await docs.holding(db, ME, [of], "ship", facets.of_metadata(where))
        assert [id for id, _ in held] == found
