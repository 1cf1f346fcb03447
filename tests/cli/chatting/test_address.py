"""Where the proxy is, and which key goes there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.chatting.address import DEFAULT_URL, key_for, root_of

ROOTS = [
    ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080"),
    ("localhost:9", "http://localhost:9"),
    ("https://a.example/proxy/v1", "https://a.example/proxy"),
]
HERE = [DEFAULT_URL, "localhost:9", "http://127.0.0.1:8080/v1", "https://[::1]:8443"]
ELSEWHERE = [
    "https://a.example/v1", "http://10.0.0.1:8080", "http://127.0.0.1.a.example", "http://localhost@a.example", "http://[",
    "",
]  # fmt: skip
BOTH = {"SESSION_PROXY_API_KEY": "sp-1", "OPENAI_API_KEY": "sk-1"}
VENDORS = {"SESSION_PROXY_API_KEY": "", "OPENAI_API_KEY": "sk-1"}


@pytest.mark.parametrize(("url", "root"), ROOTS)
def test_an_address_may_be_written_as_clients_write_it(url: str, root: str) -> None:
    assert root_of(url) == root


@pytest.mark.parametrize("url", [*HERE, *ELSEWHERE])
def test_the_proxys_own_key_goes_first_and_everywhere(url: str) -> None:
    assert key_for(url, BOTH) == "sp-1"
    assert key_for(url, {}) is None
    assert key_for(url, {"OPENAI_API_KEY": ""}) is None


@pytest.mark.parametrize("url", HERE)
def test_a_vendors_key_goes_to_a_proxy_on_this_machine(url: str) -> None:
    assert key_for(url, VENDORS) == "sk-1"


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_vendors_key_goes_nowhere_else(url: str) -> None:
    assert key_for(url, VENDORS) is None


@given(st.text())
def test_whatever_is_typed_has_an_answer(url: str) -> None:
    assert key_for(url, VENDORS) in (None, "sk-1")
