"""GET /metrics: who may read it, when it answers, and that requests are counted in it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.store import keys
from tests.acceptance.asking import Proxied, Reply, served, until, user
from tests.acceptance.sockets import dialled
from tests.scripted import Exchange, echoes, gated, says, scripted_upstream, status

pytestmark = pytest.mark.anyio

KEY = "sp-ann-0123456789"


async def ask(proxied: Proxied, method: str = "GET", path: str = "/metrics", **headers: str) -> Reply:
    url = proxied.url.removesuffix("/v1") + path
    async with proxied.http.request(method, url, headers=headers) as answer:
        return Reply(answer.status, answer.headers, await answer.read())


async def sums(proxied: Proxied, **headers: str) -> dict[str, float]:
    """What is not zero, buckets left out."""
    reply = await ask(proxied, **headers)
    assert reply.status == 200, reply.body
    out = {}
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            labels = ",".join(value for _, value in sorted(sample.labels.items()))
            if sample.value and not sample.name.endswith("_bucket"):
                out[f"{sample.name.removeprefix('session_proxy_')}{{{labels}}}"] = sample.value
    return out


async def test_requests_are_counted(tmp_path: Path) -> None:
    script = [says("hello"), says("hello"), status(429)]
    async with scripted_upstream(script) as up, served(up, tmp_path) as proxied:
        assert (await proxied.ask("hi", to="secret-name", stream=True)).status == 200
        assert (await proxied.ask("hi", to=None)).status == 200
        assert (await proxied.ask("hi", to="secret-name")).status == 429
        assert (await proxied.post(b"{", to="secret-name")).status == 400
        seen = await sums(proxied)
        assert seen["requests_total{200,chat}"] == 2
        assert seen["requests_total{429,chat}"] == 1
        assert seen["requests_total{400,chat}"] == 1
        assert seen["errors_total{invalid_request_error}"] == 1
        assert seen["errors_total{upstream_error}"] == 1
        assert seen["upstream_errors_total{429}"] == 1
        assert (seen["time_to_first_byte_seconds_count{}"], seen["overhead_seconds_count{}"]) == (2, 1)
        assert 0 < seen["overhead_seconds_sum{}"] < seen["time_to_first_byte_seconds_sum{}"]
        assert b"secret" not in (await ask(proxied)).body


async def test_the_sessions_api_is_counted_without_its_ids(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path) as proxied:
        async with aiohttp.ClientSession(proxied.url.removesuffix("/v1")) as http:
            async with http.post("/agents", json={"name": "Ada", "model": "scripted"}) as made:
                agent = (await made.json())["id"]
            async with http.post("/api/sessions/secret-name", json={"agent": agent}) as made:
                assert made.status == 201
            async with http.post("/api/sessions/secret-name/chat", json={"messages": [user("hi")]}) as answer:
                assert answer.status == 201
            async with http.get("/secret-name") as answer:
                assert answer.status == 404
        seen = await sums(proxied)
        assert seen["requests_total{201,sessions_api}"] == 2
        assert seen["requests_total{201,session_chat}"] == 1
        assert seen["requests_total{404,sessions_api}"] == 1
        assert seen["errors_total{unknown_url}"] == 1
        assert seen["overhead_seconds_count{}"] == 1
        body = (await ask(proxied)).body
        assert b"secret" not in body and agent.encode() not in body


async def test_a_model_servers_text_is_no_label(tmp_path: Path) -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.event('{"error": {"message": "no", "code": "secret words"}}')
        await exchange.end()

    async with scripted_upstream([breaks]) as up, served(up, tmp_path) as proxied:
        assert (await proxied.ask("hi", to="s", stream=True)).error["code"] == "secret words"
        assert (await sums(proxied))["errors_total{upstream_broken}"] == 1
        assert b"secret" not in (await ask(proxied)).body


async def test_it_is_prometheus_text_for_get_and_head(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path) as proxied:
        for path in ("/metrics", "/api/metrics"):
            whole, head = await ask(proxied, path=path), await ask(proxied, "HEAD", path)
            for reply in (whole, head):
                assert reply.status == 200
                assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
                assert reply.headers["content-length"] == str(len(whole.body))
            assert head.body == b""
        refused = await ask(proxied, "POST")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_it_is_not_there_when_it_is_off(tmp_path: Path) -> None:
    settings = {"metrics": False}
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, telemetry=settings) as proxied:
        assert (await proxied.ask("hi", to="s")).status == 200
        reply = await ask(proxied)
        assert (reply.status, reply.error["code"]) == (404, "unknown_url")


KEYS: list[tuple[Mapping[str, str], str, int]] = [
    ({}, "admin", 401),
    ({"Authorization": "Bearer sp-wrong"}, "admin", 401),
    ({"Authorization": f"Bearer {KEY}"}, "user", 403),
    ({"Authorization": f"Bearer {KEY}"}, "admin", 200),
    ({"X-Api-Key": KEY}, "admin", 200),
]


@pytest.mark.parametrize(("headers", "role", "expected"), KEYS)
async def test_with_keys_it_is_for_an_admin(
    tmp_path: Path, headers: Mapping[str, str], role: str, expected: int
) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, auth={"mode": "keys"}) as proxied:
        await keys.create(proxied.running.edge.svc.db, "ann", role, KEY.encode(), 0)
        reply = await ask(proxied, **headers)
        assert reply.status == expected
        assert (await ask(proxied, "HEAD", **headers)).status == expected
        if expected != 200:
            code, said = {401: ("invalid_api_key", "Incorrect API key provided"), 403: ("forbidden", "role")}[expected]
            assert reply.error["code"] == code
            assert said in reply.error["message"]
            assert reply.headers["x-request-id"]


async def test_an_open_proxy_tells_it_to_this_machines_names_only(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path) as proxied:
        for host, expected in (("localhost", 200), ("evil.example", 403)):
            async with dialled(proxied) as line:
                await line.send(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert (await line.reply()).status == expected


async def test_where_clients_bring_their_own_keys_it_is_open(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, auth={"mode": "passthrough"}) as proxied:
        assert (await proxied.ask("hi", to="s", headers={"Authorization": f"Bearer {KEY}"})).status == 200
        assert (await sums(proxied))["requests_total{200,chat}"] == 1
        body = (await ask(proxied)).body
        assert KEY.encode() not in body and keys.hashed(KEY.encode()).hex().encode() not in body


async def test_it_answers_while_the_server_drains(tmp_path: Path) -> None:
    async with scripted_upstream([gated("one two")]) as up, served(up, tmp_path) as proxied:
        edge = proxied.running.edge
        running = asyncio.ensure_future(proxied.ask("hi", to="s", stream=True))
        await until(lambda: bool(up.requests))
        draining = asyncio.ensure_future(edge.drain(30))
        await until(lambda: edge.draining)
        assert (await proxied.ask("hi", to="other")).status == 503
        assert (await ask(proxied)).status == 200
        for _ in range(9):  # more than it has chunks
            up.gate.release()
        assert (await running).done
        await draining
