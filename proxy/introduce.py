"""The system message that a session's settings make: its template or its agent's, rendered, else the default one.

User messages are never templates. System messages of a request are, on the Sessions API, unless `render_templates` is
off.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.context import introduction, tokens
from proxy.context.tokens import Count
from proxy.resources import Hit, Profile
from proxy.services import Services, Turn
from proxy.types import INSTRUCTIONS

_encode = msgspec.json.encode

MARKS = ("{{", "{%", "{#")
"""Without one of these a text is its own rendering."""


class Introduction(msgspec.Struct, frozen=True, gc=False):
    """A system message as JSON, b"" for none, its raw tokens, and whether it shows the documents."""

    raw: bytes = b""
    tokens: int = 0
    shows_docs: bool = False


async def introduced(svc: Services, turn: Turn, profile: Profile, hits: Sequence[Hit], count: Count) -> Introduction:
    """Raises BadRequest naming the line and the variable when the template cannot be rendered."""
    agent = None if profile.active is None else profile.active.fields
    template = profile.fields.system_template or (agent.default_system_template if agent else None)
    if template is None:
        users = [user.fields for user in profile.users]
        text, shows = introduction.default(agent, users, profile.fields.situation), False
    elif not any(mark in template for mark in MARKS):
        text, shows = template, False
    else:
        rendered = await svc.templates.render(template, variables(turn, profile, hits), who=_who(turn))
        text, shows = rendered.text, "docs" in rendered.names
    if not text.strip():
        return Introduction()
    value = {"role": "system", "content": text}
    return Introduction(_encode(value), tokens.of_message(value, count), shows)


async def rendered(svc: Services, turn: Turn) -> Turn:
    """The turn with the system messages of its request rendered."""
    profile = turn.profile
    if profile is None or not turn.sessions_api or not profile.fields.render_templates:
        return turn
    system = None if turn.system is None else tuple([await _message(svc, turn, profile, raw) for raw in turn.system])
    messages = []
    for raw, value in turn.messages:
        if value["role"] in INSTRUCTIONS:
            raw = await _message(svc, turn, profile, raw)
            value = msgspec.json.decode(raw)
        messages.append((raw, value))
    return msgspec.structs.replace(turn, system=system, messages=messages)


async def _message(svc: Services, turn: Turn, profile: Profile, raw: bytes) -> bytes:
    value = msgspec.json.decode(raw)
    content = value.get("content")
    if not isinstance(content, str) or not any(mark in content for mark in MARKS):
        return raw
    result = await svc.templates.render(content, variables(turn, profile, ()), "messages", _who(turn))
    return _encode({**value, "content": result.text})


def _who(turn: Turn) -> tuple[int, str]:
    return turn.scope.tenant, turn.name


def variables(turn: Turn, profile: Profile, hits: Sequence[Hit]) -> bytes:
    """What templates know, as JSON: agent, agents, user, users, session, docs, tools, metadata, settings."""
    agents = [{"id": agent.uuid, **msgspec.structs.asdict(agent.fields)} for agent in profile.agents]
    users = [{"id": user.uuid, **msgspec.structs.asdict(user.fields)} for user in profile.users]
    active = next((item for item in agents if profile.active is not None and item["id"] == profile.active.uuid), None)
    given: dict[str, Any] = {
        "agent": active,
        "current_agent": active,
        "agents": agents,
        "user": users[0] if users else None,
        "users": users,
        "session": {"id": profile.session, **msgspec.structs.asdict(profile.fields)},
        "docs": [{"title": hit.title, "content": [hit.text], "metadata": msgspec.Raw(hit.metadata)} for hit in hits],
        "tools": [{"id": tool.uuid, "name": tool.name, **msgspec.json.decode(tool.body)} for tool in profile.tools],
        "metadata": turn.options.metadata,
        "settings": {"model": turn.target.model, **(profile.active.fields.default_settings if profile.active else {})},
    }
    return _encode(given)
