"""POST /v1/chat/completions: a remembered turn with a session, a transparent proxy without one."""

import urllib.parse

import msgspec
from starlette.types import Scope

from proxy import turn as turns
from proxy.edge import auth, body, identity
from proxy.edge.answered import answered, respond
from proxy.edge.body import Fields
from proxy.edge.deliver import Connection, deliver
from proxy.edge.head import head
from proxy.edge.identity import Identity
from proxy.edge.openai import passthrough, storing
from proxy.edge.request import Request, frame, passed_on
from proxy.edge.retries import fingerprint, idempotency_key, is_retry
from proxy.errors import BadRequest
from proxy.events import Client
from proxy.preview import preview
from proxy.services import Services, Turn, epoch_ms
from proxy.types import Scope as Tenant
from proxy.upstream.headers import upstream_headers
from proxy.upstream.route import targets


async def completions(svc: Services, scope: Scope, connection: Connection) -> None:
    """The endpoint, called straight from the ASGI application: no router, no request object."""
    request = frame(scope)
    session: dict[str, str] = {}
    facts: dict[str, object] = {}
    await answered(svc, request, connection, _complete(svc, request, connection, session, facts), session, facts)


async def _complete(
    svc: Services, request: Request, connection: Connection, session: dict[str, str], facts: dict[str, object]
) -> None:
    """`session` takes the header that names the session, `facts` what the log says of the turn."""
    headers = request.headers
    who = await auth.scope_of(svc, headers)
    raw = await body.read(connection, headers)
    fields = body.fields(raw)
    named = identity.session_of(svc.config.sessions, headers, fields)
    shown = _is_preview(request)
    if named is None:
        if shown:
            await respond(connection, request, _previewed(passthrough.forwarded(svc, who, raw, fields)[1], None))
        else:
            await passthrough.relay(svc, who, request, raw, fields, connection)
        return
    session["x-session-id"] = named.name
    turn = _turn(svc, who, request, raw, fields, named)
    if shown:
        composed, ledger = await preview(svc, turn)
        await respond(connection, request, _previewed(composed.body, ledger), session)
        return
    client = Client(may_leave=svc.config.sessions.on_disconnect == "finish")
    await deliver(turns.run(svc, turn, client), client, connection, lambda begin: head(turn, begin, facts))


def _is_preview(request: Request) -> bool:
    """Whether the query asks for what would be sent."""
    given = urllib.parse.parse_qs(request.query.decode("latin-1"), keep_blank_values=True).get("preview")
    if given is None:
        return False
    if given not in (["true"], ["false"]):
        raise BadRequest("preview must be true or false", param="preview")
    return given == ["true"]


def _previewed(sent: bytes, ledger: object) -> bytes:
    """What would be sent, byte for byte, and why; the ledger of a request without a session is null."""
    return b'{"body":%b,"ledger":%b}' % (sent, msgspec.json.encode(ledger))


def _turn(svc: Services, who: Tenant, request: Request, raw: bytes, fields: Fields, named: Identity) -> Turn:
    """The request as a Turn. Raises BadRequest naming the field."""
    body.check_media(request.headers)
    _check_text(raw)
    limits = svc.config.limits
    options = identity.options_of(svc.config.sessions, request.headers, fields, named)
    said = body.messages(fields, limits.messages_per_request, limits.nesting)
    system, messages = body.split(said)
    model = _model(fields)
    target, *others = targets(svc.config, model, who.credential)
    stream = _flag(fields, "stream")
    _check_choices(fields, limits.choices)
    key = idempotency_key(request.headers)
    return Turn(
        scope=who,
        name=named.name,
        options=options,
        request_id=request.id,
        fields={name: value for name, value in fields.items() if name not in identity.OURS},
        system=system,
        messages=messages,
        model=model,
        stream=stream,
        wants_usage=stream and _wants_usage(fields),
        reserve=_reserve(fields, svc.config.context.reserve_output_tokens),
        headers=upstream_headers(who.credential, target.upstream, request.headers),
        target=target,
        others=tuple(others),
        key=key,
        retried=is_retry(request.headers),
        request=fingerprint(raw, request.headers),
        now=epoch_ms(),
        started=request.started,
        client=request.headers,
        query=passed_on(request.query),
        storing=storing.asked(fields, options.save),
    )


def _check_text(raw: bytes) -> None:
    try:
        raw.isascii() or raw.decode()
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8; send JSON in UTF-8", param="body") from None


def _model(fields: Fields) -> str | None:
    model = body.parsed(fields, "model")
    if model is not None and not isinstance(model, str):
        raise BadRequest("model must be a string", param="model")
    return model


def _flag(fields: Fields, key: str) -> bool:
    value = fields.get(key, b"false")
    if value not in (b"true", b"false", b"null"):
        raise BadRequest(f"{key} must be true or false", param=key)
    return value == b"true"


def _wants_usage(fields: Fields) -> bool:
    options = body.parsed(fields, "stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequest("stream_options must be an object", param="stream_options")
    return bool(options and options.get("include_usage"))


def _reserve(fields: Fields, default: int) -> int:
    """Tokens kept free for the answer, when the budget comes from the model's context."""
    for key in ("max_completion_tokens", "max_tokens"):
        value = body.parsed(fields, key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BadRequest(f"{key} must be a whole number of tokens", param=key)
        return value
    return default


def _check_choices(fields: Fields, most: int) -> None:
    value = body.parsed(fields, "n")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
        raise BadRequest(f"n must be a whole number from 1 to {most}", param="n")
    if fields.get("tools", b"null")[:1] not in (b"[", b"n"):
        raise BadRequest("tools must be a list", param="tools")
