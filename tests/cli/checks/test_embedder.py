"""Doctor's check of what makes vectors."""

from pathlib import Path

import pytest

from proxy.cli.checks import embedder
from tests.cli.checks.sites import bad, but, site, states, the
from tests.scripted import Step, scripted_upstream, status

REMOTE = {"embedder": {"kind": "upstream", "model": "e"}}
VECTOR = status(200, json={"data": [{"index": 0, "embedding": [3.0, 4.0]}]})
KEY = "sk-secret-1234"
UNUSABLE = (
    (status(200, json={"data": []}), "cannot be used"),
    (status(401, json={"error": KEY}), "refused the proxy's own key"),
    (status(404, json={"error": {"message": f"no model e for {KEY}"}}), "no model e for ***"),
    (status(404, json={"error": {"message": f"no model e; {KEY} has none"}}), "no model e; *** has none"),
)


@pytest.mark.anyio
async def test_the_local_one_is_loaded_or_told_how_to_be(tmp_path: Path) -> None:
    (found,) = await embedder.check(site(tmp_path))
    assert found.state == "ok" or (found.state == "warning" and "pip install" in found.fix)


@pytest.mark.anyio
async def test_none_is_a_choice(tmp_path: Path) -> None:
    assert not bad(await embedder.check(site(tmp_path, recall={"embedder": {"kind": "none"}})))


@pytest.mark.anyio
async def test_that_of_an_upstream_is_asked(tmp_path: Path) -> None:
    async with scripted_upstream(VECTOR) as up:
        found = await embedder.check(site(tmp_path, up.url, recall=REMOTE))
        assert up.requests[0].path == "/v1/embeddings"
    assert not bad(found)
    assert "vectors of 2 numbers" in found[0].said


@pytest.mark.anyio
@pytest.mark.parametrize(("answer", "said"), UNUSABLE)
async def test_one_that_gives_no_vectors_is_told(tmp_path: Path, answer: Step, said: str) -> None:
    async with scripted_upstream(answer) as up:
        told = the(await embedder.check(site(tmp_path, up.url, recall=REMOTE, upstream={"api_key": KEY})))
    assert told.state == "failed"
    assert said in told.said
    assert KEY not in str(told)


@pytest.mark.anyio
async def test_a_clients_key_is_that_of_the_environment_or_none(tmp_path: Path) -> None:
    async with scripted_upstream(VECTOR) as up:
        one = site(tmp_path, up.url, recall=REMOTE, auth={"mode": "passthrough"})
        assert states(await embedder.check(one)) == ["skipped"]
        (elsewhere,) = await embedder.check(but(one, env={"OPENAI_API_KEY": KEY}))
        assert (elsewhere.state, f"OPENAI_BASE_URL to {up.url}" in elsewhere.fix) == ("skipped", True)
        assert not up.requests
        assert not bad(await embedder.check(but(one, env={"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": up.url})))
        assert [request.header("authorization") for request in up.requests] == [f"Bearer {KEY}"]


@pytest.mark.anyio
async def test_offline_nothing_beyond_this_machine_is_asked(tmp_path: Path) -> None:
    one = but(site(tmp_path, "http://10.0.0.1/v1", recall=REMOTE), offline=True)
    assert states(await embedder.check(one)) == ["skipped"]
