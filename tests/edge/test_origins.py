"""Who may call from where: web pages of listed origins, and Host names in auth.mode open."""

from pathlib import Path

import aiohttp
import pytest

from tests.scripted import echoes, scripted_upstream
from tests.serving import proxy

pytestmark = pytest.mark.anyio

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PAGE = "https://app.example.com"


async def test_a_page_of_a_listed_origin_may_ask_and_read_the_turns_headers(tmp_path: Path) -> None:
    async with (
        scripted_upstream(echoes()) as up,
        proxy(up.url, tmp_path, server={"port": 0, "cors_origins": [PAGE]}) as running,
        aiohttp.ClientSession() as http,
    ):
        url = f"{running.url}/chat/completions"
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-session-id",
        }
        async with http.options(url, headers=asked) as before:
            assert (before.status, before.headers["access-control-allow-origin"]) == (200, PAGE)
        async with http.post(url, json=ASK, headers={"Origin": PAGE, "X-Session-Id": "s"}) as answer:
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "X-Session-Turn" in answer.headers["access-control-expose-headers"]
        async with http.post(url, json=ASK, headers={"Origin": "https://other.example"}) as answer:
            assert "access-control-allow-origin" not in answer.headers


async def test_no_page_may_ask_where_no_origin_is_listed(tmp_path: Path) -> None:
    async with (
        scripted_upstream(echoes()) as up,
        proxy(up.url, tmp_path) as running,
        aiohttp.ClientSession() as http,
        http.post(f"{running.url}/chat/completions", json=ASK, headers={"Origin": PAGE}) as answer,
    ):
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(("host", "status"), [("proxy.lan", 200), ("proxy.lan:8080", 200), ("evil.lan", 403)])
async def test_a_listed_host_name_is_answered_in_open_mode(tmp_path: Path, host: str, status: int) -> None:
    async with (
        scripted_upstream(echoes()) as up,
        proxy(up.url, tmp_path, server={"port": 0, "allowed_hosts": ["proxy.lan"]}) as running,
        aiohttp.ClientSession() as http,
        http.post(f"{running.url}/chat/completions", json=ASK, headers={"Host": host}) as answer,
    ):
        assert answer.status == status


async def test_ready_says_what_is_not(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, proxy(up.url, tmp_path) as running, aiohttp.ClientSession() as http:
        base = running.url.removesuffix("/v1")
        async with http.get(f"{base}/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok", "storage": "ok", "upstream": "ok"})
    async with (
        proxy("http://127.0.0.1:9/v1", tmp_path) as running,
        aiohttp.ClientSession() as http,
        http.get(f"{running.url.removesuffix('/v1')}/readyz") as answer,
    ):
        told = await answer.json()
        assert (answer.status, told["storage"]) == (503, "ok")
        assert "127.0.0.1" not in told["upstream"]
