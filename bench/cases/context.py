"""What it costs to put a request together: the assembly itself, the strategies, forks, and a long session unlimited.

Assembly and reads are measured in this process, CPU time of the calling thread, what is compared in turn; the unlimited
session as any turn, through a proxy of its own.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from bench import inprocess, servers
from bench.bodies import Job, text
from bench.cases.turn import WARM_NUMBER, warm
from bench.inprocess import Message
from bench.lab import Lab, alternating
from bench.process import Failed
from bench.report import Row, ratio, row
from proxy import tokenizer
from proxy.context import tokens
from proxy.context.assemble import Limits, Material, assemble
from proxy.context.tokens import Count
from proxy.context.transcript import Piece
from proxy.preview import preview
from proxy.services import Services
from proxy.types import Options

WINDOW = 4_000
ASSEMBLY_MS = 0.15
MORE_MS = 0.1
FORKS = 1.1
UNLIMITED_MS = 5.0
STORED = 2_000
LEAST_SENT = 450_000
BRANCHES = 100
STRATEGIES = ("truncate", "adaptive", "summarize")


def context(lab: Lab) -> list[Row]:
    count = tokenizer.load()
    return [*assembly(lab, count), *asyncio.run(branches(lab, count)), *unlimited(lab)]


# --- the assembly ---


def assembly(lab: Lab, count: Count) -> list[Row]:
    """A window that fits, one that has to shrink, and one that has tool results to clear."""
    rows = []
    for name, pieces, budget in (
        ("fits", plain(count, WINDOW), 2 * WINDOW),
        ("shrinks", plain(count, WINDOW), WINDOW),
        ("has old results", worked(count, WINDOW), WINDOW),
    ):
        spent = by_strategy(lab, material(pieces, count), budget, count)
        base = spent["truncate"]
        title = f"assembly of {WINDOW:,} tokens, {len(pieces)} messages, {name}"
        rows.append(row("context", f"{title}: truncate", base, "ms", ASSEMBLY_MS))
        for strategy in STRATEGIES[1:]:
            more = [one - other for one, other in zip(spent[strategy], base, strict=True)]
            rows.append(row("context", f"{title}: {strategy} over truncate", more, "ms", MORE_MS))
    return rows


def by_strategy(lab: Lab, given: Material, budget: int, count: Count) -> dict[str, list[float]]:
    """Milliseconds of CPU of one assembly, the strategies in turn."""
    spent: dict[str, list[float]] = defaultdict(list)
    each = lab.size(400, 50)
    for number in range(4 * lab.rounds):
        for strategy in alternating(STRATEGIES, number):
            limits = Limits(budget, strategy, 0, 0.5, summaries=strategy == "summarize")
            spent[strategy].append(cpu_ms(lambda limits=limits: assemble(given, limits, count), each))
    return spent


def cpu_ms(work: Callable[[], object], each: int) -> float:
    begin = time.thread_time_ns()
    for _ in range(each):
        work()
    return (time.thread_time_ns() - begin) / each / 1e6


def material(pieces: Sequence[Piece], count: Count) -> Material:
    """A turn of one question, with a short system message."""
    system, asked = piece(said("system", "Be brief and kind."), count), piece(said("user", text("now", 1)), count)
    return Material(
        instructions=system.raw,
        instructions_tokens=system.tokens,
        tools_tokens=0,
        history=pieces,
        before=0,
        before_tokens=0,
        new=[asked],
        new_tokens=asked.tokens + tokens.REPLY,
    )


def piece(value: Message, count: Count, seq: int | None = None, turn: int = 0) -> Piece:
    calls = len(value.get("tool_calls") or ())
    return Piece(value["role"], json.dumps(value).encode(), tokens.of_message(value, count), seq, turn, calls)


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def plain(count: Count, size: int) -> list[Piece]:
    """Questions and answers of about 60 tokens that hold `size` tokens."""
    return stored(count, size, lambda turn: [said("user", text("q", turn)), said("assistant", text("a", turn))])


def worked(count: Count, size: int) -> list[Piece]:
    """The same with a call and its result in each turn."""

    def turn(number: int) -> list[Message]:
        function = {"name": "look_up", "arguments": '{"what": "tide table"}'}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        made: Message = {"role": "assistant", "content": None, "tool_calls": [call]}
        found: Message = {"role": "tool", "tool_call_id": call["id"], "content": text("r", number)}
        return [said("user", text("q", number)), made, found, said("assistant", text("a", number))]

    return stored(count, size, turn)


def stored(count: Count, size: int, turn: Callable[[int], list[Message]]) -> list[Piece]:
    out: list[Piece] = []
    number = 0
    while sum(one.tokens for one in out) < size:
        number += 1
        out += [piece(value, count, len(out) + n, number) for n, value in enumerate(turn(number), 1)]
    return out


# --- forks ---


async def branches(lab: Lab, count: Count) -> list[Row]:
    """What a turn reads and puts together, nothing stored, in three sessions whose lines are the same length: one
    without forks, one whose last turn was asked again and again, one in which each branch begins on the one before."""
    spent: dict[str, list[float]] = defaultdict(list)
    forks = lab.size(BRANCHES, 10)
    with servers.directory() as folder:
        async with inprocess.services(folder, inprocess.Model(answer), count, "recall: {enabled: false}") as svc:
            for name, build in (("straight", straight), ("again", asked_again), ("chain", forked_on)):
                await build(svc, name, forks)
            for number in range(2 * lab.rounds):
                for name in alternating(("straight", "again", "chain"), number):
                    spent[name].append(await reads(svc, name, lab.size(200, 30)))
    one = spent["straight"]
    return [
        ratio("context", f"reads of a turn: {forks} branches at one place / 1 branch", spent["again"], one, FORKS),
        ratio("context", f"reads of a turn: {forks} branches, each on the last / 1 branch", spent["chain"], one, FORKS),
        row("context", "reads and assembly of a turn, 1 branch", one, "ms"),
    ]


def answer(body: bytes) -> str:
    """About as long as what was asked, and known to who asked."""
    return f"Yes. {json.loads(body)['messages'][-1]['content']}"


async def straight(svc: Services, name: str, forks: int) -> None:
    await grown(svc, name, [], forks + 1)


async def asked_again(svc: Services, name: str, forks: int) -> None:
    line = await grown(svc, name, [], forks + 1)
    for number in range(1, forks):
        await grown(svc, name, line[:-2], 1, 10_000 * number)


async def forked_on(svc: Services, name: str, forks: int) -> None:
    line = await grown(svc, name, [], 2)
    for number in range(1, forks):
        line = await grown(svc, name, line[:-2], 2, 10_000 * number)


async def grown(svc: Services, name: str, line: list[Message], turns: int, first: int = 0) -> list[Message]:
    """The line with so many turns more, of a client that sends its whole list."""
    for number in range(first, first + turns):
        asked = said("user", text(name, number))
        sent = [*line, asked]
        await inprocess.run(svc, inprocess.turn(svc, name, sent, Options()))
        line = [*sent, said("assistant", f"Yes. {asked['content']}")]
    return line


async def reads(svc: Services, name: str, each: int) -> float:
    """Milliseconds of CPU. The budget is not that of the turns, so that the history is read from the store."""
    asked = [said("user", text("now", 1))]
    turns = [inprocess.turn(svc, name, asked, Options(token_budget=WINDOW)) for _ in range(each)]
    begin = time.thread_time_ns()
    for turn in turns:
        await preview(svc, turn)
    return (time.thread_time_ns() - begin) / each / 1e6


# --- no budget ---


def unlimited(lab: Lab) -> list[Row]:
    """Sessions of 2,000 messages, all of which go up with every turn: as the turns follow each other, and the first
    turn after the proxy was started again, which reads them all."""
    warmed: list[float] = []
    cold: list[float] = []
    messages = lab.size(STORED, 400)
    with servers.directory() as home:
        with lab.proxy(home, budget=None) as proxy:
            lab.warm(proxy)
            for number in range(lab.rounds):
                name = f"whole-{number}"
                lab.fill(proxy, name, 2, messages=messages // 2 - 1)
                warm(lab, proxy, name, 1, WARM_NUMBER)
                before = servers.seen(lab.mock)
                done = lab.run(proxy, Job(proxy.port, "turn", 1, lab.size(50, 10), name, first=10_000))
                after = servers.seen(lab.mock)
                warmed.append(done.us_per_request / 1000)
                sent = (after["body_bytes"] - before["body_bytes"]) / (after["requests"] - before["requests"])
                if sent < LEAST_SENT * messages / STORED:
                    raise Failed(f"the proxy sent up {sent:.0f} bytes a turn: history is missing")
        with lab.proxy(home, budget=None) as proxy:
            lab.warm(proxy)
            for number in range(lab.rounds):
                done = lab.run(proxy, Job(proxy.port, "turn", 1, 1, f"whole-{number}", first=20_000))
                cold.append(done.us_per_request / 1000)
    title = f"no budget, {messages:,} messages, {sent / 1000:.0f} KB sent up"
    return [
        row("context", f"{title}: CPU per turn", warmed, "ms", UNLIMITED_MS),
        row("context", f"{title}: CPU of the first turn after a start", cold, "ms"),
    ]
