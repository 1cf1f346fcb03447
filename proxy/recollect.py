"""What the store holds for a turn: where the request continues, which messages are new, the history to choose from.

Reads only, and only what the request calls for: a client that sends its newest message costs one lookup and one
window; digests are read when the request looks like a resend, old texts never.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from proxy.context.transcript import call_ids
from proxy.errors import BadRequest, NotFound, Unprocessable
from proxy.reconcile import EVIDENCE, Path, Said, content_of, digest, reconcile
from proxy.services import Services, Turn
from proxy.store import entries, keys, sessions, turns
from proxy.types import ROOT_BRANCH, Branch, Entry, Instructions, Line, Scope, Sent, Session

RETRY_MS = 10 * 60 * 1000
"""How long an SDK's retry of the latest turn is recognised."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """The session as the turn meets it. `session` None: it does not exist yet. `known` of `sent` are stored;
    `fork_at`: the turn starts a branch after that seq of `branch`, where the running total is `fork_total`."""

    session: Session | None
    branch: Branch | None
    sent: Sequence[Sent]
    known: int
    fork_at: int | None
    fork_total: int
    line: Sequence[entries.Segment]
    instructions: Instructions

    @property
    def new(self) -> Sequence[Sent]:
        return self.sent[self.known :]

    @property
    def branch_number(self) -> int:
        if self.session is None or self.branch is None:
            return ROOT_BRANCH
        return self.branch.number if self.fork_at is None else self.session.branches + 1


class History(msgspec.Struct, frozen=True, gc=False):
    """The newest part of a line, oldest first. `before`, `before_tokens`: what stands before it and is not read.
    `detached`: the first entry is the newest user message, older than the rest."""

    entries: Sequence[Entry]
    before: int
    before_tokens: int
    detached: bool


async def settled(svc: Services, turn: Turn) -> Turn:
    """The turn under its tenant's number, which the turn before it may have made."""
    if turn.scope.tenant > 0 or turn.scope.credential is None:
        return turn
    return msgspec.structs.replace(turn, scope=await keys.passthrough_scope(svc.db, turn.scope.credential))


async def answered(svc: Services, turn: Turn, session: Session, key: Line) -> turns.Answered | None:
    """The stored answer when this request is a retry. Raises Unprocessable for a key used with another body."""
    if turn.key:
        earlier = await turns.answered(svc.db, turn.scope, session.id, turn.key, turn.now)
        if earlier is not None and earlier.request != turn.request:
            raise Unprocessable(
                "this Idempotency-Key was used for another request of this session; use a new key",
                param="Idempotency-Key",
                code="idempotency_key_reused",
                headers={"x-should-retry": "false"},
            )
        return earlier
    if not turn.retried or svc.failed.has(key, turn.request):
        return None
    latest = await turns.answered(svc.db, turn.scope, session.id, "", turn.now)
    if latest is None or latest.request != turn.request:
        return None
    return latest if turn.now - latest.at <= RETRY_MS else None


async def find(svc: Services, turn: Turn, found: sessions.Found | None) -> Found:
    """Where the turn continues. Raises NotFound for an unknown session when sessions are not made on use."""
    if found is None:
        if not svc.config.sessions.auto_create:
            raise NotFound("there is no such session, and sessions.auto_create is off", code="session_not_found")
        return Found(None, None, _read(turn, ()), 0, None, 0, (), Instructions())
    session, current = found
    sent = _read(turn, await _last_calls(svc, turn, session, current))
    lines = await _lines(svc, turn, session, current, sent)
    said = await _match(svc, turn, session, lines, sent)
    branch = lines[said.branch][0]
    again = await _superseded(svc, turn, session, branch, said, sent)
    said = said if again is None else again
    line = lines[said.branch][1]
    end = None
    if said.fork_at is not None:
        line = _until(line, said.fork_at)
        end = await entries.at(svc.db, turn.scope, session.id, line, said.fork_at)
    number = branch.instructions
    if said.fork_at is not None and again is None:
        number = None if end is None else await sessions.instructions_at(svc.db, turn.scope, session.id, end.turn)
    standing = await _instructions(svc, turn, session, number)
    sent = await _stored_copies(svc, turn, session, said, sent, line)
    fork_total = 0 if end is None else end.total
    return Found(session, branch, sent, said.known, said.fork_at, fork_total, line, standing)


def _read(turn: Turn, last_calls: Sequence[str]) -> list[Sent]:
    """The messages with their digests. A result is placed by the call it answers, in `sent` or in the store; the
    results of one group come in the order of its calls. Raises BadRequest for a result that answers no known call."""
    sent: list[Sent] = []
    calls = last_calls
    for n, (raw, value) in enumerate(turn.messages):
        role = str(value["role"])
        if role == "tool":
            answers = str(value["tool_call_id"])
            if answers not in calls and turn.options.mode == "observe":
                calls = (answers,)  # forwarded as sent, whatever it answers
            if answers not in calls:
                raise BadRequest(
                    f"messages[{n}] answers the tool call {answers[:64]!r}, which neither this request nor the "
                    "session's last group of calls makes; send the assistant message with the call before it",
                    param=f"messages[{n}].tool_call_id",
                )
            sent.append(Sent(role, raw, value, digest(value, calls.index(answers)), answers=answers))
            continue
        made = call_ids(raw) if value.get("tool_calls") else ()
        calls = made or (calls if role != "assistant" else ())
        sent.append(Sent(role, raw, value, digest(value), made))
    return _in_call_order(sent, last_calls) if len(sent) > 1 else sent


