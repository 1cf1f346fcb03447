"""The OpenAI side of /openapi.json, in short: its bodies are OpenAI's, and pass through."""

from collections.abc import Mapping
from typing import Any

from proxy import __version__
from proxy.edge import openapi_stored, statuses

Json = dict[str, Any]

TAGS: list[Json] = [
    {"name": "OpenAI", "description": "The OpenAI API: any of its clients, with one header more for a session."},
    openapi_stored.TAG,
    {"name": "Health", "description": "For probes, which need no key, and for Prometheus."},
]

HEADERS: Json = {
    "X-Session-Uuid": {"description": "The session's id.", "schema": {"type": "string", "format": "uuid"}},
    "X-Session-Turn": {"description": "The turn's number.", "schema": {"type": "integer", "minimum": 1}},
    "X-Session-Branch": {"description": "The branch it stands on.", "schema": {"type": "integer", "minimum": 1}},
    "X-Context-Tokens": {"description": "What was sent, in tokens, part by part.", "schema": {"type": "string"}},
    "X-Context-Dropped": {
        "description": "How many stored messages were left out.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-Context-Strategy": {"description": "How they were chosen.", "schema": {"type": "string"}},
    "X-Context-Recalled": {
        "description": "How many documents and old turns were put in.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
TOLD: Json = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
"""The headers of a turn's answer."""

OPTIONS: Mapping[str, tuple[str, Json]] = {
    "X-Session-Id": (
        "The session: any name. Without it the request passes through, byte for byte.",
        {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[ -~]+$"},
    ),
    "X-Session-Mode": (
        "What the messages are: `auto` finds out; `append`: all new; `resend`: the whole conversation; `observe`: "
        "forward as sent, and store.",
        {"enum": ["auto", "append", "resend", "observe"], "default": "auto"},
    ),
    "X-Session-Token-Budget": (
        "Tokens for everything that is sent.",
        {"type": "integer", "minimum": 1, "maximum": 100_000_000},
    ),
    "X-Session-Context-Overflow": (
        "What happens when the history does not fit; `null`: an error.",
        {"enum": ["truncate", "adaptive", "summarize", "null"]},
    ),
    "X-Session-Save": ("`false`: answer with the history, store nothing.", {"type": "boolean", "default": True}),
    "X-Session-Agent": ("The id of the session's agent that answers.", {"type": "string", "format": "uuid"}),
    "X-Session-Recall": (
        "Whether documents and, under `adaptive`, old turns are searched; else as the session says.",
        {"type": "boolean"},
    ),
    "X-Session-Recall-Tools": (
        "Whether stored tool calls and results are sent along.",
        {"type": "boolean", "default": True},
    ),
    "X-Session-Fork": (
        "The turn, of whichever branch, after which this one begins a branch; 0: at the beginning. Not together with "
        "`X-Session-Branch`.",
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
    ),
    "X-Session-Branch": (
        "The branch that this turn continues, and that is current from then on; else the current one.",
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
    ),
    "Idempotency-Key": ("A second request with the same key gets the first one's answer.", {"type": "string"}),
    "X-Custom-Api-Key": ("A key of the model server, in place of the configured one.", {"type": "string"}),
}

SCHEMAS: Json = openapi_stored.SCHEMAS | {
    "ChatCompletionRequest": {
        "type": "object",
        "description": "OpenAI's request. Every other field reaches the model server unchanged.",
        "properties": {
            "model": {"type": "string"},
            "messages": {
                "type": "array",
                "items": {"type": "object"},
                "minItems": 1,
                "description": "The newest message, or all of them: what is stored is recognised.",
            },
            "stream": {"type": "boolean", "default": False},
            "store": {
                "anyOf": [{"type": "boolean"}, {"type": "null"}],
                "description": "`true`: the answer is kept as a stored completion too, with `metadata`.",
            },
            "session": {
                "type": "object",
                "description": "The session and its options in the body: `id`, `mode`, `token_budget` and so on.",
            },
        },
        "required": ["messages"],
    },
    "Preview": {
        "type": "object",
        "description": "What a request would send, and why; nothing is sent, and nothing stored.",
        "properties": {
            "body": {"type": "object", "description": "What the model server would get, byte for byte."},
            "ledger": {
                "anyOf": [{"type": "object"}, {"type": "null"}],
                "description": "What it is made of, in tokens; null without a session.",
            },
        },
        "required": ["body", "ledger"],
    },
    "OpenAIError": {
        "type": "object",
        "description": "OpenAI's error; all four keys are always there.",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"message": {}, "type": {}, "param": {}, "code": {}},
                "required": ["message", "type", "param", "code"],
            }
        },
        "required": ["error"],
    },
    "Health": {
        "type": "object",
        "properties": {"status": {"type": "string"}, "version": {"type": "string"}},
        "required": ["status", "version"],
        "description": "The process answers.",
        "example": {"status": "ok", "version": __version__},
    },
    "Readiness": {
        "type": "object",
        "description": "`ok`, or what is wrong.",
        "properties": {name: {"type": "string"} for name in ("status", "storage", "upstream")},
        "required": ["status", "storage", "upstream"],
    },
}

STYLE = openapi_stored.STYLE
RESPONSES = statuses.responses({"$ref": "#/components/schemas/OpenAIError"}, STYLE)


def _json(said: str, schema: Json) -> Json:
    return {"description": said, "content": {"application/json": {"schema": schema}}}


def _named(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def header(name: str) -> Json:
    """A request header, as a parameter."""
    said, schema = OPTIONS[name]
    return {"name": name, "in": "header", "required": False, "description": said, "schema": schema}


PREVIEW: Json = {
    "name": "preview",
    "in": "query",
    "required": False,
    "description": "`true`: what the request would send comes back, with its ledger; no model is asked, and nothing is "
    "stored.",
    "schema": {"enum": ["false", "true"], "default": "false"},
}
COMPLETIONS: Json = {
    "operationId": "chat_completions",
    "tags": ["OpenAI"],
    "summary": "Ask a model",
    "description": "A turn of the session that `X-Session-Id` names: the stored history goes along under the token "
    "budget, and the exchange is stored. Without a session the request passes through.",
    "parameters": [*[header(name) for name in OPTIONS if name != "X-Custom-Api-Key"], PREVIEW],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _named("ChatCompletionRequest"),
                "example": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "My name is Ada."}]},
            }
        },
    },
    "responses": {
        "200": {
            "description": "OpenAI's chat completion; with `stream: true` its chunks, then `[DONE]`; with "
            "`preview=true` a Preview, whatever `stream` says.",
            "headers": TOLD,
            "content": {
                "application/json": {"schema": {"anyOf": [{"type": "object"}, _named("Preview")]}},
                "text/event-stream": {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}},
            },
        },
        **statuses.refusals(
            (statuses.PASSED_ON, 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 502, 503, 504), STYLE
        ),
    },
}
MODELS: Json = {
    "operationId": "models",
    "tags": ["OpenAI"],
    "summary": "List models",
    "description": "The models of all model servers, and the configured aliases.",
    "responses": {
        "200": _json("OpenAI's list", {"type": "object", "required": ["object", "data"]}),
        **statuses.refusals((statuses.PASSED_ON, 401, 403, 429, 502, 503, 504), STYLE),
    },
}
HEALTHZ: Json = {
    "operationId": "healthz",
    "tags": ["Health"],
    "summary": "Does the process answer",
    "security": [],
    "responses": {"200": _json("It does.", _named("Health"))},
}
READYZ: Json = {
    "operationId": "readyz",
    "tags": ["Health"],
    "summary": "Do the storage and a model server answer",
    "security": [],
    "responses": {
        "200": _json("They do.", _named("Readiness")),
        "503": _json("One of them does not.", _named("Readiness")),
    },
}
METRICS: Json = {
    "operationId": "metrics",
    "tags": ["Health"],
    "summary": "Sums for Prometheus",
    "description": "Sums over everybody's turns and requests, without names, ids or texts; in `auth.mode: keys` for a "
    "key of the role `admin`. 404 with `telemetry.metrics: false`.",
    "responses": {
        "200": {
            "description": "Prometheus' text format 0.0.4.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **statuses.refusals((401, 403, 404, 503), STYLE),
    },
}
PATHS: Json = {
    "/v1/chat/completions": {"post": COMPLETIONS, "get": openapi_stored.LIST},
    **openapi_stored.BELOW,
    "/v1/models": {"get": MODELS},
    "/healthz": {"get": HEALTHZ},
    "/readyz": {"get": READYZ},
    "/metrics": {"get": METRICS},
}
