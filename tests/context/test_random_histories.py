"""Random histories x budgets x strategies: what goes up is what every upstream takes, and fits.

A history is a conversation with all that clients and servers do to one (histories.Talk), read as far back as the store
would give it, with the cut of an earlier turn, summaries that are ready, recalled text, cleared results. The default
run takes a few thousand; `pytest -m slow` takes more than 100,000 and prints the counts.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import msgspec
import pytest

from proxy import budget
from proxy.context import placement, tokens, transcript
from proxy.context.assemble import Limits, Material, Plan, assemble
from proxy.context.overflow import Digest
from proxy.context.transcript import NO_RESULT, RESULTS, Piece
from proxy.errors import ContextTooLong
from tests.context.histories import Message, Talk, calls, piece, result, says, talk, user, words
from tests.context.validator import problems

STRATEGIES = ("adaptive", "summarize", "truncate", "null")
SYSTEM = piece({"role": "system", "content": "be brief and kind"})
MARKER = transcript.marker(words)
RECALL = "<reference>\nAn old turn: they met in Lisbon in May.\n</reference>\n\n"


@dataclass(frozen=True)
class Case:
    """A turn before it is assembled: the stored line, what is new, the state that the turn before left."""

    line: Sequence[Piece]
    new: Sequence[Message]
    limits: Limits
    system: bool
    tools: int
    summaries: Sequence[Digest]
    recall: str

    def material(self) -> Material:
        read, before, detached = self._read()
        price = {one.seq: transcript.cleared(one, MARKER) for one in read if (one.seq or 0) < self.limits.cleared}
        read = [price.get(one.seq, one) for one in read]
        new = [piece(value) for value in self.new]
        cost = sum(one.tokens for one in new) + tokens.REPLY
        if self.recall:
            read, new = self._with_recall(read, new)
        cut = max(self.limits.cut, 1)
        return Material(
            instructions=SYSTEM.raw if self.system else b"",
            instructions_tokens=SYSTEM.tokens if self.system else 0,
            tools_tokens=self.tools,
            history=read,
            before=len(before),
            before_tokens=sum(one.tokens for one in before),
            new=new,
            new_tokens=cost,
            detached=detached,
            recalled_tokens=words(self.recall),
            recalled=[{"source": "recall_history", "tokens": words(self.recall), "kept": True}] if self.recall else [],
            current=max((one for one in self.summaries if one.upto < cut), key=_upto, default=None),
            prepared=max((one for one in self.summaries if one.upto >= cut), key=_upto, default=None),
        )

    def _read(self) -> tuple[list[Piece], list[Piece], bool]:
        """The newest part of the line from the cut on, as much as the budget holds, and the newest question."""
        first, held, results = len(self.line) + 1, 0, 0
        while first > max(self.limits.cut, 1) and (self.limits.raw is None or held <= self.limits.raw):
            first -= 1
            one = self.line[first - 1]
            results += one.role in RESULTS
            clears = self.limits.strategy == "adaptive" and one.role in RESULTS and results > self.limits.results
            held += min(one.tokens, MARKER) if clears else one.tokens
        read, before = list(self.line[first - 1 :]), list(self.line[: first - 1])
        asked = [one for one in before if one.role == "user"]
        if not asked or any(value["role"] == "user" for value in self.new) or any(one.role == "user" for one in read):
            return read, before, False
        rest = [one for one in before if one is not asked[-1]]
        return [asked[-1], *read], rest, asked[-1].seq != first - 1

    def _with_recall(self, read: list[Piece], new: list[Piece]) -> tuple[list[Piece], list[Piece]]:
        """The text stands before the newest question: a new one, or the one whose tool loop goes on."""
        part = new if any(one.role == "user" for one in new) else read
        at = max(n for n, one in enumerate(part) if one.role == "user")
        raw = placement.before(json.loads(part[at].raw), self.recall)
        part[at] = msgspec.structs.replace(part[at], raw=raw)
        return read, new


def _upto(one: Digest) -> int:
    return one.upto


def random_case(draw: Random) -> Case:
    said = talk(draw, draw.randint(0, 10), odd=True)
    strategy = draw.choice(STRATEGIES)
    most = None if draw.random() < 0.05 else draw.randint(60, 150 + sum(one.tokens for one in said.line) * 5 // 4)
    factor = draw.choice((1.0, 1.0, 0.83, 1.1, 1.37))
    limits = Limits(most, strategy, 0, draw.choice((0.5, 0.5, 0.25, 0.9)), factor, 0, draw.choice((0, 1, 3)))
    case = Case((), (), limits, draw.random() < 0.5, draw.choice((0, 0, 15)), (), "")
    for _ in range(draw.choice((0, 1, 3))):  # turns that leave a cut
        case = of_turn(draw, said, case)
        try:
            made = assemble(case.material(), case.limits, words)
            case = replace(case, limits=left_by(case.limits, made))
        except ContextTooLong:
            pass
        said.answered(case.new)
    if draw.random() < 0.2:  # another strategy or budget starts over
        limits = msgspec.structs.replace(case.limits, strategy=draw.choice(STRATEGIES), cut=0, cleared=0)
        case = replace(case, limits=limits)
    return of_turn(draw, said, case)


def left_by(limits: Limits, made: Plan) -> Limits:
    """What the next turn of the branch starts from."""
    return msgspec.structs.replace(limits, cut=made.cut, cleared=made.cleared)


def of_turn(draw: Random, said: Talk, case: Case) -> Case:
    new = said.asked()
    line = tuple(said.line)
    summaries = case.summaries
    if case.limits.strategy in ("summarize", "adaptive") and line and draw.random() < 0.5:
        summaries = (*summaries, summary(draw, line))
    asked = [*(one.role for one in line), *(value["role"] for value in new)]
    recall = RECALL if "user" in asked and case.limits.strategy == "adaptive" and draw.random() < 0.5 else ""
    return replace(case, line=line, new=new, summaries=summaries, recall=recall)


def summary(draw: Random, line: Sequence[Piece]) -> Digest:
    """Of the first turns of the line."""
    ends = [
        one.seq for one, after in zip(line, [*line[1:], None], strict=True) if after is None or after.turn != one.turn
    ]
    upto = draw.choice(ends) or 0
    made = piece({"role": "system", "content": f"Summary up to {upto}: " + "word " * draw.randrange(20)})
    return Digest(upto, made.tokens, made.raw)


def messages(made: Plan) -> list[Message]:
    return json.loads(b"[%b]" % made.messages)


def check(case: Case, made: Plan) -> None:
    """All that a plan promises."""
    sent = messages(made)
    assert problems(sent) == []
    price = sum(tokens.of_message(value, words) for value in sent) + case.tools + tokens.REPLY
    assert price == made.total, "the total is what stands in the messages"
    most = case.limits.budget
    assert most is None or made.total * case.limits.factor <= most + 1e-6
    assert sum(one["tokens"] for one in made.segments if one["kept"]) == made.total
    check_new(case, sent)
    check_old(case, sent)


def check_new(case: Case, sent: Sequence[Message]) -> None:
    """The new messages end the list, in order; results of calls that nobody answered, and late ones, apart."""
    made = {id for value in case.new for id in _ids(value)} | _last_calls(case.line)
    new = [value for value in case.new if value["role"] != "tool" or value["tool_call_id"] in made]
    late = [value for value in case.new if value not in new]
    shown = {id for value in sent for id in _ids(value)}  # one whose call has left goes with it
    assert all(value in sent for value in late if value["tool_call_id"] in shown)
    rest = [value for value in sent if value.get("content") != NO_RESULT and value not in late]
    tail = rest[len(rest) - len(new) :] if new else []
    asked = [n for n, value in enumerate(new) if value["role"] == "user"]
    if case.recall and asked:
        assert tail[asked[-1]] == json.loads(placement.before(new[asked[-1]], case.recall))
        tail[asked[-1]] = new[asked[-1]]
    assert tail == new


def _ids(value: Message) -> list[str]:
    return [call["id"] for call in value.get("tool_calls") or ()]


def _last_calls(line: Sequence[Piece]) -> set[str]:
    """The calls that stand at the line's end."""
    return set(transcript.call_ids(line[-1].raw)) if line and line[-1].calls else set()


