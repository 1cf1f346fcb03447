"""What is new in a request, and where it continues. Pure: stored digests and sent messages in, a decision out.

Clients send one message, all of them, only their current run, a trimmed window or an edited history. A message is
known by the digest of its canonical form: role, text, other parts by content, tool names and arguments as JSON
values; ids and vendor fields never count. One pass of the Knuth-Morris-Pratt automaton over a branch tells, for each
of its entries, the longest head of the request that ends there; the rules below read that.
"""

import contextlib
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from proxy.types import Mode, Sent

_encode = msgspec.json.Encoder(order="deterministic").encode

RESULTS = ("tool", "function")
EVIDENCE = ("assistant", *RESULTS)
"""Roles that show that a client resends: people repeat themselves, models and tools do not."""


class Path(msgspec.Struct, frozen=True, gc=False):
    """A stretch of a branch, oldest first: `digests[0]` stands at `first`, the last one at the branch's end.

    `cut_short` maps an index to the text of a reply that broke off; such a reply equals any prefix or extension.
    """

    branch: int
    first: int
    digests: Sequence[bytes]
    cut_short: Mapping[int, str] = {}


class Reached(msgspec.Struct, frozen=True, gc=False):
    """How far a request reaches along a path of `size` entries from `first` on.

    `last`: the longest head of the request that ends with the path; `longest`: the longest one that ends anywhere on
    it, at `index` for the first time; `common`: how many entries of both are the same from the first on.
    """

    branch: int
    first: int
    size: int
    last: int
    longest: int
    index: int
    common: int


class Said(msgspec.Struct, frozen=True, gc=False):
    """The decision. The first `known` of the sent messages are stored already, the rest is new.

    `branch`: the branch to continue, or the one to start from; with `fork_at` a new branch starts after that seq.
    """

    branch: int
    known: int
    fork_at: int | None = None


def digest(value: Mapping[str, Any], position: int = 0) -> bytes:
    """16 bytes that equal messages share. `position`: which call of its group a tool message answers, from 0."""
    role = value["role"]
    form: list[Any] = [role, content_of(value)]
    if role == "user":
        form.append(value.get("name"))
    elif role == "assistant":
        form.append([_call(call) for call in value.get("tool_calls") or ()])
        form.append([value.get("refusal") or "", _call({"function": value.get("function_call")}), _spoken(value)])
    elif role == "tool":
        form.append(position)
    elif role == "function":
        form.append(value.get("name"))
    return hashlib.blake2b(_encode(form), digest_size=16).digest()


def _spoken(value: Mapping[str, Any]) -> Any:
    """A spoken answer is known by its id: clients send it back without the sound."""
    audio = value.get("audio")
    return audio.get("id") if isinstance(audio, Mapping) else audio


def content_of(value: Mapping[str, Any]) -> Any:
    """The canonical content: a stripped string, or a list of parts."""
    content = value.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return _text(content, value["role"])
    parts = [_part(part) for part in content]
    if not parts:
        return ""
    if len(parts) == 1 and parts[0][0] == "text":
        return _text(parts[0][1], value["role"])
    return parts


def _text(text: str, role: str) -> str:
    text = text.strip()
    if role == "assistant" and text.startswith("<think>"):
        _, closed, rest = text.partition("</think>")
        text = rest.strip() if closed else text
    return text


_PARTS = ("text", "refusal", "image_url", "input_audio", "file")


def _part(part: Any) -> list[Any]:
    """A content part by its content; hints such as `detail` or `cache_control` do not count."""
    if not isinstance(part, dict):
        return ["?", part]
    kind = part.get("type")
    value = part.get(kind) if isinstance(kind, str) and kind in _PARTS else None
    if value is None:
        return [kind, {key: item for key, item in part.items() if key not in ("type", "id", "cache_control")}]
    if kind == "image_url" and isinstance(value, dict):
        value = value.get("url")
    return [kind, value.strip() if kind == "text" and isinstance(value, str) else value]


def _call(call: Any) -> Any:
    """A tool call without its id: name and arguments, the arguments as a JSON value where they are one."""
    if not isinstance(call, dict):
        return call
    made = call.get("function") or call.get("custom") or {}
    if not isinstance(made, dict):
        return made
    given = made.get("arguments", made.get("input", ""))
    with contextlib.suppress(msgspec.DecodeError, RecursionError):  # a model wrote broken JSON: it equals itself
        given = msgspec.json.decode(given) if isinstance(given, str) else given
    return [made.get("name"), given]


def reconcile(paths: Sequence[Path], sent: Sequence[Sent], mode: Mode, is_stored: Callable[[bytes], bool]) -> Said:
    """`decide` on paths that were not compared yet."""
    if mode == "append" or not sent:
        return Said(paths[0].branch, 0)
    return decide([reached(path, heads(path, sent)) for path in paths], sent, mode, is_stored)


