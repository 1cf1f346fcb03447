"""What the upstreams taught, in memory and over restarts."""

import pytest

from proxy.calibration import EARLY, EVERY, LONGEST, MOST, Calibration
from proxy.context import calibrate
from proxy.context.calibrate import FRESH, Sample
from proxy.store import calibrations, sqlite

pytestmark = pytest.mark.anyio

PROMPT = Sample(1000, 0, 5)


def test_each_upstream_and_model_is_learnt_for_itself() -> None:
    calibration = Calibration()
    for _ in range(10):
        calibration.learn("a", "m", PROMPT, 1300)
    assert calibrate.predicted(calibration.of("a", "m"), PROMPT) == pytest.approx(1300, rel=0.03)
    assert calibration.of("a", "n") == calibration.of("b", "m") == FRESH


def test_a_state_is_due_at_first_always_and_later_now_and_then() -> None:
    calibration = Calibration()
    due = [n for n in range(1, 101) if calibration.learn("a", "m", PROMPT, 1300) is not None]
    assert due == [*range(1, EARLY + 1), *[n for n in range(EARLY + 1, 101) if n % EVERY == 0]]


def test_a_count_that_says_nothing_is_not_stored() -> None:
    calibration = Calibration()
    assert calibration.learn("a", "m", PROMPT, 0) is None
    assert calibration.learn("a", "m" * (LONGEST + 1), PROMPT, 1300) is None
    calibration.limited("a", "m" * (LONGEST + 1), 4096)
    assert calibration.of("a", "m" * (LONGEST + 1)) == FRESH


def test_a_limit_is_kept_beside_what_was_learnt() -> None:
    calibration = Calibration()
    calibration.learn("a", "m", PROMPT, 1300)
    state = calibration.limited("a", "m", 8192)
    assert state is not None
    assert calibrate.decoded(state) == calibration.of("a", "m")
    calibration.learn("a", "m", PROMPT, 1300)
    assert calibration.of("a", "m").limit == 8192
    assert calibration.of("a", "m").count == 2


def test_models_without_end_leave_the_ones_that_are_used() -> None:
    calibration = Calibration()
    for n in range(MOST + 50):
        calibration.learn("a", f"m{n}", PROMPT, 1300)
        calibration.learn("a", "used", PROMPT, 1300)
    assert calibration.of("a", "used").count == MOST + 50
    assert calibration.of("a", f"m{MOST + 49}").count == 1
    assert calibration.of("a", "m0") == FRESH
    assert sum(calibration.of("a", f"m{n}") != FRESH for n in range(MOST + 50)) == MOST - 1


async def test_a_restart_takes_up_what_was_stored(tmp_path) -> None:
    db = sqlite.opened(f"sqlite:///{tmp_path / 'store.db'}")
    try:
        before = Calibration()
        for upstream in ("a", "b"):
            state = before.learn(upstream, "m", PROMPT, 1300)
            assert state is not None
            await db.transaction(lambda tx, u=upstream, s=state: calibrations.put(tx, u, "m", s, 1))
        await db.transaction(lambda tx: calibrations.put(tx, "c", "m", b"not JSON", 1))
        after = Calibration()
        await after.load(db)
        assert after.of("a", "m") == before.of("a", "m") == after.of("b", "m")
        assert after.of("c", "m") == FRESH
    finally:
        await db.close()
