"""Doctor's check of the upstreams: each planted fault is found, named, and told how to be fixed."""

import shutil
import ssl
import subprocess
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.checks import upstream
from proxy.cli.checks.finding import Finding
from tests.cli.checks.sites import MODEL, bad, but, site, states, the
from tests.faults import nobody_listens, reset_before_headers, silence
from tests.scripted import Exchange, ScriptedUpstream, Step, says, scripted_upstream, status

KEY = "sk-secret-1234"
DENIED = status(401, json={"error": {"message": f"Incorrect API key provided: {KEY}", "type": "x", "code": "y"}})
AFTER = status(429, json={"error": {"message": f"wait; {KEY} is over its quota", "code": "rate"}})
NOT_FOUND = status(404, json={"detail": "Not Found"})
UNKNOWN = status(404, json={"error": {"message": "The model `m` does not exist", "code": "model_not_found"}})


async def checked(folder: Path, step: Step, lists: Step | None = None, **settings: Any) -> list[Finding]:
    """What is found about one upstream that lists the model m."""
    async with scripted_upstream(step, [MODEL]) as up:
        up.lists = lists or up.lists
        return await found(folder, up, **settings)


async def found(folder: Path, up: ScriptedUpstream, /, **settings: Any) -> list[Finding]:
    given = {"upstream": {"api_key": KEY}, **settings}
    every = list(await upstream.check(site(folder, up.url, **given)))
    assert KEY not in str(every)
    return every


