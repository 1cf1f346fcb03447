"""What lists filter by: metadata taken apart, and the lists along its values."""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from proxy.errors import BadRequest
from proxy.resources import Page
from proxy.store import facets
from proxy.store.database import Database
from proxy.store.facets import DEEPEST, EVERY, LONGEST, MOST, PARTS, STEP, Facet
from tests.store.saying import ME, tenant

pytestmark = pytest.mark.anyio

A, B, C = ("m:a", "1"), ("m:b", "2"), ("m:c", "3")
ODD = [
    "' OR 1=1 --", '"]', "x', 'y", "$.a", "$", "a[0]", "%", "_", "*", "", "null", "1", "1.0", "[1]", '{"a": 1}',
    "a\0b", "\0", "\u2028\x85", "🙂", "é", "e\u0301", "\\", "\\u0041", "?", ":tenant", "--", "/*", "\x1f\x7f", " ",
]  # fmt: skip


# --- metadata taken apart ---


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({}, []),
        ({"a": "x"}, [("m:a", "x")]),
        ({"a": {"b": {"c": "x"}}}, [("m:a.b.c", "x")]),
        ({"a": {"b": [1, True]}}, [("m:a.b", "1"), ("m:a.b", "true")]),
        ({"a": [[1, [2]], {"b": 3}]}, [("m:a", "1"), ("m:a", "2"), ("m:a.b", "3")]),
        ({"a.b": 1, "a": {"b": 2}}, [("m:a.b", "1"), ("m:a.b", "2")]),
        ({"a": {}, "b": [], "c": [{}]}, []),
        ({"a": None, "b": False, "c": ""}, [("m:a", "null"), ("m:b", "false"), ("m:c", "")]),
        ({"a": 1.5, "b": -7, "c": 1e300}, [("m:a", "1.5"), ("m:b", "-7"), ("m:c", "1e300")]),
        ({"": 1, "*": 2, "agent": 3}, [("m:", "1"), ("m:*", "2"), ("m:agent", "3")]),
        ({"a": 12345678901234567890123}, [("m:a", "12345678901234567890123")]),
    ],
)
def test_each_value_of_metadata_stands_under_its_path(metadata: dict[str, Any], found: list[Facet]) -> None:
    assert facets.of_metadata(metadata) == found


@pytest.mark.parametrize("same", [1, 1.0, "1", [1, 1], [1.0, "1"]])
def test_a_number_and_its_text_are_found_alike(same: Any) -> None:
    assert facets.of_metadata({"n": same}) == [("m:n", "1")]


def test_minus_nothing_is_nothing() -> None:
    assert facets.of_metadata({"n": [0, 0.0, -0.0]}) == [("m:n", "0")]


def test_a_long_value_is_kept_by_its_hash() -> None:
    edge, one, other = "x" * LONGEST, "x" * LONGEST + "1", "x" * LONGEST + "2"
    assert facets.of_metadata({"a": edge}) == [("m:a", edge)]
    values = [value for _, value in facets.of_metadata({"a": [one, other, one]})]
    assert len(set(values)) == len(values) == 2
    assert all(value.startswith(edge + "#") and len(value) < LONGEST + 40 for value in values)


def test_a_long_path_is_kept_by_its_hash_however_it_is_written() -> None:
    nested = facets.of_metadata({"x" * 150: {"y" * 150: 1}})
    assert nested == facets.of_metadata({"x" * 150 + "." + "y" * 150: 1})
    assert nested != facets.of_metadata({"x" * 150: {"y" * 149 + "z": 1}})
    assert len(nested[0][0]) < LONGEST + 40


def test_metadata_may_hold_256_values_and_no_more() -> None:
    assert len(facets.of_metadata({f"k{n}": n for n in range(MOST)})) == MOST
    assert len(facets.of_metadata({"k": [n % MOST for n in range(2 * MOST)]})) == MOST
    for value in ({f"k{n}": n for n in range(MOST + 1)}, {"k": list(range(MOST + 1))}):
        with pytest.raises(BadRequest, match="more than 256 values") as caught:
            facets.of_metadata(value)
        assert caught.value.param == "metadata"


