"""Long conversations without HTTP: a client that talks at random, and a model server that counts, refuses and keeps
what came, byte for byte."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from proxy import events
from proxy import turn as turns
from proxy.context import tokens
from proxy.errors import ProxyError
from proxy.services import Services, Turn
from proxy.upstream.protocol import Call
from proxy.upstream.route import route
from tests.inprocess import EVENTS, Ask, Message, Model, Reply, finish, streamed, user, words

OK: Message = {"role": "assistant", "content": "ok"}
SUMMARY: Message = {"role": "assistant", "content": "They talked on and on."}
_bodies = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_lists = msgspec.json.Decoder(list[msgspec.Raw]).decode

THINGS = ["anchor", "basil", "canoe", "dulcimer", "easel", "fjord", "gimlet", "harbor", "igloo", "jasmine", "kettle"]


@dataclass
class Upstream(Model):
    """Says what `script` holds, then "ok". `bodies`: what came for
    turns; a summary is made when one is asked for. `refuses`: the failure that a body gets, None for an
    answer; `counts`: its prompt_tokens, None for an answer without usage."""

    script: list[Message] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    refuses: Callable[[Message], ProxyError | None] = lambda _: None
    counts: Callable[[Message], int] | None = None

    async def send(self, call: Call) -> Reply:
        asked = json.loads(call.body)
        summary = str(asked["messages"][-1]["content"]).endswith("Write the summary now.")
        if not summary:
            self.bodies.append(call.body)
        refused = self.refuses(asked)
        if refused is not None:
            raise refused
        said = SUMMARY if summary else self.script.pop(0) if self.script else OK
        usage = None if self.counts is None else {"prompt_tokens": self.counts(asked), "completion_tokens": 1}
        if asked.get("stream"):
            return Reply(_with_usage(streamed(said), usage), (EVENTS,))
        choice = {"index": 0, "message": said, "finish_reason": finish(said)}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}
        return Reply([json.dumps(answer).encode()])

    @property
    def sent(self) -> Message:
        """What came last."""
        return json.loads(self.bodies[-1])


def _with_usage(parts: Sequence[bytes], usage: Message | None) -> list[bytes]:
    if usage is None:
        return list(parts)
    last = json.dumps({"id": "c", "created": 1, "choices": [], "usage": usage})
    return [*parts[:-1], b"data: %b\n\n" % last.encode(), parts[-1]]


def raw_messages(body: bytes) -> list[bytes]:
    return [bytes(raw) for raw in _lists(_bodies(body)["messages"])]


def field_of(body: bytes, name: str) -> bytes:
    return bytes(_bodies(body).get(name, b""))


def tools_price(body: bytes) -> int:
    return tokens.of_tools([bytes(raw) for raw in _lists(field_of(body, "tools") or b"[]")], words)


def price(messages: Iterable[bytes]) -> int:
    return sum([tokens.of_message(json.loads(raw), words) for raw in messages])


def raw_total(body: bytes) -> int:
    """What the proxy counts in a body, counted here."""
    return tools_price(body) + price(raw_messages(body)) + tokens.REPLY


def common(before: bytes, body: bytes) -> int:
    """The raw tokens that a body begins with as another did, message by message."""
    if any(field_of(before, name) != field_of(body, name) for name in ("model", "tools")):
        return 0
    same = 0
    for old, new in zip(raw_messages(before), raw_messages(body), strict=False):
        if old != new:
            break
        same += tokens.of_message(json.loads(new), words)
    return tools_price(body) + same


def turn_of(svc: Services, ask: Ask, **options: Any) -> Turn:
    """A request with these options, of the model and with the reserve that its fields name."""
    turn = ask.turn(svc)
    model = ask.fields.get("model", "m")
    given = msgspec.structs.replace(turn.options, **options)
    reserve = ask.fields.get("max_tokens", 0)
    return msgspec.structs.replace(turn, options=given, model=model, target=route(svc.config, model), reserve=reserve)


async def take(svc: Services, ask: Ask, **options: Any) -> events.Begin:
    """One turn to its end, with these options."""
    first, *_ = [event async for event in turns.run(svc, turn_of(svc, ask, **options), events.Client())]
    assert isinstance(first, events.Begin)
    return first


async def ledgers(svc: Services, name: str = "s") -> list[dict[str, Any]]:
    """The stored ledgers of a session, oldest first."""
    sql = """SELECT t.ledger FROM turns t JOIN sessions s ON s.tenant = t.tenant AND s.id = t.session
             WHERE s.name = ? ORDER BY t.turn"""
    return [json.loads(raw) for (raw,) in await svc.db.all(sql, (name,))]


@dataclass
class Talk:
    """A client that talks about things, comes back to them, and answers the calls that the model makes. `all`: what
    was said, as the client has it."""

    random: Random
    tools: float = 0.2
    all: list[Message] = field(default_factory=list)

    def text(self, most: int = 25) -> str:
        about = self.random.choice(THINGS)
        filler = " ".join(["so"] * self.random.randrange(2, most))
        return f"Where is the {about} number {len(self.all)} {filler}"

    def next(self) -> tuple[list[Message], Message]:
        """The new messages of a turn, and what the model says to them."""
        calls = self.all[-1].get("tool_calls") if self.all else None
        new = [{"role": "tool", "tool_call_id": call["id"], "content": self.text(60)} for call in calls or ()]
        new = new or [user(self.text())]
        reply: Message = {"role": "assistant", "content": self.text()}
        if self.random.random() < self.tools:
            made = [self._call(n) for n in range(self.random.choice((1, 1, 2)))]
            reply = {"role": "assistant", "content": None, "tool_calls": made}
        return new, reply

    def _call(self, n: int) -> Message:
        name = f"call_{len(self.all)}_{n}"
        return {"id": name, "type": "function", "function": {"name": "look", "arguments": "{}"}}

    def said(self, new: Sequence[Message], reply: Message) -> None:
        """What was said becomes the past."""
        self.all += [*new, reply]
