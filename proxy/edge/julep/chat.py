"""POST /sessions/{id}/chat: a turn through the same turn.run as /v1. POST /sessions/{id}/render: what it would send."""

from typing import Any

import msgspec

from proxy import turn as turns
from proxy.edge.head import head
from proxy.edge.julep import chat_shapes as shapes
from proxy.edge.julep.answering import translated
from proxy.edge.julep.asking import turn_of
from proxy.edge.julep.docs import references
from proxy.edge.operation import Answering, Ask
from proxy.events import Client
from proxy.preview import preview

CREATED = 201
STREAMED = 200


async def chat(ask: Ask) -> Answering:
    """Send messages and get the model's answer: JSON with status 201, or server-sent events when `stream` is true."""
    turn = turn_of(ask)
    client = Client(may_leave=ask.svc.config.sessions.on_disconnect == "finish")
    status = STREAMED if turn.stream else CREATED
    facts: dict[str, object] = {}
    events = translated(turn, turns.run(ask.svc, turn, client))
    return Answering(events, client, lambda begin: head(turn, begin, facts, status), facts)


async def render(ask: Ask) -> shapes.Rendered:
    """Show what a chat request would send, without sending or storing it."""
    asked = turn_of(ask)
    composed, ledger = await preview(ask.svc, asked)
    sent: dict[str, Any] = msgspec.json.decode(composed.body)
    return shapes.Rendered(
        messages=sent["messages"],
        tools=sent.get("tools") or [],
        tool_choice=sent.get("tool_choice"),
        docs=references(composed.recalled.hits),
        body=sent,
        ledger=ledger,
    )
