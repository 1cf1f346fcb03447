"""The configuration: frozen values with defaults, read from one YAML file and the environment.

A key that is unknown or has the wrong type stops the start: BadConfig names it, its line and the nearest valid key.
`PROXY_<SECTION>__<KEY>` overrides a key, `${NAME}` and `${NAME:-default}` expand inside values.
"""

import dataclasses
import functools
import os
import re
import typing
from collections.abc import Mapping, Sequence
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


DEFAULT_MODEL = "default"
"""The alias that stands for a request without a model."""


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
    watch_config: bool = False
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
    breaker_failures: int = 5
    breaker_pause_s: float = 10.0
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
    fallbacks: tuple[str, ...] = ()


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
class EmbedderConfig:
    kind: Literal["local", "upstream", "none"] = "local"
    upstream: str | None = None
    model: str | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    enabled: bool = True
    history: bool = True
    placement: Placement = "last_user"
    min_score: float = 0.25
    limit: int = 10
    num_search_messages: int = 4
    max_query_length: int = 1000
    embedder: EmbedderConfig = EmbedderConfig()


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


@dataclass(frozen=True, slots=True)
class Reload:
    """A configuration read while another one is in use: what both make together, and the names of the keys that
    change by it, and of those that wait for a restart."""

    config: Config
    changed: tuple[str, ...]
    ignored: tuple[str, ...]


def reloaded(running: Config, found: Config) -> Reload:
    """`running` with the upstreams, models, limits and log level of `found`. Raises BadConfig if they do not fit."""
    config = dataclasses.replace(
        running,
        upstreams=found.upstreams,
        models=found.models,
        limits=found.limits,
        telemetry=dataclasses.replace(running.telemetry, log_level=found.telemetry.log_level),
    )
    _check(config)
    return Reload(config, tuple(_differing(running, config, "")), tuple(_differing(config, found, "")))


def _differing(before: object, after: object, name: str) -> list[str]:
    """The keys, by their full names, whose values are not the same."""
    if before == after:
        return []
    old, new = _keyed(before), _keyed(after)
    found: list[str] = []
    for key in dict.fromkeys((*old, *new)):
        full = f"{name}.{key}" if name else key
        found += _differing(old[key], new[key], full) if key in old and key in new else [full]
    return found or [name]  # itself a value, or the same upstreams in another order


def _keyed(value: object) -> Mapping[str, object]:
    """What a value holds, by key; an upstream by its name."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple):
        return {one.name: one for one in value if isinstance(one, UpstreamConfig)}
    if dataclasses.is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return {}


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
        if not (upstream.name and upstream.name.isascii() and upstream.name.isprintable()):
            raise BadConfig("upstreams: a name is printable ASCII, since X-Upstream tells it")
    names = [upstream.name for upstream in config.upstreams]
    if len(set(names)) != len(names):
        raise BadConfig("upstreams: each name may stand once")
    for alias, model in config.models.items():
        if model.upstream is not None and model.upstream not in names:
            raise BadConfig(f"models.{alias}.upstream is {model.upstream}, which upstreams does not name")
    _check_embedder(config.recall.embedder, names)
    _check_aliases(config)
    if config.auth.mode == "passthrough" and len({origin(u.base_url) for u in config.upstreams}) > 1:
        raise BadConfig(
            "auth.mode passthrough needs upstreams of one origin, or a client's key would reach another vendor"
        )


def _check_embedder(embedder: EmbedderConfig, names: Sequence[str]) -> None:
    if embedder.upstream is not None and embedder.upstream not in names:
        raise BadConfig(f"recall.embedder.upstream is {embedder.upstream}, which upstreams does not name")
    if embedder.kind == "upstream" and not embedder.model:
        raise BadConfig("recall.embedder.model must name the model that embeds, where kind is upstream")
    if embedder.dimensions == 0:
        raise BadConfig("recall.embedder.dimensions must be more than 0")


def _check_aliases(config: Config) -> None:
    """Aliases may name aliases; none may come back to itself."""
    well: set[str] = set()
    for alias in config.models:
        circle = _circle(config.models, alias, (), well)
        if circle:
            raise BadConfig(f"models: {' -> '.join(circle)} goes in a circle; an alias must end at an upstream's model")


def _circle(models: Mapping[str, ModelConfig], name: str, before: tuple[str, ...], well: set[str]) -> tuple[str, ...]:
    """The way back to a name, () if there is none. `well`: names that are known to end."""
    if name in before:
        return (*before, name)
    alias = models.get(name)
    if alias is None or name in well:
        return ()
    further = [] if alias.upstream is not None or alias.model in (None, name) else [alias.model]
    ways = [other for other in (*further, *alias.fallbacks) if other is not None]
    circle = next((way for other in ways if (way := _circle(models, other, (*before, name), well))), ())
    if not circle:
        well.add(name)
    return circle


def origin(url: str) -> str:
    """Scheme, host and port of a URL: to whom a key goes."""
    return "/".join(url.split("/", 3)[:3]).lower()


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    bare = host.strip("[]").lower()
    return bare in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", bare) is not None
