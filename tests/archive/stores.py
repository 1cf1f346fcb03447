"""A store with something of everything, and moving sessions between stores."""

import io
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from proxy.archive import exporting, importing
from proxy.archive.importing import Intake, Outcome
from proxy.context.tokens import Count
from proxy.edge import body
from proxy.recall import chunk, query
from proxy.reconcile import digest
from proxy.resources import Doc, Owner, SessionFields, Settings
from proxy.services import new_id
from proxy.store import docs, history, members, sessions, settings, sqlite, tools, turns
from proxy.store.database import Database
from proxy.store.settings import Joining
from proxy.store.sqlite import Sqlite
from proxy.types import Instructions, Message, Scope
from tests.inprocess import words
from tests.store import making
from tests.store.saying import ME, find, record

NOW = 1_700_000_000_123
ODD = "a\x00b <|endoftext|> \u2028\u2029\x85 🎈 \\n \"'{}\uffff"
"""What breaks lines and encodings elsewhere."""
SPREAD = b'{\n  "role": "user",\r\n\t"content": "over\\nlines", "n": 1.50, "n": 1e2\n}'
"""JSON of several lines, with a key that stands twice and numbers that no encoder writes so."""
CHOICES = b'[{"index":0,"finish_reason":"length"},{"index":1,"message":{"role":"assistant","content":"1.50"},"p":1.50}]'


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[Sqlite]:
    db = sqlite.opened(f"sqlite:///{path}", synchronous="normal")
    try:
        yield db
    finally:
        await db.close()


async def exported(db: Database, scope: Scope = ME, *names: str) -> bytes:
    """The lines of these sessions, else of all."""
    known: set[int] = set()
    ids = [(await find(db, name, scope))[0].id for name in names]
    ids = ids or [id async for id in exporting.every(db, scope)]
    return b"".join([piece for id in ids async for piece in exporting.session(db, scope, id, known)])


async def imported(db: Database, data: bytes, scope: Scope = ME, name: str | None = None) -> list[Outcome]:
    async def counter() -> Count:
        return words

    into = Intake(db, scope, name, check, body.cleaned, counter, new_id, lambda: NOW)
    return [told async for told in importing.take(into, io.BytesIO(data))]


def check(raw: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """As the command checks lists of messages."""
    return body.messages(body.fields(b'{"messages":' + raw + b"}"), sys.maxsize, 64)


def said(given: dict[str, Any] | bytes, position: int = 0, **fields: Any) -> Message:
    """A message as a turn stores it; `position`: which call a result answers."""
    raw = given if isinstance(given, bytes) else json.dumps(given, ensure_ascii=False).encode()
    value = json.loads(raw)
    calls = len(value.get("tool_calls") or ())
    return Message(value["role"], raw, digest(value, position), len(raw) % 50, calls, **fields)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str | None, *calls: str) -> dict[str, Any]:
    made = [{"id": id, "type": "function", "function": {"name": "look", "arguments": '{"a": 1.0}'}} for id in calls]
    return {"role": "assistant", "content": text, "reasoning": "hm"} | ({"tool_calls": made} if made else {})