def test_metadata_may_be_nested_ten_thousand_deep() -> None:
    lists: Any = 1
    for _ in range(10_000):
        lists = [lists]
    assert facets.of_metadata({"a": lists}) == [("m:a", "1")]
    objects: Any = 1
    for _ in range(DEEPEST // 2):
        objects = {"a": objects}
    assert [value for _, value in facets.of_metadata(objects)] == ["1"]
    with pytest.raises(BadRequest, match="too large"):
        facets.of_metadata({"a": objects})


@pytest.mark.parametrize(
    "value",
    [
        [[]] * (PARTS + 1),
        [1] * (PARTS + 1),
        {"k" * 4_000_000: {f"k{n}": [] for n in range(PARTS)}},  # 80 GB if each path were made
    ],
    ids=["empty lists", "one value", "a long key"],
)
def test_metadata_that_cannot_be_looked_at_in_a_moment_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest, match="too large"):
        facets.of_metadata({"a": value})


# --- lists ---


async def put(db: Database, owner: int, *having: Facet, at: tuple[int, int] = (0, 0), kind: str = "session") -> None:
    await db.transaction(lambda tx: facets.write(tx, ME, kind, owner, having, at))


async def listed(db: Database, *where: Facet, **page: Any) -> list[int]:
    return await facets.page(db, ME, "session", where, Page(**page))


async def test_a_list_is_ordered_by_time_and_then_by_number(db: Database) -> None:
    times = {1: (5, 9), 2: (5, 7), 3: (4, 9), 4: (6, 7), 5: (5, 8)}
    for number in (3, 5, 1, 4, 2):
        await put(db, number, EVERY, at=times[number])
    by: list[Literal["created_at", "updated_at"]] = ["created_at", "updated_at"]
    for n, sort_by in enumerate(by):
        oldest = sorted(times, key=lambda number: (times[number][n], number))
        assert await listed(db, EVERY, sort_by=sort_by, direction="asc") == oldest
        assert await listed(db, EVERY, sort_by=sort_by, direction="desc") == oldest[::-1]
    assert await listed(db, EVERY) == [4, 5, 2, 1, 3], "newest first, by when they were made"


