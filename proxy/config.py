"""The configuration: frozen values with defaults, read from one YAML file and the environment.

A key that is unknown or has the wrong type stops the start: BadConfig names it, its line and the nearest valid key.
`PROXY_<SECTION>__<KEY>` overrides a key, `${NAME}` and `${NAME:-default}` expand inside values.
"""

import dataclasses
import difflib
import functools
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from proxy.errors import BadConfig
from proxy.types import Overflow

ALIASES: tuple[str, ...] = (
    "x-conversation-id",
    "x-openwebui-chat-id",
    "x-session-affinity",
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "thread-id",
    "x-opencode-session",
    "x-grok-conv-id",
    "helicone-session-id",
    "x-litellm-session-id",
    "x-merge-thread-id",
    "x-amp-thread-id",
    "x-hermes-session-id",
    "x-sm-conversation-id",
    "x-tfy-conversation-id",
)


@dataclass(frozen=True, slots=True)
class Server:
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    max_body_mb: int = 32
    body_timeout_s: float = 30.0
    send_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    keepalive_comment_s: float = 15.0
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Auth:
    mode: Literal["open", "keys", "passthrough"] = "open"


@dataclass(frozen=True)
class UpstreamConfig:
    name: str = "default"
    base_url: str = "https://api.openai.com/v1"
    api_key: str = field(default="", repr=False)
    models: tuple[str, ...] = ("*",)
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 60.0
    idle_timeout_s: float = 60.0
    total_timeout_s: float = 600.0
    retries: int = 2
    max_connections: int = 200
    context_tokens: int | None = None
    supports_store: bool = False
    stream_usage: bool = True
    forward_headers: tuple[str, ...] = ()

    @functools.cached_property
    def forwarded(self) -> frozenset[bytes]:
        """`forward_headers` as they stand on the wire."""
        return frozenset(name.lower().encode() for name in self.forward_headers)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    upstream: str | None = None
    model: str | None = None
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    url: str = "sqlite:///./data/sessions.db"
    synchronous: Literal["full", "normal"] = "full"


@dataclass(frozen=True)
class Sessions:
    auto_create: bool = True
    header: str = "X-Session-Id"
    aliases: tuple[str, ...] = ALIASES
    observe_aliases: tuple[str, ...] = ("x-claude-code-session-id", "session-id", "session_id", "x-opencode-session")
    resend_aliases: tuple[str, ...] = ("x-openwebui-chat-id",)
    wait_timeout_s: float = 30.0
    on_disconnect: Literal["partial", "discard", "finish"] = "partial"
    on_upstream_break: Literal["discard", "partial"] = "discard"

    @functools.cached_property
    def naming(self) -> tuple[bytes, tuple[bytes, ...]]:
        """The header that names a session and its aliases, as they stand on the wire."""
        return self.header.lower().encode(), tuple(alias.lower().encode() for alias in self.aliases)


@dataclass(frozen=True, slots=True)
class Context:
    token_budget: int | None = None
    overflow: Overflow = "adaptive"
    reserve_output_tokens: int = 1024
    evict_to: float = 0.5
    recall_share: float = 0.5
    recall_max_tokens: int = 2000


@dataclass(frozen=True, slots=True)
class Recall:
    enabled: bool = True
    limit: int = 10
    num_search_messages: int = 4
    max_query_length: int = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    messages_per_request: int = 2000
    nesting: int = 64
    choices: int = 8
    answer_mb: int = 32
    concurrent_requests: int = 1000


