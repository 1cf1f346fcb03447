"""session-proxy migrate: the schema brought up to date, by a process that has the file for itself."""

from pathlib import Path

import apsw
import pytest

from proxy.cli.main import main
from proxy.store import sqlite
from tests.processes import served, written

NEWEST = sqlite.migrations()[-1][0]


def test_a_new_file_is_made_with_the_newest_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path, storage={"url": f"sqlite:///{tmp_path / 'a' / 'b.db'}"})
    for _ in range(2):
        assert main(["migrate", "--config", str(config)]) == 0
        told = capsys.readouterr()
        assert told.out == f"sqlite:///{tmp_path / 'a' / 'b.db'} has schema {NEWEST}\n"
        assert told.err == ""


def test_a_newer_schema_is_refused_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path)
    connection = apsw.Connection(str(tmp_path / "sessions.db"))
    connection.pragma("user_version", NEWEST + 5)
    assert main(["migrate", "--config", str(config)]) == 2
    assert f"the file has schema {NEWEST + 5}, this version knows {NEWEST}" in capsys.readouterr().err
    assert connection.pragma("user_version") == NEWEST + 5
    connection.close()


@pytest.mark.anyio
async def test_a_file_that_a_server_has_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path)
    async with served(config):
        assert main(["migrate", "--config", str(config)]) == 2
        assert "another session-proxy serves sessions.db" in capsys.readouterr().err
    assert main(["migrate", "--config", str(config)]) == 0


def test_a_file_that_is_no_database_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path)
    (tmp_path / "sessions.db").write_bytes(b"no database" * 500)
    assert main(["migrate", "--config", str(config)]) == 2
    assert "storage.url" in capsys.readouterr().err
