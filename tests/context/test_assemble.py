"""What goes to the model, over random conversations, budgets and cuts."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from proxy.context.assemble import Limits, Material, Plan, assemble
from proxy.context.tokens import REPLY
from proxy.context.transcript import RESULTS, Piece, cleared, marker, repaired
from proxy.errors import ContextTooLong
from tests.context.histories import Message, Talk, calls, check_valid, piece, result, says, talk, user, words

SYSTEM = piece({"role": "system", "content": "be brief and kind"})
Case = tuple[Material, Limits]


def material(history: Sequence[Piece], new: Sequence[Piece], **fields: Any) -> Material:
    given: dict[str, Any] = {
        "instructions": b"", "instructions_tokens": 0, "tools_tokens": 0, "before": 0, "before_tokens": 0,
        "new_tokens": sum(one.tokens for one in new) + REPLY,
    } | fields  # fmt: skip
    return Material(history=history, new=new, **given)


def plan(given: Material, budget: int | None, strategy: str = "truncate", cut: int = 0, evict_to: float = 0.5) -> Plan:
    return assemble(given, Limits(budget, strategy, cut, evict_to), words)


def messages(made: Plan) -> list[Message]:
    return json.loads(b"[%b]" % made.messages)


def random_case(draw: Random) -> Case:
    """A conversation, what comes next, and a budget from far too small to more than enough."""
    said = talk(draw, draw.randint(0, 12))
    new = [piece(value) for value in said.asked()]
    system = SYSTEM if draw.random() < 0.5 else None
    given = material(
        said.line,
        new,
        instructions=system.raw if system else b"",
        instructions_tokens=system.tokens if system else 0,
        tools_tokens=draw.choice((0, 0, 15)),
    )
    everything = given.new_tokens + sum(one.tokens for one in said.line) + 40
    budget = None if draw.random() < 0.1 else draw.randint(1, everything + 20)
    cut = draw.choice((0, 0, draw.randint(1, len(said.line) + 1)))
    strategy = draw.choice(("truncate", "adaptive", "summarize", "null"))
    return given, Limits(budget, strategy, cut, draw.choice((0.5, 0.25, 0.8, 1.0)))


def cases(n: int) -> list[tuple[int, Case]]:
    first = random.randrange(2**32)
    return [(seed, random_case(Random(seed))) for seed in range(first, first + n)]


@dataclass
class Mandatory:
    """What has to be sent of a case, found without a look at the product's own rules."""

    history: list[Piece]
    new: list[Piece]
    tokens: int


def mandatory(given: Material) -> Mandatory:
    """System, tools, the new messages, the calls they answer with what follows, the newest question."""
    pieces = repaired([*given.history, *given.new], words)
    at = len(pieces) - len(given.new)
    while at and pieces[at] is not given.new[0]:  # synthetic results among or after the new ones
        at -= 1
    history, new = pieces[:at], pieces[at:]
    must = at
    if given.new[0].role in RESULTS:
        must = max(n for n in range(at) if history[n].calls)
    asked = [n for n, one in enumerate(pieces) if one.role == "user"]
    needed = sum(one.tokens for one in history[must:])
    if asked and asked[-1] < must:
        needed += pieces[asked[-1]].tokens
    extra = given.new_tokens - sum(one.tokens for one in given.new)
    fixed = given.instructions_tokens + given.tools_tokens
    return Mandatory(history, new, fixed + needed + extra + sum(one.tokens for one in new))


def forwarded(history: Sequence[Piece], made: Plan) -> list[Piece]:
    """The history with a marker in place of each result that the plan clears."""
    price = marker(words)
    return [cleared(one, price) if (one.seq or 0) < made.cleared else one for one in history]


def test_any_plan_keeps_its_promises() -> None:
    for seed, (given, limits) in cases(3000):
        try:
            made = assemble(given, limits, words)
        except ContextTooLong:
            continue
        sent = messages(made)
        needed = mandatory(given)
        said = "system" if given.instructions else None
        assert limits.budget is None or made.total <= limits.budget, seed
        check_valid(sent)
        assert (sent[0]["role"] == "system" and sent[0]["content"] == "be brief and kind") == (said is not None), seed
        history = forwarded(needed.history, made)
        raws = [one.raw for one in [*history, *needed.new]]
        parts = made.messages if said is None else made.messages[len(given.instructions) + 1 :]
        assert parts.endswith(b",".join(one.raw for one in needed.new)), seed
        kept = len(sent) - (said is not None)
        tail = b",".join(raws[len(raws) - kept :])
        if parts != tail:  # the newest question stands alone before the rest
            newest = [one.raw for one in history if one.role == "user"][-1]
            assert parts == b",".join([newest, *raws[len(raws) - kept + 1 :]]), seed
        asked = [message["content"] for message in (json.loads(raw) for raw in raws) if message["role"] == "user"]
        assert not asked or asked[-1] in [message["content"] for message in sent], seed