def check_old(case: Case, sent: Sequence[Message]) -> None:
    """What is sent of the history is what was said, in its order, and the newest question is in it."""
    stored = [json.loads(one.raw) for one in case.line]
    asked = [value for value in [*stored, *case.new] if value["role"] == "user"]
    newest = asked[-1] if asked else None
    if newest is not None and case.recall:
        newest = json.loads(placement.before(newest, case.recall))
    assert newest is None or newest in sent
    known = [*stored, *case.new, newest]
    marks = (NO_RESULT, transcript.CLEARED)
    assert all(value in known or value["role"] == "system" or value.get("content") in marks for value in sent)


def check_again(case: Case, made: Plan) -> None:
    """The same turn again sends the same and leaves the same."""
    if made.new == tokens.REPLY:
        return  # a late result that has no call to stand behind any more: there is nothing new
    known = [one for one in case.summaries if one.upto == made.summary_upto]
    later = replace(case, limits=left_by(case.limits, made), summaries=known)
    again = assemble(later.material(), later.limits, words)
    assert (again.messages, again.cut, again.cleared) == (made.messages, made.cut, made.cleared)


def cases(count: int) -> Iterator[tuple[int, Case]]:
    first = random.randrange(2**32)
    return ((seed, random_case(Random(seed))) for seed in range(first, first + count))