@dataclass(frozen=True, slots=True)
class Passthrough:
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Telemetry:
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Config:
    server: Server = Server()
    auth: Auth = Auth()
    upstreams: tuple[UpstreamConfig, ...] = (UpstreamConfig(),)
    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    storage: Storage = Storage()
    sessions: Sessions = Sessions()
    context: Context = Context()
    recall: Recall = Recall()
    limits: Limits = Limits()
    passthrough: Passthrough = Passthrough()
    telemetry: Telemetry = Telemetry()

    def check(self) -> None:
        """Raises BadConfig for what no single key can say; `load` has done it already."""
        _check(self)


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def load(text: str, env: Mapping[str, str] | None = None) -> Config:
    """The configuration that `text` (YAML, may be empty) and `env` (default: the process's) describe."""
    env = os.environ if env is None else env
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        reader = _Reader(env)
        given = {} if root is None else reader.mapping(root, "")
        values = {name: reader.section(name, node) for name, node in given.items()}
    except (yaml.YAMLError, RecursionError) as exc:
        raise BadConfig(f"the configuration is not YAML: {exc}") from exc
    _overrides(values, env)
    config = typing.cast(Config, _build(Config, values, ""))
    if "upstreams" not in values:
        config = dataclasses.replace(config, upstreams=(_first_upstream(env),))
    _check(config)
    return config


