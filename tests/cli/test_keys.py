"""session-proxy keys: made, listed, revoked and rebound, beside a running server too."""

from pathlib import Path

import aiohttp
import pytest

from proxy.cli.main import main
from tests.processes import command, served, written
from tests.scripted import Exchange, says, scripted_upstream


def run(config: Path, *args: str) -> int:
    return main(["keys", "--config", str(config), *args])


def made(config: Path, capsys: pytest.CaptureFixture[str], tenant: str = "acme") -> tuple[str, str]:
    """(the key, its id) as `create` tells them."""
    assert run(config, "create", "--tenant", tenant) == 0
    told = capsys.readouterr()
    return told.out.strip(), told.err.split()[1]


def test_a_key_is_the_only_thing_on_stdout_and_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path)
    assert run(config, "create", "--tenant", "acme", "--role", "admin") == 0
    told = capsys.readouterr()
    key = told.out.removesuffix("\n")
    assert key.startswith("sp-")
    assert len(key) > 40
    assert "\n" not in key
    assert key not in told.err
    assert "acme" in told.err
    assert "admin" in told.err
    assert "shown only now" in told.err
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.encode() not in held
    assert run(config, "list") == 0
    assert key not in capsys.readouterr().out


def test_keys_are_listed_with_what_became_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path)
    _, first = made(config, capsys)
    _, second = made(config, capsys, "other")
    assert run(config, "revoke", first) == 0
    assert capsys.readouterr().out == f"revoked {first}\n"
    assert run(config, "list") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "tenant", "role", "created", "state"]
    assert [line.split()[:3] for line in lines] == [[first, "acme", "user"], [second, "other", "user"]]
    assert "revoked" in lines[0]
    assert lines[1].endswith("live")


@pytest.mark.parametrize("name", ["sk_nothing", ""])
def test_a_key_that_is_not_there_cannot_be_revoked(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(written(tmp_path), "revoke", name) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "there is no live key" in told.err


def test_a_key_is_revoked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path)
    _, name = made(config, capsys)
    assert [run(config, "revoke", name) for _ in range(2)] == [0, 1]


async def status(url: str, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as http, http.get(f"{url}/models", headers=headers) as response:
        return response.status


@pytest.mark.anyio
async def test_keys_count_at_once_beside_a_running_server(tmp_path: Path) -> None:
    config = written(tmp_path, auth={"mode": "keys"})
    async with served(config) as serving:
        assert await status(serving.url, None) == 401
        done = await command(["keys", "--config", str(config), "create", "--tenant", "acme"])
        key, name = done.out.strip(), done.err.split()[1]
        assert await status(serving.url, key) not in (401, 403)
        assert await status(serving.url, key + "x") == 401
        assert (await command(["keys", "--config", str(config), "revoke", name])).code == 0
        assert await status(serving.url, key) == 401


# --- rebind: auth.mode passthrough ---


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("given", "told"),
    [("sk-nobody\nsk-new\n", "no tenant belongs to the old key"), ("sk-old\n", "give the old key and the new key")],
)
async def test_a_rebind_that_makes_no_sense_is_refused(tmp_path: Path, given: str, told: str) -> None:
    config = written(tmp_path, auth={"mode": "passthrough"})
    done = await command(["keys", "--config", str(config), "rebind"], given=given)
    assert (done.code, done.out) == (1, "")
    assert told in done.err
    assert "sk-" not in done.err


async def chat(url: str, key: str, text: str) -> list[str]:
    """Asks in the session "s"; what the model was shown."""
    headers = {"Authorization": f"Bearer {key}", "X-Session-Id": "s"}
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{url}/chat/completions", json=body) as response,
    ):
        assert response.status == 200, await response.read()
        answer = await response.json()
    return answer["choices"][0]["message"]["content"].split(" | ")


async def shown(exchange: Exchange) -> None:
    """Says what it was shown."""
    texts = [message["content"] for message in exchange.request.json["messages"] if message["role"] == "user"]
    await says(" | ".join(texts))(exchange)


@pytest.mark.anyio
async def test_sessions_go_over_to_the_new_key_beside_a_running_server(tmp_path: Path) -> None:
    async with scripted_upstream(shown) as up:
        config = written(tmp_path, up.url, auth={"mode": "passthrough"})
        async with served(config) as serving:
            await chat(serving.url, "sk-old", "one")
            assert await chat(serving.url, "sk-other", "uno") == ["uno"]
            done = await command(["keys", "--config", str(config), "rebind"], given="sk-old\nsk-new\n")
            assert (done.code, done.out) == (0, "the sessions belong to the new key\n")
            assert await chat(serving.url, "sk-new", "two") == ["one", "two"]
            assert await chat(serving.url, "sk-old", "three") == ["three"]
            done = await command(["keys", "--config", str(config), "rebind"], given="sk-old\nsk-new\n")
            assert done.code == 1
            assert "the new key owns sessions already" in done.err
