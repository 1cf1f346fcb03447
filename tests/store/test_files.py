"""Files: kept in pieces, listed without them."""

import hashlib
import random

import pytest

from proxy.errors import NotFound
from proxy.resources import Page
from proxy.store import files, keys
from proxy.store.database import Database
from proxy.store.files import PIECE
from tests.store.making import everything, file, uuids
from tests.store.saying import ME, tenant

pytestmark = pytest.mark.anyio

SIZES = [1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 5]


async def content_of(db: Database, made: files.File) -> bytes:
    return b"".join([await files.piece(db, ME, made.id, place) for place in range(made.pieces)])


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_comes_back_as_it_was(db: Database, size: int) -> None:
    content = random.Random(size).randbytes(size)
    made = await file(db, "f", content, now=7, description="what it is", mime_type="image/png", project="shop")
    assert made == files.File(
        made.id, "f", 7, "f.bin", "what it is", "image/png", "shop", size, hashlib.sha256(content).hexdigest()
    )
    assert await files.find(db, ME, "f") == made
    assert await content_of(db, made) == content
    assert made.pieces == len(await db.all("SELECT 1 FROM pieces WHERE file = ?", (made.id,)))


async def test_the_same_content_may_be_kept_twice(db: Database) -> None:
    one, two = await file(db, "one", b"x"), await file(db, "two", b"x")
    assert one.hash == two.hash
    await files.delete(db, ME, "one")
    assert await content_of(db, two) == b"x"


async def test_files_are_listed_with_the_newest_first(db: Database) -> None:
    for n in range(5):
        await file(db, f"f{n}", now=10 + n)
    assert uuids(await files.page(db, ME, Page())) == ["f4", "f3", "f2", "f1", "f0"]
    assert uuids(await files.page(db, ME, Page(2, 1))) == ["f3", "f2"]
    assert uuids(await files.page(db, ME, Page(2, 5))) == []


async def test_a_deleted_file_leaves_nothing(db: Database) -> None:
    before = await everything(db)
    await file(db, "f", bytes(PIECE + 1))
    await files.delete(db, ME, "f")
    assert await everything(db) == before
    for gone in (files.find(db, ME, "f"), files.delete(db, ME, "f"), files.piece(db, ME, 1, 0)):
        with pytest.raises(NotFound, match="there is no such file") as caught:
            await gone
        assert caught.value.code == "file_not_found"


async def test_the_first_thing_of_a_tenant_may_be_a_file(db: Database) -> None:
    key = b"sk-new"
    made = await file(db, "f", scope=await keys.passthrough_scope(db, key))
    own = await keys.passthrough_scope(db, key)
    assert own.tenant > 0
    assert await files.find(db, own, "f") == made


async def test_two_tenants_may_have_files_of_one_id(db: Database) -> None:
    other = await tenant(db, "other")
    await file(db, "f", b"mine")
    await file(db, "f", b"theirs", scope=other)
    await files.delete(db, other, "f")
    assert (await files.find(db, ME, "f")).size == 4
