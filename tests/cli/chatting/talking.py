"""A conversation in the test's own process: what the chat prints, without a terminal."""

import io
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from proxy.cli.chatting import commands, problems
from proxy.cli.chatting.client import Failed, Proxy
from proxy.cli.chatting.screen import Screen
from proxy.cli.chatting.talk import Talk
from tests.scripted import Recorded, ScriptedUpstream


class Heard(io.StringIO):
    """Tells when something is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: Callable[[], None] = lambda: None

    def write(self, text: str) -> int:
        self.heard()
        return super().write(text)


class Talking:
    """`talk` is the chat's own; what it prints is taken with `said` (the answers) and `noted` (all else)."""

    def __init__(self, talk: Talk, out: Heard, notes: io.StringIO) -> None:
        self.talk = talk
        self._out, self._notes = out, notes

    async def type(self, line: str) -> None:
        """A message or a command, as the loop carries it out."""
        try:
            await (commands.run if line.startswith("/") else Talk.say)(self.talk, line)
        except Failed as exc:
            self.talk.screen.problem(problems.line(exc))

    def on_answer(self, tell: Callable[[], None]) -> None:
        """`tell` is called for whatever is said from now on."""
        self._out.heard = tell

    def said(self) -> str:
        return _taken(self._out)

    def noted(self) -> str:
        return _taken(self._notes)


def asked(up: ScriptedUpstream) -> list[Recorded]:
    """The requests that were made of a model; the proxy asks for the list of models by itself."""
    return [request for request in up.requests if request.method == "POST"]


@asynccontextmanager
async def talking(url: str, session: str | None = None, model: str | None = None) -> AsyncGenerator[Talking]:
    out, notes = Heard(), io.StringIO()
    talk = Talk(Proxy(url, None), Screen(False, out, notes), model=model, wished=model is not None)
    try:
        await talk.enter(session)
        yield Talking(talk, out, notes)
    finally:
        await talk.proxy.aclose()


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.strip("\n")
