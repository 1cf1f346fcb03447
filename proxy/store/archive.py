"""Whole sessions, row by row: what an export reads and an import makes again. Reads come in pages.

Intentional: the parts are the rows as they are, numbers of the database left out, so that what is read here can be
written here under another tenant or in another store. `proxy.archive` turns them into lines and back.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

from proxy.errors import BadRequest
from proxy.resources import Doc, Member, MemberKind, Owner, Tool
from proxy.store import blobs, choices, docs, facets, keys, owners, sessions
from proxy.store.database import Database, Row, Tx
from proxy.store.docs import Chunk
from proxy.store.entries import PAGE
from proxy.store.facets import Facet
from proxy.types import Message, Overflow, Scope, Status

PAGE_BYTES = 1_000_000
"""A page of entries ends after this many bytes of messages, so that images in them do not add up."""
FEW = 16
"""Documents or instructions in one read: each may be large."""

Place = tuple[int, int]
"""When a thing was made (epoch ms) and its number: where it stands in a list."""
START: Place = (-(2**63), 0)


class SessionPart(msgspec.Struct, frozen=True, gc=False, tag="session"):
    """The session's own row. `settings`: the JSON of its fields, None where none were ever set. `agents` and `users`:
    who takes part, by UUID; `facets`: those of its metadata."""

    uuid: str
    name: str | None
    token_budget: int | None
    overflow: Overflow | None
    branch: int
    branches: int
    turns: int
    created_at: int
    updated_at: int
    settings: bytes | None
    agents: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    facets: tuple[Facet, ...] = ()


class MemberPart(msgspec.Struct, frozen=True, gc=False, tag="member"):
    """An agent or a user. The tools and documents that follow are the member's, before the first one the session's."""

    member: Member
    facets: tuple[Facet, ...] = ()


class ToolPart(msgspec.Struct, frozen=True, gc=False, tag="tool"):
    """A tool."""

    tool: Tool


class DocPart(msgspec.Struct, frozen=True, gc=False, tag="doc"):
    """A document with what is indexed of it."""

    doc: Doc
    chunks: tuple[Chunk, ...] = ()
    facets: tuple[Facet, ...] = ()


class InstructionsPart(msgspec.Struct, frozen=True, gc=False, tag="instructions"):
    """Standing instructions. `number`: what turns and branches call them by."""

    number: int
    raw: bytes
    tokens: int


class TurnPart(msgspec.Struct, frozen=True, gc=False, tag="turn"):
    """A turn without its entries, which are those from `first` to `last` of its branch. `choices`: what they do not
    tell of its answer; reading turns leaves it out."""

    number: int
    branch: int
    first: int
    last: int
    status: Status
    model: str
    instructions: int | None
    request_id: str
    ledger: bytes
    usage: bytes | None
    created_at: int
    choices: bytes | None = None


class EntryPart(msgspec.Struct, frozen=True, gc=False, tag="entry"):
    """A message at its place."""

    branch: int
    seq: int
    turn: int
    total: int
    message: Message


class BranchPart(msgspec.Struct, frozen=True, gc=False, tag="branch"):
    """A branch with its end."""

    number: int
    parent: int | None
    forked_at: int
    head: int
    total: int
    end_digest: bytes
    end_status: Status
    last_turn: int
    cut: int
    cut_key: str
    instructions: int | None
    created_at: int


Part = SessionPart | MemberPart | ToolPart | DocPart | InstructionsPart | TurnPart | EntryPart | BranchPart


class Stored(msgspec.Struct, frozen=True, gc=False):
    """What became of a session. `made` False: there was one of that UUID or name. `kept`: agents, users, documents and
    tools that were there already, each as its kind and UUID."""

    made: bool
    kept: tuple[str, ...]


async def listed(db: Database, scope: Scope, after: Place = START) -> list[Place]:
    """Up to 256 of the tenant's sessions after a place, oldest first."""
    rows = await db.all(
        """SELECT created_at, owner FROM facets INDEXED BY facets_created
           WHERE tenant = ? AND kind = 'session' AND key = '*' AND value = '' AND (created_at, owner) > (?, ?)
           ORDER BY created_at, owner LIMIT ?""",
        (scope.tenant, *after, PAGE),
    )
    return [(row[0], row[1]) for row in rows]


