"""Doctor's look at Python and the packages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.checks import python
from proxy.cli.checks.finding import Site
from tests.cli.checks.sites import bad, the

TESTED = ["3.11", "3.12", "3.13"]


@pytest.mark.anyio
async def test_what_runs_the_tests_is_good_enough() -> None:
    assert not bad(await python.check(Site()))


@pytest.mark.parametrize(
    ("have", "state"), [("3.10.9", "failed"), ("3.11.0", "ok"), ("3.13.99", "ok"), ("3.14.0", "warning")]
)
def test_a_python_is_judged_by_what_is_supported_and_tested(have: str, state: str) -> None:
    assert python.judged(have, "3.11", TESTED).state == state


@pytest.mark.parametrize(
    ("requirement", "said", "fix"),
    [("nothing-of-this-name>=1.2", "is not installed", 'pip install "nothing-of-this-name>=1.2"'),
     ("apsw>=999.1", "is older than 999.1", 'pip install "apsw>=999.1"')],
)  # fmt: skip
def test_a_package_that_is_missing_or_old_is_named(requirement: str, said: str, fix: str) -> None:
    told = the(python.packages([requirement, "msgspec>=0.1", "nowhere>=1; extra == 'dev'"]))
    assert (told.state, told.fix) == ("failed", fix)
    assert said in told.said


def test_what_an_extra_asks_for_is_not_needed() -> None:
    assert python.packages(["nowhere>=1; extra == 'dev'", "msgspec"])[0].said == "1 package, there and new enough"


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_versions_are_compared_by_their_numbers(one: list[int], other: list[int]) -> None:
    first, second = (".".join(map(str, numbers)) for numbers in (one, other))
    assert not (python.older(first, second) and python.older(second, first))
    assert not python.older(first, first + ".0")
    assert python.older(f"{one[0]}.9", f"{one[0]}.10")
