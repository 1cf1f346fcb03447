"""A file -> sessions in the store, one after the other. Which kind of file it is shows in its first line."""

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from proxy.archive import foreign, lines, spool
from proxy.archive.foreign import Making
from proxy.archive.lines import UNREADABLE, AnyLine, BadLine, Numbered
from proxy.archive.rebuild import parts
from proxy.context.tokens import Count
from proxy.errors import BadRequest, Conflict
from proxy.store import archive
from proxy.store.archive import DocPart, EntryPart, MemberPart, Part, SessionPart, Stored, ToolPart
from proxy.store.database import Database
from proxy.types import Scope


class Intake(msgspec.Struct, frozen=True, gc=False):
    """Where sessions go and what they are made with. `name`: of a session that comes without one. `check`: reads a list
    of messages; `cleaned`: makes a JSON object readable that holds halves of characters, or raises BadRequest;
    `counter`: gives the token counter, loading it at first use."""

    db: Database
    scope: Scope
    name: str | None
    check: foreign.Check
    cleaned: Callable[[bytes], bytes]
    counter: Callable[[], Awaitable[Count]]
    new_id: Callable[[], str]
    now: Callable[[], int]


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one session of a file. `members`: who takes part, by kind and UUID. `problem`: why it is not in
    the store, None when it is. `kept`: what was there already, by kind and UUID."""

    uuid: str = ""
    name: str | None = None
    members: Sequence[tuple[str, str]] = ()
    entries: int = 0
    problem: str | None = None
    kept: Sequence[str] = ()


_Held = dict[tuple[str, str], list[Part]]
"""Agents and users of sessions that were not stored, by kind and UUID: they stand in a file once, and sessions after
the first one may need them."""


BOM = b"\xef\xbb\xbf"


class _Ahead:
    """The lines of a file that are not blank, with their numbers, and a look at the next one."""

    def __init__(self, file: Iterable[bytes]) -> None:
        self._lines = ((n, raw) for n, line in enumerate(file, 1) if (raw := _bare(line, n)))
        self.next = next(self._lines, None)

    def take(self) -> Iterator[tuple[int, bytes]]:
        """The next line, if there is one."""
        if self.next is not None:
            found, self.next = self.next, next(self._lines, None)
            yield found


def _bare(line: bytes, number: int) -> bytes:
    return (line.removeprefix(BOM) if number == 1 else line).strip()


class _Conversation(msgspec.Struct, frozen=True):
    """A list of messages or a history. Other keys are left out."""

    messages: msgspec.Raw = msgspec.Raw()
    entries: list[Any] | None = None
    session_id: Any = None
    type: Any = None


_read = msgspec.json.Decoder(_Conversation).decode


async def take(into: Intake, file: Iterable[bytes]) -> AsyncIterator[Outcome]:
    """Each session of the file; one that cannot be stored does not stop the others."""
    ahead = _Ahead(file)
    if ahead.next is None:
        yield Outcome(problem="there is nothing in it")
        return
    if _is_export(ahead.next[1]):
        found = _ours(ahead)
        if into.name is not None:
            yield Outcome(problem="these sessions have names of their own; leave --session out")
            return
    else:
        found = _foreign(ahead, into, await into.counter())
    held: _Held = {}
    for session in found:
        yield await _stored(into, session, held)


def _is_export(first: bytes) -> bool:
    """Whether a file that begins with this line is one of ours, be the line cut off or not."""
    if not _is_json(first):
        return first.startswith(b'{"type"')
    try:
        found = _read(first)
    except UNREADABLE:
        return False
    return not (bytes(found.messages) or found.entries) and found.type is not None


async def _stored(into: Intake, session: Iterable[Numbered], held: _Held) -> Outcome:
    told = Outcome()
    with spool.opened() as checked:
        try:
            for part in parts(session):
                told = _told(told, part)
                spool.add(checked, part)
            wanted = [member for member in told.members if member in held]
            for part in (part for member in wanted for part in held[member]):
                spool.add(checked, part)
            stored: Stored = await archive.store(into.db, into.scope, lambda: spool.parts(checked), into.now())
        except (BadLine, BadRequest, Conflict) as exc:
            held |= _members(spool.parts(checked))
            return msgspec.structs.replace(told, problem=str(exc))
    for member in wanted:
        del held[member]
    problem = None if stored.made else "there is a session of this name or id already; it stays as it is"
    return msgspec.structs.replace(told, problem=problem, kept=stored.kept)


def _told(told: Outcome, part: Part) -> Outcome:
    if isinstance(part, SessionPart):
        members = [*(("agent", uuid) for uuid in part.agents), *(("user", uuid) for uuid in part.users)]
        return Outcome(part.uuid, part.name, members)
    return msgspec.structs.replace(told, entries=told.entries + 1) if isinstance(part, EntryPart) else told


def _members(given: Iterable[Part]) -> _Held:
    """The members among the parts of a session that was not stored, each with what it has; one that nothing follows may
    not be whole."""
    found: _Held = {}
    group: list[Part] = []
    for part in given:
        if isinstance(part, ToolPart | DocPart):
            group.append(part)
            continue
        if group and isinstance(group[0], MemberPart):
            found[group[0].member.kind, group[0].member.uuid] = group
        group = [part]
    return found


def _ours(ahead: _Ahead) -> Iterator[Iterable[Numbered]]:
    """The sessions of an export. What is left of one when its reader has enough is passed over."""
    while ahead.next is not None:
        yield _one_of_ours(ahead)
        while ahead.next is not None and not lines.begins(ahead.next[1]):
            next(ahead.take())


def _one_of_ours(ahead: _Ahead) -> Iterator[Numbered]:
    begun = False
    while ahead.next is not None and not (begun and lines.begins(ahead.next[1])):
        begun = True
        for number, raw in ahead.take():
            yield number, lines.read(number, raw)


def _foreign(ahead: _Ahead, into: Intake, count: Count) -> Iterator[Iterable[Numbered]]:
    """Message lists and histories: one a line, or the whole file is one."""
    first = True
    while ahead.next is not None:
        for number, raw in ahead.take():
            if first and not _is_json(raw):
                raw = b"\n".join([raw, *_rest(ahead)])
            first = False
            yield _converted(number, raw, into, count)


def _rest(ahead: _Ahead) -> Iterator[bytes]:
    while ahead.next is not None:
        for _, raw in ahead.take():
            yield raw


def _is_json(raw: bytes) -> bool:
    """Whether it is a whole JSON text, be it with halves of characters, which only the standard library reads."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except UNREADABLE:
        try:
            json.loads(raw)
        except (ValueError, RecursionError):
            return False
    return True


