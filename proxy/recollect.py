"""What the store holds for a turn: where the request continues, which messages are new, the history to choose from.

Reads only, and only what the request calls for: a client that sends its newest message costs one lookup and one
window; digests are read when the request looks like a resend, old texts never.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from proxy import forking, messages, paths
from proxy.context.transcript import call_ids
from proxy.errors import NotFound
from proxy.paths import Lines
from proxy.reconcile import EVIDENCE, Said, decide, reconcile
from proxy.services import Services, Turn
from proxy.store import blobs, branches, entries, keys, sessions, turns
from proxy.store.branches import Point, line_of, since, until
from proxy.types import ROOT_BRANCH, Branch, Entry, Instructions, Line, Scope, Sent, Session

RETRY_MS = 10 * 60 * 1000
"""How long an SDK's retry of the latest turn is recognised."""


class Left(msgspec.Struct, frozen=True, gc=False):
    """What the turn before left on the line: the cut of its history and what that was made for, and JSON of
    types.Carried."""

    cut: int = 0
    cut_key: str = ""
    carried: bytes = b""


class Found(msgspec.Struct, frozen=True, gc=False):
    """The session as the turn meets it. `session` None: it does not exist yet. `known` of `sent` are stored;
    `fork_at`: the turn starts a branch after that seq, which `branch` owns and where the running total is `fork_total`.
    `left`: of the line's end, or of the turn that the branch starts after."""

    session: Session | None
    branch: Branch | None
    sent: Sequence[Sent]
    known: int
    fork_at: int | None
    fork_total: int
    line: Sequence[entries.Segment]
    instructions: Instructions
    left: Left = Left()

    @property
    def new(self) -> Sequence[Sent]:
        return self.sent[self.known :]

    @property
    def branch_number(self) -> int:
        if self.session is None or self.branch is None:
            return ROOT_BRANCH
        return self.branch.number if self.fork_at is None else self.session.branches + 1


class History(msgspec.Struct, frozen=True, gc=False):
    """The newest part of a line, oldest first, without large base64 (entries.whole). `before`, `before_tokens`: what
    stands before it and is not read. `detached`: the first entry is the newest user message, older than the rest."""

    entries: Sequence[Entry]
    before: int
    before_tokens: int
    detached: bool


async def with_tenant(svc: Services, turn: Turn) -> Turn:
    """The turn under its tenant's number, which the turn before it may have made."""
    if turn.scope.tenant > 0 or turn.scope.credential is None:
        return turn
    return msgspec.structs.replace(turn, scope=await keys.passthrough_scope(svc.db, turn.scope.credential))


async def answered(svc: Services, turn: Turn, session: Session, key: Line) -> turns.Answered | None:
    """The stored answer when this request is a retry. Raises Unprocessable for a key used with another body."""
    if turn.key:
        earlier = await turns.answered(svc.db, turn.scope, session.id, turn.key, turn.now)
        if earlier is not None and earlier.request != turn.request:
            raise turns.key_reused()
        return earlier
    if not turn.retried or svc.failed.has(key, turn.request):
        return None
    latest = await turns.answered(svc.db, turn.scope, session.id, "", turn.now)
    if latest is None or latest.request != turn.request:
        return None
    return latest if turn.now - latest.at <= RETRY_MS else None


async def find(svc: Services, turn: Turn, found: sessions.Found | None) -> Found:
    """Where the turn continues. Raises NotFound for an unknown session when sessions are not made on use."""
    options = turn.options
    if found is None:
        if not svc.config.sessions.auto_create:
            raise NotFound("there is no such session, and sessions.auto_create is off", code="session_not_found")
        if options.fork or (options.branch or ROOT_BRANCH) != ROOT_BRANCH:
            raise forking.no_turn(options.fork) if options.fork else forking.no_branch(options.branch)
        return Found(None, None, _read(turn, ()), 0, None, 0, (), Instructions())
    session, current = found
    if options.fork is not None:
        return await _forked(svc, turn, session, options.fork)
    if options.branch is not None and options.branch != current.number:
        current = await forking.named(svc, turn, session, options.branch)
    calls: Sequence[str] = ()
    if _has_results(turn):
        chain = await branches.chain(svc.db, turn.scope, session.id, current)
        calls = await _last_calls(svc, turn, session, line_of(chain, current))
    sent = _read(turn, calls)
    every, lines = await _lines(svc, turn, session, current, sent)
    said = await _match(svc, turn, session, lines, sent)
    branch, line = lines[said.branch]
    again = await _superseded(svc, turn, session, branch, said, sent)
    said = said if again is None else again
    if said.fork_at is None:
        left = Left(branch.cut, branch.cut_key, branch.carried)
        standing = await _instructions(svc, turn, session, branch.instructions)
        sent = await _stored_copies(svc, turn, session, said, sent, line)
        return Found(session, branch, sent, said.known, None, 0, line, standing, left)
    line = until(line, said.fork_at)
    point = await forking.end_of(svc, turn, session, every, line)
    if again is not None:
        point = msgspec.structs.replace(point, instructions=branch.instructions)
    return await _branching(svc, turn, (session, every[point.branch]), point, (said, sent, line))


