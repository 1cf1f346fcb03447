"""Runs checks side by side: each has its time, and one that breaks is a finding, not the end of the others."""

import asyncio
import contextlib
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.cli.checks.finding import Check, Finding, Site
from proxy.errors import BadConfig, ProxyError, UpstreamError

T = TypeVar("T")

UNUSABLE = "needs a configuration that can be used"


async def run(checks: Sequence[Check], site: Site) -> AsyncGenerator[Sequence[Finding]]:
    """What each check finds, in the table's order; all of them run at once."""
    tasks = [asyncio.ensure_future(_one(check, site)) for check in checks]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()


async def _one(check: Check, site: Site) -> Sequence[Finding]:
    if check.configured and not site.usable:
        return [Finding(check.name, "skipped", UNUSABLE)]
    try:
        async with asyncio.timeout(check.limit_s):
            return await check.run(site)
    except TimeoutError:
        said = f"not done after {check.limit_s:g} s"
        return [Finding(check.name, "failed", said, "look for what it waits for: a slow disk, a network that hangs")]
    except Exception as exc:  # noqa: BLE001 - the doctor's last handler: a check that breaks is told like any fault
        return [_broken(check.name, exc)]


def _broken(name: str, exc: Exception) -> Finding:
    """Its kind and place. Only messages of this product are shown: those of others may hold a key."""
    last = traceback.extract_tb(exc.__traceback__)[-1]
    ours = isinstance(exc, BadConfig | ProxyError) and not isinstance(exc, UpstreamError)
    said = str(exc) if ours else f"at {Path(last.filename).name}:{last.lineno}"
    return Finding(name, "failed", f"the check itself broke: {type(exc).__name__} {said}", "report it with these words")


async def aside(work: Callable[[], T]) -> T:
    """What `work` returns or raises, from a thread. Intentional: no pool, whose threads the end of the process waits
    for; one that hangs in a disk or a resolver must not hold it up."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def body() -> None:
        try:
            settled = partial(_give, done, work())
        except Exception as exc:  # noqa: BLE001 - it belongs to the waiter
            settled = partial(_fail, done, exc)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settled)

    threading.Thread(target=body, name="check", daemon=True).start()
    return await done


def _give(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[T], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
