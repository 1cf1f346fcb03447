"""The fidelity table, row by row."""

from collections.abc import AsyncGenerator
from itertools import product
from pathlib import Path

import anyio
import pytest
from yarl import URL

from tests.acceptance.asking import Proxied, Reply, served
from tests.acceptance.expecting import ANSWER, Row, Seen
from tests.acceptance.fidelity import TABLE
from tests.acceptance.fidelity_faults import HANGUPS
from tests.acceptance.sockets import dialled
from tests.acceptance.stage import PATIENT, Stage, Talk
from tests.scripted import WAIT_S, says, scripted_upstream

pytestmark = pytest.mark.anyio

MODES = list(product((True, False), repeat=2))
"""Streamed or not, in a session or not."""


def cases(table: list[Row]) -> list[object]:
    """Each row in each of its modes."""
    names = [row.name for row in table]
    assert len(set(names)) == len(names), "two rows of one name"
    return [
        pytest.param(row, stream, session, id=f"{row.name} [{words(stream, session)}]")
        for row in table
        for stream, session in MODES
        if set(row.only.split()) <= set(words(stream, session).split())
    ]


def words(stream: bool, session: bool) -> str:
    return f"{'stream' if stream else 'whole'} {'session' if session else 'stateless'}"


@pytest.fixture(scope="module")
async def own_key(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Talk]:
    """A proxy that asks with a key of its own."""
    async with (
        scripted_upstream(says("")) as up,
        served(up, tmp_path_factory.mktemp("own"), upstream={"api_key": "up-key"}) as proxied,
    ):
        yield up, proxied


@pytest.mark.parametrize(("row", "stream", "session"), cases(TABLE))
async def test_what_comes_out(
    stage: Stage, own_key: Talk, request: pytest.FixtureRequest, row: Row, stream: bool, session: bool
) -> None:
    settings = {"upstream": {"retries": row.retries}} if row.retries else {}
    up, proxied = own_key if row.own_key else await stage(row.does or ANSWER, **settings)
    up.play(row.does or ANSWER)
    to = request.node.name[:256].encode("ascii", "replace").decode() if session else None
    seen = Seen(row, stream, session, up, await asked(proxied, row, stream, to))
    await up.wait_idle()
    checks = (*row.expect, *(row.session if session else row.stateless))
    assert checks, "a row that expects nothing"
    for check in checks:
        check(seen)


async def asked(proxied: Proxied, row: Row, stream: bool, to: str | None) -> Reply:
    """The row's request, and what the client gets."""
    own = {"X-Session-Id": to} if to is not None else {}
    headers = [("Content-Type", "application/json"), *own.items(), *row.headers]
    url = URL(f"{proxied.url}/chat/completions{row.query}", encoded=True)
    async with proxied.http.request(row.method, url, data=row.request(stream), headers=headers) as response:
        return Reply(response.status, response.headers, await response.read())


def test_the_page_about_it_counts_the_rows() -> None:
    page = Path(__file__).parents[2] / "docs" / "fidelity.md"
    assert f"by the {len(TABLE) + len(HANGUPS)}\nrows of" in page.read_text()


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize(("row", "stream", "session"), cases(HANGUPS))
async def test_a_client_hangs_up(stage: Stage, row: Row, stream: bool, session: bool, reset: bool) -> None:
    assert row.does is not None
    assert row.leaves is not None
    up, proxied = await stage(row.does, upstream=PATIENT)
    async with dialled(proxied) as line:
        await line.post(row.request(stream), {"X-Session-Id": "s"} if session else {})
        await up.wait_requests(1)
        if row.leaves:
            await line.head()
        for _ in range(row.leaves):
            await line.event()
        line.reset() if reset else line.hang_up()
        with anyio.fail_after(WAIT_S):
            await up.requests[0].left.wait()
    assert len(up.requests) == 1
