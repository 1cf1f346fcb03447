"""Whose turn it is: tenants take turns, and within a tenant its sessions do."""

import asyncio

import pytest

from proxy.templates.fair import Fair

pytestmark = pytest.mark.anyio


async def served(asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The order in which one worker serves what is asked, all of it at once."""
    fair = Fair()
    worker = asyncio.Lock()
    order: list[tuple[str, str]] = []

    async def one(tenant: str, session: str) -> None:
        async with fair.place(tenant, session), worker:
            await asyncio.sleep(0)
            order.append((tenant, session))

    await asyncio.gather(*(one(*place) for place in asked))
    assert not fair._locks
    return order


async def test_a_session_that_asks_much_delays_others_by_one_turn() -> None:
    order = await served([*[("t", "busy")] * 5, ("t", "calm")])
    assert order.index(("t", "calm")) <= 1


async def test_a_tenant_that_asks_much_delays_others_by_one_turn() -> None:
    order = await served([*[("greedy", f"s{n}") for n in range(5)], ("modest", "s")])
    assert order.index(("modest", "s")) <= 1


async def test_one_who_gives_up_leaves_the_place_to_the_next() -> None:
    fair = Fair()
    async with fair.place("t", "s"):
        waiting = asyncio.ensure_future(fair.place("t", "s").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(5), fair.place("t", "s"):
        pass
