"""Which models of an upstream matter: those that the configuration names, and the one to try. Pure."""

import difflib
from collections.abc import Sequence

from proxy.cli import chat_models
from proxy.cli.checks.advice import literal
from proxy.config import DEFAULT_MODEL, Config, UpstreamConfig
from proxy.errors import NotFound
from proxy.upstream.route import targets

CHEAP = ("nano", "mini", "small", "flash", "lite", "haiku", "tiny")
TRIED = 3
"""Models that are tried at the most, where the configuration names none and the first of the list do not chat."""


def configured(config: Config, upstream: UpstreamConfig) -> dict[str, str]:
    """The models of this upstream that the configuration names, each with where it does."""
    found: dict[str, str] = {}
    for alias in [DEFAULT_MODEL, *config.models]:
        if alias in config.models:
            for model in _reached(config, upstream, alias):
                found.setdefault(model, f"models.{alias}")
    for pattern in upstream.models:
        if literal(pattern):
            found.setdefault(pattern, f"models of upstream {upstream.name}")
    return found


def _reached(config: Config, upstream: UpstreamConfig, alias: str) -> list[str]:
    try:
        found = targets(config, alias)
    except NotFound:
        return []
    return [target.model for target in found if target.upstream.name == upstream.name and target.model is not None]


def to_try(named: Sequence[str], listed: Sequence[str] | None) -> list[str]:
    """Models to ask for an answer, the best first: one that the configuration names and the upstream lists, else one
    that it names, else the first listed that may chat, cheap ones before others."""
    if named:
        return [next((name for name in named if name in (listed or ())), named[0])]
    chats = chat_models.chatting(listed or ())
    chats.sort(key=lambda name: not any(part in name.lower() for part in CHEAP))
    return chats[:TRIED]


def absent(named: Sequence[str], listed: Sequence[str] | None) -> list[str]:
    """Those of the named models that the upstream does not list; none where it lists none at all."""
    return [name for name in named if listed and name not in listed]


def nearest(name: str, listed: Sequence[str]) -> str:
    """A few of the listed models, the most like `name` first."""
    close = difflib.get_close_matches(name, listed, n=3, cutoff=0.4) or list(listed[:3])
    return ", ".join(close) + (", ..." if len(listed) > len(close) else "")
