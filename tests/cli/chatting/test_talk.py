"""A conversation: which session, which model, which branch, and what becomes of an answer."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.cli.chatting.client import Failed
from tests.cli.chatting.talking import Talking, asked, talking
from tests.faults import cut_mid_stream, error_event, finish_without_done
from tests.scripted import WAIT_S, ScriptedUpstream, calls, echoes, gated, says, scripted_upstream, status
from tests.serving import proxy

pytestmark = pytest.mark.anyio

MODELS = [{"id": "text-embedding-x"}, {"id": "first"}, {"id": "second"}]


async def test_only_the_newest_message_is_sent_and_the_answer_says_where_it_stands(tmp_path: Path) -> None:
    async with (
        scripted_upstream(echoes(), MODELS) as up,
        proxy(up.url, tmp_path) as running,
        talking(running.url) as chat,
    ):
        await chat.type("one")
        await chat.type("two")
        assert chat.said() == "echo: one\necho: two"
        first, second = chat.noted().split("\n")
        assert first.startswith("turn 1 | branch 1 | ")
        assert second.startswith("turn 2 | branch 1 | ")
        assert up.requests[-1].json["model"] == "first", "the first one that is for chats"
        assert [one["content"] for one in up.requests[-1].json["messages"]] == ["one", "echo: one", "two"]
        assert running.rows("SELECT name FROM sessions") == [(chat.talk.session,)]


async def test_a_session_is_gone_on_with_by_its_name_and_by_its_id(tmp_path: Path) -> None:
    async with scripted_upstream(echoes(), MODELS) as up, proxy(up.url, tmp_path) as running:
        async with talking(running.url, "a/b c?", "second") as chat:
            assert chat.talk.known is None
            await chat.type("one")
        uuid = running.rows("SELECT uuid FROM sessions")[0][0]
        for name in ("a/b c?", str(uuid)):
            async with talking(running.url, name) as chat:
                assert (chat.talk.turn, chat.talk.model) == (1, "second"), "the model of its last turn"
                assert chat.talk.known is not None
        assert len(asked(up)) == 1
        assert len(running.rows("SELECT 1 FROM sessions")) == 1


async def test_the_models_default_of_the_configuration_is_taken(tmp_path: Path) -> None:
    models = {"default": {"model": "second"}}
    async with scripted_upstream(echoes(), MODELS) as up, proxy(up.url, tmp_path, models=models) as running:
        async with talking(running.url) as chat:
            assert chat.talk.model == "second"
        assert (asked(up), running.rows("SELECT 1 FROM sessions")) == ([], []), "nobody was asked, nothing is stored"


@pytest.mark.parametrize("name", ["", "é", "a\nb", "x" * 257])
async def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    async with scripted_upstream(echoes()) as up, proxy(up.url, tmp_path) as running:
        with pytest.raises(Failed, match="printable ASCII"):
            async with talking(running.url, name):
                pass


async def test_a_failure_is_one_line_and_the_chat_goes_on(tmp_path: Path) -> None:
    error = {"message": "the model fell over", "type": "server_error", "param": None, "code": None}
    script = [
        status(500, json={"error": error}),
        cut_mid_stream(),
        error_event("it is overloaded"),
        says("better"),
    ]
    async with (
        scripted_upstream(script, MODELS) as up,
        proxy(up.url, tmp_path) as running,
        talking(running.url, "s") as chat,
    ):
        told = []
        for _ in range(3):
            await chat.type("hello")
            told.append(chat.noted())
        assert told[0] == "error: the model fell over; send it again"
        assert told[1].startswith("error: the answer broke off: the upstream closed the connection")
        assert told[2] == "error: the answer broke off: it is overloaded; send it again"
        assert chat.talk.turn is None, "nothing of them is stored"
        await chat.type("hello")
        assert chat.noted().startswith("turn ")
        assert chat.said().endswith("better")


async def test_a_model_server_that_is_down_is_told(tmp_path: Path) -> None:
    async with proxy("http://127.0.0.1:1/v1", tmp_path) as running, talking(running.url) as chat:
        assert chat.talk.model is None
        await chat.type("hello")
        assert "error: the upstream refused the connection" in chat.noted()


async def test_a_proxy_that_goes_is_told(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(scripted_upstream(echoes(), MODELS))
        async with proxy(up.url, tmp_path) as running:
            chat = await stack.enter_async_context(talking(running.url))
            await chat.type("one")
            chat.noted()
        await chat.type("two")
        assert chat.noted().startswith("error: no proxy answers at http://127.0.0.1:")


async def test_how_an_answer_ended_is_told(tmp_path: Path) -> None:
    script = [says("and", finish="length"), calls("clock", {"zone": 1}), finish_without_done()]
    async with (
        scripted_upstream(script, MODELS) as up,
        proxy(up.url, tmp_path) as running,
        talking(running.url) as chat,
    ):
        await chat.type("go")
        assert chat.noted().startswith("the answer was cut: it reached the model's limit of tokens\nturn 1")
        await chat.type("time?")
        assert chat.noted().startswith('the model asks for clock({"zone": 1}); this chat runs no tools')
        await chat.type("go on")
        assert chat.noted().startswith("turn 3"), "the proxy ends it as it should be"


async def stopped_after_a_word(chat: Talking, up: ScriptedUpstream) -> None:
    """What Ctrl-C does once something was said."""
    heard = asyncio.Event()
    chat.on_answer(heard.set)
    saying = asyncio.ensure_future(chat.talk.say("count"))
    up.gate.release()
    up.gate.release()
    await asyncio.wait_for(heard.wait(), WAIT_S)
    saying.cancel()
    await asyncio.gather(saying, return_exceptions=True)
    await chat.talk.stopped()


async def test_a_stopped_answer_keeps_what_was_said(tmp_path: Path) -> None:
    async with scripted_upstream(gated("one two three"), MODELS) as up, proxy(up.url, tmp_path) as running:
        async with talking(running.url, "s") as chat:
            await stopped_after_a_word(chat, up)
            assert chat.noted() == "stopped; what was said is kept (turn 1, incomplete)"
            assert chat.talk.turn == 1
            assert asked(up)[0].left.is_set()
        assert running.rows("SELECT status FROM turns") == [("incomplete",)]


async def test_one_that_was_stopped_before_its_first_word_keeps_nothing(tmp_path: Path) -> None:
    async with scripted_upstream(gated("one"), MODELS) as up, proxy(up.url, tmp_path) as running:
        async with talking(running.url, "s") as chat:
            saying = asyncio.ensure_future(chat.talk.say("count"))
            await up.wait_requests(1)
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)
            await chat.talk.stopped()
            assert chat.noted() == "stopped; nothing was said, so nothing is kept"
            await up.wait_idle()
        assert running.rows("SELECT 1 FROM turns") == []


async def test_the_proxy_tells_what_it_does_with_a_stopped_answer(tmp_path: Path) -> None:
    sessions = {"on_disconnect": "discard"}
    async with (
        scripted_upstream(gated("one two"), MODELS) as up,
        proxy(up.url, tmp_path, sessions=sessions) as running,
        talking(running.url, "s") as chat,
    ):
        await stopped_after_a_word(chat, up)
        assert chat.noted() == "stopped; nothing of it is kept so far"
