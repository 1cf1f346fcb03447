"""Sums of turns and requests: what is counted, what is written, and that no value can become a label."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from proxy.context.overflow import STRATEGIES
from proxy.telemetry import metrics
from proxy.telemetry.metrics import Metrics, Told

TEXT = st.text('ab_/{}=",\\\n é1')
ANY = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(st.integers())


def series(sums: Metrics) -> dict[str, float]:
    """name{labels in order} -> value, as Prometheus reads it; without the prefix."""
    out: dict[str, float] = {}
    for family in text_string_to_metric_families(sums.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            out[sample.name.removeprefix(metrics.PREFIX) + (f"{{{labels}}}" if labels else "")] = sample.value
    return out


def counted(sums: Metrics) -> dict[str, float]:
    """What is not zero; of the histograms the sums and counts."""
    return {name: value for name, value in series(sums).items() if value and "_bucket" not in name}


def told(strategy: str = "truncate", **fields: Any) -> Told:
    return Told(strategy=strategy, **fields)


def test_a_turn_adds_what_was_sent() -> None:
    sums = Metrics()
    for _ in range(2):
        sums.turn(told(system=1, tools=2, summary=3, history=4, recall=5, new=6, prefix=7, dropped=8, cleared=9,
                       recalled_docs=10, recalled_turns=11))  # fmt: skip
    assert counted(sums) == {
        "turns_total{outcome=complete,strategy=truncate}": 2,
        "prompt_tokens_total{segment=system}": 2,
        "prompt_tokens_total{segment=tools}": 4,
        "prompt_tokens_total{segment=summary}": 6,
        "prompt_tokens_total{segment=history}": 8,
        "prompt_tokens_total{segment=recall}": 10,
        "prompt_tokens_total{segment=new}": 12,
        "prefix_tokens_total": 14,
        "dropped_messages_total": 16,
        "cleared_results_total": 18,
        "recalled_total{source=doc}": 20,
        "recalled_total{source=history}": 22,
    }


def test_a_turn_compares_the_estimate_with_what_the_upstream_counted() -> None:
    sums = Metrics()
    sums.turn(told(estimate=110, usage={"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 64}}))
    sums.turn(told(estimate=98, usage={"prompt_tokens": 100}, complete=False))
    seen = series(sums)
    assert (seen["upstream_prompt_tokens_total"], seen["upstream_cached_tokens_total"]) == (200, 64)
    assert seen["counter_error_ratio_sum"] == pytest.approx(0.12)
    assert [seen[f"counter_error_ratio_bucket{{le={le}}}"] for le in ("0.01", "0.02", "0.05", "0.1", "+Inf")] == [
        0, 1, 1, 2, 2,
    ]  # fmt: skip
    assert seen["turns_total{outcome=incomplete,strategy=truncate}"] == 1


DETAILS = st.dictionaries(st.just("cached_tokens"), ANY)


@given(ANY | st.dictionaries(st.sampled_from(["prompt_tokens", "prompt_tokens_details"]), ANY | DETAILS))
def test_no_usage_breaks_a_turn_or_the_sums(usage: object) -> None:
    sums = Metrics()
    sums.turn(told(usage=usage, estimate=5))
    seen = series(sums)
    assert 0 <= seen["upstream_cached_tokens_total"] <= seen["upstream_prompt_tokens_total"] <= metrics.LARGEST
    assert seen["turns_total{outcome=complete,strategy=truncate}"] == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/embeddings", "openai"),
        ("/v1/models/gpt", "openai"),
        ("/sessions/ann/chat", "session_chat"),
        ("/sessions/chat", "sessions_api"),
        ("/sessions/ann/docs/chat", "sessions_api"),
        ("/agents", "sessions_api"),
        ("/nowhere", "sessions_api"),
    ],
)
def test_a_path_belongs_to_an_endpoint(path: str, expected: str) -> None:
    assert metrics.endpoint(path) == expected


def test_a_request_is_counted_by_its_end() -> None:
    sums = Metrics()
    sums.request("/v1/chat/completions", 200, "ok", 0.75, 0.25)
    sums.request("/v1/chat/completions", 200, "ok", 0.5)  # a retry that got its stored answer: no overhead is told
    sums.request("/agents", 200, "ok", 0.5)
    sums.request("/v1/embeddings", 0, "client_left")
    sums.request("/sessions/s/chat", 429, "upstream_error")
    sums.request("/sessions/s/chat", 504, "upstream_timeout")
    sums.request("/v1/chat/completions", 503, "storage_unavailable")
    assert counted(sums) == {
        "requests_total{code=200,endpoint=chat}": 2,
        "requests_total{code=200,endpoint=sessions_api}": 1,
        "requests_total{code=none,endpoint=openai}": 1,
        "requests_total{code=429,endpoint=session_chat}": 1,
        "requests_total{code=504,endpoint=session_chat}": 1,
        "requests_total{code=503,endpoint=chat}": 1,
        "errors_total{code=client_left}": 1,
        "errors_total{code=upstream_error}": 1,
        "errors_total{code=upstream_timeout}": 1,
        "errors_total{code=storage_unavailable}": 1,
        "upstream_errors_total{code=429}": 1,
        "upstream_errors_total{code=upstream_timeout}": 1,
        "time_to_first_byte_seconds_sum": 1.25,
        "time_to_first_byte_seconds_count": 2,
        "overhead_seconds_sum": 0.25,
        "overhead_seconds_count": 1,
        "wait_seconds_sum": 0.5,
        "wait_seconds_count": 1,
    }


def test_what_happens_beside_a_turn_is_counted() -> None:
    sums = Metrics()
    sums.summary(made=True)
    sums.summary(made=False)
    sums.context_retry()
    sums.session_error("recall")
    sums.lost_turn()
    assert counted(sums) == {
        "summaries_total{outcome=made}": 1,
        "summaries_total{outcome=failed}": 1,
        "context_retries_total": 1,
        "session_errors_total{part=recall}": 1,
        "lost_turns_total": 1,
    }


@given(st.lists(st.tuples(TEXT, TEXT, st.integers(), TEXT)))
def test_no_text_becomes_a_label(requests: list[tuple[str, str, int, str]]) -> None:
    sums = Metrics()
    for strategy, path, status, text in requests:
        sums.turn(told(strategy=strategy))
        sums.request(path, status, text)
        sums.request(f"/sessions/{path}/chat", status, "upstream_error")
        sums.session_error(text)
    codes = {"none", *map(str, range(100, 600))}
    known = {*series(Metrics()), "upstream_errors_total{code=other}"}
    known |= {f"requests_total{{code={code},endpoint={where}}}" for code in codes for where in metrics.ENDPOINTS}
    known |= {f"upstream_errors_total{{code={code}}}" for code in codes}
    assert set(series(sums)) <= known


def test_every_strategy_has_its_series() -> None:
    assert set(STRATEGIES) <= set(metrics.STRATEGIES)


def test_every_series_is_there_before_anything_happens() -> None:
    seen = series(Metrics())
    assert not any(seen.values())
    for name in (*metrics.COUNTERS, *metrics.HISTOGRAMS):
        there = any(one.startswith(name) for one in seen)
        assert there or name == "requests"


def test_bounds_ascend() -> None:
    for _, bounds in metrics.HISTOGRAMS.values():
        assert list(bounds) == sorted(set(bounds))


def test_nothing_is_counted_when_it_is_off() -> None:
    sums = Metrics(on=False)
    sums.turn(told(new=1, usage={"prompt_tokens": 3}))
    sums.request("/v1/chat/completions", 500, "internal", 1.0, 1.0)
    sums.summary(made=True)
    sums.context_retry()
    sums.session_error("recall")
    sums.lost_turn()
    assert counted(sums) == {}


def test_two_applications_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.lost_turn()
    assert counted(other) == {}
