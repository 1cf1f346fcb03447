"""Parts of a session between their check and the store: in memory while they are small, then in a file without a name.

A session must be read to its end before anything of it is stored, and the store takes it in one transaction, which
holds up all others: nothing is read, parsed or counted inside it.
"""

import tempfile
from collections.abc import Iterator
from typing import IO

import msgspec

from proxy.errors import Unavailable
from proxy.store.archive import Part

IN_MEMORY = 8 << 20
LENGTH = 8
"""Bytes of the number that stands before each part."""

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Part).decode


def opened() -> IO[bytes]:
    """An empty one; close it."""
    return tempfile.SpooledTemporaryFile(IN_MEMORY)


def add(spool: IO[bytes], part: Part) -> None:
    """Raises Unavailable when the disk is full."""
    raw = _encode(part)
    try:
        spool.write(len(raw).to_bytes(LENGTH, "big") + raw)
    except OSError as exc:
        raise Unavailable(f"the folder for temporary files cannot take the session: {exc.strerror}") from exc


def parts(spool: IO[bytes]) -> Iterator[Part]:
    """All that was added, from the first on. One reader at a time."""
    spool.seek(0)
    while size := spool.read(LENGTH):
        yield _decode(spool.read(int.from_bytes(size, "big")))
