"""The julep SDK, unchanged: sessions of several agents. Each answers as itself: model, settings, tools, documents."""

import uuid
from typing import Any

import julep
import pytest

from tests.acceptance.asking import received, result
from tests.acceptance.julep_client import Play, Sdk, text_of
from tests.scripted import calls, says

pytestmark = pytest.mark.anyio

STREAMS = pytest.mark.parametrize("stream", [False, True])


def tool(name: str) -> Any:
    return {"name": name, "type": "function", "function": {"parameters": {"type": "object", "properties": {}}}}


async def pair(sdk: Sdk) -> tuple[str, str]:
    """Two agents that have nothing in common."""
    ada = await sdk.agent("Ada", model="ada-model", about="a poet", default_settings={"temperature": 0.1})
    eve = await sdk.agent("Eve Online", model="eve-model", about="a pilot", default_settings={"top_p": 0.2})
    for agent, name, fact in ((ada, "rhyme", "tea rhymes with sea"), (eve, "fly", "tea is served on board")):
        await sdk("agents.tools.create", agent_id=agent, **tool(name))
        await sdk("agents.docs.create", agent_id=agent, title=name, content=fact)
    return ada, eve


async def answer(sdk: Sdk, session: str, stream: bool, **given: Any) -> tuple[str | None, str]:
    """Who answered, and what."""
    if stream:
        chunks = await sdk.hear(session, "tea?", **given)
        (name,) = {chunk.choices[0].delta.name for chunk in chunks}
        return name, text_of(chunks)
    message = (await sdk.say(session, "tea?", **given)).choices[0].message
    return message.name, message.content


@STREAMS
async def test_the_agent_that_is_named_answers_as_itself(play: Play, stream: bool) -> None:
    sdk = await play(says("yes"))
    ada, eve = await pair(sdk)
    session = await sdk.session(agents=[ada, eve])
    for agent, about, model, setting, name, fact in (
        (None, "You are Ada. About you: a poet.", "ada-model", ("temperature", 0.1), "Ada", "sea"),
        (eve, "You are Eve Online. About you: a pilot.", "eve-model", ("top_p", 0.2), "Eve_Online", "on board"),
        (ada, "You are Ada. About you: a poet.", "ada-model", ("temperature", 0.1), "Ada", "sea"),
    ):
        assert await answer(sdk, session, stream, **({"agent": agent} if agent else {})) == (name, "yes")
        sent = sdk.up.requests[-1].json
        assert (sent["messages"][0]["content"], sent["model"]) == (about, model)
        assert {key: sent[key] for key in ("temperature", "top_p") if key in sent} == dict([setting])
        assert [one["function"]["name"] for one in sent["tools"]] == ["rhyme" if name == "Ada" else "fly"]
        assert fact in sent["messages"][-1]["content"]
        assert sent["messages"][-1]["content"].count("tea ") == 1
    names = [message.get("name") for message in sent["messages"] if message["role"] == "assistant"]
    assert names == ["Ada", "Eve_Online"]
    assert await sdk.told(session) == [
        "user: tea?", "assistant Ada: yes", "user: tea?", "assistant Eve_Online: yes", "user: tea?",
        "assistant Ada: yes",
    ]  # fmt: skip


async def test_two_agents_and_no_user_talk(sdk: Sdk) -> None:
    ada, eve = await sdk.agent("Ada"), await sdk.agent("Eve")
    for given in ({}, {"user": (await sdk("users.create", name="Bob")).id}):
        session = await sdk.session(agents=[ada, eve], **given)
        for agent, name in ((eve, "Eve"), (ada, "Ada")):
            assert (await sdk.say(session, "hi", agent=agent)).choices[0].message.name == name


async def test_one_agent_alone_signs_nothing(sdk: Sdk) -> None:
    session = await sdk.session()
    assert await answer(sdk, session, False) == (None, "echo: tea?")
    assert await answer(sdk, session, True) == (None, "echo: tea?")
    assert sdk.up.requests[-1].json["messages"][-2] == {"role": "assistant", "content": "echo: tea?"}


async def test_the_other_agents_turn_continues_where_the_first_one_left_a_call(play: Play) -> None:
    sdk = await play(calls("rhyme", {}), says("sea"), says("sky"))
    ada, eve = await pair(sdk)
    session = await sdk.session(agents=[ada, eve])
    await sdk.say(session, "one", agent=ada, recall=False)
    await sdk.say(session, result("sea"), agent=ada, recall=False)
    await sdk.say(session, "two", agent=eve, recall=False)
    heard = ["user: one", "assistant: rhyme({})", "tool call_1: sea", "assistant: sea", "user: two"]
    assert received(sdk.up.requests[-1])[1:] == heard
    told = await sdk.told(session)
    assert told[1::2] == ["assistant Ada: rhyme({})", "assistant Ada: sea", "assistant Eve_Online: sky"]


async def test_an_agent_that_takes_no_part_is_a_bad_request(sdk: Sdk) -> None:
    session, stranger = await sdk.session(), await sdk.agent("Eve")
    for agent in (stranger, str(uuid.uuid4())):
        with pytest.raises(julep.BadRequestError, match="takes no part in this session") as caught:
            await sdk.say(session, "hi", agent=agent)
        error: Any = caught.value.body
        assert error["error"]["code"] == "agent_not_in_session"
    await sdk("sessions.create_or_update", session, agent=stranger)
    assert (await sdk.say(session, "hi", agent=stranger)).choices[0].message.name == "Eve"


async def test_an_agent_that_is_deleted_leaves_the_others_to_answer(sdk: Sdk) -> None:
    ada, eve = await sdk.agent("Ada"), await sdk.agent("Eve")
    session = await sdk.session(agents=[ada, eve])
    await sdk.say(session, "one")
    await sdk("agents.delete", ada)
    assert (await sdk("sessions.get", session)).to_dict()["agents"] == [eve]
    await sdk.say(session, "two")
    assert received(sdk.up.requests[-1])[0] == "system: You are Eve."
    assert (await sdk.told(session))[:2] == ["user: one", "assistant Ada: echo: one"]


async def test_a_template_knows_all_agents_and_who_speaks(sdk: Sdk) -> None:
    ada, eve = await sdk.agent("Ada"), await sdk.agent("Eve")
    template = "{{current_agent.name}} of {% for a in agents %}{{a.name}} {% endfor %}"
    session = await sdk.session(agents=[ada, eve], system_template=template)
    for agent, name in ((ada, "Ada"), (eve, "Eve")):
        await sdk.say(session, "hi", agent=agent)
        assert sdk.up.requests[-1].json["messages"][0]["content"] == f"{name} of Ada Eve "
