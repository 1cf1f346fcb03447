"""What a configuration says that can be used and is unwise. Pure: a Config in; what is unwise, and what to do, out."""

from collections.abc import Generator
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from proxy.config import Config, UpstreamConfig, is_loopback
from proxy.errors import NotFound
from proxy.upstream.route import targets

LEAST = 256
"""Tokens: a budget below this has room for instructions or a question, not for a history."""

Advice = Generator[tuple[str, str]]


def warnings(config: Config) -> Advice:
    """(what is unwise, what to do) of each."""
    for one in (_keyless, _models, _windows, _budget, _times, _origins, _storage):
        yield from one(config)


def place(upstream: UpstreamConfig) -> str:
    """Its address as it may be shown: never a user or a password that somebody wrote into it."""
    url = urlsplit(upstream.base_url)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def local(upstream: UpstreamConfig) -> bool:
    """Whether it runs on this machine."""
    return is_loopback(urlsplit(upstream.base_url).hostname or "")


def literal(pattern: str) -> bool:
    """Whether a pattern of `models` is the name of one model."""
    return not set(pattern) & set("*?[")


def _keyless(config: Config) -> Advice:
    if config.auth.mode == "passthrough":
        return
    for upstream in config.upstreams:
        if not upstream.api_key and not local(upstream):
            said = f"upstream {upstream.name} ({place(upstream)}) has no api_key"
            yield said, "set its api_key (without an upstreams section: OPENAI_API_KEY); leave it if it asks for none"


def _models(config: Config) -> Advice:
    named = {alias: f"models.{alias}" for alias in config.models if alias != "default"}
    for alias, model in config.models.items():
        named |= {other: f"models.{alias}.fallbacks: {other}" for other in model.fallbacks}
    if config.context.summary_model:
        named[config.context.summary_model] = f"context.summary_model: {config.context.summary_model}"
    for model, where in named.items():
        try:
            targets(config, model)
        except NotFound:
            yield f"{where} is served by no upstream", "add the model's name or a pattern to upstreams[].models"
    for upstream in config.upstreams:
        if not upstream.models and upstream.name not in {model.upstream for model in config.models.values()}:
            yield f"upstream {upstream.name} has no models and is never asked", 'set its models, ["*"] for any'


def _windows(config: Config) -> Advice:
    """Contexts that the answer's reserve, or the budget, does not leave room in."""
    sizes = {f"upstream {one.name}": one.context_tokens for one in config.upstreams}
    sizes |= {f"models.{alias}": model.context_tokens for alias, model in config.models.items()}
    reserve, budget = config.context.reserve_output_tokens, config.context.token_budget
    for where, size in sizes.items():
        if size is None:
            continue
        if budget is not None and budget + reserve > size:
            said = (
                f"context.token_budget {budget:,} and {reserve:,} for the answer exceed the {size:,} tokens of {where}"
            )
            yield said, f"set context.token_budget to {max(1, size - reserve):,} or less, or leave it null"
        elif budget is None and reserve > size * 7 // 8:
            said = f"context.reserve_output_tokens {reserve:,} leaves next to nothing of the {size:,} tokens of {where}"
            yield said, "lower context.reserve_output_tokens, or correct context_tokens"


def _budget(config: Config) -> Advice:
    context = config.context
    budget = context.token_budget
    if budget is None:
        return
    if budget < LEAST:
        yield (
            f"context.token_budget {budget:,} leaves no room for a history",
            "raise it, or null for the model's context",
        )
    elif (context.summaries or context.overflow == "summarize") and context.summary_max_tokens * 2 > budget:
        said = f"a summary may take {context.summary_max_tokens:,} of the {budget:,} tokens of context.token_budget"
        yield said, "lower context.summary_max_tokens, or raise context.token_budget"


def _times(config: Config) -> Advice:
    for upstream in config.upstreams:
        for key in ("connect_timeout_s", "first_byte_timeout_s", "idle_timeout_s"):
            if getattr(upstream, key) > upstream.total_timeout_s:
                said = f"{key} of upstream {upstream.name} is more than its total_timeout_s, which ends the call before"
                yield said, f"raise total_timeout_s above {getattr(upstream, key):g}"


def _origins(config: Config) -> Advice:
    if config.auth.mode == "open" and "*" in config.server.cors_origins:
        said = 'server.cors_origins "*" with auth.mode open lets any page in a browser here read the sessions'
        yield said, "name the pages that may call, or use auth.mode keys"


def _storage(config: Config) -> Advice:
    path = config.storage.url.removeprefix("sqlite:///")
    if path.startswith("~"):
        yield "storage.url starts with ~, which is not the home folder here", "write the whole path, after four slashes"
    if path in ("", ":memory:"):
        yield f"storage.url names no file: {config.storage.url}", "write it like sqlite:///./data/sessions.db"


def notes(config: Config) -> Generator[str]:
    """What is worth knowing and needs no change."""
    if config.auth.mode == "passthrough":
        for upstream in config.upstreams:
            if upstream.api_key:
                yield f"api_key of upstream {upstream.name} is not used: in auth.mode passthrough clients bring theirs"
    for n, upstream in enumerate(config.upstreams):
        for pattern in upstream.models:
            before = [one.name for one in config.upstreams[:n] if any(fnmatchcase(pattern, own) for own in one.models)]
            if before:
                name = f"upstream {upstream.name} serves {pattern}"
                yield f"{name} only where {before[0]}, which stands before it, fails or an alias names it"
