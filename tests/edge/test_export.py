"""GET /sessions/{id}/export: the lines of one session, for its tenant only, whatever the session's size."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.store import history
from tests.acceptance.asking import Proxied, Reply, served, until
from tests.acceptance.sockets import Line, dialled
from tests.acceptance.stage import Talk
from tests.archive.stores import exported, fill, imported, opened, said, turn, user
from tests.store.saying import ME, find

pytestmark = pytest.mark.anyio

LARGE = 64
"""Megabytes of a session that no buffer on the way holds."""


async def get(proxied: Proxied, path: str, key: str = "") -> Reply:
    base = proxied.url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with proxied.http.get(base + path, headers=headers) as response:
        return Reply(response.status, response.headers, await response.read())


async def test_a_session_is_exported_with_all_it_holds(tmp_path: Path) -> None:
    async with served("http://127.0.0.1:9/v1", tmp_path) as proxied, opened(tmp_path / "other.db") as other:
        db = proxied.running.edge.svc.db
        await fill(db)
        session, _ = await find(db, "trip")
        for path in (f"/sessions/{session.uuid}/export", "/sessions/trip/export", "/api/sessions/trip/export"):
            reply = await get(proxied, path)
            assert (reply.status, reply.headers["content-type"]) == (200, "application/x-ndjson")
            assert "x-request-id" in reply.headers
            assert reply.body == await exported(db, ME, "trip")
        assert [one.problem for one in await imported(other, reply.body)] == [None]
        assert await exported(other) == reply.body


async def test_what_a_client_said_comes_out(echo: Talk) -> None:
    _, proxied = echo
    await proxied.ask("hello", to="s")
    lines = [json.loads(line) for line in (await get(proxied, "/sessions/s/export")).body.splitlines()]
    said = [line["message"] for line in lines if line["type"] == "entry"]
    assert said == proxied.messages("s")
    assert (lines[0]["name"], lines[-1]["type"]) == ("s", "end")


async def test_an_unknown_session_and_anothers_are_the_same_404(echo: Talk) -> None:
    _, proxied = echo
    await proxied.ask("hello", to="mine")
    theirs = await get(proxied, "/sessions/mine/export", "sk-another")
    unknown = await get(proxied, "/sessions/nowhere/export")
    assert (theirs.status, theirs.body) == (unknown.status, unknown.body)
    assert unknown.status == 404
    assert unknown.json["error"]["code"] == "session_not_found"
    assert (await get(proxied, "/sessions/mine/export")).status == 200


@asynccontextmanager
async def reading_nothing(folder: Path) -> AsyncGenerator[tuple[Proxied, Line]]:
    """A client that asks for a large session and has read the beginning of the answer."""
    async with served("http://127.0.0.1:9/v1", folder, server={"send_timeout_s": 1}) as proxied:
        text = "x" * (1 << 20)
        await turn(proxied.running.edge.svc.db, "s", *[said(user(f"{n} {text}")) for n in range(LARGE)])
        async with dialled(proxied, buffer=4096) as line:
            await line.send(b"GET /sessions/s/export HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await line.head())[0] == 200
            await line.until(b'"type":"session"')
            assert proxied.running.edge.open
            yield proxied, line


async def test_a_client_that_hangs_up_ends_the_reading(tmp_path: Path) -> None:
    async with reading_nothing(tmp_path) as (proxied, line):
        line.reset()
        await until(lambda: not proxied.running.edge.open)


async def test_a_client_that_reads_no_more_is_dropped(tmp_path: Path) -> None:
    async with reading_nothing(tmp_path) as (proxied, line):
        await until(lambda: not proxied.running.edge.open)
        assert not (await line.rest()).endswith(b"0\r\n\r\n")


async def test_a_session_that_is_cleared_meanwhile_does_not_look_whole(tmp_path: Path) -> None:
    async with reading_nothing(tmp_path) as (proxied, line):
        db = proxied.running.edge.svc.db
        session, _ = await find(db, "s")
        assert await history.clear(db, ME, session.id, 9)
        told = b""
        try:
            told = await line.rest()
        except ConnectionResetError:
            told = line.raw
        assert not told.endswith(b"0\r\n\r\n")
        assert b'"type":"end"' not in told
        await until(lambda: not proxied.running.edge.open)
