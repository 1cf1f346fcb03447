"""Turns and conversations, as the Sessions API takes and gives them."""

from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from proxy.edge.julep.doc_shapes import DocReference
from proxy.edge.julep.shapes import ChatSettings, Finish, Id, Json, Offset, Overflow, Plain, Time, When


class ChatMessage(Plain, kw_only=True, frozen=True):
    """A message. Its other fields reach the upstream as they are."""

    role: Literal["user", "assistant", "system", "developer", "tool"]
    content: str | list[str | Json] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Json] | None = None


class Chat(ChatSettings, kw_only=True, frozen=True):
    """A turn. Parameters of the model that are not named here reach the upstream unchanged; `settings` may hold
    parameters too, those beside it win."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    stream: bool = False
    recall: bool | None = None
    save: bool = True
    remember: bool = False
    recall_tools: bool = True
    auto_run_tools: bool = False
    agent: UUID | None = None
    agent_id: UUID | None = None
    metadata: Json | None = None
    settings: ChatSettings | None = None
    token_budget: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    context_overflow: Overflow | UnsetType | None = UNSET


class Usage(Plain, kw_only=True, frozen=True):
    """Tokens of a model call, as the upstream counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class ReplyMessage(Plain, kw_only=True, frozen=True):
    """The message that a model generated."""

    id: Id
    created_at: Time
    role: str
    content: str | list[Any] | None
    name: str | None
    tool_call_id: str | None
    tool_calls: list[Json] | None


class Choice(Plain, kw_only=True, frozen=True):
    """One answer."""

    index: int
    finish_reason: Finish
    logprobs: Json | None
    tool_calls: list[Json] | None
    message: ReplyMessage


class ChatResponse(Plain, kw_only=True, frozen=True):
    """The whole answer."""

    id: Id
    created_at: Time
    jobs: list[str]
    docs: list[DocReference]
    usage: Usage
    choices: list[Choice]


class Delta(Plain, kw_only=True, frozen=True, omit_defaults=True):
    """What a chunk adds to the answer."""

    role: str
    content: str | list[Any] | None
    name: str | None = None
    tool_calls: list[Json] | None = None


class ChunkChoice(Plain, kw_only=True, frozen=True):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    finish_reason: Finish | None
    logprobs: Json | None = None
    tool_calls: list[Json] | None = None


class ChatChunk(Plain, kw_only=True, frozen=True):
    """One event of a streamed answer."""

    id: Id
    created_at: Time
    docs: list[DocReference]
    jobs: list[str]
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Rendered(Plain, kw_only=True, frozen=True):
    """What a turn would send, and why. `body` is exactly the upstream's body; nothing is sent or stored."""

    messages: list[Json]
    tools: list[Json]
    tool_choice: str | Json | None
    docs: list[DocReference]
    body: Json
    ledger: Json


class Ranged(Plain, kw_only=True, frozen=True):
    """Which messages: without `before`, `offset` counts from the oldest; with it, from the newest one before it. The
    entry of a summary is not counted."""

    MOST: ClassVar[int] = 1000
    limit: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    offset: Offset = 0
    before: Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | UnsetType = UNSET


Source = Literal["api_request", "api_response", "tool_request", "tool_response", "summarizer"]


class Entry(Plain, kw_only=True, frozen=True):
    """A message of the history as Julep shows it."""

    id: Id
    session_id: Id
    created_at: Time
    timestamp: float
    role: str
    name: str | None
    content: Any
    source: Source
    tokenizer: str
    token_count: int
    model: str
    tool_calls: list[Json] | None
    tool_call_id: str | None
    status: str


class Relation(Plain, kw_only=True, frozen=True):
    """What one entry is to another: `summary_of`, from a summary to each shown entry that it covers."""

    head: str
    relation: str
    tail: str


class History(Plain, kw_only=True, frozen=True):
    """A conversation, oldest message first."""

    session_id: Id
    created_at: Time
    entries: list[Entry]
    relations: list[Relation]


class MessageListing(Plain, kw_only=True, frozen=True):
    """The query of the list of messages, oldest first."""

    MOST: ClassVar[int] = 1000
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    offset: Offset = 0


class CreateMessage(ChatMessage, kw_only=True, frozen=True):
    """A message to store without calling a model. `created_at`: when it was said, if that is not now."""

    created_at: When | None = None


class Message(Plain, kw_only=True, frozen=True):
    """A stored message, its content as it was sent or generated."""

    id: Id
    role: str
    content: Any
    name: str | None
    tool_calls: list[Json] | None
    tool_call_id: str | None
    status: str
    created_at: Time


class Messages(Plain, kw_only=True, frozen=True):
    """A page of messages."""

    items: list[Message]
