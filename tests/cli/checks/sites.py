"""What the checks of doctor are given in tests: a scripted upstream, a folder, a machine with nothing set."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxy.cli.checks.finding import Finding, Site, State
from proxy.config import Config
from tests.serving import COUNTER, settings

MODEL = {"id": "m", "object": "model", "max_model_len": 8192}


def site(
    folder: Path, url: str = "http://127.0.0.1:9/v1", /, env: dict[str, str] | None = None, **sections: Any
) -> Site:
    """A usable configuration for one upstream at `url`."""
    return of(settings(url, folder / "sessions.db", **sections), env)


def of(config: Config, env: dict[str, str] | None = None, **more: Any) -> Site:
    return Site(config=config, env=env or {}, counter=COUNTER, **more)


def but(site: Site, **changes: Any) -> Site:
    return dataclasses.replace(site, **changes)


def states(found: Sequence[Finding]) -> list[State]:
    return [finding.state for finding in found]


def bad(found: Sequence[Finding]) -> list[Finding]:
    """What is not ok; each says what to do."""
    wrong = [finding for finding in found if finding.state in ("warning", "failed")]
    assert all(finding.fix for finding in wrong), wrong
    return wrong


def the(found: Sequence[Finding]) -> Finding:
    """The one thing that is not ok."""
    wrong = bad(found)
    assert len(wrong) == 1, found
    return wrong[0]


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(file.name for file in folder.iterdir())
