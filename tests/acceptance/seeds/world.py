"""What every call of a document begins with: an agent, a user and their session, and two ways to ask."""

import json
from dataclasses import dataclass
from typing import Any

from tests.acceptance.asking import user
from tests.acceptance.julep_client import Sdk, root


@dataclass(frozen=True)
class World:
    """`sdk`: the Python package, before a model that echoes unless `sdk.up.play` says otherwise."""

    sdk: Sdk
    agent: str
    user: str
    session: str

    async def http(self, status: int, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The JSON that a request of the Node package, or of none, is answered with; its status must be `status`."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        url = root(self.sdk.proxied) + path
        async with self.sdk.proxied.http.request(method, url, data=data, params=query, headers=headers) as answer:
            value = await answer.json()
            assert answer.status == status, value
            return value

    async def talk(self, count: int, session: str = "") -> list[str]:
        """So many turns; what the history says then."""
        for n in range(count):
            await self.sdk.say(session or self.session, f"{n}")
        return await self.sdk.told(session or self.session)

    @property
    def sent(self) -> Any:
        """What went upstream last."""
        return self.sdk.up.requests[-1].json


async def world(sdk: Sdk) -> World:
    """A new one."""
    agent = await sdk.agent("Ada", about="a support agent")
    customer = (await sdk("users.create", name="Bob")).id
    return World(sdk, agent, customer, await sdk.session(agent, user=customer))


def said(*lines: dict[str, Any]) -> dict[str, Any]:
    """A chat request's body with these messages."""
    return {"messages": list(lines)}


HELLO = said(user("Hello! Can you help me with my order?"))
