"""Storing a turn: told once it is stored, once, wholly, and to the end whoever leaves meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy import turn as turns
from proxy.errors import Unavailable
from proxy.events import Chunk, Client, End, Event
from tests.inprocess import Ask, begun, collect, counts, kinds, says, staged, stored, user, whole

pytestmark = pytest.mark.anyio

LIMIT_S = 10.0


async def test_a_stream_is_its_beginning_its_chunks_and_the_end_once_stored(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, _, stage):
        stage.open.clear()
        running = turns.run(svc, Ask([user("hi")], stream=True).turn(svc), Client())
        got: list[Event] = []
        ended = asyncio.ensure_future(collect(running, got))
        with anyio.fail_after(LIMIT_S):
            await stage.asked.wait()
            assert kinds(got)[:2] == ["Begin", "Chunk"]
            assert not any(isinstance(event, End) for event in got)
            assert b"[DONE]" not in b"".join(event.data for event in got if isinstance(event, Chunk))
            assert await stored(svc) == []
            stage.open.set()
            await ended
        assert got[-1] == End(b"data: [DONE]\n\n")
        assert len(await stored(svc)) == 2


async def test_a_whole_answer_is_told_only_when_it_is_stored(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, _, stage):
        stage.open.clear()
        got: list[Event] = []
        ended = asyncio.ensure_future(collect(turns.run(svc, Ask([user("hi")]).turn(svc), Client()), got))
        with anyio.fail_after(LIMIT_S):
            await stage.asked.wait()
            assert got == []
            stage.open.set()
            await ended
        assert kinds(got) == ["Begin", "End"]
        assert got[-1] == End(whole(says("hello world")))


async def test_a_commit_that_fails_is_told_in_place_of_the_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as (svc, _, stage):
        stage.broken = True
        for stream in (True, False):
            got: list[Event] = []
            with pytest.raises(Unavailable):
                await collect(turns.run(svc, Ask([user("hi")], stream=stream).turn(svc), Client()), got)
            assert not any(isinstance(event, End) for event in got)
            assert bool(got) == stream
        stage.broken = False
        assert await counts(svc) == [0] * 6
        assert (await begun(svc, Ask([user("hi")]))).number == 1


@pytest.mark.parametrize("mode", ["auto", "observe"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_the_turn_is_being_stored_stops_nothing(
    tmp_path: Path, stream: bool, mode: Any
) -> None:
    async with staged(tmp_path) as (svc, _, stage):
        stage.open.clear()
        client = Client()
        asked = Ask([user("hi")], stream=stream, mode=mode).turn(svc)
        task = asyncio.ensure_future(collect(turns.run(svc, asked, client), []))
        with anyio.fail_after(LIMIT_S):
            await stage.asked.wait()
            client.left = True
            task.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not task.done(), "the next turn must not begin before this one is stored"
            stage.open.set()
            await asyncio.wait((task,))
        assert [(turn, status) for turn, _, status in await stored(svc)] == [(1, "complete"), (1, "complete")]
        assert (await begun(svc, Ask([user("more")]))).number == 2
