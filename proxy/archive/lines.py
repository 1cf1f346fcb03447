"""The lines of an export: one JSON object each. What each holds stands in docs/export.md. Pure.

JSON of others (messages, metadata, ledgers) keeps its bytes: it stands in a line as it is, or, where it holds a line
end, as a text. A field here is a field of the format: a change that old files or old versions do not know is another
`VERSION`.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from proxy.types import Overflow, Status

VERSION = 1

Whole = Annotated[int, Meta(ge=0, le=2**53)]
Number = Annotated[int, Meta(ge=1, le=2**53)]
Id = Annotated[str, Meta(min_length=1, max_length=256)]
Name = Annotated[str, Meta(pattern=r"^[ -~]+\Z", max_length=256)]
Time = Annotated[datetime, Meta(tz=True)]

NULL = Raw(b"null")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class BadLine(Exception):
    """A line that cannot be read; nothing of its session is stored."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"line {number}: {problem}")


class Line(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """Any line: its `type` says which."""


class SessionLine(Line, tag="session", frozen=True):
    """A session. All lines up to its `end` are its own."""

    version: Literal[1]
    uuid: Id
    name: Name | None
    created_at: Time
    updated_at: Time
    token_budget: Number | None
    overflow: Overflow | None
    branch: Number
    branches: Number
    turns: Whole
    agents: list[Id]
    users: list[Id]
    settings: Raw


class AgentLine(Line, tag="agent", frozen=True):
    """An agent. Stands in a file once, before the conversation of the first session that it takes part in."""

    uuid: Id
    created_at: Time
    updated_at: Time
    fields: Raw


class UserLine(Line, tag="user", frozen=True):
    """A user, like an agent."""

    uuid: Id
    created_at: Time
    updated_at: Time
    fields: Raw


class ToolLine(Line, tag="tool", frozen=True):
    """A tool of the session, agent or user above it, whose UUID is `owner`."""

    owner: Id
    uuid: Id
    name: str
    created_at: Time
    updated_at: Time
    fields: Raw


class DocLine(Line, tag="doc", frozen=True):
    """A document of the session, agent or user above it, whose UUID is `owner`."""

    owner: Id
    uuid: Id
    title: str
    created_at: Time
    metadata: Raw
    content: Raw


class InstructionsLine(Line, tag="instructions", frozen=True):
    """Standing system and developer messages. Turns and branches refer to their `number`."""

    number: Number
    tokens: Whole
    messages: Raw


class BranchLine(Line, tag="branch", frozen=True):
    """A branch, which shares the entries up to `forked_at` with its parent and ends at `head`."""

    number: Number
    parent: Number | None
    forked_at: Whole
    head: Whole
    cut: Whole
    cut_key: str
    instructions: Number | None
    created_at: Time


class TurnLine(Line, tag="turn", frozen=True):
    """A turn. Its entries follow. `choices`: what they do not tell of its answer."""

    number: Number
    branch: Number
    status: Status
    model: str
    instructions: Number | None
    request_id: str
    created_at: Time
    usage: Raw
    ledger: Raw
    choices: Raw = NULL


class EntryLine(Line, tag="entry", frozen=True):
    """A message. `said_at`: when, if that is not the time of its turn."""

    turn: Number
    seq: Number
    status: Status
    tokens: Whole
    said_at: Time | None
    message: Raw


class EndLine(Line, tag="end", frozen=True):
    """The session with this UUID is complete."""

    uuid: Id


AnyLine = (
    SessionLine | AgentLine | UserLine | ToolLine | DocLine | InstructionsLine | BranchLine | TurnLine | EntryLine
    | EndLine
)  # fmt: skip
Numbered = tuple[int, AnyLine]
"""A line with its number in the file, from 1."""


class _Kind(msgspec.Struct, frozen=True):
    type: str = ""
    version: int = VERSION


_encode = msgspec.json.encode
_kind = msgspec.json.Decoder(_Kind).decode
_line = msgspec.json.Decoder(AnyLine).decode
_text = msgspec.json.Decoder(str).decode

UNREADABLE = (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError)
"""What a decoder raises; a ValidationError is told as it is."""


def written(line: AnyLine) -> bytes:
    """The line with its end."""
    return _encode(line) + b"\n"


def begins(raw: bytes) -> bool:
    """Whether a session begins with this line."""
    try:
        return _kind(raw).type == "session"
    except UNREADABLE:
        return False


def read(number: int, raw: bytes) -> AnyLine:
    """The line. Raises BadLine, which says what is wrong where."""
    try:
        version = _kind(raw).version
        if version != VERSION:
            raise BadLine(
                number, f"its format has version {version}, this session-proxy reads {VERSION}; use a newer one"
            )
        return _line(raw)
    except UNREADABLE as exc:
        raise BadLine(number, words(exc)) from None


def words(exc: Exception) -> str:
    """What a decoder says, as part of a sentence."""
    if isinstance(exc, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    said = str(exc).rstrip(".").replace("`", "'")
    return said[:1].lower() + said[1:] if isinstance(exc, msgspec.ValidationError) else f"it is not JSON ({said})"


def embedded(raw: bytes | None) -> Raw:
    """JSON as part of a line. What is no object or list of one line stands as a text; None as null."""
    if raw is None:
        return NULL
    if b"\n" in raw or b"\r" in raw or raw[:1] not in (b"{", b"[") or raw[-1:] not in (b"}", b"]"):
        return Raw(_encode(raw.decode()))
    return Raw(raw)


def taken(part: Raw) -> bytes:
    """The JSON that stands in a line, byte for byte."""
    raw = bytes(part)
    return _text(raw).encode() if raw[:1] == b'"' else raw


def shown(epoch_ms: int) -> datetime:
    """A time of the store, exact to the millisecond."""
    return _EPOCH + epoch_ms * _MS


def ms(when: datetime) -> int:
    """A time of a line as epoch milliseconds."""
    return (when - _EPOCH) // _MS
