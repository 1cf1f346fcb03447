"""Waiting for a write, whoever gives up meanwhile."""

import asyncio

import pytest

from proxy.settled import settled

pytestmark = pytest.mark.anyio


async def test_work_is_waited_for_however_often_the_task_is_cancelled() -> None:
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(settled(done))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    done.set_result("stored")
    assert await waiting == "stored"
    assert not waiting.cancelling()


async def test_a_failure_of_the_work_is_told() -> None:
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(settled(done))
    await asyncio.sleep(0)
    waiting.cancel()
    done.set_exception(ValueError("no room"))
    with pytest.raises(ValueError, match="no room"):
        await waiting
