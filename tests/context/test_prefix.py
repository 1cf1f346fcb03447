"""The prefix that a ledger predicts is what two requests in a row have in common, message by message."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxy.context import prefix
from proxy.services import Services
from proxy.types import Carried
from tests.conversing import THINGS, Talk, Upstream, common, ledgers, price, raw_messages, take
from tests.inprocess import Ask, Message, services, user

pytestmark = pytest.mark.anyio

SYSTEM: Message = {"role": "system", "content": "be brief and kind"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
EAGER = "recall: {min_score: 0.01, placement: %s}\ncontext: {recall_max_tokens: 120}"


def test_a_head_is_known_by_all_of_its_parts() -> None:
    key = prefix.head_key("m", [b"tools", b"template", b"system"])
    assert key == prefix.head_key("m", [b"tools", b"template", b"system"])
    assert key not in {
        prefix.head_key("n", [b"tools", b"template", b"system"]),
        prefix.head_key("m", [b"tools", b"templatesystem", b""]),
        prefix.head_key("m", [b"", b"toolstemplate", b"system"]),
    }


def test_what_changed_decides_how_much_is_known() -> None:
    last = Carried(prefix=50, prefix_key="h", head=20, head_key="k", whole=70)
    assert prefix.reusable(last, "k", "h", False) == 50
    assert prefix.reusable(last, "k", "h", True) == 70
    assert prefix.reusable(last, "k", "other", True) == 20
    assert prefix.reusable(last, "other", "h", True) == 0
    assert prefix.reusable(Carried(), "k", "h", False) == 0


async def predicted(svc: Services) -> int:
    return (await ledgers(svc))[-1]["prefix"]


@pytest.mark.parametrize("strategy", ["adaptive", "truncate"])
@pytest.mark.parametrize("placement", ["last_user", "message"])
async def test_it_is_exact_in_turns_tool_loops_evictions_and_with_recalled_text(
    tmp_path: Path, strategy: str, placement: str
) -> None:
    up, talk = Upstream(), Talk(Random(11))
    seen = {"plain": 0, "evicted": 0, "recalled": 0, "resumed": 0}
    async with services(tmp_path, up, EAGER % placement) as svc:
        plan = None
        for _ in range(120):
            new, reply = talk.next()
            up.script.append(reply)
            ask = Ask([SYSTEM, *new], fields={"tools": [TOOL]}, stream=talk.random.random() < 0.3)
            begin = await take(svc, ask, token_budget=900, overflow=strategy)
            talk.said(new, reply)
            before, plan = plan, begin.plan
            assert plan is not None
            if before is None:
                continue
            real, told = common(up.bodies[-2], up.bodies[-1]), await predicted(svc)
            assert told <= real
            if plan.cleared == before.cleared:
                assert told == real
            loop = new[0]["role"] == "tool" and plan.recall > 0
            seen["resumed" if loop else "recalled" if plan.recall else "plain"] += 1
            seen["evicted"] += plan.cut > before.cut
    assert seen["plain"] > 10
    assert seen["evicted"] > 5
    if strategy == "adaptive":
        assert seen["recalled"] > 10
        assert seen["resumed"] > 5


@pytest.mark.parametrize("seed", range(3))
async def test_it_never_tells_more_than_is_common_whatever_changes(tmp_path: Path, seed: int) -> None:
    draw = Random(seed)
    up, talk = Upstream(), Talk(Random(seed + 50), tools=0.35)
    settings = EAGER % draw.choice(("last_user", "message", "system"))
    bodies: dict[int, bytes] = {}
    number = 0
    async with services(tmp_path, up, settings) as svc:
        choice: dict[str, Any] = {
            "system": [SYSTEM],
            "tools": [TOOL],
            "model": "m",
            "budget": 700,
            "recall_tools": True,
        }
        for n in range(120):
            if draw.random() < 0.15:
                system: Message = {"role": "system", "content": f"be {draw.choice(THINGS)}"}
                change: dict[str, Any] = {
                    "system": draw.choice(([], [SYSTEM], [system])), "tools": draw.choice(([], [TOOL], [TOOL, TOOL])),
                    "model": draw.choice("mn"), "budget": draw.choice((400, 700)), "recall_tools": draw.random() < 0.5,
                }  # fmt: skip
                key = draw.choice(sorted(change))
                choice[key] = change[key]
            new, reply = talk.next()
            up.script.append(reply)
            fields = {"model": choice["model"], **({"tools": choice["tools"]} if choice["tools"] else {})}
            options = {"token_budget": choice["budget"], "recall_tools": choice["recall_tools"]}
            after = number
            if n > 5 and draw.random() < 0.05 and new[0]["role"] == "user":
                options["fork"] = after = draw.randrange(1, number)
            begin = await take(svc, Ask([*choice["system"], *new], fields=fields), **options)
            talk.said(new, reply)
            number = begin.number or 0
            bodies[number] = up.bodies[-1]
            told = await predicted(svc)
            assert told <= (common(bodies[after], bodies[number]) if after else 0), (n, choice)


async def test_another_system_message_other_tools_another_model_are_a_new_beginning(tmp_path: Path) -> None:
    up = Upstream()
    asks = [
        Ask([SYSTEM, user("one")]),
        Ask([{"role": "system", "content": "be long"}, user("two")]),
        Ask([user("three")], fields={"tools": [TOOL]}),
        Ask([user("four")], fields={"tools": [TOOL], "model": "n"}),
        Ask([user("five")], fields={"tools": [TOOL], "model": "n"}),
    ]
    async with services(tmp_path, up) as svc:
        for ask in asks:
            await take(svc, ask)
        told = [ledger["prefix"] for ledger in await ledgers(svc)]
    assert told[:4] == [0, 0, 0, 0]
    assert told[4] == common(up.bodies[3], up.bodies[4]) > 0


async def test_results_that_are_not_sent_again_are_not_counted(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    up = Upstream(script=[{"role": "assistant", "content": None, "tool_calls": [call]}])
    result = {"role": "tool", "tool_call_id": "c1", "content": "it is here and nowhere else"}
    async with services(tmp_path, up) as svc:
        for new in (user("where is it"), result, user("thanks"), user("bye")):
            await take(svc, Ask([SYSTEM, new]), recall_tools=False)
        told = [ledger["prefix"] for ledger in await ledgers(svc)]
    real = [common(old, new) for old, new in zip(up.bodies, up.bodies[1:], strict=False)]
    assert told[1] == real[0]
    assert told[2] == price(raw_messages(up.bodies[2])[:1]) < real[1]
    assert told[3] == real[2]
