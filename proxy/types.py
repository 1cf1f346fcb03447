"""The product's nouns. A leaf: frozen data, no behaviour that needs anything else.

Intentional: msgspec structs where a turn makes many; a frozen dataclass costs ten times as much to make.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

Overflow = Literal["adaptive", "summarize", "truncate", "null"]
Mode = Literal["auto", "append", "resend", "observe", "continue"]
"""`continue`: as `auto`, but never a branch: the Sessions API's."""
Status = Literal["complete", "incomplete"]
Placement = Literal["last_user", "message", "system"]
"""Where recalled text goes: into the last user message, into a message of its own before that one, or behind the
system messages."""

ROOT_BRANCH = 1

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
INSTRUCTIONS = ("system", "developer")
"""Roles whose messages, at the head of a request, are the session's standing instructions."""


Line = tuple[int | str, str]
"""What turns queue under: the tenant (by its name where it may not exist yet) and the session's name."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Who asks: the tenant that every query is bound to, and the key that goes upstream in `passthrough` mode.

    A tenant that does not exist yet has a negative number of its own, which no row has, and its `name`: it is made with
    its first turn, so that a key which the upstream refuses leaves nothing.
    """

    tenant: int
    role: str = "user"
    name: str = ""
    """Of a tenant in `passthrough` mode: the hash of its key."""
    credential: bytes | None = field(default=None, repr=False)

    def line(self, session: str) -> Line:
        return (self.name or self.tenant, session)


class Options(msgspec.Struct, frozen=True, gc=False):
    """What a request may set for its session turn, from the body's `session` object or X-Session-* headers."""

    mode: Mode = "auto"
    save: bool = True
    token_budget: int | None = None
    overflow: Overflow | None = None
    """None: the session's, else the configuration's."""
    agent: str | None = None
    """The UUID of the agent that answers; None: the first one of the session."""
    recall: bool | None = None
    """Whether documents and old turns are searched; None: as the session says."""
    recall_tools: bool = True
    """Whether tool calls and their results are sent along with the history."""
    fork: int | None = None
    """The turn after which this one starts a branch; 0: at the beginning."""
    branch: int | None = None
    """The branch that this turn continues; None: the current one."""
    metadata: dict[str, Any] = {}
    """What the templates of this turn know as `metadata`."""


class Sent(msgspec.Struct, frozen=True, gc=False):
    """One message of a request, read once.

    `raw` is its JSON as it came, `value` the same parsed, `digest` the 16-byte hash of its canonical form
    (reconcile.py), `calls` the ids of the tool calls it makes, `answers` the id of the call it answers.
    """

    role: str
    raw: bytes
    value: dict[str, Any]
    digest: bytes
    calls: tuple[str, ...] = ()
    answers: str | None = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message on its way into the store: what was sent or generated, with its price in raw tokens."""

    role: str
    raw: bytes
    digest: bytes
    tokens: int
    calls: int = 0
    status: Status = "complete"
    said_at: int | None = None
    """When it was said (epoch ms), where that is not the time of its turn."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stored message at its place: `seq` counts from 1 along a branch, `total` is the running sum of tokens."""

    seq: int
    role: str
    raw: bytes
    tokens: int
    total: int
    calls: int
    turn: int
    status: Status = "complete"


class Carried(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a turn leaves for the next one of its branch, beside the cut.

    `cleared`: results of tool calls before this seq are forwarded as a marker. `prefix`: the raw tokens of what was
    sent that the next turn can begin with, if it sends the same head (`head_key`: model, tools, system messages; of
    `head` tokens) and the same history (`prefix_key`); `whole`: the same for one that sends the recalled text again.
    `drift`: what `model`'s upstream counted, over what was expected; `factor`: what a raw token was expected to count.
    `ceiling`: the budget that it took after it had refused more and named no limit, 0 for none. `media`: whether
    images, sound or files were sent.
    """

    cleared: int = 0
    prefix: int = 0
    prefix_key: str = ""
    head: int = 0
    head_key: str = ""
    drift: float = 1.0
    whole: int = 0
    model: str = ""
    ceiling: int = 0
    media: bool = False
    factor: float = 1.0


class Branch(msgspec.Struct, frozen=True, gc=False):
    """A line of the conversation. It shares the first `forked_at` entries with `parent`; `head` is its last seq.
    `carried`: JSON of Carried, b"" for nothing."""

    number: int
    parent: int | None
    forked_at: int
    head: int
    total: int
    end_digest: bytes
    end_status: Status
    last_turn: int
    cut: int
    cut_key: str
    instructions: int | None
    carried: bytes = b""


class Session(msgspec.Struct, frozen=True, gc=False):
    """A stored session. `name` is what the client called it; None for one made by the Sessions API. `dressed`: it has
    settings, participants, documents or tools."""

    id: int
    uuid: str
    name: str | None
    branch: int
    branches: int
    turns: int
    token_budget: int | None
    overflow: Overflow | None
    dressed: bool = False


class Instructions(msgspec.Struct, frozen=True, gc=False):
    """The standing system and developer messages of a session: JSON messages joined by commas, b"" for none."""

    raw: bytes = b""
    tokens: int = 0
    id: int | None = None
