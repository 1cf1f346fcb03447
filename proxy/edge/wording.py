"""What /openapi.json says that no type holds: headings, what fields are for, bodies to begin with."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from proxy.edge.julep import branch_shapes, chat_shapes, doc_shapes, file_shapes, shapes

ABOUT = (
    "Sessions, agents, users, documents and tools for any OpenAI-compatible model server, under `/` and under `/api`, "
    "and the OpenAI API itself under `/v1`. Fields that an operation does not know are ignored. Lists are "
    '`{"items": [...]}`, but that of files. Ids are UUIDs; a session may also be called by the name that a client gave '
    "it. What is unknown and what belongs to somebody else are the same 404."
)
KEY = (
    "A key of `session-proxy keys create`, or in passthrough mode the model server's. In open mode, on this machine "
    "alone, none is asked for."
)

CONVERSATIONS = ("Conversations", "What was said: read, taken along, added to, forgotten.")
TURNS = ("Turns", "A message of a user and the model's answer to it, with the history and what was recalled.")
TAGS = {
    "agents": ("Agents", "Who answers: instructions, a model and its settings, documents and tools of its own."),
    "users": ("Users", "Who asks. What is known of a user can stand in the agent's instructions."),
    "sessions": ("Sessions", "A conversation with its settings: agents, users, a situation, a token budget."),
    "chat": TURNS,
    "turns": TURNS,
    "branches": ("Branches", "Lines of a conversation that part after a turn: begun, taken back, deleted."),
    "history": CONVERSATIONS,
    "export": CONVERSATIONS,
    "tools": ("Tools", "What a model may call."),
    "docs": ("Documents", "What agents, users and sessions can look up."),
    "embed": ("Embeddings", "Texts as vectors, by the embedder that is configured."),
    "files": ("Files", "Bytes that are kept and given back."),
    "jobs": ("Jobs", "Julep's way to ask whether something is done; here it is, once it has an id."),
}
"""The module that an operation's handler stands in -> what the operation is listed under."""

IDLE = "Kept, and without effect in this version."
WORDS = "Kept, and without effect in this version, which searches by words."

FIELDS = {
    "about": "Stands in the system message, where the template says so.",
    "agent": "The agent by whom the session is answered.",
    "agent_id": "The same as `agent`.",
    "agents": "The agents, where there are several: the first one answers unless a request names another.",
    "alpha": WORDS,
    "auto_run_tools": IDLE,
    "before": "Only messages from before this time.",
    "canonical_name": "A name for URLs; made of `name` when it is not given.",
    "confidence": WORDS,
    "content": "A text, or parts of one.",
    "context_overflow": "What happens when the history does not fit the budget; null: an error.",
    "default_settings": "Model parameters for what a request leaves open.",
    "default_system_template": "The system message as a Jinja template; a session's own comes before it.",
    "delete_all": "Whether all go.",
    "distance": "The less, the better it fits: 0 to 1.",
    "docs": "What was recalled for this.",
    "finish_reason": "Why the answer ended.",
    "forward_tool_calls": IDLE,
    "include_embeddings": WORDS,
    "instructions": "What the agent keeps to; stands in the system message.",
    "jobs": "Always empty: nothing is left to be done.",
    "lang": WORDS,
    "k_multiplier": WORDS,
    "ledger": "What the context is made of, in tokens.",
    "max_query_length": "How much of the newest messages is searched for, in characters.",
    "max_tokens": "The longest answer; this much of the budget is kept free.",
    "metadata": "Anything of yours. Lists can be filtered by its values.",
    "metadata_filter": "Values that the metadata must have.",
    "mmr_strength": WORDS,
    "mode": "Which search; in this version each mode searches by words.",
    "name": "What it is called.",
    "num_search_messages": "How many of the newest messages are searched for.",
    "project": IDLE,
    "recall": "Whether documents and, under `adaptive`, old turns are searched for the turn.",
    "recall_options": "How documents are searched.",
    "recall_tools": "Whether stored tool calls and their results are sent along.",
    "remember": IDLE,
    "render_templates": "Whether system messages of a request are rendered as templates.",
    "save": "Whether the turn is stored.",
    "settings": "Model parameters in an object of their own; those beside it win.",
    "situation": "What the conversation is about; stands in the system message.",
    "status": "`complete`, or `incomplete` where the client left or the stream broke.",
    "stream": "Whether the answer comes event by event.",
    "system_template": "The system message as a Jinja template.",
    "text": "What is looked for.",
    "time": "Seconds that it took.",
    "token_budget": "Tokens for everything that is sent to the model.",
    "tool_call_id": "The call that this is the result of.",
    "tool_calls": "The calls that the model made.",
    "tools": "Tools beside those that are stored.",
    "trigram_similarity_threshold": WORDS,
    "user": "The user whom the session is with.",
    "user_id": "The same as `user`.",
    "users": "The users, where there are several.",
}
"""What a field is for, wherever it stands: one word has one meaning. A type's own description comes before it."""

EXAMPLES: Mapping[type[Struct], dict[str, Any]] = {
    shapes.CreateAgent: {
        "name": "Ada",
        "about": "a support agent of a small shop",
        "model": "gpt-4o-mini",
        "instructions": ["Be brief."],
        "default_settings": {"temperature": 0.3},
    },
    shapes.ChangeAgent: {"instructions": ["Be brief.", "Never guess."]},
    shapes.ChangeUser: {"name": "Bob", "about": "a customer", "metadata": {"plan": "pro"}},
    shapes.CreateSession: {
        "agent": "0199d7a2-5c1e-7c3a-9d0b-3f6f6a1f2b4c",
        "situation": "Bob asks about a refund.",
        "token_budget": 8000,
        "context_overflow": "truncate",
    },
    shapes.ChangeSession: {"situation": "The refund is on its way.", "metadata": {"case": 7}},
    chat_shapes.Chat: {"messages": [{"role": "user", "content": "When do you ship to France?"}], "max_tokens": 200},
    chat_shapes.CreateMessage: {"role": "user", "content": "I called yesterday."},
    branch_shapes.Fork: {"at": 3},
    shapes.CreateTool: {
        "name": "clock",
        "description": "The time in a city",
        "function": {"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    },
    shapes.ChangeTool: {"description": "The local time in a city"},
    doc_shapes.CreateDoc: {
        "title": "Shipping",
        "content": ["We ship to France within 3 days.", "Returns are free."],
        "metadata": {"kind": "policy"},
    },
    doc_shapes.DeleteDocs: {"metadata_filter": {"kind": "policy"}},
    doc_shapes.Search: {"text": "shipping to France", "limit": 5},
    file_shapes.CreateFile: {"name": "hello.txt", "mime_type": "text/plain", "content": "aGVsbG8="},
    file_shapes.Embed: {"text": ["Do you ship to France?", "When do you open?"]},
}
"""A body to begin with, by the type that reads it."""
