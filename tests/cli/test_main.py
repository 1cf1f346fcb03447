"""The command line: what is understood, and the exit codes: 0 ok, 1 failed, 2 bad usage or bad configuration."""

from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli.main import COMMANDS, main
from tests.processes import command, written


def usage(*args: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    return caught.value.code


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage("--version") == 0
    assert capsys.readouterr().out == f"session-proxy {__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage("--help") == 0
    told = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert name in told
        assert summary in told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(name, "--help") == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    "args",
    [[], ["fly"], ["serve", "--nothing"], ["serve", "--port", "many"], ["keys"], ["keys", "create"], ["keys", "revoke"],
     ["import"], ["export", "--session"],
     ["keys", "create", "--tenant", "a", "--role", "king"]],
)  # fmt: skip
def test_bad_usage_is_2_and_told_on_stderr(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(*args) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "usage: session-proxy" in told.err


CONFIGURED = (["serve"], ["keys", "list"], ["export"], ["import", "-"], ["migrate"])


@pytest.mark.parametrize("args", CONFIGURED, ids=lambda args: args[0])
def test_a_bad_configuration_is_2_and_names_file_key_and_line(
    args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("server:\n  prot: 1\n")
    assert main([args[0], "--config", str(file), *args[1:]]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"session-proxy: {file}: unknown key server.prot (line 2); did you mean port?\n"


@pytest.mark.parametrize("args", CONFIGURED, ids=lambda args: args[0])
def test_a_configuration_file_that_is_not_there_is_2(
    args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([args[0], "--config", str(tmp_path / "nowhere.yaml"), *args[1:]]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_a_configuration_file_that_is_no_text_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    assert main(["keys", "--config", str(tmp_path / "c.yaml"), "list"]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.anyio
async def test_the_file_beside_which_a_command_runs_is_its_configuration(tmp_path: Path) -> None:
    written(tmp_path)
    done = await command(["migrate"], folder=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "sessions.db").exists()
    (tmp_path / "config.yaml").write_text("server: {prot: 1}")
    done = await command(["migrate"], folder=tmp_path)
    assert done.code == 2
    assert "config.yaml: unknown key server.prot (line 1)" in done.err


@pytest.mark.anyio
async def test_the_environment_configures_where_there_is_no_file(tmp_path: Path) -> None:
    done = await command(["migrate"], folder=tmp_path, PROXY_STORAGE__URL="sqlite:///./mine.db")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "mine.db").exists()
    done = await command(["migrate"], folder=tmp_path, PROXY_STORAGE__SYNCHRONOUS="maybe")
    assert done.code == 2
    assert "storage.synchronous" in done.err
