"""S4, the page about chat: with the julep package, and its extra_body where it does not take what the page writes."""

import json
import uuid
from typing import Any

from tests.acceptance.asking import received, result, user
from tests.acceptance.seeds.world import World
from tests.scripted import calls, says

OPTIONS = {
    "mode": "hybrid", "num_search_messages": 4, "max_query_length": 1000, "alpha": 0.7, "confidence": 0.6, "limit": 10,
    "lang": "en-US", "metadata_filter": {}, "mmr_strength": 0,
}  # fmt: skip
WEATHER: Any = {"name": "get_weather", "type": "integration", "integration": {"provider": "weather"}}
CLOCK: Any = {"name": "clock", "type": "function", "function": {"parameters": {"type": "object", "properties": {}}}}


async def create(w: World) -> None:
    for recall in (True, False):
        given = {"agent": w.agent, "user": w.user, "recall_options": OPTIONS, "extra_body": {"recall": recall}}
        assert await w.sdk.status("sessions.create", **given) == 201
        made = (await w.sdk("sessions.create", **given)).to_dict()
        assert made["recall_options"].items() >= OPTIONS.items()
        await w.sdk("agents.docs.create", agent_id=w.agent, title=f"{recall}", content="Julep is a drink.")
        answer = await w.sdk.say(made["id"], "Tell me about Julep")
        assert bool(answer.docs) is recall


async def chat_with_recall(w: World) -> None:
    about = (await w.sdk("agents.docs.create", agent_id=w.agent, title="Julep", content="Julep is a drink.")).id
    liked = (await w.sdk("users.docs.create", user_id=w.user, title="Bob", content="Bob likes Julep.")).id
    given = {"session_id": w.session, "messages": [user("Tell me about Julep")], "recall": True}
    answer = await w.sdk("sessions.chat", **given)
    assert answer.choices[0].message.content.endswith("Tell me about Julep")
    assert {doc.id for doc in answer.docs} == {about, liked}


async def chat_with_metadata(w: World) -> None:
    template = "{{metadata.language}}, {{metadata.expertise_level}}. {{metadata.custom_instructions}}"
    session = await w.sdk.session(w.agent, system_template=template)
    metadata = {"language": "Spanish", "expertise_level": "beginner", "custom_instructions": "Use simple examples"}
    await w.sdk("sessions.chat", session_id=session, messages=[user("Help me with Python")], metadata=metadata)
    assert w.sent["messages"][0]["content"] == "Spanish, beginner. Use simple examples"
    await w.sdk("sessions.chat", session_id=session, messages=[user("Help me with Python")])
    assert w.sent["messages"][0]["content"] == ", . "


async def chat_with_response_format_and_settings(w: World) -> None:
    w.sdk.up.play(says('{"sentiment": "positive"}'))
    answer = await w.sdk(
        "sessions.chat",
        session_id=w.session,
        messages=[user("Analyze the sentiment of: 'I love using Julep, it makes AI development so much easier!'")],
        response_format={"type": "json_object"},
        extra_body={"settings": {"temperature": 0.3}},
    )
    assert json.loads(answer.choices[0].message.content) == {"sentiment": "positive"}
    assert (w.sent["response_format"], w.sent["temperature"]) == ({"type": "json_object"}, 0.3)
    assert "settings" not in w.sent


async def create_agent_with_tools(w: World) -> None:
    given = {"name": "Weather Assistant", "extra_body": {"tools": [WEATHER]}}
    assert await w.sdk.status("agents.create", **given) == 201
    agent = (await w.sdk("agents.create", **given)).id
    (tool,) = (await w.sdk("agents.tools.list", agent)).items
    assert (tool.name, tool.type, tool.integration.provider) == ("get_weather", "integration", "weather")


async def chat_with_auto_run_tools(w: World) -> None:
    """Nothing runs tools in this version: with auto_run_tools as without it the calls go to the client."""
    agent = await w.sdk.agent("Weather Assistant", extra_body={"tools": [WEATHER]})
    session = await w.sdk.session(agent)
    w.sdk.up.play(calls("get_weather", {"city": "Tokyo"}))
    asked = [user("What's the weather like in Tokyo and Paris?")]
    assert await w.sdk.status("sessions.chat", session, messages=asked, auto_run_tools=True) == 201
    answer = await w.sdk("sessions.chat", session_id=session, messages=asked, auto_run_tools=True)
    assert [tool["function"]["name"] for tool in w.sent["tools"]] == ["get_weather"]
    assert "auto_run_tools" not in w.sent
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)


