"""python -m bench.picture docs/context.svg: what one long session sent, turn by turn, drawn from its stored ledgers.

The session runs in this process through the real path of a turn, with a model that says what the script says: small
talk that comes back to old things, a stretch of work with tools whose results are long, and summaries.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from bench import dialogues, drawing, inprocess
from bench.inprocess import Message
from proxy import tokenizer
from proxy.services import Services
from proxy.store import ledgers, sessions
from proxy.types import Options

BUDGET = 4_000
QUESTIONS = 130
WORK = range(50, 85)
"""Questions for which the model calls a tool first."""
CONFIG = "context: {overflow: adaptive, summaries: true, summary_max_tokens: 300}\n"
SUMMARY_ENDS = "Write the summary now."
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a thing up in the family's notes: who had it, where, and what happened to it since.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string", "description": "The thing."}}},
    },
}
HOUSE = "You are a friend of the family who keeps its stories. Be warm and brief, and tell who, what and where."


class Script:
    """The model's part: the next line of the dialogue, a call before it while there is work, a summary when asked."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = answers
        self.number = 0
        self.calls = False

    def says(self, body: bytes) -> str | Message:
        sent = json.loads(body)["messages"]
        if str(sent[-1]["content"]).endswith(SUMMARY_ENDS):
            return self.summary()
        if self.calls:
            return called(self.number)
        return self.answers[self.number]

    def summary(self) -> str:
        """Some sentences of what has been said so far."""
        told = [line.partition(": ")[2].split("? ")[0] for line in self.answers[: self.number : 9]]
        return "So far: " + " ".join(text.split(". ")[0].rstrip(".") + "." for text in told[-12:])


def called(number: int) -> Message:
    function = {"name": "look_up", "arguments": json.dumps({"what": f"page {number}"})}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }


def found(number: int) -> Message:
    """A long result."""
    draw = Random(number)
    lines = [f"{draw.choice(dialogues.PEOPLE)}: {draw.choice(dialogues.THINGS)}, {draw.choice(dialogues.PLACES)}; "
             f"{dialogues.small_talk(draw)}" for _ in range(draw.randint(6, 16))]  # fmt: skip
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": "\n".join(lines)}


async def held(svc: Services, script: Script, questions: Sequence[str]) -> None:
    """The whole conversation."""
    system = {"role": "system", "content": "\n".join([HOUSE] * 8)}
    for number, question in enumerate(questions):
        script.number, script.calls = number, number in WORK
        await asked(svc, [system, {"role": "user", "content": question}])
        if number in WORK:
            script.calls = False
            await asked(svc, [system, found(number)])
        await svc.summaries.settled()


async def asked(svc: Services, messages: list[Message]) -> None:
    await inprocess.run(svc, inprocess.turn(svc, "picture", messages, Options(token_budget=BUDGET), tools=[TOOL]))


async def run() -> list[dict[str, Any]]:
    """The ledgers of all turns, the first one first."""
    talk = dialogues.generated(1, 2 * QUESTIONS)[0]
    script = Script(talk[1::2])
    with tempfile.TemporaryDirectory(prefix="session-proxy-bench-") as folder:
        model = inprocess.Model(script.says)
        async with inprocess.services(Path(folder), model, tokenizer.load(), CONFIG) as svc:
            await held(svc, script, talk[::2])
            session = await sessions.find(svc.db, inprocess.SCOPE, "picture")
            assert session is not None
            told = await ledgers.oldest(svc.db, inprocess.SCOPE, session[0].id, 1000, 0)
    return [json.loads(turn.ledger) for turn in told]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.picture", description=__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    file.write_text(drawing.svg(asyncio.run(run()), BUDGET))
    print(f"written: {file}, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
