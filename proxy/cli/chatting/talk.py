"""A conversation with the proxy: which session, model and branch; a message sent, its answer shown."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.cli import chat_models
from proxy.cli.chatting import names, problems, told
from proxy.cli.chatting.clean import one_line
from proxy.cli.chatting.client import Failed, Proxy, session_path
from proxy.cli.chatting.said import Said
from proxy.cli.chatting.screen import Answer, Screen

SETTLED_S = 2.0
"""How long a stopped answer is looked for in the store; the proxy notices within a fraction of it."""
LOOK_S = 0.1
ENDINGS = {
    "length": "the answer was cut: it reached the model's limit of tokens",
    "content_filter": "the answer was cut by the model server's content filter",
}


@dataclass
class Talk:
    """`session`: its name; `known`: the path under which the Sessions API has it, None while nothing is stored.
    `branch`: the one that the next message goes on with, None for the current one; `turn`: the newest turn that is
    stored; `wished`: the user named the model; `failed`: how many messages came to nothing; `said`: the last answer,
    None when it never began, and `promised`: the number of its turn."""

    proxy: Proxy
    screen: Screen
    session: str = ""
    known: str | None = None
    model: str | None = None
    wished: bool = False
    branch: int | None = None
    turn: int | None = None
    failed: int = 0
    said: Said | None = None
    promised: int | None = None

    async def enter(self, name: str | None) -> None:
        """Takes a session, a new one without a name. Raises Failed."""
        given = name if name is not None else await self._unused()
        if not (1 <= len(given) <= 256 and given.isascii() and given.isprintable()):
            raise Failed(0, "a session's name has 1 to 256 printable ASCII characters")
        self.session, self.known = given, await self._path(given)
        self.branch = self.turn = None
        newest = await self.newest()
        if newest is not None:
            self.turn = newest["turn"]
        if not self.wished:
            self.model = (newest or {}).get("model") or await self._usual() or self.model

    async def newest(self) -> Mapping[str, Any] | None:
        """The session's newest turn, if it has one."""
        if self.known is None:
            return None
        items = (await self.proxy.get(f"{self.known}/turns", limit=1))["items"]
        return items[0] if items else None

    async def listed_models(self) -> list[str]:
        """The models that the proxy lists."""
        data = (await self.proxy.get("/v1/models")).get("data") or ()
        return [model["id"] for model in data if isinstance(model, Mapping) and isinstance(model.get("id"), str)]

    async def say(self, text: str) -> None:
        """Sends a message, shows its answer and where it stands. Raises Failed; stopping it leaves the block, which
        closes the connection."""
        self.said = self.promised = None
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "stream": True}
        headers = {"X-Session-Id": self.session}
        if self.model is not None:
            body["model"] = self.model
        if self.branch is not None:
            headers["X-Session-Branch"] = str(self.branch)
        self.screen.gap()
        shown = self.screen.answer()
        try:
            facts = await self._answered(body, headers, shown)
        finally:
            shown.end()
        self._kept()
        self._after(facts)

    async def _answered(self, body: object, headers: Mapping[str, str], shown: Answer) -> Mapping[str, str]:
        """The headers of the answer, once it is complete."""
        async with self.proxy.stream("/v1/chat/completions", body, headers) as answer:
            facts = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
            if facts.get("x-session-uuid"):
                self.known = session_path(facts["x-session-uuid"])
            if facts.get("x-session-turn", "").isdigit():
                self.promised = int(facts["x-session-turn"])
            self.said = said = Said()
            async for payloads in self.proxy.events(answer):
                shown.add([piece for payload in payloads for piece in said.take(payload)])
                if said.done or said.problem:
                    break
        if said.problem is None and not said.done:
            said.problem = "the proxy closed it before its end"
        if said.problem is not None:
            raise Failed(0, problems.broken(said.problem))
        return facts

    def _kept(self) -> None:
        self.turn = self.promised or self.turn
        self.branch = None  # it is the current one now

    def _after(self, facts: Mapping[str, str]) -> None:
        said = self.said
        for call in said.wanted() if said else ():
            self.screen.note(f"the model asks for {call}; this chat runs no tools, so go on without")
        if said and said.finish in ENDINGS:
            self.screen.note(ENDINGS[said.finish], style="yellow")
        if facts.get("x-session-error"):
            self.screen.note(f"a part failed: {one_line(facts['x-session-error'])}", style="yellow")
        self.screen.gap()
        self.screen.note(told.status(facts))

    async def stopped(self) -> None:
        """Says what became of an answer that the user stopped."""
        if self.said is None:
            self.screen.note("stopped; nothing was said, so nothing is kept", style="yellow")
            return
        limit = SETTLED_S if self.said.characters else SETTLED_S / 4
        stored = await self._stored(limit)
        if stored is None:
            self.screen.note("stopped; nothing of it is kept so far", style="yellow")
        else:
            self._kept()
            self.screen.note(f"stopped; what was said is kept (turn {self.turn}, {stored})", style="yellow")

    async def _stored(self, limit: float) -> str | None:
        """The status of the turn that was stopped, once it is in the store."""
        for _ in range(int(limit / LOOK_S)):
            try:
                newest = await self.newest()
            except Failed:
                newest = None  # a session whose first turn it was is not there before it is stored
            if newest is not None and newest["turn"] == self.promised:
                return str(newest["status"])
            await asyncio.sleep(LOOK_S)
        return None

    async def _path(self, name: str) -> str | None:
        """Where the Sessions API has a session of that name or id."""
        found = (await self.proxy.get("/sessions", name=name, limit=1))["items"]
        if found:
            return session_path(found[0]["id"])
        if "/" in name:
            return None
        try:
            return session_path((await self.proxy.get(session_path(name)))["id"])
        except Failed as exc:
            if exc.status == 404:
                return None
            raise

    async def _unused(self) -> str:
        while await self._path(name := names.made(secrets.choice)) is not None:
            pass
        return name

    async def _usual(self) -> str | None:
        """The model that the proxy takes where a request names none, else the first one for chats that it lists."""
        asked = {"messages": [{"role": "user", "content": "?"}]}
        try:
            shown = await self.proxy.post(
                "/v1/chat/completions?preview=true", asked, headers={"X-Session-Id": self.session}
            )
            if isinstance(shown["body"].get("model"), str):
                return shown["body"]["model"]
            listed = await self.listed_models()
        except Failed:
            return None  # a model server that does not answer now: the first message tells
        return next(iter(chat_models.chatting(listed)), None)
