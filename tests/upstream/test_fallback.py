"""One request, several upstreams: who is asked, and what the client is told when nobody serves it."""

import pytest

from proxy import config
from proxy.errors import ContextTooLong, ProxyError, UpstreamError, UpstreamRefused, UpstreamUnreachable
from proxy.upstream.breaker import Breakers
from proxy.upstream.fallback import first_good
from proxy.upstream.route import Target, targets

pytestmark = pytest.mark.anyio

CONFIG = config.load("upstreams: [{name: a}, {name: b}, {name: c}]", {})
ALL = targets(CONFIG, "m")


def refused(status: int) -> UpstreamRefused:
    return UpstreamRefused(status, f"status {status}", body=None, headers={})


async def served(*outcomes: ProxyError | str, breakers: Breakers | None = None) -> tuple[str, list[tuple[str, bool]]]:
    """What comes out of upstreams that end so, and who was asked; `True`: as the last one."""
    asked: list[tuple[str, bool]] = []
    given = dict(zip("abc", outcomes, strict=False))

    async def attempt(target: Target, last: bool) -> str:
        asked.append((target.upstream.name, last))
        outcome = given[target.upstream.name]
        if isinstance(outcome, ProxyError):
            raise outcome
        return outcome

    return await first_good(breakers or Breakers(), ALL[: len(outcomes)], True, attempt), asked


async def failed(*outcomes: ProxyError | str) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        await served(*outcomes)
    return caught.value


async def test_the_first_serves_and_the_others_are_not_asked() -> None:
    assert await served("hello", "no") == ("hello", [("a", False)])


@pytest.mark.parametrize("failure", [UpstreamUnreachable("x"), refused(429), refused(500), refused(529), refused(408)])
async def test_the_next_one_takes_over(failure: UpstreamError) -> None:
    answer, asked = await served(failure, failure, "hello")
    assert (answer, asked) == ("hello", [("a", False), ("b", False), ("c", True)])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
async def test_what_is_the_clients_fault_is_told_at_once(status: int) -> None:
    failure = await failed(refused(status), "hello")
    assert (failure.status, failure.headers["x-upstream"]) == (status, "a")


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_fallback_that_does_not_know_the_model_is_passed_over(status: int) -> None:
    assert (await served(refused(500), refused(status), "hello"))[0] == "hello"
    assert (await failed(refused(500), refused(status))).status == 500


async def test_a_fallback_that_refuses_the_request_has_answered_it() -> None:
    assert (await failed(refused(500), refused(400), "hello")).status == 400


async def test_what_an_upstream_said_is_told_before_what_it_was_not_reached_for() -> None:
    assert (await failed(UpstreamUnreachable("x"), refused(429))).status == 429
    assert (await failed(refused(429), UpstreamUnreachable("x"))).status == 429
    assert (await failed(UpstreamUnreachable("x"), UpstreamUnreachable("y"))).message == "y"


async def test_a_fallback_with_too_small_a_context_is_passed_over() -> None:
    small = ContextTooLong("too long")
    assert (await served(refused(500), small, "hello"))[0] == "hello"
    assert (await failed(refused(500), small)).status == 500
    assert await failed(small, "hello") is small


async def test_one_that_is_left_out_meanwhile_is_passed_over_unless_it_is_the_last() -> None:
    breakers = Breakers()
    for target in ALL:
        for _ in range(target.upstream.breaker_failures):
            with pytest.raises(UpstreamUnreachable), breakers.trial(target, own_key=True):
                raise UpstreamUnreachable("x")
    assert await served("hello", "hello", "hello", breakers=breakers) == ("hello", [("c", False)])


async def test_the_last_one_that_is_well_is_worth_retries_and_one_that_is_left_out_is_not() -> None:
    breakers = Breakers()
    for _ in range(ALL[1].upstream.breaker_failures):
        with pytest.raises(UpstreamUnreachable), breakers.trial(ALL[1], own_key=True):
            raise UpstreamUnreachable("x")
    answer, asked = await served(refused(500), "hello", breakers=breakers)
    assert (answer, asked) == ("hello", [("a", True), ("b", False)])
