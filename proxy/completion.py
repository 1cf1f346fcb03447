"""What is stored of an answer to `store: true`: the chat.completion as it came, and what OpenAI's stored object carries
beside it. Pure: request and answer in, a row for the store out; and the row's messages as they are listed.

Values keep their bytes: only the levels that OpenAI's schema asks something of are taken apart.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from proxy.store.completions import New

ECHOED = (
    "temperature",
    "top_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "tools",
    "tool_choice",
    "response_format",
)
"""Parameters of the request that the stored object tells, null for those that were not given."""
NEVER_NULL = ("usage", "system_fingerprint", "tool_calls", "function_call", "annotations")
"""Keys of an answer and of its messages that OpenAI's schema knows with a value or not at all."""
LONGEST = 256
"""Characters of an id; an answer with a longer one gets another."""
LATEST = 2**53
NULL = Raw(b"null")

Object = dict[str, Raw]

_object = msgspec.json.Decoder(Object).decode
_objects = msgspec.json.Decoder(list[Object]).decode
_encode = msgspec.json.encode
_BROKEN = (msgspec.DecodeError, ValueError, KeyError, RecursionError)

items = msgspec.json.Decoder(list[Raw]).decode
"""The messages of a request, each as its raw JSON."""


class Storing(msgspec.Struct, frozen=True, gc=False):
    """That the answer is to be stored, and with which metadata."""

    metadata: Mapping[str, str]


class Given(msgspec.Struct, frozen=True, gc=False):
    """The request whose answer is stored. `fields`: its top level, values as raw JSON. `model`: as its upstream knows
    it, for an answer that does not say. `now`: epoch milliseconds."""

    fields: Mapping[str, bytes]
    storing: Storing
    request_id: str
    now: int
    model: str = ""


def made(given: Given, answer: bytes) -> New | None:
    """The row for an answer, a chat.completion. None when it is something else."""
    try:
        return _made(given, _object(_readable(answer)))
    except _BROKEN:
        return None


def _made(given: Given, body: Object) -> New:
    choices = [_choice(choice, n) for n, choice in enumerate(_objects(body["choices"]))]
    name = _text(body.pop("id", NULL))
    asked = _text(Raw(given.fields.get("model", b"null")))
    model = _text(body.get("model", NULL)) or given.model or asked
    created = _second(body.get("created", NULL), given.now)
    body.pop("metadata", None)
    body |= {"object": Raw(b'"chat.completion"'), "created": Raw(_encode(created)), "model": Raw(_encode(model))}
    body |= {"choices": Raw(_encode(choices))}
    body |= {key: value for key, value in _echo(given).items() if body.get(key, NULL) == NULL}
    told = _sound(_encode(_present(body)))
    return New(
        name=name if 0 < len(name) <= LONGEST else _spare(given, told),
        created=created,
        models=[one for one in dict.fromkeys((model, asked)) if one],
        metadata=given.storing.metadata,
        body=told,
        messages=_messages(given.fields.get("messages", b"[]")),
        now=given.now,
    )


def _echo(given: Given) -> Object:
    """What the stored object tells of its request, where the answer does not."""
    fields = given.fields
    told = {"request_id": Raw(_encode(given.request_id)), "input_user": Raw(fields.get("user", b"null"))}
    told |= {key: Raw(fields.get(key, b"null")) for key in ECHOED}
    if "service_tier" in fields:
        told["service_tier"] = Raw(fields["service_tier"])
    return told


def _spare(given: Given, body: bytes) -> str:
    """An id for an answer that came without one."""
    mark = hashlib.blake2b(_encode((given.request_id, given.now)) + body, digest_size=12)
    return "chatcmpl-" + mark.hexdigest()


def _choice(choice: Object, n: int) -> Object:
    """A choice with the keys that the schema requires."""
    given = _object(choice["message"]) if choice.get("message", NULL) != NULL else {}
    message = {"role": Raw(b'"assistant"'), "content": NULL, "refusal": NULL, **given}
    required = {"index": Raw(_encode(n)), "logprobs": NULL, "finish_reason": NULL, **choice}
    required["message"] = Raw(_encode(_present(message)))
    if required["finish_reason"] == NULL:
        required["finish_reason"] = Raw(b'"stop"')
    return required


def _present(fields: Object) -> Object:
    return {key: value for key, value in fields.items() if key not in NEVER_NULL or value != NULL}


def _text(raw: Raw) -> str:
    value = msgspec.json.decode(raw)
    return value if isinstance(value, str) else ""


def _second(raw: Raw, now: int) -> int:
    """When the answer was made; now for one that does not say."""
    value = msgspec.json.decode(raw)
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LATEST
    return int(value) if known else now // 1000


def _messages(raw: bytes) -> bytes:
    """The request's messages; an empty list where there is none."""
    try:
        raw = _readable(raw)
        every = items(raw)
    except _BROKEN:
        return b"[]"
    objects = [item for item in every if _begins(item, b"{")]
    return raw if len(objects) == len(every) else _encode(objects)


def _begins(raw: Raw, mark: bytes) -> bool:
    return memoryview(raw)[:1] == mark


def _readable(raw: bytes) -> bytes:
    """JSON that the strict decoder takes: U+FFFD in place of lone surrogates. Raises ValueError for what is no JSON."""
    raw = _sound(raw)
    try:
        msgspec.json.decode(raw, type=Raw)
    except msgspec.DecodeError:
        text = json.dumps(json.loads(raw), ensure_ascii=False)
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    return raw


def _sound(raw: bytes) -> bytes:
    """The same in UTF-8, which JSON's readers ask for."""
    if raw.isascii():
        return raw
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace").encode()
    return raw


def shown(name: str, n: int, message: Raw) -> Raw:
    """The message at a place of a stored completion as it is listed: with an id, a list of parts apart from a text."""
    fields = _object(message)
    content = fields.pop("content", NULL)
    fields.pop("id", None)
    told: dict[str, Any] = {"id": message_id(name, n), "refusal": NULL, "name": NULL, **_present(fields)}
    told["content"] = content if _begins(content, b'"') else NULL
    told["content_parts"] = content if _begins(content, b"[") else NULL
    return Raw(_encode(told))


def message_id(name: str, n: int) -> str:
    """The id of the message at a place of a stored completion."""
    return f"{name}-{n}"
