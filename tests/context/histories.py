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
    """A stored line that grows turn by turn; `open` are the calls that its end waits for."""

    random: Random
    line: list[Piece] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    turns: int = 0
    texts: int = 0

    def text(self, most: int = 30) -> str:
        self.texts += 1
        return " ".join([f"w{self.texts}", *["more"] * self.random.randrange(most)])

    def group(self) -> list[Message]:
        """Calls and their results, now and then with one missing."""
        self.texts += 1
        ids = [f"c{self.texts}_{n}" for n in range(self.random.choice((1, 1, 2, 3)))]
        kept = [id for id in ids if self.random.random() < 0.9]
        return [calls(*ids), *(result(id, self.text()) for id in kept)]

    def asked(self) -> list[Message]:
        """The new messages of the next turn: results of the open calls, or questions and what may come with them."""
        if self.open and self.random.random() < 0.8:
            given = [id for id in self.open if self.random.random() < 0.9] or self.open[:1]
            return [result(id, self.text()) for id in given]
        out = [user(self.text()) for _ in range(self.random.choice((1, 1, 1, 2)))]
        if self.random.random() < 0.2:
            out += [*self.group(), user(self.text())]
        if self.random.random() < 0.05:
            out.append({"role": "system", "content": self.text()})
        return out

    def answered(self, new: Sequence[Message]) -> None:
        """The turn is stored with a reply: a text, or calls that the next turn may answer."""
        self.turns += 1
        reply = says(self.text()) if self.random.random() < 0.7 else self.group()[0]
        self.open = [call["id"] for call in reply.get("tool_calls", ())]
        for value in [*new, reply]:
            self.line.append(piece(value, len(self.line) + 1, self.turns))


def talk(random: Random, turns: int) -> Talk:
    """A conversation of so many turns."""
    out = Talk(random)
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