async def test_pages_follow_one_another(db: Database) -> None:
    for number in range(1, 12):
        await put(db, number, EVERY, at=(number // 3, 0))
    whole = await listed(db, EVERY)
    for limit in (1, 2, 5, 11, 12):
        pages = [await listed(db, EVERY, limit=limit, offset=offset) for offset in range(0, 13, limit)]
        assert [number for page in pages for number in page] == whole
    assert await listed(db, EVERY, limit=0) == []
    assert await listed(db, EVERY, limit=2**62) == whole


@pytest.mark.parametrize("offset", [3, 4, STEP, STEP + 1, 10**9, 2**62, 2**63 - 1])
async def test_beyond_the_end_is_nothing(db: Database, offset: int) -> None:
    for number in (1, 2, 3):
        await put(db, number, EVERY, A)
    for direction in ("asc", "desc"):
        assert await listed(db, EVERY, offset=offset, direction=direction) == []
        assert await listed(db, EVERY, A, offset=offset, limit=2**62, direction=direction) == []


async def test_a_thing_is_listed_under_several_facets_when_it_has_them_all(db: Database) -> None:
    for number, having in enumerate([(A, B, C), (A, B), (B, C), (A, C), (A,), (A, B, C)], 1):
        await put(db, number, EVERY, *having, at=(number, 0))
    wanted = {(A,): [6, 5, 4, 2, 1], (A, B): [6, 2, 1], (B, C): [6, 3, 1], (A, B, C): [6, 1], (C, EVERY, A): [6, 4, 1]}
    for where, found in wanted.items():
        assert await listed(db, *where) == found
        assert await listed(db, *where[::-1]) == found
        assert await listed(db, *where, *where) == found
    assert await listed(db, A, ("m:a", "2")) == []


async def test_facets_that_are_written_again_take_the_place_of_the_old(db: Database) -> None:
    await put(db, 1, EVERY, A, at=(1, 1))
    await put(db, 1, EVERY, B, B, at=(1, 2))
    assert (await listed(db, A), await listed(db, B)) == ([], [1])


async def test_what_was_touched_moves_in_every_list(db: Database) -> None:
    for number in (1, 2, 3):
        await put(db, number, EVERY, A, at=(number, number))
    await db.transaction(lambda tx: facets.touch(tx, ME, "session", 1, 9))
    for facet in (EVERY, A):
        assert await listed(db, facet, sort_by="updated_at") == [1, 3, 2]
        assert await listed(db, facet) == [3, 2, 1]


@pytest.mark.parametrize("text", ODD)
async def test_any_text_is_a_value_and_a_path_like_others(db: Database, text: str) -> None:
    odd = facets.of_metadata({"a": text, text: "v"})
    await put(db, 1, EVERY, *odd)
    await put(db, 2, EVERY, *facets.of_metadata({"a": "other", "b": "v"}))
    for facet in odd:
        assert await listed(db, facet) == await listed(db, facet, EVERY) == await listed(db, EVERY, facet) == [1]
    assert await listed(db, EVERY) == [2, 1]


@pytest.mark.parametrize("text", ODD)
async def test_a_filter_finds_what_is_equal_and_nothing_else(db: Database, text: str) -> None:
    await put(db, 1, EVERY, *facets.of_metadata({"a": "other", "b": {"c": 5}}))
    for where in ([("m:a", text)], [("m:" + text, "other")], [(text, text)], [EVERY, ("m:a", text)]):
        assert await listed(db, *where) == []


async def test_metadata_cannot_pass_for_a_participant(db: Database) -> None:
    await put(db, 1, EVERY, *facets.of_metadata({"agent": "7", "*": "", "m": {"a": "1"}}))
    await put(db, 2, ("agent", "7"), A)
    assert (await listed(db, ("agent", "7")), await listed(db, EVERY), await listed(db, A)) == ([2], [1], [2])


async def test_lists_of_other_kinds_and_tenants_are_others(db: Database) -> None:
    other = await tenant(db, "other")
    await put(db, 1, EVERY, A)
    await put(db, 1, EVERY, A, kind="doc")
    await put(db, 2, EVERY, A, kind="doc")
    await db.transaction(lambda tx: facets.write(tx, other, "session", 3, [EVERY, A], (0, 0)))
    for where in ([EVERY], [A], [A, EVERY]):
        assert await listed(db, *where) == [1]
        assert await facets.page(db, ME, "doc", where, Page()) == [2, 1]
        assert await facets.page(db, other, "session", where, Page()) == [3]


# --- long lists ---


async def many(db: Database, having: Sequence[Sequence[Facet]]) -> None:
    def work(tx: Any) -> None:
        for number, given in enumerate(having, 1):
            facets.write(tx, ME, "session", number, given, (number // 7, number))

    await db.transaction(work)


async def test_a_long_list_is_walked_to_its_end_along_facets_that_are_all_common(db: Database) -> None:
    """Few things have both, and they stand far apart."""
    size = 3 * STEP
    both = {1, 2, 3, STEP, STEP + 1, size}
    await many(db, [(EVERY, A, B) if n in both else (EVERY, A if n % 2 else B) for n in range(1, size + 1)])
    found = sorted(both, reverse=True)
    for offset in range(8):
        for limit in (1, 2, 100):
            assert await listed(db, A, B, limit=limit, offset=offset) == found[offset : offset + limit]
    assert await listed(db, EVERY, A, B, direction="asc", sort_by="updated_at") == sorted(both)
    oldest = list(range(1, size + 1))
    for sort_by in ("created_at", "updated_at"):
        for direction, whole in (("asc", oldest), ("desc", oldest[::-1])):
            assert await listed(db, EVERY, limit=size, sort_by=sort_by, direction=direction) == whole
            assert await listed(db, EVERY, limit=2**62, offset=7, sort_by=sort_by, direction=direction) == whole[7:]
    assert await listed(db, EVERY, offset=2 * STEP + 5, limit=3) == [size - 2 * STEP - 5 - n for n in range(3)]


async def test_others_run_while_a_long_list_is_walked(db: Database) -> None:
    await many(db, [[EVERY]] * (3 * STEP))
    turns = 0

    async def beside() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(beside())
    await listed(db, EVERY, offset=3 * STEP)
    task.cancel()
    assert turns >= 3
