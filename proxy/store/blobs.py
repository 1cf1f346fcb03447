"""Large base64 of messages, stored once for each tenant: taken out on the way into the log, put back on the way out.

An entry that had some begins with the byte 0x01, which no JSON begins with; in the rest each run of base64 is replaced
by its hash in hex between two 0x00, which JSON holds nowhere. What is put back is byte for byte what came.

Intentional: a run is found by its characters, not by the field it stands in, so that images, audio and files of any
dialect are found without parsing. `blob_uses` says which branches of which sessions have entries that need one: a run
goes with the last of them.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import msgspec

from proxy.errors import Unavailable
from proxy.store.database import Database, Tx
from proxy.types import Scope

LEAST = 4096
"""Shorter runs, and so shorter messages, stay as they are."""
THREAD_BYTES = 100_000
"""Of more, what is taken out is found in a thread (about 5 ms a megabyte)."""
TURN_BYTES = 1 << 20
"""Of more, what is put back lets other tasks of the event loop run in between."""
TAKEN = 0x01
"""The first byte of an entry whose base64 was taken out."""

_STEP = LEAST // 2
_PROBE = 64
_BLOCK = 16_384
_CHARS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-\\"
"""Base64 in both alphabets, and the backslash: encoders write `\\/`, `\\u002B`, and `\\n` between lines."""
_RUN = re.compile(rb"[A-Za-z0-9+/=_\-\\]*+")
_ESCAPED = 24
"""Bytes for each \\u that base64 has at least; text of other alphabets, escaped, has 6."""
_NUMBER = b"0123456789+-eE"
"""What JSON's numbers are made of: with one of them taken out, the rest would be no JSON."""

Run = tuple[bytes, bytes]
"""(hash, base64)"""
Taken = tuple[bytes, list[Run]]
"""What the log keeps of a message, and the runs that it lacks."""


def taken_out(raw: bytes) -> Taken:
    """A message in its two parts."""
    if len(raw) < LEAST:
        return raw, []
    out: list[bytes] = [b"\x01"]
    runs: list[Run] = []
    done = 0
    for start, end in _runs(raw):
        data = raw[start:end]
        hashed = blake2b(data, digest_size=32).digest()
        runs.append((hashed, data))
        out += (raw[done:start], b"\x00", hashed.hex().encode(), b"\x00")
        done = end
    return (b"".join([*out, raw[done:]]), runs) if runs else (raw, runs)


def _runs(raw: bytes) -> Iterable[tuple[int, int]]:
    """Where the runs of base64 stand. Each covers a multiple of half their least length, so only those are looked at:
    a long text costs a few microseconds."""
    done = 0
    for at in range(0, len(raw), _STEP):
        if at < done or raw[at : at + _PROBE].translate(None, _CHARS):
            continue
        low = max(done, at - _STEP)
        start = low + len(raw[low:at].rstrip(_CHARS))
        done = _end(raw, at)
        end = start + len(raw[start:done].rstrip(b"\\"))  # before the quote of JSON within JSON
        if end - start >= LEAST and not _is_number(raw, start) and not _is_escaped_text(raw, start, end):
            yield start, end


def _end(raw: bytes, at: int) -> int:
    """Where the run that holds `at` ends."""
    while at < len(raw) and not raw[at : at + _BLOCK].translate(None, _CHARS):
        at += _BLOCK
    found = _RUN.match(raw, at)
    return found.end() if found else len(raw)


def _is_number(raw: bytes, start: int) -> bool:
    return not raw[start : start + _PROBE].translate(None, _NUMBER)


def _is_escaped_text(raw: bytes, start: int, end: int) -> bool:
    return raw.find(b"\\", start, end) >= 0 and raw.count(b"\\u", start, end) * _ESCAPED > end - start


def put(tx: Tx, scope: Scope, session: int, branch: int, raw: bytes) -> bytes:
    """Stores the large base64 of a message that a branch is about to hold, and returns what its entry is to keep."""
    kept, runs = taken_out(raw)
    keep(tx, scope, session, branch, runs)
    return kept


async def prepared(raws: Sequence[bytes]) -> list[Taken]:
    """What is taken out of each of these messages; so that no transaction has to look for it."""
    if sum(map(len, raws)) > THREAD_BYTES:
        return await asyncio.to_thread(lambda: list(map(taken_out, raws)))
    return list(map(taken_out, raws))


def keep(tx: Tx, scope: Scope, session: int, branch: int, runs: Sequence[Run]) -> None:
    """Stores base64 that was taken out of a message which the branch is about to hold."""
    for hashed, data in runs:
        new = tx.all(
            """INSERT INTO blob_uses (tenant, hash, session, branch) VALUES (?, ?, ?, ?)
               ON CONFLICT DO NOTHING RETURNING session""",
            (scope.tenant, hashed, session, branch),
        )
        if new:
            tx.all(
                "INSERT INTO blobs (tenant, hash, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (scope.tenant, hashed, data),
            )


def bare(kept: bytes, gap: bytes = b"") -> bytes:
    """The message without what was taken out of it, for who reads its text alone; `gap` stands in each place."""
    return gap.join(kept[1:].split(b"\x00")[::2]) if kept[0] == TAKEN else kept


async def restored(db: Database, scope: Scope, kept: Sequence[bytes]) -> list[bytes]:
    """The messages, whole, of what their entries keep. Raises Unavailable where one is gone with its session since the
    entry was read."""
    parts = {n: raw[1:].split(b"\x00") for n, raw in enumerate(kept) if raw and raw[0] == TAKEN}
    if not parts:
        return list(kept)
    data: dict[bytes, bytes] = {}
    out = list(kept)
    done = 0
    for n, part in parts.items():
        if not data.keys() >= set(part[1::2]):
            await _read(db, scope, part, data)
        part[1::2] = [data[name] for name in part[1::2]]
        out[n] = b"".join(part)
        done += len(out[n])
        if done > TURN_BYTES:
            done = 0
            await asyncio.sleep(0)
    return out


async def _read(db: Database, scope: Scope, part: Sequence[bytes], data: dict[bytes, bytes]) -> None:
    """What one message needs."""
    rows = await db.all(
        "SELECT hash, data FROM blobs WHERE tenant = ? AND hash IN (SELECT unhex(value) FROM json_each(?))",
        (scope.tenant, _names([part])),
    )
    data |= {row[0].hex().encode(): row[1] for row in rows}
    if not data.keys() >= set(part[1::2]):
        raise _gone()


async def sizes(db: Database, scope: Scope, kept: Sequence[bytes]) -> list[int]:
    """How long the messages are once they are whole; reads none of them."""
    parts = {n: raw[1:].split(b"\x00") for n, raw in enumerate(kept) if raw and raw[0] == TAKEN}
    out = [len(raw) for raw in kept]
    if not parts:
        return out
    rows = await db.all(
        "SELECT hash, length(data) FROM blobs WHERE tenant = ? AND hash IN (SELECT unhex(value) FROM json_each(?))",
        (scope.tenant, _names(parts.values())),
    )
    lengths = {row[0].hex().encode(): row[1] for row in rows}
    for n, part in parts.items():
        out[n] = sum(map(len, part[::2])) + sum(lengths.get(name, 0) for name in part[1::2])
    return out


def _names(parts: Iterable[Sequence[bytes]]) -> str:
    return msgspec.json.encode(list({name.decode() for part in parts for name in part[1::2]})).decode()


def _gone() -> Unavailable:
    return Unavailable(
        "another request deleted or cleared this session while it was read; send this again",
        code="session_moved_on",
        headers={"Retry-After": "0"},
    )
