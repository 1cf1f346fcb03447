"""Branches and turns, as the Sessions API takes and gives them."""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from proxy.edge.julep.shapes import Json, Limit, Offset, Plain, Time

Number = Annotated[int, Meta(ge=1)]
Turn = Annotated[int, Meta(ge=0)]
Tokens = Annotated[int, Meta(ge=0)] | None


class Branch(Plain, kw_only=True, frozen=True):
    """A line of the conversation. It shares what was said up to and with the turn `forked_at` with its parent: 0 is the
    beginning, and null stands for the first branch. `turns` were made on it since."""

    id: Number
    parent: Number | None
    forked_at: Turn | None
    turns: Annotated[int, Meta(ge=0)]
    current: bool
    created_at: Time


class Branches(Plain, kw_only=True, frozen=True):
    """A page of branches."""

    items: list[Branch]


class BranchListing(Plain, kw_only=True, frozen=True):
    """The query of the list of branches, in the order in which they were made."""

    MOST: ClassVar[int] = 1000
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many items at the most.")] = 1000
    offset: Offset = 0


class Fork(Plain, kw_only=True, frozen=True):
    """Where a branch begins."""

    at: Annotated[int, Meta(ge=0, description="The turn after which it begins; 0: before the first one.")]


class DeletedBranch(Plain, kw_only=True, frozen=True):
    """What the deletion of a branch answers."""

    id: Number
    deleted_at: Time
    jobs: list[str]


class TurnListing(Plain, kw_only=True, frozen=True):
    """The query of the list of turns."""

    limit: Limit = 100
    offset: Offset = 0
    direction: Literal["asc", "desc"] = "desc"


class TurnTokens(Plain, kw_only=True, frozen=True):
    """What a turn cost. `total` is what was sent as the proxy counts it, `estimate` what the model server was expected
    to count, `prefix` the part that begins as the turn before did; `prompt`, `cached` and `completion` are the model
    server's own counts. Null: not known."""

    total: Tokens
    estimate: Tokens
    budget: Tokens
    prefix: Tokens
    cached: Tokens
    prompt: Tokens
    completion: Tokens


class TurnItem(Plain, kw_only=True, frozen=True):
    """A turn. `messages`: how many it added; `model`: null for a message that was stored without asking one."""

    turn: Number
    branch: Number
    status: str
    model: str | None
    request_id: str
    created_at: Time
    messages: Annotated[int, Meta(ge=1)]
    tokens: TurnTokens
    strategy: str | None


class Turns(Plain, kw_only=True, frozen=True):
    """A page of turns, on all branches."""

    items: list[TurnItem]


class TurnChoice(Plain, kw_only=True, frozen=True):
    """One answer of a turn. `finish_reason`: null where it broke off."""

    index: Annotated[int, Meta(ge=0)]
    message: Json
    logprobs: Any
    finish_reason: str | None


class WholeTurn(TurnItem, kw_only=True, frozen=True):
    """A turn with its answers: all choices of the model, the one that became history first; none for a message that is
    no answer."""

    choices: list[TurnChoice]


class Context(Plain, kw_only=True, frozen=True):
    """The ledger of a turn: what was sent and why, segment by segment; a turn that asked no model has none. `usage` is
    the model server's, `recalled` the text that went up with the turn's user message."""

    turn: Number
    branch: Number
    status: str
    model: str | None
    created_at: Time
    usage: Json | None
    recalled: str | None
    strategy: Any = None
    budget: Any = None
    total: Any = None
    segments: Any = None