async def chat_without_auto_run_tools(w: World) -> None:
    """The call comes back, the application runs it and sends its result in a follow-up message."""
    await w.sdk("agents.tools.create", agent_id=w.agent, **CLOCK)
    w.sdk.up.play([calls("clock", {"zone": "utc"}), says("It is noon.")])
    (choice,) = (await w.sdk("sessions.chat", session_id=w.session, messages=[user("Time?")])).choices
    (made,) = choice.message.tool_calls
    assert (choice.finish_reason, made.id, made.function.name) == ("tool_calls", "call_1", "clock")
    answer = await w.sdk("sessions.chat", session_id=w.session, messages=[result("12:00", made.id)])
    assert answer.choices[0].message.content == "It is noon."


async def chat_in_a_session_of_several_agents(w: World) -> None:
    eve = await w.sdk.agent("Eve")
    session = await w.sdk.session(agents=[w.agent, eve])
    answer = await w.sdk("sessions.chat", session_id=session, messages=[user("hi")], agent=eve)
    assert answer.choices[0].message.name == "Eve"
    assert w.sent["messages"][0]["content"] == "You are Eve."


async def chat_with_tools_and_choice(w: World) -> None:
    choice = {"function": {"name": "clock"}}
    await w.sdk("sessions.chat", session_id=w.session, messages=[user("hi")], tools=[CLOCK], tool_choice=choice)
    assert [tool["function"]["name"] for tool in w.sent["tools"]] == ["clock"]
    assert w.sent["tool_choice"] == {"type": "function", **choice}


async def chat_with_every_parameter(w: World) -> None:
    """The table of additional parameters: those of the model go to it, the others are ours."""
    model: dict[str, Any] = {
        "stop": ["1", "2", "3", "4"], "seed": 1, "max_tokens": 9, "logit_bias": {"1": -1.0}, "temperature": 2.0,
        "response_format": {"type": "json_object"}, "repetition_penalty": 2.0, "length_penalty": 2.0, "min_p": 1.0,
        "frequency_penalty": -2.0, "presence_penalty": 2.0, "top_p": 1.0, "model": "another",
    }  # fmt: skip
    ours: dict[str, Any] = {
        "stream": False, "agent": w.agent, "recall": True, "save": True, "remember": False, "metadata": {"a": 1},
        "auto_run_tools": False, "recall_tools": True,
    }  # fmt: skip
    body = {"messages": [user("hi")], **model, **ours}
    await w.http(201, "POST", f"/sessions/{w.session}/chat", body)
    assert {key: value for key, value in w.sent.items() if key != "messages"} == model


async def chat_as_a_stream(w: World) -> None:
    chunks = await w.sdk.every("sessions.chat", session_id=w.session, messages=[user("one two")], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "echo: one two"


async def chat_without_save(w: World) -> None:
    await w.sdk("sessions.chat", session_id=w.session, messages=[user("hi")], save=False)
    assert await w.sdk.told(w.session) == []


async def chat_with_recall_tools(w: World) -> None:
    w.sdk.up.play([calls("clock", {}), says("noon"), says("fine")])
    await w.sdk("sessions.chat", session_id=w.session, messages=[user("time?")], tools=[CLOCK])
    await w.sdk("sessions.chat", session_id=w.session, messages=[result("12:00")])
    spoken = ["user: time?", "assistant: clock({})", "tool call_1: 12:00", "assistant: noon", "user: so?"]
    for recall_tools, sent in ((True, spoken), (False, [spoken[0], *spoken[3:]])):
        given = {"messages": [user("so?")], "recall_tools": recall_tools, "save": False}
        await w.sdk("sessions.chat", session_id=w.session, **given)
        assert received(w.sdk.up.requests[-1])[1:] == sent


async def response_fields(w: World) -> None:
    answer = await w.http(201, "POST", f"/sessions/{w.session}/chat", {"messages": [user("hi")]})
    assert set(answer) == {"id", "choices", "created_at", "docs", "jobs", "usage"}
    (choice,) = answer["choices"]
    assert set(choice["message"]) == {"role", "id", "content", "created_at", "name", "tool_call_id", "tool_calls"}
    assert (choice["message"]["role"], choice["message"]["content"]) == ("assistant", "echo: hi")
    assert (answer["docs"], answer["jobs"], set(answer["usage"])) == (
        [], [], {"prompt_tokens", "completion_tokens", "total_tokens"},
    )  # fmt: skip
    for id in (answer["id"], choice["message"]["id"]):
        assert str(uuid.UUID(id)) == id


async def finish_reasons(w: World) -> None:
    for reason in ("stop", "length", "content_filter"):
        w.sdk.up.play(says("x", finish=reason))
        assert (await w.sdk.say(w.session, "hi")).choices[0].finish_reason == reason
    w.sdk.up.play(calls("clock", {}))
    assert (await w.sdk.say(w.session, "hi", tools=[CLOCK])).choices[0].finish_reason == "tool_calls"
