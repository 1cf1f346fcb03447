"""The report of session-proxy doctor: which checks there are, and how what they find is told."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence

import msgspec
import uvloop

from proxy import __version__
from proxy.cli.checks import (
    clock,
    configuration,
    counting,
    embedder,
    port,
    python,
    rendering,
    running,
    storage,
    upstream,
)
from proxy.cli.checks.finding import Check, Finding, Site, State, counted

STATES: tuple[State, ...] = ("failed", "warning", "skipped", "ok")

CHECKS = (
    Check("python", python.check, 30, configured=False),
    Check("config", configuration.check, 10, configured=False),
    Check("storage", storage.check, 40),
    Check("upstream", upstream.check, 70),
    Check("tokenizer", counting.check, 30, configured=False),
    Check("embedder", embedder.check, 60),
    Check("templates", rendering.check, 40, configured=False),
    Check("clock", clock.check, 10, configured=False),
    Check("port", port.check, 10),
)
"""All run at once; the report keeps this order. `limit_s` is what a slow machine may need, not what they take."""


def run(args: argparse.Namespace) -> int:
    """Prints what is found as it comes, or all of it as JSON; the exit code."""
    site = configuration.site(args.config, os.environ, args.offline)
    try:
        if not args.json:
            print(f"session-proxy {__version__}")
        found = uvloop.run(examined(site, quiet=args.json))
        print(told(found) if args.json else f"\n{summed(found)}", flush=True)
    except BrokenPipeError:  # the reader has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 1
    return code(site, found)


async def examined(site: Site, checks: Sequence[Check] = CHECKS, quiet: bool = True) -> list[Finding]:
    """What the checks find, printed as it comes unless `quiet`."""
    found: list[Finding] = []
    async for findings in running.run(checks, site):
        found += findings
        for finding in () if quiet else findings:
            print(line(finding), flush=True)
    return found


def line(finding: Finding) -> str:
    """One line, and one below it that says what to do."""
    shown = f"{finding.state:<8} {finding.check:<10} {finding.said}"
    return f"{shown}\n{'':19} fix: {finding.fix}" if finding.fix else shown


def summed(found: Sequence[Finding]) -> str:
    """The last line: how many of each."""
    counts = Counter(finding.state for finding in found)
    given = [(state, counts[state]) for state in STATES if counts[state]]
    return ", ".join(counted(n, state) if state == "warning" else f"{n} {state}" for state, n in given)


def told(found: Sequence[Finding]) -> str:
    """The report as JSON."""
    report = {"ok": not any(finding.state == "failed" for finding in found), "version": __version__, "findings": found}
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def code(site: Site, found: Sequence[Finding]) -> int:
    """The exit code."""
    if not site.usable:
        return 2
    return 1 if any(finding.state == "failed" for finding in found) else 0
