"""The configuration: what config.yaml says is true, and every mistake is named."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import config
from proxy.config import Config, ModelConfig, UpstreamConfig, load
from proxy.errors import BadConfig

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "config.yaml").read_text()


def refused(text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(BadConfig) as caught:
        load(text, env or {})
    return str(caught.value)


# --- the reference ---


def keys(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """All keys of the configuration as (section, key)."""
    for section in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind)[section.name]
        inner = UpstreamConfig if section.name == "upstreams" else hint
        if dataclasses.is_dataclass(inner):
            yield from ((section.name, key) for key in names(inner))


def names(kind: Any) -> Iterator[str]:
    """The keys of a section, and those of the mappings in it."""
    for key, hint in typing.get_type_hints(kind).items():
        yield key
        if dataclasses.is_dataclass(hint):
            yield from names(hint)


KEYS = list(keys(Config))


def sections() -> dict[str, list[str]]:
    """The lines of the reference below each top-level key, that one included."""
    out: dict[str, list[str]] = {}
    name = ""
    for line in REFERENCE.splitlines():
        top = re.match(r"([a-z]+):", line)
        name = top[1] if top else name
        out.setdefault(name, []).append(line)
    return out


def test_the_reference_holds_the_defaults() -> None:
    assert load(REFERENCE, {}) == load("", {})


@pytest.mark.parametrize(("section", "key"), KEYS, ids=[".".join(pair) for pair in KEYS])
def test_every_key_stands_in_the_reference_with_a_comment(section: str, key: str) -> None:
    lines = [line for line in sections()[section] if re.match(rf"\s+(- )?{key}:", line)]
    assert len(lines) == 1
    assert re.search(r"\s# \S", lines[0]), lines


def test_every_section_stands_in_the_reference() -> None:
    assert set(yaml.safe_load(REFERENCE)) == {one.name for one in dataclasses.fields(Config)}


def test_times_and_sizes_have_their_unit_in_the_name() -> None:
    numbers = re.findall(r"^\s+(\w+): \d+(?:\.\d+)?\s+#([^\n]*)", REFERENCE, re.M)
    for key, comment in numbers:
        if re.search(r"\b(seconds|minutes|megabytes)\b", comment):
            assert key.endswith(("_s", "_mb", "_days")), key


# --- reading ---


def test_an_empty_file_is_the_default() -> None:
    assert load("", {}) == load("# nothing\n", {}) == load("{}", {})
    assert load("", {}).upstreams == (UpstreamConfig(),)


def test_a_key_replaces_its_default_and_no_other() -> None:
    made = load("server: {port: 9000}\ncontext:\n  token_budget: 100\n", {})
    assert made.server == dataclasses.replace(config.Server(), port=9000)
    assert made.context == dataclasses.replace(config.Context(), token_budget=100)


def test_upstreams_and_models_are_read_with_their_defaults() -> None:
    made = load(
        "upstreams:\n- {name: a, base_url: 'http://a/v1', models: ['x-*']}\n- {name: b, base_url: 'http://b/v1'}\n"
        "models: {fast: {upstream: b, model: y}, default: {model: z}}",
        {},
    )
    assert [(one.name, one.base_url, one.models, one.retries) for one in made.upstreams] == [
        ("a", "http://a/v1", ("x-*",), 2),
        ("b", "http://b/v1", ("*",), 2),
    ]
    assert made.models == {"fast": ModelConfig("b", "y"), "default": ModelConfig(None, "z")}


@pytest.mark.parametrize("text", ["server:", "models:", "context:\n", "server: {}"])
def test_an_empty_section_is_its_default(text: str) -> None:
    assert load(text, {}) == load("", {})


def test_an_embedder_is_read_with_its_defaults() -> None:
    made = load("recall: {embedder: {kind: upstream, model: e, upstream: default}}", {}).recall.embedder
    assert made == config.EmbedderConfig("upstream", "default", "e", None)
    env = {"PROXY_RECALL__EMBEDDER": "{kind: none}"}
    assert load("", env).recall.embedder == config.EmbedderConfig("none")
    assert load("", {}).recall.embedder.kind == "local"


def test_null_is_a_strategy_and_may_be_written_as_such() -> None:
    assert load("context: {overflow: null}", {}).context.overflow == "null"
    assert load("context: {overflow: 'null'}", {}).context.overflow == "null"


def test_a_whole_number_is_a_time_too() -> None:
    assert load("server: {drain_timeout_s: 5}", {}).server.drain_timeout_s == 5.0


# --- the environment ---


def test_the_environment_overrides_a_key() -> None:
    env = {"PROXY_SERVER__PORT": "9001", "PROXY_SESSIONS__AUTO_CREATE": "false", "PROXY_CONTEXT__OVERFLOW": "truncate"}
    made = load("server: {port: 9000, host: localhost}", env)
    assert (made.server.port, made.server.host) == (9001, "localhost")
    assert (made.sessions.auto_create, made.context.overflow) == (False, "truncate")


def test_the_environment_overrides_a_list_and_an_empty_section() -> None:
    made = load("server:\n", {"PROXY_SERVER__CORS_ORIGINS": '["http://a", "http://b"]'})
    assert made.server.cors_origins == ("http://a", "http://b")


def test_the_environment_is_checked_like_the_file() -> None:
    assert "server.port must be a whole number" in refused("", {"PROXY_SERVER__PORT": "many"})
    assert "did you mean port" in refused("", {"PROXY_SERVER__PORTS": "1"})
    assert "unknown key serve; did you mean server?" in refused("", {"PROXY_SERVE__PORT": "1"})
    assert "PROXY_UPSTREAMS__API_KEY" in refused("upstreams: [{name: a}]", {"PROXY_UPSTREAMS__API_KEY": "x"})


def test_other_variables_do_not_matter() -> None:
    assert load("", {"PROXY_HOME": "/", "HTTP_PROXY": "x", "PATH": "/bin"}) == load("", {})


def test_openais_own_variables_configure_the_first_upstream() -> None:
    env = {"OPENAI_BASE_URL": "http://localhost:1234/v1", "OPENAI_API_KEY": "sk-1"}
    assert [(one.base_url, one.api_key) for one in load("", env).upstreams] == [("http://localhost:1234/v1", "sk-1")]
    given = load("upstreams: [{base_url: 'http://a/v1'}]", env).upstreams
    assert [(one.base_url, one.api_key) for one in given] == [("http://a/v1", "")]
    assert [one.api_key for one in load(REFERENCE, env).upstreams] == ["sk-1"]


VARIABLES = [
    ("${X}", "1", {"X": "1"}),
    ("a${X}b${Y}", "a1b2", {"X": "1", "Y": "2"}),
    ("${X:-fallback}", "fallback", {}),
    ("${X:-fallback}", "fallback", {"X": ""}),
    ("${X:-fallback}", "given", {"X": "given"}),
    ("${X:-}", "", {}),
    ("$X $${ {X}", "$X $${ {X}", {"X": "1"}),
]


@pytest.mark.parametrize(("text", "value", "env"), VARIABLES)
def test_variables_expand_inside_values(text: str, value: str, env: dict[str, str]) -> None:
    made = load(f"upstreams: [{{base_url: 'http://a/v1', api_key: '{text}'}}]", env)
    assert made.upstreams[0].api_key == value


def test_a_variable_that_is_not_set_is_named_with_its_line() -> None:
    message = refused("server:\n  port: 1\nstorage:\n  url: ${NOWHERE}\n")
    assert "${NOWHERE} (line 4) is not set" in message


def test_a_bare_variable_takes_the_type_of_what_it_holds() -> None:
    text = "server:\n  port: ${PORT:-1}\n"
    assert load(text, {"PORT": "9"}).server.port == 9
    assert load(text, {}).server.port == 1
    assert "server.port must be a whole number (line 2)" in refused(text, {"PORT": "nine"})


# --- mistakes ---

MISTAKES = [
    ("server:\n  prot: 1", "unknown key server.prot (line 2); did you mean port?"),
    ("sever: {}", "unknown key sever; did you mean server?"),
    ("server: {zzzz: 1}", "valid keys: host, port"),
    ("upstreams:\n- name: a\n  base-url: x", "unknown key upstreams[0].base-url (line 3); did you mean base_url?"),
    ("models:\n  fast:\n    modell: x", "unknown key models.fast.modell (line 3); did you mean model?"),
    ("server:\n  host: a\n  port: '1'", "server.port must be a whole number (line 3)"),
    ("server: {port: true}", "server.port must be a whole number (line 1)"),
    ("server: {port: 1.5}", "server.port must be a whole number (line 1)"),
    ("server: {port: null}", "server.port must be a whole number (line 1)"),
    ("server: {drain_timeout_s: soon}", "server.drain_timeout_s must be a number (line 1)"),
    ("server: {host: 1}", "server.host must be a string (line 1)"),
    ("sessions: {auto_create: maybe}", "sessions.auto_create must be true or false (line 1)"),
    ("server: {cors_origins: all}", "server.cors_origins must be a list (line 1)"),
    ("server: {cors_origins: [1]}", "server.cors_origins[0] must be a string"),
    ("upstreams: {name: a}", "upstreams must be a list"),
    ("upstreams: [a]", "upstreams[0] must be a mapping"),
    ("models: [a]", "models must be a mapping"),
    ("models: {a: b}", "models.a must be a mapping"),
    ("server: 1", "server must be a mapping"),
    ("- a", "the configuration must be a mapping"),
    ("auth: {mode: closed}", "auth.mode must be one of open, keys, passthrough (line 1)"),
    ("storage: {synchronous: off}", "storage.synchronous must be one of full, normal"),
    ("server: {port: -1}", "server.port must be a number from 0 on"),
    ("server: {drain_timeout_s: .nan}", "server.drain_timeout_s must be a number from 0 on"),
    ("server: {drain_timeout_s: .inf}", "server.drain_timeout_s must be a number from 0 on"),
    ("server: {port: 1, port: 2}", "port stands twice in server (line 1)"),
    ("server: {port: 1}\nserver: {}", "server stands twice in the configuration (line 2)"),
    ("server: {port: !foo 1}", "the configuration is not YAML"),
    ("server: {port: !!python/object:os.system 1}", "the configuration is not YAML"),
    ("a: &a [*a]", "the configuration is not YAML"),
    ("server: {port: 1", "the configuration is not YAML"),
    ("context: {evict_to: 0}", "context.evict_to must be above 0 and at most 1"),
    ("context: {evict_to: 1.1}", "context.evict_to must be above 0 and at most 1"),
    ("storage: {url: 'mysql://a'}", "storage.url must look like"),
    ("server: {workers: 2}", "server.workers above 1"),
    ("upstreams: []", "upstreams must name at least one model server"),
    ("upstreams: [{base_url: 'ftp://a'}]", "upstreams: base_url of default must start with http"),
    ("upstreams: [{name: a}, {name: a}]", "upstreams: each name may stand once"),
    ("recall: {embedder: {kind: magic}}", "recall.embedder.kind must be one of local, upstream, none"),
    ("recall: {embedder: {modle: m}}", "unknown key recall.embedder.modle"),
    ("recall: {embedder: {kind: upstream}}", "recall.embedder.model must name the model that embeds"),
    ("recall: {embedder: {upstream: b}}", "recall.embedder.upstream is b, which upstreams does not name"),
    ("recall: {embedder: {dimensions: 0}}", "recall.embedder.dimensions must be more than 0"),
    ("models: {fast: {upstream: b}}", "models.fast.upstream is b, which upstreams does not name"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[row[0][:40] for row in MISTAKES])
def test_a_mistake_is_named_with_its_key_and_line(text: str, message: str) -> None:
    assert message in refused(text)


# --- what no single key can say ---


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.9.1", "LOCALHOST"])
def test_open_listens_on_loopback(host: str) -> None:
    assert load(f"server: {{host: '{host}'}}", {}).server.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.com", "127.0.0.1.example.com", ""])
def test_open_listens_nowhere_else(host: str) -> None:
    assert "auth.mode open listens on loopback only" in refused(f"server: {{host: '{host}'}}")
    for mode in ("keys", "passthrough"):
        assert load(f"server: {{host: '{host}'}}\nauth: {{mode: {mode}}}", {}).server.host == host


def upstreams(*urls: str) -> str:
    listed = ", ".join(f"{{name: u{n}, base_url: '{url}'}}" for n, url in enumerate(urls))
    return f"auth: {{mode: passthrough}}\nupstreams: [{listed}]"


@pytest.mark.parametrize("other", ["https://a.example/other/v2", "https://A.example/v1"])
def test_passthrough_takes_upstreams_of_one_origin(other: str) -> None:
    assert len(load(upstreams("https://a.example/v1", other), {}).upstreams) == 2


@pytest.mark.parametrize(
    "other",
    ["https://b.example/v1", "http://a.example/v1", "https://a.example:8443/v1", "https://a.example.b.example/v1",
     "https://a.example@b.example/v1"],
)  # fmt: skip
def test_passthrough_lets_no_key_reach_another_origin(other: str) -> None:
    assert "one origin" in refused(upstreams("https://a.example/v1", other))


def test_secrets_do_not_show() -> None:
    made = load("upstreams: [{base_url: 'http://a/v1', api_key: sk-secret}]", {})
    assert "sk-secret" not in repr(made)
    assert "sk-secret" not in str(made.upstreams)
    assert "sk-secret" not in refused("upstreams: [{base_url: 'http://a/v1', api_key: [sk-secret]}]")


@pytest.mark.parametrize(
    ("models", "circle"),
    [
        ("{a: {model: b}, b: {model: a}}", "a -> b -> a"),
        ("{a: {fallbacks: [a]}}", "a -> a"),
        ("{x: {model: y}, y: {fallbacks: [z]}, z: {model: x}}", "x -> y -> z -> x"),
    ],
)
def test_aliases_that_go_in_a_circle_stop_the_start(models: str, circle: str) -> None:
    with pytest.raises(BadConfig, match=f"models: {circle} goes in a circle"):
        load(f"models: {models}", {})


def test_an_alias_may_bear_its_models_name_or_have_an_upstream_that_ends_it() -> None:
    loaded = load("{models: {a: {model: a}, b: {upstream: default, model: c}, c: {model: b}}}", {})
    assert [alias.model for alias in loaded.models.values()] == ["a", "c", "b"]
