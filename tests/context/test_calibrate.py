"""How many tokens an upstream will count, learnt from what it counted."""

import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.context import calibrate
from proxy.context.calibrate import FRESH, Learnt, Sample

Upstream = Callable[[Sample, random.Random], float]


def asked(rng: random.Random) -> Sample:
    """A prompt of some size, one in three with tools, one in two with a system message."""
    tools = rng.randrange(40, 1500) if rng.random() < 0.33 else 0
    messages = rng.randrange(1, 40)
    return Sample(3 + messages * rng.randrange(6, 150), tools, messages, rng.random() < 0.5)


def taught(upstream: Upstream, samples: int, seed: int = 1, learnt: Learnt = FRESH) -> Learnt:
    rng = random.Random(seed)
    for _ in range(samples):
        sample = asked(rng)
        learnt = calibrate.learn(learnt, sample, round(upstream(sample, rng)))
    return learnt


def errors(learnt: Learnt, upstream: Upstream, seed: int = 99) -> list[float]:
    """The relative errors of 200 estimates, smallest first."""
    rng = random.Random(seed)
    prompts = [asked(rng) for _ in range(200)]
    return sorted(abs(calibrate.expected(learnt, one) / upstream(one, rng) - 1) for one in prompts)


def same(sample: Sample, rng: random.Random) -> float:
    """An upstream that counts as we do."""
    return sample.text + sample.tools


def other(sample: Sample, rng: random.Random) -> float:
    """A small vocabulary, short frames, tools left out, and instructions of the template's own."""
    return 1.2 * sample.text - 1.2 * sample.messages + 7 + (0 if sample.system else 18)


def verbose(sample: Sample, rng: random.Random) -> float:
    """Texts that vary, tools in full, and a hidden prompt of 900 tokens."""
    return 1.4 * sample.text * rng.gauss(1, 0.02) + 1.7 * sample.tools + 2 * sample.messages + 900


def test_nothing_learnt_is_the_raw_count() -> None:
    assert calibrate.expected(FRESH, Sample(1000, 200, 9)) == 1200
    assert calibrate.expected(FRESH, Sample(0, 0, 0)) == 1
    assert calibrate.least_factor(FRESH) == 1.0


