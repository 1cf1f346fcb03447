"""The official julep package, unchanged: one way to call it in tests, be its client the sync or the async one.

    agent = await sdk("agents.create", name="Ada")
    assert await sdk.every("agents.list", limit=2) == [agent]

Fixtures, for the conftest.py of a package.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import anyio.to_thread
import pytest
from julep import AsyncJulep, DefaultAsyncHttpxClient, DefaultHttpxClient, Julep

from tests.acceptance.asking import MODEL, Proxied, user
from tests.acceptance.stage import Stage
from tests.scripted import ScriptedUpstream, Step, echoes


@dataclass(frozen=True)
class Sdk:
    """A client of one tenant, the model server behind it, and a view into its store."""

    up: ScriptedUpstream
    proxied: Proxied
    client: Julep | AsyncJulep

    async def __call__(self, method: str, *args: Any, **given: Any) -> Any:
        """What a method answers, e.g. "agents.docs.create"; a list is its first page."""
        return await self._run(lambda made: made, method, *args, **given)

    async def every(self, method: str, *args: Any, **given: Any) -> list[Any]:
        """All that a list or a stream gives when it is iterated."""
        return await self._run(list, method, *args, **given)

    async def status(self, method: str, *args: Any, **given: Any) -> int:
        """The status of a method's answer."""
        resource, _, name = method.rpartition(".")
        raw = await self._run(lambda made: made, f"{resource}.with_raw_response.{name}", *args, **given)
        return raw.status_code

    async def _run(self, each: Callable[[Any], Any], method: str, *args: Any, **given: Any) -> Any:
        call = partial(attrgetter(method)(self.client), *args, **given)
        if isinstance(self.client, Julep):
            return await anyio.to_thread.run_sync(lambda: each(call()))
        made = call() if method.endswith(".list") and each is list else await call()
        return [item async for item in made] if each is list else made

    # --- what most tests begin with ---

    async def agent(self, name: str = "Ada", **given: Any) -> str:
        """The id of a new agent."""
        return (await self("agents.create", **{"name": name, "model": MODEL, **given})).id

    async def session(self, agent: str | None = None, **given: Any) -> str:
        """The id of a new session, of a new agent if none is named."""
        participants = {} if "agents" in given else {"agent": agent or await self.agent()}
        return (await self("sessions.create", **participants, **given)).id

    async def say(self, session: str, *messages: str | dict[str, Any], **given: Any) -> Any:
        """The answer to a chat request; a text stands for a user message."""
        said = [user(one) if isinstance(one, str) else one for one in messages]
        return await self("sessions.chat", session, messages=said, **given)

    async def hear(self, session: str, *messages: str | dict[str, Any], **given: Any) -> list[Any]:
        """The chunks of a streamed answer."""
        said = [user(one) if isinstance(one, str) else one for one in messages]
        return await self.every("sessions.chat", session, messages=said, stream=True, **given)

    async def told(self, session: str) -> list[str]:
        """The history in lines: "user: hi", "assistant Ada: clock({})"."""
        return [line(entry) for entry in (await self("sessions.history", session)).entries]


def root(proxied: Proxied) -> str:
    """The address without a path."""
    return proxied.url.removesuffix("/v1")


def line(entry: Any) -> str:
    """An entry of the history in one line."""
    said = " ".join(part.text for part in entry.content)
    made = [f"{call.function.name}({call.function.arguments})" for call in entry.tool_calls or ()]
    name = f" {entry.name}" if entry.name else ""
    return f"{entry.role}{name}: {' '.join(filter(None, [said, *made]))}"


def text_of(chunks: list[Any]) -> str:
    """What a streamed answer says."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


Play = Callable[..., Awaitable[Sdk]]


@pytest.fixture(params=["sync", "async"])
async def play(request: pytest.FixtureRequest, stage: Stage) -> AsyncGenerator[Play]:
    """`sdk = await play(step, step, sessions={...})`: a client before a model server that plays these steps. The sync
    one calls under /, the async one under /api."""
    async with AsyncExitStack() as stack:

        async def opened(*script: Step, **settings: Any) -> Sdk:
            up, proxied = await stage(*script, **settings)
            return await stack.enter_async_context(connected(up, proxied, request.param))

        yield opened


@pytest.fixture
async def sdk(play: Play) -> Sdk:
    """A client before a model that echoes."""
    return await play(echoes())


@asynccontextmanager
async def connected(up: ScriptedUpstream, proxied: Proxied, kind: str = "async", **options: Any) -> AsyncGenerator[Sdk]:
    """A client until the block ends."""
    given: dict[str, Any] = {"api_key": proxied.key or "any", "max_retries": 0, **options}
    if "http_client" not in given:  # reading the world's certificates would take longer than most tests
        http = DefaultHttpxClient if kind == "sync" else DefaultAsyncHttpxClient
        given["http_client"] = http(verify=False)
    if kind == "sync":
        with Julep(base_url=root(proxied), **given) as sync:
            yield Sdk(up, proxied, sync)
    else:
        async with AsyncJulep(base_url=f"{root(proxied)}/api", **given) as other:
            yield Sdk(up, proxied, other)
