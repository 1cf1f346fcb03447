"""Sessions: made, read, changed, listed and deleted; their conversation is history.py's and chat.py's."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, cast

import msgspec
from msgspec import UNSET

from proxy.edge.julep import shapes
from proxy.edge.julep.merge import as_json, given, patched, replaced
from proxy.edge.julep.page import filters, page_of
from proxy.edge.julep.times import known, shown, uuid_of
from proxy.edge.operation import Ask
from proxy.edge.tenants import admitted
from proxy.errors import BadRequest, NotFound
from proxy.resources import Owner, SessionFields, Settings
from proxy.services import epoch_ms, new_id
from proxy.store import branches, docs, facets, members, sessions, settings, summaries
from proxy.store.branches import line_of
from proxy.store.facets import Facet
from proxy.store.settings import Joining

LARGEST_BUDGET = 100_000_000
NAME = 256

_HYBRID = {
    "mode": "hybrid", "limit": 10, "lang": "en-US", "metadata_filter": {}, "num_search_messages": 4,
    "max_query_length": 1000, "include_embeddings": True, "confidence": 0.5, "alpha": 0.5, "mmr_strength": 0.5,
    "trigram_similarity_threshold": None, "k_multiplier": 7,
}  # fmt: skip
RECALL: Mapping[str, Mapping[str, Any]] = {
    "hybrid": _HYBRID,
    "vector": {key: value for key, value in _HYBRID.items()
               if key not in ("alpha", "trigram_similarity_threshold", "k_multiplier")},
    "text": {key: value for key, value in _HYBRID.items()
             if key not in ("alpha", "confidence", "mmr_strength", "k_multiplier")},
}  # fmt: skip
"""The fields of each mode of recall with Julep's defaults."""


async def create(ask: Ask) -> shapes.Session:
    """Make a session of an agent, or several, and any number of users."""
    joining = _joining(ask.given)
    if not joining.agents:
        raise BadRequest("At least one agent must be provided", param="agent")
    fields = await _checked(ask)
    who = await admitted(ask.svc, ask.who, ask.frame)
    now = epoch_ms()
    new = _session(new_id(), ask.given.name, now, now, fields, ask.given)
    async with _alone(ask, new.name):
        return await _shown(ask, await settings.create(ask.svc.db, who, new, joining))


def _alone(ask: Ask, name: str | None) -> AbstractAsyncContextManager[None]:
    """A session of a name may be in the making by its first turn: that one is waited for."""
    return nullcontext() if name is None else ask.svc.queue.turn(ask.who.line(name))


async def put(ask: Ask) -> shapes.Session:
    """Make the session of this id, or replace its settings and add participants."""
    joining = _joining(ask.given)
    fields = await _checked(ask)
    async with _alone(ask, ask.path["id"]):
        return await _shown(ask, await _put(ask, fields, joining))


async def _put(ask: Ask, fields: Mapping[str, Any], joining: Joining) -> Settings:
    name = ask.path["id"]
    found = await sessions.find(ask.svc.db, ask.who, name)
    now = epoch_ms()
    if found is not None:
        return await settings.change(ask.svc.db, ask.who, found[0].id, _replacing(ask, fields), joining, now)
    if not joining.agents:
        raise BadRequest("At least one agent must be provided", param="agent")
    _check_name(name)
    who = await admitted(ask.svc, ask.who, ask.frame)
    own = uuid_of(name)
    uuid, called = (new_id(), name) if own is None else (own, ask.given.name)
    new = _session(uuid, called, now, now, fields, ask.given)
    return await settings.create(ask.svc.db, who, new, joining)


async def get(ask: Ask) -> shapes.Session:
    """Read a session, by its id or its name."""
    return await _shown(ask, await settings.find(ask.svc.db, ask.who, ask.path["id"]))


async def patch(ask: Ask) -> shapes.Session:
    """Change what is given; metadata and recall options are merged."""
    fields = await _checked(ask)
    id = (await settings.find(ask.svc.db, ask.who, ask.path["id"])).id

    def change(old: Settings) -> Settings:
        return msgspec.structs.replace(
            old,
            fields=patched(old.fields, _merging(old.fields, fields)),
            token_budget=old.token_budget if ask.given.token_budget in (UNSET, None) else ask.given.token_budget,
            overflow=_overflow(ask.given.context_overflow, old.overflow),
        )

    return await _shown(ask, await settings.change(ask.svc.db, ask.who, id, change, Joining(), epoch_ms()))


