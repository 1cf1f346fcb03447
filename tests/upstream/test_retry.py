"""When to ask again."""

import pytest

from proxy.upstream.retry import BASE_S, CAP_S, PATIENCE_S, RETRIED, UNREACHABLE, wait


@pytest.mark.parametrize("status", [UNREACHABLE, 500, 502, 503, 504, 529])
def test_a_failure_of_the_server_is_tried_again_as_often_as_allowed(status: int) -> None:
    assert [wait(attempt, 2, status, None, 0.5) is not None for attempt in (1, 2, 3, 4)] == [True, True, False, False]
    assert wait(1, 0, status, None, 0.5) is None


@pytest.mark.parametrize("status", [300, 301, 307, 400, 401, 403, 404, 408, 409, 413, 422, 425, 429, 499, 501, 505])
def test_everything_else_is_for_the_client(status: int) -> None:
    assert wait(1, 9, status, None, 0.5) is None
    assert status not in RETRIED


def test_each_wait_is_twice_the_last_up_to_a_cap() -> None:
    waits = [wait(attempt, 99, 503, None, 1.0) for attempt in range(1, 9)]
    assert waits == [min(CAP_S, BASE_S * 2**n) for n in range(8)]


@pytest.mark.parametrize("attempt", range(1, 12))
def test_chance_takes_away_up_to_half(attempt: int) -> None:
    least, most = wait(attempt, 99, 503, None, 0.0), wait(attempt, 99, 503, None, 1.0)
    assert least is not None
    assert most is not None
    assert least == most / 2
    assert 0 < least <= CAP_S / 2


def test_a_server_that_says_when_is_obeyed() -> None:
    assert wait(1, 2, 503, 1.5, 0.5) == 1.5
    assert wait(1, 2, 503, 0.0, 0.5) == 0.0
    assert wait(1, 2, 503, PATIENCE_S, 0.5) == PATIENCE_S


@pytest.mark.parametrize("after", [PATIENCE_S + 0.1, 3600.0, float("inf"), float("nan")])
def test_a_long_wait_is_for_the_client(after: float) -> None:
    assert wait(1, 2, 503, after, 0.5) is None


def test_attempts_that_are_used_up_are_not_given_back_by_the_server() -> None:
    assert wait(3, 2, 503, 0.1, 0.5) is None
