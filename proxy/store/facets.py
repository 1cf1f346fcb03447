"""What lists filter by: each value of a thing is a row, each list is a range of one index."""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from proxy.errors import BadRequest
from proxy.resources import Page
from proxy.store.database import Database, Row, Tx
from proxy.types import Scope

Facet = tuple[str, str]
"""(key, value)."""

EVERY: Facet = ("*", "")
MOST = 256
"""Values of one thing's metadata."""
LONGEST = 200
"""Characters of a key or a value that the index holds; what is longer stands there by its hash."""
PARTS = 20_000
"""Values, lists and objects of one thing's metadata that are looked at."""
DEEPEST = 10_000
"""Characters of a path: each of the values below a long one would copy it."""
STEP = 2000
"""Rows that one statement walks along a list, fewer where several facets are looked up for each: bounds how long the
event loop is busy with it."""
SAMPLE = 100
"""How far along its list a facet is looked at to tell how rare it is."""

START = {"desc": (2**63 - 1, 2**63 - 1), "asc": (-1, -1)}
"""(time, number) before the first of a list."""


def of_metadata(metadata: Mapping[str, Any]) -> list[Facet]:
    """Each value of the metadata under its path: {"a": {"b": [1, true]}} gives ("m:a.b", "1") and ("m:a.b", "true").

    Raises BadRequest when there are more than 256 of them, or more of it than can be looked at.
    """
    found: dict[Facet, None] = {}
    for parts, (path, value) in enumerate(_parts(metadata)):
        if not isinstance(value, Mapping | list):
            found[_short("m:" + path), _short(_text(value))] = None
        if len(found) > MOST or parts > PARTS or len(path) > DEEPEST:
            raise BadRequest(
                f"metadata holds more than {MOST} values, or is too large; keep large data in a document",
                param="metadata",
            )
    return list(found)