@pytest.mark.anyio
async def test_a_good_upstream_is_told_to_be_so_and_asked_twice(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi there"), [MODEL]) as up:
        every = await found(tmp_path, up)
        assert [request.path for request in up.requests] == ["/v1/models", "/v1/chat/completions"]
        assert {request.header("authorization") for request in up.requests} == {f"Bearer {KEY}"}
        await up.wait_idle()
    assert not bad(every)
    told = "\n".join(finding.said for finding in every)
    for words in (
        "is reached, the key is accepted, 1 model",
        "m streams",
        "usage is reported",
        "m takes 8,192 tokens",
    ):
        assert words in told


@pytest.mark.anyio
async def test_one_that_nobody_runs_is_told_from_one_that_has_no_name(tmp_path: Path) -> None:
    told = the(await upstream.check(site(tmp_path, nobody_listens())))
    assert "refused the connection" in told.said
    assert "check that it runs" in told.fix
    told = the(await upstream.check(site(tmp_path, "http://nowhere.invalid/v1")))
    assert "its name nowhere.invalid cannot be resolved" in told.said
    assert "DNS" in told.fix


def certificate(folder: Path) -> ssl.SSLContext:
    """A certificate that nobody has signed."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "1"]
    subprocess.run([*command, "-subj", "/CN=localhost"], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


@pytest.mark.anyio
@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_a_certificate_that_nobody_signed_is_told(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi"), [MODEL], certificate(tmp_path)) as up:
        assert "certificate was not accepted" in the(await found(tmp_path, up)).said


@pytest.mark.anyio
async def test_https_where_http_is_spoken_is_told(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi"), [MODEL]) as up:
        up.url = up.url.replace("http:", "https:")
        assert "TLS handshake" in the(await found(tmp_path, up)).said


@pytest.mark.anyio
async def test_one_that_hangs_up_or_is_silent_is_told(tmp_path: Path) -> None:
    told = the(await checked(tmp_path, says("hi"), reset_before_headers()))
    assert told.state == "failed"
    told = the(await checked(tmp_path, says("hi"), silence(), upstream={"first_byte_timeout_s": 0.1}))
    assert "sent nothing for 0.1 s" in told.said
    assert "first_byte_timeout_s" in told.fix


@pytest.mark.anyio
async def test_a_key_that_is_refused_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    told = the(await checked(tmp_path, says("hi"), DENIED))
    assert "does not accept the key (401)" in told.said
    assert "set api_key of upstream scripted" in told.fix
    told = the(await checked(tmp_path, says("hi"), DENIED, upstream={}))
    assert "asks for a key, and none is set (401)" in told.said
    told = the(await checked(tmp_path, DENIED))  # whoever may list need not be one who may ask
    assert "does not accept the key (401)" in told.said


@pytest.mark.anyio
async def test_in_passthrough_mode_the_key_is_that_of_the_environment(tmp_path: Path) -> None:
    settings = {"auth": {"mode": "passthrough"}, "upstream": {"api_key": "unused"}}
    async with scripted_upstream(says("hi"), [MODEL]) as up:
        up.lists = DENIED
        one = site(tmp_path, up.url, **settings)
        every = await upstream.check(one)
        assert states(every) == ["ok", "skipped"]
        assert "which each client brings" in every[0].said
        assert up.requests[0].header("authorization") is None
        told = the(await upstream.check(but(one, env={"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": up.url})))
        assert up.requests[1].header("authorization") == f"Bearer {KEY}"
        assert "OPENAI_API_KEY" in told.fix
        assert KEY not in str(told)


@pytest.mark.anyio
@pytest.mark.parametrize("more", [{}, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}])
async def test_the_environments_key_goes_to_no_other_server(tmp_path: Path, more: dict[str, str]) -> None:
    async with scripted_upstream(says("hi"), [MODEL]) as up:
        one = site(tmp_path, up.url, auth={"mode": "passthrough"}, env={"OPENAI_API_KEY": KEY, **more})
        every = await upstream.check(one)
        assert states(every) == ["ok", "skipped"]
        assert f"OPENAI_BASE_URL to {up.url} to have" in every[1].fix
        assert [request.header("authorization") for request in up.requests] == [None]


@pytest.mark.anyio
async def test_a_model_that_the_upstream_has_not_is_named_with_what_it_has(tmp_path: Path) -> None:
    async def step(exchange: Exchange) -> None:
        await (says("hi") if exchange.request.json["model"] == "m" else UNKNOWN)(exchange)

    told = the(await checked(tmp_path, step, models={"default": {"model": "m"}, "fast": {"model": "m2"}}))
    assert told.state == "failed"
    assert "has no model m2 (models.fast): The model `m` does not exist" in told.said
    assert told.fix == "correct it in models.fast; it lists m"


@pytest.mark.anyio
async def test_a_model_that_is_not_listed_and_answers_is_fine(tmp_path: Path) -> None:
    every = await checked(tmp_path, says("hi"), models={"fast": {"model": "m2"}})
    assert "m2" in every[1].said
    assert "failed" not in states(every)


@pytest.mark.anyio
async def test_a_base_url_without_its_last_step_is_told_what_to_be(tmp_path: Path) -> None:
    async with scripted_upstream(NOT_FOUND) as up:

        async def lists(exchange: Exchange) -> None:
            await (status(200, json={"data": [MODEL]}) if "/v1/" in exchange.request.path else NOT_FOUND)(exchange)

        up.lists, up.url = lists, up.url.removesuffix("/v1")
        told = the(await found(tmp_path, up))
    assert told.state == "failed"
    assert told.fix == f"set its base_url to {up.url}/v1"


@pytest.mark.anyio
async def test_a_server_that_is_none_is_told(tmp_path: Path) -> None:
    every = bad(await checked(tmp_path, NOT_FOUND, NOT_FOUND))
    assert "lists no models (404)" in every[0].said
    assert "has no /chat/completions (404)" in every[1].said
    every = bad(await checked(tmp_path, NOT_FOUND, status(200, html="<html>")))
    assert "its list of models is none" in every[0].said
    assert every[1].state == "failed"


@pytest.mark.anyio
async def test_without_a_list_what_is_asked_for_is_what_is_named(tmp_path: Path) -> None:
    every = await checked(tmp_path, says("hi"), NOT_FOUND, models={"default": {"model": "mine"}})
    assert "mine streams" in every[1].said
    every = await checked(tmp_path, UNKNOWN, NOT_FOUND)
    assert "no model is known to try" in bad(every)[-1].said
    assert "models.default" in bad(every)[-1].fix


@pytest.mark.anyio
async def test_what_the_server_says_is_shown_without_the_key(tmp_path: Path) -> None:
    busy = status(429, json={"error": {"message": f"slow down,\n{KEY}", "code": "rate"}})
    told = bad(await checked(tmp_path, busy))[0]
    assert (told.state, "slow down, *** (429)" in told.said) == ("warning", True)
    told = bad(await checked(tmp_path, AFTER))[0]
    assert "wait; *** is over its quota (429)" in told.said
    assert told.fix == "ask it for that model without the proxy; its log may say more"
    told = bad(await checked(tmp_path, says("hi"), AFTER))[0]
    assert "wait; *** is over its quota (429)" in told.said
    assert told.fix == "look into the log of that server, or try again later"

    async def breaks_off(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.event({"error": f"wait; {KEY} is over its quota"})

    assert "wait; *** is over its quota" in bad(await checked(tmp_path, breaks_off))[0].said
    told = the(await checked(tmp_path, says("hi"), status(500, html="oops")))
    assert "the upstream answered 500" in told.said


@pytest.mark.anyio
async def test_a_key_with_a_line_break_is_told(tmp_path: Path) -> None:
    told = the(await checked(tmp_path, says("hi"), upstream={"api_key": KEY + "\nx"}))
    assert "line break" in told.said


@pytest.mark.anyio
@pytest.mark.parametrize(("ahead_s", "way"), [(3600, "behind"), (-3600, "ahead of")])
async def test_a_clock_that_goes_wrong_is_found_by_the_upstreams_date(tmp_path: Path, ahead_s: int, way: str) -> None:
    date = formatdate(1_800_000_000 + ahead_s, usegmt=True)
    lists = status(200, json={"data": [MODEL]}, headers={"Date": date})
    async with scripted_upstream(says("hi"), [MODEL]) as up:
        up.lists = lists
        told = the(await upstream.check(but(site(tmp_path, up.url), now=lambda: 1_800_000_000_000)))
        assert (told.check, told.state) == ("clock", "warning")
        assert f"3600 s {way} that of upstream scripted" in told.said
        assert not bad(await upstream.check(but(site(tmp_path, up.url), now=lambda: (1_800_000_030 + ahead_s) * 1000)))


@pytest.mark.anyio
async def test_offline_asks_only_this_machine(tmp_path: Path) -> None:
    every = await upstream.check(but(site(tmp_path, "http://10.0.0.1/v1"), offline=True))
    assert states(every) == ["skipped"]
    async with scripted_upstream(says("hi"), [MODEL]) as up:
        assert not bad(await upstream.check(but(site(tmp_path, up.url), offline=True)))
        assert up.requests


@pytest.mark.anyio
async def test_an_unknown_context_is_told_unless_it_is_set(tmp_path: Path) -> None:
    lists = status(200, json={"data": [{"id": "m"}]})
    assert "set context_tokens" in the(await checked(tmp_path, says("hi"), lists)).fix
    assert not bad(await checked(tmp_path, says("hi"), lists, context={"token_budget": 4000}))
    assert not bad(await checked(tmp_path, says("hi"), lists, upstream={"context_tokens": 8000}))
    assert not bad(
        await checked(tmp_path, says("hi"), lists, models={"default": {"model": "m", "context_tokens": 8000}})
    )


@pytest.mark.anyio
async def test_every_upstream_is_looked_at(tmp_path: Path) -> None:
    async with scripted_upstream(says("hi"), [MODEL]) as up:
        two = [{"name": "dead", "base_url": nobody_listens()}, {"name": "good", "base_url": up.url}]
        every = await upstream.check(site(tmp_path, upstreams=two))
    assert the(every).said.startswith("dead: ")
    assert sum(finding.said.startswith("good: ") for finding in every) == 4
