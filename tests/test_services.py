"""The queue of a session's turns, and the numbers promised to them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from proxy.errors import Conflict
from proxy.services import Failed, Numbers, TurnQueue, new_id

pytestmark = pytest.mark.anyio

LIMIT_S = 10.0
"""The longest a test waits for what has to happen."""


class Room:
    """Who is in, in which order they came in, and a door for each that lets it out."""

    def __init__(self, queue: TurnQueue) -> None:
        self.queue = queue
        self.order: list[str] = []
        self.inside: set[str] = set()
        self.most = 0
        self.doors: dict[str, asyncio.Event] = {}
        self.entered = asyncio.Condition()

    async def visit(self, who: str, session: str = "s", tenant: int = 1) -> None:
        door = self.doors.setdefault(who, asyncio.Event())
        async with self.queue.turn((tenant, session)):
            async with self.entered:
                self.order.append(who)
                self.inside.add(who)
                self.most = max(self.most, len(self.inside))
                self.entered.notify_all()
            try:
                await door.wait()
            finally:
                self.inside.discard(who)

    async def until(self, *who: str) -> None:
        with anyio.fail_after(LIMIT_S):
            async with self.entered:
                await self.entered.wait_for(lambda: set(who) <= set(self.order))

    def let_out(self, who: str) -> None:
        self.doors.setdefault(who, asyncio.Event()).set()


@asynccontextmanager
async def room(wait_s: float = LIMIT_S) -> AsyncGenerator[tuple[Room, asyncio.TaskGroup]]:
    made = Room(TurnQueue(wait_s))
    with anyio.fail_after(2 * LIMIT_S):
        async with asyncio.TaskGroup() as tasks:
            yield made, tasks


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_turns_of_a_session_run_one_by_one_in_the_order_they_came() -> None:
    names = [f"v{n}" for n in range(20)]
    async with room() as (made, tasks):
        for name in names:
            tasks.create_task(made.visit(name))
            await settle()
        for n, name in enumerate(names, 1):
            await made.until(name)
            assert made.order == names[:n]
            made.let_out(name)
    assert made.most == 1


async def test_sessions_and_tenants_never_wait_for_each_other() -> None:
    async with room() as (made, tasks):
        tasks.create_task(made.visit("a", "one"))
        tasks.create_task(made.visit("b", "two"))
        tasks.create_task(made.visit("c", "one", tenant=2))
        await made.until("a", "b", "c")
        for name in "abc":
            made.let_out(name)
    assert made.most == 3


async def test_who_waits_too_long_is_told_to_come_again() -> None:
    async with room(wait_s=0.01) as (made, tasks):
        tasks.create_task(made.visit("first"))
        await made.until("first")
        with pytest.raises(Conflict) as caught:
            await made.visit("second")
        assert caught.value.code == "session_busy"
        assert caught.value.headers == {"Retry-After": "1"}
        made.let_out("first")
        await settle()
        made.let_out("third")
        await made.visit("third")
    assert made.order == ["first", "third"]


async def test_who_gives_up_waiting_leaves_the_line_to_the_others() -> None:
    async with room() as (made, tasks):
        tasks.create_task(made.visit("first"))
        await made.until("first")
        second = tasks.create_task(made.visit("second"))
        await settle()
        tasks.create_task(made.visit("third"))
        await settle()
        second.cancel()
        await settle()
        made.let_out("first")
        await made.until("third")
        made.let_out("third")
    assert made.order == ["first", "third"]


async def test_who_gives_up_in_the_moment_of_its_turn_passes_it_on() -> None:
    async with room() as (made, tasks):
        first = tasks.create_task(made.visit("first"))
        await made.until("first")
        second = tasks.create_task(made.visit("second"))
        await settle()
        tasks.create_task(made.visit("third"))
        await settle()
        made.let_out("first")
        while not first.done():  # its turn is handed to the second, which has not run since
            await asyncio.sleep(0)
            second.cancel()
        await made.until("third")
        made.let_out("third")
    assert made.order[-1] == "third"


async def test_a_turn_that_fails_lets_the_next_one_in() -> None:
    queue = TurnQueue(LIMIT_S)
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            async with queue.turn((1, "s")):
                raise ValueError("no")
    async with queue.turn((1, "s")):
        pass


async def test_any_mix_of_patience_loses_no_turn_and_runs_none_beside_another() -> None:
    """Every third gives up at some moment; all others come in, in order."""
    async with room() as (made, tasks):
        visits = [tasks.create_task(made.visit(f"v{n}")) for n in range(60)]
        for n in range(60):
            made.let_out(f"v{n}")
        for n in range(0, 60, 3):
            await asyncio.sleep(0)
            visits[n].cancel()
    kept = [name for name in made.order if int(name[1:]) % 3]
    assert kept == [f"v{n}" for n in range(60) if n % 3]
    assert made.most == 1


# --- numbers ---


def test_numbers_follow_the_stored_ones_and_those_promised() -> None:
    numbers = Numbers()
    key = (1, "s")
    assert [numbers.promise(key, 4) for _ in range(3)] == [5, 6, 7]
    numbers.release(key, 6)
    assert numbers.promise(key, 5) == 8
    for number in (5, 7, 8):
        numbers.release(key, number)
    assert numbers.promise(key, 7) == 8


def test_numbers_of_two_sessions_have_nothing_to_do_with_each_other() -> None:
    numbers = Numbers()
    assert [numbers.promise(key, 0) for key in ((1, "a"), (1, "b"), (2, "a"))] == [1, 1, 1]


def test_first_turns_of_a_session_at_once_share_its_uuid() -> None:
    numbers = Numbers()
    numbers.promise((1, "s"), 0)
    numbers.promise((1, "s"), 0)
    first = numbers.uuid((1, "s"))
    assert numbers.uuid((1, "s")) == first
    assert numbers.uuid((2, "s")) != first
    numbers.release((1, "s"), 1)
    assert numbers.uuid((1, "s")) == first
    numbers.release((1, "s"), 2)
    assert numbers.uuid((1, "s")) != first


def test_ids_do_not_repeat() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


def test_a_failed_request_is_remembered_until_a_turn_of_its_session_is_stored() -> None:
    failed = Failed()
    failed.note((1, "s"), b"a")
    assert failed.has((1, "s"), b"a")
    assert not failed.has((1, "s"), b"b")
    assert not failed.has((2, "s"), b"a")
    failed.note((1, "s"), b"b")
    assert not failed.has((1, "s"), b"a")
    failed.clear((1, "s"))
    failed.clear((1, "s"))
    assert not failed.has((1, "s"), b"b")


def test_the_memory_of_failures_is_bounded() -> None:
    failed = Failed()
    for n in range(Failed.MOST + 10):
        failed.note((1, str(n)), b"a")
    assert [failed.has((1, str(n)), b"a") for n in (0, 9, 10, Failed.MOST + 9)] == [False, False, True, True]
