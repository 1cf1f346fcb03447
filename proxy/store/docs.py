"""Documents of agents, users and sessions, and the index of their words."""

import hashlib
from collections.abc import Sequence

import msgspec

from proxy.errors import Conflict, NotFound
from proxy.resources import Doc, Hit, Owner, Page
from proxy.store import facets, matching
from proxy.store import owners as holders
from proxy.store.database import Database, Row, Tx
from proxy.store.facets import Facet
from proxy.types import Scope

MANY = 300
"""Chunks that one word of a search finds at the most, the newest: 32 words then cost about 20 ms."""
LOOKED_AT = 5000
"""Chunks with a word whose documents' metadata is looked at, the newest."""
SLICE = 10
"""Documents that one transaction deletes: about 50 ms where each is of the largest kind."""
FEW = 8
"""Chunks that are written in the event loop; more are written apart from it."""
COUNTED = 20_000
"""Counting an owner's chunks stops here."""
_encode = msgspec.json.encode

Chunk = tuple[str, int]
"""A piece of a document's text, and how many words it and the title have."""


async def create(db: Database, scope: Scope, owner: Owner, doc: Doc, chunks: Sequence[Chunk]) -> Doc:
    """Stores and indexes the document: searchable when this returns. Raises Conflict when the owner has one with the
    same title and content, NotFound when the owner is gone."""
    found = facets.of_metadata(msgspec.json.decode(doc.metadata))
    write = db.apart if len(chunks) > FEW else db.transaction
    return await write(lambda tx: put(tx, scope, owner, doc, chunks, found))


def put(tx: Tx, scope: Scope, owner: Owner, doc: Doc, chunks: Sequence[Chunk], found: Sequence[Facet]) -> Doc:
    """`create` within a transaction; `found`: the facets of the metadata."""
    holders.hold(tx, scope, owner)
    digest = hashlib.blake2b(msgspec.json.encode([doc.title, doc.content]), digest_size=16).digest()
    rows = tx.all(
        """INSERT INTO docs (tenant, uuid, kind, owner, digest, created_at, title, metadata, content)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id""",
        (scope.tenant, doc.uuid, owner.kind, owner.id, digest, doc.created_at, doc.title, doc.metadata, doc.content),
    )
    if not rows:
        raise Conflict(
            f"A doc with this content already exists during create: the {owner.kind} has it; delete that one first",
            code="doc_exists",
            headers={"x-should-retry": "false"},
        )
    id = rows[0][0]
    for place, (text, words) in enumerate(chunks):
        row = tx.all(
            """INSERT INTO chunks (tenant, kind, owner, doc, place, words, text) VALUES (?, ?, ?, ?, ?, ?, ?)
               RETURNING id""",
            (scope.tenant, owner.kind, owner.id, id, place, words, text),
        )[0]
        tx.all(
            "INSERT INTO words (rowid, owner, title, text) VALUES (?, ?, ?, ?)", (row[0], owner.word, doc.title, text)
        )
    times = (doc.created_at, doc.created_at)
    facets.write(tx, scope, "doc", id, [(owner.kind, str(owner.id)), *found], times)
    return msgspec.structs.replace(doc, id=id)


async def find(db: Database, scope: Scope, uuid: str) -> Doc:
    """Raises NotFound when the tenant has no such document."""
    rows = await db.all(
        "SELECT id, uuid, created_at, title, metadata, content FROM docs WHERE tenant = ? AND uuid = ?",
        (scope.tenant, uuid),
    )
    if not rows:
        raise missing()
    return Doc(*rows[0])


async def page(db: Database, scope: Scope, owner: Owner, where: Sequence[Facet], page: Page) -> list[Doc]:
    """One page of the owner's documents that have all the facets."""
    ids = await facets.page(db, scope, "doc", [(owner.kind, str(owner.id)), *where], page)
    # The plus: SQLite would else walk through the tenant's documents for those of the page.
    rows = await db.all(
        """SELECT id, uuid, created_at, title, metadata, content FROM docs
           WHERE +tenant = ? AND id IN (SELECT value FROM json_each(?))""",
        (scope.tenant, _encode(ids).decode()),
    )
    found = {row[0]: Doc(*row) for row in rows}
    return [found[id] for id in ids if id in found]


async def delete(db: Database, scope: Scope, owner: Owner, uuids: Sequence[str]) -> list[str]:
    """Removes the owner's documents of these UUIDs with all that is indexed of them; gives those that were there."""
    rows = await db.apart(
        lambda tx: tx.all(
            """DELETE FROM docs WHERE tenant = ? AND kind = ? AND owner = ?
               AND uuid IN (SELECT value FROM json_each(?)) RETURNING uuid""",
            (scope.tenant, owner.kind, owner.id, _encode(uuids).decode()),
        )
    )
    return [row[0] for row in rows]


