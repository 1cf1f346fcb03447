"""The official julep package, unchanged: chat, whole and streamed, with memory, tools, templates and settings."""

import json
import uuid
from pathlib import Path
from typing import Any

import anyio
import httpx
import julep
import pytest

from tests import faults
from tests.acceptance.asking import MODEL, asks_for, call, received, result, served, system, user
from tests.acceptance.julep_client import Play, Sdk, connected, text_of
from tests.acceptance.stage import Stage
from tests.scripted import calls, calls_many, echoes, gated, says, scripted_upstream

pytestmark = pytest.mark.anyio

CLOCK: Any = {"name": "clock", "type": "function", "function": {"parameters": {"type": "object", "properties": {}}}}
OPENAI_CLOCK: Any = {"type": "function", "function": {"name": "clock", **CLOCK["function"]}}


# --- one answer ---


async def test_an_answer_has_all_that_julep_s_has(sdk: Sdk) -> None:
    session = await sdk.session()
    answer = await sdk.say(session, "hi")
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.tool_calls, choice.logprobs) == (0, "stop", None, None)
    message = choice.message
    assert (message.role, message.content, message.name, message.tool_calls) == ("assistant", "echo: hi", None, None)
    assert (answer.jobs, answer.docs) == ([], [])
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 2, 6)
    assert uuid.UUID(answer.id)
    assert uuid.UUID(message.id)
    assert answer.created_at == message.created_at
    assert answer.id != (await sdk.say(session, "hi")).id


async def test_the_next_turn_sees_the_one_before_it(sdk: Sdk) -> None:
    session = await sdk.session(await sdk.agent(about="a guide"))
    for text in ("one", "two"):
        await sdk.say(session, text)
    instructions = "system: You are Ada. About you: a guide."
    assert received(sdk.up.requests[-1]) == [instructions, "user: one", "assistant: echo: one", "user: two"]
    assert await sdk.told(session) == ["user: one", "assistant: echo: one", "user: two", "assistant: echo: two"]


async def test_a_whole_conversation_sent_at_once_is_stored_as_it_is(sdk: Sdk) -> None:
    session = await sdk.session()
    said = [user("one"), {"role": "assistant", "content": "1"}, user("two")]
    await sdk.say(session, *said)
    assert await sdk.told(session) == ["user: one", "assistant: 1", "user: two", "assistant: echo: two"]


async def test_a_conversation_that_is_sent_again_is_stored_once(sdk: Sdk) -> None:
    session = await sdk.session()
    await sdk.say(session, "one")
    await sdk.say(session, "one", {"role": "assistant", "content": "echo: one"}, "two")
    assert await sdk.told(session) == ["user: one", "assistant: echo: one", "user: two", "assistant: echo: two"]
    await sdk.say(session, "two")  # equal, and no retry
    assert len(await sdk.told(session)) == 6


async def test_save_false_answers_with_the_history_and_stores_nothing(sdk: Sdk) -> None:
    session = await sdk.session()
    await sdk.say(session, "one")
    assert (await sdk.say(session, "two", save=False)).choices[0].message.content == "echo: two"
    assert text_of(await sdk.hear(session, "three", save=False)) == "echo: three"
    assert received(sdk.up.requests[-1])[1:] == ["user: one", "assistant: echo: one", "user: three"]
    assert await sdk.told(session) == ["user: one", "assistant: echo: one"]


# --- streams ---


async def test_a_stream_is_iterated_to_its_end(sdk: Sdk) -> None:
    session = await sdk.session()
    for text in ("one", "two"):
        chunks = await sdk.hear(session, text)
        assert text_of(chunks) == f"echo: {text}"
        assert [one.choices[0].finish_reason for one in chunks if one.choices[0].finish_reason] == ["stop"]
        assert {one.choices[0].delta.role for one in chunks} == {"assistant"}
        assert len({(one.id, one.created_at) for one in chunks}) == 1
        assert [one.usage.completion_tokens for one in chunks if one.usage] == [2]
    assert received(sdk.up.requests[-1])[1:] == ["user: one", "assistant: echo: one", "user: two"]
    assert await sdk.told(session) == ["user: one", "assistant: echo: one", "user: two", "assistant: echo: two"]