def test_the_ledger_adds_up() -> None:
    for seed, (given, limits) in cases(2000):
        try:
            made = assemble(given, limits, words)
        except ContextTooLong:
            continue
        by_source = {(one["source"], one["kept"]): one for one in made.segments if one["reason"] != CLEARED}
        assert len(by_source) <= 5, seed
        assert len(made.segments) - len(by_source) == (made.cleared > 0 and _clears(given, made)), seed
        assert sum(one["tokens"] for one in made.segments if one["kept"]) == made.total, seed
        assert made.total == made.system + made.tools + made.history + made.new, seed
        stored = forwarded(given.history, made)
        kept = by_source.get(("history", True), {"count": 0, "tokens": 0})
        left = by_source.get(("history", False), {"count": 0, "tokens": 0})
        assert made.dropped == left["count"], seed
        assert kept["tokens"] == made.history, seed
        real = [json.loads(one.raw) for one in stored]
        sent = messages(made)[1 if given.instructions else 0 :]
        assert made.dropped == len(real) - len([one for one in sent if one in real]), seed
        assert left["tokens"] <= sum(one.tokens for one in stored) + 20 * len(stored), seed


CLEARED = "tool results cleared"


def _clears(given: Material, made: Plan) -> bool:
    """Whether a marker is among what is sent."""
    before = {one.raw for one in given.history}
    after = [one for one in forwarded(given.history, made) if one.raw not in before]
    return any(one.raw in made.messages for one in after)


def test_too_long_is_said_exactly_when_what_must_be_sent_does_not_fit() -> None:
    seen = set()
    for seed, (given, limits) in cases(3000):
        needed = mandatory(given)
        everything = needed.tokens if limits.strategy != "null" else _all_of(given, needed)
        too_long = limits.budget is not None and everything > limits.budget
        seen.add((limits.strategy, too_long))
        if too_long:
            with pytest.raises(ContextTooLong) as caught:
                assemble(given, limits, words)
            assert caught.value.param in ("messages", "token_budget"), seed
        else:
            assemble(given, limits, words)
    assert len(seen) == 8


def _all_of(given: Material, needed: Mandatory) -> int:
    extra = given.new_tokens - sum(one.tokens for one in given.new)
    pieces = [*needed.history, *needed.new]
    return given.instructions_tokens + given.tools_tokens + extra + sum(one.tokens for one in pieces)


def test_null_sends_all_of_it() -> None:
    for seed, (given, limits) in cases(500):
        made = plan(given, None, "null", limits.cut)
        assert (made.dropped, made.cut, made.strategy) == (0, 0, "null"), seed
        assert made.total == _all_of(given, mandatory(given)), seed


def test_a_cut_that_fits_stays_and_one_that_does_not_shrinks_to_the_share() -> None:
    moved = 0
    for seed, (given, limits) in cases(4000):
        if limits.strategy == "null" or limits.budget is None or given.new[0].role in RESULTS:
            continue
        try:
            made = assemble(given, limits, words)
        except ContextTooLong:
            continue
        if made.cleared:
            continue  # tests/context/test_overflow.py
        history = mandatory(given).history
        after_cut = sum(one.tokens for one in _from_cut(history, limits.cut))
        room = limits.budget - made.system - made.tools
        if after_cut <= room - made.new:
            assert made.history == after_cut, seed
            continue
        moved += 1
        share = min(room - made.new, int(limits.evict_to * room))
        turns = [n for n, one in enumerate(history) if one.role == "user"]
        fits = [n for n in turns if sum(one.tokens for one in history[n:]) <= share]
        if fits:
            assert made.history <= share, seed
            assert made.history >= sum(one.tokens for one in history[fits[0] :]), seed
    assert moved > 100


def _from_cut(history: Sequence[Piece], cut: int) -> Sequence[Piece]:
    places = (n for n, one in enumerate(history) if one.seq is not None and one.seq >= cut and one.role not in RESULTS)
    return history[next(places, len(history)) :]


