"""Which upstreams are left alone, for how long, and who tries them again."""

import pytest

from proxy import config
from proxy.errors import UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.breaker import LONGEST_REST_S, Breakers, may_move_on
from proxy.upstream.route import Target, targets

CONFIG = config.load(
    """
upstreams:
- {name: a, base_url: 'http://a/v1', breaker_failures: 3, breaker_pause_s: 10}
- {name: b, base_url: 'http://b/v1', breaker_failures: 3, breaker_pause_s: 10}
""",
    {},
)
A, B = targets(CONFIG, "m")
DOWN = UpstreamUnreachable("refused")


class Stage:
    """Breakers whose clock and log the test holds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[tuple[str, object]] = []
        self.breakers = Breakers(self.log, clock=lambda: self.now)

    def log(self, level: str, event: str, **facts: object) -> None:
        self.said.append((event, facts.get("upstream")))

    def call(self, target: Target, failure: BaseException | None = None, own_key: bool = True) -> None:
        if failure is None:
            with self.breakers.trial(target, own_key):
                return
        with pytest.raises(type(failure)), self.breakers.trial(target, own_key):
            raise failure

    def fail(self, target: Target, times: int) -> None:
        for _ in range(times):
            self.call(target, UpstreamUnreachable("refused"))

    @property
    def order(self) -> str:
        return "".join(target.upstream.name for target in self.breakers.choose((A, B)))


def refused(status: int, after: str | None = None) -> UpstreamRefused:
    return UpstreamRefused(status, "no", body=None, headers={} if after is None else {"retry-after": after})


def test_failures_in_a_row_leave_an_upstream_out_and_a_good_answer_between_them_does_not() -> None:
    stage = Stage()
    stage.fail(A, 2)
    stage.call(A)
    stage.fail(A, 2)
    assert stage.order == "ab"
    stage.fail(A, 1)
    assert stage.order == "ba"
    assert stage.said == [("upstream_left_out", "a")]


@pytest.mark.parametrize("failure", [DOWN, UpstreamTimeout("late"), refused(500), refused(503), UpstreamError("odd")])
def test_what_counts_is_whatever_the_upstream_is_to_blame_for(failure: UpstreamError) -> None:
    stage = Stage()
    for _ in range(3):
        stage.call(A, failure)
    assert stage.order == "ba"


@pytest.mark.parametrize("status", [400, 401, 404, 408, 422, 429])
def test_an_answer_that_says_no_is_an_answer(status: int) -> None:
    stage = Stage()
    stage.fail(A, 2)
    for _ in range(5):
        stage.call(A, refused(status))
    stage.fail(A, 2)
    assert stage.order == "ab"


def test_after_its_pause_one_request_at_a_time_tries_it() -> None:
    stage = Stage()
    stage.fail(A, 3)
    stage.now = 9.9
    assert stage.order == "ba"
    stage.now = 10.0
    assert stage.order == "ab"
    with stage.breakers.trial(A, own_key=True):
        assert stage.order == "ba"
    assert stage.order == "ab"
    assert stage.said[-1] == ("upstream_back", "a")


def test_a_try_that_fails_begins_another_pause() -> None:
    stage = Stage()
    stage.fail(A, 3)
    stage.now = 10.0
    stage.fail(A, 1)
    assert stage.order == "ba"
    stage.now = 20.0
    assert stage.order == "ab"


def test_a_try_that_is_given_up_lets_the_next_one_try() -> None:
    stage = Stage()
    stage.fail(A, 3)
    stage.now = 10.0
    stage.call(A, KeyboardInterrupt())
    assert stage.order == "ab"


def test_when_all_are_left_out_the_first_is_asked_and_no_other() -> None:
    stage = Stage()
    stage.fail(A, 3)
    stage.fail(B, 3)
    assert stage.order == "a"


@pytest.mark.parametrize(
    "failure",
    [refused(501), UpstreamUnreachable("x", code="upstream_busy"), UpstreamUnreachable("x", code="upstream_closed")],
)
def test_one_endpoint_or_our_own_limits_are_no_outage(failure: UpstreamError) -> None:
    stage = Stage()
    for _ in range(5):
        stage.call(A, failure)
    assert stage.order == "ab"
    assert may_move_on(failure)


def test_a_breaker_of_zero_failures_never_opens() -> None:
    off = config.load("upstreams: [{base_url: 'http://a/v1', breaker_failures: 0}]", {})
    target = targets(off, "m")[0]
    stage = Stage()
    stage.fail(target, 50)
    assert stage.breakers.admits(target)


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_is_obeyed_for_that_model(status: int) -> None:
    stage = Stage()
    stage.call(A, refused(status, "7"))
    other = targets(CONFIG, "other")[0]
    assert stage.order == "ba"
    assert stage.breakers.admits(other)
    stage.now = 7.0
    assert stage.order == "ab"


def test_a_retry_after_of_days_is_asked_again_after_minutes() -> None:
    stage = Stage()
    stage.call(A, refused(429, "900000"))
    stage.now = LONGEST_REST_S
    assert stage.order == "ab"


def test_what_a_clients_own_key_has_used_up_says_nothing_to_others() -> None:
    stage = Stage()
    stage.call(A, refused(429, "7"), own_key=False)
    assert stage.order == "ab"


@pytest.mark.parametrize(
    ("failure", "passes"),
    [(DOWN, True), (refused(408), True), (refused(429), True), (refused(500), True), (refused(400), False),
     (refused(404), False), (UpstreamError("long", code="answer_too_large"), False)],
)  # fmt: skip
def test_another_upstream_is_asked_unless_the_client_is_to_blame(failure: UpstreamError, passes: bool) -> None:
    assert may_move_on(failure) is passes
