"""The lines of one session -> what the store keeps of it, checked. Pure, and one line at a time.

What follows from other fields does not stand in a line and is made here: running totals, the ends of branches, and the
digests that messages are recognised by, which another version may make otherwise.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.archive import lines
from proxy.archive.lines import UNREADABLE, AnyLine, BadLine, Numbered, ms, taken
from proxy.context.transcript import call_ids
from proxy.errors import BadRequest
from proxy.recall import chunk
from proxy.reconcile import digest
from proxy.resources import AgentFields, Doc, Member, MemberKind, SessionFields, Tool, UserFields
from proxy.store import facets
from proxy.store.archive import (
    BranchPart,
    DocPart,
    EntryPart,
    InstructionsPart,
    MemberPart,
    Part,
    SessionPart,
    ToolPart,
    TurnPart,
)
from proxy.store.facets import Facet
from proxy.types import ROLES, Message, Status

_any = msgspec.json.Decoder().decode
_object = msgspec.json.Decoder(dict[str, Any]).decode
_texts = msgspec.json.Decoder(list[str]).decode
_items = msgspec.json.Decoder(list[dict[str, Any]]).decode

Calls = tuple[str, ...]
"""The ids of the last group of tool calls, which results answer."""


def parts(numbered: Iterable[Numbered]) -> Iterator[Part]:
    """Raises BadLine for the first line that is wrong, or out of place, or missing at the end."""
    building = _Building()
    number = 0
    for number, line in numbered:
        try:
            yield from building.take(line)
        except BadRequest as exc:
            raise BadLine(number, exc.message) from None
        except UNREADABLE as exc:
            raise BadLine(number, lines.words(exc)) from None
    if not building.ended:
        raise BadLine(number, "the session is not complete: its `end` does not follow; the file was cut off")


@dataclass(slots=True)
class _Track:
    """A branch on its way: where it stands by now. `begun`: its part of the parent has been passed."""

    line: lines.BranchLine
    seq: int
    total: int = 0
    calls: Calls = ()
    end: bytes = b""
    status: Status = "complete"
    last_turn: int = 0
    begun: bool = False


@dataclass(slots=True)
class _Open:
    """The turn that entries belong to."""

    line: lines.TurnLine
    track: _Track
    first: int


STAGES: dict[type, int] = {
    lines.SessionLine: 0,
    lines.ToolLine: 1, lines.DocLine: 1, lines.AgentLine: 1, lines.UserLine: 1,
    lines.InstructionsLine: 2, lines.BranchLine: 3, lines.TurnLine: 4, lines.EntryLine: 4, lines.EndLine: 5,
}  # fmt: skip
"""The order in which lines stand."""


class _Building:
    """One session, line after line."""

    def __init__(self) -> None:
        self.stage = -1
        self.ended = False
        self.session: lines.SessionLine | None = None
        self.owner = ""
        self.instructions: set[int | None] = {None}
        self.turns: set[int] = set()
        self.tracks: dict[int, _Track] = {}
        self.forks: dict[tuple[int, int], tuple[int, Calls] | None] = {}
        """(branch, seq) after which other branches begin -> the running total and the last calls there."""
        self.turn: _Open | None = None

    def take(self, line: AnyLine) -> Iterator[Part]:
        self._in_order(line)
        match line:
            case lines.SessionLine():
                yield self._session(line)
            case lines.AgentLine() | lines.UserLine():
                yield self._member(line)
            case lines.ToolLine() | lines.DocLine():
                yield self._owned(line)
            case lines.InstructionsLine():
                yield self._instructions(line)
            case lines.BranchLine():
                self._branch(line)
            case lines.TurnLine():
                yield from self._closed()
                self._open(line)
            case lines.EntryLine():
                yield self._entry(line)
            case lines.EndLine():
                yield from self._closed()
                yield from self._end(line)

    def _in_order(self, line: AnyLine) -> None:
        kind, stage = str(line.__struct_config__.tag), STAGES[type(line)]
        if self.session is None and stage:
            raise BadRequest(f"a session begins with its `session` line, not with `{kind}`")
        if stage < self.stage or stage == self.stage == 0 or self.ended:
            raise BadRequest(f"`{kind}` is out of place here")
        self.stage = stage

    def _session(self, line: lines.SessionLine) -> Part:
        self.session, self.owner = line, line.uuid
        settings = taken(line.settings)
        fields = msgspec.json.decode(settings, type=SessionFields | None)
        return SessionPart(
            uuid=line.uuid,
            name=line.name,
            token_budget=line.token_budget,
            overflow=line.overflow,
            branch=line.branch,
            branches=line.branches,
            turns=line.turns,
            created_at=ms(line.created_at),
            updated_at=ms(line.updated_at),
            settings=None if fields is None else settings,
            agents=tuple(line.agents),
            users=tuple(line.users),
            facets=() if fields is None else _facets(fields.metadata),
        )

    def _member(self, line: lines.AgentLine | lines.UserLine) -> Part:
        self.owner = line.uuid
        body = taken(line.fields)
        kind: MemberKind = "agent" if isinstance(line, lines.AgentLine) else "user"
        fields = msgspec.json.decode(body, type=AgentFields if kind == "agent" else UserFields)
        member = Member(0, kind, line.uuid, ms(line.created_at), ms(line.updated_at), body)
        return MemberPart(member, _facets(fields.metadata))

    def _owned(self, line: lines.ToolLine | lines.DocLine) -> Part:
        if line.owner != self.owner:
            raise BadRequest(f"its owner is {line.owner}, but it stands below {self.owner}")
        created = ms(line.created_at)
        if isinstance(line, lines.ToolLine):
            body = taken(line.fields)
            if not isinstance(_object(body).get("type"), str):
                raise BadRequest("fields.type must say what kind of tool it is")
            return ToolPart(Tool(0, line.uuid, line.name, created, ms(line.updated_at), body))
        metadata, content = taken(line.metadata), taken(line.content)
        return DocPart(
            Doc(0, line.uuid, created, line.title, metadata, content),
            tuple(chunk.indexed(line.title, _texts(content))),
            _facets(_object(metadata)),
        )

    def _instructions(self, line: lines.InstructionsLine) -> Part:
        if line.number in self.instructions:
            raise BadRequest(f"there are instructions {line.number} already")
        raw = taken(line.messages)
        if not _items(raw):
            raise BadRequest("messages is empty")
        self.instructions.add(line.number)
        return InstructionsPart(line.number, raw[1:-1], line.tokens)

    def _branch(self, line: lines.BranchLine) -> None:
        parent = None if line.parent is None else self.tracks.get(line.parent)
        first = line.parent is None and not self.tracks
        if line.number in self.tracks or not (first or parent):
            raise BadRequest("the first branch has no parent, each other one stands once and after its parent")
        if not line.forked_at <= (line.head if parent is None else min(line.head, parent.line.head)):
            raise BadRequest("a branch begins not after its own end and that of its parent")
        if parent is None and line.forked_at:
            raise BadRequest("the first branch begins at 0")
        self._check_instructions(line.instructions)
        self.tracks[line.number] = _Track(line, line.forked_at)
        if parent is not None:
            self.forks.setdefault(self._fork_of(line), None)

    def _fork_of(self, line: lines.BranchLine) -> tuple[int, int]:
        """The own entry of a branch after which this one begins; seq 0 for the beginning."""
        above = line
        while above.parent is not None and above.forked_at >= line.forked_at:
            above = self.tracks[above.parent].line
        return above.number, line.forked_at

    def _begin(self, track: _Track) -> None:
        """Takes over total and calls from where the branch begins."""
        track.begun = True
        if track.line.forked_at:
            state = self.forks[self._fork_of(track.line)]
            if state is None:
                raise BadRequest(f"branch {track.line.number} stands before the entries that it begins after")
            track.total, track.calls = state

    def _check_instructions(self, number: int | None) -> None:
        if number not in self.instructions:
            raise BadRequest(f"there are no instructions {number}")

    def _open(self, line: lines.TurnLine) -> None:
        track = self.tracks.get(line.branch)
        if track is None:
            raise BadRequest(f"there is no branch {line.branch}")
        if line.number in self.turns:
            raise BadRequest(f"there is a turn {line.number} already")
        self._check_instructions(line.instructions)
        _object(taken(line.ledger))
        _any(taken(line.usage))
        if line.choices != lines.NULL:
            _check_choices(_items(taken(line.choices)))
        if not track.begun:
            self._begin(track)
        self.turns.add(line.number)
        self.turn = _Open(line, track, track.seq + 1)

    def _closed(self) -> Iterator[Part]:
        """The turn before this line, if there is one."""
        if self.turn is None:
            return
        line, track, first = self.turn.line, self.turn.track, self.turn.first
        if track.seq < first:
            raise BadRequest(f"turn {line.number}, before this line, has no entries")
        self.turn = None
        usage = taken(line.usage)
        yield TurnPart(
            line.number, line.branch, first, track.seq, line.status, line.model, line.instructions, line.request_id,
            taken(line.ledger), None if usage == b"null" and bytes(line.usage) == usage else usage, ms(line.created_at),
            None if line.choices == lines.NULL else taken(line.choices),
        )  # fmt: skip

    def _entry(self, line: lines.EntryLine) -> Part:
        if self.turn is None or line.turn != self.turn.line.number:
            raise BadRequest(f"an entry stands below its turn, {line.turn}")
        track = self.turn.track
        if line.seq != track.seq + 1 or line.seq > track.line.head:
            raise BadRequest(
                f"seq is {line.seq}; branch {track.line.number} is at {track.seq} and ends at {track.line.head}"
            )
        message, track.calls = marked(taken(line.message), track.calls)
        said_at = None if line.said_at is None else ms(line.said_at)
        message = msgspec.structs.replace(message, tokens=line.tokens, status=line.status, said_at=said_at)
        track.seq, track.total = line.seq, track.total + line.tokens
        track.end, track.status, track.last_turn = message.digest, line.status, line.turn
        if (track.line.number, line.seq) in self.forks:
            self.forks[track.line.number, line.seq] = track.total, track.calls
        return EntryPart(track.line.number, line.seq, line.turn, track.total, message)

    def _end(self, line: lines.EndLine) -> Iterator[Part]:
        session = self.session
        if session is None or line.uuid != session.uuid:
            raise BadRequest("this is the end of another session")
        if session.branch not in self.tracks:
            raise BadRequest(f"the session's branch {session.branch} is missing")
        if session.branches < max(self.tracks) or session.turns < max(self.turns, default=0):
            raise BadRequest("the session has fewer branches or turns than stand here")
        for track in self.tracks.values():
            if not track.begun:
                self._begin(track)
            if track.seq < track.line.head:
                raise BadRequest(f"branch {track.line.number} ends at {track.line.head}, its entries at {track.seq}")
            own = track.line
            yield BranchPart(
                own.number, own.parent, own.forked_at, own.head, track.total, track.end, track.status, track.last_turn,
                own.cut, own.cut_key, own.instructions, ms(own.created_at),
            )  # fmt: skip
        self.ended = True


def marked(raw: bytes, calls: Calls) -> tuple[Message, Calls]:
    """The message with its digest, no tokens counted yet, and the calls that results behind it answer. Raises
    BadRequest for what cannot be sent to a model again."""
    value = _object(raw)
    _check(value)
    role = value["role"]
    if role == "tool":
        answered = value["tool_call_id"]
        position = calls.index(answered) if answered in calls else 0
        return Message(role, raw, digest(value, position), 0), calls
    made = call_ids(raw) if value.get("tool_calls") else ()
    return Message(role, raw, digest(value), 0, len(made)), made or calls


def _check(value: dict[str, Any]) -> None:
    content, calls = value.get("content"), value.get("tool_calls")
    if value.get("role") not in ROLES:
        raise BadRequest(f"message.role must be one of {', '.join(ROLES)}")
    if value["role"] == "tool" and not isinstance(value.get("tool_call_id"), str):
        raise BadRequest("message.tool_call_id must name the call it answers")
    if not isinstance(content, str | list | None):
        raise BadRequest("message.content must be a string or a list of parts")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") == "text" and not isinstance(part.get("text"), str):
            raise BadRequest("message.content: the text of a part must be a string")
    if not isinstance(calls, list | None):
        raise BadRequest("message.tool_calls must be a list of tool calls")


def _check_choices(choices: list[dict[str, Any]]) -> None:
    if not choices or "message" in choices[0] or not all(isinstance(one.get("message"), dict) for one in choices[1:]):
        raise BadRequest("choices must be a list of objects, all but the first with a message")


def _facets(metadata: dict[str, Any]) -> tuple[Facet, ...]:
    return tuple(facets.of_metadata(metadata))