async def delete_all(db: Database, scope: Scope, owner: Owner, where: Sequence[Facet] = ()) -> list[str]:
    """Removes the owner's documents that have all the facets, some at a time, so that others get their turn; gives
    their UUIDs."""
    gone: list[str] = []
    while ids := await facets.page(db, scope, "doc", [(owner.kind, str(owner.id)), *where], Page(limit=SLICE)):
        rows = await db.apart(
            lambda tx, ids=ids: tx.all(
                """DELETE FROM docs WHERE +tenant = ? AND kind = ? AND owner = ?
                   AND id IN (SELECT value FROM json_each(?)) RETURNING uuid""",
                (scope.tenant, owner.kind, owner.id, _encode(ids).decode()),
            )
        )
        gone += [row[0] for row in rows]
    return gone


async def any_of(db: Database, scope: Scope, owners: Sequence[Owner]) -> bool:
    """Whether one of the owners has a document."""
    for owner in owners:
        rows = await db.all(
            "SELECT 1 FROM chunks WHERE tenant = ? AND kind = ? AND owner = ? LIMIT 1",
            (scope.tenant, owner.kind, owner.id),
        )
        if rows:
            return True
    return False


async def size(db: Database, scope: Scope, owners: Sequence[Owner]) -> int:
    """How many chunks the owners have together; counting stops at 20,000 of one owner."""
    total = 0
    for owner in owners:
        rows = await db.all(
            """SELECT count(*) FROM (SELECT 1 FROM chunks WHERE tenant = ? AND kind = ? AND owner = ? LIMIT ?)""",
            (scope.tenant, owner.kind, owner.id, COUNTED),
        )
        total += rows[0][0]
    return total


async def holding(
    db: Database, scope: Scope, owners: Sequence[Owner], word: str, where: Sequence[Facet] = ()
) -> list[tuple[int, int]]:
    """The newest chunks of the owners' documents with these facets that hold a word (or another form of it), with how
    many words they have. Of a word that is made of several, those that hold all of them; any text will do."""
    found = matching.all_of(word)
    if not (owners and found):
        return []
    names = " OR ".join(f'"{owner.word}"' for owner in owners)
    wanted = f"owner : ({names}) AND {{title text}} : ({found})"
    rows = await db.all(
        """SELECT h.id, h.words FROM (
               SELECT c.id, c.words, c.doc FROM words w JOIN chunks c ON c.id = w.rowid
               WHERE w.words MATCH ? AND c.tenant = ? AND c.owner IN (SELECT value FROM json_each(?))
               ORDER BY w.rowid DESC LIMIT ?) h
           WHERE NOT EXISTS (SELECT 1 FROM json_each(?) f WHERE NOT EXISTS (SELECT 1 FROM facets o
               WHERE o.kind = 'doc' AND o.owner = h.doc AND o.key = f.value ->> 0 AND o.value = f.value ->> 1))
           LIMIT ?""",
        (wanted, scope.tenant, _encode([owner.id for owner in owners]).decode(), LOOKED_AT,
         _encode(where).decode(), MANY),
    )  # fmt: skip
    return [(row[0], row[1]) for row in rows]


async def hits(db: Database, scope: Scope, owners: Sequence[Owner], scores: Sequence[tuple[int, float]]) -> list[Hit]:
    """These chunks, with their scores, as far as they are of the owners; best first."""
    by_id = dict(scores)
    rows = await db.all(
        """SELECT c.id, d.uuid, d.title, d.metadata, c.kind, c.owner, c.place, c.text
           FROM chunks c JOIN docs d ON d.id = c.doc
           WHERE +c.tenant = ? AND c.id IN (SELECT value FROM json_each(?))""",
        (scope.tenant, _encode(list(by_id)).decode()),
    )
    known = {(owner.kind, owner.id): owner for owner in owners}
    found = [(by_id[row[0]], row) for row in rows if (row[4], row[5]) in known]
    found.sort(key=lambda pair: (-pair[0], pair[1][0]))
    return [_hit(row, known[row[4], row[5]], score) for score, row in found]


def _hit(row: Row, owner: Owner, score: float) -> Hit:
    return Hit(row[1], row[2], owner, row[3], row[6], row[7], score)


def missing() -> NotFound:
    """An unknown document and a foreign one get the same bytes."""
    return NotFound("there is no such doc; its id is what creating it returned", code="doc_not_found")
