"""A session as the lines that `session-proxy import` reads."""

from proxy.archive import exporting
from proxy.edge.operation import Ask, Lines
from proxy.store import sessions
from proxy.store.settings import missing


async def lines(ask: Ask) -> Lines:
    """Write the session out, with all it holds, as JSON Lines."""
    found = await sessions.find(ask.svc.db, ask.who, ask.path["id"])
    if found is None:
        raise missing()
    return Lines(exporting.session(ask.svc.db, ask.who, found[0].id, set()))
