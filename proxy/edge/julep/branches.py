"""A session's branches: listed, begun, taken back, deleted. Turns switch between them by a header."""

import re
from collections.abc import Callable

from proxy import branching
from proxy.edge.julep import branch_shapes as shapes
from proxy.edge.julep.times import shown
from proxy.edge.operation import Ask
from proxy.edge.retries import fingerprint, idempotency_key
from proxy.errors import NotFound
from proxy.services import epoch_ms
from proxy.store import branches, sessions
from proxy.store.branches import Listed, Once
from proxy.store.settings import missing

NUMBER = re.compile("[1-9][0-9]{0,17}")


async def page(ask: Ask) -> shapes.Branches:
    """List the branches, in the order in which they were made."""
    found = await sessions.find(ask.svc.db, ask.who, ask.path["id"])
    if found is None:
        raise missing()
    listed = await branches.page(ask.svc.db, ask.who, found[0].id, ask.query.limit, ask.query.offset)
    return shapes.Branches(items=[_shown(branch) for branch in listed])


async def fork(ask: Ask) -> shapes.Branch:
    """Begin a branch after a turn of any branch; it becomes the current one. Nothing is copied."""
    return _shown(await branching.fork(ask.svc, ask.who, ask.path["id"], ask.given.at, _once(ask)))


async def undo(ask: Ask) -> shapes.Branch:
    """Take back the last turn: a branch before it becomes the current one, and the turn stays readable on its own."""
    return _shown(await branching.undo(ask.svc, ask.who, ask.path["id"], _once(ask)))


def _once(ask: Ask) -> Once | None:
    """The request's Idempotency-Key, with what its retry has to share: what is asked for, and with which body."""
    key = idempotency_key(ask.frame.headers)
    return Once(key, fingerprint(ask.frame.path.encode() + ask.raw, {})) if key else None


async def delete(ask: Ask) -> shapes.DeletedBranch:
    """Delete a branch with the turns that were made on it; not the current one, and none that another begins on."""
    number = number_of(ask.path["branch"], branches.unknown)
    await branching.delete(ask.svc, ask.who, ask.path["id"], number)
    return shapes.DeletedBranch(id=number, deleted_at=shown(epoch_ms()), jobs=[])


def number_of(text: str, unknown: Callable[[], NotFound]) -> int:
    """A number in a path; what is none names nothing that there is."""
    if not NUMBER.fullmatch(text):
        raise unknown()
    return int(text)


def _shown(branch: Listed) -> shapes.Branch:
    return shapes.Branch(
        id=branch.number,
        parent=branch.parent,
        forked_at=branch.forked_at,
        turns=branch.turns,
        current=branch.current,
        created_at=shown(branch.created_at),
    )
