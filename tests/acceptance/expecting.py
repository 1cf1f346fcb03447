"""The words of the fidelity table: what a model server answers, and what is expected at either end."""

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDictProxy

from tests.acceptance.asking import Reply
from tests.scripted import Exchange, Recorded, ScriptedUpstream, Step

MESSAGE = '{"role": "user", "content": "hi"}'


@dataclass(frozen=True)
class Seen:
    """A row's request at both ends, in one mode."""

    row: "Row"
    stream: bool
    session: bool
    up: ScriptedUpstream
    reply: Reply

    @property
    def sent(self) -> bytes:
        return self.row.request(self.stream)

    @property
    def got(self) -> Recorded:
        """The request as the model server got it."""
        assert self.up.requests, f"nothing went up; the client got {self.reply}"
        return self.up.requests[0]


Check = Callable[[Seen], None]


@dataclass(frozen=True)
class Row:
    """What is sent, what the model server does, and what is expected: in every mode, and in some.

    `sends`: fields of the body, as raw JSON; `body`: all of it instead. `only`: a word of the modes the row is for.
    `leaves`: the client hangs up after so many events. `own_key`: the proxy asks with its own key, not the client's.
    """

    name: str
    expect: Sequence[Check] = ()
    stateless: Sequence[Check] = ()
    session: Sequence[Check] = ()
    sends: Mapping[str, str] = field(default_factory=dict)
    message: str = MESSAGE
    body: bytes | None = None
    headers: Sequence[tuple[str, str]] = ()
    query: str = ""
    method: str = "POST"
    does: Step | None = None
    only: str = ""
    leaves: int | None = None
    own_key: bool = False
    retries: int = 0

    def request(self, stream: bool) -> bytes:
        """The request's body."""
        if self.body is not None:
            return self.body
        fields = {"model": '"m"', **({"stream": "true"} if stream else {}), **self.sends}
        written = "".join(f',  "{name}" : {value}' for name, value in fields.items())
        return f'{{"messages": [{self.message}]{written}\n}}'.encode()


# --- what the model server does ---


@dataclass(frozen=True)
class Says:
    """An answer: `whole`, or its `events` to a request that streams, the usage event for those who ask for it."""

    whole: bytes
    events: Sequence[bytes]
    usage: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    packed: bool = False

    async def __call__(self, exchange: Exchange) -> None:
        packer = zlib.compressobj(wbits=31)
        given = {"content-type": "application/json", **self.headers}
        if self.packed:
            given["content-encoding"] = "gzip"
        if not exchange.request.stream:
            body = packer.compress(self.whole) + packer.flush() if self.packed else self.whole
            await exchange.whole(200, body, given)
            return
        await exchange.start_stream(**{**given, "content-type": "text/event-stream"})
        asked = (exchange.request.json.get("stream_options") or {}).get("include_usage")
        for event in self.written(bool(asked)):
            await exchange.chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) if self.packed else event)
        if self.packed:
            await exchange.chunk(packer.flush())
        await exchange.end()

    def written(self, asked: bool) -> list[bytes]:
        return [*self.events, *([self.usage] if asked else []), DONE]


DONE = b"data: [DONE]\n\n"


def answer(top: str = "", choice: str = "", said: str = "", usage: str = "", **headers: str) -> Says:
    """An answer with more fields: of the answer and each chunk, of the choice, of the message (delta), of the usage.
    Its spaces, escapes and order are those of no encoder."""
    top, choice, said, usage = (f" , {more}" if more else "" for more in (top, choice, said, usage))
    kind = '{"id": "chatcmpl-Z9",  "created": 1700000000,"object": "%s", "model":"m-2026" , "choices": [ %s ]%s}'
    counts = f'"usage": {{"total_tokens": 5, "prompt_tokens": 3 ,"completion_tokens": 2{usage}}}'
    message = f'{{"content": "Gr\\u00fc\\u00df 🎈", "role": "assistant"{said}}}'
    whole = kind % (
        "chat.completion",
        f'{{"message": {message}, "index": 0, "finish_reason": "stop"{choice}}}',
        f", {counts}{top}",
    )
    deltas = ('{"role": "assistant", "content": ""}', f'{{"content": "Gr\\u00fc"{said}}}', '{"content": "\\u00df 🎈"}')
    parts = [f'{{"delta": {delta}, "index": 0, "finish_reason": null{choice}}}' for delta in deltas]
    parts.append('{"index": 0, "delta": {}, "finish_reason": "stop"}')
    events = [event(kind % ("chat.completion.chunk", part, top)) for part in parts]
    last = event(kind % ("chat.completion.chunk", "", f", {counts}{top}"))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Says(whole.encode(), events, last, named)


def event(payload: str) -> bytes:
    return f"data: {payload}\n\n".encode()


ANSWER = answer()
ROLE, HELLO, WORLD, FINISH = ANSWER.events
START = ROLE + HELLO


def streams(*pieces: bytes, cut: bool = False, **headers: str) -> Step:
    """An event stream in exactly these pieces; `cut`: the connection ends in its middle."""

    async def step(exchange: Exchange) -> None:
        await exchange.start_stream(**headers)
        for piece in pieces:
            await exchange.chunk(piece)
        if cut:
            exchange.hang_up()
        else:
            await exchange.end()

    return step