def _merging(old: SessionFields, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Recall options of another mode are no merge: the mode's own defaults come in between."""
    changes = dict(fields)
    if "recall_options" in changes:
        changes["recall_options"] = recall_options({**(old.recall_options or {}), **changes["recall_options"]})
    return changes


async def replace(ask: Ask) -> shapes.Session:
    """Replace the settings: what is not given goes back to its default. Participants stay."""
    fields = await _checked(ask)
    id = (await settings.find(ask.svc.db, ask.who, ask.path["id"])).id
    change = _replacing(ask, fields)
    return await _shown(ask, await settings.change(ask.svc.db, ask.who, id, change, Joining(), epoch_ms()))


def _replacing(ask: Ask, fields: Mapping[str, Any]) -> settings.Change:
    def change(old: Settings) -> Settings:
        return _session(old.uuid, old.name, old.created_at, old.updated_at, fields, ask.given)

    return change


async def page(ask: Ask) -> shapes.Sessions:
    """List sessions; those of an agent, a user, a name, or with some metadata."""
    query: shapes.SessionListing = ask.query
    if query.name is not None:
        try:
            found = await settings.find(ask.svc.db, ask.who, query.name)
        except NotFound:
            return shapes.Sessions(items=[])
        named = [found] if not query.offset and _is_asked_for(found, query) else []
        return shapes.Sessions(items=await _all_shown(ask, named))
    where: list[Facet] = filters(query)
    for kind, uuid in (("agent", query.agent_id or query.agent), ("user", query.user_id or query.user)):
        if uuid is not None:
            try:
                member = await members.find(ask.svc.db, ask.who, "agent" if kind == "agent" else "user", known(uuid))
            except NotFound:
                return shapes.Sessions(items=[])
            where.append((kind, str(member.id)))
    listed = await settings.page(ask.svc.db, ask.who, where, page_of(query))
    return shapes.Sessions(items=await _all_shown(ask, listed))


def _is_asked_for(found: Settings, query: shapes.SessionListing) -> bool:
    """Whether the session of a name passes the other filters too."""
    agent, user = query.agent_id or query.agent, query.user_id or query.user
    return (
        found.name == query.name
        and (agent is None or known(agent) in found.agents)
        and (user is None or known(user) in found.users)
        and set(filters(query)) <= set(facets.of_metadata(found.fields.metadata))
    )


async def delete(ask: Ask) -> shapes.Deleted:
    """Delete a session with all it holds. A turn that is running stores nothing."""
    session = await settings.find(ask.svc.db, ask.who, ask.path["id"])
    await docs.delete_all(ask.svc.db, ask.who, Owner("session", session.id, session.uuid))
    if not await sessions.delete(ask.svc.db, ask.who, session.id):
        raise settings.missing()
    return shapes.Deleted(id=session.uuid, deleted_at=shown(epoch_ms()))


def _joining(given: shapes.CreateSession) -> Joining:
    """The participants; `agent` and `agent_id`, one or several."""
    agent, user = given.agent or given.agent_id, given.user or given.user_id
    if agent is not None and given.agents is not None:
        raise BadRequest("Only one of 'agent' or 'agents' should be provided", param="agents")
    if user is not None and given.users is not None:
        raise BadRequest("Only one of 'user' or 'users' should be provided", param="users")
    agents = [agent] if agent is not None else given.agents or []
    users = [user] if user is not None else given.users or []
    return Joining([str(one) for one in agents], [str(one) for one in users])


async def _checked(ask: Ask) -> dict[str, Any]:
    """What a request sets, in the form in which it is stored. Raises BadRequest for what no type can say."""
    changes = given(ask.given)
    for key in ("situation", "system_template"):
        if key in changes and not changes[key].strip():
            raise BadRequest(f"{key} is blank; leave it out", param=key)
    budget = changes.get("token_budget")
    if budget is not None and not 1 <= budget <= LARGEST_BUDGET:
        raise BadRequest("token_budget must be a whole number of tokens, at least 1", param="token_budget")
    if "system_template" in changes:
        await ask.svc.templates.check(changes["system_template"], who=(ask.who.tenant, ""))
    if "recall_options" in changes:
        options = {key: value for key, value in as_json(changes["recall_options"]).items() if value is not None}
        facets.of_metadata(options.get("metadata_filter") or {})  # what no turn could search by is refused now
        changes["recall_options"] = recall_options(options) if ask.frame.method != "PATCH" else options
    return changes


def recall_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the mode that is given or implied, complete. Pure."""
    implied = "text" if "trigram_similarity_threshold" in given else "vector"
    mode = given.get("mode") or ("hybrid" if "alpha" in given else implied)
    return {key: given.get(key, default) for key, default in {**RECALL[mode], "mode": mode}.items()} | {"mode": mode}


def _check_name(name: str) -> None:
    if not (1 <= len(name) <= NAME and name.isascii() and name.isprintable()):
        raise BadRequest("a session's name has 1 to 256 printable ASCII characters", param="id")


def _session(
    uuid: str, name: str | None, created: int, updated: int, fields: Mapping[str, Any], given: shapes.ChangeSession
) -> Settings:
    """A session with the defaults for what is not given."""
    budget = given.token_budget if isinstance(given.token_budget, int) else None
    overflow = _overflow(given.context_overflow, None)
    return Settings(0, uuid, name, budget, overflow, created, updated, replaced(SessionFields(), fields))


def _overflow(given: Any, kept: str | None) -> str | None:
    """An explicit null is the strategy that drops nothing."""
    return kept if given is UNSET else "null" if given is None else given


async def _shown(ask: Ask, session: Settings) -> shapes.Session:
    return (await _all_shown(ask, [session]))[0]


async def _all_shown(ask: Ask, found: Sequence[Settings]) -> list[shapes.Session]:
    """The sessions, each with the newest summary of its current branch."""
    known = await summaries.summarized(ask.svc.db, ask.who, [session.id for session in found]) if found else ()
    return [_rendered(ask, one, await _summary(ask, one) if one.id in known else None) for one in found]


async def _summary(ask: Ask, session: Settings) -> str | None:
    current = await sessions.find(ask.svc.db, ask.who, session.uuid)
    if current is None:
        return None
    every = await branches.chain(ask.svc.db, ask.who, session.id, current[1])
    newest = await summaries.newest(ask.svc.db, ask.who, session.id, line_of(every, current[1]))
    return None if newest is None else newest.text


def _rendered(ask: Ask, session: Settings, summary: str | None) -> shapes.Session:
    overflow = session.overflow or ask.svc.config.context.overflow
    return shapes.Session(
        id=session.uuid,
        created_at=shown(session.created_at),
        updated_at=shown(session.updated_at),
        name=session.name,
        agent=session.agents[0] if session.agents else None,
        agents=list(session.agents),
        user=session.users[0] if session.users else None,
        users=list(session.users),
        summary=summary,
        token_budget=session.token_budget,
        context_overflow=None if overflow == "null" else cast(shapes.Overflow, overflow),
        **msgspec.structs.asdict(session.fields),
    )
