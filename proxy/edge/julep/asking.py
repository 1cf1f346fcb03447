"""A chat request of the Sessions API -> a Turn. What Julep writes otherwise than OpenAI is put into OpenAI's words."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from proxy.edge import body
from proxy.edge.body import Fields
from proxy.edge.identity import place_of
from proxy.edge.julep import chat_shapes as shapes
from proxy.edge.julep.shapes import CreateTool
from proxy.edge.operation import Ask
from proxy.edge.request import Request
from proxy.edge.retries import fingerprint, idempotency_key, is_retry
from proxy.errors import BadRequest
from proxy.profile import schema
from proxy.resources import Tool
from proxy.services import Services, Turn, epoch_ms
from proxy.types import Options, Overflow, Scope
from proxy.upstream.headers import upstream_headers
from proxy.upstream.route import targets

OURS = (
    "messages", "tools", "stream", "recall", "save", "remember", "recall_tools", "auto_run_tools", "agent", "agent_id",
    "metadata", "settings", "token_budget", "context_overflow", "model", "connection_pool", "session", "session_id",
)  # fmt: skip
"""Body keys that do not reach the upstream as they are."""
NULLS = ("name", "tool_call_id", "tool_calls")
"""Keys of a message whose null means that they are not there; upstreams refuse some of them."""

_encode = msgspec.json.encode


def turn_of(ask: Ask) -> Turn:
    """Raises BadRequest naming the field."""
    svc, request = ask.svc, ask.frame
    given: shapes.Chat = ask.given
    fields = body.fields(ask.raw)
    limits = svc.config.limits
    fields["messages"] = in_parts(fields["messages"], given.messages)
    said = [in_openai_words(*one) for one in body.messages(fields, limits.messages_per_request, limits.nesting)]
    system, messages = body.split(said)
    model = _model(given)
    who = _with_own_key(svc, ask.who, request)
    target, *others = targets(svc.config, model, who.credential)
    return Turn(
        scope=who,
        name=ask.path["id"],
        options=_options(given, *place_of(request.headers, fields)),
        request_id=request.id,
        fields=_fields(given, fields, model),
        system=system,
        messages=messages,
        model=model,
        stream=given.stream,
        wants_usage=given.stream,
        reserve=given.max_tokens if isinstance(given.max_tokens, int) else svc.config.context.reserve_output_tokens,
        headers=upstream_headers(who.credential, target.upstream, request.headers),
        target=target,
        others=tuple(others),
        key=idempotency_key(request.headers),
        retried=is_retry(request.headers),
        request=fingerprint(ask.raw, request.headers),
        now=epoch_ms(),
        started=request.started,
        client=request.headers,
        sessions_api=True,
    )


def _model(given: shapes.Chat) -> str | None:
    for settings in (given, given.settings):
        if settings is not None and isinstance(settings.model, str) and settings.model:
            return settings.model
    return None


def _with_own_key(svc: Services, who: Scope, request: Request) -> Scope:
    """X-Custom-Api-Key goes upstream in place of the configured key."""
    own = request.headers.get(b"x-custom-api-key", b"").strip()
    if not own:
        return who
    if svc.config.auth.mode == "passthrough":
        raise BadRequest(
            "in passthrough mode your upstream key is the one in Authorization; leave X-Custom-Api-Key out",
            param="X-Custom-Api-Key",
        )
    return Scope(who.tenant, who.role, who.name, own)


def _options(given: shapes.Chat, fork: int | None, branch: int | None) -> Options:
    overflow: Overflow | None = None
    if given.context_overflow is None:
        overflow = "null"
    elif given.context_overflow is not UNSET:
        overflow = given.context_overflow
    agent = given.agent or given.agent_id
    return Options(
        mode="continue",
        save=given.save,
        token_budget=given.token_budget,
        overflow=overflow,
        agent=None if agent is None else str(agent),
        recall=given.recall,
        recall_tools=given.recall_tools,
        fork=fork,
        branch=branch,
        metadata=given.metadata or {},
    )


def _fields(given: shapes.Chat, fields: Fields, model: str | None) -> Fields:
    """The body for the upstream but for its messages: what the request sets, then what its `settings` set."""
    out: Fields = {}
    nested = body.fields(fields["settings"]) if given.settings is not None else {}
    for key, value in {**nested, **fields}.items():
        if key not in OURS and value != b"null":
            out[key] = value
    if model is not None:
        out["model"] = _encode(model)
    if given.stream:
        out["stream"] = b"true"
    if given.tools:
        out["tools"] = _encode([_tool(tool, n) for n, tool in enumerate(given.tools)])
    if isinstance(given.tool_choice, dict):
        out["tool_choice"] = _encode({"type": "function", **given.tool_choice})
    return out


def _tool(tool: Mapping[str, Any], n: int) -> Any:
    """A tool of a request: OpenAI's form goes as it is, Julep's becomes it."""
    inner = tool.get("function")
    if isinstance(inner, Mapping) and isinstance(inner.get("name"), str) and "name" not in tool:
        return tool
    try:
        made = msgspec.convert(tool, CreateTool)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"tools[{n}]: {exc}", param=f"tools[{n}]") from None
    body = {"type": made.type, **{key: value for key, value in tool.items() if key != "name"}}
    stored = Tool(0, "", made.name, 0, 0, _encode(body))
    return msgspec.Raw(schema(stored))


def in_parts(messages: bytes, given: Sequence[shapes.ChatMessage]) -> bytes:
    """The messages with Julep's lists of texts as lists of parts. `given`: the same messages, decoded."""
    if not any(isinstance(one.content, list) and any(isinstance(part, str) for part in one.content) for one in given):
        return messages
    values = msgspec.json.decode(messages)
    for value in values:
        if isinstance(value.get("content"), list):
            value["content"] = [_part(part) for part in value["content"]]
    return _encode(values)


def in_openai_words(raw: bytes, value: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """A message in OpenAI's form; one that is in it already keeps its bytes."""
    changed = {key: item for key, item in value.items() if key not in NULLS or item is not None}
    if isinstance(changed.get("content"), list):
        changed["content"] = [_part(part) for part in changed["content"]]
    return (raw, value) if changed == value else (_encode(changed), changed)


def _part(part: Any) -> Any:
    """Julep's texts, parts without a type and tool results as OpenAI's parts."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.get("type") == "tool_result":
        inside = part.get("content")
        if isinstance(inside, str):
            return {"type": "text", "text": inside}
        if not isinstance(inside, list):
            raise BadRequest("content: a tool_result's content is a text, or a list of parts", param="content")
        texts = [inner.get("text") for inner in inside if isinstance(inner, Mapping)]
        return {"type": "text", "text": "\n".join(text for text in texts if isinstance(text, str))}
    if "type" in part:
        return part
    if "image_url" in part:
        return {"type": "image_url", **part}
    if not isinstance(part.get("text"), str):
        raise BadRequest("content: a part has a type, or a text, or an image_url", param="content")
    return {"type": "text", **part}
