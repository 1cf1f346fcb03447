"""Stored completions: answers to requests with `store: true`, found by their ids and listed by model and metadata."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec

from proxy.errors import NotFound
from proxy.resources import Page
from proxy.store import facets, keys
from proxy.store.database import Database, Tx
from proxy.store.facets import EVERY, LONGEST, Facet
from proxy.types import Scope

KIND = "completion"
LARGE = 1 << 20
"""Bytes of a completion that the event loop works on; larger ones are read and written apart from it."""
PAGE_BYTES = 8 << 20
"""Bytes of answers that one page holds, and at least one answer: a shorter page says that there are more."""
PLACE_MS = 24 * 3_600_000
"""How long a deleted completion keeps its place in the lists."""
PRUNE = 20
"""Old places that one deletion removes at the most."""

_encode = msgspec.json.encode


class New(msgspec.Struct, frozen=True, gc=False):
    """A completion to be stored. `name`: its id. `created`: epoch seconds, as the answer tells it; `now`: epoch ms.
    `models`: as the answer names it and as it was asked for. `request`: 16 bytes that a retry shares, None for a
    session's turn, which has retries of its own."""

    name: str
    created: int
    models: Sequence[str]
    metadata: Mapping[str, str]
    body: bytes
    messages: bytes
    now: int
    request: bytes | None = None


class Completion(msgspec.Struct, frozen=True, gc=False):
    """A stored completion; `metadata` and `body` are JSON objects."""

    name: str
    metadata: bytes
    body: bytes

    def shown(self) -> bytes:
        """The chat.completion as one JSON object."""
        return b'{"id":%b,%b,"metadata":%b}' % (_encode(self.name), self.body[1:-1], self.metadata)


def of_model(model: str) -> Facet:
    """What a completion of that model is listed by."""
    return ("model", model[:LONGEST])


