"""The clock: a year that can be, and not before what is stored. Upstreams' clocks are compared in upstream.py."""

from collections.abc import Sequence
from datetime import UTC, datetime

from proxy.cli.checks.finding import Finding, Site
from proxy.cli.checks.running import aside
from proxy.errors import Unavailable
from proxy.store import inspection, sqlite

NAME = "clock"
FIX = "set the machine's clock; let it keep its time by NTP (timedatectl set-ntp true)"
YEARS = range(2025, 2101)
SLACK_MS = 5 * 60_000


async def check(site: Site) -> Sequence[Finding]:
    """Compares the clock with the calendar and with the store."""
    path = sqlite.file_of(site.config.storage.url)
    try:
        newest = (await aside(lambda: inspection.facts(path))).newest if site.usable and path.is_file() else None
    except Unavailable:
        newest = None  # the storage's own finding
    return [judged(site.now(), newest)]


def judged(now: int, newest: int | None) -> Finding:
    """What is to be said of a clock, in epoch milliseconds. Pure."""
    told = datetime.fromtimestamp(now / 1000, UTC)
    if told.year not in YEARS:
        return Finding(NAME, "failed", f"this machine's clock says {told:%Y-%m-%d}", FIX)
    if newest is not None and newest - now > SLACK_MS:
        stored = datetime.fromtimestamp(newest / 1000, UTC)
        said = f"it is {told:%Y-%m-%d %H:%M} UTC by this machine, and the newest session is of {stored:%Y-%m-%d %H:%M}"
        return Finding(NAME, "warning", said, f"{FIX}; if it is right, another machine's was wrong and nothing is lost")
    return Finding(NAME, "ok", f"{told:%Y-%m-%d %H:%M:%S} UTC by this machine, not before what is stored")
