"""Files: what they are called, and their content in pieces. A list reads no content."""

from collections.abc import Sequence

import msgspec

from proxy.errors import NotFound
from proxy.resources import Page
from proxy.store import facets, keys
from proxy.store.database import Database, Tx
from proxy.types import Scope

PIECE = 3 << 17
"""Bytes of a piece, but for a file's last one: a multiple of 3, so that each has a base64 of its own."""


class File(msgspec.Struct, frozen=True, gc=False):
    """A stored file without its content. `size` in bytes; `hash`: their SHA-256 in hex."""

    id: int
    uuid: str
    created_at: int
    name: str
    description: str
    mime_type: str | None
    project: str | None
    size: int
    hash: str

    @property
    def pieces(self) -> int:
        """How many its content has."""
        return -(-self.size // PIECE)


async def create(db: Database, scope: Scope, file: File, content: Sequence[bytes]) -> File:
    """Stores the file with its content, in pieces of `PIECE` bytes."""

    def work(tx: Tx) -> File:
        own = keys.owning(tx, scope, file.created_at)
        id = tx.all(
            """INSERT INTO files (tenant, uuid, created_at, name, description, mime_type, project, size, hash)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
            (own.tenant, *msgspec.structs.astuple(file)[1:]),
        )[0][0]
        for place, piece in enumerate(content):
            tx.all(
                "INSERT INTO pieces (tenant, file, place, content) VALUES (?, ?, ?, ?)", (own.tenant, id, place, piece)
            )
        facets.write(tx, own, "file", id, [facets.EVERY], (file.created_at, file.created_at))
        return msgspec.structs.replace(file, id=id)

    write = db.apart if len(content) > 1 else db.transaction
    return await write(work)


async def find(db: Database, scope: Scope, uuid: str) -> File:
    """Raises NotFound when the tenant has no such file."""
    rows = await db.all(
        """SELECT id, uuid, created_at, name, description, mime_type, project, size, hash FROM files
           WHERE tenant = ? AND uuid = ?""",
        (scope.tenant, uuid),
    )
    if not rows:
        raise missing()
    return File(*rows[0])


async def piece(db: Database, scope: Scope, file: int, place: int) -> bytes:
    """One piece of a file's content, by the file's number. Raises NotFound when the file is gone."""
    rows = await db.all(
        "SELECT content FROM pieces WHERE +tenant = ? AND file = ? AND place = ?", (scope.tenant, file, place)
    )
    if not rows:
        raise missing()
    return rows[0][0]


async def page(db: Database, scope: Scope, page: Page) -> list[File]:
    """One page of the tenant's files."""
    ids = await facets.page(db, scope, "file", [facets.EVERY], page)
    # The plus: SQLite would else walk through the tenant's files for those of the page.
    rows = await db.all(
        """SELECT id, uuid, created_at, name, description, mime_type, project, size, hash FROM files
           WHERE +tenant = ? AND id IN (SELECT value FROM json_each(?))""",
        (scope.tenant, msgspec.json.encode(ids).decode()),
    )
    found = {row[0]: File(*row) for row in rows}
    return [found[id] for id in ids if id in found]


async def delete(db: Database, scope: Scope, uuid: str) -> None:
    """With its content. Raises NotFound when the tenant has no such file."""
    rows = await db.apart(
        lambda tx: tx.all("DELETE FROM files WHERE tenant = ? AND uuid = ? RETURNING id", (scope.tenant, uuid))
    )
    if not rows:
        raise missing()


def missing() -> NotFound:
    """An unknown file and a foreign one get the same bytes."""
    return NotFound("there is no such file; its id is what creating it returned", code="file_not_found")
