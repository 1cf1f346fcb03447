"""session-proxy doctor: the whole report, beside a server and without one; twice as a process of its own."""

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from proxy import __version__
from proxy.cli.checks import configuration, report
from proxy.cli.checks.finding import Finding
from tests.cli.checks.sites import names
from tests.processes import ROOT, command, written
from tests.scripted import says, scripted_upstream, status
from tests.serving import COUNTER, proxy

MODELS = [{"id": "m", "object": "model", "max_model_len": 8192}]
KEY = "sk-secret-1234"
CONFIGURED = {"storage", "upstream", "embedder", "port"}


def keyed(folder: Path, url: str, **sections: Any) -> Path:
    upstreams = [{"name": "scripted", "base_url": url, "api_key": KEY, "retries": 0}]
    return written(folder, url, **{"upstreams": upstreams, "recall": {"embedder": {"kind": "none"}}, **sections})


async def reported(config: Path, offline: bool = False, **env: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report, of a machine whose environment is `env`."""
    site = dataclasses.replace(configuration.site(config, env, offline), counter=COUNTER)
    found = await report.examined(site)
    told = report.told(found)
    assert KEY not in told
    return report.code(site, found), json.loads(told)


@pytest.mark.anyio
async def test_where_all_is_well_the_code_is_0_and_every_check_says_so(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi there"), MODELS) as up:
        code, told = await reported(keyed(tmp_path, up.url))
    assert (code, told["ok"], told["version"]) == (0, True, __version__)
    assert [finding for finding in told["findings"] if finding["state"] != "ok"] == []
    assert {finding["check"] for finding in told["findings"]} == {check.name for check in report.CHECKS}
    assert all(list(finding) == ["check", "state", "said", "fix"] for finding in told["findings"])
    assert names(tmp_path) == ["config.yaml"]


@pytest.mark.anyio
async def test_what_fails_has_a_line_that_says_what_to_do_and_the_code_is_1(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi there"), MODELS) as up:
        up.lists = status(401, json={"error": {"message": KEY}})
        done = await command(["doctor", "--config", str(keyed(tmp_path, up.url))])
    assert (done.code, done.err, KEY in done.out) == (1, "", False)
    head, *lines = done.out.splitlines()
    assert head == f"session-proxy {__version__}"
    at = next(n for n, line in enumerate(lines) if line.startswith("failed"))
    assert re.match(r"failed   upstream   scripted: http://127.0.0.1:\d+/v1 does not accept the key \(401\)", lines[at])
    assert lines[at + 1].strip().startswith("fix: set api_key of upstream scripted")
    assert re.fullmatch(r"1 failed, \d+ ok", lines[-1])


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["server: {prot: 1}", None])
async def test_without_a_configuration_the_code_is_2_and_the_rest_is_looked_at(
    tmp_path: Path, text: str | None
) -> None:
    config = tmp_path / "c.yaml"
    if text is not None:
        config.write_text(text)
    code, told = await reported(config)
    assert (code, told["ok"]) == (2, False)
    by = {finding["check"]: finding["state"] for finding in told["findings"]}
    assert by["config"] == "failed"
    assert {check for check, state in by.items() if state == "skipped"} == CONFIGURED
    assert by["tokenizer"] == by["templates"] == by["python"] == "ok"


@pytest.mark.anyio
async def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi there"), [{"id": "m"}]) as up:
        code, told = await reported(keyed(tmp_path, up.url, auth={"mode": "keys"}))
    assert (code, told["ok"]) == (0, True)
    assert {finding["check"] for finding in told["findings"] if finding["state"] == "warning"} == {"keys", "upstream"}


@pytest.mark.anyio
async def test_it_works_beside_a_running_server(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi there"), MODELS) as up:
        config = keyed(tmp_path, up.url)
        async with proxy(up.url, tmp_path) as running:
            port = str(running.server.port())
            code, told = await reported(config, PROXY_SERVER__PORT=port)
    said = "\n".join(finding["said"] for finding in told["findings"])
    assert (code, told["ok"]) == (0, True)
    assert "a running server has it" in said
    assert f"a session-proxy {__version__} answers on 127.0.0.1:{port}" in said


@pytest.mark.anyio
async def test_offline_nothing_else_is_asked(tmp_path: Path) -> None:
    code, told = await reported(keyed(tmp_path, "https://api.openai.com/v1"), offline=True)
    assert code == 0
    skipped = [finding for finding in told["findings"] if finding["state"] == "skipped"]
    assert [finding["check"] for finding in skipped] == ["upstream"]
    assert "--offline" in skipped[0]["said"]


def test_the_report_may_be_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("server: {prot: 1}")
    assert report.run(argparse.Namespace(config=config, json=True, offline=True)) == 2
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.anyio
async def test_the_defaults_are_looked_at_where_there_is_no_file(tmp_path: Path) -> None:
    done = await command(["doctor", "--offline"], folder=tmp_path, PROXY_SERVER__PORT="0")
    assert done.code == 0
    assert "no file, the defaults" in done.out
    assert names(tmp_path) == []


def test_the_last_line_counts() -> None:
    found = [Finding("a", state, "") for state in ("ok", "warning", "failed", "warning", "skipped")]
    assert report.summed(found) == "1 failed, 2 warnings, 1 skipped, 1 ok"


def test_the_documentation_names_every_check_and_state() -> None:
    told = (ROOT / "docs" / "doctor.md").read_text()
    names = [check.name for check in report.CHECKS]
    assert [name for name in (*names, "keys", *report.STATES) if f"| `{name}` |" not in told] == []
