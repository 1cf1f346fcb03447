"""Doctor's look at the clock."""

from pathlib import Path

import apsw
import pytest

from proxy.cli.checks import clock
from proxy.cli.checks.finding import Site
from proxy.services import epoch_ms
from proxy.store import sqlite
from tests.cli.checks.sites import bad, but, site, the

NOW = 1_800_000_000_000


def test_a_year_that_cannot_be_is_told() -> None:
    assert clock.judged(0, None).state == "failed"
    assert clock.judged(5_000_000_000_000, None).state == "failed"
    assert "1970-01-01" in clock.judged(0, None).said


def test_sessions_from_the_future_are_told_beyond_a_few_minutes() -> None:
    assert clock.judged(NOW, NOW + 60_000).state == "ok"
    told = clock.judged(NOW, NOW + 3_600_000)
    assert told.state == "warning"
    assert "NTP" in told.fix


@pytest.mark.anyio
async def test_the_newest_session_is_what_the_clock_is_compared_with(tmp_path: Path) -> None:
    sqlite.migrate(tmp_path / "sessions.db")
    connection = apsw.Connection(str(tmp_path / "sessions.db"))
    connection.execute(
        """INSERT INTO sessions (tenant, uuid, name, branch, branches, turns, created_at, updated_at)
           VALUES (1, 'u', 's', 1, 1, 1, ?, ?)""",
        (NOW, NOW),
    )
    connection.close()
    one = site(tmp_path)
    assert not bad(await clock.check(but(one, now=lambda: NOW)))
    assert "the newest session is of 2027-01-15" in the(await clock.check(but(one, now=lambda: NOW - 3_600_000))).said


@pytest.mark.anyio
async def test_without_a_store_that_can_be_read_there_is_the_calendar(tmp_path: Path) -> None:
    for one in (Site(problems=["wrong"]), site(tmp_path)):
        assert not bad(await clock.check(but(one, now=epoch_ms)))
    (tmp_path / "sessions.db").write_bytes(b"no database" * 500)
    assert not bad(await clock.check(site(tmp_path)))