async def test_ten_streams_at_once_stay_apart(stage: Stage) -> None:
    up, proxied = await stage(echoes())
    heard: dict[int, str] = {}
    async with connected(up, proxied) as sdk:
        agent = await sdk.agent()
        sessions = [await sdk.session(agent) for _ in range(10)]

        async def talk(n: int) -> None:
            for turn in range(3):
                heard[n] = text_of(await sdk.hear(sessions[n], f"{n} of turn {turn}"))

        async with anyio.create_task_group() as group:
            for n in range(10):
                group.start_soon(talk, n)
        assert heard == {n: f"echo: {n} of turn 2" for n in range(10)}
        for n, session in enumerate(sessions):
            spoken = [(f"user: {n} of turn {turn}", f"assistant: echo: {n} of turn {turn}") for turn in range(3)]
            assert await sdk.told(session) == [line for pair in spoken for line in pair]


async def test_turns_of_one_session_run_one_after_the_other(stage: Stage) -> None:
    up, proxied = await stage(echoes())
    async with connected(up, proxied) as sdk:
        session = await sdk.session()
        async with anyio.create_task_group() as group:
            for n in range(5):
                group.start_soon(sdk.hear, session, f"{n}")
        told = await sdk.told(session)
    assert sorted(told[::2]) == [f"user: {n}" for n in range(5)]
    assert told[1::2] == [line.replace("user: ", "assistant: echo: ") for line in told[::2]]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_was_heard_of_a_stream_that_is_left_is_kept(stage: Stage, kind: str) -> None:
    up, proxied = await stage(gated("one two three"), says("four"))
    async with connected(up, proxied, kind) as sdk:
        session = await sdk.session()
        for _ in range(3):  # the role, "one", " two"
            up.gate.release()
        stream = await sdk("sessions.chat", session, messages=[user("count")], stream=True)
        said = await leave_after(stream, " two")
        assert said == ["", "one", " two"]
        with anyio.fail_after(5):
            (asked,) = [request for request in up.requests if request.method == "POST"]
            await asked.left.wait()
        assert (await sdk.say(session, "go on")).choices[0].message.content == "four"
        assert received(up.requests[-1])[1:] == ["user: count", "assistant: one two", "user: go on"]
        entries = (await sdk("sessions.history", session)).entries
    assert [entry.to_dict()["status"] for entry in entries] == ["complete", "incomplete", "complete", "complete"]


async def leave_after(stream: Any, last: str) -> list[str]:
    """What a stream said until it was closed, after the piece `last`."""
    said: list[str] = []

    def listen() -> None:
        for chunk in stream:
            said.append(chunk.choices[0].delta.content)
            if said[-1] == last:
                break
        stream.close()

    if isinstance(stream, julep.Stream):
        await anyio.to_thread.run_sync(listen)
        return said
    async for chunk in stream:
        said.append(chunk.choices[0].delta.content)
        if said[-1] == last:
            break
    await stream.close()
    return said


async def test_a_stream_that_breaks_raises_and_leaves_nothing_behind(play: Play) -> None:
    sdk = await play(faults.cut_mid_stream(3), says("fine"))
    session = await sdk.session()
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await sdk.hear(session, "hi")
    assert await sdk.told(session) == []
    assert text_of(await sdk.hear(session, "hi")) == "fine"
    assert await sdk.told(session) == ["user: hi", "assistant: fine"]


async def test_the_last_chunk_of_a_broken_stream_says_why(stage: Stage) -> None:
    up, proxied = await stage(faults.cut_mid_stream(3))
    async with connected(up, proxied) as sdk:
        session = await sdk.session()
        stream = await sdk("sessions.chat", session, messages=[user("hi")], stream=True)
        heard: list[Any] = []
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            async for chunk in stream:
                heard.append(chunk)
    assert text_of(heard[:-1]) == "one two"
    assert heard[-1].error["code"] == "upstream_broken"


