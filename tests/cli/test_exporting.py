"""session-proxy export: sessions on stdout or in a file, beside a running server too."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from proxy.cli.main import main
from proxy.store.database import Database
from tests.archive.stores import exported, fill, opened, said, turn, user
from tests.processes import ROOT, WAIT_S, command, environment, served, written
from tests.scripted import echoes, scripted_upstream
from tests.store.saying import ME, tenant

TRIP = "11111111-1111-4111-8111-111111111110"


def run(config: Path, *args: str) -> int:
    return main(["export", "--config", str(config), *args])


def store(folder: Path, work: Callable[[Database], Awaitable[Any]]) -> Any:
    """Works on the store that `written` configures."""

    async def worked() -> Any:
        async with opened(folder / "sessions.db") as db:
            return await work(db)

    return asyncio.run(worked())


def test_all_sessions_are_the_only_thing_on_stdout(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    store(tmp_path, fill)
    assert run(written(tmp_path)) == 0
    told = capsysbinary.readouterr()
    assert told.out == store(tmp_path, exported)
    assert told.err == b"session-proxy: exported from tenant default: 4\n"


def test_sessions_are_asked_for_by_name_and_id_and_written_once(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    store(tmp_path, fill)
    asked = ["--session", "plain", TRIP, "--session", "trip"]
    assert run(written(tmp_path), *asked) == 0
    assert capsysbinary.readouterr().out == store(tmp_path, lambda db: exported(db, ME, "plain", "trip"))


def test_one_session_that_is_not_there_leaves_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, fill)
    (tmp_path / "out.jsonl").write_text("before")
    assert run(written(tmp_path), "--session", "trip", "nowhere", "--output", str(tmp_path / "out.jsonl")) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "session-proxy: there is no session nowhere; nothing was exported\n")
    assert (tmp_path / "out.jsonl").read_text() == "before"


def test_a_tenants_sessions_are_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def both(db: Database) -> None:
        await turn(db, "mine", said(user("q")))
        await turn(db, "theirs", said(user("q")), scope=await tenant(db, "acme"))

    store(tmp_path, both)
    config = written(tmp_path)
    assert run(config, "--tenant", "acme") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["name"] == "theirs"
    assert run(config, "--tenant", "acme", "--session", "mine") == 1
    assert run(config, "--tenant", "nobody") == 1
    assert "there is no tenant nobody" in capsys.readouterr().err


def test_a_file_holds_the_same_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, fill)
    file = tmp_path / "out.jsonl"
    assert run(written(tmp_path), "--output", str(file)) == 0
    assert capsys.readouterr().out == ""
    assert file.read_bytes() == store(tmp_path, exported)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, fill)
    assert run(written(tmp_path), "--output", str(tmp_path)) == 1
    assert f"{tmp_path} cannot be written" in capsys.readouterr().err
    assert run(written(tmp_path), "--output", "/dev/full") == 1
    assert "/dev/full cannot be written" in capsys.readouterr().err


def test_an_empty_store_has_no_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, nothing)
    assert run(written(tmp_path)) == 0
    assert capsys.readouterr().out == ""


async def nothing(_db: Database) -> None:
    """Only opens the store, which makes it."""


def test_where_no_store_is_none_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(written(tmp_path)) == 2
    assert "there is no store" in capsys.readouterr().err
    assert not (tmp_path / "sessions.db").exists()


@pytest.mark.anyio
async def test_a_reader_that_has_enough_is_no_defect(tmp_path: Path) -> None:
    async with opened(tmp_path / "sessions.db") as db:
        await turn(db, "s", *[said(user(f"{n} {'x' * 100_000}")) for n in range(20)])
    reading, writing = os.pipe()
    words = [sys.executable, "-m", "proxy", "export", "--config", str(written(tmp_path))]
    process = await asyncio.create_subprocess_exec(
        *words, stdout=writing, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env=environment()
    )
    os.close(writing)
    assert os.read(reading, 10) == b'{"type":"s'
    os.close(reading)
    with anyio.fail_after(WAIT_S):
        _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")


@pytest.mark.anyio
async def test_what_a_running_server_stored_is_exported_beside_it(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up:
        config = written(tmp_path, up.url)
        async with served(config) as serving, aiohttp.ClientSession(headers={"X-Session-Id": "s"}) as http:
            body = {"model": "m", "messages": [user("hello")]}
            async with http.post(f"{serving.url}/chat/completions", json=body) as response:
                assert response.status == 200
            done = await command(["export", "--config", str(config)])
            assert done.code == 0
            entries = [json.loads(line) for line in done.out.splitlines() if '"type":"entry"' in line]
            assert [entry["message"]["content"] for entry in entries] == ["hello", "echo: hello"]
            async with http.get(f"{serving.url.removesuffix('/v1')}/sessions/s/export") as response:
                assert await response.text() == done.out
