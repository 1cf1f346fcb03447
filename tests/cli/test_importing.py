"""session-proxy import: what comes in is told on stdout, what does not on stderr; beside a running server too."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.cli.main import main
from tests.archive.stores import exported, fill, opened, rows, said, says, turn, user
from tests.cli.test_exporting import TRIP, store
from tests.processes import command, served, written
from tests.scripted import echoes, scripted_upstream
from tests.store.saying import ME, find

LIST = json.dumps([{"role": "system", "content": "brief"}, user("q"), says("a")])


def run(config: Path, *args: Any) -> int:
    return main(["import", "--config", str(config), *map(str, args)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An export of a full store, in a folder whose own store is another one."""

    async def make() -> bytes:
        async with opened(tmp_path / "elsewhere.db") as db:
            await fill(db)
            return await exported(db)

    path = tmp_path / "all.jsonl"
    path.write_bytes(asyncio.run(make()))
    return path


def test_an_export_comes_in_as_it_was(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path)
    assert run(config, file) == 0
    told = capsys.readouterr()
    assert told.err == f"session-proxy: {file}: imported 4, left out 0\n"
    assert f"{TRIP} trip" in told.out.splitlines()
    assert TRIP[:-1] + "1" in told.out.splitlines(), "one without a name"
    assert len(told.out.splitlines()) == 4
    assert store(tmp_path, exported) == file.read_bytes()


def test_what_is_there_already_is_named_and_the_code_is_1(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path)
    store(tmp_path, lambda db: turn(db, "plain", said(user("mine"))))
    assert run(config, file) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 3
    assert told.err.splitlines() == [
        f"session-proxy: {file}: session plain: there is a session of this name or id already; it stays as it is",
        f"session-proxy: {file}: imported 3, left out 1",
    ]
    assert run(config, file) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{file}: agent agent-1 is there already and stays as it is" in told.err
    assert told.err.endswith("imported 0, left out 4\n")


def test_a_bad_line_is_named_with_file_and_number(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if line.startswith(b'{"type":"entry"'))
    lines[at] = lines[at].replace(b'"seq":1', b'"seq":2')
    file.write_bytes(b"".join(lines))
    assert run(written(tmp_path), file) == 1
    told = capsys.readouterr()
    assert f"{file}: session trip: line {at + 1}: seq is 2; branch 1 is at 0 and ends at 7" in told.err
    assert len(told.out.splitlines()) == 3


def test_a_tenant_is_made_for_what_comes_in(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path)
    assert run(config, "--tenant", "acme", file) == 0
    assert run(config, file) == 0
    capsys.readouterr()
    assert main(["export", "--config", str(config), "--tenant", "acme"]) == 0
    assert capsys.readouterr().out.encode() == file.read_bytes()
    assert store(tmp_path, lambda db: db.all("SELECT name FROM tenants ORDER BY id")) == [("default",), ("acme",)]
    assert len(store(tmp_path, rows)) == 13


def test_a_list_of_messages_becomes_a_session_of_the_name_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path)
    (tmp_path / "list.json").write_text(LIST)
    assert run(config, "--session", "boat", tmp_path / "list.json") == 0
    assert re.fullmatch(r"[0-9a-f-]{36} boat\n", capsys.readouterr().out)
    assert run(config, tmp_path / "list.json") == 0
    assert re.fullmatch(r"[0-9a-f-]{36}\n", capsys.readouterr().out)

    async def read(db: Any) -> Any:
        session, branch = await find(db, "boat")
        return await db.all("SELECT raw, tokens FROM entries WHERE session = ?", (session.id,)), branch.total

    entries, total = store(tmp_path, read)
    assert [json.loads(raw) for raw, _ in entries] == [user("q"), says("a")]
    assert total == sum(tokens for _, tokens in entries) == 11, "4 for each message, its text, the reasoning"


def test_several_files_come_in_one_after_the_other(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.json").write_text(LIST)
    assert run(written(tmp_path), tmp_path / "nowhere.jsonl", file, tmp_path, tmp_path / "list.json") == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 5
    assert f"{tmp_path / 'nowhere.jsonl'} cannot be read: No such file" in told.err
    assert f"{tmp_path} cannot be read: Is a directory" in told.err


@pytest.mark.parametrize(
    "args", [[], ["--session", "caf\u00e9", "-"], ["--session", "", "-"], ["--session", "x" * 257, "-"]]
)
def test_bad_usage_is_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["import", *args])
    assert caught.value.code == 2
    assert "usage: session-proxy import" in capsys.readouterr().err


@pytest.mark.anyio
async def test_stdin_is_read_and_the_imported_session_goes_on_beside_a_running_server(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up:
        config = written(tmp_path, up.url)
        async with served(config) as serving, aiohttp.ClientSession(headers={"X-Session-Id": "boat"}) as http:
            done = await command(["import", "--config", str(config), "--session", "boat", "-"], given=LIST)
            assert (done.code, done.err) == (0, "session-proxy: stdin: imported 1, left out 0\n")
            body = {"model": "m", "messages": [user("and now?")]}
            async with http.post(f"{serving.url}/chat/completions", json=body) as response:
                assert response.headers["X-Session-Uuid"] == done.out.split()[0]
                assert response.headers["X-Session-Turn"] == "2"
    sent = up.requests[-1].json["messages"]
    assert [message["content"] for message in sent] == ["brief", "q", "a", "and now?"]


@pytest.mark.anyio
async def test_what_one_server_wrote_another_goes_on_with(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    async with opened(here / "sessions.db") as db:
        await fill(db)
        data = await exported(db, ME, "trip")
    done = await command(["export", "--config", str(written(here)), "--session", "trip"])
    assert done.out.encode() == data
    done = await command(["import", "--config", str(written(there)), "-"], given=done.out)
    assert (done.code, done.out) == (0, f"{TRIP} trip\n")
    done = await command(["export", "--config", str(written(there))])
    assert done.out.encode() == data