def run(count: int) -> Counter[str]:
    """Checks so many histories; what was seen."""
    seen: Counter[str] = Counter()
    for seed, case in cases(count):
        try:
            made = assemble(case.material(), case.limits, words)
        except ContextTooLong:
            seen["too long"] += 1
            continue
        try:
            check(case, made)
            check_again(case, made)
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}, {case.limits}") from exc
        seen.update(features(case, made))
    return seen


def features(case: Case, made: Plan) -> Iterator[str]:
    yield case.limits.strategy
    shown: dict[str, Any] = {
        "left out": made.dropped, "cleared": made.cleared, "summary": made.summary, "recall": made.recall,
        "no result": NO_RESULT.encode() in made.messages, "pinned": made.pinned, "cut": made.cut,
    }  # fmt: skip
    yield from (name for name, value in shown.items() if value)


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ([], "is empty"),
        ([{"role": "bot", "content": "a"}], "no role 'bot'"),
        ([user("a"), {"role": "assistant", "content": None}], "without content"),
        ([{"role": "user", "content": []}], "without parts"),
        ([{"role": "user", "content": [{"type": "refusal", "refusal": "a"}]}], "a part of type 'refusal'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "without text"),
        ([{"role": "user", "content": 5}], "content of type int"),
        ([user("a"), {**says("b"), "tool_calls": []}], "no list of calls"),
        ([user("a"), calls("1", "1"), result("1")], "two calls with one id"),
        ([user("a"), calls("1"), user("b")], "have no result"),
        ([user("a"), calls("1")], "have no result"),
        ([user("a"), calls("1", "2"), result("1"), user("b"), result("2")], "have no result"),
        ([user("a"), calls("1"), result("1"), result("1")], "a second result"),
        ([user("a"), result("1")], "no open call"),
        ([user("a"), {"role": "tool", "content": "b"}], "without tool_call_id"),
        ([user("a"), {"role": "function", "name": "f", "content": "b"}], "no function_call"),
    ],
)
def test_the_validator_sees(sent: list[Message], problem: str) -> None:
    assert any(problem in one for one in problems(sent))


def test_the_validator_takes_what_upstreams_take() -> None:
    assert problems([user("a"), calls("1", "2"), result("2"), result("1"), says("b"), user("c")]) == []


def test_what_goes_up_is_valid_and_fits() -> None:
    seen = run(1500)
    assert min(seen[name] for name in (*STRATEGIES, "left out", "cleared", "summary", "recall", "no result")) > 20


def test_a_prompt_that_the_upstream_counts_otherwise_fits_too() -> None:
    """Any vocabulary, price of a message, and hidden instructions that a model may have."""
    fitting = 0
    for seed, case in cases(400):
        draw = Random(seed)
        each, tool, frame = draw.uniform(0.5, 2.5), draw.choice((0.0, 1.0, 2.0)), draw.uniform(0, 12)
        hidden = draw.choice((0, 60))

        def estimate(made: Plan, numbers: tuple[float, ...] = (each, tool, frame, hidden)) -> int:
            each, tool, frame, hidden = numbers
            return math.ceil(each * (made.total - made.tools) + tool * made.tools + frame * made.sent + hidden)

        limits = msgspec.structs.replace(case.limits, factor=max(0.5, min(each, tool)))
        try:
            made = budget.fitted(replace(case, limits=limits).material(), limits, estimate, words)
        except ContextTooLong:
            continue
        assert made.estimate == estimate(made.plan), seed
        assert limits.budget is None or made.estimate <= limits.budget, seed
        assert problems(messages(made.plan)) == [], seed
        fitting += 1
    assert fitting > 150


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(11))
def test_a_hundred_thousand_histories(part: int, capsys: pytest.CaptureFixture[str]) -> None:
    seen = run(10_000)
    with capsys.disabled():
        print(f"\npart {part}: 10,000 histories, 0 invalid, 0 over budget; {dict(seen.most_common())}")
