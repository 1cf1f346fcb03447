"""Random clients of one session, and the session as it has to be afterwards: a model for property tests.

A `Conversation` is a plain tree of lines. `step` draws a request of some client shape together with what the contract
(section 6.2) makes of it: which line it stands on, what is new, whether a branch starts. It knows nothing of digests.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from proxy.types import Mode

Message = dict[str, Any]
COMMON = ("ok", "yes", "go on", "and then?")
"""What people, models and tools say again and again."""


@dataclass(frozen=True)
class Held:
    """A message of the session. `short`: its reply broke off. `turn` stored it, under the instructions `system`."""

    value: Message
    turn: int
    short: bool = False
    system: str | None = None


@dataclass(frozen=True)
class Step:
    """A request and what it has to do: `kept` stands before, `new` is added, on branch `number`."""

    shape: str
    sent: Sequence[Message]
    kept: Sequence[Held]
    new: Sequence[Message]
    number: int
    mode: Mode = "auto"
    repeats: bool = False
    """A known text is added once more: from here on texts do not show where they stand."""


@dataclass
class Conversation:
    """The session as it should be. `unique`: no text comes twice; else all come from COMMON."""

    random: Random
    unique: bool = True
    lines: dict[int, list[Held]] = field(default_factory=dict)
    current: int = 1
    turns: int = 0
    texts: int = 0
    copied: bool = False
    """Some texts stand on two lines at different places, so that a window may belong to either."""
    noise: bool = False
    """Clients echo with other spellings: white space, parts, lost fields, new ids, results in another order."""

    # --- what is said ---

    def text(self) -> str:
        self.texts += 1
        return f"t{self.texts:05} of them" if self.unique else self.random.choice(COMMON)

    def user(self) -> Message:
        return {"role": "user", "content": self.text()}

    def reply(self) -> Message:
        """What the model says next: a text or a group of calls."""
        if self.random.random() < 0.7:
            return {"role": "assistant", "content": self.text()}
        return {"role": "assistant", "content": None, "tool_calls": [self._call() for _ in range(self._few())]}

    def _few(self) -> int:
        return self.random.choice((1, 1, 2, 3))

    def _call(self) -> Message:
        self.texts += 1
        made = {"name": "look", "arguments": json.dumps({"for": self.text(), "n": 1})}
        return {"id": f"call_{self.texts:05}", "type": "function", "function": made}

    def _results(self, line: Sequence[Held]) -> list[Message]:
        calls = line[-1].value.get("tool_calls") or () if line else ()
        return [{"role": "tool", "tool_call_id": call["id"], "content": self.text()} for call in calls]

    def _next(self, line: Sequence[Held]) -> list[Message]:
        """What a client says after a line: the results if calls are open, else a question."""
        return self._results(line) or [self.user()]

    # --- requests ---

    def step(self) -> Step:
        """The next request: of a shape that fits what the session holds."""
        shapes = self.random.choices(SHAPES, k=8)
        steps = (shape(self) for shape in shapes)
        return next((step for step in steps if step is not None), delta(self))

    @property
    def line(self) -> list[Held]:
        return self.lines.get(self.current, [])

    def pick(self) -> int:
        """A branch, more often than not the current one."""
        return self.current if self.random.random() < 0.6 else self.random.choice(list(self.lines))

    def start(self, line: Sequence[Held], upto: int) -> int:
        """Where a window on a line may begin: not with a result, a system message or a reply that broke off."""
        places = [n for n in range(upto) if line[n].value["role"] not in ("tool", "system") and not line[n].short]
        return 0 if self.copied or self.random.random() < 0.5 else self.random.choice(places or [0])

    def continues(self, shape: str, number: int, sent: Sequence[Message], new: Sequence[Message]) -> Step:
        return Step(shape, self.echo(sent, new), self.lines.get(number, []), new, number)

    def forks(self, shape: str, sent: Sequence[Message], kept: Sequence[Held], new: Sequence[Message]) -> Step:
        return Step(shape, self.echo(sent, new), kept, new, len(self.lines) + 1)

    # --- how clients spell what they send again ---

    def echo(self, sent: Sequence[Message], new: Sequence[Message]) -> list[Message]:
        if not self.noise:
            return list(sent)
        every = [held for line in self.lines.values() for held in line]
        known = {id(held.value) for held in every}
        short = {id(held.value) for held in every if held.short}
        short -= {id(held.value) for held in every if not held.short} | {id(message) for message in new}
        ids: dict[str, str] = {}
        out = []
        for message in sent:
            spelt = self._spelt(message, ids) if id(message) in known else message
            out.append(self._longer_or_shorter(message) if id(message) in short else spelt)
        out = [_answering(message, ids) for message in out]
        return self._shuffled(out)

    def _longer_or_shorter(self, message: Message) -> Message:
        """What a client has of a reply that broke off: not always what the proxy has."""
        text = message["content"]
        kept = text[: self.random.randint(7, len(text))] if self.random.random() < 0.5 else text + " and more"
        return {**message, "content": kept}

    def _spelt(self, message: Message, ids: dict[str, str]) -> Message:
        out = {key: value for key, value in message.items() if key != "reasoning_content"}
        way = self.random.randrange(6)
        text = out.get("content")
        if isinstance(text, str):
            if way == 0:
                out["content"] = f"\n  {text} \t"
            elif way == 1:
                out["content"] = [{"type": "text", "text": text}]
            elif way == 2 and out["role"] == "assistant":
                out["content"] = f"<think>hm, {self.random.random()}</think>\n{text}"
            elif way == 3 and out["role"] != "user":
                out["name"] = "somebody"
        elif way == 4:
            out["content"] = ""
        elif way == 5:
            del out["content"]
        if out.get("tool_calls") and self.random.random() < 0.5:
            out["tool_calls"] = [self._respelt(call, ids) for call in out["tool_calls"]]
        return out

    def _respelt(self, call: Message, ids: dict[str, str]) -> Message:
        ids[call["id"]] = f"{call['id']}_renamed"
        made = json.loads(call["function"]["arguments"])
        spaced = json.dumps(dict(reversed(made.items())), indent=1)
        return {**call, "id": ids[call["id"]], "function": {**call["function"], "arguments": spaced}}

    def _shuffled(self, sent: list[Message]) -> list[Message]:
        """The results of each group in any order."""
        out: list[Message] = []
        group: list[Message] = []
        for message in [*sent, None]:
            if message is not None and message["role"] == "tool":
                group.append(message)
                continue
            self.random.shuffle(group)
            out += group
            group = []
            if message is not None:
                out.append(message)
        return out

    # --- what happens ---

    def stored(self, step: Step, reply: Message, short: bool = False, system: str | None = None) -> None:
        """The turn took place."""
        self.turns += 1
        new = [Held(value, self.turns, system=system) for value in step.new]
        self.copied |= self._copies([*spoken(step.kept), *step.new], step.new)
        self.lines[step.number] = [*step.kept, *new, Held(reply, self.turns, short, system)]
        self.current = step.number

    def _copies(self, line: Sequence[Message], new: Sequence[Message]) -> bool:
        """Whether known messages are added at another place than where they stand."""
        lines = [[id(held.value) for held in one] for one in self.lines.values()]
        known = {mark for one in lines for mark in one}
        marks = [id(value) for value in line]
        return any(id(value) in known for value in new) and not any(one[: len(marks)] == marks for one in lines)


def _answering(message: Message, ids: dict[str, str]) -> Message:
    answers = message.get("tool_call_id")
    return {**message, "tool_call_id": ids[answers]} if answers in ids else message


def spoken(line: Sequence[Held]) -> list[Message]:
    return [held.value for held in line]


def evident(line: Sequence[Held]) -> bool:
    """Whether people who only talk could not have sent it."""
    return any(held.value["role"] in ("assistant", "tool") for held in line)


# --- shapes: each draws a request, or None where the session has nothing to apply it to ---


def delta(c: Conversation) -> Step:
    """Only what is new: a question, or the results of the calls that were just made."""
    new = c._next(c.line)
    return c.continues("delta", max(c.current, 1), new, new)


def several(c: Conversation) -> Step:
    """Several new messages at once, none of them known."""
    new = [c.user() for _ in range(c.random.randint(2, 3))]
    kind = c.random.randrange(3)
    if kind == 1 and c.unique:
        new.insert(1, {"role": "assistant", "content": c.text()})
    elif kind == 2:
        new.insert(1, {"role": "system", "content": c.text()})
    return c.continues("several", c.current, new, new)


def append(c: Conversation) -> Step:
    """mode append: whatever is sent is new."""
    new = [c.user(), {"role": "assistant", "content": c.text()}, c.user()]
    new = new if c.random.random() < 0.5 else new[:1]
    return Step("append", new, c.line, new, c.current, "append")


def full(c: Conversation) -> Step | None:
    """The whole conversation and what is new, on any branch."""
    if not c.lines:
        return None
    number = c.pick()
    new = c._next(c.lines[number])
    return c.continues("full", number, [*spoken(c.lines[number]), *new], new)


def run_local(c: Conversation) -> Step | None:
    """Agent frameworks: the current run only, from its question on."""
    line = c.line
    asked = max((n for n, held in enumerate(line) if held.value["role"] == "user"), default=None)
    if asked is None:
        return None
    new = c._next(line)
    return c.continues("run-local", c.current, [*spoken(line[asked:]), *new], new)


def window(c: Conversation) -> Step | None:
    """A trimmed history: its newest part and what is new."""
    if not c.lines:
        return None
    number = c.pick()
    line = c.lines[number]
    new = c._next(line)
    return c.continues("window", number, [*spoken(line[c.start(line, len(line)) :]), *new], new)


def again(c: Conversation) -> Step | None:
    """The whole conversation and nothing new: the model is to go on."""
    if not c.lines or c.random.random() < 0.7:
        return None
    number = c.pick()
    line = c.lines[number]
    if line[-1].value.get("tool_calls"):
        return None
    return c.continues("again", number, spoken(line), [])


def edit(c: Conversation) -> Step | None:
    """A question is changed; what followed it is left out, or kept below it."""
    if not c.lines:
        return None
    line = c.lines[c.pick()]
    at = c.random.choice([n for n, held in enumerate(line) if held.value["role"] == "user"] or [None])
    if at is None:
        return None
    first = c.start(line, at) if at else 0
    rest = line[at + 1 : c.random.randint(at + 1, len(line))] if c.random.random() < 0.4 else []
    while rest and (rest[-1].value.get("tool_calls") or rest[-1].value["role"] == "tool"):
        rest = rest[:-1]
    new = [c.user(), *spoken(rest)]
    if new[-1]["role"] != "user":
        new.append(c.user())
    head = spoken(line[first:at])
    if evident(line[first:at]):
        return c.forks("edit", [*head, *new], line[:at], new)
    sent = [*head, *new]
    if evident(rest):
        return c.forks("edit of the first message", sent, [], sent)
    return Step("edit that shows no evidence", sent, c.line, sent, c.current, repeats=True)


def edit_answer(c: Conversation) -> Step | None:
    """The model's answer is changed, and the talk goes on from there."""
    if not c.lines:
        return None
    line = c.lines[c.pick()]
    places = [n for n, held in enumerate(line) if n and held.value["role"] == "assistant" and not held.short]
    if not places:
        return None
    at = c.random.choice(places)
    first = c.start(line, at)
    if not (evident(line[first:at]) or line[at - 1].value["role"] == "user"):
        return None
    new = [{"role": "assistant", "content": c.text()}, c.user()]
    return c.forks("edit of an answer", [*spoken(line[first:at]), *new], line[:at], new)


