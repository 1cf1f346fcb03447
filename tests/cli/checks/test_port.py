"""Doctor's look at the address that `serve` listens on."""

import socket
from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli.checks import port
from proxy.config import Server
from tests.cli.checks.sites import bad, site, the
from tests.scripted import says, scripted_upstream, status
from tests.serving import proxy


@pytest.mark.anyio
async def test_a_port_that_is_free_is_left_free(tmp_path: Path) -> None:
    assert not bad(await port.check(site(tmp_path)))  # 0: any
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
    for _ in range(2):
        found = await port.check(site(tmp_path, server={"port": number}))
        assert [finding.said for finding in found] == [f"127.0.0.1:{number} is free"]


@pytest.mark.anyio
async def test_a_session_proxy_that_answers_there_is_what_should_be(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi")) as up, proxy(up.url, tmp_path) as running:
        found = await port.check(site(tmp_path, server={"port": running.server.port()}))
    assert not bad(found)
    assert f"a session-proxy {__version__} answers" in found[0].said


@pytest.mark.anyio
async def test_another_program_on_the_port_is_told(tmp_path: Path) -> None:
    async with scripted_upstream(status(404, html="<html>")) as up:
        number = int(up.url.removesuffix("/v1").rpartition(":")[2])
        told = the(await port.check(site(tmp_path, server={"port": number})))
    assert told.state == "failed"
    assert "taken by another program" in told.said
    assert f"sport = :{number}" in told.fix


@pytest.mark.anyio
@pytest.mark.parametrize(("host", "words"), [("203.0.113.7", "server.host"), ("no.such.host.invalid", "server.host")])
async def test_an_address_of_another_machine_is_told(tmp_path: Path, host: str, words: str) -> None:
    told = the(await port.check(site(tmp_path, auth={"mode": "keys"}, server={"host": host, "port": 8080})))
    assert (told.state, words in told.fix) == ("failed", True)


def test_an_older_server_is_told_to_be_restarted() -> None:
    told = port.judged(Server(), "0.0.1")
    assert (told.state, "restart" in told.fix) == ("warning", True)
