"""Which upstream serves a model, and under which name."""

import pytest

from proxy import config
from proxy.errors import NotFound
from proxy.upstream.route import matches, route, targets

CONFIG = config.load(
    """
upstreams:
- {name: local, base_url: 'http://a/v1', models: ['llama-*', qwen], context_tokens: 8000}
- {name: open, base_url: 'http://b/v1', models: ['gpt-*', 'o[13]']}
- {name: also, base_url: 'http://c/v1', models: ['gpt-5']}
models:
  fast: {upstream: local, model: qwen}
  small: {model: llama-1b, context_tokens: 2000}
  moved: {upstream: also}
  default: {model: gpt-5}
""",
    {},
)


@pytest.mark.parametrize(
    ("model", "upstream", "name", "context"),
    [
        ("llama-3-8b", "local", "llama-3-8b", 8000),
        ("qwen", "local", "qwen", 8000),
        ("gpt-5", "open", "gpt-5", None),
        ("o3", "open", "o3", None),
        ("fast", "local", "qwen", 8000),
        ("small", "local", "llama-1b", 2000),
        ("moved", "also", "moved", None),
        (None, "open", "gpt-5", None),
    ],
)
def test_the_first_upstream_whose_models_match_serves(
    model: str | None, upstream: str, name: str, context: int | None
) -> None:
    target = route(CONFIG, model)
    assert (target.upstream.name, target.model, target.context_tokens) == (upstream, name, context)


@pytest.mark.parametrize("model", ["qwen2", "GPT-5", "o2", "claude", "", "*", "xgpt-5", "default "])
def test_a_model_that_nobody_serves_is_named(model: str) -> None:
    with pytest.raises(NotFound) as caught:
        route(CONFIG, model)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
    assert repr(model) in caught.value.message


def test_a_very_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(NotFound) as caught:
        route(CONFIG, "x" * 5000)
    assert len(caught.value.message) < 300


def test_no_model_goes_to_the_first_upstream_as_it_is() -> None:
    target = route(config.load("", {}), None)
    assert (target.upstream.name, target.model) == ("default", None)


SEVERAL = config.load(
    """
upstreams:
- {name: near, base_url: 'http://a/v1', models: ['llama-*', 'both']}
- {name: far, base_url: 'https://b/v1', models: ['*'], context_tokens: 9000}
- {name: twin, base_url: 'http://a/v1/other', models: ['both']}
models:
  chat: {model: llama-8b, context_tokens: 4000, fallbacks: [big]}
  big: {upstream: far, model: gpt-5}
  llama-8b: {model: llama-8b, context_tokens: 2000}
  pinned: {upstream: near, model: both, fallbacks: [chat, nobody]}
""",
    {},
)


def places(model: str | None, credential: bytes | None = None) -> list[tuple[str, str | None, int | None]]:
    found = targets(SEVERAL, model, credential)
    return [(target.upstream.name, target.model, target.context_tokens) for target in found]


def test_every_upstream_that_matches_may_serve_in_their_order() -> None:
    assert places("both") == [("near", "both", None), ("far", "both", 9000), ("twin", "both", None)]


def test_an_alias_leads_to_another_and_the_first_context_in_the_chain_counts() -> None:
    assert places("chat") == [("near", "llama-8b", 4000), ("far", "llama-8b", 4000), ("far", "gpt-5", 9000)]


def test_an_alias_that_bears_its_models_name_is_no_circle() -> None:
    assert places("llama-8b") == [("near", "llama-8b", 2000), ("far", "llama-8b", 2000)]


def test_an_alias_with_an_upstream_goes_there_alone_and_then_to_its_fallbacks() -> None:
    assert [place[:2] for place in places("pinned")] == [
        ("near", "both"), ("near", "llama-8b"), ("far", "llama-8b"), ("far", "gpt-5"), ("far", "nobody")
    ]  # fmt: skip


def test_a_request_without_a_model_may_go_to_each() -> None:
    assert [place[:2] for place in places(None)] == [("near", None), ("far", None), ("twin", None)]


def test_the_name_default_is_a_models_name_like_others() -> None:
    assert [place[:2] for place in places("default")] == [("far", "default")]


def test_a_clients_own_key_goes_to_one_origin_only() -> None:
    assert [place[0] for place in places("both", b"key")] == ["near", "twin"]


def test_a_place_stands_once() -> None:
    twice = config.load("models: {a: {model: m, fallbacks: [m, b]}, b: {model: m}}", {})
    assert [target.model for target in targets(twice, "a")] == ["m"]


def test_who_asks_for_a_model_that_nobody_serves_learns_what_there_is() -> None:
    with pytest.raises(NotFound) as caught:
        targets(CONFIG, "claude")
    for known in ("fast", "small", "llama-*", "gpt-*"):
        assert known in caught.value.message
    assert "default" not in caught.value.message


@pytest.mark.parametrize(("model", "served"), [("llama-1", True), ("llama", False), ("both", True), ("LLAMA-1", False)])
def test_a_pattern_is_matched_with_its_case(model: str, served: bool) -> None:
    assert matches(SEVERAL.upstreams[0], model) is served


def test_aliases_that_lead_to_each_other_in_many_ways_cost_no_more_than_they_are() -> None:
    chain = ", ".join(f"a{n}: {{model: a{n + 1}, fallbacks: [a{n + 2}, a{n + 1}]}}" for n in range(60))
    deep = config.load(f"models: {{{chain}}}", {})
    assert [target.model for target in targets(deep, "a0")] == ["a60", "a61"]
