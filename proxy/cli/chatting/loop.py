"""The chat from its start to its end: asks, sends, shows, until there is no more input.

Intentional: input is read outside of the event loop, which runs for one message or command at a time. So readline works
as everywhere, and Ctrl-C ends what is running, nothing else.
"""

import asyncio
import contextlib
import io
import os
import sys
import termios
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from proxy.cli.chatting import commands, problems, prompt
from proxy.cli.chatting.client import Failed, Proxy
from proxy.cli.chatting.screen import Screen
from proxy.cli.chatting.talk import Talk
from proxy.errors import BadConfig


@dataclass(frozen=True)
class Wish:
    """What the command line says. `key`: the proxy's API key."""

    url: str
    session: str | None
    model: str | None
    key: str | None


def run(wish: Wish) -> int:
    """Chats; the exit code."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a model may say what the terminal cannot show
    if wish.session == "":
        raise BadConfig("--session must name a session")
    live = prompt.is_terminal()
    screen = Screen(live)
    talk = Talk(Proxy(wish.url, wish.key), screen, model=wish.model, wished=wish.model is not None)
    with asyncio.Runner() as runner:
        try:
            runner.run(_begin(talk, wish.session))
            return _interactive(runner, talk) if live else _scripted(runner, talk)
        except Failed as exc:
            print(f"session-proxy: {problems.line(exc)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            screen.note("stopped")
            return 1
        except BrokenPipeError:  # the reader has enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        finally:
            runner.run(talk.proxy.aclose())


async def _begin(talk: Talk, session: str | None) -> None:
    """Looks whether a proxy is there and takes the key, and into the session. Raises Failed."""
    proxy = talk.proxy
    try:
        health = await proxy.get("/healthz")
    except Failed as exc:
        health = None
        if exc.status == 0 or exc.status >= 500:
            raise
    if not isinstance(health, dict) or "version" not in health:
        raise Failed(0, f"what answers at {proxy.root} is no session-proxy", "no_proxy")
    await talk.enter(session)
    talk.screen.note(f"{commands.greeting(talk)} | {proxy.root}")
    if talk.screen.live:
        talk.screen.note("/help lists the commands, Ctrl-D ends the chat")


def _interactive(runner: asyncio.Runner, talk: Talk) -> int:
    asked = prompt.Prompt(prompt.History(prompt.history_file()), list(commands.COMMANDS))
    while True:
        try:
            text = asked.ask()
        except EOFError:
            talk.screen.gap()
            return 0
        except KeyboardInterrupt:
            talk.screen.gap()
            talk.screen.note("Ctrl-D or /quit ends the chat")
            continue
        if not text.strip():
            continue
        try:
            with _unseen():
                _done(runner, talk, text)
        except commands.Quit:
            return 0
        except KeyboardInterrupt:
            talk.screen.note("stopped", style="yellow")


def _scripted(runner: asyncio.Runner, talk: Talk) -> int:
    """Each line a message or a command; 1 if one of them failed."""
    with contextlib.suppress(commands.Quit):
        for text in prompt.piped(iter(sys.stdin)):
            _done(runner, talk, text)
    return 1 if talk.failed else 0


def _done(runner: asyncio.Runner, talk: Talk, text: str) -> None:
    """Sends a message or runs a command; a failure is shown, and the chat goes on."""
    message = not text.startswith("/") or text.startswith("//")
    try:
        if message:
            _stoppable(runner, talk, talk.say(text.removeprefix("/") if text.startswith("//") else text))
        else:
            runner.run(commands.run(talk, text))
    except Failed as exc:
        talk.failed += 1
        talk.screen.problem(problems.line(exc))


def _stoppable(runner: asyncio.Runner, talk: Talk, saying: Coroutine[Any, Any, None]) -> None:
    try:
        runner.run(saying)
    except KeyboardInterrupt:
        if not talk.screen.live:
            raise
        runner.run(talk.stopped())


@contextlib.contextmanager
def _unseen() -> Generator[None]:
    """Keys typed while an answer is painted wait for the next prompt, and do not stand in its midst."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    without = [*before]
    without[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSADRAIN, without)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
