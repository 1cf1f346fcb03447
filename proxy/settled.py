"""Waiting for a write to its end, whoever gives up meanwhile."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def settled(work: Awaitable[T]) -> T:
    """Waits for a commit to its end, however often the task is cancelled meanwhile: it must not leave the session's
    queue while the session is being written. What is stored is then told: the cancellation came too late to matter."""
    future = asyncio.ensure_future(work)
    cancelled = 0
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            cancelled += 1
    task = asyncio.current_task()
    if task is not None:
        for _ in range(cancelled):
            task.uncancel()
    return future.result()
