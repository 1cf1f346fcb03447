"""The chat as a process: at a terminal and in a pipe."""

from pathlib import Path

import pytest

from tests.cli.chatting.pseudo import CTRL_C, CTRL_D, UP, chatting
from tests.cli.chatting.talking import asked
from tests.faults import cut_mid_stream
from tests.processes import command
from tests.scripted import echoes, gated, says, scripted_upstream
from tests.serving import proxy

pytestmark = pytest.mark.anyio

MODELS = [{"id": "first"}]


async def test_a_terminal_streams_stops_and_goes_on(tmp_path: Path) -> None:
    script = [gated("**one** two three"), echoes()]
    async with scripted_upstream(script, MODELS) as up, proxy(up.url, tmp_path) as running:
        async with chatting(running.url, tmp_path, "--session", "mine") as chat:
            await chat.sees("session mine (new) | first | http://127.0.0.1:")
            await chat.say("count")
            await chat.sees("waiting; Ctrl-C stops")
            up.gate.release()
            up.gate.release()
            await chat.sees("one")
            chat.keys(CTRL_C)
            await chat.sees("stopped; what was said is kept (turn 1, incomplete)")
            await chat.say("and now?")
            await chat.sees("echo: and now?")
            await chat.sees("turn 2 | branch 1 | ")
            await chat.say("/context")
            await chat.sees("█ history")
            await chat.sees("█ new")
            await chat.say("/quit")
            assert await chat.ends() == 0
        assert running.rows("SELECT turn, status FROM turns ORDER BY turn") == [(1, "incomplete"), (2, "complete")]


async def test_the_prompt_takes_several_lines_pastes_and_earlier_inputs(tmp_path: Path) -> None:
    async with scripted_upstream(echoes(), MODELS) as up, proxy(up.url, tmp_path) as running:
        async with chatting(running.url, tmp_path) as chat:
            await chat.say("one\\")
            await chat.sees("... ")
            chat.keys("two\r")
            await chat.sees("turn 1 |")
            await chat.sees("> ")
            chat.keys("\x1b[200~pasted\nlines\x1b[201~\r")
            await chat.sees("turn 2 |")
            await chat.say("half a line" + CTRL_C)
            await chat.sees("Ctrl-D or /quit ends the chat")
            await chat.say("/nonsense")
            await chat.sees("error: there is no command /nonsense")
            await chat.sees("> ")
            chat.keys(CTRL_D)
            assert await chat.ends() == 0
        async with chatting(running.url, tmp_path, NO_COLOR="1") as chat:
            await chat.sees("> ")
            chat.keys(UP + UP + "\r")
            await chat.sees("turn 1 |")
        said = [request.json["messages"][-1]["content"] for request in asked(up)]
        assert said == ["one\ntwo", "pasted\nlines", "pasted\nlines"], "from the chat before"


async def test_a_model_gives_no_orders_to_the_terminal(tmp_path: Path) -> None:
    evil = "a\x1b]0;title\x07 \x1b[2J\x9b31m [bold]b[/bold]"
    async with (
        scripted_upstream(says(evil), MODELS) as up,
        proxy(up.url, tmp_path) as running,
        chatting(running.url, tmp_path, columns=40) as chat,
    ):
        await chat.say("hi")
        await chat.sees("a]0;title [2J31m [bold]b[/bold]")
        await chat.sees("turn 1")
        assert b"\x1b]0" not in chat.raw
        assert b"\x1b[2J" not in chat.raw


async def test_a_proxy_that_dies_in_mid_answer_is_told_and_the_chat_goes_on(tmp_path: Path) -> None:
    async with (
        scripted_upstream(cut_mid_stream(), MODELS) as up,
        proxy(up.url, tmp_path) as running,
        chatting(running.url, tmp_path) as chat,
    ):
        await chat.say("one")
        await chat.sees("error: the answer broke off: the upstream closed the connection")
        await chat.sees("> ")
        chat.resize(40, 10)
        chat.keys("two\r")
        await chat.sees("error: the answer broke off")


async def test_a_pipe_is_answered_line_by_line(tmp_path: Path) -> None:
    async with scripted_upstream(echoes(), MODELS) as up, proxy(up.url, tmp_path) as running:
        args = ["chat", "--url", running.url, "--session", "piped", "--model", "m"]
        done = await command(args, given="one\n\n//two\n/context\n")
        assert (done.code, done.out.split("\n")[:2]) == (0, ["echo: one", "echo: /two"])
        assert "N new" in done.out
        assert done.err.startswith("session piped (new) | m | http://127.0.0.1:")
        assert "\x1b" not in done.out + done.err
        done = await command(args, given="three\n/nonsense\nfour\n/quit\nfive\n")
        assert (done.code, done.out) == (1, "echo: three\necho: four\n")
        assert "error: there is no command /nonsense; " in done.err
        assert up.requests[-1].json["messages"][-1]["content"] == "four"


async def test_a_message_that_failed_makes_the_exit_code_1(tmp_path: Path) -> None:
    async with scripted_upstream([cut_mid_stream(), echoes()], MODELS) as up, proxy(up.url, tmp_path) as running:
        done = await command(["chat", "--url", running.url], given="one\ntwo\n")
    assert done.code == 1
    assert done.out.endswith("echo: two\n")
    assert "error: the answer broke off" in done.err