@dataclass
class Chat:
    """A session in which each turn keeps the cut of the last one."""

    talk: Talk
    budget: int
    cut: int = 0

    def turn(self, windowed: bool) -> Plan | None:
        new = [piece(value) for value in self.talk.asked()]
        given = window(self.talk.line, new, self.cut, self.budget) if windowed else material(self.talk.line, new)
        try:
            made = plan(given, self.budget, cut=self.cut)
        except ContextTooLong:
            made = None
        self.talk.answered([json.loads(one.raw) for one in new])
        self.cut = self.cut if made is None else made.cut
        return made


def window(line: Sequence[Piece], new: Sequence[Piece], cut: int, budget: int) -> Material:
    """The material as recollect.py reads it: from the cut on, as much as the budget holds, and the newest question."""
    first = len(line) + 1
    held = 0
    while first > max(cut, 1) and held <= budget:
        first -= 1
        held += line[first - 1].tokens
    read = list(line[first - 1 :])
    before = line[: first - 1]
    if not any(one.role == "user" for one in [*new, *read]):
        asked = [one for one in before if one.role == "user"]
        if asked:
            rest = [one for one in before if one is not asked[-1]]
            far = asked[-1].seq != first - 1
            tokens = sum(one.tokens for one in rest)
            return material([asked[-1], *read], new, before=len(rest), before_tokens=tokens, detached=far)
    return material(read, new, before=len(before), before_tokens=sum(one.tokens for one in before))


def test_the_prefix_stays_byte_for_byte_between_evictions() -> None:
    seed = random.randrange(2**32)
    turns = evictions = 0
    for n in range(seed, seed + 40):
        chat = Chat(Talk(Random(n)), budget=400)
        last = None
        for _ in range(60):
            asked = chat.talk.open
            made = chat.turn(windowed=False)
            if made is not None and last is not None:
                turns += 1
                same = made.cut == last.cut and not (made.open_ended or last.open_ended or asked)
                evictions += made.cut != last.cut
                assert not same or made.messages.startswith(last.past), (n, made.cut)
            last = made
    assert evictions < turns / 3


def test_reading_a_window_instead_of_all_changes_nothing() -> None:
    seed = random.randrange(2**32)
    for n in range(seed, seed + 60):
        budget = Random(n).choice((60, 120, 300, 1000))
        whole, part = Chat(Talk(Random(n)), budget), Chat(Talk(Random(n)), budget)
        for _ in range(40):
            one, other = whole.turn(windowed=False), part.turn(windowed=True)
            assert (one is None) == (other is None), n
            if one is not None and other is not None:
                assert one.messages == other.messages, n
                assert (one.cut, one.total, one.dropped) == (other.cut, other.total, other.dropped), n


# --- cases to read ---


def test_new_messages_that_are_too_long_are_an_error_of_theirs() -> None:
    with pytest.raises(ContextTooLong) as caught:
        plan(material([], [piece(user("a b c d e f"))]), 12)
    assert caught.value.param == "messages"
    assert "13 tokens" in caught.value.message
    assert "budget of 12" in caught.value.message


def test_instructions_that_are_too_long_are_an_error_of_the_budget() -> None:
    given = material([], [piece(user("a"))], instructions=SYSTEM.raw, instructions_tokens=SYSTEM.tokens)
    with pytest.raises(ContextTooLong) as caught:
        plan(given, SYSTEM.tokens - 1)
    assert caught.value.param == "token_budget"


def test_what_is_left_out_is_counted_in_one_segment() -> None:
    line = [piece(value, n, (n + 1) // 2) for n, value in enumerate([user("a"), says("b"), user("c"), says("d")], 1)]
    made = plan(material(line, [piece(user("e"))]), 20, evict_to=0.5)
    assert made.segments == [
        {"source": "history", "count": 2, "tokens": 10, "kept": False, "reason": "over budget"},
        {"source": "history", "from": 3, "to": 4, "count": 2, "tokens": 10, "kept": True, "reason": "fits"},
        {"source": "new", "count": 1, "tokens": 8, "kept": True, "reason": "new"},
    ]
    assert (made.cut, made.dropped, made.budget) == (3, 2, 20)


def test_results_are_sent_with_the_calls_they_answer_however_small_the_budget() -> None:
    line = [piece(value, n, 1) for n, value in enumerate([user("a"), says("b"), user("c"), calls("1", "2")], 1)]
    new = [piece(result("1")), piece(result("2"))]
    needed = mandatory(material(line, new)).tokens
    made = plan(material(line, new), needed)
    assert messages(made) == [user("c"), calls("1", "2"), result("1"), result("2")]
