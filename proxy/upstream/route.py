"""Which upstream serves a model, and under which name. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from proxy.config import Config, UpstreamConfig
from proxy.errors import NotFound


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: the upstream's settings, the model's name there, its context in tokens if configured."""

    upstream: UpstreamConfig
    model: str | None
    context_tokens: int | None


def route(config: Config, model: str | None) -> Target:
    """The first upstream whose `models` match serves the request; an alias may name another. NotFound if none does."""
    alias = config.models.get(model if model is not None else "default")
    name = (alias.model or model) if alias else model
    if alias is not None and alias.upstream is not None:
        upstream = next(one for one in config.upstreams if one.name == alias.upstream)
    else:
        upstream = _serving(config.upstreams, name)
    context = (alias.context_tokens if alias else None) or upstream.context_tokens
    return Target(upstream, name, context)


def _serving(upstreams: Sequence[UpstreamConfig], model: str | None) -> UpstreamConfig:
    if model is None:
        return upstreams[0]
    for upstream in upstreams:
        if any(fnmatchcase(model, pattern) for pattern in upstream.models):
            return upstream
    raise NotFound(
        f"no upstream serves the model {model[:100]!r}; GET /v1/models lists what there is",
        param="model",
        code="model_not_found",
    )
