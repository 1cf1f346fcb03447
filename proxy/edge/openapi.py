"""/openapi.json: OpenAPI 3.1, made of the table of operations and of the types that read and write its JSON. Pure."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import msgspec

from proxy import __version__
from proxy.edge import openapi_v1, statuses, wording
from proxy.edge.julep import (
    agents,
    branches,
    chat,
    chat_shapes,
    docs,
    embed,
    files,
    history,
    sessions,
    shapes,
    tools,
    users,
)
from proxy.edge.operation import FILTER, Handler, Lines, Operation
from proxy.edge.published import Publication
from proxy.edge.statuses import PASSED_ON

Json = dict[str, Any]

ALWAYS = (403, 429, 503)
WITH_BODY = (400, 408, 413, 415, 422)
WITH_QUERY = (400, 422)
WITH_PATH = (404,)
ADMITTING = (502, 504)
"""The first thing that a key makes asks the model server about the key."""

FAILURES: Mapping[Handler, tuple[int, ...]] = {
    agents.models: (PASSED_ON, 502, 504),
    chat.chat: (PASSED_ON, 409, 502, 504),
    docs.create: (409,),
    embed.embed: (PASSED_ON, 501, 502, 504),
    **dict.fromkeys((agents.create, agents.put, users.create, users.put, files.create), ADMITTING),
    **dict.fromkeys((sessions.create, sessions.put), (409, *ADMITTING)),
    branches.undo: (409, 422),
    **dict.fromkeys((branches.fork, branches.delete), (409,)),
    **dict.fromkeys((tools.create, tools.patch, tools.replace, history.say, history.clear), (409,)),
}
"""How an operation can fail beside what follows from what it takes."""

NUMBERS = ("branch", "turn")
"""What a path names by its number in the session."""

Refer = Callable[[Any], Json]


def publication(operations: Sequence[Operation]) -> Publication:
    """The document as it is served."""
    return Publication(msgspec.json.encode(document(operations)), {"content-type": "application/json"})


def document(operations: Sequence[Operation]) -> Json:
    """The whole document."""
    types = [operation.body for operation in operations] + [operation.answer for operation in operations]
    used = [kind for kind in dict.fromkeys(types) if kind not in (None, Lines)]
    used += [shapes.Error, chat_shapes.ChatChunk]
    refs, components = msgspec.json.schema_components(used, ref_template="#/components/schemas/{name}")
    refer: Refer = dict(zip(used, refs, strict=True)).__getitem__
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(path_of(operation), {})[operation.method.lower()] = _operation(operation, refer)
    schemas = {name: tidy(schema) for name, schema in components.items()} | {"ChatEvent": _event(refer)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "session-proxy",
            "version": __version__,
            "summary": "An OpenAI-compatible proxy that remembers.",
            "description": wording.ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [*_tags(operations), *openapi_v1.TAGS],
        "paths": paths | openapi_v1.PATHS,
        "components": {
            "schemas": dict(sorted(schemas.items())) | openapi_v1.SCHEMAS,
            "responses": statuses.responses(refer(shapes.Error)) | openapi_v1.RESPONSES,
            "headers": openapi_v1.HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": wording.KEY},
            },
        },
    }


def _tags(operations: Sequence[Operation]) -> list[Json]:
    """In the table's order."""
    found = dict(_tag(operation) for operation in operations)
    return [{"name": name, "description": said} for name, said in found.items()]


def _tag(operation: Operation) -> tuple[str, str]:
    module = operation.call.__module__.rpartition(".")[2]
    return wording.TAGS.get(module, (module.capitalize(), ""))


def path_of(operation: Operation) -> str:
    """The path with its parameters by their whole names: /agents/{id} is /agents/{agent_id}."""
    owner = operation.path.split("/")[1].removesuffix("s")
    path = operation.path.replace("{id}", "{" + owner + "_id}")
    return re.sub(r"{(doc|tool|file)}", r"{\1_id}", path)


def _operation(operation: Operation, refer: Refer) -> Json:
    said = " ".join((inspect.getdoc(operation.call) or "").split())
    out: Json = {
        "operationId": operation_id(operation),
        "tags": [_tag(operation)[0]],
        "summary": re.split(r"[.:;] |\.$", said)[0],
        "description": said,
        "parameters": [
            *_path_parameters(path_of(operation)),
            *_query_parameters(operation.query),
            *_headers(operation),
        ],
        "responses": _answers(operation, refer) | _refusals(operation),
    }
    if operation.body is not None:
        media: Json = {"schema": refer(operation.body)}
        if operation.body in wording.EXAMPLES:
            media["example"] = wording.EXAMPLES[operation.body]
        required = bool(_schema(operation.body).get("required"))
        out["requestBody"] = {"required": required, "content": {"application/json": media}}
    return {key: value for key, value in out.items() if value != []}


