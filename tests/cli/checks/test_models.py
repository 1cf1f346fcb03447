"""Which models doctor asks for."""

from hypothesis import given
from hypothesis import strategies as st

from proxy import config
from proxy.cli.checks import models

LISTED = ("gpt-5", "text-embedding-3-small", "gpt-5-mini", "whisper-1")


def test_the_models_that_the_configuration_names_are_told_with_where() -> None:
    loaded = config.load(
        "upstreams: [{name: a, models: [gpt-5, 'o*']}, {name: b}]\n"
        "models: {fast: {model: gpt-5-mini, upstream: a}, slow: {model: o3}, default: {model: fast}, far: {model: x}}",
        {},
    )
    named = models.configured(loaded, loaded.upstreams[0])
    assert named == {"gpt-5-mini": "models.default", "o3": "models.slow", "gpt-5": "models of upstream a"}
    assert list(models.configured(loaded, loaded.upstreams[1])) == ["o3", "x"]


def test_the_default_comes_first_and_what_is_listed_before_what_is_not() -> None:
    assert models.to_try(["a", "b"], None) == ["a"]
    assert models.to_try(["a", "b"], ["b", "c"]) == ["b"]
    assert models.to_try(["a", "b"], ["c"]) == ["a"]


def test_without_a_name_the_cheap_ones_of_the_list_that_may_chat_come_first() -> None:
    assert models.to_try([], LISTED) == ["gpt-5-mini", "gpt-5"]
    assert models.to_try([], None) == []


def test_only_a_list_can_lack_a_model() -> None:
    assert models.absent(["a", "gpt-5"], LISTED) == ["a"]
    assert models.absent(["a"], None) == models.absent(["a"], []) == []


def test_the_nearest_of_a_list_are_shown() -> None:
    assert models.nearest("gpt-5-minni", LISTED).startswith("gpt-5-mini, ")
    assert models.nearest("x", ["a"]) == "a"


@given(st.lists(st.text(max_size=8), max_size=8), st.none() | st.lists(st.text(max_size=8), max_size=8))
def test_few_models_are_tried_and_only_known_ones(named: list[str], listed: list[str] | None) -> None:
    tried = models.to_try(named, listed)
    assert len(tried) <= models.TRIED
    assert set(tried) <= {*named, *(listed or ())}
    assert bool(tried) >= bool(named)