@pytest.mark.parametrize(("upstream", "usual", "most"), [(same, 0.01, 0.02), (other, 0.025, 0.1), (verbose, 0.12, 0.6)])
def test_an_upstreams_way_of_counting_is_learnt_in_twenty_answers(
    upstream: Upstream, usual: float, most: float
) -> None:
    for seed in range(10):
        found = errors(taught(upstream, 20, seed), upstream)
        assert found[len(found) // 2] < usual, seed
        assert found[int(0.95 * len(found))] < most, seed


@pytest.mark.parametrize(("upstream", "most"), [(same, 0.01), (other, 0.01), (verbose, 0.15)])
def test_more_answers_make_it_exact(upstream: Upstream, most: float) -> None:
    for seed in range(10):
        found = errors(taught(upstream, 200, seed), upstream)
        assert found[int(0.95 * len(found))] < most, seed


def test_an_upstream_that_counts_as_we_do_stays_nearly_exact() -> None:
    learnt = taught(same, 60)
    assert calibrate.expected(learnt, Sample(10_000, 0, 30)) == pytest.approx(10_000, rel=0.003)


def test_estimates_err_upward() -> None:
    rng = random.Random(5)
    learnt = taught(other, 100)
    prompts = [asked(rng) for _ in range(500)]
    below = [one for one in prompts if calibrate.expected(learnt, one) < other(one, rng)]
    assert len(below) < 0.2 * len(prompts)


def test_the_margin_shrinks_with_evidence() -> None:
    def margin(learnt: Learnt) -> float:
        prompt = Sample(100_000, 0, 300)
        return calibrate.expected(learnt, prompt) / calibrate.predicted(learnt, prompt)

    margins = [margin(taught(other, samples)) for samples in (4, 30, 200)]
    assert margins[0] > margins[2] >= 1.0
    assert margins == sorted(margins, reverse=True)


@pytest.mark.parametrize("wild", [0, -5, 1, 10**12, -(10**12)])
def test_a_wild_count_moves_little(wild: int) -> None:
    learnt, prompt = taught(other, 40), Sample(2000, 300, 12)
    before = calibrate.predicted(learnt, prompt)
    for _ in range(2):
        learnt = calibrate.learn(learnt, prompt, wild)
        learnt = taught(other, 8, 3, learnt)
    assert calibrate.predicted(learnt, prompt) == pytest.approx(before, rel=0.03)


def test_one_answer_in_ten_counted_tenfold_does_not_wreck_it() -> None:
    def sometimes(sample: Sample, rng: random.Random) -> float:
        return other(sample, rng) * (10 if rng.random() < 0.1 else 1)

    found = errors(taught(sometimes, 200), other)
    assert found[int(0.95 * len(found))] < 0.05


def test_another_model_under_the_same_name_is_learnt_anew() -> None:
    learnt = taught(verbose, 60, 2, taught(other, 300))
    learnt = taught(verbose, 140, 3, learnt)
    found = errors(learnt, verbose)
    assert found[len(found) // 2] < 0.1
    assert found[int(0.95 * len(found))] < 0.25


def test_a_branchs_own_texts_correct_its_next_estimate() -> None:
    learnt = taught(other, 60)
    japanese = Sample(1000, 0, 8)
    drift = calibrate.drift(learnt, japanese, 1900)
    more = Sample(1200, 0, 10)
    assert calibrate.expected(learnt, more, drift) == pytest.approx(1900 * 1.2, rel=0.02)


@pytest.mark.parametrize("counted", [0, -1, 10**12])
def test_a_wild_count_is_no_drift(counted: int) -> None:
    assert calibrate.drift(FRESH, Sample(1000, 0, 8), counted) == 1.0


def test_a_drift_is_bounded() -> None:
    low, high = (calibrate.drift(FRESH, Sample(1000, 0, 8), counted) for counted in (1, 15_000))
    assert (low, high) == calibrate.DRIFTS


@given(
    counts=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 4000), st.booleans(),
                  st.integers(-10, 10**7)),
        max_size=40,
    ),
    drift=st.floats(*calibrate.DRIFTS),
    text=st.integers(0, 10**6),
    tools=st.integers(0, 10**5),
    messages=st.integers(1, 1000),
)  # fmt: skip
def test_whatever_is_counted_estimates_stay_sane(
    counts: list[tuple[int, int, int, bool, int]], drift: float, text: int, tools: int, messages: int
) -> None:
    learnt = FRESH
    for size, schemas, sent, system, counted in counts:
        learnt = calibrate.learn(learnt, Sample(size, schemas, sent, system, size // 7, size // 3), counted)
    sample = Sample(text, tools, messages)
    found = calibrate.expected(learnt, sample, drift)
    assert found >= max(1, int(0.5 * text * drift))
    assert found <= calibrate.expected(learnt, Sample(text + 100, tools, messages), drift)
    assert calibrate.least_factor(learnt, drift) >= 0.5 * drift
    assert calibrate.decoded(calibrate.encoded(learnt)) == learnt


@given(seed=st.integers(0, 10**6), drift=st.floats(*calibrate.DRIFTS))
def test_the_least_factor_is_below_every_estimate(seed: int, drift: float) -> None:
    rng = random.Random(seed)
    learnt = taught(rng.choice([same, other, verbose]), 40, seed)
    least = calibrate.least_factor(learnt, drift)
    for _ in range(20):
        sample = asked(rng)
        hidden = 64 * drift * 1.02  # what a template may save in all
        assert calibrate.expected(learnt, sample, drift) + hidden >= least * sample.text


def test_digits_and_other_alphabets_are_learnt() -> None:
    def small(sample: Sample, rng: random.Random) -> float:
        return 1.1 * sample.text + 0.5 * sample.digits + 1.6 * sample.wide

    rng, learnt = random.Random(3), FRESH
    prompts = []
    for _ in range(160):
        text, share, foreign = rng.randrange(100, 3000), rng.choice([0, 0.05, 1]), rng.choice([0, 0, 0.3])
        prompts.append(Sample(text, 0, rng.randrange(1, 30), True, int(share * text), int(foreign * text)))
    for prompt in prompts[:60]:
        learnt = calibrate.learn(learnt, prompt, round(small(prompt, rng)))
    found = sorted(abs(calibrate.expected(learnt, one) / small(one, rng) - 1) for one in prompts[60:])
    assert found[95] < 0.03


def test_marks_are_counted_in_the_json_of_messages() -> None:
    assert calibrate.marks(b"") == (0, 0)
    assert calibrate.marks(b'{"role":"user","content":"call 555-1234"}') == (7, 0)
    plain = '{"role":"user","content":"' + "Äpfel für 12 Euro, 東京 " * 20 + '"}'
    digits, wide = calibrate.marks(plain.encode())
    assert (digits, wide) == (40, 200)
    escaped = calibrate.marks(json.dumps(json.loads(plain)).encode())
    assert escaped[0] < 100
    assert escaped[1] == pytest.approx(wide, rel=0.25)


def test_a_long_prompt_is_marked_by_its_end() -> None:
    digits, wide = calibrate.marks("12 für, ".encode() * 100_000)
    assert digits == pytest.approx(200_000, rel=0.01)
    assert wide == pytest.approx(200_000, rel=0.01)


def test_a_files_bytes_are_no_digits() -> None:
    image = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,' + b"iVBORw0KGgo123456789" * 150 + b'"}}'
    assert calibrate.marks(image) == (0, 0)


def test_a_limit_stays_while_learning() -> None:
    learnt = taught(other, 10, learnt=calibrate.with_limit(FRESH, 8192))
    assert learnt.limit == 8192
    assert calibrate.with_limit(learnt, None).limit is None


@pytest.mark.parametrize(
    "state",
    [
        b"", b"{", b"[]", b"null", b"\xff", b'{"count": "many"}', b'{"count": -1}', b'{"weights": [1, 1]}',
        b'{"weights": [0, 0, 0, 0, 0, 0, 0]}', b'{"weights": [NaN, 1, 0, 0, 0, 0, 0]}', b'{"products": []}',
        b'{"spread": -1}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_read_is_nothing_learnt(state: bytes) -> None:
    assert calibrate.decoded(state) == FRESH


def test_a_state_of_another_version_is_read_as_far_as_it_is_known() -> None:
    assert calibrate.decoded(b'{"limit": 4096, "news": {"a": 1}}') == Learnt(limit=4096)


def test_damaged_sums_fall_back_to_the_prior() -> None:
    damaged = Learnt(count=5, squares=(-1.0,) * len(FRESH.squares))
    assert calibrate.predicted(calibrate.learn(damaged, Sample(100, 0, 3), 130), Sample(100, 0, 3)) == 100


def test_what_is_lost_is_learnt_anew() -> None:
    learnt = taught(other, 40)
    for n in range(200):
        learnt = calibrate.learn(learnt, Sample(100 + n % 7, 0, 4), 700 if n % 2 else 60)
    for _ in range(60):
        learnt = calibrate.learn(learnt, Sample(1000, 0, 8), 1010)
    assert calibrate.expected(learnt, Sample(1000, 0, 8)) == pytest.approx(1010, rel=0.05)


def test_a_number_that_no_prompt_has_teaches_nothing() -> None:
    assert calibrate.learn(FRESH, Sample(10, 0, 1), 999_999_999) == FRESH
    assert calibrate.drift(FRESH, Sample(10, 0, 1), 999_999_999) == 1.0


def test_a_larger_prompt_that_is_answered_lifts_a_limit() -> None:
    learnt = calibrate.with_limit(FRESH, 100)
    assert calibrate.learn(learnt, Sample(90, 0, 1), 95).limit == 100
    assert calibrate.learn(learnt, Sample(90, 0, 1), 101).limit is None


def test_no_estimate_is_below_half_of_the_text() -> None:
    assert calibrate.expected(FRESH, Sample(1000, 0, 8), 0.4) >= 500
