"""What is set on a session, applied to a turn of it: its agent's settings and model, its tools, its templates."""

from collections.abc import Mapping, Sequence

import msgspec

from proxy.config import Config
from proxy.errors import BadRequest
from proxy.resources import Agent, AgentFields, Owner, Profile, Tool, User, UserFields
from proxy.services import Services, Turn
from proxy.steering import sent_to
from proxy.store import members, sessions, settings, tools
from proxy.types import Scope, Session
from proxy.upstream.route import targets

_agent = msgspec.json.Decoder(AgentFields).decode
_user = msgspec.json.Decoder(UserFields).decode
_json = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.encode


async def dress(svc: Services, turn: Turn, found: sessions.Found | None) -> Turn:
    """The turn with what its session and the session's active agent bring along. Raises NotFound for a session that
    the Sessions API does not know, BadRequest for an agent that takes no part in it, and when nothing names a model."""
    if found is None and turn.sessions_api:
        raise settings.missing()
    profile = None
    if found is not None and found[0].dressed and turn.options.mode != "observe":
        profile = await load(svc, turn.scope, found[0], turn.options.agent)
        turn = filled(svc.config, turn, profile)
    elif turn.options.agent is not None:
        raise _stranger()
    if turn.sessions_api and turn.target.model is None:
        raise BadRequest(
            "neither the request nor the agent names a model; send `model`, set the agent's, or configure "
            "models.default",
            param="model",
            code="model_required",
        )
    return turn


async def load(svc: Services, scope: Scope, session: Session, wanted: str | None) -> Profile:
    """What is set on a session; `wanted`: the UUID of the agent that shall answer, None for the first one."""
    found = await members.taking_part(svc.db, scope, session.id)
    agents = tuple(Agent(one.id, one.uuid, _agent(one.body)) for one in found if one.kind == "agent")
    users = tuple(User(one.id, one.uuid, _user(one.body)) for one in found if one.kind == "user")
    active = _active(agents, wanted)
    own = Owner("session", session.id, session.uuid)
    speaker = () if active is None else (Owner("agent", active.id, active.uuid),)
    return Profile(
        session=session.uuid,
        fields=await settings.fields(svc.db, scope, session.id),
        agents=agents,
        users=users,
        active=active,
        tools=tuple(await tools.every(svc.db, scope, (own, *speaker))),
        owners=(*speaker, *(Owner("user", user.id, user.uuid) for user in users), own),
    )


def _active(agents: Sequence[Agent], wanted: str | None) -> Agent | None:
    if wanted is None:
        return agents[0] if agents else None
    for agent in agents:
        if agent.uuid == wanted.lower():
            return agent
    raise _stranger()


def _stranger() -> BadRequest:
    return BadRequest(
        "the agent takes no part in this session; GET /sessions/{id} lists its agents, POST /sessions/{id} adds one",
        param="agent",
        code="agent_not_in_session",
    )


def filled(config: Config, turn: Turn, profile: Profile) -> Turn:
    """The turn with the agent's settings and model where the request leaves them open, and with the session's tools."""
    fields = dict(turn.fields)
    model = None
    reserve = turn.reserve
    if profile.active is not None:
        defaults = _json(_encode(profile.active.fields.default_settings))
        for key, raw in defaults.items():
            value = bytes(raw)
            if key != "model" and value != b"null" and not _given(fields, key):
                fields[key] = value
                reserve = int(value) if key == "max_tokens" else reserve
        named = profile.active.fields.default_settings.get("model") or profile.active.fields.model
        model = named if turn.model is None and named else None
    offered = _offered(fields.get("tools", b"null"), profile.tools, own_first=turn.sessions_api)
    if offered:
        fields["tools"] = offered
    turn = msgspec.structs.replace(turn, fields=fields, reserve=reserve, profile=profile)
    if model is None:
        return turn
    target, *others = targets(config, model, turn.scope.credential)
    return sent_to(turn, target, others)


def _given(fields: Mapping[str, bytes], key: str) -> bool:
    same = ("max_tokens", "max_completion_tokens") if key == "max_tokens" else (key,)
    return any(fields.get(name, b"null") != b"null" for name in same)


def _offered(given: bytes, stored: Sequence[Tool], own_first: bool) -> bytes:
    """The tools that go upstream, one of each name: the request's win on /v1, the session's and agent's on /sessions.
    Empty when the request's stay as they are."""
    if not stored:
        return b""
    theirs = [] if given == b"null" else [(_name(item), bytes(item)) for item in _items(given)]
    ours = [(tool.name, schema(tool)) for tool in stored]
    every: dict[str, bytes] = {}
    for name, raw in [*ours, *theirs] if own_first else [*theirs, *ours]:
        every.setdefault(name, raw)
    return b"[" + b",".join(every.values()) + b"]"


def _name(item: msgspec.Raw) -> str:
    value = msgspec.json.decode(item)
    made = value.get("function") or value.get("custom") if isinstance(value, dict) else None
    name = made.get("name") if isinstance(made, dict) else None
    return name if isinstance(name, str) else bytes(item).decode("utf-8", "replace")


def schema(tool: Tool) -> bytes:
    """A stored tool as a function that a model can call. Kinds whose parameters are not described take any."""
    body = msgspec.json.decode(tool.body)
    kind = body["type"]
    own = body.get(kind) or {}
    parameters = own.get("parameters") if kind == "function" else own.get("params_schema")
    function: dict[str, object] = {"name": tool.name}
    description = body.get("description") or own.get("description")
    if description:
        function["description"] = description
    function["parameters"] = parameters or {"type": "object", "properties": {}}
    if own.get("strict") is not None:
        function["strict"] = own["strict"]
    return _encode({"type": "function", "function": function})
