"""Clients that hang up or read no more: the model is stopped, and the store keeps what the settings say."""

import random
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from tests import faults
from tests.acceptance.asking import Proxied, assistant, received, until, user
from tests.acceptance.sockets import Line, dialled
from tests.acceptance.stage import PATIENT, Stage
from tests.scripted import WAIT_S, Exchange, Recorded, ScriptedUpstream, delta, gated, says

pytestmark = pytest.mark.anyio

LEAVE: dict[str, Callable[[Line], None]] = {"fin": Line.hang_up, "rst": Line.reset}
WAYS = pytest.mark.parametrize("how", LEAVE)
CUT = ["user: count", "assistant: one two [incomplete]"]


async def gone(request: Recorded, up: ScriptedUpstream) -> None:
    """Waits until the model server has lost its peer and is idle."""
    with anyio.fail_after(WAIT_S):
        await request.left.wait()
    await up.wait_idle()


async def two_words(up: ScriptedUpstream, line: Line, to: str = "s") -> None:
    """A stream "one two three" of which the client has read two words."""
    await line.ask("count", to, stream=True)
    for _ in range(3):
        up.gate.release()
    assert (await line.head())[0] == 200
    while line.text != "one two":
        await line.event()


# --- sessions, as they come ---


@WAYS
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_any_text_leaves_nothing(stage: Stage, stream: bool, how: str) -> None:
    up, proxied = await stage(faults.silence(), says("ok"), upstream=PATIENT)
    async with dialled(proxied) as line:
        await line.ask("count", "s", stream=stream)
        await up.wait_requests(1)
        LEAVE[how](line)
        await gone(up.requests[0], up)
    assert (await proxied.ask("hi", to="s")).text == "ok"
    assert received(up.requests[-1]) == ["user: hi"]
    assert proxied.stored("s") == ["user: hi", "assistant: ok"]


@WAYS
async def test_the_second_request_of_a_connection_is_told_of_the_hang_up_too(stage: Stage, how: str) -> None:
    up, proxied = await stage(says("ok"), faults.silence(), upstream=PATIENT)
    async with dialled(proxied) as line:
        await line.ask("hi", "s")
        assert (await line.reply()).status == 200
        await line.ask("count", "s")
        await up.wait_requests(2)
        LEAVE[how](line)
        await gone(up.requests[1], up)
    assert proxied.stored("s") == ["user: hi", "assistant: ok"]


@WAYS
async def test_the_text_that_a_client_saw_is_kept(stage: Stage, how: str) -> None:
    up, proxied = await stage(gated("one two three"), says("ok"))
    async with dialled(proxied) as line:
        await two_words(up, line)
        LEAVE[how](line)
        await gone(up.requests[0], up)
    await proxied.ask("go on", to="s")
    assert received(up.requests[-1]) == ["user: count", "assistant: one two", "user: go on"]
    assert proxied.stored("s") == [*CUT, "user: go on", "assistant: ok"]


async def test_a_client_that_asks_again_takes_the_place_of_its_cut_turn(stage: Stage) -> None:
    up, proxied = await stage(gated("one two three"), says("ok"))
    async with dialled(proxied) as line:
        await two_words(up, line)
    await gone(up.requests[0], up)
    await proxied.ask("count", to="s")
    assert received(up.requests[-1]) == ["user: count"]
    assert proxied.stored("s") == ["user: count", "assistant: ok"]


async def test_a_client_that_leaves_while_it_waits_for_its_turn_never_has_one(stage: Stage) -> None:
    up, proxied = await stage(gated("one"), says("ok"))
    async with dialled(proxied) as first, dialled(proxied) as second:
        await first.ask("count", "s", stream=True)
        await up.wait_requests(1)
        await second.ask("never", "s")
        await until(lambda: len(proxied.running.edge.open) == 2)
        second.hang_up()
        await until(lambda: len(proxied.running.edge.open) == 1)
        up.gate.release()
        up.gate.release()
        assert (await first.head())[0] == 200
        while not first.raw.endswith(b"data: [DONE]\n\n"):
            await first.event()
    await proxied.ask("hi", to="s")
    assert received(up.requests[-1]) == ["user: count", "assistant: one", "user: hi"]


async def test_a_client_that_leaves_during_the_commit_has_its_turn_once(stage: Stage) -> None:
    up, proxied = await stage(says("ok"))
    await proxied.ask("the tenant is known", to=None)
    async with dialled(proxied) as line:
        with proxied.locked():
            await line.ask("count", "s", stream=True)
            assert (await line.head())[0] == 200
            while line.text != "ok":
                await line.event()
            await up.wait_idle()
            line.hang_up()
            await until(lambda: all(one.client is None or one.client.left for one in proxied.running.edge.open))
    await until(lambda: not proxied.running.edge.open)
    assert proxied.turns("s") == ["complete"]
    await proxied.ask("hi", to="s")
    assert received(up.requests[-1]) == ["user: count", "assistant: ok", "user: hi"]


# --- settings ---


