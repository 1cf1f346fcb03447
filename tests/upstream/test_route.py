"""Which upstream serves a model, and under which name."""

import pytest

from proxy import config
from proxy.errors import NotFound
from proxy.upstream.route import route

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


def test_an_alias_of_an_alias_is_not_looked_up_again() -> None:
    chained = config.load("models: {a: {model: b}, b: {model: c}}", {})
    assert route(chained, "a").model == "b"
