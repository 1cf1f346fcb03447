"""Agents, users, sessions, documents and tools for the tests of this package."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from proxy.resources import Doc, Member, MemberKind, Owner, SessionFields, Settings, Tool
from proxy.store import completions, docs, facets, files, members, settings, tools
from proxy.store.database import Database
from proxy.types import Scope
from tests.store.saying import ME

JOINING = settings.Joining()


def body(**fields: Any) -> members.Change:
    """A change that sets the whole body."""
    made = msgspec.json.encode(fields)
    return lambda _: (made, facets.of_metadata(fields.get("metadata", {})))


async def member(
    db: Database, uuid: str, kind: MemberKind = "agent", *, scope: Scope = ME, now: int = 1, **fields: Any
) -> Member:
    return await members.put(db, scope, kind, uuid, members.New(body(**fields)), now)


def new(uuid: str, now: int = 1, name: str | None = None, **fields: Any) -> Settings:
    return Settings(0, uuid, name, None, None, now, now, SessionFields(**fields))


async def session(
    db: Database, uuid: str, *, scope: Scope = ME, now: int = 1, joining: settings.Joining = JOINING, **fields: Any
) -> Settings:
    return await settings.create(db, scope, new(uuid, now, **fields), joining)


def owner(thing: Member | Settings) -> Owner:
    return Owner(thing.kind if isinstance(thing, Member) else "session", thing.id, thing.uuid)


async def doc(
    db: Database,
    of: Owner,
    *texts: str,
    uuid: str = "",
    title: str = "",
    scope: Scope = ME,
    now: int = 1,
    **metadata: Any,
) -> Doc:
    """A document of one chunk a text."""
    name = uuid or f"doc {of.kind} {of.id} {title} {texts}"[:200]
    made = Doc(0, name, now, title, msgspec.json.encode(metadata), json.dumps(texts).encode())
    return await docs.create(db, scope, of, made, [(text, len(f"{title} {text}".split())) for text in texts])


def completion(name: str, created: int = 1, models: Sequence[str] = ("m",), **fields: Any) -> completions.New:
    """An answer that is kept; `fields`: those of completions.New."""
    given: dict[str, Any] = {"metadata": {}, "body": b'{"n":1}', "messages": b"[]", "now": created * 1_000} | fields
    return completions.New(name, created, models, **given)


async def kept(db: Database, name: str, created: int = 1, *, scope: Scope = ME, **fields: Any) -> None:
    """Stores the answer to a request without a session."""
    await completions.keep(db, scope, completion(name, created, **fields), None)


async def file(
    db: Database, uuid: str, content: bytes = b"text", *, scope: Scope = ME, now: int = 1, **fields: Any
) -> files.File:
    """A file of that content; `fields`: those of files.File."""
    mark = hashlib.sha256(content).hexdigest()
    given: dict[str, Any] = {"name": f"{uuid}.bin", "description": "", "mime_type": None, "project": None} | fields
    made = files.File(0, uuid, now, size=len(content), hash=mark, **given)
    pieces = [content[at : at + files.PIECE] for at in range(0, len(content), files.PIECE)]
    return await files.create(db, scope, made, pieces)


def tool(name: str, uuid: str = "", now: int = 1, body: bytes = b"{}") -> Tool:
    return Tool(0, uuid or f"tool {name}", name, now, now, body)


async def give(db: Database, of: Owner, name: str, *, scope: Scope = ME) -> Tool:
    return await tools.create(db, scope, of, tool(name, f"{of.kind} {of.id} {name}"))


TABLES = (
    "blob_uses", "blobs", "branches", "calibrations", "choices", "chunks", "completions", "docs", "entries", "facets",
    "files", "instructions", "keys", "members", "participants", "passages", "pieces", "replays", "sessions", "settings",
    "summaries", "summary_calls", "tenants", "tools", "turns",
)  # fmt: skip


async def everything(db: Database) -> dict[str, list[Any]]:
    """All rows of all tables; of the indexes of words the numbers of what they hold."""
    tables = await db.all(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'words%' "
        "AND name NOT LIKE 'spoken%'"
    )
    assert {name for (name,) in tables} == set(TABLES)
    found = {name: await db.all(f"SELECT * FROM {name}") for name in TABLES}  # noqa: S608 - names from above
    return {name: sorted(rows, key=repr) for name, rows in found.items()} | {
        "words": await db.all("SELECT rowid FROM words"),
        "spoken": await db.all("SELECT rowid FROM spoken"),
    }


def uuids(found: Sequence[Any]) -> list[str]:
    return [one.uuid for one in found]


def fails(exc: Exception) -> Callable[[Any], Any]:
    """A change that cannot be made."""

    def change(_: Any) -> Any:
        raise exc

    return change
