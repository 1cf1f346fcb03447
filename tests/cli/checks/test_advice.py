"""What can be used and is unwise."""

import pytest

from proxy import config
from proxy.cli.checks import advice

GPT = "upstreams: [{api_key: k, models: [gpt-*]}]\n"
KEY = "upstreams: [{name: a, api_key: sk-secret}]\n"


def warned(text: str) -> list[tuple[str, str]]:
    return list(advice.warnings(config.load(text, {})))


UNWISE = {
    "upstreams: [{name: a}]": "has no api_key",
    "upstreams: [{name: a, base_url: 'http://10.0.0.1/v1'}]": "has no api_key",
    KEY + "context: {token_budget: 100}": "leaves no room for a history",
    KEY + "context: {token_budget: 600, summaries: true}": "a summary may take 512 of the 600 tokens",
    "upstreams: [{api_key: k, context_tokens: 1000}]": "leaves next to nothing of the 1,000 tokens of upstream default",
    "upstreams: [{api_key: k, context_tokens: 8192}]\ncontext: {token_budget: 8000}": "exceed the 8,192 tokens",
    KEY + "models: {small: {model: x, context_tokens: 512}}": "512 tokens of models.small",
    GPT + "models: {fast: {model: llama}}": "models.fast is served by no upstream",
    GPT + "models: {gpt-1: {fallbacks: [llama]}}": "models.gpt-1.fallbacks: llama",
    GPT + "context: {summary_model: llama}": "context.summary_model: llama",
    "upstreams: [{api_key: k}, {name: b, api_key: k, models: []}]": "upstream b has no models and is never asked",
    "upstreams: [{api_key: k, first_byte_timeout_s: 900}]": "first_byte_timeout_s of upstream default is more than",
    KEY + "server: {cors_origins: ['*']}": "lets any page in a browser here read the sessions",
    KEY + "storage: {url: 'sqlite:///~/x.db'}": "not the home folder",
    KEY + "storage: {url: 'sqlite:///:memory:'}": "names no file",
}


@pytest.mark.parametrize("text", UNWISE)
def test_what_is_unwise_is_told_once_with_what_to_do(text: str) -> None:
    ((said, fix),) = warned(text)
    assert UNWISE[text] in said
    assert fix


WISE = (
    KEY,
    "upstreams: [{base_url: 'http://127.0.0.1:8000/v1'}]",
    "upstreams: [{base_url: 'http://localhost:8000/v1'}]",
    "upstreams: [{base_url: 'http://[::1]:8000/v1', context_tokens: 8192}]\ncontext: {token_budget: 4000}",
    "auth: {mode: passthrough}",
    KEY + "models: {default: {model: gpt-1}, fast: {model: gpt-2, fallbacks: [gpt-1]}}",
    KEY + "auth: {mode: keys}\nserver: {cors_origins: ['*'], host: 0.0.0.0}",
)


@pytest.mark.parametrize("text", WISE)
def test_what_is_fine_is_left_alone(text: str) -> None:
    assert warned(text) == []


def noted(text: str) -> list[str]:
    return list(advice.notes(config.load(text, {})))


def test_a_pattern_that_an_earlier_one_takes_all_from_is_noted() -> None:
    text = "upstreams: [{name: a}, {name: b, models: [gpt-*]}]"
    assert noted(text) == ["upstream b serves gpt-* only where a, which stands before it, fails or an alias names it"]
    assert noted("upstreams: [{name: a, models: [gpt-*]}, {name: b}]") == []


def test_a_key_that_is_never_sent_is_noted() -> None:
    assert "api_key of upstream a is not used" in noted(KEY + "auth: {mode: passthrough}")[0]


def test_an_address_is_shown_without_the_password_in_it() -> None:
    shown = advice.place(config.UpstreamConfig(base_url="http://ada:secret@h:1/v1"))
    assert shown == "http://h:1/v1"
