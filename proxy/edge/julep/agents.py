"""Agents: who answers in sessions."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.edge import models as listing
from proxy.edge.julep import shapes, tools
from proxy.edge.julep.merge import given, patched, replaced
from proxy.edge.julep.page import filters, page_of
from proxy.edge.julep.times import known, own_uuid, shown
from proxy.edge.operation import Ask
from proxy.edge.tenants import admitted
from proxy.errors import BadRequest, NotFound
from proxy.resources import AgentFields, Member
from proxy.services import epoch_ms, new_id
from proxy.store import facets, members
from proxy.store.facets import Facet
from proxy.upstream.route import route

_fields = msgspec.json.Decoder(AgentFields).decode
_encode = msgspec.json.encode


async def create(ask: Ask) -> shapes.Agent:
    """Make an agent. `tools` are made with it."""
    return await _put(ask, new_id())


async def put(ask: Ask) -> shapes.Agent:
    """Make the agent of this id, or replace it."""
    return await _put(ask, own_uuid(ask.path["id"], "id"))


async def _put(ask: Ask, uuid: str) -> shapes.Agent:
    changes = _checked(ask, ask.given)
    await _check_template(ask, changes)
    tools.check_names(ask.given.tools)
    who = await admitted(ask.svc, ask.who, ask.frame)

    def change(old: bytes | None) -> tuple[bytes, Sequence[Facet]]:
        return _stored(replaced(AgentFields(name=ask.given.name), changes))

    new = members.New(change, [tools.made(tool) for tool in ask.given.tools])
    return shown_agent(await members.put(ask.svc.db, who, "agent", uuid, new, epoch_ms()))


async def get(ask: Ask) -> shapes.Agent:
    """Read an agent."""
    return shown_agent(await find(ask))


async def find(ask: Ask) -> Member:
    """The agent that the path names. Raises NotFound."""
    return await members.find(ask.svc.db, ask.who, "agent", known(ask.path["id"]))


async def patch(ask: Ask) -> shapes.Agent:
    """Change what is given; metadata and default settings are merged."""
    changes = _checked(ask, ask.given)
    await _check_template(ask, changes)

    def change(old: bytes | None) -> tuple[bytes, Sequence[Facet]]:
        return _stored(patched(_fields(old or b"{}"), changes))

    uuid = known(ask.path["id"])
    return shown_agent(await members.change(ask.svc.db, ask.who, "agent", uuid, change, epoch_ms()))


async def replace(ask: Ask) -> shapes.Agent:
    """Replace the agent; what is not given goes back to its default, but for the name."""
    changes = _checked(ask, ask.given)
    await _check_template(ask, changes)

    def change(old: bytes | None) -> tuple[bytes, Sequence[Facet]]:
        return _stored(replaced(AgentFields(name=_fields(old or b"{}").name), changes))

    uuid = known(ask.path["id"])
    return shown_agent(await members.change(ask.svc.db, ask.who, "agent", uuid, change, epoch_ms()))


async def page(ask: Ask) -> shapes.Agents:
    """List agents."""
    found = await members.page(ask.svc.db, ask.who, "agent", filters(ask.query), page_of(ask.query))
    return shapes.Agents(items=[shown_agent(member) for member in found])


async def delete(ask: Ask) -> shapes.Deleted:
    """Delete an agent with its documents and tools; its sessions stay."""
    uuid = known(ask.path["id"])
    await members.delete(ask.svc.db, ask.who, "agent", uuid)
    return shapes.Deleted(id=uuid, deleted_at=shown(epoch_ms()))


async def models(ask: Ask) -> shapes.Models:
    """List the models that an agent may have."""
    found = await listing.every(ask.svc, ask.who, ask.frame)
    return shapes.Models(models=[shapes.ModelItem(id=str(model["id"])) for model in found])


def _checked(ask: Ask, change: msgspec.Struct) -> dict[str, Any]:
    """What a request sets, in the form in which it is stored."""
    changes = given(change)
    if "instructions" in changes and isinstance(changes["instructions"], str):
        changes["instructions"] = [changes["instructions"]]
    if "default_settings" in changes:
        changes["default_settings"] = given(changes["default_settings"])
    model = changes.get("model")
    if model:
        try:
            route(ask.svc.config, model)
        except NotFound:
            raise BadRequest(
                f"Model {model} not available: no upstream serves it; GET /agents/models lists what there is",
                param="model",
                code="model_not_found",
            ) from None
    return changes


async def _check_template(ask: Ask, changes: dict[str, Any]) -> None:
    template = changes.get("default_system_template")
    if template is not None:
        if not template.strip():
            raise BadRequest("default_system_template is blank; leave it out", param="default_system_template")
        await ask.svc.templates.check(template, "default_system_template", (ask.who.tenant, ""))


def _stored(fields: AgentFields) -> tuple[bytes, Sequence[Facet]]:
    """The agent's body and facets. A name that is not given for URLs is made of the other one, as Julep does."""
    if fields.canonical_name is None:
        made = re.sub(r"\W+", "_", fields.name, flags=re.ASCII).strip("_")
        fields = msgspec.structs.replace(fields, canonical_name=made if made[:1].isalpha() else f"agent_{made}")
    return _encode(fields), facets.of_metadata(fields.metadata)


def shown_agent(member: Member) -> shapes.Agent:
    """An agent as clients see it."""
    return shapes.Agent(
        id=member.uuid,
        created_at=shown(member.created_at),
        updated_at=shown(member.updated_at),
        **msgspec.structs.asdict(_fields(member.body)),
    )