def result(call: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": text}


async def turn(db: Database, name: str, *messages: Message, scope: Scope = ME, **fields: Any) -> None:
    """A turn of one's own, on the current branch or, with `fork_at`, on a new one."""
    found = await sessions.find(db, scope, name)
    told = {"now": NOW + (found[0].turns if found else 0), "model": "m-1", "request_id": "r", "ledger": b'{"total":5}'}
    await turns.append(db, scope, record(name, found, messages, **(told | fields)))


async def total(db: Database, name: str, branch: int, seq: int) -> int:
    session, _ = await find(db, name)
    rows = await db.all("SELECT total FROM entries WHERE session = ? AND branch = ? AND seq = ?",
                        (session.id, branch, seq))  # fmt: skip
    return rows[0][0]


async def document(db: Database, owner: Owner, uuid: str, title: str, *texts: str, **metadata: Any) -> None:
    counted = len(query.every(title))
    pieces = [(text, counted + len(query.every(text))) for text in chunk.pieces(texts)]
    made = Doc(0, uuid, NOW, title, msgspec.json.encode(metadata), json.dumps(texts).encode())
    await docs.create(db, ME, owner, made, pieces)


async def talk(db: Database, name: str) -> None:
    """Branch 1: a question, two calls, their results, an answer; then one that was cut short. Branch 2 leaves it
    between the calls and their results, branch 3 leaves that, branch 4 begins at the beginning."""
    brief, other = Instructions(b'{"role":"system","content":"brief"}', 3), Instructions(b'{\n"role":"system"}', 1)
    asks = said(user(ODD)), said(says(None, "c1", "c2"))
    await turn(db, name, *asks, instructions=brief, usage=b'{"total_tokens":9}', choices=CHOICES)
    results = said(result("c1", "one")), said(result("c2", ODD), 1)
    await turn(db, name, *results, said(says("done")), instructions=brief, cut=2, cut_key="50|truncate|m")
    short = said(says("half"), status="incomplete")
    await turn(db, name, said(SPREAD, said_at=77), short, status="incomplete", instructions=other)
    fork = await total(db, name, 1, 2)
    await turn(db, name, said(result("c2", "again"), 1), said(says("so")), fork_at=2, fork_total=fork)
    fork = await total(db, name, 2, 3)
    await turn(db, name, said(user("other")), fork_at=3, fork_total=fork)
    await turn(db, name, said(user("anew")), said(says("yes")), fork_at=0)


async def fill(db: Database) -> None:
    """Sessions with all that sessions may have, and one that a client of /v1 made."""
    one = await making.member(db, "agent-1", name="Ada", metadata={"team": ["a", "b"]}, now=NOW)
    await making.member(db, "agent-2", name=ODD, now=NOW)
    who = await making.member(db, "user-1", "user", about="asks", metadata={"plan": "pro"}, now=NOW)
    await members.change(db, ME, "user", "user-1", making.body(about="asks", metadata={"plan": "free"}), NOW + 5)
    await tools.create(db, ME, making.owner(one), making.tool("clock", "tool-1", NOW, b'{"type":"function"}'))
    await document(db, making.owner(one), "doc-1", "Shipping", "We ship to France.", ODD, lang="en")
    await document(db, making.owner(who), "doc-2", "Wishes", "Window seats, please.")
    fields = SessionFields(situation=ODD, metadata={"case": 7, "tags": ["x", None]}, recall_options={"mode": "text"})
    for n, name in enumerate(("trip", None)):
        uuid = f"11111111-1111-4111-8111-11111111111{n}"
        new = Settings(0, uuid, name, 500 + n, "truncate", NOW + n, NOW + n, fields)
        made = await settings.create(db, ME, new, Joining(["agent-2", "agent-1"], ["user-1"]))
        own = making.owner(made)
        await tools.create(db, ME, own, making.tool("look", f"tool-2{n}", NOW, b'{"type":"function"}'))
        await document(db, own, f"doc-3{n}", "Ticket", "Seat 12 A\n\nGate 7", "x" * 5_000)
    await talk(db, "trip")
    await talk(db, "plain")
    await talk(db, "cleared")
    await history.clear(db, ME, (await find(db, "cleared"))[0].id, NOW + 9)


async def rows(db: Database, scope: Scope = ME) -> dict[str, Sequence[Any]]:
    """All that stands in the tables, the database's own numbers left out."""
    return {sql: await db.all(sql, (scope.tenant,)) for sql in (
        "SELECT uuid, name, branch, branches, turns, token_budget, overflow, created_at, updated_at, dressed "
        "FROM sessions WHERE tenant = ? ORDER BY uuid",
        "SELECT s.uuid, b.branch, b.parent, b.forked_at, b.head, b.total, b.end_digest, b.end_status, b.last_turn, "
        "b.cut, b.cut_key, i.raw, b.created_at FROM branches b JOIN sessions s ON s.id = b.session "
        "LEFT JOIN instructions i ON i.id = b.instructions WHERE b.tenant = ? ORDER BY 1, 2",
        "SELECT s.uuid, e.branch, e.seq, e.turn, e.role, e.tokens, e.total, e.calls, e.status, e.digest, e.raw, "
        "e.said_at FROM entries e JOIN sessions s ON s.id = e.session WHERE e.tenant = ? ORDER BY 1, 2, 3",
        "SELECT s.uuid, t.turn, t.branch, t.first_seq, t.last_seq, t.status, t.model, i.raw, t.request_id, t.ledger, "
        "t.usage, t.created_at FROM turns t JOIN sessions s ON s.id = t.session "
        "LEFT JOIN instructions i ON i.id = t.instructions WHERE t.tenant = ? ORDER BY 1, 2",
        "SELECT s.uuid, c.turn, c.body FROM choices c JOIN sessions s ON s.id = c.session WHERE c.tenant = ? "
        "ORDER BY 1, 2",
        "SELECT s.uuid, i.digest, i.tokens, i.raw FROM instructions i JOIN sessions s ON s.id = i.session "
        "WHERE i.tenant = ? ORDER BY 1, 2",
        "SELECT s.uuid, t.body FROM settings t JOIN sessions s ON s.id = t.session WHERE t.tenant = ? ORDER BY 1",
        "SELECT kind, uuid, created_at, updated_at, body FROM members WHERE tenant = ? ORDER BY 1, 2",
        "SELECT s.uuid, p.kind, p.place, m.uuid FROM participants p JOIN sessions s ON s.id = p.session "
        "JOIN members m ON m.id = p.member WHERE p.tenant = ? ORDER BY 1, 2, 3",
        "SELECT uuid, kind, digest, created_at, title, metadata, content FROM docs WHERE tenant = ? ORDER BY 1",
        "SELECT d.uuid, c.place, c.words, c.text FROM chunks c JOIN docs d ON d.id = c.doc WHERE c.tenant = ? "
        "ORDER BY 1, 2",
        "SELECT uuid, kind, name, created_at, updated_at, body FROM tools WHERE tenant = ? ORDER BY 1",
        "SELECT f.kind, coalesce(s.uuid, m.uuid, d.uuid) AS uuid, f.key, coalesce(p.uuid, f.value), f.created_at, "
        "f.updated_at FROM facets f LEFT JOIN sessions s ON f.kind = 'session' AND s.id = f.owner "
        "LEFT JOIN members m ON f.kind IN ('agent', 'user') AND m.id = f.owner "
        "LEFT JOIN docs d ON f.kind = 'doc' AND d.id = f.owner "
        "LEFT JOIN members p ON f.key IN ('agent', 'user') AND p.id = f.value "
        "WHERE f.tenant = ? AND NOT (f.kind = 'doc' AND f.key = 'session') ORDER BY 1, 2, 3, 4",
    )}  # fmt: skip