async def session(db: Database, scope: Scope, id: int) -> tuple[SessionPart, list[BranchPart]] | None:
    """The session with its branches, as of one moment."""
    rows = await db.all(
        """SELECT s.uuid, s.name, s.token_budget, s.overflow, s.branch, s.branches, s.turns, s.created_at, s.updated_at,
                  t.body,
                  b.branch, b.parent, b.forked_at, b.head, b.total, b.end_digest, b.end_status, b.last_turn, b.cut,
                  b.cut_key, b.instructions, b.created_at
           FROM sessions s JOIN branches b ON b.session = s.id LEFT JOIN settings t ON t.session = s.id
           WHERE s.tenant = ? AND s.id = ? ORDER BY b.branch""",
        (scope.tenant, id),
    )
    return (SessionPart(*rows[0][:10]), [BranchPart(*row[10:]) for row in rows]) if rows else None


async def documents(db: Database, scope: Scope, owner: Owner, after: Place = START) -> list[Doc]:
    """A few of the owner's documents after a place, oldest first."""
    rows = await db.all(
        """SELECT d.id, d.uuid, d.created_at, d.title, d.metadata, d.content
           FROM facets f INDEXED BY facets_created JOIN docs d ON d.id = f.owner
           WHERE f.tenant = ? AND f.kind = 'doc' AND f.key = ? AND f.value = ? AND (f.created_at, f.owner) > (?, ?)
           ORDER BY f.created_at, f.owner LIMIT ?""",
        (scope.tenant, owner.kind, str(owner.id), *after, FEW),
    )
    return [Doc(*row) for row in rows]


async def instructions(
    db: Database, scope: Scope, session: int, after: bytes = b""
) -> list[tuple[bytes, int, InstructionsPart]]:
    """A few of the session's instructions after a digest, in the order of their digests: digest, number in the
    database, and the instructions, not numbered yet."""
    rows = await db.all(
        """SELECT digest, id, raw, tokens FROM instructions
           WHERE tenant = ? AND session = ? AND digest > ? ORDER BY digest LIMIT ?""",
        (scope.tenant, session, after, FEW),
    )
    return [(row[0], row[1], InstructionsPart(0, row[2], row[3])) for row in rows]


async def entries(db: Database, scope: Scope, session: int, branch: int, span: tuple[int, int]) -> list[EntryPart]:
    """The branch's own entries from the first seq of the span on, not beyond the last: up to 256, or a megabyte."""
    sizes = await db.all(
        """SELECT seq, length(raw) FROM entries
           WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ?""",
        (scope.tenant, session, branch, *span, PAGE),
    )
    if not sizes:
        return []
    rows = await db.all(
        """SELECT seq, turn, total, role, raw, digest, tokens, calls, status, said_at FROM entries
           WHERE tenant = ? AND session = ? AND branch = ? AND seq BETWEEN ? AND ? ORDER BY seq""",
        (scope.tenant, session, branch, span[0], _last_within(sizes)),
    )
    whole = await blobs.sizes(db, scope, [row[4] for row in rows])
    last = _last_within([(row[0], size) for row, size in zip(rows, whole, strict=True)]) if rows else 0
    rows = [row for row in rows if row[0] <= last]
    raws = await blobs.restored(db, scope, [row[4] for row in rows])
    return [EntryPart(branch, *row[:3], Message(row[3], raw, *row[5:])) for row, raw in zip(rows, raws, strict=True)]


def _last_within(sizes: Sequence[Row]) -> int:
    """The seq up to which the messages fit a page; the first one always does."""
    held, last = 0, sizes[0][0]
    for seq, size in sizes:
        held += size
        if held > PAGE_BYTES:
            break
        last = seq
    return last


