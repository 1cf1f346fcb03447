"""Branches made and deleted on demand, in the session's queue: a turn that is running is never cut.

A fork is one row. What stood behind it stays on the branch where it was said; undo is a fork before the last turn.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from proxy.errors import BadRequest, Conflict
from proxy.services import Services, epoch_ms
from proxy.settled import settled
from proxy.store import branches, sessions
from proxy.store.branches import Listed, Once, Point, Why, line_of, until
from proxy.store.entries import Segment
from proxy.store.settings import missing
from proxy.types import Scope, Session


async def fork(svc: Services, scope: Scope, name: str, after: int, once: Once | None = None) -> Listed:
    """Makes a branch after a turn, 0 for the beginning, and the current one; with a key that was used, gives the one
    that was made. Raises NotFound for an unknown session, BadRequest for a turn that it does not have, Conflict where
    there are too many branches, Unprocessable for a key of something else."""
    async with _alone(svc, scope, name) as (session, _):
        made = await _made(svc, scope, session, once)
        if made is not None:
            return made
        point = await branches.after(svc.db, scope, session.id, after) if 0 <= after <= session.turns else None
        if point is None:
            raise BadRequest(
                f"at: this session has no turn {after} to begin a branch after; GET /sessions/{{id}}/turns lists them",
                param="at",
                code="turn_not_found",
            )
        return await settled(branches.begin(svc.db, scope, session.id, point, epoch_ms(), Why(0, once)))


async def _made(svc: Services, scope: Scope, session: Session, once: Once | None) -> Listed | None:
    return None if once is None else await branches.made(svc.db, scope, session.id, once, epoch_ms())


async def undo(svc: Services, scope: Scope, name: str, once: Once | None = None) -> Listed:
    """The current branch's last turn no longer stands: a branch before it becomes the current one; with a key as
    `fork`. Raises NotFound, and Conflict when there is no turn, or too many branches."""
    async with _alone(svc, scope, name) as (session, current):
        made = await _made(svc, scope, session, once)
        if made is not None:
            return made
        every = await branches.chain(svc.db, scope, session.id, current)
        last = await _end(svc, scope, session, line_of(every, current))
        start = await branches.start_of(svc.db, scope, session.id, last.turn)
        if start is None:
            raise Conflict(
                "there is nothing to undo: no turn stands on the current branch",
                code="nothing_to_undo",
                headers={"x-should-retry": "false"},
            )
        before = until(line_of(every, current), start - 1)
        point = await _end(svc, scope, session, before)
        return await settled(branches.begin(svc.db, scope, session.id, point, epoch_ms(), Why(last.turn, once)))


async def _end(svc: Services, scope: Scope, session: Session, line: Sequence[Segment]) -> Point:
    """The last place of a line."""
    if not line:
        return await branches.after(svc.db, scope, session.id, 0) or Point()
    owner, _, seq = line[0]
    return await branches.at(svc.db, scope, session.id, owner, seq) or Point(branch=owner, seq=seq)


async def delete(svc: Services, scope: Scope, name: str, number: int) -> None:
    """Removes a branch with its turns. Raises NotFound, and Conflict for the current one and one that others begin
    on."""
    async with _alone(svc, scope, name) as (session, _):
        await settled(_deleted(svc, scope, session, number))  # no turn may begin on it meanwhile


async def _deleted(svc: Services, scope: Scope, session: Session, number: int) -> None:
    await branches.delete(svc.db, scope, session.id, number, epoch_ms())
    svc.forwarded.put(session.id, number, None)


@asynccontextmanager
async def _alone(svc: Services, scope: Scope, name: str) -> AsyncGenerator[sessions.Found]:
    """The session as it is when its turn has come."""
    named = await sessions.find(svc.db, scope, name)
    if named is None:
        raise missing()
    async with svc.queue.turn(scope.line(named[0].name or named[0].uuid)):
        found = await sessions.find(svc.db, scope, named[0].uuid)
        if found is None:
            raise missing()
        yield found
