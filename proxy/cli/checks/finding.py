"""What a check tells, and what it is given to look at. A leaf of the checks."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from proxy.app import Counter
from proxy.config import Config
from proxy.context.tokens import Count
from proxy.errors import ProxyError, UpstreamBroken, UpstreamRefused
from proxy.services import epoch_ms

SECRET = 7
"""Letters that a key has at the least."""

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. `fix`: what to do, where it is not ok. Never holds keys or texts of messages."""

    check: str
    state: State
    said: str
    fix: str = ""


@dataclass(frozen=True)
class Site:
    """What is examined. `problems`: why the configuration cannot be used; `config` has its defaults then.

    The rest stands in for the machine where a test wants another: its clock, the token counter, how many bytes a disk
    must have free.
    """

    config: Config = field(default_factory=Config)
    problems: Sequence[str] = ()
    file: Path | None = None
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    offline: bool = False
    now: Callable[[], int] = epoch_ms
    counter: Callable[[], Awaitable[Count]] = field(default_factory=Counter)
    room: int = 1 << 30

    @property
    def usable(self) -> bool:
        return not self.problems


Run = Callable[[Site], Awaitable[Sequence[Finding]]]


@dataclass(frozen=True)
class Check:
    """A row of the table. `limit_s`: how long it may take. `configured`: it needs a configuration that can be used."""

    name: str
    run: Run
    limit_s: float
    configured: bool = True


def parted(message: str, otherwise: str) -> tuple[str, str]:
    """An error's message as (what was wrong, what to do): messages of this product part them by a semicolon."""
    said, _, fix = " ".join(message.split()).partition("; ")
    return said, fix or otherwise


def explained(failure: ProxyError, otherwise: str, *secrets: str) -> tuple[str, str]:
    """A failure as (what was wrong, what to do), without these secrets. What an upstream says is never parted: its
    semicolons are its own, and nothing of it is advice."""
    foreign = isinstance(failure, UpstreamRefused | UpstreamBroken)
    said, fix = (failure.message, otherwise) if foreign else parted(failure.message, otherwise)
    return cleaned(said, *secrets), cleaned(fix, *secrets)


def counted(number: int, noun: str) -> str:
    """How many of something, in words."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def cleaned(text: str, *secrets: str) -> str:
    """A foreign text fit to be shown: one short line without these secrets. One of a few letters, which local servers
    are given, is none, and would take its letters out of every word."""
    for secret in filter(lambda one: len(one) >= SECRET, secrets):
        text = text.replace(secret, "***")
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= 200 else line[:199] + "…"