# --- tools ---


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("of", ["request", "agent"])
async def test_tools_make_their_round_trip(play: Play, stream: bool, of: str) -> None:
    sdk = await play(calls("clock", {"zone": "utc"}), says("noon"))
    agent = await sdk.agent()
    tools = {"tools": [CLOCK]} if of == "request" else {}
    if of == "agent":
        await sdk("agents.tools.create", agent_id=agent, **CLOCK)
    session = await sdk.session(agent)
    made = await called(sdk, session, stream, "time?", **tools)
    assert [(one["id"], one["function"]["name"]) for one in made] == [("call_1", "clock")]
    assert json.loads(made[0]["function"]["arguments"]) == {"zone": "utc"}
    assert sdk.up.requests[-1].json["tools"] == [OPENAI_CLOCK]
    answer = await sdk.say(session, result("12:00"), **tools)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("noon", "stop")
    sent = ["user: time?", 'assistant: clock({"zone": "utc"})', "tool call_1: 12:00"]
    assert received(sdk.up.requests[-1])[1:] == sent
    told = await sdk.told(session)
    assert told == ["user: time?", 'assistant: clock({"zone": "utc"})', "tool: 12:00", "assistant: noon"]
    sources = [entry.source for entry in (await sdk("sessions.history", session)).entries]
    assert sources == ["api_request", "tool_request", "tool_response", "api_response"]


async def called(sdk: Sdk, session: str, stream: bool, *said: str, **given: Any) -> list[dict[str, Any]]:
    """The tool calls of an answer; a stream's put together of their pieces."""
    if not stream:
        (choice,) = (await sdk.say(session, *said, **given)).choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert choice.tool_calls == choice.message.tool_calls
        return [one.to_dict() for one in choice.message.tool_calls]
    made: dict[int, dict[str, Any]] = {}
    chunks = await sdk.hear(session, *said, **given)
    for part in (one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or ()):
        known = made.setdefault(part.index, {"id": part.id, "function": {"name": "", "arguments": ""}})
        known["function"]["name"] += part.function.name
        known["function"]["arguments"] += part.function.arguments
    assert [one.choices[0].finish_reason for one in chunks if one.choices[0].finish_reason] == ["tool_calls"]
    return list(made.values())


async def test_results_sent_with_their_calls_are_stored_once(play: Play) -> None:
    sdk = await play(calls_many([("clock", {}, "call_1"), ("clock", {"zone": "cet"}, "call_2")]), says("noon"))
    session = await sdk.session()
    await sdk.say(session, "time?", tools=[CLOCK])
    asked = asks_for(call("clock", {}), call("clock", {"zone": "cet"}, "call_2"))
    await sdk.say(session, "time?", asked, result("12:00"), result("13:00", "call_2"), tools=[CLOCK])
    lines = ["user: time?", 'assistant: clock({}) clock({"zone": "cet"})', "tool: 12:00", "tool: 13:00"]
    assert await sdk.told(session) == [*lines, "assistant: noon"]


async def test_recall_tools_false_leaves_tools_out_of_what_is_sent_but_not_out_of_the_history(play: Play) -> None:
    sdk = await play(calls("clock", {}), says("noon"), says("fine"))
    session = await sdk.session()
    await sdk.say(session, "time?", tools=[CLOCK])
    await sdk.say(session, result("12:00"), tools=[CLOCK])
    await sdk.say(session, "thanks", recall_tools=False)
    assert received(sdk.up.requests[-1])[1:] == ["user: time?", "assistant: noon", "user: thanks"]
    assert len(await sdk.told(session)) == 6


async def test_a_tool_choice_reaches_the_model_in_openai_s_words(sdk: Sdk) -> None:
    session = await sdk.session()
    for given, sent in (
        ("auto", "auto"),
        ("none", "none"),
        ({"function": {"name": "clock"}}, {"type": "function", "function": {"name": "clock"}}),
    ):
        await sdk.say(session, "hi", tools=[CLOCK], tool_choice=given)
        assert sdk.up.requests[-1].json["tool_choice"] == sent


async def test_the_agent_s_tool_wins_over_the_request_s_of_the_same_name(sdk: Sdk) -> None:
    agent = await sdk.agent()
    await sdk("agents.tools.create", agent_id=agent, description="the agent's", **CLOCK)
    other = {**CLOCK, "name": "watch"}
    await sdk.say(await sdk.session(agent), "hi", tools=[{**CLOCK, "description": "the request's"}, other])
    sent = [tool["function"] for tool in sdk.up.requests[-1].json["tools"]]
    assert [(one["name"], one.get("description")) for one in sent] == [("clock", "the agent's"), ("watch", None)]


# --- templates ---


