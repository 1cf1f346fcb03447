"""What the Sessions API takes and gives. /openapi.json is made of these types; unknown fields are ignored."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

Json = dict[str, Any]
Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[datetime, Meta(tz=True)]
When = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]
"""A time as clients give it: one without a zone is UTC."""
Limit = Annotated[int, Meta(ge=1, le=100, description="How many items at the most.")]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1, description="How many items to skip.")]
FILTERING = (
    "Values that the metadata must have: a JSON object, or `metadata_filter.<path>=<value>` any number of times."
)
Filter = Annotated[Json, Meta(description=FILTERING)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
Long = Annotated[str, Meta(max_length=16_000)]
Canonical = Annotated[str, Meta(pattern=r"^[a-zA-Z][a-zA-Z0-9_]*$(?!\n)", max_length=255)]
Model = Annotated[str, Meta(max_length=120)]
ToolName = Annotated[str, Meta(pattern=r"^[^\W0-9]\w*$(?!\n)", max_length=64)]
ToolType = Literal[
    "function", "integration", "system", "api_call", "mcp", "computer_20241022", "text_editor_20241022", "bash_20241022"
]
SessionName = Annotated[str, Meta(pattern=r"^[ -~]+$(?!\n)", min_length=1, max_length=256)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
UpToTwo = Annotated[float, Meta(ge=0, le=2)]
UpToOne = Annotated[float, Meta(ge=0, le=1)]
Budget = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": 100_000_000})]
"""Checked where a session is, since Julep answers 400."""
Overflow = Literal["truncate", "adaptive", "summarize"]
Finish = Literal["stop", "length", "content_filter", "tool_calls"]


class Plain(Struct, frozen=True, kw_only=True):
    """What all shapes share: frozen, given by keyword."""


class Listing(Plain, kw_only=True, frozen=True):
    """The query of a list."""

    limit: Limit = 100
    offset: Offset = 0
    sort_by: Literal["created_at", "updated_at"] = "created_at"
    direction: Literal["asc", "desc"] = "desc"
    metadata_filter: Filter = {}


class SessionListing(Listing, kw_only=True, frozen=True):
    """The query of the list of sessions."""

    agent_id: str | None = None
    user_id: str | None = None
    agent: str | None = None
    user: str | None = None
    name: str | None = None


class Deleted(Plain, kw_only=True, frozen=True):
    """What a deletion answers."""

    id: Id
    deleted_at: Time
    jobs: list[str] = []


class ChatSettings(Plain, kw_only=True, frozen=True):
    """Parameters of a model call. All others that a request brings reach the upstream unchanged."""

    model: Model | UnsetType | None = UNSET
    temperature: Annotated[float, Meta(ge=0, le=5)] | UnsetType | None = UNSET
    top_p: UpToOne | UnsetType | None = UNSET
    min_p: UpToOne | UnsetType | None = UNSET
    frequency_penalty: Penalty | UnsetType | None = UNSET
    presence_penalty: Penalty | UnsetType | None = UNSET
    repetition_penalty: UpToTwo | UnsetType | None = UNSET
    length_penalty: UpToTwo | UnsetType | None = UNSET
    max_tokens: Annotated[int, Meta(ge=1)] | UnsetType | None = UNSET
    seed: Annotated[int, Meta(ge=-1, le=1000)] | UnsetType | None = UNSET
    stop: Annotated[list[str], Meta(max_length=4)] | str | UnsetType | None = UNSET
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | UnsetType | None = UNSET
    response_format: Json | UnsetType | None = UNSET


class CreateTool(Plain, kw_only=True, frozen=True):
    """A tool. What its `type` asks for stands under the key of that name."""

    name: ToolName
    type: ToolType = "function"
    description: Long | None = None
    function: Json | None = None
    integration: Json | None = None
    system: Json | None = None
    api_call: Json | None = None
    mcp: Json | None = None
    computer_20241022: Json | None = None
    text_editor_20241022: Json | None = None
    bash_20241022: Json | None = None


class ChangeTool(Plain, kw_only=True, frozen=True):
    """What changes of a tool."""

    name: ToolName | None = None
    type: ToolType | None = None
    description: Long | None = None
    function: Json | None = None
    integration: Json | None = None
    system: Json | None = None
    api_call: Json | None = None
    mcp: Json | None = None
    computer_20241022: Json | None = None
    text_editor_20241022: Json | None = None
    bash_20241022: Json | None = None


class Tool(CreateTool, kw_only=True, frozen=True):
    """A stored tool."""

    id: Id
    created_at: Time
    updated_at: Time


class Tools(Plain, kw_only=True, frozen=True):
    """A page of tools."""

    items: list[Tool]


class ChangeAgent(Plain, kw_only=True, frozen=True):
    """What changes of an agent."""

    name: Name | UnsetType | None = UNSET
    canonical_name: Canonical | UnsetType | None = UNSET
    project: Canonical | UnsetType | None = UNSET
    about: Long | UnsetType | None = UNSET
    model: Model | UnsetType | None = UNSET
    instructions: str | list[str] | UnsetType | None = UNSET
    default_settings: ChatSettings | UnsetType | None = UNSET
    default_system_template: str | UnsetType | None = UNSET
    metadata: Json | UnsetType | None = UNSET


class CreateAgent(ChangeAgent, kw_only=True, frozen=True):
    """A new agent."""

    name: Name
    tools: Annotated[list[CreateTool], Meta(max_length=128)] = []


class Agent(Plain, kw_only=True, frozen=True):
    """A stored agent."""

    id: Id
    created_at: Time
    updated_at: Time
    name: str
    canonical_name: str | None
    project: str | None
    about: str
    model: str
    instructions: list[str]
    default_settings: Json
    default_system_template: str | None
    metadata: Json


class Agents(Plain, kw_only=True, frozen=True):
    """A page of agents."""

    items: list[Agent]


class ChangeUser(Plain, kw_only=True, frozen=True):
    """What changes of a user, and a new one."""

    name: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    project: Canonical | UnsetType | None = UNSET
    about: Long | UnsetType | None = UNSET
    metadata: Json | UnsetType | None = UNSET


class User(Plain, kw_only=True, frozen=True):
    """A stored user."""

    id: Id
    created_at: Time
    updated_at: Time
    name: str
    project: str | None
    about: str
    metadata: Json


class Users(Plain, kw_only=True, frozen=True):
    """A page of users."""

    items: list[User]


class RecallOptions(Plain, kw_only=True, frozen=True):
    """How documents are searched for a turn. Without `mode` the other fields tell it: `alpha` is hybrid,
    `trigram_similarity_threshold` text, else vector."""

    mode: Literal["vector", "text", "hybrid"] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=50)] | UnsetType = UNSET
    lang: Annotated[str, Meta(max_length=35)] | UnsetType = UNSET
    metadata_filter: Json | UnsetType = UNSET
    num_search_messages: Annotated[int, Meta(ge=1, le=50)] | UnsetType = UNSET
    max_query_length: Annotated[int, Meta(ge=100, le=10_000)] | UnsetType = UNSET
    include_embeddings: bool | UnsetType = UNSET
    confidence: Annotated[float, Meta(ge=-1, le=1)] | UnsetType = UNSET
    alpha: UpToOne | UnsetType = UNSET
    mmr_strength: Annotated[float, Meta(ge=0, lt=1)] | UnsetType = UNSET
    trigram_similarity_threshold: UpToOne | UnsetType | None = UNSET
    k_multiplier: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class ChangeSession(Plain, kw_only=True, frozen=True):
    """What changes of a session."""

    situation: str | UnsetType | None = UNSET
    system_template: str | UnsetType | None = UNSET
    render_templates: bool | UnsetType | None = UNSET
    token_budget: Budget | UnsetType | None = UNSET
    context_overflow: Overflow | UnsetType | None = UNSET
    auto_run_tools: bool | UnsetType | None = UNSET
    forward_tool_calls: bool | UnsetType | None = UNSET
    recall: bool | UnsetType | None = UNSET
    recall_options: RecallOptions | UnsetType | None = UNSET
    metadata: Json | UnsetType | None = UNSET


Several = Annotated[list[UUID], Meta(max_length=100)]


class CreateSession(ChangeSession, kw_only=True, frozen=True):
    """A new session: with one agent or several, and any number of users."""

    agent: UUID | None = None
    agent_id: UUID | None = None
    agents: Several | None = None
    user: UUID | None = None
    user_id: UUID | None = None
    users: Several | None = None
    name: SessionName | None = None


class Session(Plain, kw_only=True, frozen=True):
    """A stored session."""

    id: Id
    created_at: Time
    updated_at: Time
    name: str | None
    agent: Id | None
    agents: list[Id]
    user: Id | None
    users: list[Id]
    situation: str | None
    system_template: str | None
    summary: str | None
    render_templates: bool
    token_budget: int | None
    context_overflow: Overflow | None
    auto_run_tools: bool
    forward_tool_calls: bool
    recall: bool
    recall_options: Json | None
    metadata: Json
    kind: str | None = None


class Sessions(Plain, kw_only=True, frozen=True):
    """A page of sessions."""

    items: list[Session]


class ModelItem(Plain, kw_only=True, frozen=True):
    """A model that an agent may have."""

    id: str


class Models(Plain, kw_only=True, frozen=True):
    """The models that the upstreams serve."""

    models: list[ModelItem]


class Detail(Plain, kw_only=True, frozen=True):
    """One thing that is wrong with a request, as FastAPI tells it."""

    loc: list[str | int]
    msg: str
    type: str


class ErrorBody(Plain, kw_only=True, frozen=True):
    """What went wrong."""

    message: str
    code: str | None
    type: str
    details: list[Detail] | None


class Error(Plain, kw_only=True, frozen=True):
    """The answer to a request that failed. `detail` only with status 422."""

    error: ErrorBody
    detail: list[Detail] | UnsetType = UNSET
