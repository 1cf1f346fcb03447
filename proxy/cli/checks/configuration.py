"""The configuration: every key that cannot be used, one by one, then what can be used and is unwise."""

from collections.abc import Generator, Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from proxy import config as configuration
from proxy import yamlfile
from proxy.app import client_of
from proxy.cli import settings
from proxy.cli.checks import advice
from proxy.cli.checks.finding import Finding, Site, parted
from proxy.config import Config
from proxy.errors import BadConfig

OTHERWISE = "change or remove it; the project's config.yaml has every key with its default and what it means"


def site(file: Path | None, env: Mapping[str, str], offline: bool) -> Site:
    """What is examined, by a configuration file (default: ./config.yaml if there is one) and the environment."""
    found = file or (settings.DEFAULT if settings.DEFAULT.exists() else None)
    made = Site(file=found, env=env, offline=offline)
    try:
        text = found.read_text() if found else ""
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        return replace(made, problems=[f"{found} cannot be read: {why}; {_way(found)}"])
    wrong = problems(text, env)
    return replace(made, problems=wrong) if wrong else replace(made, config=configuration.load(text, env))


def _way(file: Path | None) -> str:
    """What to do about a file that cannot be read."""
    if file is not None and not file.exists():
        return "name another with --config, or leave it out to use the defaults"
    return "let this user read it, as UTF-8 text, or name another with --config"


def problems(text: str, env: Mapping[str, str]) -> list[str]:
    """Every reason why `serve` would not start with it; a start names only the first."""
    try:
        values = yamlfile.sections(text, env)
        yamlfile.override(values, env)
    except BadConfig as exc:
        return [str(exc)]
    found = [wrong for part in _parts(values) if (wrong := _wrong(part))]
    return list(dict.fromkeys(found)) or _together(text, env)


def _parts(values: Mapping[str, Any]) -> Generator[dict[str, Any]]:
    """The same values one key at a time, each in its place."""
    for name, section in values.items():
        if isinstance(section, list):
            for n, item in enumerate(section):
                yield from ({name: [{}] * n + [one]} for one in _single(item))
        else:
            yield from ({name: one} for one in _single(section))


def _single(section: Any) -> Generator[Any]:
    """A mapping of one key for each key; the copies know the lines that the file's reader noted."""
    if not isinstance(section, dict) or not section:
        yield section
        return
    for key in section:
        one = copy(section)
        for other in section:
            if other != key:
                del one[other]
        yield one


def _wrong(part: dict[str, Any]) -> str:
    try:
        yamlfile.build(Config, part, "")
    except BadConfig as exc:
        return str(exc)
    return ""


def _together(text: str, env: Mapping[str, str]) -> list[str]:
    """What no single key can say."""
    try:
        config = configuration.load(text, env)
    except BadConfig as exc:
        return [str(exc)]
    found = []
    for upstream in config.upstreams:
        try:
            client_of(upstream)
        except BadConfig as exc:
            found.append(f"{upstream.name}: {exc}")
    return found


async def check(site: Site) -> Sequence[Finding]:
    """Whether the configuration can be used, and whether it should."""
    if site.problems:
        return [Finding("config", "failed", *parted(problem, OTHERWISE)) for problem in site.problems]
    source = f"{site.file}" if site.file else "no file, the defaults"
    return [Finding("config", "ok", f"{source}: every key is known and fits"), *_overridden(site), *_advice(site)]


def _overridden(site: Site) -> Generator[Finding]:
    sections = [field.name for field in fields(Config)]
    for name in sorted(site.env):
        section, _, key = name.removeprefix("PROXY_").lower().partition("_")
        if not name.startswith("PROXY_") or section not in sections:
            continue
        if key.startswith("_"):
            yield Finding("config", "ok", f"the environment's {name} goes before the file")
        else:
            said = f"the environment's {name} is ignored: between section and key stand two underscores"
            yield Finding("config", "warning", said, f"name it PROXY_{section.upper()}__{key.upper()}")


def _advice(site: Site) -> Generator[Finding]:
    for said, fix in advice.warnings(site.config):
        yield Finding("config", "warning", said, fix)
    for said in advice.notes(site.config):
        yield Finding("config", "ok", said)
