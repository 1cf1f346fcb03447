"""Tools of agents and sessions."""

from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.edge.julep import owners, shapes
from proxy.edge.julep.merge import given
from proxy.edge.julep.page import page_of
from proxy.edge.julep.times import known, shown
from proxy.edge.operation import Ask
from proxy.errors import BadRequest, TooLarge
from proxy.resources import Page, Tool
from proxy.services import epoch_ms, new_id
from proxy.store import tools

LARGEST = 32 << 10
"""Bytes of a tool: it is sent with each turn of its sessions."""

_encode = msgspec.json.encode


async def create(ask: Ask) -> shapes.Tool:
    """Add a tool."""
    return shown_tool(await tools.create(ask.svc.db, ask.who, await owners.of(ask), made(ask.given)))


def made(tool: shapes.CreateTool) -> Tool:
    """A new tool, as it is stored. Raises TooLarge."""
    now = epoch_ms()
    return Tool(0, new_id(), tool.name, now, now, _body(given(tool)))


def check_names(given: Sequence[shapes.CreateTool]) -> None:
    """Raises BadRequest for tools of one request that share a name."""
    names = [tool.name for tool in given]
    if len(set(names)) < len(names):
        raise BadRequest("tools: each name may stand once", param="tools")


async def page(ask: Ask) -> shapes.Tools:
    """List tools."""
    found = await tools.every(ask.svc.db, ask.who, [await owners.of(ask)])
    return shapes.Tools(items=[shown_tool(tool) for tool in _part(found, page_of(ask.query))])


def _part(found: Sequence[Tool], page: Page) -> Sequence[Tool]:
    """An owner's tools are few: they are sorted here."""
    by = [(tool.created_at if page.sort_by == "created_at" else tool.updated_at, tool.id, tool) for tool in found]
    by.sort(key=lambda item: item[:2], reverse=page.direction == "desc")
    return [tool for _, _, tool in by[page.offset : page.offset + page.limit]]


async def patch(ask: Ask) -> shapes.Tool:
    """Change what is given of a tool."""
    changes = given(ask.given)

    def change(old: Tool) -> Tool:
        return _with(old, {**msgspec.json.decode(old.body), **changes})

    return await _changed(ask, change)


async def replace(ask: Ask) -> shapes.Tool:
    """Replace a tool; what is not given goes, but for its name and type."""
    changes = given(ask.given)

    def change(old: Tool) -> Tool:
        kept = msgspec.json.decode(old.body)
        return _with(old, {"type": kept["type"], **changes})

    return await _changed(ask, change)


async def _changed(ask: Ask, change: Any) -> shapes.Tool:
    owner = await owners.of(ask)
    return shown_tool(await tools.change(ask.svc.db, ask.who, owner, known(ask.path["tool"]), change, epoch_ms()))


def _with(old: Tool, changes: dict[str, Any]) -> Tool:
    return msgspec.structs.replace(old, name=changes.pop("name", old.name), body=_body(changes))


def _body(fields: dict[str, Any]) -> bytes:
    body = _encode({key: value for key, value in fields.items() if key != "name"})
    if len(body) > LARGEST:
        raise TooLarge(f"a tool needs at most {LARGEST:,} bytes of JSON, this one {len(body):,}", param="tools")
    return body


async def delete(ask: Ask) -> shapes.Deleted:
    """Delete a tool."""
    uuid = known(ask.path["tool"])
    await tools.delete(ask.svc.db, ask.who, await owners.of(ask), uuid)
    return shapes.Deleted(id=uuid, deleted_at=shown(epoch_ms()))


def shown_tool(tool: Tool) -> shapes.Tool:
    """A tool as clients see it."""
    own = msgspec.convert({**msgspec.json.decode(tool.body), "name": tool.name}, shapes.CreateTool)
    return shapes.Tool(
        id=tool.uuid,
        created_at=shown(tool.created_at),
        updated_at=shown(tool.updated_at),
        **msgspec.structs.asdict(own),
    )