def _in_call_order(sent: list[Sent], last_calls: Sequence[str]) -> list[Sent]:
    """Each run of results sorted as the calls stand that it answers, stored ones for a run that comes first."""
    out: list[Sent] = []
    run: list[Sent] = []
    place = {call: n for n, call in enumerate(last_calls)}
    for message in sent:
        if message.role == "tool":
            run.append(message)
            continue
        out += sorted(run, key=lambda result: place.get(result.answers or "", 0))
        run = []
        out.append(message)
        if message.calls:
            place = {call: n for n, call in enumerate(message.calls)}
    return out + sorted(run, key=lambda result: place.get(result.answers or "", 0))


async def _last_calls(svc: Services, turn: Turn, session: Session, current: Branch) -> Sequence[str]:
    """The ids of the last stored group of calls, read only when a result may answer it."""
    if not any(value["role"] == "tool" for _, value in turn.messages):
        return ()
    every = await sessions.branches(svc.db, turn.scope, session.id)
    last = await entries.last_calls(svc.db, turn.scope, session.id, line_of(every, current))
    return call_ids(last.raw) if last is not None else ()


Lines = dict[int, tuple[Branch, list[entries.Segment]]]
"""The branches that a request may continue, the current one first, each with its line."""


async def _lines(svc: Services, turn: Turn, session: Session, current: Branch, sent: Sequence[Sent]) -> Lines:
    if session.branches == 1:
        return {current.number: (current, line_of({current.number: current}, current))}
    every = await sessions.branches(svc.db, turn.scope, session.id)
    order = sorted(every, key=lambda number: (number != current.number, -number))
    if turn.options.mode != "resend" and not any(message.role in EVIDENCE for message in sent):
        ends = sent[-1].digest if sent else b""
        order = [number for number in order if number == current.number or every[number].end_digest == ends]
    return {number: (every[number], line_of(every, every[number])) for number in order}


def line_of(every: Mapping[int, Branch], branch: Branch) -> list[entries.Segment]:
    """The stretches that a branch's line is made of, newest first."""
    line: list[entries.Segment] = []
    upto = branch.head
    while True:
        if upto > branch.forked_at:
            line.append((branch.number, branch.forked_at + 1, upto))
        upto = min(upto, branch.forked_at)
        if branch.parent is None or upto == 0:
            return line
        branch = every[branch.parent]


def _until(line: Sequence[entries.Segment], seq: int) -> list[entries.Segment]:
    """The part of a line up to and with `seq`."""
    return [(branch, first, min(last, seq)) for branch, first, last in line if first <= seq]


def _from(line: Sequence[entries.Segment], seq: int) -> list[entries.Segment]:
    """The part of a line from `seq` on."""
    return [(branch, max(first, seq), last) for branch, first, last in line if last >= seq]


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
    paths = await _paths(svc, turn, session, lines, sent)
    held = await _held(svc, turn.scope, session, sent) if mode != "resend" else frozenset()
    return reconcile(paths, sent, mode, held.__contains__)


async def _paths(svc: Services, turn: Turn, session: Session, lines: Lines, sent: Sequence[Sent]) -> list[Path]:
    """Each line from where the request's first message stands (from the root for `resend`), or its tail."""
    starts: dict[int, list[int]] = {}
    for branch, seq in await entries.places(svc.db, turn.scope, session.id, sent[0].digest):
        starts.setdefault(branch, []).append(seq)
    paths = []
    for number, (branch, line) in lines.items():
        tail = max(1, branch.head - len(sent) + 1)
        first = min([tail, *_standing(line, starts)])
        part = line
        if turn.options.mode == "resend":
            first, part = 1, _until(line, len(sent) + 1)
        marks, short = await entries.digests(svc.db, turn.scope, session.id, _from(part, first))
        paths.append(Path(number, first, marks, {n: _text_of(raw) for n, raw in short.items()}))
    return paths


def _standing(line: Sequence[entries.Segment], starts: Mapping[int, list[int]]) -> list[int]:
    """The earliest place of the first message on each stretch of a line."""
    found = []
    for branch, first, last in line:
        places = [seq for seq in starts.get(branch, ()) if first <= seq <= last]
        found.extend(places[:1])
    return found


def _text_of(raw: bytes) -> str:
    text = content_of(msgspec.json.decode(raw))
    return text if isinstance(text, str) else ""


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


async def history(svc: Services, turn: Turn, found: Found, tokens: int | None, cut: int) -> History:
    """The newest entries of the line from `cut` on, as many as hold `tokens` (None: all)."""
    if found.session is None or not found.line:
        return History((), 0, 0, False)
    read = await entries.window(svc.db, turn.scope, found.session.id, _from(found.line, cut), tokens)
    first = read[0].seq if read else found.line[0][2] + 1
    before_tokens = read[0].total - read[0].tokens if read else 0
    if any(message.role == "user" for message in found.new) or any(entry.role == "user" for entry in read):
        return History(read, first - 1, before_tokens, False)
    user = await entries.newest_user(svc.db, turn.scope, found.session.id, _until(found.line, first - 1))
    if user is None:
        return History(read, first - 1, before_tokens, False)
    return History([user, *read], first - 2, before_tokens - user.tokens, user.seq != first - 1)


async def tail(svc: Services, turn: Turn, found: Found, most: int) -> list[dict[str, Any]]:
    """The last `most` messages of the line, oldest first, parsed."""
    if found.session is None or not found.line:
        return []
    line = _from(found.line, max(1, found.line[0][2] - most + 1))
    read = await entries.window(svc.db, turn.scope, found.session.id, line, None)
    return [msgspec.json.decode(entry.raw) for entry in read]