async def _branching(
    svc: Services,
    turn: Turn,
    found: sessions.Found,
    point: Point,
    matched: tuple[Said, Sequence[Sent], Sequence[entries.Segment]],
) -> Found:
    """The turn starts a branch after the point, with what is left there. `matched`: the decision, the messages and the
    line up to the point."""
    said, sent, line = matched
    session, owner = found
    standing = await _instructions(svc, turn, session, point.instructions)
    sent = await _stored_copies(svc, turn, session, said, sent, line)
    left = Left(point.cut, point.cut_key, point.carried)
    return Found(session, owner, sent, said.known, point.seq, point.total, line, standing, left)


async def _forked(svc: Services, turn: Turn, session: Session, after: int) -> Found:
    """The turn starts a branch where the request says. What of the messages ends there is known, all else is new."""
    point, owner, line = msgspec.structs.astuple(await forking.after(svc, turn, session, after))
    sent = _read(turn, await _last_calls(svc, turn, session, line) if _has_results(turn) else ())
    said = Said(point.branch, 0)
    if turn.options.mode != "append" and sent:
        first = max(1, point.seq - len(sent) + 1)
        path = await paths.along(svc, turn.scope, session, point.branch, (line, first))
        said = reconcile([path], sent, "continue", frozenset().__contains__)
    return await _branching(svc, turn, (session, owner), point, (said, sent, line))


def _read(turn: Turn, last_calls: Sequence[str]) -> list[Sent]:
    """Observed requests are forwarded as sent, whatever they answer."""
    return messages.read(turn.messages, last_calls, any_call=turn.options.mode == "observe")


def _has_results(turn: Turn) -> bool:
    return any(value["role"] == "tool" for _, value in turn.messages)


async def _last_calls(svc: Services, turn: Turn, session: Session, line: Sequence[entries.Segment]) -> Sequence[str]:
    """The ids of the last stored group of calls on a line."""
    last = await entries.last_calls(svc.db, turn.scope, session.id, line)
    return call_ids(last.raw) if last is not None else ()


async def _lines(
    svc: Services, turn: Turn, session: Session, current: Branch, sent: Sequence[Sent]
) -> tuple[Mapping[int, Branch], Lines]:
    """All branches that are needed, and those that may be continued. `current`: the one that the request names, else
    the session's."""
    if session.branches == 1:
        every: Mapping[int, Branch] = {current.number: current}
        return every, {current.number: (current, line_of(every, current))}
    if turn.options.branch is not None or turn.options.mode == "append" or not sent:
        every = await branches.chain(svc.db, turn.scope, session.id, current)
        order = [current.number]
    elif turn.options.mode == "resend" or any(message.role in EVIDENCE for message in sent):
        every = await sessions.branches(svc.db, turn.scope, session.id)
        order = sorted(every, key=lambda number: (number != current.number, -number))
    else:
        ends = sent[-1].digest
        every = await branches.reaching(svc.db, turn.scope, session.id, current, ends)
        same = sorted(number for number in every if every[number].end_digest == ends and number != current.number)
        order = [current.number, *reversed(same)]
    lines: Lines = {}
    for n, number in enumerate(order):
        lines[number] = every[number], line_of(every, every[number])
        await paths.pause(n)
    return every, lines


async def _match(svc: Services, turn: Turn, session: Session, lines: Lines, sent: Sequence[Sent]) -> Said:
    """Reads the digests that the decision needs, and decides."""
    mode = turn.options.mode
    current = next(iter(lines))
    if mode == "append" or not sent:
        return Said(current, 0)
    resends = any(message.role in EVIDENCE for message in sent)
    ends = {message.digest for message in sent} if resends else {sent[-1].digest}
    if mode != "resend" and not resends and all(branch.end_digest not in ends for branch, _ in lines.values()):
        return Said(current, 0)
    found = await paths.compared(svc, turn, session, lines, sent)
    held = await _held(svc, turn.scope, session, sent) if mode != "resend" else frozenset()
    return decide(found, sent, mode, held.__contains__)