def _parts(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All that the metadata holds, with its path, depth first. Without recursion, since it may be nested as deep as
    JSON allows, and one part at a time, since nobody has counted them yet."""
    waiting = [_below("", metadata)]
    while waiting:
        for path, value in waiting[-1]:
            yield path, value
            if isinstance(value, Mapping | list):
                waiting.append(_below(path, value))
                break
        else:
            waiting.pop()


def _below(path: str, value: Mapping[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        return ((path, item) for item in value)
    return ((f"{path}.{key}" if path else key, item) for key, item in value.items())


def _text(value: Any) -> str:
    """A scalar as it stands in a query string: a filter of `n=5` finds the number 5 and the text "5"."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return msgspec.json.encode(value).decode()


def _short(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return text[:LONGEST] + "#" + hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def write(tx: Tx, scope: Scope, kind: str, owner: int, facets: Sequence[Facet], times: tuple[int, int]) -> None:
    """Sets what a thing is listed by, in place of what was. `times`: created, updated."""
    tx.all("DELETE FROM facets WHERE tenant = ? AND kind = ? AND owner = ?", (scope.tenant, kind, owner))
    for key, value in facets:
        tx.all(
            """INSERT INTO facets (tenant, kind, owner, key, value, created_at, updated_at)
               VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
            (scope.tenant, kind, owner, key, value, *times),
        )


def touch(tx: Tx, scope: Scope, kind: str, owner: int, now: int) -> None:
    """The thing was changed now."""
    tx.all(
        "UPDATE facets SET updated_at = ? WHERE tenant = ? AND kind = ? AND owner = ?", (now, scope.tenant, kind, owner)
    )


async def page(db: Database, scope: Scope, kind: str, where: Sequence[Facet], page: Page) -> list[int]:
    """The numbers of the things that have all of the facets `where` (at least one), in the page's order."""
    at, last = page.after or START[page.direction]
    first, *rest = await _rarest_first(db, scope, kind, where, page)
    along = (kind, *first, msgspec.json.encode(rest).decode())
    longest = max(STEP // len(where), 1)
    step = min(page.offset + page.limit, longest)
    found: list[int] = []
    skip = page.offset
    while len(found) < page.limit:
        rows = await _part(db, scope, along, page, (at, last, step, 0))
        fitting = [id for _, id, fits in rows if fits]
        found += fitting[skip:]
        skip = max(skip - len(fitting), 0)
        if len(rows) < step:
            break
        at, last, _ = rows[-1]
        step = min(2 * step, longest)
        await asyncio.sleep(0)
    return found[: page.limit]


async def _rarest_first(db: Database, scope: Scope, kind: str, where: Sequence[Facet], page: Page) -> list[Facet]:
    """A list is walked along the facet that is rarest where it begins: a hundred of it reach farthest, if not beyond
    the end."""
    if len(where) == 1:
        return list(where)
    reach: dict[Facet, tuple[int, int]] = {}
    begin = page.after or START[page.direction]
    for facet in where:
        rows = await _part(db, scope, (kind, *facet, "[]"), page, (*begin, 1, SAMPLE - 1))
        reach[facet] = rows[0][:2] if rows else START["asc" if page.direction == "desc" else "desc"]
    return sorted(reach, key=lambda facet: reach[facet], reverse=page.direction == "asc")


async def _part(
    db: Database, scope: Scope, along: tuple[str, str, str, str], page: Page, place: tuple[int, int, int, int]
) -> list[Row]:
    """(time, number, whether it has the other facets) of the things at a place of the list. `along`: kind, key and
    value of the facet that the list is walked along, and the other facets as JSON. `place`: time and number of the last
    thing before, how many are asked for, and how many are left out before them."""
    kind, key, value, others = along
    args = (others, scope.tenant, kind, key, value, *place)
    if page.sort_by == "created_at" and page.direction == "desc":
        return await db.all(
            """SELECT created_at, owner, NOT EXISTS (SELECT 1 FROM json_each(?) c WHERE NOT EXISTS (
                   SELECT 1 FROM facets o
                   WHERE o.kind = f.kind AND o.owner = f.owner AND o.key = c.value ->> 0 AND o.value = c.value ->> 1))
               FROM facets f INDEXED BY facets_created
               WHERE tenant = ? AND kind = ? AND key = ? AND value = ? AND (created_at, owner) < (?, ?)
               ORDER BY created_at DESC, owner DESC LIMIT ? OFFSET ?""",
            args,
        )
    if page.sort_by == "created_at":
        return await db.all(
            """SELECT created_at, owner, NOT EXISTS (SELECT 1 FROM json_each(?) c WHERE NOT EXISTS (
                   SELECT 1 FROM facets o
                   WHERE o.kind = f.kind AND o.owner = f.owner AND o.key = c.value ->> 0 AND o.value = c.value ->> 1))
               FROM facets f INDEXED BY facets_created
               WHERE tenant = ? AND kind = ? AND key = ? AND value = ? AND (created_at, owner) > (?, ?)
               ORDER BY created_at, owner LIMIT ? OFFSET ?""",
            args,
        )
    if page.direction == "desc":
        return await db.all(
            """SELECT updated_at, owner, NOT EXISTS (SELECT 1 FROM json_each(?) c WHERE NOT EXISTS (
                   SELECT 1 FROM facets o
                   WHERE o.kind = f.kind AND o.owner = f.owner AND o.key = c.value ->> 0 AND o.value = c.value ->> 1))
               FROM facets f INDEXED BY facets_updated
               WHERE tenant = ? AND kind = ? AND key = ? AND value = ? AND (updated_at, owner) < (?, ?)
               ORDER BY updated_at DESC, owner DESC LIMIT ? OFFSET ?""",
            args,
        )
    return await db.all(
        """SELECT updated_at, owner, NOT EXISTS (SELECT 1 FROM json_each(?) c WHERE NOT EXISTS (
               SELECT 1 FROM facets o
               WHERE o.kind = f.kind AND o.owner = f.owner AND o.key = c.value ->> 0 AND o.value = c.value ->> 1))
           FROM facets f INDEXED BY facets_updated
           WHERE tenant = ? AND kind = ? AND key = ? AND value = ? AND (updated_at, owner) > (?, ?)
           ORDER BY updated_at, owner LIMIT ? OFFSET ?""",
        args,
    )
