"""Stored completions in /openapi.json: their operations and what those give."""

from typing import Any

from proxy.edge import statuses
from proxy.edge.openai.stored import LIMIT, MOST
from proxy.edge.openai.storing import KEY_LENGTH, PAIRS, VALUE_LENGTH

Json = dict[str, Any]

STYLE = "OpenAI"
TAG: Json = {
    "name": "Stored completions",
    "description": "Answers to chat requests with `store: true`, as OpenAI's API lists them; the proxy keeps them, "
    "whatever the model server can do. Those of a session go with it.",
}
METADATA: Json = {
    "type": "object",
    "description": "Up to 16 texts by name, to find it by.",
    "additionalProperties": {"type": "string", "maxLength": VALUE_LENGTH},
    "propertyNames": {"maxLength": KEY_LENGTH},
    "maxProperties": PAIRS,
}


def _listed(said: str, items: Json) -> Json:
    return {
        "type": "object",
        "description": said,
        "properties": {
            "object": {"enum": ["list"]},
            "data": {"type": "array", "items": items},
            "first_id": {"type": "string", "description": "Empty where there is nothing."},
            "last_id": {"type": "string", "description": "What `after` takes for the next page."},
            "has_more": {"type": "boolean"},
        },
        "required": ["object", "data", "first_id", "last_id", "has_more"],
    }


SCHEMAS: Json = {
    "StoredCompletion": {
        "type": "object",
        "description": "The chat completion as the model server gave it, streamed or not, with all its choices, its "
        "metadata, and parameters of its request such as `temperature` and `tools`.",
        "properties": {
            "id": {"type": "string", "minLength": 1, "description": "As the answer told it."},
            "object": {"enum": ["chat.completion"]},
            "created": {"type": "integer", "description": "Seconds since 1970, as the answer told it."},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object", "required": ["index", "message"]}},
            "metadata": METADATA,
        },
        "required": ["id", "object", "created", "model", "choices", "metadata"],
    },
    "StoredCompletions": _listed("A page of stored completions.", {"$ref": "#/components/schemas/StoredCompletion"}),
    "StoredMessage": {
        "type": "object",
        "description": "A message as it was sent. `content` is its text; a list of parts stands in `content_parts`.",
        "properties": {
            "id": {"type": "string", "description": "The completion's id and the message's place."},
            "role": {"type": "string"},
            "content": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "content_parts": {"anyOf": [{"type": "array"}, {"type": "null"}]},
        },
        "required": ["id", "content", "content_parts", "refusal", "name"],
    },
    "StoredMessages": _listed("A page of messages.", {"$ref": "#/components/schemas/StoredMessage"}),
    "ChangeCompletion": {
        "type": "object",
        "properties": {"metadata": {"anyOf": [METADATA, {"type": "null"}]}},
        "required": ["metadata"],
    },
    "DeletedCompletion": {
        "type": "object",
        "description": "It is gone; the session's conversation stays.",
        "properties": {
            "object": {"enum": ["chat.completion.deleted"]},
            "id": {"type": "string"},
            "deleted": {"enum": [True]},
        },
        "required": ["object", "id", "deleted"],
    },
}


def _query(name: str, said: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "description": said, "schema": schema}


def _operation(name: str, words: tuple[str, str], answer: str, codes: tuple[int, ...], *parameters: Json) -> Json:
    """`words`: summary and description; `codes`: how it can fail beside what every operation can."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    return {
        "operationId": name,
        "tags": [TAG["name"]],
        "summary": words[0],
        "description": words[1],
        "parameters": list(parameters),
        "responses": {
            "200": {"description": words[0], "content": content},
            **statuses.refusals((401, 403, 429, 503, *codes), STYLE),
        },
    }


ID: Json = {
    "name": "completion_id",
    "in": "path",
    "required": True,
    "description": "The id that the answer told.",
    "schema": {"type": "string", "minLength": 1},
}
PAGE: tuple[Json, ...] = (
    _query("limit", "How many.", {"type": "integer", "minimum": 1, "maximum": MOST, "default": LIMIT}),
    _query("after", "The id of the last one of the page before.", {"type": "string"}),
    _query("order", "By the time that the answers tell.", {"enum": ["asc", "desc"], "default": "asc"}),
)
LIST = _operation(
    "stored_completions_list",
    ("List stored completions", "Those of the key that asks, by model and metadata, the oldest first."),
    "StoredCompletions",
    (400, 404),
    _query("model", "As the answer names it, or as it was asked for.", {"type": "string"}),
    {
        **_query("metadata", "`metadata[key]=value`: all of these must be so.", METADATA),
        "style": "deepObject",
        "explode": True,
    },
    *PAGE,
)
GET = _operation(
    "stored_completions_get",
    ("Read a stored completion", "The answer with its metadata."),
    "StoredCompletion",
    (404,),
    ID,
)
CHANGE = {
    **_operation(
        "stored_completions_change",
        ("Replace a stored completion's metadata", "All of it; null for none. Nothing else can be changed."),
        "StoredCompletion",
        (400, 404, 408, 413, 415),
        ID,
    ),
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ChangeCompletion"},
                "example": {"metadata": {"rating": "good"}},
            }
        },
    },
}
DELETE = _operation(
    "stored_completions_delete",
    ("Delete a stored completion", "The answer, its metadata and its messages; what its session remembers stays."),
    "DeletedCompletion",
    (404,),
    ID,
)
MESSAGES = _operation(
    "stored_completions_messages",
    ("List a stored completion's messages", "The messages of its request as the client sent them."),
    "StoredMessages",
    (400, 404),
    ID,
    *PAGE,
)
BELOW: Json = {
    "/v1/chat/completions/{completion_id}": {"get": GET, "post": CHANGE, "delete": DELETE},
    "/v1/chat/completions/{completion_id}/messages": {"get": MESSAGES},
}
