"""What `bench context` compares is what it says it compares."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bench import inprocess
from bench.cases import CASES
from bench.cases.context import answer, asked_again, forked_on, material, plain, reads, straight, worked
from bench.options import NAMES
from bench.report import Row
from proxy.context.assemble import Limits, assemble
from proxy.services import Services
from proxy.store import sessions

pytestmark = pytest.mark.anyio


def words(text: str) -> int:
    return len(text.split())


def test_every_case_can_be_chosen() -> None:
    assert tuple(CASES) == NAMES


def test_a_floor_is_met_from_above() -> None:
    assert Row("a", "b", 0.93, target=0.92, floor=True).verdict == "met"
    assert Row("a", "b", 0.91, target=0.92, floor=True).verdict == "missed"
    assert Row("a", "b", 0.91, target=0.92).verdict == "met"


def test_the_windows_hold_what_they_are_called_after() -> None:
    for pieces in (plain(words, 4000), worked(words, 4000)):
        assert 4000 <= sum(one.tokens for one in pieces) < 4200
        assert [one.seq for one in pieces] == [*range(1, len(pieces) + 1)]
        made = assemble(material(pieces, words), Limits(8000, "truncate", 0, 0.5), words)
        assert made.dropped == 0
        made = assemble(material(pieces, words), Limits(4000, "truncate", 0, 0.5), words)
        assert made.dropped > 20


@pytest.mark.parametrize(("build", "count"), [(straight, 1), (asked_again, 6), (forked_on, 6)])
async def test_sessions_have_lines_of_one_length_and_as_many_branches_as_they_should(
    tmp_path: Path, build: Callable[[Services, str, int], Awaitable[None]], count: int
) -> None:
    async with inprocess.services(tmp_path, inprocess.Model(answer), words) as svc:
        await build(svc, "s", 6)
        found = await sessions.find(svc.db, inprocess.SCOPE, "s")
        assert found is not None
        session, branch = found
        assert session.branches == count
        assert branch.head == 14
        assert await reads(svc, "s", 2) > 0