def decide(found: Sequence[Reached], sent: Sequence[Sent], mode: Mode, is_stored: Callable[[bytes], bool]) -> Said:
    """Decides on all paths, the current branch first. `is_stored` tells whether a digest stands anywhere.

    (a) continue a branch whose end the request's head reaches, else (b) an edit or a regeneration branches off,
    else (c) an edited first message starts a branch from the root, else (d) everything is new.
    """
    current = found[0].branch
    if mode == "resend":
        return _resend(found, sent)
    best = max(found, key=lambda one: one.last)
    if best.last and (best.last == len(sent) or _evidence(sent, best.last)):
        return Said(best.branch, best.last)
    if mode == "continue" or sent[0].role in RESULTS or not any(message.role in EVIDENCE for message in sent):
        return Said(current, 0)  # results come first: they answer the last stored calls, whatever else they resemble
    edit = _edit(found, sent)
    if edit is not None:
        return edit
    if any(message.role in EVIDENCE and is_stored(message.digest) for message in sent[1:]):
        return Said(current, 0, fork_at=0)
    return Said(current, 0)


def _evidence(sent: Sequence[Sent], length: int) -> bool:
    return any(message.role in EVIDENCE for message in sent[:length])


def _edit(found: Sequence[Reached], sent: Sequence[Sent]) -> Said | None:
    """(b): the longest head that stands anywhere, and the earliest place of it on the first such path."""
    longest = max(one.longest for one in found)
    if not longest:
        return None
    answered = sent[longest - 1].role == "user" and longest < len(sent) and sent[longest].role == "assistant"
    if not (_evidence(sent, longest) or answered):
        return None
    place = next(one for one in found if one.longest == longest)
    return _fork(place.branch, place.first + place.index, longest, sent)


def _fork(branch: int, seq: int, known: int, sent: Sequence[Sent]) -> Said:
    """A branch after `seq`, where the head of `known` messages ends; a regeneration takes its user message along."""
    if known == len(sent):
        users = [n for n, message in enumerate(sent) if message.role == "user"]
        if users:
            return Said(branch, users[-1], fork_at=seq - (known - users[-1]))
    return Said(branch, known, fork_at=seq)


def _resend(found: Sequence[Reached], sent: Sequence[Sent]) -> Said:
    """`sent` is the whole conversation: the longest common beginning with any branch decides."""
    best = max(found, key=lambda one: one.common)
    if best.common == best.size:
        return Said(best.branch, best.common)
    return _fork(best.branch, best.common, best.common, sent)


def reached(path: Path, lengths: Sequence[int]) -> Reached:
    """What the decision needs of the path's `heads`."""
    size, longest = len(lengths), max(lengths, default=0)
    common = bisect_left(range(size), True, key=lambda n: lengths[n] != n + 1) if path.first == 1 else 0
    index = lengths.index(longest) if size else 0
    return Reached(path.branch, path.first, size, lengths[-1] if size else 0, longest, index, common)


def heads(path: Path, sent: Sequence[Sent], fall: Sequence[int] | None = None, known: Sequence[int] = ()) -> list[int]:
    """For each entry of the path, the length of the longest head of `sent` that ends there. `fall`: the request's
    `fallbacks`; `known`: the lengths of the first entries, which another path has too."""
    wanted = [message.digest for message in sent]
    stored = resolved(path, sent)
    fall = fallbacks(sent) if fall is None else fall
    lengths = list(known)
    length = lengths[-1] if lengths else 0
    for mark in stored[len(lengths) :]:
        if length == len(wanted):
            length = fall[length - 1]
        while length and wanted[length] != mark:
            length = fall[length - 1]
        if wanted[length] == mark:
            length += 1
        lengths.append(length)
    return lengths


def fallbacks(sent: Sequence[Sent]) -> list[int]:
    """The automaton's failure links: the longest proper head of the request that also ends at each place."""
    wanted = [message.digest for message in sent]
    fall = [0] * len(wanted)
    length = 0
    for n in range(1, len(wanted)):
        while length and wanted[n] != wanted[length]:
            length = fall[length - 1]
        if wanted[n] == wanted[length]:
            length += 1
        fall[n] = length
    return fall


def resolved(path: Path, sent: Sequence[Sent]) -> Sequence[bytes]:
    """The path's digests, each reply that was cut short standing for the sent message that it equals, if any."""
    if not path.cut_short:
        return path.digests
    stored = list(path.digests)
    for index, text in path.cut_short.items():
        equal = [n for n, message in enumerate(sent) if _extends(message, text)]
        before = stored[index - 1] if index else None
        placed = [n for n in equal if n and sent[n - 1].digest == before]
        if equal:
            stored[index] = sent[(placed or equal)[0]].digest
    return stored


def _extends(message: Sent, text: str) -> bool:
    if message.role != "assistant" or message.calls:
        return False
    echo = content_of(message.value)
    short = _text(text, "assistant")
    return isinstance(echo, str) and bool(echo) and (echo.startswith(short) or short.startswith(echo))
