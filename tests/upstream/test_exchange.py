"""One call of a model server until it answers well."""

import email.utils
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy.config import UpstreamConfig
from proxy.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.exchange import ERROR_BODY, exchange, kept_headers, read, retry_after
from proxy.upstream.protocol import Call, Headers

pytestmark = pytest.mark.anyio

CALL = Call("POST", "/chat/completions", b"{}", ())
AT_ONCE = (b"retry-after", b"0")


class Given:
    """An answer made of its parts; an exception among them is raised in its place."""

    def __init__(self, status: int, *parts: bytes | Exception, headers: Headers = ()) -> None:
        self.status = status
        self.headers = headers
        self.parts = parts
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        self.closed += 1


class Server:
    """A model server that gives these answers one after the other, the last one for ever."""

    def __init__(self, answers: Sequence[Given | Exception]) -> None:
        self.answers = answers
        self.calls = 0

    async def send(self, call: Call) -> Given:
        assert call is CALL
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        return


async def asked(*answers: Given | Exception, retries: int = 2, own_key: bool = True) -> tuple[Any, int]:
    """(what came of it, how often the server was asked)"""
    server = Server(answers)
    try:
        return await exchange(server, UpstreamConfig(retries=retries), CALL, own_key), server.calls
    except UpstreamError as failure:
        return failure, server.calls


def failing(status: int, body: Any = None, headers: Headers = (AT_ONCE,)) -> Given:
    return Given(status, json.dumps(body).encode() if body is not None else b"", headers=headers)


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_a_good_answer_is_given_out_open(status: int) -> None:
    good = Given(status, b"{}")
    assert await asked(good) == (good, 1)
    assert not good.closed


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
async def test_a_failing_server_is_asked_again_and_its_answers_closed(status: int) -> None:
    bad, good = failing(status), Given(200)
    assert await asked(bad, bad, good) == (good, 3)
    assert bad.closed == 2


async def test_a_server_that_cannot_be_reached_is_asked_again() -> None:
    good = Given(200)
    assert await asked(UpstreamUnreachable("refused"), good) == (good, 2)


async def test_the_last_failure_is_told_when_the_retries_are_used_up() -> None:
    failure, calls = await asked(failing(503, {"error": {"message": "busy", "code": "x"}}))
    assert (type(failure), failure.status, failure.message, calls) == (UpstreamRefused, 503, "busy", 3)
    failure, calls = await asked(UpstreamUnreachable("refused"), retries=0)
    assert (type(failure), calls) == (UpstreamUnreachable, 1)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429])
async def test_what_is_the_clients_fault_is_told_at_once(status: int) -> None:
    body = {"error": {"message": "no", "type": "t", "param": None, "code": "c"}}
    failure, calls = await asked(failing(status, body))
    assert (failure.status, calls, failure.message) == (status, 1, "no")
    assert json.loads(failure.body) == body


async def test_silence_is_not_waited_for_twice() -> None:
    failure, calls = await asked(UpstreamTimeout("silence"), Given(200))
    assert (type(failure), calls) == (UpstreamTimeout, 1)


async def test_a_server_that_wants_a_long_pause_gets_it_from_the_client() -> None:
    failure, calls = await asked(failing(503, headers=((b"retry-after", b"60"),)))
    assert (calls, failure.headers) == (1, {"retry-after": "60"})
    failure, calls = await asked(failing(503, headers=((b"retry-after-ms", b"60000"),)))
    assert (calls, failure.headers) == (1, {"retry-after-ms": "60000"})


@pytest.mark.parametrize("odd", [b"soon", b"Wed, 21 Oct 2026 07:28:00 GMT", b"", b"\xff"])
async def test_a_pause_that_is_no_number_is_passed_over(odd: bytes) -> None:
    good = Given(200)
    assert await asked(failing(503, headers=((b"retry-after", odd),)), good) == (good, 2)


@pytest.mark.parametrize("odd", [b"nan", b"inf", b"-1", b"1e400"])
async def test_an_absurd_pause_hangs_nothing(odd: bytes) -> None:
    result, calls = await asked(failing(503, headers=((b"retry-after", odd),)), Given(200))
    assert calls <= 2
    assert result is not None