def put(tx: Tx, scope: Scope, new: New, turn: tuple[int, int] | None) -> None:
    """Stores a completion. `turn`: session and number of the turn that it goes with. An older one of the same id leaves
    it to this one."""
    for id, name in tx.all("SELECT id, name FROM completions WHERE tenant = ? AND name = ?", (scope.tenant, new.name)):
        _rename(tx, scope, id, name)
    session, number = turn or (None, None)
    rows = tx.all(
        """INSERT INTO completions (tenant, name, session, turn, request, created, stored_at, metadata, body, messages)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
        (scope.tenant, new.name, session, number, new.request, new.created, new.now, _encode(new.metadata), new.body,
         new.messages),
    )  # fmt: skip
    found = [EVERY, *dict.fromkeys(map(of_model, new.models)), *facets.of_metadata(new.metadata)]
    facets.write(tx, scope, KIND, rows[0][0], found, (new.created, new.created))


def _rename(tx: Tx, scope: Scope, id: int, name: str) -> None:
    """To its id and its number, and once more where an upstream gave out that very name."""
    while True:
        name = f"{name}-{id}"
        if not tx.all("SELECT 1 FROM completions WHERE tenant = ? AND name = ?", (scope.tenant, name)):
            tx.all("UPDATE completions SET name = ? WHERE tenant = ? AND id = ?", (name, scope.tenant, id))
            return


async def keep(db: Database, scope: Scope, new: New, retried_since: int | None) -> None:
    """Stores the completion of a request without a session. `retried_since` (epoch ms): what was stored since then
    under the same Idempotency-Key, whose answer did not arrive, is replaced; None for a request without one."""
    write = db.apart if len(new.body) + len(new.messages) > LARGE else db.transaction
    await write(lambda tx: _keep(tx, scope, new, retried_since))


def _keep(tx: Tx, scope: Scope, new: New, retried_since: int | None) -> None:
    scope = keys.owning(tx, scope, new.now)
    if retried_since is not None:
        tx.all(
            "DELETE FROM completions WHERE tenant = ? AND request = ? AND stored_at >= ?",
            (scope.tenant, new.request, retried_since),
        )
    put(tx, scope, new, None)


async def find(db: Database, scope: Scope, name: str) -> Completion:
    """Raises NotFound when the tenant has no such completion."""
    rows = await db.all(
        "SELECT name, metadata, body FROM completions WHERE tenant = ? AND name = ? AND gone_at IS NULL",
        (scope.tenant, name),
    )
    if not rows:
        raise missing()
    return Completion(*rows[0])


async def messages(db: Database, scope: Scope, name: str) -> bytes:
    """The messages of the request, as a JSON list. Raises NotFound."""
    rows = await db.all(
        "SELECT messages FROM completions WHERE tenant = ? AND name = ? AND gone_at IS NULL", (scope.tenant, name)
    )
    if not rows:
        raise missing()
    return rows[0][0]


async def place(db: Database, scope: Scope, name: str) -> tuple[int, int]:
    """Where a completion stands in lists, as Page.after takes it; also for one that was deleted within the last day.
    Raises NotFound."""
    rows = await db.all("SELECT created, id FROM completions WHERE tenant = ? AND name = ?", (scope.tenant, name))
    if not rows:
        raise NotFound(
            "there is no stored completion of the id that `after` gives; start the list again without it",
            param="after",
            code="completion_not_found",
        )
    return rows[0]


async def page(db: Database, scope: Scope, where: Sequence[Facet], page: Page) -> tuple[list[Completion], bool]:
    """One page of the completions that have all the facets, and whether there are more. No other is read."""
    every = where or [EVERY]
    ids = await facets.page(db, scope, KIND, every, msgspec.structs.replace(page, limit=page.limit + 1))
    # The plus: SQLite would else walk through the tenant's completions for those of the page.
    rows = await db.all(
        "SELECT id, length(body) FROM completions WHERE +tenant = ? AND id IN (SELECT value FROM json_each(?))",
        (scope.tenant, _encode(ids[: page.limit]).decode()),
    )
    sizes = dict(rows)
    fitting = sum(total <= PAGE_BYTES for total in accumulate(sizes.get(id, 0) for id in ids[: page.limit]))
    chosen = ids[: max(fitting, 1)]
    rows = await db.all(
        """SELECT id, name, metadata, body FROM completions
           WHERE +tenant = ? AND id IN (SELECT value FROM json_each(?)) AND gone_at IS NULL""",
        (scope.tenant, _encode(chosen).decode()),
    )
    found = {row[0]: Completion(*row[1:]) for row in rows}
    return [found[id] for id in chosen if id in found], len(ids) > len(chosen)


async def change(db: Database, scope: Scope, name: str, metadata: Mapping[str, str]) -> Completion:
    """Replaces the metadata. Raises NotFound."""
    return await db.transaction(lambda tx: _change(tx, scope, name, metadata))


def _change(tx: Tx, scope: Scope, name: str, metadata: Mapping[str, str]) -> Completion:
    rows = tx.all(
        """UPDATE completions SET metadata = ? WHERE tenant = ? AND name = ? AND gone_at IS NULL
           RETURNING id, created, name, metadata, body""",
        (_encode(metadata), scope.tenant, name),
    )
    if not rows:
        raise missing()
    id, created, *shown = rows[0]
    models = tx.all(
        "SELECT key, value FROM facets WHERE tenant = ? AND kind = ? AND owner = ? AND key = 'model'",
        (scope.tenant, KIND, id),
    )
    facets.write(tx, scope, KIND, id, [EVERY, *models, *facets.of_metadata(metadata)], (created, created))
    return Completion(*shown)


async def delete(db: Database, scope: Scope, name: str, now: int) -> None:
    """Removes a completion; its turn stays. Raises NotFound."""
    await db.transaction(lambda tx: _delete(tx, scope, name, now))


def _delete(tx: Tx, scope: Scope, name: str, now: int) -> None:
    rows = tx.all(
        """UPDATE completions SET gone_at = ?, request = NULL, metadata = x'', body = x'', messages = x''
           WHERE tenant = ? AND name = ? AND gone_at IS NULL RETURNING id, created""",
        (now, scope.tenant, name),
    )
    if not rows:
        raise missing()
    id, created = rows[0]
    facets.write(tx, scope, KIND, id, [], (created, created))
    tx.all(
        """DELETE FROM completions WHERE id IN (
               SELECT id FROM completions WHERE tenant = ? AND gone_at < ? ORDER BY gone_at LIMIT ?)""",
        (scope.tenant, now - PLACE_MS, PRUNE),
    )


def missing() -> NotFound:
    """An unknown completion and a foreign one get the same bytes."""
    return NotFound(
        "there is no stored completion of that id; GET /v1/chat/completions lists those that were asked for with "
        "store: true",
        code="completion_not_found",
    )
