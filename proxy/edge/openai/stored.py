"""Stored completions over HTTP: listed, read, changed and deleted as OpenAI's API does it, out of our own store."""

import asyncio
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Raw
from starlette.types import Scope as AsgiScope

from proxy import completion
from proxy.edge import auth, body
from proxy.edge.answered import answered, respond
from proxy.edge.deliver import Connection
from proxy.edge.openai.storing import metadata_of
from proxy.edge.operation import SLASH
from proxy.edge.request import Request, frame
from proxy.errors import BadRequest, MethodNotAllowed, NotFound
from proxy.resources import Page
from proxy.services import Services, epoch_ms
from proxy.store import completions, facets
from proxy.types import Scope

PATH = "/v1/chat/completions"
SMALL = 1 << 20
"""Bytes of a body: it holds metadata."""
LIMIT, MOST = 20, 100
"""Things on a page, by default and at the most."""

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for stored completions. `id`: the one that the path names."""

    svc: Services
    who: Scope
    id: str
    query: Query
    raw: bytes


Handler = Callable[[Ask], Awaitable[bytes]]


async def page(ask: Ask) -> bytes:
    """List stored completions, the oldest first."""
    listing = _listing(ask.query)
    where = [completions.of_model(ask.query["model"])] if "model" in ask.query else []
    where += facets.of_metadata(_filters(ask.query))
    if "after" in ask.query:
        place = await completions.place(ask.svc.db, ask.who, ask.query["after"])
        listing = msgspec.structs.replace(listing, after=place)
    found, more = await completions.page(ask.svc.db, ask.who, where, listing)
    return _list([Raw(one.shown()) for one in found], [one.name for one in found], more)


async def get(ask: Ask) -> bytes:
    """Read a stored completion."""
    return (await completions.find(ask.svc.db, ask.who, ask.id)).shown()


async def change(ask: Ask) -> bytes:
    """Replace the metadata of a stored completion."""
    fields = body.fields(ask.raw)
    if "metadata" not in fields:
        raise BadRequest("metadata is missing: send the new one, or null for none", param="metadata")
    metadata = metadata_of(body.parsed(fields, "metadata"))
    return (await completions.change(ask.svc.db, ask.who, ask.id, metadata)).shown()


async def delete(ask: Ask) -> bytes:
    """Delete a stored completion; what its session remembers stays."""
    await completions.delete(ask.svc.db, ask.who, ask.id, epoch_ms())
    return msgspec.json.encode({"object": "chat.completion.deleted", "id": ask.id, "deleted": True})


async def messages(ask: Ask) -> bytes:
    """List the messages that a stored completion answers, as they were sent."""
    listing = _listing(ask.query)
    raw = await completions.messages(ask.svc.db, ask.who, ask.id)
    if len(raw) > completions.LARGE:
        return await asyncio.to_thread(_messages, ask, listing, raw)
    return _messages(ask, listing, raw)


def _messages(ask: Ask, listing: Page, raw: bytes) -> bytes:
    every = completion.items(raw)
    numbers = range(len(every)) if listing.direction == "asc" else range(len(every) - 1, -1, -1)
    if "after" in ask.query:
        numbers = numbers[numbers.index(_number(ask, len(every))) + 1 :]
    chosen = numbers[: listing.limit]
    ids = [completion.message_id(ask.id, n) for n in chosen]
    return _list([completion.shown(ask.id, n, every[n]) for n in chosen], ids, len(numbers) > len(chosen))


METHODS: Sequence[Mapping[str, Handler]] = (
    {"GET": page},
    {"GET": get, "POST": change, "DELETE": delete},
    {"GET": messages},
)
"""What can be done with the path, with one completion below it, and with that one's messages. POST of the path itself
is a chat request."""


async def stored(svc: Services, scope: AsgiScope, connection: Connection) -> None:
    """The endpoint of all these paths."""
    request = frame(scope)
    await answered(svc, request, connection, _stored(svc, scope, request, connection))


async def _stored(svc: Services, scope: AsgiScope, request: Request, connection: Connection) -> None:
    call, id = _operation(scope)
    who = await auth.scope_of(svc, request.headers)
    raw = await body.read(connection, request.headers, SMALL)
    if raw and request.method == "POST":
        body.check_media(request.headers)
    content = await call(Ask(svc, who, id, _query(request.query), raw))
    try:
        await respond(connection, request, content)
    finally:
        connection.first = None  # no model's first byte


def _operation(scope: AsgiScope) -> tuple[Handler, str]:
    """What the path and the method mean, and the id that the path names; an escaped slash is part of it."""
    raw = re.sub(rb"%2[fF]", SLASH.encode(), scope.get("raw_path") or scope["path"].encode())
    place, *parts = urllib.parse.unquote(raw.decode("latin-1")).removeprefix(PATH).split("/")
    if place or "" in parts or parts[1:] not in ([], ["messages"]):
        raise NotFound(f"there is no such path here; there are {PATH}/ID and {PATH}/ID/messages", code="unknown_url")
    methods = METHODS[len(parts)]
    call = methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
    if call is None:
        allowed = ", ".join(sorted({*methods, "HEAD", *(() if parts else ("POST",))}))
        raise MethodNotAllowed(f"{scope['method']} is not possible here; use {allowed}", headers={"Allow": allowed})
    return call, parts[0].replace(SLASH, "/") if parts else ""


def _query(raw: bytes) -> Query:
    return dict(urllib.parse.parse_qsl(raw.decode("latin-1"), keep_blank_values=True, errors="replace"))


def _listing(query: Query) -> Page:
    """`limit` and `order` of a list. Raises BadRequest."""
    limit, order = query.get("limit", str(LIMIT)), query.get("order", "asc")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 1 <= int(limit) <= MOST):
        raise BadRequest(f"limit must be a whole number from 1 to {MOST}", param="limit")
    if order not in ("asc", "desc"):
        raise BadRequest("order must be asc or desc", param="order")
    return Page(int(limit), direction="asc" if order == "asc" else "desc")


def _filters(query: Query) -> dict[str, str]:
    """`metadata[key]=value` as metadata. Raises BadRequest."""
    if "metadata" in query:
        raise BadRequest("give the metadata to look for as metadata[key]=value", param="metadata")
    found = {key[9:-1]: value for key, value in query.items() if key.startswith("metadata[") and key.endswith("]")}
    return metadata_of(found)


def _number(ask: Ask, count: int) -> int:
    """The place of the message that `after` names. Raises NotFound."""
    number = ask.query["after"].removeprefix(ask.id + "-")
    known = number.isascii() and number.isdigit() and len(number) < 10 and int(number) < count
    if not known or ask.query["after"] != completion.message_id(ask.id, int(number)):
        raise NotFound(
            "this completion has no message of the id that `after` gives; start the list again without it",
            param="after",
            code="message_not_found",
        )
    return int(number)


def _list(data: Sequence[Raw], ids: Sequence[str], more: bool) -> bytes:
    """OpenAI's list; its schema asks for ids also where there is nothing."""
    ends = {"first_id": ids[0] if ids else "", "last_id": ids[-1] if ids else ""}
    return msgspec.json.encode({"object": "list", "data": data, **ends, "has_more": more})
