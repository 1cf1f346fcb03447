"""Checks side by side: none holds up or breaks another."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from proxy.cli.checks import running
from proxy.cli.checks.finding import Check, Finding, Run, Site
from proxy.errors import Unavailable, UpstreamBroken
from tests.cli.checks.sites import bad, states

GOOD = Finding("good", "ok", "it is")


async def good(_site: Site) -> Sequence[Finding]:
    return [GOOD]


async def waits(_site: Site) -> Sequence[Finding]:
    await asyncio.Event().wait()
    return []


async def hangs(_site: Site) -> Sequence[Finding]:
    await running.aside(threading.Event().wait)
    return []


def raises(error: Exception) -> Run:
    async def check(_site: Site) -> Sequence[Finding]:
        raise error

    return check


async def ran(*checks: Check, site: Site | None = None) -> list[Finding]:
    return [finding async for found in running.run(checks, site or Site()) for finding in found]


@pytest.mark.anyio
async def test_a_check_that_breaks_is_a_finding_among_others() -> None:
    found = await ran(Check("a", raises(ValueError("sk-secret")), 5), Check("good", good, 5))
    assert states(found) == ["failed", "ok"]
    assert "ValueError at test_running.py:" in found[0].said
    assert "sk-secret" not in str(found)
    found = await ran(Check("a", raises(Unavailable("the disk is gone")), 5))
    assert "the disk is gone" in bad(found)[0].said


@pytest.mark.anyio
@pytest.mark.parametrize("slow", [waits, hangs])
async def test_a_check_that_does_not_end_is_ended(slow: Run) -> None:
    found = await ran(Check("slow", slow, 0.05), Check("good", good, 5))
    assert states(found) == ["failed", "ok"]
    assert found[0].said == "not done after 0.05 s"


@pytest.mark.anyio
async def test_what_needs_a_configuration_is_left_out_without_one() -> None:
    found = await ran(Check("a", good, 5), Check("good", good, 5, configured=False), site=Site(problems=["no"]))
    assert states(found) == ["skipped", "ok"]


@pytest.mark.anyio
async def test_a_thread_gives_what_it_returns_or_raises() -> None:
    assert await running.aside(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        await running.aside(lambda: 1 // 0)


@pytest.mark.anyio
async def test_what_an_upstream_said_is_not_told_by_a_check_that_breaks() -> None:
    (found,) = await ran(Check("a", raises(UpstreamBroken("no; sk-secret-1234")), 5))
    assert "UpstreamBroken at test_running.py:" in found.said
    assert "sk-secret" not in str(found)
