"""Where a request says that its turn stands: the branch that it continues, or the turn after which it begins one.

Reads only. What names nothing is refused, and a fork where the session has as many branches as it may have.
"""

from collections.abc import Mapping, Sequence

import msgspec

from proxy.errors import BadRequest
from proxy.services import Services, Turn
from proxy.store import branches
from proxy.store.branches import Point, line_of, until
from proxy.store.entries import Segment
from proxy.types import Branch, Session


class Place(msgspec.Struct, frozen=True, gc=False):
    """The point after which a branch begins, the branch that owns it, and the line up to it."""

    point: Point
    owner: Branch
    line: Sequence[Segment]


async def after(svc: Services, turn: Turn, session: Session, number: int) -> Place:
    """The end of the turn with this number, 0 for the beginning. Raises BadRequest for a turn that the session does not
    have, Conflict where it has too many branches for one more."""
    point = await branches.after(svc.db, turn.scope, session.id, number) if number <= session.turns else None
    if point is None:
        raise no_turn(number)
    many = turn.options.save and session.branches >= branches.MOST  # as were ever made
    if many and await branches.living(svc.db, turn.scope, session.id) >= branches.MOST:
        raise branches.too_many("session.fork")
    every = await branches.lineage(svc.db, turn.scope, session.id, point.branch)
    owner = every[point.branch]
    return Place(point, owner, until(line_of(every, owner), point.seq))


async def named(svc: Services, turn: Turn, session: Session, number: int) -> Branch:
    """The branch with this number. Raises BadRequest where there is none."""
    every = await branches.lineage(svc.db, turn.scope, session.id, number) if number <= session.branches else {}
    if number not in every:
        raise no_branch(number)
    return every[number]


async def end_of(
    svc: Services, turn: Turn, session: Session, every: Mapping[int, Branch], line: Sequence[Segment]
) -> Point:
    """The end of a line as a place where a branch begins."""
    if not line:
        return Point(branch=next(number for number, branch in every.items() if branch.parent is None))
    owner, _, seq = line[0]
    found = await branches.at(svc.db, turn.scope, session.id, owner, seq)
    return Point(branch=owner, seq=seq) if found is None else found


def no_turn(turn: int) -> BadRequest:
    """For a turn that the session does not have."""
    return BadRequest(
        f"session.fork: this session has no turn {turn} to begin a branch after; GET /sessions/{{id}}/turns lists them",
        param="session.fork",
        code="turn_not_found",
    )


def no_branch(number: int | None) -> BadRequest:
    """For a branch that the session does not have."""
    return BadRequest(
        f"session.branch: this session has no branch {number}; GET /sessions/{{id}}/branches lists them",
        param="session.branch",
        code="branch_not_found",
    )
