"""What one streamed answer tells about its server."""

import pytest

from proxy.cli.checks import streaming
from proxy.cli.checks.finding import Finding
from proxy.cli.checks.streaming import Ask, Heard
from proxy.errors import UpstreamBroken, UpstreamRefused
from proxy.upstream.client import HttpUpstream
from proxy.upstream.protocol import Timeouts
from tests.cli.checks.sites import bad, the
from tests.faults import clean_end_without_finish, cut_mid_stream, endless, finish_without_done, raw
from tests.scripted import Exchange, Step, says, scripted_upstream, status


async def asked(step: Step, usage: bool = True) -> tuple[Heard, list[dict]]:
    """What was heard, and the requests for it."""
    async with scripted_upstream(step) as up:
        client = HttpUpstream(up.url, timeouts=Timeouts(2, 3, 3, 10))
        try:
            return await streaming.heard(Ask(client, (), usage), "m"), [request.json for request in up.requests]
        finally:
            await client.aclose()


def judged(answer: Heard, usage: bool = True) -> list[Finding]:
    return list(streaming.judged("up", "m", answer, usage))


@pytest.mark.anyio
async def test_a_good_server_is_asked_once_for_a_few_tokens() -> None:
    answer, requests = await asked(says("It is noon and all is well"))
    assert (answer.done, answer.finished, answer.usage, answer.failure) == (True, True, True, None)
    assert answer.events > 5
    assert [(request["stream"], request["max_tokens"]) for request in requests] == [(True, 16)]
    assert not bad(judged(answer))
    assert "streams" in judged(answer)[0].said


@pytest.mark.anyio
async def test_a_server_that_answers_with_json_is_told() -> None:
    async def whole(exchange: Exchange) -> None:
        exchange.request.body = exchange.request.body.replace(b'"stream":true', b'"stream":false')
        await says("It is noon")(exchange)

    answer, _ = await asked(whole)
    assert answer.whole
    assert "answered with one JSON object" in the(judged(answer)).said


@pytest.mark.anyio
async def test_a_server_without_usage_is_told_what_to_set() -> None:
    async def without(exchange: Exchange) -> None:
        exchange.request.body = exchange.request.body.replace(b"include_usage", b"include_nothing")
        await says("It is noon")(exchange)

    answer, _ = await asked(without)
    told = the(judged(answer))
    assert "reports no usage" in told.said
    assert "stream_usage: false in upstreams[up]" in told.fix
    assert not bad(judged(answer, usage=False))


def refuses(*fields: str) -> Step:
    async def step(exchange: Exchange) -> None:
        wrong = [field for field in fields if field in exchange.request.json]
        error = {"error": {"message": f"unknown field {wrong}", "type": "invalid_request_error"}}
        await (status(400, json=error) if wrong else says("hi"))(exchange)

    return step


@pytest.mark.anyio
async def test_a_server_that_refuses_stream_options_is_told_what_to_set() -> None:
    answer, requests = await asked(refuses("stream_options"))
    assert (answer.failure, answer.options, len(requests)) == (None, False, 3)
    told = the(judged(answer))
    assert told.state == "failed"
    assert "stream_usage: false" in told.fix
    answer, requests = await asked(refuses("stream_options"), usage=False)
    assert (answer.failure, len(requests)) == (None, 1)
    assert not bad(judged(answer, usage=False))


@pytest.mark.anyio
async def test_a_model_that_wants_max_completion_tokens_gets_them() -> None:
    answer, requests = await asked(refuses("max_tokens"))
    assert answer.failure is None
    assert requests[-1]["max_completion_tokens"] == 16
    assert not bad(judged(answer))


@pytest.mark.anyio
async def test_a_refusal_that_stays_is_the_first_one() -> None:
    answer, requests = await asked(refuses("model"))
    assert isinstance(answer.failure, UpstreamRefused)
    assert (answer.failure.status, len(requests)) == (400, 4)


@pytest.mark.anyio
async def test_a_stream_without_done_or_without_an_end_is_told() -> None:
    answer, _ = await asked(finish_without_done())
    assert "ends without [DONE]" in bad(judged(answer))[0].said
    answer, _ = await asked(clean_end_without_finish())
    told = the(judged(answer))
    assert (told.state, "broken off" in told.said) == ("failed", True)
    answer, _ = await asked(cut_mid_stream())
    assert isinstance(answer.failure, UpstreamBroken)


@pytest.mark.anyio
async def test_a_page_is_no_stream() -> None:
    answer, _ = await asked(status(200, html="<html>hello</html>"))
    assert "no event of a stream" in the(judged(answer)).said


@pytest.mark.anyio
async def test_an_event_without_its_blank_line_counts() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    answer, _ = await asked(raw([head + event]))
    assert (answer.events, answer.finished, answer.sse) == (1, True, False)
    assert "not called text/event-stream" in "".join(finding.said for finding in bad(judged(answer)))


@pytest.mark.anyio
async def test_an_answer_without_end_is_left() -> None:
    answer, _ = await asked(endless())
    assert (answer.long, answer.failure) == (True, None)
    assert "max_tokens" in the(judged(answer)).said
