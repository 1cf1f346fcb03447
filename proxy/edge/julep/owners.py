"""Whose documents or tools a path is about: /agents/{id}, /users/{id} or /sessions/{id}."""

from proxy.edge.julep.times import known
from proxy.edge.operation import Ask
from proxy.resources import Owner
from proxy.store import members, settings


async def of(ask: Ask) -> Owner:
    """Raises NotFound when the tenant has no such agent, user or session."""
    kind = ask.frame.path.split("/")[1]
    if kind == "sessions":
        session = await settings.find(ask.svc.db, ask.who, ask.path["id"])
        return Owner("session", session.id, session.uuid)
    member = await members.find(ask.svc.db, ask.who, "agent" if kind == "agents" else "user", known(ask.path["id"]))
    return Owner(member.kind, member.id, member.uuid)
