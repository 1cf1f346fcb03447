"""Turns for the tests of this package: what a caller of the store puts together."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.store import sessions, turns
from proxy.store.database import Database
from proxy.types import Branch, Instructions, Message, Scope, Session

ME = Scope(1)


def message(text: str, role: str = "user", **fields: Any) -> Message:
    """A message of as many tokens as its text has words."""
    raw = json.dumps({"role": role, "content": text}).encode()
    return Message(role, raw, mark(text, role), len(text.split()), **fields)


def mark(text: str, role: str = "user") -> bytes:
    return hashlib.blake2b(f"{role} {text}".encode(), digest_size=16).digest()


def texts(entries: Sequence[Any]) -> list[str]:
    return [json.loads(entry.raw)["content"] for entry in entries]


def record(name: str, found: sessions.Found | None, messages: Sequence[Message], **fields: Any) -> turns.Record:
    """A turn that continues the current branch, or begins a session."""
    session, branch = found or (None, None)
    given: dict[str, Any] = {
        "uuid": session.uuid if session else f"00000000-0000-4000-8000-{abs(hash(name)) % 10**12:012}",
        "name": name, "session": session, "branch": branch, "fork_at": None, "fork_total": 0,
        "number": session.turns + 1 if session else 1, "messages": messages, "instructions": Instructions(),
        "cut": 0, "cut_key": "", "status": messages[-1].status, "model": "m", "request_id": "r", "ledger": b"{}",
        "usage": None, "key": "", "request": b"", "answer": b"", "now": 1_000,
    } | fields  # fmt: skip
    return turns.Record(**given)


async def say(db: Database, name: str, *said: str, scope: Scope = ME, **fields: Any) -> sessions.Found:
    """Stores a turn of texts, the last of which is the reply, and finds the session again."""
    found = await sessions.find(db, scope, name)
    messages = [*(message(text) for text in said[:-1]), message(said[-1], "assistant")]
    await turns.append(db, scope, record(name, found, messages, **fields))
    return await find(db, name, scope)


async def find(db: Database, name: str, scope: Scope = ME) -> tuple[Session, Branch]:
    found = await sessions.find(db, scope, name)
    assert found is not None
    return found


def with_fields(made: turns.Record, **fields: Any) -> turns.Record:
    return msgspec.structs.replace(made, **fields)


async def tenant(db: Database, name: str) -> Scope:
    """Another tenant."""
    rows = await db.transaction(
        lambda tx: tx.all("INSERT INTO tenants (name, created_at) VALUES (?, 0) RETURNING id", (name,))
    )
    return Scope(rows[0][0])
