"""What an agent and a session add to a turn: only what the request leaves open."""

import json
from typing import Any

import msgspec
import pytest

from proxy import config
from proxy.profile import filled, schema
from proxy.resources import Agent, AgentFields, Profile, SessionFields, Tool
from proxy.services import Turn
from proxy.types import Options, Scope
from proxy.upstream.route import route

CONFIG = config.load(
    """
upstreams:
  - {name: small, base_url: "http://small.test/v1", api_key: small-key, models: ["small-*"]}
  - {name: large, base_url: "http://large.test/v1", api_key: large-key}
""",
    {},
)


def turn(sessions_api: bool = False, model: str | None = None, **fields: Any) -> Turn:
    target = route(CONFIG, model)
    given = {name: json.dumps(value).encode() for name, value in fields.items()}
    return Turn(
        Scope(1), "s", Options(), "r", given, None, [], model, False, False, 1024, (), target, "", False, b"", 0, 0.0,
        sessions_api=sessions_api,
    )  # fmt: skip


def tool(name: str, **body: Any) -> Tool:
    return Tool(1, name, name, 0, 0, msgspec.json.encode({"type": "function", **body}))


def profile(*tools: Tool, **agent: Any) -> Profile:
    active = Agent(1, "a", AgentFields(name="Ada", **agent))
    return Profile("s", SessionFields(), (active,), (), active, tools, ())


def test_an_agents_settings_fill_what_is_absent() -> None:
    agent = profile(default_settings={"temperature": 0.3, "top_p": 0.5, "stop": None})
    fields = filled(CONFIG, turn(temperature=1, top_p=None), agent).fields
    assert fields == {"temperature": b"1", "top_p": b"0.5"}


@pytest.mark.parametrize(
    ("fields", "reserve"),
    [({}, 50), ({"max_tokens": 9}, 1024), ({"max_completion_tokens": 9}, 1024)],
)
def test_the_agents_limit_of_the_answer_gives_way_to_any_of_the_requests(fields: dict[str, Any], reserve: int) -> None:
    result = filled(CONFIG, turn(**fields), profile(default_settings={"max_tokens": 50}))
    assert result.reserve == reserve
    assert ("max_tokens" in result.fields) == (fields.get("max_completion_tokens") is None)


@pytest.mark.parametrize(
    ("model", "agent", "asked", "key"),
    [
        (None, {"model": "small-1"}, "small-1", b"Bearer small-key"),
        (None, {"model": "small-1", "default_settings": {"model": "big"}}, "big", b"Bearer large-key"),
        ("big", {"model": "small-1"}, "big", None),
        (None, {}, None, None),
    ],
)
def test_the_requests_model_wins_over_the_agents(
    model: str | None, agent: dict[str, Any], asked: str | None, key: bytes | None
) -> None:
    result = filled(CONFIG, turn(model=model), profile(**agent))
    assert result.target.model == asked
    assert dict(result.headers).get(b"authorization") == key


@pytest.mark.parametrize(("sessions_api", "winner"), [(False, "the request's"), (True, "the session's")])
def test_one_tool_of_each_name_goes_up(sessions_api: bool, winner: str) -> None:
    given = [{"type": "function", "function": {"name": "look", "description": "the request's"}},
             {"type": "function", "function": {"name": "other"}}]  # fmt: skip
    stored = tool("look", description="the session's"), tool("book")
    offered = json.loads(filled(CONFIG, turn(sessions_api, tools=given), profile(*stored)).fields["tools"])
    by_name = {one["function"]["name"]: one["function"].get("description") for one in offered}
    assert by_name == {"look": winner, "other": None, "book": None}


def test_a_requests_tools_keep_their_bytes_where_nothing_is_stored() -> None:
    fields = filled(CONFIG, turn(tools=[{"a": 1}]), profile()).fields
    assert fields["tools"] == b'[{"a": 1}]'


PARAMETERS = {"type": "object", "properties": {"id": {"type": "string"}}}


@pytest.mark.parametrize(
    ("body", "function"),
    [
        (
            {"type": "function", "description": "d", "function": {"parameters": PARAMETERS, "strict": True}},
            {"name": "look", "description": "d", "parameters": PARAMETERS, "strict": True},
        ),
        (
            {"type": "api_call", "api_call": {"method": "GET", "url": "https://x.test", "params_schema": PARAMETERS}},
            {"name": "look", "parameters": PARAMETERS},
        ),
        (
            {"type": "integration", "integration": {"provider": "weather"}},
            {"name": "look", "parameters": {"type": "object", "properties": {}}},
        ),
    ],
)
def test_every_kind_of_tool_is_a_function_to_the_model(body: dict[str, Any], function: dict[str, Any]) -> None:
    assert json.loads(schema(tool("look", **body))) == {"type": "function", "function": function}