class _Reader:
    """Turns YAML nodes into plain values that remember their lines, expanding variables."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env

    def mapping(self, node: yaml.Node, where: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise BadConfig(f"{where or 'the configuration'} must be a mapping{_line(node)}")
        out: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if key.value in out:
                raise BadConfig(f"{key.value} stands twice in {where or 'the configuration'}{_line(key)}")
            out[str(key.value)] = value
        return out

    def section(self, name: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return _Lined({key: self.section(key, value) for key, value in self.mapping(node, name).items()}, node)
        if isinstance(node, yaml.SequenceNode):
            return [self.section(name, item) for item in node.value]
        return self.scalar(node)

    def scalar(self, node: yaml.Node) -> Any:
        text = str(node.value)
        expanded = _VARIABLE.sub(lambda found: self.variable(found, node), text)
        if expanded == text:
            return yaml.SafeLoader("").construct_object(node)
        return _plain(expanded) if getattr(node, "style", None) is None else expanded

    def variable(self, found: re.Match[str], node: yaml.Node) -> str:
        value = self.env.get(found[1]) or found[2]
        if value is None:
            raise BadConfig(f"${{{found[1]}}}{_line(node)} is not set; set it or write ${{{found[1]}:-default}}")
        return value


class _Lined(dict[str, Any]):
    """A mapping of the file that knows where each key comes from: its line, or the variable that overrides it."""

    def __init__(self, values: dict[str, Any], node: yaml.MappingNode) -> None:
        super().__init__(values)
        self.places = {str(key.value): f"line {key.start_mark.line + 1}" for key, _ in node.value}


def _line(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"


def _plain(text: str) -> Any:
    """A value from the environment, typed as YAML would."""
    try:
        return yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        return text


def _overrides(values: dict[str, Any], env: Mapping[str, str]) -> None:
    for name, text in env.items():
        if not name.startswith("PROXY_") or "__" not in name:
            continue
        section, key = name[len("PROXY_") :].lower().split("__", 1)
        at = values[section] = values.get(section) or {}
        if not isinstance(at, dict):
            raise BadConfig(f"{name} cannot override {section}, which is a list; write it into the configuration file")
        at[key] = _plain(text)
        getattr(at, "places", {})[key] = name


def _first_upstream(env: Mapping[str, str]) -> UpstreamConfig:
    default = UpstreamConfig()
    return dataclasses.replace(
        default, base_url=env.get("OPENAI_BASE_URL") or default.base_url, api_key=env.get("OPENAI_API_KEY", "")
    )


def _build(kind: type[Any], values: Any, where: str) -> Any:
    """A frozen dataclass from a mapping; every problem names the key, its line and the nearest valid key."""
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadConfig(f"{where} must be a mapping of keys")
    hints = get_type_hints(kind)
    places = getattr(values, "places", {})
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else key
        at = f" ({places[key]})" if key in places else ""
        if key not in hints:
            raise BadConfig(f"unknown key {name}{at}{_nearest(key, hints)}")
        out[key] = _typed(hints[key], value, name, at)
    return kind(**out)


def _nearest(key: str, valid: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else f"; valid keys: {', '.join(valid)}"


def _typed(hint: Any, value: Any, name: str, at: str) -> Any:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise BadConfig(f"{name} must be a list{at}")
        return tuple(_typed(get_args(hint)[0], item, f"{name}[{n}]", at) for n, item in enumerate(value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value or {}, dict):
            raise BadConfig(f"{name} must be a mapping{at}")
        value = value or {}
        return {key: _typed(get_args(hint)[1], item, f"{name}.{key}", at) for key, item in value.items()}
    if origin is Literal:
        choice = "null" if value is None and "null" in get_args(hint) else value
        if choice not in get_args(hint):
            raise BadConfig(f"{name} must be one of {', '.join(map(str, get_args(hint)))}{at}")
        return choice
    if origin in (types.UnionType, typing.Union):
        inner = next(kind for kind in get_args(hint) if kind is not type(None))
        return None if value is None else _typed(inner, value, name, at)
    return _scalar(hint, value, name, at)


def _scalar(hint: type, value: Any, name: str, at: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is str and value is None:
        return ""
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise BadConfig(f"{name} must be {_NAMES.get(hint, hint.__name__)}{at}")
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value < math.inf:
        raise BadConfig(f"{name} must be a number from 0 on{at}")
    if value == 0 and name.rpartition(".")[2] in _POSITIVE and not isinstance(value, bool):
        raise BadConfig(f"{name} must be more than 0{at}")
    return value


_POSITIVE = frozenset(
    {
        "workers", "max_body_mb", "body_timeout_s", "send_timeout_s", "connect_timeout_s", "first_byte_timeout_s",
        "idle_timeout_s", "total_timeout_s", "max_connections", "context_tokens", "token_budget",
        "messages_per_request", "nesting", "choices", "answer_mb", "concurrent_requests", "num_search_messages",
        "max_query_length",
    }
)  # fmt: skip

_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _check(config: Config) -> None:
    """What no single key can say."""
    _check_upstreams(config)
    if not 0 < config.context.evict_to <= 1:
        raise BadConfig("context.evict_to must be above 0 and at most 1")
    if config.context.recall_share > 1:
        raise BadConfig("context.recall_share must be at most 1")
    if config.auth.mode == "open" and not is_loopback(config.server.host):
        raise BadConfig(
            f"auth.mode open listens on loopback only, server.host is {config.server.host}; "
            "use auth.mode keys or passthrough, or host 127.0.0.1"
        )
    if not config.storage.url.startswith("sqlite:///"):
        raise BadConfig("storage.url must look like sqlite:///./data/sessions.db")
    if config.server.workers > 1:
        raise BadConfig("server.workers above 1 needs a shared store; one process owns a SQLite file")


def _check_upstreams(config: Config) -> None:
    if not config.upstreams:
        raise BadConfig("upstreams must name at least one model server")
    for upstream in config.upstreams:
        if not upstream.base_url.startswith(("http://", "https://")):
            raise BadConfig(
                f"upstreams: base_url of {upstream.name} must start with http:// or https:// (OPENAI_BASE_URL sets it, "
                "where the file does not)"
            )
        if upstream.base_url.rstrip("/").endswith("/chat/completions"):
            raise BadConfig(f"upstreams: base_url of {upstream.name} must end before /chat/completions")
    names = [upstream.name for upstream in config.upstreams]
    if len(set(names)) != len(names):
        raise BadConfig("upstreams: each name may stand once")
    for alias, model in config.models.items():
        if model.upstream is not None and model.upstream not in names:
            raise BadConfig(f"models.{alias}.upstream is {model.upstream}, which upstreams does not name")
    if config.auth.mode == "passthrough" and len({_origin(u.base_url) for u in config.upstreams}) > 1:
        raise BadConfig(
            "auth.mode passthrough needs upstreams of one origin, or a client's key would reach another vendor"
        )


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3]).lower()


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    bare = host.strip("[]").lower()
    return bare in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", bare) is not None
