"""A turn's budget and strategy, from where each may come; and plans whose estimates keep to it."""

from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from proxy import budget, recollect
from proxy.budget import Scale
from proxy.context import calibrate, tokens
from proxy.context.assemble import Limits, Material, assemble
from proxy.context.calibrate import Learnt, Sample
from proxy.context.transcript import Piece
from proxy.errors import ContextTooLong
from proxy.services import Services
from proxy.store import sessions
from proxy.types import Carried
from tests.conversing import Upstream, take, turn_of
from tests.inprocess import DEFAULT, Ask, services, user, words

pytestmark = pytest.mark.anyio


async def limits(
    svc: Services, fields: dict[str, Any] | None = None, ceiling: int | None = None, **given: Any
) -> Limits:
    turn = turn_of(svc, Ask([user("hi")], fields=fields or {}), **given)
    found = await recollect.find(svc, turn, await sessions.find(svc.db, DEFAULT, "s"))
    return await budget.limits(svc, turn, found, ceiling, budget.scale(svc, turn, budget.last(found)))


async def test_the_budget_is_the_requests_else_the_sessions_else_the_configurations_else_the_models(
    tmp_path: Path,
) -> None:
    settings = "models: {m: {context_tokens: 4000}}"
    async with services(tmp_path, Upstream(), settings) as svc:
        assert (await limits(svc)).budget == 4000
        assert (await limits(svc, {"max_tokens": 1000})).budget == 3000
        assert (await limits(svc, {"max_tokens": 4000})).budget == 2000, "half of it is the prompt's at the least"
        assert (await limits(svc, token_budget=9000)).budget == 9000
        await take(svc, Ask([user("hi")]))
        await svc.db.transaction(lambda tx: tx.all("UPDATE sessions SET token_budget = 700, overflow = 'truncate'"))
        assert (await limits(svc)).budget == 700
        assert (await limits(svc)).strategy == "truncate"
        own = await limits(svc, token_budget=600, overflow="null")
        assert (own.budget, own.strategy) == (600, "null")
    async with services(tmp_path, Upstream(), settings + "\ncontext: {token_budget: 500, overflow: summarize}") as svc:
        found = await limits(svc)
        assert (found.budget, found.strategy, found.summaries) == (700, "truncate", False)
    folder = tmp_path / "other"
    folder.mkdir()
    async with services(folder, Upstream(), settings + "\ncontext: {token_budget: 500, overflow: summarize}") as svc:
        found = await limits(svc)
        assert (found.budget, found.strategy, found.summaries) == (500, "summarize", True)


async def test_nothing_known_is_no_limit(tmp_path: Path) -> None:
    async with services(tmp_path, Upstream()) as svc:
        found = await limits(svc)
        assert (found.budget, found.raw, found.strategy) == (None, None, "adaptive")
        assert (await limits(svc, ceiling=300)).budget == 300


async def test_a_limit_that_was_learnt_counts_unless_the_context_is_configured(tmp_path: Path) -> None:
    async with services(tmp_path, Upstream(), "models: {big: {context_tokens: 9000}}") as svc:
        for model in ("m", "big"):
            svc.calibration.limited("default", model, 800)
        assert (await limits(svc)).budget == 800
        assert (await limits(svc, {"max_tokens": 100})).budget == 700
        assert (await limits(svc, token_budget=5000)).budget == 800
        assert (await limits(svc, token_budget=500)).budget == 500
        assert (await limits(svc, ceiling=850)).budget == 850, "what has just been said is newer"
        assert (await limits(svc, {"model": "big"})).budget == 9000
        assert (await limits(svc, {"model": "another"})).budget is None


async def test_a_cut_counts_for_the_same_budget_strategy_model_and_tools_only(tmp_path: Path) -> None:
    async with services(tmp_path, Upstream()) as svc:
        for n in range(6):
            await take(svc, Ask([user(f"{n} " + "so " * 60)]), token_budget=300)
        cut = (await limits(svc, token_budget=300)).cut
        assert cut > 1
        others: list[dict[str, Any]] = [
            {"token_budget": 301},
            {"token_budget": 300, "overflow": "truncate"},
            {"token_budget": 300, "recall_tools": False},
        ]
        for other in others:
            assert (await limits(svc, **other)).cut == 0
        assert (await limits(svc, {"model": "n"}, token_budget=300)).cut == 0


async def test_another_models_drift_does_not_count(tmp_path: Path) -> None:
    async with services(tmp_path, Upstream()) as svc:
        for model, drift in (("m", 1.2), ("n", 1.0)):
            turn = turn_of(svc, Ask([user("hi")], fields={"model": model}))
            assert budget.scale(svc, turn, Carried(drift=1.2, model="m")).drift == drift


def taught(draw: Random) -> Learnt:
    """A model with a tokenizer and a template of its own."""
    a, t, b, c = (
        draw.uniform(0.7, 2.0),
        draw.choice((0.0, 0.9, 1.4)),
        draw.choice((0, 3, 9)),
        draw.choice((0, 40, 300, 3000)),
    )
    learnt = calibrate.FRESH
    for _ in range(25):
        sample = Sample(draw.randrange(200, 3000), draw.choice((0, 400)), draw.randrange(2, 40), draw.random() < 0.8)
        counted = int(a * sample.text + t * sample.tools + b * sample.messages + c)
        learnt = calibrate.learn(learnt, sample, counted)
    return learnt


@pytest.mark.parametrize("seed", range(4))
def test_no_estimate_is_over_the_budget_whatever_the_model_counts(seed: int) -> None:
    draw = Random(seed)
    refused = 0
    for _ in range(200):
        scale = Scale(taught(draw) if draw.random() < 0.3 else calibrate.FRESH, draw.uniform(0.8, 1.4))
        roles = ["user", "assistant"] * draw.randrange(0, 20)
        pieces = [
            Piece(role, b"{}", draw.randrange(5, 200), seq, turn=(seq + 1) // 2) for seq, role in enumerate(roles, 1)
        ]
        new = Piece("user", b"{}", draw.randrange(5, 400))
        given = draw.randrange(100, 4000)
        material = Material(
            b"x", draw.choice((0, 50)), draw.choice((0, 120)), pieces, 0, 0, [new], new.tokens + tokens.REPLY
        )
        strategy = draw.choice(("adaptive", "truncate", "summarize", "null"))
        factor = calibrate.least_factor(scale.learnt, scale.drift)
        asked = Limits(given, strategy, 0, draw.choice((0.5, 1.0)), factor)
        try:
            weighed = budget.fitted(material, asked, scale.estimate, words)
        except ContextTooLong:
            refused += 1
            if strategy != "null":
                alone = msgspec.structs.replace(material, history=[])
                least = scale.estimate(assemble(alone, Limits(None, strategy, 0, 1.0), words))
                assert least > 0.98 * given, (scale, asked)
            continue
        assert weighed.estimate <= given, (scale, asked)
        assert weighed.estimate == scale.estimate(weighed.plan)
    assert 0 < refused < 100