async def turns(db: Database, scope: Scope, session: int, numbers: Iterable[int]) -> dict[int, TurnPart]:
    """These turns of a session, by number."""
    rows = await db.all(
        """SELECT turn, branch, first_seq, last_seq, status, model, instructions, request_id, ledger, usage, created_at
           FROM turns WHERE tenant = ? AND session = ? AND turn IN (SELECT value FROM json_each(?))""",
        (scope.tenant, session, msgspec.json.encode(list(numbers)).decode()),
    )
    return {row[0]: TurnPart(*row) for row in rows}


async def store(db: Database, scope: Scope, parts: Callable[[], Iterable[Part]], now: int) -> Stored:
    """Makes a session of its parts, wholly or not at all: the session first; tools, documents and members; the
    instructions; each turn with its entries; the branches. A tenant that does not exist yet is made with it.

    A member that is there already stays as it is, also where the session is not made. Raises BadRequest for a
    participant that is neither among the parts nor in the store, Conflict for a document that is there twice.
    """
    return await db.apart(lambda tx: _stored(tx, keys.owning(tx, scope, now), parts()))


def _stored(tx: Tx, scope: Scope, parts: Iterable[Part]) -> Stored:
    making = _Making(tx, scope)
    for part in parts:
        making.take(part)
    return making.finished()


