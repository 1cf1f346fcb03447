"""Files: bytes that are kept and given back. A large one is read, stored and sent piece by piece."""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from proxy.edge.julep import file_shapes as shapes
from proxy.edge.julep.shapes import Deleted
from proxy.edge.julep.times import known, shown
from proxy.edge.operation import Ask, Lines
from proxy.edge.tenants import admitted
from proxy.errors import BadRequest
from proxy.resources import Page
from proxy.services import epoch_ms, new_id
from proxy.store import files
from proxy.store.files import PIECE, File

STEP = 1 << 18
"""Characters that are read at once: about a millisecond, with the interpreter's lock."""


async def create(ask: Ask) -> shapes.File | Lines:
    """Keep a file. Its content is base64, up to three quarters of `server.max_body_mb`."""
    given: shapes.CreateFile = ask.given
    large = len(given.content) > STEP
    content, mark = await asyncio.to_thread(taken, given.content) if large else taken(given.content)
    who = await admitted(ask.svc, ask.who, ask.frame)
    size = sum(map(len, content))
    new = File(0, new_id(), epoch_ms(), given.name, given.description, given.mime_type, given.project, size, mark)
    file = await files.create(ask.svc.db, who, new, content)

    async def pieces() -> AsyncIterator[bytes]:
        for piece in content:
            yield piece

    return await _answer(file, pieces())


async def page(ask: Ask) -> list[shapes.File]:
    """List files: a plain list, the newest first, without their content."""
    found = await files.page(ask.svc.db, ask.who, Page(ask.query.limit, ask.query.offset))
    return [_shown(file) for file in found]


async def get(ask: Ask) -> shapes.File | Lines:
    """Read a file with its content."""
    file = await files.find(ask.svc.db, ask.who, known(ask.path["id"]))

    async def pieces() -> AsyncIterator[bytes]:
        for place in range(file.pieces):
            yield await files.piece(ask.svc.db, ask.who, file.id, place)

    return await _answer(file, pieces())


async def delete(ask: Ask) -> Deleted:
    """Delete a file."""
    uuid = known(ask.path["id"])
    await files.delete(ask.svc.db, ask.who, uuid)
    return Deleted(id=uuid, deleted_at=shown(epoch_ms()))


def taken(text: str) -> tuple[list[bytes], str]:
    """The bytes that a base64 text stands for, in pieces, and their SHA-256. Raises BadRequest."""
    pieces: list[bytes] = []
    hashed = hashlib.sha256()
    held, read = "", bytearray()
    for at in range(0, len(text), STEP):
        held += "".join(text[at : at + STEP].split())
        whole = max(0, len(held) - 1) // 4 * 4  # the last group may be a padded one
        read += _decoded(held[:whole], last=False)
        held = held[whole:]
        while len(read) >= PIECE:
            pieces.append(bytes(read[:PIECE]))
            del read[:PIECE]
    read += _decoded(held, last=True)
    pieces += [bytes(read[at : at + PIECE]) for at in range(0, len(read), PIECE)]
    if not pieces:
        raise BadRequest("content is empty: send the file's bytes in base64", param="content")
    for piece in pieces:
        hashed.update(piece)
    return pieces, hashed.hexdigest()


def _decoded(text: str, last: bool) -> bytes:
    try:
        if "=" in text and not last:
            raise ValueError("padding in its midst")
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as exc:
        raise BadRequest(
            f"content is not base64: {exc}; send the file's bytes in the standard alphabet (A-Z a-z 0-9 + /), padded "
            "with =",
            param="content",
        ) from None


async def _answer(file: File, content: AsyncIterator[bytes]) -> shapes.File | Lines:
    """The file with its content: a large one as pieces of one JSON object."""
    if file.pieces > 1:
        return Lines(_pieces(file, content), "application/json")
    return _shown(file, content=base64.b64encode(b"".join([piece async for piece in content])).decode())


async def _pieces(file: File, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`content` is the last key: its text ends where the object does."""
    yield msgspec.json.encode(_shown(file, content="")).removesuffix(b'"}')
    async for piece in content:
        yield base64.b64encode(piece)
        await asyncio.sleep(0)  # others get their turn, however fast the client reads
    yield b'"}'


def _shown(file: File, **content: Any) -> shapes.File:
    """A file as clients see it."""
    return shapes.File(
        id=file.uuid,
        created_at=shown(file.created_at),
        name=file.name,
        description=file.description,
        mime_type=file.mime_type,
        project=file.project,
        size=file.size,
        hash=file.hash,
        **content,
    )
