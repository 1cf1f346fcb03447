"""The kept history of a branch: what is sent is the same with it and without it."""

import dataclasses
import random
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxy.errors import ContextTooLong
from proxy.forwarded import LARGEST, LIMIT, Block, Forwarded
from proxy.services import Services
from tests.clients import Conversation, Message, Step
from tests.inprocess import Ask, Model, begun, services

pytestmark = pytest.mark.anyio


def block(raw: bytes = b"{}", last_turn: int = 1, cut_key: str = "k") -> Block:
    return Block(last_turn, cut_key, first=1, count=2, tokens=9, before_tokens=0, has_user=True, raw=raw)


def test_a_block_is_given_out_for_the_turn_and_the_cut_it_was_made_for() -> None:
    kept = Forwarded()
    kept.put(1, 1, block())
    assert kept.get(1, 1, 1, "k") == block()
    assert kept.get(1, 1, 2, "k") is None
    assert kept.get(1, 1, 1, "other") is None
    assert kept.get(1, 2, 1, "k") is None
    assert kept.get(2, 1, 1, "k") is None


def test_a_block_takes_the_place_of_the_last_one() -> None:
    kept = Forwarded()
    kept.put(1, 1, block())
    kept.put(1, 1, block(last_turn=2))
    assert kept.get(1, 1, 1, "k") is None
    assert kept.get(1, 1, 2, "k") == block(last_turn=2)
    kept.put(1, 1, None)
    assert kept.get(1, 1, 2, "k") is None


def test_the_least_recently_used_blocks_go_first() -> None:
    kept = Forwarded()
    half = LARGEST // 2
    for session in range(2 * LIMIT // half):
        kept.put(session, 1, block(bytes(half)))
        assert kept.get(0, 1, 1, "k") is not None
    held = [session for session in range(2 * LIMIT // half) if kept.get(session, 1, 1, "k") is not None]
    assert held[0] == 0
    assert len(held) == LIMIT // half
    assert held[1:] == list(range(2 * LIMIT // half - len(held) + 1, 2 * LIMIT // half))


def test_a_very_long_history_is_not_kept() -> None:
    kept = Forwarded()
    kept.put(1, 1, block())
    kept.put(1, 1, block(bytes(LARGEST + 1)))
    assert kept.get(1, 1, 1, "k") is None


BUDGETS = (None, None, 60, 90, 150)


async def said(svc: Services, model: Model, ask: Ask, reply: Message) -> dict[str, Any] | None:
    """What a turn sent and what it told about it; None where it did not fit."""
    model.says = reply
    try:
        begin = await begun(svc, ask)
    except ContextTooLong:
        return None
    plan = begin.plan
    assert plan is not None
    told = (plan.total, plan.history, plan.new, plan.dropped, plan.cut, plan.strategy)
    ledger = [str(segment) for segment in plan.segments]
    return {"sent": model.requests[-1], "told": told, "ledger": ledger, "turn": begin.number, "branch": begin.branch}


def led_on(talk: Conversation) -> Step:
    """The model is to go on with words that the client puts into its mouth: a turn without a question."""
    new = [{"role": "assistant", "content": f"{talk.text()} and so on and on and on"}]
    return Step("led on", new, talk.line, new, talk.current, "append")


class Counting(Forwarded):
    """Knows how often it could help."""

    found = 0

    def get(self, session: int, branch: int, last_turn: int, cut_key: str) -> Block | None:
        block = super().get(session, branch, last_turn, cut_key)
        self.found += block is not None
        return block


async def test_a_kept_history_and_one_read_anew_are_the_same(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    models = [Model(), Model()]
    folders = [tmp_path / "kept", tmp_path / "anew"]
    counting = Counting()
    async with services(folders[0], models[0]) as wired, services(folders[1], models[1]) as reading:
        keeping = dataclasses.replace(wired, forwarded=counting)
        for n in range(seed, seed + 100):
            talk = Conversation(Random(n))
            budget = talk.random.choice(BUDGETS)
            for _ in range(12):
                step = talk.step() if talk.random.random() < 0.8 else led_on(talk)
                budget = talk.random.choice(BUDGETS) if talk.random.random() < 0.1 else budget
                ask = Ask(step.sent, f"s{n}", step.mode, budget=budget)
                reply = talk.reply()
                one = await said(keeping, models[0], ask, reply)
                other = await said(dataclasses.replace(reading, forwarded=Forwarded()), models[1], ask, reply)
                assert one == other, (n, step)
                if one is not None:
                    talk.stored(Step(step.shape, step.sent, step.kept, step.new, step.number), reply)
                if step.repeats or one is None:
                    break
    assert counting.found > 100