async def _held(svc: Services, scope: Scope, session: Session, sent: Sequence[Sent]) -> frozenset[bytes]:
    """The first answer or result after the first message that is stored: one is enough for the decision."""
    for message in sent[1:]:
        if message.role in EVIDENCE and await entries.places(svc.db, scope, session.id, message.digest):
            return frozenset((message.digest,))
    return frozenset()


async def _superseded(
    svc: Services, turn: Turn, session: Session, branch: Branch, said: Said, sent: Sequence[Sent]
) -> Said | None:
    """The same new messages again after a reply that was cut short take that turn's place, on a branch of their own and
    under the instructions of that turn. None when it is something else."""
    if branch.end_status != "incomplete" or said.fork_at is not None or turn.options.mode == "append":
        return None
    first, marks = await turns.sent_in(svc.db, turn.scope, session.id, branch.last_turn)
    if not marks or marks != [message.digest for message in sent[said.known :]]:
        return None
    return Said(branch.number, said.known, fork_at=first - 1)


async def _stored_copies(
    svc: Services, turn: Turn, session: Session, said: Said, sent: Sequence[Sent], line: Sequence[entries.Segment]
) -> Sequence[Sent]:
    """The new messages with what is stored in place of a client's echo of it: an echoed answer that lost vendor fields
    goes up as the model wrote it, and a result answers its call under the id that the model gave."""
    if not any(message.role == "assistant" for message in sent):
        return sent
    out = list(sent)
    ids: dict[str, str] = {}
    last_known = max((n for n in range(said.known) if sent[n].role == "assistant"), default=-1)
    end = line[0][2] if line else 0
    for n, message in enumerate(sent):
        answers = message.answers or ""
        if message.role == "assistant" and (n >= said.known or n == last_known):
            if n == last_known:  # where the request continues, not where the same call was made on another branch
                entry = await entries.at(svc.db, turn.scope, session.id, line, end - (said.known - 1 - n))
                raw = None if entry is None else entry.raw
            else:
                raw = await entries.stored(svc.db, turn.scope, session.id, message.digest)
            ids = dict(zip(message.calls, call_ids(raw) if raw and message.calls else (), strict=False))
            if raw is not None and n >= said.known:
                out[n] = msgspec.structs.replace(message, raw=raw, calls=tuple(ids.values()))
        elif message.role == "tool" and n >= said.known and ids.get(answers, answers) != answers:
            value = message.value | {"tool_call_id": ids[answers]}
            out[n] = Sent("tool", msgspec.json.encode(value), value, message.digest, answers=ids[answers])
    return out


async def _instructions(svc: Services, turn: Turn, session: Session, number: int | None) -> Instructions:
    """The instructions in force, by their number; none when the request brings its own."""
    if turn.system is not None or number is None:
        return Instructions()
    return await sessions.instructions(svc.db, turn.scope, session.id, number)


async def history(
    svc: Services,
    turn: Turn,
    found: Found,
    tokens: int | None,
    cut: int,
    price: Callable[[Entry], int] | None = None,
) -> History:
    """The newest entries of the line from `cut` on, as many as hold `tokens` (None: all). `price`: what an entry
    counts, asked from the newest on; None: its own tokens."""
    if found.session is None or not found.line:
        return History((), 0, 0, False)
    read = await entries.window(svc.db, turn.scope, found.session.id, since(found.line, cut), tokens, price)
    first = read[0].seq if read else found.line[0][2] + 1
    before_tokens = read[0].total - read[0].tokens if read else 0
    if any(message.role == "user" for message in found.new) or any(entry.role == "user" for entry in read):
        return History(read, first - 1, before_tokens, False)
    user = await entries.newest_user(svc.db, turn.scope, found.session.id, until(found.line, first - 1))
    if user is None:
        return History(read, first - 1, before_tokens, False)
    return History([user, *read], first - 2, before_tokens - user.tokens, user.seq != first - 1)


async def tail(svc: Services, turn: Turn, found: Found, most: int) -> list[dict[str, Any]]:
    """The last `most` messages of the line, oldest first, parsed; without large base64."""
    if found.session is None or not found.line:
        return []
    line = since(found.line, max(1, found.line[0][2] - most + 1))
    read = await entries.window(svc.db, turn.scope, found.session.id, line, None)
    return [msgspec.json.decode(blobs.bare(entry.raw)) for entry in read]
