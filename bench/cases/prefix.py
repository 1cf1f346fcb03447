"""How much of a prompt the model server has seen before: the part of each request that begins as the one before it.

Dialogues are replayed turn by turn through the real path of a turn, with a system message of 600 tokens and a budget. A
request is rendered to one stream of tokens (o200k of each message's JSON); what it has in common with the beginning of
the session's last request counts in whole blocks of 16 tokens, as vLLM's prefix cache counts.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from bench import dialogues, inprocess, servers
from bench.lab import Lab
from bench.report import Row
from proxy import tokenizer
from proxy.types import Options

BLOCK = 16
SYSTEM_TOKENS = 600
BUDGETS = (4_000, 8_000, 16_000)
RULE = "Answer in a friendly voice, keep to what was said, name dates and people as they were told, and ask one thing."


@dataclass(frozen=True)
class Setting:
    """A configuration that is measured, with the least share to reach at each budget."""

    name: str
    config: str
    least: tuple[float, ...]


SETTINGS = (
    Setting("recall off", "recall: {enabled: false}\n", (0.92, 0.95, 0.97)),
    Setting("default", "", (0.70, 0.83, 0.90)),
)

Encode = Callable[[str], Sequence[int]]


class _Body(msgspec.Struct):
    messages: list[msgspec.Raw]


_body = msgspec.json.Decoder(_Body).decode


@dataclass
class Reuse:
    """What was sent, in tokens, and how much of it began as the request before. `tokens` of one message's JSON."""

    tokens: Callable[[bytes], Sequence[int]]
    sent: int = 0
    reused: int = 0
    requests: int = 0
    last: Sequence[bytes] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.reused / max(self.sent, 1)

    def begin(self) -> None:
        """Another session: nothing of it was sent yet."""
        self.last = []

    def take(self, body: bytes) -> None:
        """The next request of the session."""
        messages = [bytes(raw) for raw in _body(body).messages]
        self.requests += 1
        self.sent += sum(len(self.tokens(raw)) for raw in messages)
        self.reused += self.common(messages) // BLOCK * BLOCK
        self.last = messages

    def common(self, messages: Sequence[bytes]) -> int:
        """The tokens before the first one that differs from the last request's."""
        same = 0
        for own, other in zip(messages, self.last, strict=False):
            if own != other:
                pairs = zip(self.tokens(own), self.tokens(other), strict=False)
                return same + next((n for n, (one, two) in enumerate(pairs) if one != two), 0)
            same += len(self.tokens(own))
        return same


def prefix(lab: Lab) -> list[Row]:
    talks = dialogues.locomo(lab.locomo) if lab.locomo else dialogues.generated(lab.size(5, 1), lab.size(600, 300))
    which = "LoCoMo" if lab.locomo else "generated"
    if lab.quick:
        talks = talks[:1]
    encode = tokenizer._encoding(tokenizer._ranks()).encode_ordinary
    rows = []
    for setting in SETTINGS:
        for budget, least in zip(BUDGETS, setting.least, strict=True):
            reuse = asyncio.run(replayed(talks, budget, setting, encode))
            name = f"{setting.name}: share sent before, {budget:,} tokens, {which}"
            unit = f"% of {reuse.sent:,} tokens"
            rows.append(Row("prefix", name, 100 * reuse.share, unit, target=100 * least, floor=True))
    return rows


async def replayed(talks: Sequence[Sequence[str]], budget: int, setting: Setting, encode: Encode) -> Reuse:
    """Each dialogue as a session of its own: one utterance asks, the next one is the model's answer."""
    reuse = Reuse(functools.lru_cache(maxsize=4096)(lambda raw: tuple(encode(raw.decode()))))
    answers: list[str] = []

    def says(body: bytes) -> str:
        reuse.take(body)
        return answers.pop()

    system = {"role": "system", "content": instructions(lambda text: len(encode(text)))}
    with servers.directory() as folder:
        model = inprocess.Model(says)
        async with inprocess.services(folder, model, lambda text: len(encode(text)), setting.config) as svc:
            for number, talk in enumerate(talks):
                reuse.begin()
                for asked, answer in zip(talk[::2], talk[1::2], strict=False):
                    answers.append(answer)
                    messages = [system, {"role": "user", "content": asked}]
                    options = Options(token_budget=budget)
                    await inprocess.run(svc, inprocess.turn(svc, f"talk-{number}", messages, options))
    return reuse


def instructions(count: Callable[[str], int]) -> str:
    """A text of SYSTEM_TOKENS tokens, a few less at most."""
    out = "You are the other person in a long conversation."
    number = 1
    while count(longer := f"{out}\n{number}. {RULE}") <= SYSTEM_TOKENS:
        out, number = longer, number + 1
    return out
