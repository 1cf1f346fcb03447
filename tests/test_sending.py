"""A prompt that the upstream finds too long is sent again, shorter; what it said of its limit is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import ContextTooLong, ProxyError, UpstreamRefused
from proxy.services import Services
from tests.conversing import Upstream, ledgers, raw_messages, take
from tests.inprocess import Ask, Message, counts, says, services, stored, user, words

pytestmark = pytest.mark.anyio

Refusal = Callable[[int, int], tuple[int, Message]]
"""Of the limit and the tokens counted: the status and the body of a refusal."""


def openai(limit: int, counted: int) -> tuple[int, Message]:
    text = (
        f"This model's maximum context length is {limit} tokens. However, your messages resulted in {counted} tokens. "
        "Please reduce the length of the messages."
    )
    error = {"message": text, "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
    return 400, error


def llama(limit: int, counted: int) -> tuple[int, Message]:
    text = f"request ({counted} tokens) exceeds the available context size ({limit} tokens), try increasing it"
    error = {"code": 400, "message": text, "type": "exceed_context_size_error", "n_prompt_tokens": counted}
    return 400, error | {"n_ctx": limit}


def vllm(limit: int, counted: int) -> tuple[int, Message]:
    text = (
        f"This model's maximum context length is {limit} tokens. However, you requested {counted + 10} tokens "
        f"({counted} in the messages, 10 in the completion). Please reduce the length of the messages or completion."
    )
    return 400, {"object": "error", "message": text, "type": "BadRequestError", "param": None, "code": 400}


def nameless(limit: int, counted: int) -> tuple[int, Message]:
    return 400, {"message": "the prompt is too long", "type": "invalid_request_error", "param": None, "code": None}


def total(body: Message) -> int:
    """What the model server counts: as the proxy does."""
    return 3 + sum(4 + words(str(one["content"])) for one in body["messages"])


def limited(limit: int, refusal: Refusal) -> Callable[[Message], ProxyError | None]:
    def refuses(body: Message) -> ProxyError | None:
        counted = total(body)
        if counted <= limit:
            return None
        status, error = refusal(limit, counted)
        envelope = json.dumps({"error": error}).encode()
        return UpstreamRefused(status, error["message"], body=envelope, headers={})

    return refuses


def long(n: int, size: int = 60) -> Message:
    return user(f"question {n} " + "so " * size)


async def grown(svc: Services, up: Upstream, turns: int, **options: Any) -> None:
    """A conversation of so many turns, about 110 tokens each, while nothing is refused."""
    for n in range(turns):
        up.script.append(says("answer " + "no " * 40))
        await take(svc, Ask([long(n)]), **options)
    up.bodies.clear()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("refusal", [openai, llama, vllm, nameless])
async def test_the_turn_is_answered_and_the_limit_is_learnt_and_kept(
    tmp_path: Path, refusal: Refusal, usage: bool, stream: bool
) -> None:
    up = Upstream(counts=total if usage else None)
    async with services(tmp_path, up) as svc:
        await grown(svc, up, 12)
        up.refuses = limited(900, refusal)
        begin = await take(svc, Ask([long(12)], stream=stream))
        assert 2 <= len(up.bodies) <= 3
        assert begin.number == 13
        assert begin.plan is not None
        assert total(up.sent) <= 900
        assert b"context_retries_total %d.0\n" % (len(up.bodies) - 1) in svc.metrics.render()
        assert (await ledgers(svc))[-1]["total"] == begin.plan.total == total(up.sent)
        assert json.loads((await stored(svc))[-1][1])["content"] == "ok"
        up.bodies.clear()
        await take(svc, Ask([long(13)], stream=stream))
        assert len(up.bodies) == 1, "the limit is known"
    async with services(tmp_path, up) as svc:
        await svc.calibration.load(svc.db)
        up.bodies.clear()
        await take(svc, Ask([long(14)], stream=stream))
        assert len(up.bodies) == 1, "and stays known"
        assert svc.calibration.of("default", "m").limit == (None if refusal is nameless else 900)


@pytest.mark.parametrize("options", [{"overflow": "null"}, {"mode": "observe"}])
async def test_what_may_not_be_shortened_is_refused_as_the_upstream_says(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    up = Upstream()
    async with services(tmp_path, up) as svc:
        await grown(svc, up, 12, **options)
        before = await counts(svc)
        up.refuses = limited(900, openai)
        with pytest.raises(UpstreamRefused, match="maximum context length is 900") as failure:
            await take(svc, Ask([long(12, 1000)]), **options)
        assert failure.value.status == 400
        assert len(up.bodies) == 1
        assert await counts(svc) == before


@pytest.mark.parametrize("refusal", [openai, llama, vllm, nameless])
async def test_new_messages_that_alone_are_too_long_are_refused(tmp_path: Path, refusal: Refusal) -> None:
    up = Upstream()
    async with services(tmp_path, up) as svc:
        await grown(svc, up, 12)
        before = await counts(svc)
        up.refuses = limited(900, refusal)
        with pytest.raises((ContextTooLong, UpstreamRefused)) as failure:
            await take(svc, Ask([long(12, 1000)]))
        assert failure.value.status == 400
        if refusal is not nameless:
            assert isinstance(failure.value, ContextTooLong)
            assert failure.value.code == "context_length_exceeded"
        assert len(up.bodies) <= 3
        assert await counts(svc) == before
        assert (await take(svc, Ask([user("hi")]))).number == 13, "the session goes on"


@pytest.mark.parametrize("refusal", [openai, llama, nameless])
async def test_history_leaves_before_the_turn_is_given_up(tmp_path: Path, refusal: Refusal) -> None:
    """The new message needs 88 % of the context, and more than half of what was tried."""
    up = Upstream()
    async with services(tmp_path, up) as svc:
        await grown(svc, up, 4)
        up.refuses = limited(900, refusal)
        await take(svc, Ask([long(4, 780)], fields={"max_tokens": 10}))
        assert len(up.bodies) == 2
        assert raw_messages(up.bodies[-1]) == raw_messages(up.bodies[0])[-1:]


async def test_a_refusal_for_another_reason_is_passed_on_at_once(tmp_path: Path) -> None:
    def refuses(_: Message) -> ProxyError:
        return UpstreamRefused(400, "temperature must be at most 2", body=None, headers={})

    up = Upstream(refuses=refuses)
    async with services(tmp_path, up) as svc:
        with pytest.raises(UpstreamRefused, match="temperature"):
            await take(svc, Ask([user("hi")]))
        assert len(up.bodies) == 1
        assert svc.calibration.of("default", "m").limit is None


async def test_a_context_that_is_configured_stays_what_it_is(tmp_path: Path) -> None:
    up = Upstream()
    settings = "models: {m: {context_tokens: 5000}}"
    async with services(tmp_path, up, settings) as svc:
        await grown(svc, up, 12)
        up.refuses = limited(900, openai)
        assert (await take(svc, Ask([long(12)]))).number == 13
        up.refuses = limited(5000, openai)
        up.bodies.clear()
        begin = await take(svc, Ask([long(13)]))
        assert begin.plan is not None
        assert begin.plan.budget == 5000
        assert len(up.sent["messages"]) == 27


async def test_a_limit_below_the_answers_reserve_leaves_half_of_it_for_the_prompt(tmp_path: Path) -> None:
    up = Upstream()
    async with services(tmp_path, up) as svc:
        await grown(svc, up, 12)
        up.refuses = limited(600, openai)
        for n in range(12, 18):
            begin = await take(svc, Ask([long(n)], fields={"max_tokens": 4096}))
            assert begin.plan is not None
            assert begin.plan.history > 0
        assert begin.plan.budget == 300
