"""Strategies choose what is sent and change nothing that is stored: any of them can follow any other."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec
import pytest

from proxy import events
from proxy import turn as turns
from proxy.context import summary
from proxy.services import Services
from proxy.types import Options, Overflow
from proxy.upstream.protocol import Call
from tests.context.validator import problems
from tests.inprocess import Ask, Message, Model, Reply, services, user, whole, words

pytestmark = pytest.mark.anyio

HUGE = 10_000_000
SYSTEM: Message = {"role": "system", "content": "be brief and kind"}


@dataclass
class Script(Model):
    """Says what the script of its turns says, and sums up when it is asked to. `bodies`: what came for the turns."""

    script: list[Message] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    summaries: int = 0

    async def send(self, call: Call) -> Reply:
        if json.loads(call.body)["messages"][-1]["content"].endswith("Write the summary now."):
            self.summaries += 1
            return Reply([whole({"role": "assistant", "content": "They " + "talked on and on. " * 3})])
        self.bodies.append(call.body)
        return Reply([whole(self.script.pop(0))])


@dataclass
class Talk:
    """A conversation as the client sees it, tools included; everything that was said, in its order."""

    random: Random
    said: list[Message] = field(default_factory=list)

    def text(self) -> str:
        return " ".join([f"w{len(self.said)}", *["more"] * self.random.randrange(2, 25)])

    def next(self) -> tuple[list[Message], Message]:
        """The new messages of a turn, and what the model says to them."""
        calls = self.said[-1].get("tool_calls") if self.said else None
        new = [{"role": "tool", "tool_call_id": call["id"], "content": self.text() * 3} for call in calls or ()]
        new = new or [user(self.text())]
        reply: Message = {"role": "assistant", "content": self.text()}
        if self.random.random() < 0.2:
            function = {"name": "look", "arguments": "{}"}
            made = {"id": f"call_{len(self.said)}", "type": "function", "function": function}
            reply = {"role": "assistant", "content": None, "tool_calls": [made]}
        self.said += [*new, reply]
        return new, reply


async def take(svc: Services, model: Script, talk: Talk, options: Options, name: str = "s") -> Message:
    """One turn; the body that went up."""
    new, reply = talk.next()
    model.script.append(reply)
    turn = Ask([SYSTEM, *new], name=name).turn(svc)
    turn = msgspec.structs.replace(turn, options=options)
    assert [event async for event in turns.run(svc, turn, events.Client())]
    model.bodies = model.bodies[-1:]
    sent = json.loads(model.bodies[-1])
    assert problems(sent["messages"]) == []
    return sent


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
@pytest.mark.parametrize("strategy", ["summarize", "adaptive"])
async def test_many_turns_under_a_strategy_and_the_next_one_sends_all_that_was_said(
    tmp_path: Path, strategy: Overflow, count: int
) -> None:
    model, talk = Script(), Talk(Random(4))
    async with services(tmp_path, model) as svc:
        shrunk = 0
        for _ in range(count):
            sent = await take(svc, model, talk, Options(token_budget=700, overflow=strategy))
            assert sum(words(str(message["content"])) for message in sent["messages"]) <= 700
            shrunk += len(sent["messages"]) < len(talk.said)
            await svc.summaries.settled()
        assert shrunk > count * 2 // 3
        assert (model.summaries > count // 50) == (strategy == "summarize")
        said = list(talk.said)
        sent = await take(svc, model, talk, Options(token_budget=HUGE, overflow="truncate"))
        assert sent["messages"] == [SYSTEM, *said, *talk.said[len(said) : -1]]
        switched = model.bodies[-1]

        again = Talk(Random(4))
        for _ in range(count + 1):
            await take(svc, model, again, Options(token_budget=HUGE, overflow="truncate"), "plain")
        assert again.said == talk.said
        assert model.bodies[-1] == switched, "byte for byte what a session sends that never left anything out"


async def test_strategies_take_turns_and_each_sends_what_is_valid_and_fits(tmp_path: Path) -> None:
    draw = Random(5)
    model, talk = Script(), Talk(Random(6))
    every: tuple[Overflow, ...] = ("adaptive", "summarize", "truncate")
    seen = set()
    async with services(tmp_path, model, "context: {summaries: true}") as svc:
        for _ in range(300):
            options = Options(token_budget=draw.choice((400, 700, 1500)), overflow=draw.choice(every))
            sent = await take(svc, model, talk, options)
            total = sum(words(str(message["content"])) for message in sent["messages"])
            assert total <= (options.token_budget or 0)
            seen |= {message["content"].startswith(summary.OPENING) for message in sent["messages"][1:2]}
            await svc.summaries.settled()
    assert seen == {True, False}
