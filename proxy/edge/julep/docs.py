"""Documents of agents, users and sessions, and searching them."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from proxy.edge.julep import doc_shapes as shapes
from proxy.edge.julep import owners
from proxy.edge.julep.page import filters, page_of
from proxy.edge.julep.shapes import Deleted
from proxy.edge.julep.times import known, shown
from proxy.edge.operation import Ask
from proxy.errors import BadRequest, TooLarge
from proxy.recall import chunk, search
from proxy.resources import Doc, Hit
from proxy.services import epoch_ms, new_id
from proxy.store import docs, facets

LARGEST = 200_000
"""Bytes of a document's title and texts."""
MOST = 1000
"""Texts of a document: each is a piece of its own in the index."""

_texts = msgspec.json.Decoder(list[str]).decode
_object = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.encode


async def create(ask: Ask) -> shapes.Doc:
    """Add a document: it can be found when this returns."""
    owner = await owners.of(ask)
    given: shapes.CreateDoc = ask.given
    texts = [given.content] if isinstance(given.content, str) else list(given.content)
    content = _encode(texts)
    if len(content) + len(given.title) > LARGEST:
        raise TooLarge(f"a document holds at most {LARGEST:,} bytes; split it into several", param="content")
    if len(texts) > MOST:
        raise BadRequest(f"a document holds at most {MOST} texts; join short ones", param="content")
    chunks = await asyncio.to_thread(chunk.indexed, given.title, texts)
    if not chunks or not given.title.strip():
        raise BadRequest("a document needs a title and a text that are not blank", param="content")
    doc = Doc(0, new_id(), epoch_ms(), given.title, _encode(given.metadata or {}), content)
    return shown_doc(await docs.create(ask.svc.db, ask.who, owner, doc, chunks))


async def page(ask: Ask) -> shapes.Docs:
    """List documents."""
    owner = await owners.of(ask)
    found = await docs.page(ask.svc.db, ask.who, owner, filters(ask.query), page_of(ask.query))
    return shapes.Docs(items=[shown_doc(doc) for doc in found])


async def get(ask: Ask) -> shapes.Doc:
    """Read a document."""
    return shown_doc(await docs.find(ask.svc.db, ask.who, known(ask.path["doc"])))


async def delete(ask: Ask) -> Deleted:
    """Delete a document."""
    owner = await owners.of(ask)
    uuid = known(ask.path["doc"])
    if not await docs.delete(ask.svc.db, ask.who, owner, [uuid]):
        raise docs.missing()
    return Deleted(id=uuid, deleted_at=shown(epoch_ms()))


async def delete_many(ask: Ask) -> shapes.DeletedDocs:
    """Delete the owner's documents that have the given metadata, or all."""
    owner = await owners.of(ask)
    where = facets.of_metadata(ask.given.metadata_filter)
    if not where and not ask.given.delete_all:
        return shapes.DeletedDocs(items=[])
    gone = await docs.delete_all(ask.svc.db, ask.who, owner, where)
    now = shown(epoch_ms())
    return shapes.DeletedDocs(items=[Deleted(id=uuid, deleted_at=now) for uuid in gone])


async def find(ask: Ask) -> shapes.Found:
    """Search the owner's documents for a text."""
    began = time.perf_counter()
    owner = await owners.of(ask)
    given: shapes.Search = ask.given
    text = given.text if given.text is not None else given.query
    if text is None:
        said = "give `text`: this version compares no vectors" if given.vector is not None else "give `text`"
        raise BadRequest(said, param="text", code="unsupported_option" if given.vector is not None else None)
    wanted = given.metadata_filter if given.metadata_filter is not None else given.metadata
    hits = await search.text(ask.svc.db, ask.who, [owner], text, given.limit, facets.of_metadata(wanted or {}))
    return shapes.Found(docs=references(hits), time=max(0.001, round(time.perf_counter() - began, 6)))


def references(hits: Sequence[Hit]) -> list[shapes.DocReference]:
    """What a search found, as clients see it."""
    return [
        shapes.DocReference(
            id=hit.doc,
            title=hit.title,
            owner=shapes.DocOwner(id=hit.owner.uuid, role=hit.owner.kind),
            snippet=shapes.Snippet(index=hit.place, content=hit.text),
            distance=search.distance(hit.score),
            metadata=_object(hit.metadata),
        )
        for hit in hits
    ]


def shown_doc(doc: Doc) -> shapes.Doc:
    """A document as clients see it."""
    return shapes.Doc(
        id=doc.uuid,
        created_at=shown(doc.created_at),
        title=doc.title,
        content=_texts(doc.content),
        metadata=_object(doc.metadata),
    )
