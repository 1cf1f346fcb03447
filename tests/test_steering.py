"""Which upstream a turn goes to, and the turn as it looks for another."""

from pathlib import Path

import msgspec
import pytest

from proxy.errors import UpstreamUnreachable
from proxy.services import Services, Turn
from proxy.steering import sent_to, steered
from proxy.upstream.route import targets
from tests.inprocess import Ask, Model, services, user

pytestmark = pytest.mark.anyio

TWO = """
upstreams:
- {name: a, base_url: 'http://a/v1', api_key: key-a, breaker_failures: 1}
- {name: b, base_url: 'http://b/v1', api_key: key-b, forward_headers: [x-b]}
"""


def turn_of(svc: Services) -> Turn:
    first, *others = targets(svc.config, "m")
    turn = Ask([user("hello")]).turn(svc)
    return msgspec.structs.replace(turn, target=first, others=tuple(others), client={b"x-b": b"yes"})


async def test_a_turn_keeps_its_upstream_while_that_is_well(tmp_path: Path) -> None:
    async with services(tmp_path, Model(), TWO) as svc:
        turn = turn_of(svc)
        assert steered(svc, turn) == turn


async def test_a_turn_is_sent_past_an_upstream_that_is_left_out(tmp_path: Path) -> None:
    async with services(tmp_path, Model(), TWO) as svc:
        turn = turn_of(svc)
        with pytest.raises(UpstreamUnreachable), svc.breakers.trial(turn.target, own_key=True):
            raise UpstreamUnreachable("x")
        steered_turn = steered(svc, turn)
        assert [one.upstream.name for one in (steered_turn.target, *steered_turn.others)] == ["b", "a"]


async def test_each_upstream_gets_its_own_key_and_headers(tmp_path: Path) -> None:
    async with services(tmp_path, Model(), TWO) as svc:
        turn = turn_of(svc)
        headers = dict(sent_to(turn, turn.others[0]).headers)
        assert (headers[b"authorization"], headers[b"x-b"]) == (b"Bearer key-b", b"yes")
        assert b"x-b" not in dict(sent_to(sent_to(turn, turn.others[0]), turn.target).headers)
