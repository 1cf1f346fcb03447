"""Doctor's check of the configuration: every key that cannot be used, where it stands and what to write instead."""

from pathlib import Path

import pytest

from proxy import config
from proxy.cli.checks import configuration
from proxy.errors import BadConfig
from tests.cli.checks.sites import bad, the


def looked(folder: Path, text: str, **env: str) -> configuration.Site:
    file = folder / "c.yaml"
    file.write_text(text)
    return configuration.site(file, env, offline=False)


@pytest.mark.anyio
async def test_every_key_that_cannot_be_used_is_named_and_the_first_is_what_serve_says(tmp_path: Path) -> None:
    text = (
        "server:\n  prot: 1\n  port: many\nstorge: {url: x}\n"
        "upstreams:\n  - {name: a}\n  - {name: b, base_ulr: x, retries: yes}\nauth: {mode: key}\n"
    )
    found = bad(await configuration.check(looked(tmp_path, text)))
    assert [finding.said for finding in found] == [
        "unknown key server.prot (line 2)",
        "server.port must be a whole number (line 3)",
        "unknown key storge",
        "unknown key upstreams[1].base_ulr (line 7)",
        "upstreams[1].retries must be a whole number (line 7)",
        "auth.mode must be one of open, keys, passthrough (line 8)",
    ]
    assert [finding.fix for finding in found][::2] == [
        "did you mean port?", "did you mean storage?", configuration.OTHERWISE
    ]  # fmt: skip
    with pytest.raises(BadConfig) as caught:
        config.load(text, {})
    assert str(caught.value) == f"{found[0].said}; {found[0].fix}"


CROSSED = (
    "auth: {mode: open}\nserver: {host: 0.0.0.0}",
    "storage: {url: 'postgres://x'}",
    "upstreams: []",
    "models: {a: {upstream: nobody}}",
    "upstreams: [{base_url: 'http://user:pass@h/v1'}]",
    "upstreams: [{base_url: 'http://h:port/v1'}]",
    "server: [1]",
    "server: {port: ${NOWHERE}}",
    "a: b: c",
    "- a list",
    "server: {port: 1, port: 2}",
)


@pytest.mark.anyio
@pytest.mark.parametrize("text", CROSSED)
async def test_what_no_single_key_can_say_is_found_too(tmp_path: Path, text: str) -> None:
    site = looked(tmp_path, text)
    assert not site.usable
    told = the(await configuration.check(site))
    assert told.state == "failed"
    assert "user:pass" not in told.said + told.fix


@pytest.mark.anyio
async def test_a_variable_that_is_not_set_is_named_with_its_line(tmp_path: Path) -> None:
    told = the(await configuration.check(looked(tmp_path, "auth:\n  mode: ${MODE}\n")))
    assert (told.said, told.fix) == ("${MODE} (line 2) is not set", "set it or write ${MODE:-default}")


@pytest.mark.anyio
async def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for file, why in (("nowhere.yaml", "No such file"), ("binary.yaml", "not UTF-8"), (".", "Is a directory")):
        site = configuration.site(tmp_path / file, {}, offline=False)
        told = the(await configuration.check(site))
        assert not site.usable
        assert why in told.said
        assert "--config" in told.fix


@pytest.mark.anyio
async def test_a_good_file_is_used_and_the_environment_goes_before_it(tmp_path: Path) -> None:
    site = looked(tmp_path, "server: {port: 1234}", PROXY_SERVER__HOST="127.0.0.2", OPENAI_API_KEY="sk-1")
    assert site.usable
    assert (site.config.server.port, site.config.server.host) == (1234, "127.0.0.2")
    found = await configuration.check(site)
    assert not bad(found)
    assert "PROXY_SERVER__HOST goes before the file" in found[1].said


@pytest.mark.anyio
async def test_a_variable_with_one_underscore_too_few_is_found(tmp_path: Path) -> None:
    site = looked(tmp_path, "", PROXY_SERVER_PORT="1", OPENAI_API_KEY="sk-1", PROXY_OTHER="x")
    told = the(await configuration.check(site))
    assert (told.state, told.fix) == ("warning", "name it PROXY_SERVER__PORT")


@pytest.mark.parametrize("text", ["", "server: {port: 1}", "models: {a: {model: b}, c: {model: b, upstream: default}}",
                                  Path("config.yaml").read_text()])  # fmt: skip
def test_nothing_is_wrong_with_what_loads(text: str) -> None:
    config.load(text, {})
    assert configuration.problems(text, {}) == []
