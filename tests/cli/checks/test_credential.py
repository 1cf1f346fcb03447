"""Which key doctor sends where."""

from pathlib import Path

import pytest

from proxy.cli.checks import credential
from tests.cli.checks.sites import site

OPENAI = "https://api.openai.com/v1"
GATEWAY = "https://gateway.example/openai/v1"
TO = [
    (OPENAI, {}, "sk-1"),
    ("https://API.openai.com/other", {}, "sk-1"),
    (OPENAI, {"OPENAI_BASE_URL": ""}, "sk-1"),
    (GATEWAY, {"OPENAI_BASE_URL": "https://gateway.example/v1"}, "sk-1"),
    (GATEWAY, {}, ""),
    (OPENAI, {"OPENAI_BASE_URL": GATEWAY}, ""),
    ("http://api.openai.com/v1", {}, ""),
    ("https://api.openai.com.example/v1", {}, ""),
    ("http://127.0.0.1:8000/v1", {}, ""),
]


@pytest.mark.parametrize(("url", "env", "key"), TO)
def test_a_clients_key_goes_where_the_environment_says(tmp_path: Path, url: str, env: dict[str, str], key: str) -> None:
    one = site(tmp_path, url, auth={"mode": "passthrough"}, env={"OPENAI_API_KEY": "sk-1", **env})
    assert credential.key(one, one.config.upstreams[0]) == key
    assert ("OPENAI_BASE_URL" in credential.wanted(one, one.config.upstreams[0])) == (not key)


def test_without_passthrough_it_is_the_configured_one(tmp_path: Path) -> None:
    one = site(tmp_path, OPENAI, upstream={"api_key": "sk-2"}, env={"OPENAI_API_KEY": "sk-1"})
    assert credential.key(one, one.config.upstreams[0]) == "sk-2"
