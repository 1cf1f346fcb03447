"""Random conversations for the tests of this package, as pieces: turns with and without tools, some left unanswered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from proxy.context import tokens
from proxy.context.transcript import Piece

Message = dict[str, Any]


def words(text: str) -> int:
    return len(text.split())


def piece(value: Message, seq: int | None = None, turn: int = 0) -> Piece:
    calls = len(value.get("tool_calls") or ())
    return Piece(value["role"], json.dumps(value).encode(), tokens.of_message(value, words), seq, turn, calls)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def says(text: str) -> Message:
    return {"role": "assistant", "content": text}


def calls(*ids: str) -> Message:
    made = [{"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(id: str, text: str = "42") -> Message:
    return {"role": "tool", "tool_call_id": id, "content": text}


@dataclass
class Talk:
    """A stored line that grows turn by turn; `open` are the calls that its end waits for, `missed` those of its last
    group that nobody answered in time. `odd`: with what clients and servers do now and then: ids that come again,
    late results, large ones, parts, names, functions of the old kind, custom calls, refusals, answers
    aloud, replies that broke off."""

    random: Random
    line: list[Piece] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    turns: int = 0
    texts: int = 0
    odd: bool = False
    missed: list[str] = field(default_factory=list)

    def text(self, most: int = 30) -> str:
        self.texts += 1
        return " ".join([f"w{self.texts}", *["more"] * self.random.randrange(most)])

    def sometimes(self, share: float) -> bool:
        return self.odd and self.random.random() < share

    def ids(self) -> list[str]:
        self.texts += 1
        head = "call" if self.sometimes(0.5) else f"c{self.texts}"
        return [f"{head}_{n}" for n in range(self.random.choice((1, 1, 2, 3)))]

    def result(self, id: str) -> Message:
        given = result(id, self.text(200 if self.sometimes(0.3) else 30))
        if self.sometimes(0.1):
            given["name"] = "look up"
        if self.sometimes(0.1):
            given["content"] = [{"type": "text", "text": given["content"]}, {"type": "text", "text": self.text()}]
        return given

    def group(self) -> list[Message]:
        """Calls and their results, now and then with one missing."""
        if self.sometimes(0.1):
            made = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}}
            return [made, {"role": "function", "name": "look", "content": self.text()}]
        ids = self.ids()
        kept = [id for id in ids if self.random.random() < 0.9]
        return [calls(*ids), *(self.result(id) for id in kept)]

    def question(self) -> Message:
        asked = user(self.text())
        if self.sometimes(0.1):
            image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
            asked["content"] = [{"type": "text", "text": asked["content"]}, image]
        return asked

    def asked(self) -> list[Message]:
        """The new messages of the next turn: results of the open calls, or questions and what may come with them."""
        if self.open and self.random.random() < 0.8:
            given = [id for id in self.open if self.random.random() < 0.9] or self.open[:1]
            self.missed = [id for id in self.open if id not in given]
            return [*(self.result(id) for id in given), *([self.question()] if self.sometimes(0.1) else ())]
        if self.missed and self.sometimes(0.3):
            late, self.missed = self.missed, []
            return [*(self.result(id) for id in late), *([self.question()] if self.sometimes(0.5) else ())]
        self.missed = self.open or self.missed
        out = [self.question() for _ in range(self.random.choice((1, 1, 1, 2)))]
        if self.random.random() < 0.2:
            out += [*self.group(), user(self.text())]
            self.missed = []
        if self.random.random() < 0.05:
            out.append({"role": "system", "content": self.text()})
        return out

    def reply(self) -> Message:
        """A text, at times one that broke off, or calls that the next turn may answer."""
        if self.random.random() < 0.7:
            said = says(self.text(2 if self.sometimes(0.1) else 30))
            if self.sometimes(0.1):
                audio = {"id": "audio_1", "transcript": self.text()}
                return said | {"content": None} | self.random.choice(({"refusal": self.text()}, {"audio": audio}))
            return {**said, "reasoning_content": self.text()} if self.sometimes(0.1) else said
        made = calls(*self.ids())
        if self.sometimes(0.2):
            made["tool_calls"][0] |= {"type": "custom", "custom": {"name": "look", "input": "x"}}
            del made["tool_calls"][0]["function"]
        return made

    def answered(self, new: Sequence[Message]) -> None:
        """The turn is stored with a reply."""
        self.turns += 1
        reply = self.reply()
        self.open = [call["id"] for call in reply.get("tool_calls", ())]
        if self.open:
            self.missed = []
        for value in [*new, reply]:
            self.line.append(piece(value, len(self.line) + 1, self.turns))


def talk(random: Random, turns: int, odd: bool = False) -> Talk:
    """A conversation of so many turns."""
    out = Talk(random, odd=odd)
    for _ in range(turns):
        out.answered(out.asked())
    return out


def check_valid(sent: Sequence[Message]) -> None:
    """Upstreams take it: calls are followed by all their results, and no result stands anywhere else."""
    owed: list[str] = []
    for message in sent:
        if message["role"] == "tool":
            owed.remove(message["tool_call_id"])
            continue
        assert not owed, "a call has no result"
        owed = [call["id"] for call in message.get("tool_calls") or ()]
    assert not owed, "a call has no result"
