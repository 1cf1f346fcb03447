"""What OpenAI's published description asks of stored completions, as JSON Schema: the keys that are required, and the
types of those that it knows. Everything else is allowed."""

from typing import Any

import jsonschema_rs

Json = dict[str, Any]


def _object(required: str, **properties: Json) -> Json:
    return {"type": "object", "required": required.split(), "properties": properties}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}
BOOLEAN: Json = {"type": "boolean"}


def _one(*values: str) -> Json:
    return {"enum": list(values)}


CALL: Json = {
    "oneOf": [
        _object("id type function", id=TEXT, type=_one("function"),
                function=_object("name arguments", name=TEXT, arguments=TEXT)),
        _object("id type custom", id=TEXT, type=_one("custom"), custom=_object("name input", name=TEXT, input=TEXT)),
    ]
}  # fmt: skip
CITATION = _object(
    "type url_citation",
    type=_one("url_citation"),
    url_citation=_object("end_index start_index url title", end_index=COUNT, start_index=COUNT, url=TEXT, title=TEXT),
)
AUDIO = _object("id expires_at data transcript", id=TEXT, expires_at=COUNT, data=TEXT, transcript=TEXT)
MESSAGE = _object(
    "role content refusal",
    role=_one("assistant"),
    content=_or_null(TEXT),
    refusal=_or_null(TEXT),
    tool_calls=_list(CALL),
    annotations=_list(CITATION),
    function_call=_object("name arguments", name=TEXT, arguments=TEXT),
    audio=_or_null(AUDIO),
)
LIKELY = {"token": TEXT, "logprob": NUMBER, "bytes": _or_null(_list(COUNT))}
TOKEN = _object(
    "token logprob bytes top_logprobs", **LIKELY, top_logprobs=_list(_object("token logprob bytes", **LIKELY))
)
CHOICE = _object(
    "finish_reason index message logprobs",
    finish_reason=_one("stop", "length", "tool_calls", "content_filter", "function_call"),
    index=COUNT,
    message=MESSAGE,
    logprobs=_or_null(
        _object("content refusal", content=_or_null(_list(TOKEN)), refusal=_or_null(_list(TOKEN)))
    ),
)  # fmt: skip
USAGE = _object(
    "prompt_tokens completion_tokens total_tokens", prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT
)
METADATA: Json = {"type": "object", "additionalProperties": TEXT, "maxProperties": 16}
COMPLETION = _object(
    "choices created id model object",
    id=TEXT,
    choices=_list(CHOICE),
    created=COUNT,
    model=TEXT,
    object=_one("chat.completion"),
    service_tier=_or_null(_one("auto", "default", "flex", "scale", "priority", "fast")),
    system_fingerprint=TEXT,
    usage=USAGE,
    metadata=METADATA,
)
PART: Json = {
    "oneOf": [
        _object("type text", type=_one("text"), text=TEXT),
        _object("type image_url", type=_one("image_url"), image_url=_object("url", url=TEXT)),
    ]
}
SAID: Json = {
    **MESSAGE,
    "required": [*MESSAGE["required"], "id"],
    "properties": {
        **MESSAGE["properties"],
        "role": TEXT,  # the description says "assistant", and its example lists a user's message
        "id": TEXT,
        "name": _or_null(TEXT),
        "content_parts": _or_null(_list(PART)),
    },
}


def _page(items: Json) -> Json:
    return _object(
        "object data first_id last_id has_more",
        object=_one("list"), data=_list(items), first_id=TEXT, last_id=TEXT, has_more=BOOLEAN,
    )  # fmt: skip


COMPLETIONS = _page(COMPLETION)
MESSAGES = _page(SAID)
DELETED = _object("object id deleted", object=_one("chat.completion.deleted"), id=TEXT, deleted=BOOLEAN)


def check(schema: Json, value: Any) -> None:
    """Fails with what does not fit, and where."""
    jsonschema_rs.validate(schema, value)
