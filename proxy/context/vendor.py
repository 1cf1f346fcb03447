"""What of a stored message goes upstream again: all of it, but for what only answers hold and what only the model that
wrote it can read. Pure: a message's JSON in, JSON out; what stays keeps its bytes.

Left out always: `annotations`, `citations` and `logprobs` of an assistant, and of its audio all but the id, which is
all that upstreams take. For another model its opaque reasoning goes too, encrypted or signed: it is refused there.
Text that people can read stays. `provider_specific_fields` stay, less what is opaque: thought signatures are read back
from them.
"""

import re
from collections.abc import Callable, Collection
from functools import partial

import msgspec
from msgspec import Raw

_object = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_any = msgspec.json.decode
_encode = msgspec.json.encode

ANSWER_ONLY = frozenset({"annotations", "citations", "logprobs"})
OPAQUE = frozenset(
    {"encrypted_content", "reasoning_items", "reasoning_opaque", "reasoning_signature", "redacted_thinking",
     "signature", "thinking_blocks", "thought_signature", "thought_signatures"}
)  # fmt: skip
"""Fields that no other model than the one which wrote them takes."""
SEALED = ("data", "encrypted_content", "signature")
"""Fields that make an item of `reasoning_details` opaque as a whole."""
SEALED_PARTS = ("redacted_thinking", "thinking")
"""Parts of a content that are opaque, by their type."""
GIVEN = frozenset({"arguments", "input"})
"""What a call hands over: nothing in it is a vendor's field."""
DEEPEST = 64
"""Levels of JSON that are looked through."""

Kept = bytes | None
"""A value as it is sent; None: left out."""
Change = Callable[[str, bytes, int], Kept]
"""What becomes of the value of a field, at a depth."""

_OTHERS = (b'{"role":"user"', b'{"role": "user"', b'{"role":"tool"', b'{"role": "tool"')
_TEXT = b'{"role":"assistant","content":"'
_ANSWERS = re.compile(rb'"(?:annotations|citations|logprobs|audio)"')
_SIGNED = re.compile(
    rb'"(?:reasoning_(?:details|items|opaque|signature)|thinking_blocks|redacted_thinking|encrypted_content'
    rb'|(?:thought_)?signatures?|audio)"'
)


def forwardable(raw: bytes, same_model: bool, strip: Collection[str], now_s: int) -> bytes:
    """A stored message as it is sent again; the same bytes where nothing goes. `same_model`: it was asked when the
    message was stored. `strip`: fields of messages and of their parts that the upstream refuses."""
    if strip and any(b'"%b"' % name.encode() in raw for name in strip):
        raw = _changed(raw, partial(_without, strip), 0) or b"{}"
    if is_plain(raw):
        return raw
    if _ANSWERS.search(raw) or (not same_model and _SIGNED.search(raw)):
        return _replayed(raw, same_model, now_s)
    return raw


def is_opaque(raw: bytes) -> bool:
    """Whether another model than the one that wrote the message would get it otherwise."""
    if is_plain(raw) or not _SIGNED.search(raw):
        return False
    return _replayed(raw, True, 0) != _replayed(raw, False, 0)


def is_plain(raw: bytes) -> bool:
    """Whether it can be told without a search that nothing changes: a user's or a tool's message, or an assistant's
    that is text alone. Within a JSON string `","` never stands, so no field follows such a text."""
    return raw.startswith(_OTHERS) or (raw.startswith(_TEXT) and raw.find(b'","', len(_TEXT)) < 0)


def _replayed(raw: bytes, same_model: bool, now_s: int) -> bytes:
    fields = _object(raw)
    if bytes(fields.get("role", b"")) != b'"assistant"':
        return raw
    before = {key: bytes(value) for key, value in fields.items()}
    after: dict[str, Kept] = {key: value for key, value in before.items() if key not in ANSWER_ONLY}
    if before.get("audio", b"")[:1] == b"{":
        _speak(after, before["audio"], same_model, now_s)
    if not same_model:
        after = {key: value and _readable(key, value, 1) for key, value in after.items()}
        if after.get("content", b"") is None:
            after["content"] = b"null" if after.get("tool_calls") else b'""'
    return raw if after == before else _joined(after)


def _speak(fields: dict[str, Kept], audio: bytes, same_model: bool, now_s: int) -> None:
    """The assistant's audio by its id; what was said as text, where the upstream does not have it any more or another
    model is asked."""
    said = _object(audio)
    expires = _any(said.get("expires_at", b"null"))
    if same_model and "id" in said and not (isinstance(expires, int | float) and expires <= now_s):
        fields["audio"] = audio if len(said) == 1 else b'{"id":%b}' % bytes(said["id"])
        return
    del fields["audio"]
    if fields.get("content", b"null") in (b"null", b'""'):
        fields["content"] = bytes(said.get("transcript", b'""'))


def _readable(key: str, value: bytes, depth: int) -> Kept:
    """Without what is opaque."""
    if key in OPAQUE:
        return value if value == b"null" else None
    if key in GIVEN or depth > DEEPEST or not (key == "reasoning_details" or _SIGNED.search(value)):
        return value
    if value[:1] == b"{" and _is_sealed(key, value):
        return None
    return _changed(value, _readable, depth, key)


def _is_sealed(key: str, value: bytes) -> bool:
    item = _object(value)
    if key == "reasoning_details":
        return any(bytes(item.get(name, b"null")) != b"null" for name in SEALED)
    return key == "content" and _any(item.get("type", b"null")) in SEALED_PARTS


def _without(names: Collection[str], key: str, value: bytes, depth: int) -> Kept:
    """Without fields of these names, in the message and in its content."""
    if key in names:
        return None
    return (
        value
        if depth > DEEPEST or (depth == 1 and key != "content")
        else _changed(value, partial(_without, names), depth)
    )


def _changed(value: bytes, change: Change, depth: int, key: str = "") -> Kept:
    """An object or a list with each of its values changed; the same bytes where none is, None where none is left."""
    if value[:1] == b"{":
        before = {name: bytes(one) for name, one in _object(value).items()}
        after = {name: change(name, one, depth + 1) for name, one in before.items()}
        return value if after == before else _joined(after) if any(after.values()) else None
    if value[:1] == b"[":
        items = [bytes(one) for one in _list(value)]
        kept = [change(key, one, depth + 1) for one in items]
        left = [one for one in kept if one is not None]
        return value if kept == items else b"[%b]" % b",".join(left) if left else None
    return value


def _joined(fields: dict[str, Kept]) -> bytes:
    return b"{%b}" % b",".join([b"%b:%b" % (_encode(key), one) for key, one in fields.items() if one is not None])