def regenerate(c: Conversation) -> Step | None:
    """The same conversation up to a question, once more: the model is to answer it anew."""
    if not c.lines:
        return None
    line = c.lines[c.pick()]
    asked = [n for n, held in enumerate(line[:-1]) if held.value["role"] == "user" and not _user(line[n + 1])]
    if not asked:
        return None
    at = c.random.choice(asked)
    first = c.start(line, at) if at else 0
    sent = spoken(line[first : at + 1])
    if evident(line[first:at]):
        return c.forks("regeneration", sent, line[:at], sent[-1:])
    if sent == unanswered(c):
        return after_a_break(c)
    return Step("regeneration that shows no evidence", sent, c.line, sent, c.current, repeats=True)


def _user(held: Held) -> bool:
    return held.value["role"] == "user"


def after_a_break(c: Conversation) -> Step | None:
    """The last reply broke off: the same new messages are sent again."""
    asked = unanswered(c)
    if not asked or any(message["role"] != "user" for message in asked):
        return None
    return c.forks("retry after a break", asked, c.line[: -len(asked) - 1], asked)


def unanswered(c: Conversation) -> list[Message]:
    """The new messages of the last turn if its reply broke off."""
    line = c.line
    if not line or not line[-1].short:
        return []
    return spoken([held for held in line[:-1] if held.turn == line[-1].turn])


def resend(c: Conversation) -> Step | None:
    """mode resend: all that is sent is the conversation, edits and regenerations included."""
    if not c.lines:
        return None
    number = c.pick()
    line = c.lines[number]
    at = c.random.choice([len(line), *(n for n, held in enumerate(line) if _user(held))])
    if at == len(line):
        new = c._next(line)
        return Step("resend", c.echo([*spoken(line), *new], new), line, new, number, "resend")
    new = [c.user()] if c.random.random() < 0.5 else [line[at].value]
    sent = c.echo([*spoken(line[:at]), *new], new)
    return Step("resend of an edit", sent, line[:at], new, len(c.lines) + 1, "resend")


SHAPES: Sequence[Callable[[Conversation], Step | None]] = (
    delta,
    delta,
    several,
    append,
    full,
    full,
    run_local,
    window,
    again,
    edit,
    edit_answer,
    regenerate,
    after_a_break,
    resend,
)
