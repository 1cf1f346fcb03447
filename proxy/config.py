"""The configuration: frozen values with defaults, read from one YAML file and the environment.

A key that is unknown or has the wrong type stops the start: BadConfig names it, its line and the nearest valid key.
`PROXY_<SECTION>__<KEY>` overrides a key, `${NAME}` and `${NAME:-default}` expand inside values.
"""

import dataclasses
import functools
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from proxy import yamlfile
from proxy.errors import BadConfig
from proxy.types import Overflow, Placement

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
    prompt_cache_key: bool = False
    strip_fields: tuple[str, ...] = ()
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
    fail_closed: bool = False

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
    tool_result_clear_after: int = 3
    summaries: bool = False
    summary_model: str | None = None
    summary_max_tokens: int = 512
    summary_max_calls: int = 200


@dataclass(frozen=True, slots=True)
class Recall:
    enabled: bool = True
    history: bool = True
    placement: Placement = "last_user"
    min_score: float = 0.25
    limit: int = 10
    num_search_messages: int = 4
    max_query_length: int = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    messages_per_request: int = 2000
    nesting: int = 64
    choices: int = 8
    answer_mb: int = 32
    prompt_mb: int = 64
    concurrent_requests: int = 1000


@dataclass(frozen=True, slots=True)
class Passthrough:
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Telemetry:
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics: bool = True


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


def load(text: str, env: Mapping[str, str] | None = None) -> Config:
    """The configuration that `text` (YAML, may be empty) and `env` (default: the process's) describe."""
    env = os.environ if env is None else env
    values = yamlfile.sections(text, env)
    yamlfile.override(values, env)
    config = typing.cast(Config, yamlfile.build(Config, values, ""))
    if "upstreams" not in values:
        config = dataclasses.replace(config, upstreams=(_first_upstream(env),))
    _check(config)
    return config


def _first_upstream(env: Mapping[str, str]) -> UpstreamConfig:
    default = UpstreamConfig()
    return dataclasses.replace(
        default, base_url=env.get("OPENAI_BASE_URL") or default.base_url, api_key=env.get("OPENAI_API_KEY", "")
    )


def _check(config: Config) -> None:
    """What no single key can say."""
    _check_upstreams(config)
    if not 0 < config.context.evict_to <= 1:
        raise BadConfig("context.evict_to must be above 0 and at most 1")
    if config.context.recall_share > 1:
        raise BadConfig("context.recall_share must be at most 1")
    if config.recall.min_score > 1:
        raise BadConfig("recall.min_score must be at most 1")
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