def gives(status: int, body: bytes | str, kind: str = "application/json", **headers: str) -> Step:
    """One body, whatever was asked."""
    given = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = body.encode() if isinstance(body, str) else body

    async def step(exchange: Exchange) -> None:
        await exchange.whole(status, raw, given)

    return step


# --- what is expected of the model server's side ---


def as_written(seen: Seen) -> None:
    """The request goes up: without a session its bytes, in one the bytes of its message and of each field, in order."""
    if not seen.session:
        assert seen.got.body == seen.sent
        return
    sent, got = json.loads(seen.sent), seen.got.json
    assert seen.row.message.encode() in seen.got.body
    for name, value in seen.row.sends.items():
        if name != "stream_options":  # the proxy asks for usage there
            assert f'"{name}":{value}'.encode() in seen.got.body
    asked = {**sent.get("stream_options", {}), "include_usage": True} if seen.stream else None
    assert got.pop("stream_options", None) == (asked or sent.pop("stream_options", None))
    sent.pop("stream_options", None)
    assert [name for name in got if name != "messages"] == [name for name in sent if name != "messages"]
    assert dump(got) == dump(sent), "the same values"


def dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def goes_up(name: str, value: str) -> Check:
    """A header reaches the model server."""

    def check(seen: Seen) -> None:
        assert [given for key, given in seen.got.headers if key == name.lower()] == [value]

    return check


def stays(*names: str) -> Check:
    """No header of these names reaches the model server, nor what the client sent under them."""

    def check(seen: Seen) -> None:
        assert not {name.lower() for name in names} & {key for key, _ in seen.got.headers}
        values = {value for key, value in seen.row.headers if key in names}
        assert not values & {value for _, value in seen.got.headers}

    return check


def lacks(*names: str) -> Check:
    """No such field reaches the model server, which gets the others."""

    def check(seen: Seen) -> None:
        assert {*json.loads(seen.sent)} - {*names} <= {*seen.got.json} - {*names} == {*seen.got.json}

    return check


def path(wanted: str) -> Check:
    def check(seen: Seen) -> None:
        assert seen.got.path == wanted

    return check


def calls(n: int) -> Check:
    """So many requests reached the model server."""

    def check(seen: Seen) -> None:
        assert len(seen.up.requests) == n

    return check


def asked_usage(wanted: bool | None) -> Check:
    """What the model server is told of include_usage."""

    def check(seen: Seen) -> None:
        assert (seen.got.json.get("stream_options") or {}).get("include_usage") is wanted

    return check


# --- what is expected of the client's side ---


def as_answered(seen: Seen) -> None:
    """Status 200 and the answer's bytes, [DONE] last; the usage event exactly for a client that asked."""
    says = seen.row.does or ANSWER
    assert isinstance(says, Says)
    asked = (json.loads(seen.sent).get("stream_options") or {}).get("include_usage") is True
    wanted = b"".join(says.written(asked)) if seen.stream else says.whole
    body(wanted)(seen)
    if seen.stream:
        assert (seen.reply.streamed, seen.reply.done) == (True, True)


def body(wanted: bytes | str) -> Check:
    """Status 200 and these bytes."""
    raw = wanted.encode() if isinstance(wanted, str) else wanted

    def check(seen: Seen) -> None:
        assert (seen.reply.status, seen.reply.body) == (200, raw)

    return check


def refused(status: int, wanted: bytes | str | None = None, /, **keys: Any) -> Check:
    """An error: its status, its bytes, or some of the four keys that every error has."""
    raw = wanted.encode() if isinstance(wanted, str) else wanted

    def check(seen: Seen) -> None:
        assert seen.reply.status == status
        assert seen.reply.headers["content-type"] == "application/json"
        assert raw is None or seen.reply.body == raw
        assert {key: seen.reply.error[key] for key in keys} == keys

    return check


def comes(name: str, value: str) -> Check:
    """A header reaches the client, once."""

    def check(seen: Seen) -> None:
        headers = seen.reply.headers
        assert isinstance(headers, CIMultiDictProxy)
        assert headers.getall(name, []) == [value]

    return check


def comes_not(*names: str) -> Check:
    """No header of these names reaches the client."""

    def check(seen: Seen) -> None:
        assert not {name.lower() for name in names} & {name.lower() for name in seen.reply.headers}

    return check


def breaks(before: bytes, /, **keys: Any) -> Check:
    """Status 200, these bytes, then one error event with these keys, and no [DONE]."""

    def check(seen: Seen) -> None:
        assert seen.reply.status == 200
        assert seen.reply.body.startswith(before)
        last = seen.reply.body.removeprefix(before)
        assert re.fullmatch(rb"data: \{.*\}\n\n", last), last
        assert {key: seen.reply.error[key] for key in keys} == keys
        assert not seen.reply.done

    return check


def tells(**wanted: Any) -> Check:
    """A stream that puts together to a message, choice or answer with these values, and ends with [DONE]."""

    def check(seen: Seen) -> None:
        assert seen.reply.done
        found: dict[str, Any] = {}
        for chunk in seen.reply.chunks:
            for choice in chunk.get("choices", []):
                found = {**found, **chunk, **choice, **choice["delta"]}
        assert {key: found.get(key) for key in wanted} == wanted

    return check
