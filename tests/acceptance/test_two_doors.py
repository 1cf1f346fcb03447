"""One session, two doors: what is set through the Sessions API applies to /v1, and the other way round."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.scripted import Recorded, ScriptedUpstream, Step, calls, echoes, says, scripted_upstream
from tests.serving import Running, proxy

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


class Doors:
    """A proxy with both of its doors."""

    def __init__(self, up: ScriptedUpstream, running: Running, http: aiohttp.ClientSession) -> None:
        self.up = up
        self.running = running
        self.http = http
        self.base = running.url.removesuffix("/v1")

    async def api(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        """The Sessions API."""
        async with self.http.request(method, self.base + path, json=body) as answer:
            value = await answer.json()
            assert status is None or answer.status == status, (answer.status, value)
            return value

    async def v1(self, name: str, text: str, **fields: Any) -> aiohttp.ClientResponse:
        """The other door."""
        body = {"messages": [{"role": "user", "content": text}], **fields}
        headers = {"X-Session-Id": name}
        answer = await self.http.post(f"{self.running.url}/chat/completions", json=body, headers=headers)
        await answer.read()
        return answer

    async def chat(self, session: str, text: str, **fields: Any) -> Json:
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return await self.api("POST", f"/sessions/{session}/chat", body, 201)

    async def agent(self, **fields: Any) -> Json:
        return await self.api("POST", "/agents", {"name": "Ada", "model": "m", **fields}, 201)

    async def session(self, **fields: Any) -> Json:
        return await self.api("POST", "/sessions", fields, 201)

    @property
    def asked(self) -> list[Recorded]:
        """The turns that went upstream."""
        return [request for request in self.up.requests if request.method == "POST"]

    @property
    def sent(self) -> Json:
        """What went upstream last."""
        return self.asked[-1].json

    @property
    def texts(self) -> list[str]:
        return [message["content"] for message in self.sent["messages"]]


@asynccontextmanager
async def doors(folder: Path, *script: Step, **settings: Any) -> AsyncGenerator[Doors]:
    async with (
        scripted_upstream(script or echoes()) as up,
        proxy(up.url, folder, **settings) as running,
        aiohttp.ClientSession() as http,
    ):
        yield Doors(up, running, http)


async def test_a_session_of_the_sessions_api_goes_on_under_its_id_on_v1(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        agent = await d.agent(instructions="Be brief.", default_settings={"temperature": 0.25})
        session = await d.session(agent=agent["id"], situation="refund", token_budget=500)
        await d.chat(session["id"], "one")
        answer = await d.v1(session["id"], "two")
        assert d.texts == ["You are Ada.\n\nSituation: refund\n\nInstructions:\n- Be brief.", "one", "echo: one", "two"]
        assert (d.sent["temperature"], d.sent["model"]) == (0.25, "m")
        assert answer.headers["x-session-uuid"] == session["id"]
        assert answer.headers["x-session-turn"] == "2"
        assert "budget=500" in answer.headers["x-context-tokens"]


async def test_a_session_made_on_v1_has_all_of_the_sessions_api_under_its_name(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        await d.v1("my chat/1", "one", model="m")
        shown = await d.api("GET", "/sessions/my%20chat%2F1", None, 200)
        assert shown["name"] == "my chat/1"
        assert [item["content"] for item in (await d.api("GET", f"/sessions/{shown['id']}/messages"))["items"]] == [
            "one",
            "echo: one",
        ]
        await d.api("PATCH", f"/sessions/{shown['id']}", {"system_template": "Speak {{ metadata.language }}."}, 200)
        body = {"id": "my chat/1", "metadata": {"language": "Latin"}}
        await d.v1("my chat/1", "two", model="m", session=body)
        assert d.texts == ["Speak Latin.", "one", "echo: one", "two"]
        await d.chat("my%20chat%2F1", "three", model="m", metadata={"language": "Greek"})
        assert d.texts[0] == "Speak Greek."
        assert d.texts[-1] == "three"


async def test_a_requests_own_system_message_follows_the_sessions(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        agent = await d.agent()
        session = await d.session(agent=agent["id"])
        messages = [{"role": "system", "content": "{{ no template here }}"}, {"role": "user", "content": "hi"}]
        body = {"messages": messages}
        await d.http.post(f"{d.running.url}/chat/completions", json=body, headers={"X-Session-Id": session["id"]})
        assert d.texts == ["You are Ada.", "{{ no template here }}", "hi"]
        await d.chat(session["id"], "again")
        assert d.texts == ["You are Ada.", "{{ no template here }}", "hi", "echo: hi", "again"]


async def test_a_template_knows_who_takes_part_and_what_is_set(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        agent = await d.agent(metadata={"team": "blue"})
        user = await d.api("POST", "/users", {"name": "Bob"}, 201)
        template = (
            "{{ agent.name }} {{ agent.metadata.team }} {{ agents|length }} {{ user.name }} {{ users|length }} "
            "{{ session.situation }} {{ session.metadata.k }} {{ tools[0].name }} {{ settings.model }} {{ metadata.x }}"
        )
        session = await d.session(
            agent=agent["id"], user=user["id"], situation="S", metadata={"k": "v"}, system_template=template
        )
        tool = {"name": "look", "type": "function", "function": {"parameters": {"type": "object"}}}
        await d.api("POST", f"/sessions/{session['id']}/tools", tool, 201)
        await d.chat(session["id"], "{{ agent.name }}", metadata={"x": "M"})
        assert d.texts == ["Ada blue 1 Bob 1 S v look m M", "{{ agent.name }}"]


async def test_documents_stand_before_the_question_or_where_the_template_shows_them(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        agent = await d.agent()
        doc = {"title": "Shipping", "content": "We ship to France on Mondays."}
        await d.api("POST", f"/agents/{agent['id']}/docs", doc, 201)
        session = await d.session(agent=agent["id"])
        answer = await d.chat(session["id"], "When do you ship to France?")
        assert [found["title"] for found in answer["docs"]] == ["Shipping"]
        assert d.texts[0] == "You are Ada."
        assert "We ship to France on Mondays." in d.texts[1]
        assert d.texts[1].endswith("</reference>\n\nWhen do you ship to France?")
        stored = await d.api("GET", f"/sessions/{session['id']}/messages")
        assert stored["items"][0]["content"] == "When do you ship to France?"
        answer = await d.v1(session["id"], "And to France by ship?")
        assert answer.headers["x-context-recalled"] == "1"
        recall = int(answer.headers["x-context-tokens"].split("recall=")[1].split(";")[0])
        assert recall > 0
        template = {"system_template": "{% for doc in docs %}{{ doc.title }}: {{ doc.content[0] }}{% endfor %}"}
        await d.api("PATCH", f"/sessions/{session['id']}", template, 200)
        await d.chat(session["id"], "Do you ship to France?")
        assert (d.texts[0], d.texts[-1]) == ("Shipping: We ship to France on Mondays.", "Do you ship to France?")
        await d.chat(session["id"], "Do you ship to France?", recall=False)
        assert (d.texts[0], d.texts[-1]) == ("When do you ship to France?", "Do you ship to France?")


async def test_recalled_documents_keep_to_their_share_of_the_budget(tmp_path: Path) -> None:
    async with doors(tmp_path, context={"recall_share": 0.5, "recall_max_tokens": 2000}) as d:
        agent = await d.agent()
        for n in range(6):
            doc = {"title": f"Tea {n}", "content": f"Tea number {n}. " + "Leaves are dried. " * 15}
            await d.api("POST", f"/agents/{agent['id']}/docs", doc, 201)
        session = await d.session(agent=agent["id"], token_budget=300)
        body = {"messages": [{"role": "user", "content": "Which tea?"}]}
        shown = await d.api("POST", f"/sessions/{session['id']}/render", body, 200)
        kept = [one for one in shown["ledger"]["segments"] if one["source"] == "recall_doc" and one["kept"]]
        left = [one for one in shown["ledger"]["segments"] if one["source"] == "recall_doc" and not one["kept"]]
        assert kept and left
        assert sum(one["tokens"] for one in kept) <= 150
        assert len(shown["docs"]) == len(kept)
        everything = sum(one["tokens"] for one in shown["ledger"]["segments"] if one["kept"])
        assert everything == shown["ledger"]["total"] <= 300


async def test_documents_give_way_to_a_history_that_may_not_be_cut(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        agent = await d.agent()
        doc = {"title": "Tea", "content": "Tea is dried leaves. " * 20}
        await d.api("POST", f"/agents/{agent['id']}/docs", doc, 201)
        session = await d.session(agent=agent["id"], token_budget=350, context_overflow=None)
        await d.chat(session["id"], "word " * 130)
        answer = await d.chat(session["id"], "Which tea?")
        assert answer["docs"] == []
        assert len(d.texts) == 4


async def test_what_is_rendered_is_what_is_sent(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        agent = await d.agent(default_settings={"top_p": 0.5})
        session = await d.session(agent=agent["id"], system_template="Hi {{ metadata.who }}")
        await d.chat(session["id"], "one")
        body = {"messages": [{"role": "user", "content": "two"}], "metadata": {"who": "Bob"}, "seed": 7}
        rows = "SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM turns), updated_at FROM sessions"
        before = d.running.rows(rows)
        shown = await d.api("POST", f"/sessions/{session['id']}/render", body, 200)
        assert len(d.asked) == 1
        assert d.running.rows(rows) == before
        await d.api("POST", f"/sessions/{session['id']}/chat", body, 201)
        assert shown["body"] == d.sent
        assert shown["messages"] == d.sent["messages"]


async def test_tools_of_a_session_reach_the_model_and_can_be_left_out_of_the_history(tmp_path: Path) -> None:
    script = [calls("look", {"n": 1}), says("It is 1."), echoes(), echoes()]
    async with doors(tmp_path, *script) as d:
        agent = await d.agent()
        session = await d.session(agent=agent["id"])
        parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}
        tool = {"name": "look", "type": "function", "function": {"parameters": parameters}}
        await d.api("POST", f"/sessions/{session['id']}/tools", tool, 201)
        answer = await d.chat(session["id"], "Look!")
        assert d.sent["tools"][0]["function"] == {"name": "look", "parameters": parameters}
        call = answer["choices"][0]["message"]["tool_calls"][0]
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        result = {"role": "tool", "tool_call_id": call["id"], "content": "1"}
        await d.api("POST", f"/sessions/{session['id']}/chat", {"messages": [result]}, 201)
        assert [message["role"] for message in d.sent["messages"]] == ["system", "user", "assistant", "tool"]
        await d.chat(session["id"], "And now?", recall_tools=False)
        assert d.texts == ["You are Ada.", "Look!", "It is 1.", "And now?"]
        await d.chat(session["id"], "Again?")
        roles = [message["role"] for message in d.sent["messages"]]
        assert roles == ["system", "user", "assistant", "tool", "assistant", "user", "assistant", "user"]


async def test_the_agent_that_is_asked_answers_with_its_own_settings_and_under_its_name(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        ada = await d.agent(default_settings={"temperature": 0.1})
        bob = await d.agent(name="Bob <Builder>", model="n", default_settings={"temperature": 0.9})
        session = await d.session(agents=[ada["id"], bob["id"]])
        first = await d.chat(session["id"], "one")
        assert (d.texts[0], d.sent["model"], d.sent["temperature"]) == ("You are Ada.", "m", 0.1)
        second = await d.chat(session["id"], "two", agent=bob["id"])
        assert (d.texts[0], d.sent["model"], d.sent["temperature"]) == ("You are Bob <Builder>.", "n", 0.9)
        names = [answer["choices"][0]["message"]["name"] for answer in (first, second)]
        assert names == ["Ada", "Bob_Builder_"]
        await d.v1(session["id"], "three", session={"id": session["id"], "agent": bob["id"]})
        said = [(message["role"], message.get("name")) for message in d.sent["messages"]]
        assert said == [("system", None), ("user", None), ("assistant", "Ada"), ("user", None),
                        ("assistant", "Bob_Builder_"), ("user", None)]  # fmt: skip
        stranger = await d.agent(name="Eve")
        body = {"messages": [{"role": "user", "content": "x"}], "agent": stranger["id"]}
        refused = await d.api("POST", f"/sessions/{session['id']}/chat", body, 400)
        assert refused["error"]["code"] == "agent_not_in_session"


async def test_messages_can_be_stored_without_a_model_and_forgotten_again(tmp_path: Path) -> None:
    async with doors(tmp_path) as d:
        agent = await d.agent()
        session = await d.session(agent=agent["id"])
        path = f"/sessions/{session['id']}"
        said = {"role": "user", "content": "long ago", "created_at": "2020-01-02T03:04:05Z"}
        stored = await d.api("POST", f"{path}/messages", said, 201)
        assert (stored["content"], stored["created_at"]) == ("long ago", "2020-01-02T03:04:05Z")
        await d.api("POST", f"{path}/messages", {"role": "assistant", "content": "yes"}, 201)
        await d.chat(session["id"], "and now?")
        assert d.texts == ["You are Ada.", "long ago", "yes", "and now?"]
        older = await d.api("GET", f"{path}/history?before=2021-01-01T00:00:00")
        assert [entry["content"][0]["text"] for entry in older["entries"]] == ["long ago"]
        await d.api("DELETE", f"{path}/history", None, 202)
        assert (await d.api("GET", f"{path}/history"))["entries"] == []
        answer = await d.v1(session["id"], "fresh")
        assert d.texts == ["You are Ada.", "fresh"]
        assert answer.headers["x-session-turn"] == "4"


@pytest.mark.parametrize(
    ("template", "said"),
    [("{{ agent.name", "line 1"), ("{% for %}", "line 1"), ("a\n{{ nobody.name }}", "nobody")],
)
async def test_a_bad_template_is_explained_and_stores_nothing(tmp_path: Path, template: str, said: str) -> None:
    async with doors(tmp_path) as d:
        agent = await d.agent()
        body = {"agent": agent["id"], "system_template": template}
        made = await d.api("POST", "/sessions", body)
        if "id" in made:  # it compiles: what is undefined shows when it is rendered
            chat = {"messages": [{"role": "user", "content": "x"}]}
            made = await d.api("POST", f"/sessions/{made['id']}/chat", chat, 400)
        assert made["error"]["code"] == "template_error"
        assert said in made["error"]["message"]
        assert not d.running.rows("SELECT 1 FROM entries")
        assert not d.asked
