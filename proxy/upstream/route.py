"""Which upstreams may serve a model, in which order, and under which name. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from proxy.config import DEFAULT_MODEL, Config, ModelConfig, UpstreamConfig, origin
from proxy.errors import NotFound

PLAIN = ModelConfig()
SHOWN = 20
"""Names of models that an error lists at the most."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: the upstream's settings, the model's name there, its context in tokens if configured."""

    upstream: UpstreamConfig
    model: str | None
    context_tokens: int | None


def targets(config: Config, model: str | None, credential: bytes | None = None) -> tuple[Target, ...]:
    """Where a request may go, the best place first: the upstreams whose `models` match, in their order; an alias may
    name another model, one upstream, and what takes over. `credential`: a client's own key, which goes to one origin
    only. NotFound if nobody serves the model."""
    found: dict[tuple[str, str | None], Target] = {}
    for target in _serving(config, model, None, set()):
        found.setdefault((target.upstream.name, target.model), target)
    if not found:
        raise _unknown(config, model or "")
    every = tuple(found.values())
    if credential is None or len(every) == 1:
        return every
    first = origin(every[0].upstream.base_url)
    return tuple(target for target in every if origin(target.upstream.base_url) == first)


def route(config: Config, model: str | None) -> Target:
    """The best place for a model. NotFound if nobody serves it."""
    return targets(config, model)[0]


def matches(upstream: UpstreamConfig, model: str) -> bool:
    """Whether an upstream serves models of that name."""
    return any(fnmatchcase(model, pattern) for pattern in upstream.models)


def _serving(config: Config, name: str | None, context: int | None, seen: set[str | None]) -> Iterator[Target]:
    """Each name once: the first time that it comes up is the place that counts."""
    if name in seen:
        return
    seen.add(name)
    alias = config.models.get(DEFAULT_MODEL if name is None else name, PLAIN)
    context = context or alias.context_tokens
    if alias.upstream is not None:
        upstream = next(one for one in config.upstreams if one.name == alias.upstream)
        yield Target(upstream, alias.model or name, context or upstream.context_tokens)
    elif alias.model not in (None, name):
        yield from _serving(config, alias.model, context, seen)
    else:
        for upstream in config.upstreams:
            if name is None or matches(upstream, name):
                yield Target(upstream, name, context or upstream.context_tokens)
    for other in alias.fallbacks:
        yield from _serving(config, other, None, seen)


def _unknown(config: Config, model: str) -> NotFound:
    known = [name for name in config.models if name != DEFAULT_MODEL]
    known += [pattern for upstream in config.upstreams for pattern in upstream.models]
    shown = ", ".join(dict.fromkeys(known[:SHOWN])) + (", ..." if len(known) > SHOWN else "")
    return NotFound(
        f"no upstream serves the model {model[:100]!r}; there are {shown}, and GET /v1/models lists "
        "them; add it to upstreams[].models or to models",
        param="model",
        code="model_not_found",
    )