def _converted(number: int, raw: bytes, into: Intake, count: Count) -> Iterator[Numbered]:
    try:
        found = _conversation(raw, into)
        making = Making(_uuid_of(found) or into.new_id(), into.name, into.now(), into.check, count)
        yield from ((number, line) for line in _lines(found, making))
    except BadRequest as exc:
        raise BadLine(number, exc.message) from None
    except UNREADABLE as exc:
        raise BadLine(number, lines.words(exc)) from None


def _conversation(raw: bytes, into: Intake) -> _Conversation:
    """Raises what a decoder raises."""
    given = b'{"messages":%b}' % raw if raw[:1] == b"[" else raw
    try:
        return _read(given)
    except msgspec.ValidationError:
        raise
    except UNREADABLE as exc:
        try:
            return _read(into.cleaned(given))
        except BadRequest:
            raise exc from None


def _lines(found: _Conversation, making: Making) -> Iterator[AnyLine]:
    if bytes(found.messages):
        return foreign.of_messages(bytes(found.messages), making)
    if found.entries is not None:
        return foreign.of_history(found.entries, making)
    raise BadRequest(
        "it is neither an export of session-proxy, nor a list of messages, nor a history of the Sessions API"
    )


def _uuid_of(found: _Conversation) -> str | None:
    """A history keeps the id of its session."""
    try:
        return str(uuid.UUID(found.session_id)) if isinstance(found.session_id, str) else None
    except ValueError:
        return None
