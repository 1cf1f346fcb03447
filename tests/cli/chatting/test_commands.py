"""The commands, against a real proxy."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.chatting import commands
from proxy.cli.chatting.client import Proxy
from tests.cli.chatting.talking import Talking, talking
from tests.scripted import ScriptedUpstream, echoes, scripted_upstream
from tests.serving import proxy

pytestmark = pytest.mark.anyio

MODELS = [{"id": "first"}, {"id": "second"}]


@asynccontextmanager
async def chatting(folder: Path, **sections: Any) -> AsyncGenerator[tuple[Talking, ScriptedUpstream]]:
    async with (
        scripted_upstream(echoes(), MODELS) as up,
        proxy(up.url, folder, **sections) as running,
        talking(running.url, "s") as chat,
    ):
        yield chat, up


async def told(chat: Talking, line: str) -> str:
    chat.said(), chat.noted()
    await chat.type(line)
    return "\n".join(filter(None, (chat.said(), chat.noted())))


EARLY = [
    ("/context", "error: nothing was sent in this session yet"),
    ("/history", "error: nothing was said in this session yet"),
    ("/branch", "error: nothing was said in this session yet"),
    ("/undo", "error: nothing was said in this session yet"),
    ("/fork 1", "error: nothing was said in this session yet"),
    ("/nonsense now", "error: there is no command /nonsense; there are /context, /history, /branch, /fork, /undo, "
                      "/model, /session, /help, /quit"),
    ("/", "error: there is no command /; there are"),
    ("/context x\x1b", "error: x is no number; /context 3 shows turn 3"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), EARLY, ids=[line for line, _ in EARLY])
async def test_before_the_first_message_commands_say_so(tmp_path: Path, line: str, said: str) -> None:
    async with chatting(tmp_path) as (chat, _):
        assert (await told(chat, line)).startswith(said)


async def test_context_shows_the_last_turn_or_another(tmp_path: Path) -> None:
    async with chatting(tmp_path, context={"token_budget": 1000, "reserve_output_tokens": 10}) as (chat, _):
        await chat.type("one")
        await chat.type("two")
        last = await told(chat, "/context")
        assert last.startswith("turn 2, branch 1, adaptive, first, complete\nHH")
        assert "N new" in last
        assert "budget 1,000" in last
        assert (await told(chat, "/context 1")).startswith("turn 1, branch 1")
        assert (await told(chat, "/context 9")).startswith("error: there is no such turn")


async def test_context_names_the_documents(tmp_path: Path) -> None:
    async with chatting(tmp_path) as (chat, _):
        await chat.type("one")
        content = "We ship to France on Mondays."
        body = {"title": "Shipping", "content": content}
        doc = await chat.talk.proxy.post(f"{chat.talk.known}/docs", body)
        await chat.type("Do you ship to France?")
        assert "Shipping" in await told(chat, "/context")
        assert doc["id"] not in await told(chat, "/context")


async def test_history_shows_the_branch(tmp_path: Path) -> None:
    async with chatting(tmp_path) as (chat, _):
        for at in range(12):
            await chat.type(f"m{at}")
        shown = await told(chat, "/history")
        assert shown.startswith("turn 3, you\nm2\n\nturn 3, first\necho: m2\n\nturn 4, you")
        assert shown.endswith("4 messages before these; /history all shows everything")
        assert (await told(chat, "/history 1")).startswith("turn 12, you\nm11\n\nturn 12, first\necho: m11")
        assert "m0" in await told(chat, "/history all")


async def test_branches_are_begun_listed_and_gone_on_with(tmp_path: Path) -> None:
    async with chatting(tmp_path) as (chat, up):
        await chat.type("one")
        await chat.type("two")
        assert await told(chat, "/fork 1") == "branch 2 begins after turn 1; the next message goes on with it"
        await chat.type("three")
        assert (await told(chat, "/branch")).split("\n")[1:] == [
            "  1  at the start      2  two",
            "* 2  1, turn 1         1  three",
        ]
        shown = await told(chat, "/branch 1")
        assert shown == ("turn 2, you\ntwo\n\nturn 2, first\necho: two\nthe next message goes on with branch 1")
        assert "* 1  at the start" in await told(chat, "/branch")
        assert (await told(chat, "/history")).endswith("echo: two"), "of the branch that the next message is for"
        assert "/branch 2 goes back" in await told(chat, "/undo")
        await chat.type("four")
        assert [one["content"] for one in up.requests[-1].json["messages"]][-3:] == ["two", "echo: two", "four"]
        assert chat.talk.branch is None, "it is the current one now"
        assert await told(chat, "/branch at 0") == "branch 3 begins after turn 0; the next message goes on with it"
        assert await told(chat, "/history") == "nothing was said on this branch yet"
        assert await told(chat, "/branch 9") == "error: there is no branch 9; /branch lists them"
        assert (await told(chat, "/branch x")).startswith("error: x is no number")
        assert "no turn 77" in await told(chat, "/fork 77")


async def test_undo_takes_back_the_last_turn(tmp_path: Path) -> None:
    async with chatting(tmp_path) as (chat, up):
        await chat.type("one")
        await chat.type("two")
        assert await told(chat, "/undo") == (
            "turn 2 no longer stands; it stays readable on branch 1\n"
            "the next message goes on with branch 2, after turn 1"
        )
        await chat.type("three")
        assert [one["content"] for one in up.requests[-1].json["messages"]] == ["one", "echo: one", "three"]
        await chat.type("/undo")
        await chat.type("/undo")
        assert (await told(chat, "/undo")).startswith("error: there is nothing to undo")


class Sparing(Proxy):
    """Reads no whole session."""

    async def lines(self, path: str) -> list[Any]:
        raise AssertionError(path)


async def test_fork_and_undo_read_no_whole_session(tmp_path: Path) -> None:
    async with chatting(tmp_path) as (chat, _):
        for said in ("one", "two", "three"):
            await chat.type(said)
        await chat.talk.proxy.aclose()
        chat.talk.proxy = Sparing(chat.talk.proxy.root, None)
        assert (await told(chat, "/fork 2")).startswith("branch 2 begins after turn 2")
        assert (await told(chat, "/undo")).startswith("turn 2 no longer stands; it stays readable on branch 2")
        assert (await told(chat, "/fork 3")).startswith("branch 4 begins after turn 3")
        await chat.type("four")
        assert (await told(chat, "/undo")).startswith("turn 4 no longer stands; it stays readable on branch 4")


async def test_the_model_is_switched(tmp_path: Path) -> None:
    async with chatting(tmp_path) as (chat, up):
        assert await told(chat, "/model") == "* first\n  second"
        assert await told(chat, "/model second") == "the next message goes to second"
        await chat.type("one")
        assert up.requests[-1].json["model"] == "second"
        assert "the proxy does not list it" in await told(chat, "/model other")
        assert (await told(chat, "/session new")).startswith("session new (new) | other"), "what was wished stays"


async def test_the_session_is_switched(tmp_path: Path) -> None:
    async with chatting(tmp_path) as (chat, up):
        await chat.type("one")
        assert await told(chat, "/session other") == "session other (new) | first"
        await chat.type("two")
        assert [one["content"] for one in up.requests[-1].json["messages"]] == ["two"]
        shown = await told(chat, "/session")
        assert "* other" in shown
        assert "\n  s " in shown
        assert await told(chat, "/session s") == "session s (turn 1) | first"


async def test_help_names_every_command() -> None:
    shown = [command.usage.split()[0] for command in commands.COMMANDS.values()]
    assert shown == list(commands.COMMANDS)
    text = (Path(__file__).parents[3] / "docs" / "chat.md").read_text()
    assert [command for command in commands.COMMANDS.values() if f"`{command.usage}`" not in text] == []


async def test_quit_ends_the_chat(tmp_path: Path) -> None:
    async with chatting(tmp_path) as (chat, _):
        assert "/quit" in await told(chat, "/help")
        with pytest.raises(commands.Quit):
            await chat.type("/quit")