class _Making:
    """A session on its way into the store. `id` None: there is one already. `owner`: whose the next tools and documents
    are; None: nobody's who is made here."""

    def __init__(self, tx: Tx, scope: Scope) -> None:
        self.tx = tx
        self.scope = scope
        self.id: int | None = None
        self.owner: Owner | None = None
        self.session: SessionPart | None = None
        self.instructions: dict[int | None, int | None] = {None: None}
        self.kept: list[str] = []

    def take(self, part: Part) -> None:
        match part:
            case SessionPart():
                self._session(part)
            case MemberPart():
                self._member(part)
            case ToolPart():
                self._tool(part)
            case DocPart():
                self._doc(part)
            case _ if self.id is None:
                return
            case InstructionsPart():
                self._instructions(part, self.id)
            case TurnPart():
                self._turn(part, self.id)
            case EntryPart():
                self._entry(part, self.id)
            case BranchPart():
                self._branch(part, self.id)

    def _session(self, part: SessionPart) -> None:
        self.session = part
        if part.name is not None and sessions.is_uuid(part.name) and sessions.has_uuid(self.tx, self.scope, part.name):
            return
        dressed = part.settings is not None or bool(part.agents or part.users)
        rows = self.tx.all(
            """INSERT INTO sessions (tenant, uuid, name, branch, branches, turns, token_budget, overflow, created_at,
                                     updated_at, dressed)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id""",
            (self.scope.tenant, part.uuid, part.name, part.branch, part.branches, part.turns, part.token_budget,
             part.overflow, part.created_at, part.updated_at, int(dressed)),
        )  # fmt: skip
        if not rows:
            return
        self.id = rows[0][0]
        self.owner = Owner("session", rows[0][0], part.uuid)
        if part.settings is not None:
            self.tx.all(
                "INSERT INTO settings (tenant, session, body) VALUES (?, ?, ?)",
                (self.scope.tenant, self.id, part.settings),
            )

    def _member(self, part: MemberPart) -> None:
        new = part.member
        rows = self.tx.all(
            """INSERT INTO members (tenant, kind, uuid, created_at, updated_at, body) VALUES (?, ?, ?, ?, ?, ?)
               ON CONFLICT DO NOTHING RETURNING id""",
            (self.scope.tenant, new.kind, new.uuid, new.created_at, new.updated_at, new.body),
        )
        if not rows:
            self.owner = None
            self.kept.append(f"{new.kind} {new.uuid}")
            return
        self.owner = Owner(new.kind, rows[0][0], new.uuid)
        times = (new.created_at, new.updated_at)
        facets.write(self.tx, self.scope, new.kind, rows[0][0], [facets.EVERY, *part.facets], times)

    def _tool(self, part: ToolPart) -> None:
        if self.owner is None:
            return
        owners.hold(self.tx, self.scope, self.owner)
        new = part.tool
        rows = self.tx.all(
            """INSERT INTO tools (tenant, uuid, kind, owner, name, created_at, updated_at, body)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id""",
            (self.scope.tenant, new.uuid, self.owner.kind, self.owner.id, new.name, new.created_at, new.updated_at,
             new.body),
        )  # fmt: skip
        if not rows:
            self.kept.append(f"tool {new.uuid}")

    def _doc(self, part: DocPart) -> None:
        if self.owner is None:
            return
        uuid = part.doc.uuid
        if self.tx.all("SELECT 1 FROM docs WHERE tenant = ? AND uuid = ?", (self.scope.tenant, uuid)):
            self.kept.append(f"doc {uuid}")
        else:
            docs.put(self.tx, self.scope, self.owner, part.doc, part.chunks, part.facets)

    def _instructions(self, part: InstructionsPart, session: int) -> None:
        mark = hashlib.blake2b(part.raw, digest_size=16).digest()
        rows = self.tx.all(
            """INSERT INTO instructions (tenant, session, digest, tokens, raw) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT (session, digest) DO UPDATE SET tokens = excluded.tokens RETURNING id""",
            (self.scope.tenant, session, mark, part.tokens, part.raw),
        )
        self.instructions[part.number] = rows[0][0]

    def _turn(self, part: TurnPart, session: int) -> None:
        self.tx.all(
            """INSERT INTO turns (tenant, session, turn, branch, first_seq, last_seq, status, model, instructions,
                                  request_id, ledger, usage, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (self.scope.tenant, session, part.number, part.branch, part.first, part.last, part.status, part.model,
             self.instructions[part.instructions], part.request_id, part.ledger, part.usage, part.created_at),
        )  # fmt: skip
        if part.choices is not None:
            choices.put(self.tx, self.scope, session, part.number, part.choices)

    def _entry(self, part: EntryPart, session: int) -> None:
        new = part.message
        raw = blobs.put(self.tx, self.scope, session, part.branch, new.raw)
        self.tx.all(
            """INSERT INTO entries (tenant, session, branch, seq, turn, role, tokens, total, calls, status, digest, raw,
                                    said_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (self.scope.tenant, session, part.branch, part.seq, part.turn, new.role, new.tokens, part.total, new.calls,
             new.status, new.digest, raw, new.said_at),
        )  # fmt: skip

    def _branch(self, part: BranchPart, session: int) -> None:
        self.tx.all(
            """INSERT INTO branches (tenant, session, branch, parent, forked_at, head, total, end_digest, end_status,
                                     last_turn, cut, cut_key, instructions, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (self.scope.tenant, session, part.number, part.parent, part.forked_at, part.head, part.total,
             part.end_digest, part.end_status, part.last_turn, part.cut, part.cut_key,
             self.instructions[part.instructions], part.created_at),
        )  # fmt: skip

    def finished(self) -> Stored:
        """Adds who takes part, and what the session is listed by."""
        part = self.session
        if part is not None and self.id is not None:
            found: list[Facet] = [facets.EVERY]
            for kind, uuids in (("agent", part.agents), ("user", part.users)):
                found += [(kind, str(self._joined(self.id, kind, place, uuid))) for place, uuid in enumerate(uuids, 1)]
            times = (part.created_at, part.updated_at)
            facets.write(self.tx, self.scope, "session", self.id, [*found, *part.facets], times)
        return Stored(self.id is not None, tuple(self.kept))

    def _joined(self, session: int, kind: MemberKind, place: int, uuid: str) -> int:
        """The number of a member who takes part from now on."""
        rows = self.tx.all(
            """INSERT INTO participants (tenant, session, kind, place, member)
               SELECT tenant, ?, kind, ?, id FROM members WHERE tenant = ? AND kind = ? AND uuid = ?
               RETURNING member""",
            (session, place, self.scope.tenant, kind, uuid),
        )
        if not rows:
            raise BadRequest(f"the {kind} {uuid} is neither in the file nor in the store", param=kind)
        return rows[0][0]
