"""Services by another configuration: what of the old ones is kept, what goes, and which key reaches whom."""

import dataclasses
import gc
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy import app, config
from proxy.config import Config
from proxy.context.tokens import Count
from proxy.edge.application import Edge
from proxy.errors import BadConfig, ProxyError, UpstreamUnreachable
from proxy.types import Scope
from proxy.upstream.client import HttpUpstream
from proxy.upstream.protocol import Call, Headers
from proxy.upstream.route import Target, route, targets
from tests.inprocess import words
from tests.scripted import ScriptedUpstream, gated, says, scripted_upstream, status
from tests.summarizing import Scribe, Stage, numbered, refused, staged
from tests.upstream.asking import ask, ask_stream, client, read, text

pytestmark = pytest.mark.anyio


async def until(done: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not done():
            await anyio.lowlevel.checkpoint()


# --- a client that is retired ---


async def test_a_retired_client_closes_what_rests_and_keeps_nothing_open() -> None:
    async with scripted_upstream(says("hi")) as up, client(up.url, max_connections=2) as http:
        first, second = await http.send(ask()), await http.send(ask())
        await first.aclose()
        http.retire()
        await until(lambda: up.open == 1)
        assert b"hi" in b"".join([data async for data in second])
        await second.aclose()
        await until(lambda: up.open == 0)
        for _ in range(3):
            assert b"hi" in await read(http, ask())  # a request that began before may still send
        await until(lambda: up.open == 0)
        assert up.connections == 5


async def test_a_stream_of_a_retired_client_runs_to_its_end() -> None:
    async with scripted_upstream(gated("one two three")) as up, client(up.url) as http:
        answer = await http.send(ask_stream())
        up.gate.release()
        got = await anext(answer)
        http.retire()
        for _ in range(3):
            up.gate.release()
        got += b"".join([data async for data in answer])
        assert text(got) == "one two three"
        await answer.aclose()
        await until(lambda: up.open == 0)


async def test_who_waits_for_a_connection_of_a_retired_client_gets_it() -> None:
    async with scripted_upstream(says("hi")) as up, client(up.url, max_connections=1) as http:
        held = await http.send(ask())
        waiting: list[bytes] = []

        async def wait() -> None:
            waiting.append(await read(http, ask()))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            http.retire()
            await held.aclose()
        assert b"hi" in waiting[0]
        assert up.connections == 1
        await until(lambda: up.open == 0)


async def test_a_retired_client_is_closed_like_any_other() -> None:
    async with scripted_upstream(gated("one")) as up, client(up.url) as http:
        answer = await http.send(ask_stream())
        http.retire()
        await http.aclose()
        with pytest.raises(UpstreamUnreachable, match="shutting down"):
            await anext(answer)
        with pytest.raises(UpstreamUnreachable):
            await http.send(ask())


# --- the services ---


def settled(folder: Path, *urls: str, **changes: Any) -> Config:
    """Upstreams a, b, ... at these addresses; `changes` are those of a."""
    given = [{"name": "ab"[n], "base_url": url, **(changes if n == 0 else {})} for n, url in enumerate(urls)]
    return config.load(
        f"{{upstreams: {given}, storage: {{url: 'sqlite:///{folder}/s.db'}}, telemetry: {{log_level: error}}}}", {}
    )


@asynccontextmanager
async def opened(config: Config) -> AsyncGenerator[Edge]:
    async def counter() -> Count:
        return words

    async with app.opened(config, counter=counter) as edge:
        yield edge


def held(edge: Edge, name: str) -> HttpUpstream:
    found = edge.svc.upstreams[name]
    assert isinstance(found, HttpUpstream)
    return found


@asynccontextmanager
async def two() -> AsyncGenerator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    models = [{"id": "m", "max_model_len": 100}]
    async with scripted_upstream(says("a"), models) as a, scripted_upstream(says("b"), models) as b:
        yield a, b


async def test_what_has_not_changed_is_kept(tmp_path: Path) -> None:
    async with two() as (a, b), opened(settled(tmp_path, a.url, b.url)) as edge:
        first, second = targets(edge.svc.config, "m")
        before = edge.svc
        for target in (first, second):
            await before.context_of(target, ())
            for _ in range(5):
                with pytest.raises(UpstreamUnreachable), before.breakers.trial(target, own_key=True):
                    raise UpstreamUnreachable("down")
        edge.reload(settled(tmp_path, a.url, b.url, retries=1))
        after = edge.svc
        changed, same = targets(after.config, "m")
        assert after.upstreams["b"] is before.upstreams["b"]
        assert after.upstreams["a"] is not before.upstreams["a"]
        assert (after.breakers.admits(changed), after.breakers.admits(same)) == (True, False)
        assert [await after.context_of(target, ()) for target in (changed, same)] == [100, 100]
        assert (len(a.requests), len(b.requests)) == (2, 1), "only the changed one is asked for its models again"
        assert (after.db, after.queue, after.summaries) == (before.db, before.queue, before.summaries)
        assert before.config.upstreams[0].retries == 2, "what runs keeps what it began with"
        assert edge.plain.state.services is after
        edge.reload(before.config)
        assert edge.svc.breakers.admits(first), "what was known of it went with it"


async def test_requests_that_began_before_say_nothing_of_what_is_there_now(tmp_path: Path) -> None:
    async with two() as (a, b), opened(settled(tmp_path, a.url, b.url)) as edge:
        old = route(edge.svc.config, "m")
        edge.reload(settled(tmp_path, a.url, b.url, api_key="new"))
        for _ in range(5):
            with pytest.raises(UpstreamUnreachable), edge.svc.breakers.trial(old, own_key=True):
                raise UpstreamUnreachable("down")
        assert edge.svc.breakers.admits(route(edge.svc.config, "m"))


async def test_what_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    async with two() as (a, b), opened(settled(tmp_path, a.url, b.url)) as edge:
        await read(held(edge, "b"), ask())
        before, routes = edge.svc, edge.sessions_api
        with pytest.raises(BadConfig, match="base_url of an upstream must be"):
            edge.reload(settled(tmp_path, "http://user@a/v1"))
        assert (edge.svc, edge.sessions_api) == (before, routes)
        await read(held(edge, "b"), ask())
        assert b.connections == 1


async def test_an_embedder_of_an_upstream_follows_it(tmp_path: Path) -> None:
    vectors = status(200, json={"data": [{"index": 0, "embedding": [1.0, 0.0]}]})
    recall = config.Recall(embedder=config.EmbedderConfig("upstream", None, "e"))
    async with scripted_upstream(vectors) as a, scripted_upstream(vectors) as b:
        first, second = (dataclasses.replace(settled(tmp_path, up.url), recall=recall) for up in (a, b))
        async with opened(first) as edge:
            await edge.svc.embedder.embed(["x"], Scope(1), {})
            edge.reload(second)
            await edge.svc.embedder.embed(["x"], Scope(1), {})
        assert (len(a.requests), len(b.requests)) == (1, 1)


async def test_old_clients_are_let_go_and_their_connections_too(tmp_path: Path) -> None:
    async with two() as (a, b), opened(settled(tmp_path, a.url, b.url)) as edge:
        old: list[weakref.ref[object]] = []
        running = await held(edge, "a").send(ask())
        for n in range(20):
            for name in "ab":
                await read(held(edge, name), ask())
            old += [weakref.ref(edge.svc.upstreams["a"]), weakref.ref(edge.sessions_api)]
            edge.reload(settled(tmp_path, a.url, b.url, retries=3 + n))
        await until(lambda: (a.open, b.open) == (1, 1))
        gc.collect()
        assert sum(one() is not None for one in old) == 1, "the one whose answer is still read"
        await running.aclose()
        del running
        await until(lambda: (a.open, b.open) == (0, 1))
        gc.collect()
        assert [one() for one in old] == [None] * len(old)
        assert b.connections == 1


async def test_at_the_end_those_that_are_still_used_are_closed_too(tmp_path: Path) -> None:
    async with scripted_upstream(gated("one")) as up:
        async with opened(settled(tmp_path, up.url)) as edge:
            answer = await held(edge, "a").send(ask_stream())
            edge.reload(settled(tmp_path, up.url, retries=1))
        with pytest.raises(UpstreamUnreachable, match="shutting down"):
            await anext(answer)


# --- summaries ---

OLD = "upstreams: [{name: a, base_url: 'http://a/v1', api_key: sk-old}]"
KEYED = OLD.replace("sk-old", "sk-new")
MOVED = KEYED.replace("http://a", "http://other")
OWN = Scope(1, credential=b"sk-client")


def rewire(stage: Stage, text: str, scribe: Scribe) -> None:
    """As a reload does it."""
    found = config.load(text, {})
    scribe.open.set()
    stage.made.rewire(found, {one.name: scribe for one in found.upstreams}, stage.made.context_of)


def keys(scribe: Scribe) -> list[bytes]:
    return [dict(call.headers)[b"authorization"] for call in scribe.calls]


@pytest.mark.parametrize("text", [KEYED, MOVED])
async def test_a_summary_goes_to_the_upstream_that_is_there_now_with_its_key(tmp_path: Path, text: str) -> None:
    async with staged(tmp_path, OLD) as stage:
        await stage.talk(1)
        wanted = await stage.wanted(2)
        now = Scribe()
        rewire(stage, text, now)
        stage.made.start(wanted)
        await stage.made.settled()
        assert (stage.scribe.calls, keys(now)) == ([], [b"Bearer sk-new"])
        assert await stage.stored() == [(1, 2, "Summary 1.")]


async def test_a_summary_whose_upstream_is_as_before_goes_where_the_turn_went(tmp_path: Path) -> None:
    both = OLD[:-1] + ", {name: b, base_url: 'http://b/v1', models: [m]}]"
    async with staged(tmp_path, both) as stage:
        await stage.talk(1)
        wanted = await stage.wanted(2, target=Target(stage.made.config.upstreams[1], "m", None))
        now = Scribe()
        rewire(stage, both, now)
        stage.made.start(wanted)
        await stage.made.settled()
        assert b"authorization" not in dict(now.calls[0].headers), "b has no key"


async def test_a_summary_of_a_model_that_is_gone_fails(tmp_path: Path) -> None:
    async with staged(tmp_path, OLD) as stage:
        await stage.talk(1)
        wanted = await stage.wanted(2)
        now = Scribe()
        rewire(stage, "upstreams: [{name: a, base_url: 'http://a/v1', models: [other]}]", now)
        stage.made.start(wanted)
        await stage.made.settled()
        assert (stage.scribe.calls, now.calls) == ([], [])
        assert stage.made.failure(await stage.session()) == "model_not_found"


@pytest.mark.parametrize(("text", "sent"), [(KEYED, [b"Bearer sk-client"]), (MOVED, [])])
async def test_a_clients_key_goes_to_no_other_origin(tmp_path: Path, text: str, sent: list[bytes]) -> None:
    async with staged(tmp_path, OLD) as stage:
        await stage.talk(1)
        wanted = await stage.wanted(2, scope=OWN)
        now = Scribe()
        rewire(stage, text, now)
        async with stage.made.during(wanted):
            await stage.made.settled()
        assert keys(now) == sent
        assert stage.scribe.calls == []
        assert stage.made.failure(await stage.session()) == (None if sent else "summary_elsewhere")


async def test_a_clients_key_does_not_go_to_another_vendors_summary_model(tmp_path: Path) -> None:
    both = (
        "upstreams: [{name: a, base_url: 'http://a/v1', models: [m]}, {name: b, base_url: 'http://b/v1'}]\n"
        "context: {summary_model: s}"
    )
    async with staged(tmp_path, both) as stage:
        await stage.talk(1)
        async with stage.made.during(await stage.wanted(2, scope=OWN)):
            await stage.made.settled()
        assert stage.scribe.calls == []


async def test_a_call_that_was_put_together_before_a_reload_goes_where_its_key_belongs(tmp_path: Path) -> None:
    async with staged(tmp_path, OLD) as stage:
        await stage.talk(1)
        wanted, now = await stage.wanted(2), Scribe()

        async def counter() -> Count:
            rewire(stage, MOVED, now)  # the upstream is chosen, the call not yet sent
            return words

        stage.made.counter = counter
        stage.made.start(wanted)
        await stage.made.settled()
        assert (keys(stage.scribe), keys(now)) == ([b"Bearer sk-old"], [])


async def test_a_call_that_is_sent_again_goes_where_it_went_before(tmp_path: Path) -> None:
    async with staged(tmp_path, OLD) as stage:
        await stage.talk(1)
        wanted, now = await stage.wanted(2), Scribe()

        def picky(call: Call, number: int) -> dict[str, Any] | ProxyError:
            if number > 1:
                return numbered(call, number)
            rewire(stage, MOVED, now)
            return refused(400, "Unsupported parameter: use 'max_completion_tokens' instead.")

        stage.scribe.answers = picky
        stage.made.start(wanted)
        await stage.made.settled()
        assert (keys(stage.scribe), keys(now)) == ([b"Bearer sk-old"] * 2, [])
        assert await stage.stored() == [(1, 2, "Summary 2.")]


async def test_the_size_of_a_model_is_asked_of_whom_it_is_for(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def of(label: str) -> Callable[[Target, Headers], Awaitable[int | None]]:
        async def context_of(target: Target, _headers: Headers) -> int | None:
            asked.append((label, target.upstream.base_url))
            return 1000

        return context_of

    async with staged(tmp_path, OLD) as stage:
        await stage.talk(1)
        wanted = await stage.wanted(2)
        found, now = config.load(MOVED, {}), Scribe()
        now.open.set()
        stage.made.rewire(found, {"a": now}, of("new"))
        stage.made.start(wanted)
        await stage.made.settled()
        assert asked == [("new", "http://other/v1")]