async def test_nothing_is_kept_where_the_settings_say_discard(stage: Stage) -> None:
    script, settings = [gated("one two three"), says("ok")], {"on_disconnect": "discard"}
    up, proxied = await stage(*script, sessions=settings)
    async with dialled(proxied) as line:
        await two_words(up, line)
    await gone(up.requests[0], up)
    await proxied.ask("hi", to="s")
    assert received(up.requests[-1]) == ["user: hi"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_ends_without_its_client_where_the_settings_say_finish(stage: Stage, stream: bool) -> None:
    async def whole(exchange: Exchange) -> None:
        await exchange.up.gate.acquire()
        await says("one two three")(exchange)

    script, settings = [gated("one two three") if stream else whole, says("ok")], {"on_disconnect": "finish"}
    up, proxied = await stage(*script, sessions=settings)
    async with dialled(proxied) as line:
        if stream:
            await two_words(up, line)
        else:
            await line.ask("count", "s")
            await up.wait_requests(1)
    await until(lambda: all(one.client and one.client.left for one in proxied.running.edge.open))
    up.gate.release()
    await proxied.ask("hi", to="s")
    assert not up.requests[0].left.is_set()
    assert received(up.requests[-1]) == ["user: count", "assistant: one two three", "user: hi"]
    assert proxied.turns("s") == ["complete", "complete"]


# --- without a session ---


@WAYS
@pytest.mark.parametrize("stream", [True, False])
async def test_without_a_session_the_model_is_stopped_too(stage: Stage, stream: bool, how: str) -> None:
    up, proxied = await stage(faults.stalls() if stream else faults.silence(), upstream=PATIENT)
    async with dialled(proxied) as line:
        await line.post(b'{"stream": true}' if stream else b"{}", {})
        await up.wait_requests(1)
        if stream:
            await line.head()
            await line.event()
        LEAVE[how](line)
        await gone(up.requests[0], up)
    await until(lambda: not proxied.running.edge.open)


# --- many, at random moments ---


async def stalls_as_told(exchange: Exchange) -> None:
    """The model's name says after how many chunks; 0 for an answer that never begins."""
    chunks = int(exchange.request.json["model"])
    await (faults.stalls(chunks) if chunks else faults.silence())(exchange)


@pytest.mark.parametrize("trials", [40, pytest.param(500, marks=pytest.mark.slow)])
async def test_at_whatever_moment_clients_leave_nothing_is_half_or_left_running(stage: Stage, trials: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    read: dict[str, str] = {}
    up, proxied = await stage(stalls_as_told)
    slots = anyio.CapacityLimiter(8)

    async def client(to: str, own: random.Random) -> None:
        async with slots:
            read[to] = await leaves_somewhere(proxied, to, own)

    async with anyio.create_task_group() as group:
        for n in range(trials):
            group.start_soon(client, f"s{n}", random.Random(chance.random()))
    await until(lambda: not proxied.running.edge.open)
    await up.wait_idle()
    assert all(request.left.is_set() for request in up.requests)
    for to, text in read.items():
        asked, answered = proxied.messages(to) or (user("count"), assistant(""))
        assert asked == user("count")
        assert answered["content"].startswith(text)
        assert faults.TEXT.startswith(answered["content"])
        assert proxied.turns(to) == (["incomplete"] if answered["content"] else [])


async def leaves_somewhere(proxied: Proxied, to: str, chance: random.Random) -> str:
    """One client; the text that it read before it left."""
    chunks = chance.choice([0, chance.randrange(1, 12)])
    stream = chance.random() < 0.8
    async with dialled(proxied) as line:
        await line.ask("count", to, model=str(chunks), stream=stream)
        if stream and chunks and chance.random() < 0.8:
            await line.head()
            for _ in range(chance.randrange(chunks) + 1):
                await line.event()
        for _ in range(chance.randrange(20)):
            await anyio.lowlevel.checkpoint()
        LEAVE[chance.choice(list(LEAVE))](line)
        return line.text


# --- readers that are slow ---


class Flood:
    """Events of 64 KB as fast as the peer takes them; counts them."""

    def __init__(self) -> None:
        self.written = 0

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.start_stream()
        while True:
            await exchange.event(delta(exchange.request, {"content": "x" * 65536}))
            self.written += 1


@pytest.mark.parametrize("to", ["s", None])
async def test_a_client_that_reads_no_more_pauses_the_model_and_is_dropped(stage: Stage, to: str | None) -> None:
    flood, settings = Flood(), {"send_timeout_s": 1}
    up, proxied = await stage(flood, says("ok"), server=settings)
    async with dialled(proxied, buffer=4096) as line:
        connections = proxied.running.server.server_state.connections
        await line.post(b'{"stream": true, "messages": [{"role": "user"}]}', {"X-Session-Id": to} if to else {})
        await line.head()
        await gone(up.requests[0], up)
        assert flood.written * 65536 < 24 << 20, "the kernel's buffers hold less than that"
        await until(lambda: not connections)
        assert (await proxied.ask("hi", to=to)).text == "ok"
        assert b"[DONE]" not in await line.rest()
        if to is not None:
            assert proxied.turns(to) == ["incomplete", "complete"]
