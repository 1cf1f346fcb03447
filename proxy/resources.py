"""What the Sessions API keeps: agents, users, documents, tools, and the settings of sessions. A leaf: data only."""

from typing import Any, Literal

import msgspec

MemberKind = Literal["agent", "user"]
OwnerKind = Literal["agent", "user", "session"]

Json = dict[str, Any]


class AgentFields(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is set on an agent. `default_settings` fill what a chat request leaves open; its keys are those of chat."""

    name: str
    canonical_name: str | None = None
    project: str | None = None
    about: str = ""
    model: str = ""
    instructions: list[str] = []
    default_settings: Json = {}
    default_system_template: str | None = None
    metadata: Json = {}


class UserFields(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is set on a user."""

    name: str = ""
    project: str | None = None
    about: str = ""
    metadata: Json = {}


class SessionFields(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is set on a session beside its budget and strategy. `recall_options` None: the configured defaults."""

    situation: str | None = None
    system_template: str | None = None
    render_templates: bool = True
    auto_run_tools: bool = False
    forward_tool_calls: bool = False
    recall: bool = True
    recall_options: Json | None = None
    metadata: Json = {}


class Member(msgspec.Struct, frozen=True, gc=False):
    """A stored agent or user; `body` is the JSON of its fields. Times are epoch milliseconds."""

    id: int
    kind: MemberKind
    uuid: str
    created_at: int
    updated_at: int
    body: bytes


class Owner(msgspec.Struct, frozen=True, gc=False):
    """Whose a document or a tool is: the number of an agent, a user or a session, and its UUID."""

    kind: OwnerKind
    id: int
    uuid: str

    @property
    def word(self) -> str:
        """The one word that stands for the owner in the index of words."""
        return f"{self.kind[0]}{self.id}"


class Doc(msgspec.Struct, frozen=True, gc=False):
    """A stored document. `content`: its texts as they were given, as a JSON list; `metadata`: JSON."""

    id: int
    uuid: str
    created_at: int
    title: str
    metadata: bytes
    content: bytes


class Hit(msgspec.Struct, frozen=True, gc=False):
    """A piece of a document that a search found: its place in the document, its text, and how well it fits (more is
    better)."""

    doc: str
    title: str
    owner: Owner
    metadata: bytes
    place: int
    text: str
    score: float


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A stored tool; `body` is its JSON: type, description and what its type asks for."""

    id: int
    uuid: str
    name: str
    created_at: int
    updated_at: int
    body: bytes


class Settings(msgspec.Struct, frozen=True, gc=False):
    """A session as the Sessions API shows it. Times are epoch milliseconds; agents and users are UUIDs, in the order
    in which they were added."""

    id: int
    uuid: str
    name: str | None
    token_budget: int | None
    overflow: str | None
    created_at: int
    updated_at: int
    fields: SessionFields
    agents: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


class Agent(msgspec.Struct, frozen=True, gc=False):
    """An agent that takes part in a session."""

    id: int
    uuid: str
    fields: AgentFields


class User(msgspec.Struct, frozen=True, gc=False):
    """A user who takes part in a session."""

    id: int
    uuid: str
    fields: UserFields


class Profile(msgspec.Struct, frozen=True, gc=False):
    """What is set on a session, for one turn of it. `active`: the agent that answers; `tools`: the session's, then the
    active agent's; `owners`: whose documents are searched."""

    session: str
    fields: SessionFields
    agents: tuple[Agent, ...]
    users: tuple[User, ...]
    active: Agent | None
    tools: tuple[Tool, ...]
    owners: tuple[Owner, ...]


class Page(msgspec.Struct, frozen=True, gc=False):
    """Which part of a list is asked for. `after`: time and number of the thing that it begins behind."""

    limit: int = 100
    offset: int = 0
    sort_by: Literal["created_at", "updated_at"] = "created_at"
    direction: Literal["asc", "desc"] = "desc"
    after: tuple[int, int] | None = None