def operation_id(operation: Operation) -> str:
    """The fixed parts of the path and the handler's name: agents_docs_create, sessions_chat."""
    words = [part for part in operation.path.strip("/").split("/") if not part.startswith("{")]
    name = inspect.unwrap(operation.call).__name__
    return "_".join(words if words[-1] == name else [*words, name])


def _path_parameters(path: str) -> list[Json]:
    found = []
    for name in re.findall(r"{(\w+)}", path):
        thing = name.removesuffix("_id")
        schema: Json = {"type": "string", "format": "uuid"} if name.endswith("_id") else {"type": "string"}
        said = f"The {thing}'s id."
        if name in NUMBERS:
            schema = {"type": "integer", "minimum": 1}
            said = f"The {thing}'s number."
        if name == "session_id":
            schema = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[ -~]+$"}
            said = "The session's id, or its name."
        found.append({"name": name, "in": "path", "required": True, "description": said, "schema": schema})
    return found


def _query_parameters(shape: Any) -> list[Json]:
    if shape is None:
        return []
    schema = _schema(shape)
    found: list[Json] = []
    for name, field in schema["properties"].items():
        given = _without_null(field)
        said = given.pop("description", None)
        parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if said is not None:
            parameter["description"] = said
        if name == FILTER:
            given.pop("default")
            parameter["content"] = {"application/json": {"schema": given, "example": {"plan": "pro"}}}
        else:
            parameter["schema"] = given
        found.append(parameter)
    return found


def _without_null(field: Json) -> Json:
    """A query string has no null: not given means the same."""
    kept = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {key: value for key, value in field.items() if not (key == "default" and value is None)}
    if len(kept) != 1:
        return rest
    del rest["anyOf"]
    return {**kept[0], **rest}


def _headers(operation: Operation) -> list[Json]:
    if operation.body is not chat_shapes.Chat:
        return []
    return [
        openapi_v1.header(name)
        for name in ("X-Session-Fork", "X-Session-Branch", "Idempotency-Key", "X-Custom-Api-Key")
    ]


def _schema(shape: Any) -> Json:
    """One type's schema by itself."""
    _, components = msgspec.json.schema_components([shape])
    return tidy(components[shape.__name__])


def tidy(schema: Json) -> Json:
    """A type's schema with words for its fields, without what says nothing: its title, which is its name, and that no
    field is required."""
    out = {key: value for key, value in schema.items() if key != "title" and value != []}
    if "properties" in schema:
        out["properties"] = {name: _worded(name, field) for name, field in schema["properties"].items()}
    return out


def _worded(name: str, field: Json) -> Json:
    return field if name not in wording.FIELDS else {"description": wording.FIELDS[name], **field}


def _answers(operation: Operation, refer: Refer) -> Json:
    if operation.answer is Lines:
        content: Json = {"application/x-ndjson": {"schema": {"type": "string", "description": "JSON Lines"}}}
        return {str(operation.status): {"description": "Line by line", "content": content}}
    item = next(iter(get_args(operation.answer)), operation.answer)  # a plain list is told of as its items are
    said = (inspect.getdoc(item) or "").split("\n\n")[0]
    content = {"application/json": {"schema": refer(operation.answer)}}
    out = {str(operation.status): {"description": " ".join(said.split()), "content": content}}
    if operation.answer is chat_shapes.ChatResponse:
        for answer in (whole := out[str(operation.status)]), (streamed := dict(whole)):
            answer["headers"] = openapi_v1.TOLD
        streamed["description"] = "With `stream: true`: the answer event by event; the stream ends without `[DONE]`."
        streamed["content"] = {"text/event-stream": {"schema": {"$ref": "#/components/schemas/ChatEvent"}}}
        out = {"200": streamed} | out
    return out


def _event(refer: Refer) -> Json:
    """A server-sent event, as OpenAPI 3.2 writes it, which validators of 3.1 know too."""
    either = {"anyOf": [refer(chat_shapes.ChatChunk), refer(shapes.Error)]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": either}
    return {
        "type": "object",
        "description": "One event of a streamed answer. An error as the last one says that the stream broke.",
        "properties": {"data": data},
        "required": ["data"],
    }


def _refusals(operation: Operation) -> Json:
    codes = {*ALWAYS, *FAILURES.get(operation.call, ())}
    codes |= set(WITH_BODY if operation.body is not None else ())
    codes |= set(WITH_QUERY if operation.query is not None else ())
    codes |= set(WITH_PATH if "{" in operation.path else ())
    return statuses.refusals(codes)
