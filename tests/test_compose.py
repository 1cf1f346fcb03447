"""What goes upstream, and what is said of it: sizes that add up, budgets that are kept, recalled text, failed parts."""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, LiteralString

import pytest

from proxy.context import placement
from proxy.context.transcript import CLEARED
from proxy.errors import ProxyError, Unavailable
from proxy.preview import preview
from proxy.services import Services
from proxy.store.database import Database, Row, Tx, Value
from tests.context.validator import problems
from tests.conversing import Talk, Upstream, ledgers, raw_messages, raw_total, take, turn_of
from tests.inprocess import Ask, Message, Stage, begun, counts, says, services, user, words

pytestmark = pytest.mark.anyio

SYSTEM: Message = {"role": "system", "content": "be brief and kind"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
TALK = [
    "We booked the Alfama guest house in Lisbon for the second week of May",
    "The car needs new brakes before the winter comes",
    "Blue curtains would look best in the small kitchen",
    "The cat sleeps on the piano whenever it rains",
]
ASKED = "Which guest house in Lisbon did we book?"
EAGER = "recall: {min_score: 0.01}\ncontext: {recall_max_tokens: 95}"


def counted(body: Message) -> int:
    """What a model server counts that is no tiktoken: more for a text, something for a message, and a hidden prompt."""
    return int(1.3 * sum(words(str(one.get("content"))) for one in body["messages"])) + 8 * len(body["messages"]) + 30


LONG = says("Noted " + "so " * 40)
SMALL = 290
"""A budget that four exchanges and a question do not fit."""


def evict(text: str) -> str:
    """The text, long enough that what stood before it leaves a SMALL budget."""
    return f"{text} {'so ' * 40}"


@pytest.mark.parametrize("seed", range(3))
async def test_the_ledger_adds_up_and_the_estimate_keeps_to_the_budget(tmp_path: Path, seed: int) -> None:
    draw = Random(seed)
    up, talk = Upstream(counts=counted), Talk(Random(seed + 9))
    settings = f"recall: {{min_score: 0.01, placement: {draw.choice(('last_user', 'message', 'system'))}}}"
    async with services(tmp_path, up, settings) as svc:
        for n in range(120):
            new, reply = talk.next()
            up.script.append(reply)
            fields = {"tools": [TOOL]} if draw.random() < 0.5 else {}
            ask = Ask([SYSTEM, *new], fields=fields, stream=draw.random() < 0.3)
            chosen = draw.choice(("adaptive", "truncate", "adaptive", "summarize"))
            budget = draw.choice((500, 800, 1200))
            shown, told = await preview(svc, turn_of(svc, ask, token_budget=budget, overflow=chosen))
            begin = await take(svc, ask, token_budget=budget, overflow=chosen)
            talk.said(new, reply)
            plan, ledger = begin.plan, (await ledgers(svc))[-1]
            assert plan is not None
            assert shown.body == up.bodies[-1]
            assert told == ledger | {"turn": None}
            assert problems(up.sent["messages"]) == []
            kept = [one["tokens"] for one in ledger["segments"] if one["kept"]]
            assert sum(kept) == ledger["total"] == plan.total == raw_total(up.bodies[-1]), n
            assert ledger["estimate"] == begin.estimate <= budget == ledger["budget"]
            assert ledger["prefix"] <= ledger["total"]


async def test_an_eviction_keeps_what_the_upstreams_own_count_leaves_room_for(tmp_path: Path) -> None:
    """The joined history fits by the least that a token counts, not by the estimate: it must not leave as a whole."""
    up, talk = Upstream(counts=counted), Talk(Random(1), tools=0)
    evictions = 0
    async with services(tmp_path, up) as svc:
        cut = 0
        for n in range(40):
            new, reply = talk.next()
            up.script.append(reply)
            begin = await take(svc, Ask([SYSTEM, *new]), token_budget=700)
            talk.said(new, reply)
            plan = begin.plan
            assert plan is not None
            assert plan.dropped + len(up.sent["messages"]) - 2 == 2 * n, "each message is sent or dropped"
            if plan.cut > cut:
                evictions += 1
                assert begin.estimate > 300
            cut = plan.cut
    assert evictions >= 3


async def test_preview_stores_nothing_and_calls_no_model(tmp_path: Path) -> None:
    up = Upstream()
    async with services(tmp_path, up, EAGER) as svc:
        for save in (False, True):
            composed, ledger = await preview(svc, turn_of(svc, Ask([user("hi")], name="new", save=save)))
            assert json.loads(composed.body)["messages"] == [user("hi")]
            assert ledger["turn"] is None
        assert await counts(svc) == [0] * 6
        await after_talk(svc, up)
        before, calls = await counts(svc), len(up.bodies)
        for _ in range(2):
            await preview(svc, turn_of(svc, Ask([user(evict(ASKED))]), token_budget=SMALL))
        assert (await counts(svc), len(up.bodies)) == (before, calls)


# --- recalled text and tool loops ---


async def after_talk(svc: Services, up: Upstream) -> None:
    for text in TALK:
        up.script.append(LONG)
        await take(svc, Ask([user(text)]))


def call(id: str) -> Message:
    made = {"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [made]}


def result(id: str) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": f"nothing at {id}"}


def with_text(body: bytes) -> list[int]:
    """Where recalled text stands."""
    return [n for n, raw in enumerate(raw_messages(body)) if b"<reference>" in raw]


@pytest.mark.parametrize("where", ["last_user", "message", "system"])
@pytest.mark.parametrize("client", ["delta", "resend"])
async def test_recalled_text_stays_where_it_is_for_the_tool_loop_and_no_longer(
    tmp_path: Path, where: str, client: str
) -> None:
    up = Upstream()
    settings = f"recall: {{min_score: 0.01, placement: {where}}}\ncontext: {{recall_max_tokens: 95}}"
    async with services(tmp_path, up, settings) as svc:
        await after_talk(svc, up)
        up.script = [call("c1"), call("c2"), says("the Alfama")]
        asked = user(evict(ASKED))
        said = [[asked], [result("c1")], [result("c2")]]
        loop = [asked, call("c1"), result("c1"), call("c2"), result("c2")]
        bodies = []
        for n, new in enumerate(said):
            messages = new if client == "delta" else loop[: 2 * n + 1]
            begin = await take(svc, Ask(messages), token_budget=SMALL)
            assert begin.plan is not None
            assert begin.plan.recall > 0
            bodies.append(up.bodies[-1])
        first, *later = [raw_messages(body) for body in bodies]
        assert b"Alfama guest house" in first[with_text(bodies[0])[0]]
        for one in later:
            assert one[: len(first)] == first
        assert [with_text(body) for body in bodies] == [with_text(bodies[0])] * 3
        await take(svc, Ask([user("ok")]), token_budget=SMALL, recall=False)
        assert with_text(up.bodies[-1]) == []
        kept = await svc.db.all("SELECT turn FROM turns WHERE recalled IS NOT NULL")
        assert kept == [(5,)]
        entries = await svc.db.all("SELECT count(*) FROM entries WHERE instr(raw, '<reference>') > 0")
        assert entries == [(0,)], "forwarded only"


async def test_results_that_were_cleared_stay_so_while_old_turns_are_recalled(tmp_path: Path) -> None:
    up, talk = Upstream(), Talk(Random(3), tools=0.5)
    cleared: set[str] = set()
    recalled = 0
    async with services(tmp_path, up, EAGER) as svc:
        for _ in range(100):
            new, reply = talk.next()
            up.script.append(reply)
            begin = await take(svc, Ask(new), token_budget=700)
            talk.said(new, reply)
            results = {one["tool_call_id"]: one["content"] for one in up.sent["messages"] if one["role"] == "tool"}
            whole = {id for id, text in results.items() if text != CLEARED}
            assert not whole & cleared
            cleared |= set(results) - whole
            recalled += begin.recalled > 0
    assert min(len(cleared), recalled) > 5


async def test_what_has_just_left_is_looked_through_at_once(tmp_path: Path) -> None:
    up = Upstream()
    async with services(tmp_path, up, EAGER) as svc:
        await after_talk(svc, up)
        begin = await take(svc, Ask([user(evict(ASKED))]), token_budget=SMALL)
        assert begin.plan is not None
        assert begin.plan.dropped
        assert begin.recalled >= 1
        assert up.sent["messages"][-1]["content"].startswith(placement.OPENING)


# --- parts that fail ---

INDEXES = ("passages", "spoken", "chunks", "words")


class Broken(Stage):
    """A store whose indexes can be taken away."""

    off = False

    def _check(self, sql: str) -> None:
        if self.off and any(name in sql for name in INDEXES):
            raise Unavailable("the index is gone", code="storage_unavailable")

    async def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        self._check(sql)
        return await self.db.all(sql, args)

    async def apart(self, work: Callable[[Tx], Any]) -> Any:
        return await self.db.apart(lambda tx: work(_Checked(tx, self)))


class _Checked:
    """Statements of a transaction go by the stage's rule as well."""

    def __init__(self, tx: Tx, stage: Broken) -> None:
        self._tx = tx
        self._stage = stage

    def all(self, sql: LiteralString, args: Sequence[Value] = ()) -> list[Row]:
        self._stage._check(sql)
        return self._tx.all(sql, args)


@asynccontextmanager
async def breaking(folder: Path, settings: str = "") -> AsyncGenerator[tuple[Services, Upstream, Broken]]:
    stages: list[Broken] = []

    def wrap(db: Database) -> Database:
        stages.append(Broken(db))
        return stages[0]

    up = Upstream()
    async with services(folder, up, settings, wrap) as svc:
        await after_talk(svc, up)
        stages[0].off = True
        yield svc, up, stages[0]


async def test_a_turn_is_answered_without_the_search_that_failed(tmp_path: Path) -> None:
    async with breaking(tmp_path, EAGER) as (svc, up, stage):
        for _ in range(2):  # the turn that evicts, and one that finds the cut there
            begin = await take(svc, Ask([user(evict(ASKED))]), token_budget=SMALL)
            assert begin.errors == ["recall: storage_unavailable"]
            assert begin.number is not None
            assert with_text(up.bodies[-1]) == []
        stage.off = False
        assert (await take(svc, Ask([user(evict(ASKED))]), token_budget=SMALL)).errors == []


async def test_a_failed_search_ends_the_turn_where_that_is_wanted(tmp_path: Path) -> None:
    async with breaking(tmp_path, f"{EAGER}\nsessions: {{fail_closed: true}}") as (svc, up, _):
        before, calls = await counts(svc), len(up.bodies)
        with pytest.raises(ProxyError) as failure:
            await take(svc, Ask([user(evict(ASKED))]), token_budget=SMALL)
        assert (failure.value.status, failure.value.code) == (503, "storage_unavailable")
        assert (await counts(svc), len(up.bodies)) == (before, calls)
        assert (await begun(svc, Ask([user("hi")]))).errors == [], "what needs no search is answered"


@pytest.mark.parametrize("closed", [False, True])
async def test_a_summary_that_failed_is_named_or_ends_the_turn(tmp_path: Path, closed: bool) -> None:
    def refuses(body: Message) -> ProxyError | None:
        wanted = str(body["messages"][-1]["content"]).endswith("Write the summary now.")
        return Unavailable("no summaries today", code="upstream_busy") if wanted else None

    up = Upstream(refuses=refuses)
    async with services(tmp_path, up, f"sessions: {{fail_closed: {str(closed).lower()}}}") as svc:
        failed: ProxyError | None = None
        errors: Sequence[str] = ()
        for n in range(12):
            try:
                begin = await take(svc, Ask([user(evict(f"say {n}"))]), token_budget=300, overflow="summarize")
            except ProxyError as exc:
                failed = exc
                break
            errors = begin.errors or errors
            await svc.summaries.settled()
        if closed:
            assert failed is not None
            assert (failed.status, failed.code) == (503, "summary_failed")
            assert (await begun(svc, Ask([user("hi")]))).number, "under another strategy it is answered"
        else:
            assert failed is None
            assert len(errors) == 1
            assert errors[0].startswith("summary: ")
