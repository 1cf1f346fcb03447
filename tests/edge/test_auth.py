"""Who may ask, whose sessions they reach, and what of a request a model server gets to see."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from proxy.store import keys
from tests.acceptance.asking import Proxied, Reply, received, served, until, user
from tests.acceptance.sockets import dialled
from tests.acceptance.stage import Stage, Talk
from tests.edge.processes import command
from tests.scripted import echoes, says, scripted_upstream, status

pytestmark = pytest.mark.anyio

KEYS: dict[str, Any] = {"mode": "keys"}
OWN = {"api_key": "sk-upstream-own"}
ANN, BOB = "sp-ann-0123456789", "sp-bob-9876543210"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def give(proxied: Proxied, tenant: str, key: str) -> str:
    return await keys.create(proxied.running.edge.svc.db, tenant, "user", key.encode(), 0)


# --- auth.mode open ---


OURS = ["localhost", "LocalHost:80", "127.0.0.1:9", "127.1.2.3", "[::1]:80", "chat.example:80"]
FOREIGN = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:8080", "[::2]", "0.0.0.0"]


@pytest.fixture(scope="package")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Talk]:
    """A proxy that anybody on this machine may use."""
    folder, settings = tmp_path_factory.mktemp("open"), {"allowed_hosts": ["chat.example"]}
    async with scripted_upstream(says("ok")) as up, served(up, folder, server=settings) as proxied:
        yield up, proxied


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
@pytest.mark.parametrize("host", OURS)
async def test_an_open_proxy_answers_to_this_machines_names(opened: Talk, host: str, path: str) -> None:
    _, proxied = opened
    async with dialled(proxied) as line:
        await line.post(b'{"messages": []}', {"Host": host}, path)
        assert (await line.reply()).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/models"])
@pytest.mark.parametrize("host", FOREIGN)
async def test_an_open_proxy_refuses_foreign_names(opened: Talk, host: str, path: str) -> None:
    up, proxied = opened
    before = len(up.requests)
    async with dialled(proxied) as line:
        await line.post(b'{"messages": []}', {"Host": host, "X-Session-Id": "s"}, path)
        reply = await line.reply()
        assert (reply.status, reply.error["param"], reply.error["code"]) == (403, "Host", "forbidden")
        assert "allowed_hosts" in reply.error["message"]
    assert len(up.requests) == before


async def test_an_open_proxy_ignores_credentials_and_uses_its_own(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, upstream=OWN) as proxied:
        for headers in ({}, bearer("x"), {"X-Api-Key": "y"}, {"Authorization": "Basic eDp5"}):
            assert (await proxied.ask("hi", to="s", headers=headers)).status == 200
            assert up.requests[-1].header("authorization") == "Bearer sk-upstream-own"
        assert len(proxied.turns("s")) == 4


# --- auth.mode keys ---


@pytest.mark.parametrize(
    "headers",
    [{}, bearer(""), bearer("sp-wrong"), {"Authorization": "Basic c3AtYW5u"}, {"Authorization": ANN}, {"X-Api-Key": ""},
     {"X-Api-Key": "sp-wrong"}, bearer(ANN.upper()), bearer(ANN + " x"), bearer("sk-upstream-own")],
)  # fmt: skip
async def test_a_wrong_key_is_a_401_before_anything_else(tmp_path: Path, headers: dict[str, str]) -> None:
    async with scripted_upstream(says("no")) as up, served(up, tmp_path, auth=KEYS, upstream=OWN) as proxied:
        await give(proxied, "ann", ANN)
        for to in ("s", None):
            for path in ("/chat/completions", "/embeddings"):
                reply = await proxied.post(b"not even JSON", to=to, headers=headers, path=path)
                assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
                assert "Incorrect API key provided" in reply.error["message"]
        assert up.requests == []
        assert proxied.running.rows("SELECT count(*) FROM sessions") == [(0,)]


async def test_a_key_works_in_either_header_until_it_is_revoked(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, auth=KEYS, upstream=OWN) as proxied:
        name = await give(proxied, "ann", ANN)
        for headers in (bearer(ANN), {"Authorization": f"bearer {ANN}"}, {"X-Api-Key": ANN}):
            assert (await proxied.ask("hi", to="s", headers=headers)).status == 200
            assert up.requests[-1].header("authorization") == "Bearer sk-upstream-own"
        await keys.revoke(proxied.running.edge.svc.db, name, 1)
        assert (await proxied.ask("hi", to="s", headers=bearer(ANN))).status == 401


async def test_the_command_makes_and_revokes_keys_beside_a_running_server(tmp_path: Path) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, auth=KEYS) as proxied:
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"storage": {"url": f"sqlite:///{proxied.running.path}"}, "auth": KEYS}))
        _, out, err = await command("keys", "--config", str(config), "create", "--tenant", "ann")
        key = out.strip()
        assert key.startswith("sp-")
        assert key not in err
        assert (await proxied.ask("hi", to="s", headers=bearer(key))).status == 200
        _, listed, _ = await command("keys", "--config", str(config), "list")
        assert key not in listed
        name = next(word for word in listed.split() if word.startswith("sk_"))
        assert (await command("keys", "--config", str(config), "revoke", name))[0] == 0
        assert (await proxied.ask("hi", to="s", headers=bearer(key))).status == 401
        assert up.requests[0].header("authorization") is None


# --- tenants ---


@pytest.mark.parametrize("mode", ["keys", "passthrough"])
async def test_tenants_have_sessions_of_the_same_name_and_never_meet(tmp_path: Path, mode: str) -> None:
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, auth={"mode": mode}) as proxied:
        if mode == "keys":
            await give(proxied, "ann", ANN)
            await give(proxied, "bob", BOB)
        first = await proxied.ask("ann's secret", to="s", headers=bearer(ANN) | {"Idempotency-Key": "k"})
        uuid = first.headers["x-session-uuid"]
        for name in ("s", uuid, uuid.upper()):
            reply = await proxied.ask("bob's question", to=name, headers=bearer(BOB) | {"Idempotency-Key": "k"})
            assert (reply.text, reply.headers["x-session-turn"]) == ("echo: bob's question", "1")
            assert reply.headers["x-session-uuid"] != uuid
            assert received(up.requests[-1]) == ["user: bob's question"]
        retry = {"X-Stainless-Retry-Count": "1"}
        assert (await proxied.ask("ann's secret", to="s", headers=bearer(BOB) | retry)).headers["x-session-turn"] == "2"
        await proxied.ask("more", to=uuid, headers=bearer(ANN))
        assert received(up.requests[-1]) == ["user: ann's secret", "assistant: echo: ann's secret", "user: more"]


async def test_a_foreign_session_looks_like_one_that_is_not_there(tmp_path: Path) -> None:
    settings = {"auth": KEYS, "sessions": {"auto_create": False}}
    async with scripted_upstream(echoes()) as up, served(up, tmp_path, **settings) as proxied:
        await give(proxied, "ann", ANN)
        await give(proxied, "bob", BOB)
        db, path = proxied.running.edge.svc.db, proxied.running.path
        assert path.exists()
        await db.transaction(lambda tx: tx.all(MAKE_SESSION, ()) and tx.all(MAKE_BRANCH, ()))
        assert (await proxied.ask("hi", to="hers", headers=bearer(ANN))).status == 200
        headers = bearer(BOB) | {"X-Request-Id": "r"}
        replies = [await proxied.ask("hi", to=to, headers=headers) for to in ("hers", UUID, "none")]
        for reply in replies:
            assert (reply.status, reply.body) == (404, replies[0].body)
            assert {name.lower() for name in reply.headers} == {name.lower() for name in replies[0].headers}
        assert len(up.requests) == 1


UUID = "11111111-2222-4333-8444-555555555555"
MAKE_SESSION = """INSERT INTO sessions (tenant, uuid, name, branch, branches, turns, created_at, updated_at)
    SELECT id, '11111111-2222-4333-8444-555555555555', 'hers', 1, 1, 0, 0, 0 FROM tenants WHERE name = 'ann'
    RETURNING 1"""
MAKE_BRANCH = """INSERT INTO branches (tenant, session, branch, parent, forked_at, head, total, end_digest,
        end_status, last_turn, cut, cut_key, instructions, created_at)
    SELECT tenant, id, 1, NULL, 0, 0, 0, x'', 'complete', 0, 0, '', NULL, 0 FROM sessions RETURNING 1"""


# --- auth.mode passthrough ---


async def test_a_clients_own_key_goes_upstream_and_is_not_kept(stage: Stage) -> None:
    up, proxied = await stage(echoes())
    for headers in ({}, {"Authorization": "", "X-Api-Key": proxied.key}):
        for to in ("s", None):
            assert (await proxied.ask("hi", to=to, headers=headers)).status == 200
            assert up.requests[-1].header("authorization") == f"Bearer {proxied.key}"
            assert up.requests[-1].header("x-api-key") is None
    assert len(proxied.turns("s")) == 2
    path = proxied.running.path
    for file in path.parent.glob(path.name + "*"):
        assert proxied.key.encode() not in file.read_bytes()


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings", "/files"])
async def test_without_a_key_there_is_no_tenant(stage: Stage, path: str) -> None:
    up, proxied = await stage(says("no"))
    reply = await proxied.post(b"{}", to="s", headers={"Authorization": ""}, path=path)
    assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert up.requests == []


async def test_a_tenant_that_is_new_while_the_store_is_busy_waits(stage: Stage) -> None:
    _, proxied = await stage(says("ok"))
    replies: list[Reply] = []
    replied = anyio.Event()

    async def ask() -> None:
        replies.append(await proxied.ask("hi", to="s"))
        replied.set()

    async with anyio.create_task_group() as group:
        with proxied.locked():
            group.start_soon(ask)
            await until(lambda: len(proxied.running.edge.open) == 1)
            with anyio.move_on_after(0.5):  # time for several sweeps
                await replied.wait()
            assert not replies
    assert replies[0].text == "ok"


# --- what a model server sees ---

SENT = {
    "Authorization": "Bearer canary-key", "X-Api-Key": "canary-key", "Cookie": "canary=1", "X-Session-Id": "s",
    "X-Session-Save": "true", "X-Session-Anything": "canary", "X-Forwarded-For": "10.1.2.3", "Forwarded": "for=canary",
    "X-Forwarded-Host": "inner", "X-Real-Ip": "10.1.2.3", "X-Stainless-Lang": "python", "X-Stainless-Retry-Count": "0",
    "Origin": "http://localhost", "Referer": "http://localhost/", "X-Conversation-Id": "canary",
    "Proxy-Authorization": "canary", "Te": "trailers", "X-Unknown": "canary", "Accept-Encoding": "gzip, br",
}  # fmt: skip
PASSED = {
    "user-agent": "app/1", "traceparent": "00-1-2-3", "tracestate": "a=b", "openai-organization": "org",
    "openai-beta": "x", "x-request-id": "mine", "anthropic-version": "2023", "idempotency-key": "k", "http-referer": "http://app",
    "x-title": "App", "accept-language": "de", "accept": "application/json", "x-mine": "yes",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings"])
@pytest.mark.parametrize("named", [True, False])
async def test_a_model_server_gets_listed_headers_only(tmp_path: Path, named: bool, path: str) -> None:
    own = OWN | {"forward_headers": ["X-Mine"]}
    async with scripted_upstream(says("ok")) as up, served(up, tmp_path, upstream=own) as proxied:
        dropped = {name: value for name, value in SENT.items() if named or not name.startswith(("X-Session", "X-Conv"))}
        body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
        reply = await proxied.post(body, to=None, headers=dropped | PASSED, path=path)
        assert reply.status == 200
        got = dict(up.requests[0].headers)
        fixed = {"host", "content-length", "content-type", "authorization", "accept-encoding", "connection"}
        assert set(got) - fixed == set(PASSED)
        assert {name: got[name] for name in PASSED} == PASSED
        assert got["authorization"] == "Bearer sk-upstream-own"
        assert got.get("accept-encoding", "identity") == "identity"
        assert "canary" not in str(up.requests[0].headers)


async def test_a_client_does_not_get_the_model_servers_cookies(stage: Stage) -> None:
    _, proxied = await stage(status(200, json={}, headers={"set-cookie": "canary=1", "server": "inner", "x-good": "1"}))
    reply = await proxied.post(b"{}", to=None)
    assert ("set-cookie" in reply.headers, "server" in reply.headers, reply.headers["x-good"]) == (False, False, "1")


async def test_a_request_id_that_could_break_a_log_is_replaced(stage: Stage) -> None:
    _, proxied = await stage(says("ok"))
    for given in ("x" * 257, "caf\xe9".encode().decode("latin-1"), "a\tb"):
        reply = await proxied.ask("hi", to="s", headers={"X-Request-Id": given})
        assert reply.headers["x-request-id"] not in ("", given)


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_logs_hold_neither_texts_nor_keys(tmp_path: Path, level: str, capfd: pytest.CaptureFixture[str]) -> None:
    script = [says("canary-answer"), status(500, html="canary-html"), says("canary-answer")]
    own, log = {"api_key": "canary-own"}, {"log_level": level}
    async with scripted_upstream(script) as up, served(up, tmp_path, upstream=own, telemetry=log) as proxied:
        secret = bearer("canary-key") | {"Cookie": "canary-cookie"}
        for to in ("s", "s", None):
            await proxied.ask("canary-text", to=to, headers=secret)
        await proxied.post(b'{"messages": "canary-text"', to="s", headers=secret)
        await proxied.ask(user("canary-text", content=["canary-part"]), to="s", headers=secret)
        assert len(up.requests) == 3
    out, err = capfd.readouterr()
    assert "canary" not in out + err
    assert (out + err).count("chat/completions") >= 5
