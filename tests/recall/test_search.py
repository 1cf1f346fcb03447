"""Searching documents by their text: the rare word counts most, and what others store counts nothing."""

import hashlib

import pytest

from proxy.recall import query, search
from proxy.resources import Doc, Owner
from proxy.store import docs, members
from proxy.store.database import Database
from proxy.types import Scope

pytestmark = pytest.mark.anyio

MINE = Scope(1)


async def owner(db: Database, scope: Scope, name: str) -> Owner:
    member = await members.put(db, scope, "agent", name, members.New(lambda _: (b"{}", ())), 1)
    return Owner("agent", member.id, member.uuid)


async def write(db: Database, scope: Scope, whose: Owner, *texts: str, metadata: bytes = b"{}") -> None:
    for text in texts:
        name = hashlib.blake2b(f"{whose.uuid} {text}".encode(), digest_size=16).hexdigest()
        doc = Doc(0, name, 1, "Note", metadata, b"[]" + text.encode())
        await docs.create(db, scope, whose, doc, [(text, len(query.every(text)) + 1)])


async def found(db: Database, whose: Owner, text: str, scope: Scope = MINE, limit: int = 10) -> list[str]:
    return [hit.text for hit in await search.text(db, scope, [whose], text, limit)]


async def test_the_best_fit_comes_first(db: Database) -> None:
    ada = await owner(db, MINE, "ada")
    await write(db, MINE, ada, "Ships leave on Monday", "Parcels to France leave on Monday", "Tea is at five")
    assert await found(db, ada, "When do parcels leave for France?") == [
        "Parcels to France leave on Monday",
        "Ships leave on Monday",
    ]


async def test_another_form_of_a_word_is_found(db: Database) -> None:
    ada = await owner(db, MINE, "ada")
    await write(db, MINE, ada, "We ship everywhere")
    assert await found(db, ada, "shipping") == ["We ship everywhere"]


async def test_nothing_fits_small_talk(db: Database) -> None:
    ada = await owner(db, MINE, "ada")
    await write(db, MINE, ada, "Thank you very much")
    assert await found(db, ada, "Thank you!") == []


async def test_a_rare_word_tells_more_than_a_common_one(db: Database) -> None:
    ada = await owner(db, MINE, "ada")
    await write(db, MINE, ada, *(f"order number {n}" for n in range(20)), "a zebra")
    assert (await found(db, ada, "order of a zebra"))[0] == "a zebra"


async def test_an_owner_is_not_shown_what_others_have(db: Database) -> None:
    ada, bob = await owner(db, MINE, "ada"), await owner(db, MINE, "bob")
    await write(db, MINE, bob, "The secret word is swordfish")
    assert await found(db, ada, "swordfish") == []
    assert await found(db, bob, "swordfish", scope=Scope(2)) == []


async def test_what_others_store_changes_no_score(db: Database) -> None:
    ada, bob = await owner(db, MINE, "ada"), await owner(db, MINE, "bob")
    await write(db, MINE, ada, "blue whale", "blue sky", "red sky")
    before = await search.text(db, MINE, [ada], "blue sky", 10)
    assert [hit.text for hit in before] == ["blue sky", "blue whale", "red sky"]
    await write(db, MINE, bob, *(f"blue {n}" for n in range(30)))
    assert await search.text(db, MINE, [ada], "blue sky", 10) == before


async def test_metadata_is_looked_at_before_the_limit(db: Database) -> None:
    ada = await owner(db, MINE, "ada")
    await write(db, MINE, ada, *(f"tea {n}" for n in range(30)))
    await write(db, MINE, ada, "a long text about tea and many other things", metadata=b'{"kind":"long"}')
    hits = await search.text(db, MINE, [ada], "tea", 1, [("m:kind", "long")])
    assert [hit.text for hit in hits] == ["a long text about tea and many other things"]


def test_the_shorter_of_two_pieces_with_the_same_word_fits_better() -> None:
    scores = search.scored([[(1, 5), (2, 50)]], 10)
    assert scores[1] > scores[2] > 0


def test_a_better_fit_is_nearer() -> None:
    assert 0 < search.distance(3.0) < search.distance(1.0) < search.distance(0.0) == 1