@pytest.mark.parametrize("status", [401, 403])
async def test_the_proxys_own_key_is_not_the_clients_fault(status: int) -> None:
    body = {"error": {"message": "Incorrect API key provided: sk-secret"}}
    failure, calls = await asked(failing(status, body))
    assert (failure.status, failure.code, calls) == (502, "upstream_auth_error", 1)
    assert "sk-secret" not in failure.message
    failure, _ = await asked(failing(status, body), own_key=False)
    assert (failure.status, failure.message) == (status, "Incorrect API key provided: sk-secret")


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304])
async def test_a_redirect_is_neither_followed_nor_shown(status: int) -> None:
    away = Given(status, b"moved", headers=((b"location", b"http://internal.example/"),))
    failure, calls = await asked(away)
    assert (failure.status, failure.code, calls, away.closed) == (502, "upstream_redirected", 1, 1)
    assert "internal" not in repr((failure.message, failure.headers))


DIALECTS = [
    ({"error": {"message": "a"}}, "a", True),
    ({"error": {"code": 1}}, "the upstream reported an error", True),
    ({"error": {"message": 7}}, "7", True),
    ({"error": "b"}, "b", False),
    ({"message": "c", "object": "error"}, "c", False),
    ({"message": "c", "object": "error", "type": "t", "param": None, "code": 400}, "c", True),
    ([{"error": {"message": "e", "code": 400}}], "e", True),
    ({"detail": "d"}, "d", False),
    ({"detail": [{"loc": ["body", 0, "n"], "msg": "too big"}, {"msg": "odd"}, 5]}, "body.0.n: too big; odd", False),
    ({"detail": [5]}, "the upstream answered 400", False),
    ([], "the upstream answered 400", False),
    (None, "the upstream answered 400", False),
]


@pytest.mark.parametrize(("body", "message", "kept"), DIALECTS, ids=[json.dumps(row[0]) for row in DIALECTS])
async def test_errors_are_understood_in_every_dialect(body: Any, message: str, kept: bool) -> None:
    failure, _ = await asked(failing(400, body))
    assert failure.message == message
    assert (failure.body is not None) == kept
    assert not kept or isinstance(json.loads(failure.body or b"")["error"], dict)


@pytest.mark.parametrize(
    "body", [b"<html>internal-host</html>", b"\xff\xfe", b"{", b"[" * 100_000, b'{"error":{"message":"\\ud83d"}}']
)
async def test_garbage_is_replaced(body: bytes) -> None:
    failure, _ = await asked(Given(502, body, headers=(AT_ONCE,)), retries=0)
    assert (failure.status, failure.body, failure.message) == (502, None, "the upstream answered 502")


async def test_an_error_that_breaks_off_or_never_ends_is_told_without_its_body() -> None:
    for parts in ([b'{"error"', UpstreamBroken("cut")], [b" " * 65536] * (ERROR_BODY // 65536 + 1)):
        broken = Given(400, *parts)
        failure, _ = await asked(broken)
        assert (failure.status, failure.body) == (400, None)
        assert broken.closed


async def test_a_status_from_another_world_is_a_bad_gateway() -> None:
    failure, _ = await asked(failing(700))
    assert failure.status == 502


def test_headers_about_limits_and_retries_are_kept_and_no_others() -> None:
    headers = (
        (b"retry-after", b"1"), (b"x-ratelimit-remaining-tokens", b"2"), (b"openai-organization", b"o"),
        (b"x-should-retry", b"true"), (b"x-request-id", b"r"), (b"set-cookie", b"a"), (b"server", b"s"),
        (b"location", b"l"), (b"content-type", b"c"),
    )  # fmt: skip
    assert kept_headers(Given(200, headers=headers)) == {
        "retry-after": "1", "x-ratelimit-remaining-tokens": "2", "openai-organization": "o", "x-should-retry": "true",
        "x-upstream-request-id": "r",
    }  # fmt: skip


async def test_a_body_is_read_up_to_its_limit() -> None:
    assert await read(Given(200, b"ab", b"cd"), 4) == b"abcd"
    assert await read(Given(200), 4) == b""
    with pytest.raises(UpstreamError) as caught:
        await read(Given(200, b"ab", b"cd", b"e"), 4)
    assert caught.value.code == "answer_too_large"


async def test_a_pause_may_be_given_as_a_date() -> None:
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for given, least, most in ((soon, 90, 100), ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0)):
        pause = retry_after(UpstreamError("x", headers={"retry-after": given}))
        assert pause is not None
        assert least <= pause <= most
    assert retry_after(UpstreamError("x", headers={"retry-after": "soon"})) is None