async def test_metadata_fills_the_template_of_a_turn(sdk: Sdk) -> None:
    template = "Speak {{metadata.language or 'English'}} to {{user.name}}; {{session.metadata.shop}}, {{agent.about}}."
    bob = (await sdk("users.create", name="Bob")).id
    session = await sdk.session(
        await sdk.agent(about="a guide"), user=bob, system_template=template, metadata={"shop": "tea"}
    )
    for metadata, spoken in (({"language": "Spanish"}, "Spanish"), (None, "English")):
        given = {"metadata": metadata} if metadata else {}
        await sdk.say(session, "{{ 1 + 1 }} {% if %}", **given)
        assert sdk.up.requests[-1].json["messages"][0] == system(f"Speak {spoken} to Bob; tea, a guide.")
        assert sdk.up.requests[-1].json["messages"][-1] == user("{{ 1 + 1 }} {% if %}")
        assert "metadata" not in sdk.up.requests[-1].json


async def test_the_session_s_template_stands_before_the_agent_s(sdk: Sdk) -> None:
    agent = await sdk.agent(default_system_template="I am {{agent.name}}.")
    for given, shown in (({}, "I am Ada."), ({"system_template": "We are {{agents|length}}."}, "We are 1.")):
        await sdk.say(await sdk.session(agent, **given), "hi")
        assert sdk.up.requests[-1].json["messages"] == [system(shown), user("hi")]


@pytest.mark.parametrize(("renders", "shown"), [(True, "Be Ada."), (False, "Be {{agent.name}}.")])
async def test_a_system_message_is_a_template_unless_the_session_says_no(sdk: Sdk, renders: bool, shown: str) -> None:
    session = await sdk.session(render_templates=renders)
    await sdk.say(session, system("Be {{agent.name}}."), "hi")
    assert received(sdk.up.requests[-1]) == ["system: You are Ada.", f"system: {shown}", "user: hi"]


async def test_a_template_that_cannot_be_rendered_is_a_bad_request(sdk: Sdk) -> None:
    session = await sdk.session(system_template="{{ agent.name.nothing.at.all }}")
    with pytest.raises(julep.BadRequestError, match="line 1"):
        await sdk.say(session, "hi")
    assert await sdk.told(session) == []


# --- settings ---


async def test_parameters_reach_the_model(sdk: Sdk) -> None:
    given = {
        "temperature": 0.1, "top_p": 0.9, "min_p": 0.05, "frequency_penalty": 0.5, "presence_penalty": -0.5,
        "repetition_penalty": 1.1, "length_penalty": 1.2, "max_tokens": 20, "seed": 7, "stop": ["END"],
        "logit_bias": {"50256": -100}, "response_format": {"type": "json_object"},
    }  # fmt: skip
    await sdk.say(await sdk.session(), "hi", recall=True, save=True, connection_pool={}, **given)
    sent = sdk.up.requests[-1].json
    assert sent == {**given, "model": MODEL, "messages": [system("You are Ada."), user("hi")]}


async def test_a_schema_for_the_answer_reaches_the_model(play: Play) -> None:
    sdk = await play(says('{"name": "Bern"}'))
    schema = {"type": "json_schema", "json_schema": {"name": "City", "schema": {"type": "object"}}}
    answer = await sdk.say(await sdk.session(), "capital?", response_format=schema)
    assert json.loads(answer.choices[0].message.content) == {"name": "Bern"}
    assert sdk.up.requests[-1].json["response_format"] == schema


async def test_the_request_s_model_and_settings_win_over_the_agent_s(sdk: Sdk) -> None:
    agent = await sdk.agent(model="agent-model", default_settings={"temperature": 0.3, "top_p": 0.5})
    session = await sdk.session(agent)
    for given, sent in (({}, ("agent-model", 0.3)), ({"model": "other", "temperature": 0.0}, ("other", 0.0))):
        await sdk.say(session, "hi", **given)
        body = sdk.up.requests[-1].json
        assert (body["model"], body["temperature"], body["top_p"]) == (*sent, 0.5)


async def test_a_model_that_nobody_names_is_the_configured_default(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up:
        for folder, models in (("a", {"default": {"model": "big"}}), ("b", {})):
            (tmp_path / folder).mkdir()
            async with served(up, tmp_path / folder, models=models) as proxied, connected(up, proxied) as sdk:
                session = await sdk.session(await sdk.agent(model=""))
                if models:
                    await sdk.say(session, "hi")
                    assert up.requests[-1].json["model"] == "big"
                else:
                    with pytest.raises(julep.BadRequestError, match="names a model"):
                        await sdk.say(session, "hi")
