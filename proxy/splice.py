"""The body that goes upstream: the client's fields as they came, around the messages that were chosen. Pure."""

import hashlib
from collections.abc import Mapping

import msgspec

from proxy.services import Turn

CACHE_KEY = "prompt_cache_key"


def as_sent(turn: Turn) -> bytes:
    """The client's messages, unchanged."""
    return turn.fields["messages"].strip()[1:-1]


def splice(turn: Turn, messages: bytes, session: str | None = None) -> bytes:
    """The body with `messages`, the upstream's model name, and usage asked for. `session`: its own name, of which an
    upstream that keeps prompts gets a hash to know them by, unless the client gives it one.

    One join: history is never parsed and dumped again, and numbers and unknown fields keep their bytes.
    """
    parts = [b'{"messages":[', messages, b"]"]
    fields = turn.fields
    if turn.target.model != turn.model:
        fields = {**fields, "model": msgspec.json.encode(turn.target.model)}
    if turn.stream and turn.target.upstream.stream_usage:
        fields = {**fields, "stream_options": _with_usage(fields.get("stream_options"))}
    if session is not None and turn.target.upstream.prompt_cache_key and CACHE_KEY not in fields:
        mark = "{}\n{}".format(*turn.scope.line(session))
        fields = {**fields, CACHE_KEY: b'"%b"' % hashlib.blake2b(mark.encode(), digest_size=16).hexdigest().encode()}
    for key, value in _upstream_fields(turn, fields):
        parts += (b',"', key.encode(), b'":', value)
    parts.append(b"}")
    return b"".join(parts)


def _upstream_fields(turn: Turn, fields: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    kept = [(key, value) for key, value in fields.items() if key != "messages"]
    if fields.get("store") == b"true" and not turn.target.upstream.supports_store:
        kept = [(key, value) for key, value in kept if key not in ("store", "metadata")]
    return [(key if key.isidentifier() else msgspec.json.encode(key)[1:-1].decode(), value) for key, value in kept]


def _with_usage(given: bytes | None) -> bytes:
    if given is None or given == b"null":
        return b'{"include_usage":true}'
    options = msgspec.json.decode(given)
    return msgspec.json.encode({**options, "include_usage": True}) if isinstance(options, dict) else given
